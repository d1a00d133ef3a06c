"""What layers have in common that read the samples of a list file, such as ImageData."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.prefetch import Batch, Sample, State, draws, fill_batch, own_samples
from fcn_caffe.data.readers.opencv_images import Colour
from fcn_caffe.errors import DataError
from fcn_caffe.host.ranks import Share
from fcn_caffe.proto import caffe_pb2

__all__ = ["ListSource"]

ListOptions = caffe_pb2.ImageDataParameter | caffe_pb2.DenseImageDataParameter
_TRANSFORM, _SKIP, _ORDER = 0, 1, 2  # streams of random numbers, see `draws`


class ListSource(ABC):
    """Makes batches of the samples of a list, in its order or in a new random order in each round.

    Args:
        count: How many samples the list has.
        options: The layer's options.
        seed: What all random numbers come from.

    Attributes:
        count: How many samples the list has.
        batch: How many of them a batch has.

    Raises:
        DataError: new_height without new_width, or rand_skip skips the whole list.
    """

    share = Share()

    def __init__(self, count: int, options: ListOptions, seed: int) -> None:
        self.count, self.seed = count, seed
        self.batch, self.shuffle, self.root = int(options.batch_size), bool(options.shuffle), options.root_folder
        self.height, self.width = int(options.new_height), int(options.new_width)
        if (self.height > 0) != (self.width > 0):
            raise DataError("new_height and new_width go together: give both or neither.")
        self.colour: Colour = "color" if options.is_color else "gray"
        self.skip = int(draws(seed, _SKIP).integers(options.rand_skip)) if options.rand_skip else 0
        if self.skip >= count:
            raise DataError(f"rand_skip skips {self.skip} images, the list has {count}. Make it smaller.")

    @abstractmethod
    def sample(self, index: int, random: np.random.Generator) -> tuple[Sample, str]:
        """Make the sample of a place in the list, from 0; return it with its name."""

    def __len__(self) -> int:
        return self.count

    def start(self) -> State:
        """Return the state before the first batch."""
        return {"seed": self.seed, "batch": 0, "skip": self.skip, "count": self.count}

    def read_state(self, state: State) -> State:
        """Check a state from a snapshot, and return it."""
        if state["count"] != self.count:
            raise DataError(
                f"the snapshot's data order is for a list of {state['count']} images, this one has {self.count}. "
                "Resume with the list it was trained on."
            )
        return {key: int(state[key]) for key in ("seed", "batch", "skip", "count")}

    def first_shapes(self) -> list[tuple[int, ...]]:
        """Make the first sample, and return the shapes of the tops by it."""
        parts, _ = self.sample(int(self._order(self.seed, 0)[self.skip]), draws(0))
        return [(self.batch, *np.shape(part)) for part in parts]

    def batches(self, state: State) -> Generator[Batch, None, None]:
        """Yield batches without end, from a state on."""
        seed, batch, skip, count = (state[key] for key in ("seed", "batch", "skip", "count"))
        places = self._places(seed, skip + batch * self.batch)
        while True:
            random = draws(seed, _TRANSFORM, batch + self.share.rank)
            own = own_samples(places, self.batch, self.share)
            arrays = fill_batch(self.batch, (self.sample(index, random) for index in own))
            batch += self.share.count
            yield arrays, {"seed": seed, "batch": batch, "skip": skip, "count": count}

    def state_behind(self, state: State, batches: int) -> State:
        """Return the state behind so many batches."""
        return {**state, "batch": state["batch"] + batches}

    def _places(self, seed: int, position: int) -> Iterator[int]:
        """Yield places in the list without end, from a position that counts all rounds."""
        around, place = divmod(position, self.count)
        while True:
            yield from self._order(seed, around)[place:].tolist()
            around, place = around + 1, 0

    def _order(self, seed: int, around: int) -> npt.NDArray[np.int64]:
        return draws(seed, _ORDER, around).permutation(self.count) if self.shuffle else np.arange(self.count)
