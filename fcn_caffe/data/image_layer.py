"""What every data layer of one image a step has in common: options, the order of images, tops, state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.options import read_options
from fcn_caffe.data.sampling import Sampler
from fcn_caffe.errors import DataError
from fcn_caffe.layers.python import PythonLayer

__all__ = ["OneImageLayer"]

Blob = npt.NDArray[np.float32]


class OneImageLayer(PythonLayer):
    """A Python data layer that gives one image, and what belongs to it, each forward pass; tops take its size.

    A subclass says which options it knows, opens its data set in `open()`, which returns the names of the images,
    and reads one of them in `load(index)`, which returns as many arrays as there are tops, each with its batch axis
    of 1. `load` must depend on nothing but the index.

    Order: a split whose name holds "train" is drawn at random with replacement from `seed`, unless `randomize` is
    False; others run in order. One draw in setup, one after each forward, as the reference layers do.
    Raises: DataError for wrong options, missing files and bad images.
    """

    required: ClassVar[Sequence[str]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}
    top_names: ClassVar[Sequence[str]] = ("data", "label")

    def open(self) -> Sequence[str]:
        """Open the data set; return the names of the split's images."""
        raise NotImplementedError

    def load(self, index: int) -> Sequence[Blob]:
        """Read image `index`: one array a top."""
        raise NotImplementedError

    @property
    def who(self) -> str:
        return type(self).__name__

    def setup(self, bottom: Any, top: Any) -> None:
        common = {"randomize": True, "seed": None}
        self.options = read_options(
            self.param_str, self.who, required=("split", *self.required), defaults={**common, **self.defaults}
        )
        self.names = self.open()
        if len(bottom):
            raise DataError(f"{self.who}: takes no bottoms, the net gives {len(bottom)}. It is a data layer.")
        if len(top) != len(self.top_names):
            raise DataError(
                f"{self.who}: gives {len(self.top_names)} tops ({', '.join(self.top_names)}), the net has {len(top)}."
            )
        shuffle = "train" in str(self.options["split"]) and bool(self.options["randomize"])
        self.sampler = Sampler(len(self.names), shuffle=shuffle, seed=self.options["seed"])
        self._loaded: tuple[int, Sequence[Blob]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def name(self) -> str:
        """The name of the image that the next forward gives, or, after it, gave last."""
        index = self.sampler.index if self._loaded is None else self._loaded[0]
        return self.names[index]

    def reshape(self, bottom: Any, top: Any) -> None:
        index = self.sampler.index
        if self._loaded is None or self._loaded[0] != index:
            self._loaded = index, self.load(index)
        for blob, array in zip(top, self._loaded[1], strict=True):
            blob.reshape(*array.shape)

    def forward(self, bottom: Any, top: Any) -> None:
        if self._loaded is None:
            self.reshape(bottom, top)
        assert self._loaded is not None
        for blob, array in zip(top, self._loaded[1], strict=True):
            blob.data[...] = array
        self.sampler.advance()

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        """Data has no gradient."""

    def get_state(self) -> dict[str, Any]:
        """The data order, JSON-able, for a snapshot."""
        return self.sampler.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with the data order of a snapshot."""
        self.sampler.set_state(state)
