"""Batches made ahead of their use, in a thread.

A source makes batches from a state, which JSON can hold and which decides all that follows. The thread is ahead of the
reader, so each batch comes with the state after it: a snapshot holds the state of the last batch that was read.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from fcn_caffe.errors import DataError
from fcn_caffe.host.ranks import Share
from fcn_caffe.host.text import show

if TYPE_CHECKING:
    from fcn_caffe.layers.base import Layer

__all__ = [
    *("Arrays", "Batch", "Prefetch", "Sample", "Source", "State", "draws", "fill_batch", "own_samples"),
    "reading_order",
]

Arrays = list[npt.NDArray[np.float32]]
Sample = Sequence[npt.NDArray[np.float32] | float]  # an image, then its label or label picture
State = dict[str, Any]
Batch = tuple[Arrays, State]  # the tops, and the state after them
Item = TypeVar("Item")


class Source(Protocol):
    """What a data layer reads: its first state, and the batches from a state on. It holds no open files.

    A state is of all processes of a run together. With a share of several, the source makes one process's batch of each
    round of `share.count` batches, and the state after it is behind the round.
    """

    share: Share

    def start(self) -> State:
        """Return the state before the first batch."""

    def read_state(self, state: State) -> State:
        """Check a state from a snapshot, and return it.

        Raises:
            DataError, KeyError, TypeError, ValueError: if it is not one.
        """

    def batches(self, state: State) -> Generator[Batch, None, None]:
        """Yield batches without end, from a state on; closing the generator closes the files."""

    def state_behind(self, state: State, batches: int) -> State:
        """Return the state behind so many batches."""


@contextmanager
def reading_order(layer: Layer) -> Iterator[None]:
    """Say that a snapshot's order of data is of another layer, where the block fails to read it.

    Raises:
        LayerError: it is; it names the layer.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise layer.error(
            f"the snapshot's data order is not one of this layer ({error!r}). Give the snapshot of this net and data."
        ) from error


def draws(seed: int, *stream: int) -> np.random.Generator:
    """Return the random numbers of a batch, an epoch or a choice: the same for the same seed and stream."""
    return np.random.default_rng([seed, *stream])


def own_samples(samples: Iterator[Item], size: int, share: Share) -> Iterator[Item]:
    """Take a round of share.count batches from `samples`; yield those of one process's batch of `size`."""
    places = share.places(size)
    for place, sample in enumerate(islice(samples, share.count * size)):
        if place in places:
            yield sample


def fill_batch(size: int, samples: Iterable[tuple[Sample, str]]) -> Arrays:
    """Put the parts of samples into an array for each part; a sample comes with its name.

    Shapes: (C, H, W), () each -> (size, C, H, W), (size,).

    Raises:
        DataError: for an image of another shape.
    """
    arrays: Arrays = []
    for index, (parts, name) in enumerate(samples):
        if index == 0:
            arrays = [np.empty((size, *np.shape(part)), np.float32) for part in parts]
        image, shape = parts[0], arrays[0].shape[1:]
        if np.shape(image) != shape:
            raise DataError(
                f"{name}: the image is {show(np.shape(image))}, the first of its batch {show(shape)}. "
                "Resize or crop them to one size, or set batch_size to 1."
            )
        for array, part in zip(arrays, parts, strict=True):
            array[index] = part
    return arrays


class Prefetch:
    """Reads batches of a generator, up to `depth` of them ahead, in a thread; with depth 0 without one.

    The thread starts at once. It ends at `close`, with the process, or after an error, which `get` raises. It holds no
    reference to this object.
    """

    def __init__(self, batches: Generator[Batch, None, None], depth: int, name: str) -> None:
        self._batches, self._channel = batches, _Channel(depth) if depth > 0 else None
        self._process = os.getpid()
        if self._channel is not None:
            # A daemon, so that the process can end; `close` runs at exit and waits for it all the same.
            arguments = batches, self._channel
            self._thread = threading.Thread(target=_fill, args=arguments, name=f"prefetch {name}", daemon=True)
            self._thread.start()

    @property
    def is_usable(self) -> bool:
        """Whether this is the process that made it: a forked child has neither the thread nor the open database."""
        return self._process == os.getpid()

    def get(self) -> Batch:
        """Return the next batch.

        Raises: what making it raised.
        """
        return next(self._batches) if self._channel is None else self._channel.get()

    def close(self) -> None:
        """End the thread and close its files. May be called again, and from the garbage collector in any thread."""
        if not self.is_usable:
            return
        if self._channel is None:
            self._batches.close()
            return
        self._channel.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()


def _fill(batches: Generator[Batch, None, None], channel: _Channel) -> None:
    try:
        try:
            for batch in batches:
                if not channel.put(batch):
                    break
        finally:
            batches.close()
    except BaseException as error:  # `get` raises it, whatever it is
        channel.fail(error)


class _Channel:
    """A bounded queue that either side can close. The garbage collector may close it at any moment: an RLock."""

    def __init__(self, size: int) -> None:
        self._size, self._items, self._closed = size, deque[Batch](), False
        self._error: BaseException | None = None
        self._changed = threading.Condition(threading.RLock())

    def put(self, item: Batch) -> bool:
        """Wait for room and add an item; return False if the channel was closed meanwhile."""
        with self._changed:
            while len(self._items) >= self._size and not self._closed:
                self._changed.wait()
            self._items.append(item)
            self._changed.notify_all()
            return not self._closed

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def get(self) -> Batch:
        """Wait for an item and return it; an error is raised after the items before it."""
        with self._changed:
            while not self._items and self._error is None:
                self._changed.wait()
            if not self._items:
                assert self._error is not None
                raise self._error
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
