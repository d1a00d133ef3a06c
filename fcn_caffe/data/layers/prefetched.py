"""The base of data layers whose batches are made ahead."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from fcn_caffe.data.prefetch import Prefetch, Source, State, reading_order
from fcn_caffe.errors import DataError
from fcn_caffe.host.ranks import Share
from fcn_caffe.layers.base import Layer
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.foreign import set_fork_fields


class PrefetchedLayer(Layer):
    """Base of data layers whose tops come from a `Source`, made data_param.prefetch batches ahead (0: none).

    A subclass makes its source in `__init__` and calls `begin`. The thread starts with the first forward. An error in
    it is raised by the forward whose batch it is. Copies, pickles and forked children of the layer continue with the
    same batch.
    """

    remembers = True

    untraced = "batches come from a thread"
    fork_fields: ClassVar[frozenset[str]] = frozenset()  # of its options and transform_param, those that it reads

    source: Source
    top_shapes: list[tuple[int, ...]]

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        for name, foreign in set_fork_fields(param):
            if "." in name and name not in self.fork_fields:
                owners = f" of {foreign.owners} Caffe" if foreign else ""
                raise DataError(f"{name}{owners} is nothing that {self.layer_type} reads. Leave it out.")
        self.depth = int(param.data_param.prefetch)
        self._feed: Prefetch | None = None
        self._finalizer: Any = None

    def begin(self, source: Source, shapes: Sequence[tuple[int, ...]]) -> None:
        """Take the source and the shapes of its arrays; the layer's tops are the first of them."""
        self.source, self.top_shapes = source, list(shapes)[: len(self.param.top)]
        self._state: State = source.start()

    def batch_size(self, size: int) -> int:
        """Return the batch size, or raise DataError where it is 0, which it is by default."""
        if size < 1:
            raise DataError("batch_size must be given and positive.")
        return size

    def seed(self) -> int:
        """Draw a seed for this layer from torch's random state."""
        return int(torch.randint(2**31 - 1, (1,), device="cpu"))

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty(shape, device="meta") for shape in self.top_shapes)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        if self._feed is None or not self._feed.is_usable:
            self._feed = Prefetch(self.source.batches(self._state), self.depth, self.name)
            self._finalizer = weakref.finalize(self, self._feed.close)
        try:
            arrays, self._state = self._feed.get()
        except BaseException:
            self.stop()  # the next forward tries the same batch again
            raise
        return tuple(torch.from_numpy(array) for array in arrays[: len(self.param.top)])

    def stop(self) -> None:
        """End the thread and close its files; the next forward continues with the same batch."""
        if self._finalizer is not None:
            self._finalizer()
        self._feed = self._finalizer = None

    def take_share(self, share: Share) -> None:
        self.stop()
        self.source.share = share

    def skip(self, passes: int) -> None:
        self.stop()
        self._state = self.source.state_behind(self._state, passes)

    def data_state(self) -> State:
        return dict(self._state)

    def load_data_state(self, state: State) -> None:
        try:
            with reading_order(self):
                checked = self.source.read_state(state)
        except DataError as error:
            raise error.named(f"layer '{self.name}' ({self.layer_type})") from error.__cause__
        self.stop()
        self._state = checked

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_feed": None, "_finalizer": None}
