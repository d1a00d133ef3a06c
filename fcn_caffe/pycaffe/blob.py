"""Blobs as pycaffe shows them: `data` and `diff` are float32 arrays over the memory that layers compute in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch

from fcn_caffe.host.text import show
from fcn_caffe.pycaffe.memory import Array, Memory, Shape, SharedMemory

INT_MAX = 2**31 - 1  # the most that Caffe's Blob::Reshape allows


class Vec(list[Any]):
    """A list, as pycaffe's IntVec, StringVec and so on are. It also equals a tuple of the same items."""

    def __eq__(self, other: object) -> bool:
        return list.__eq__(self, list(other)) if isinstance(other, (list, tuple)) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __setitem__(self, index: Any, value: Any) -> None:  # noqa: ANN401 (as list has it)
        raise TypeError("an item cannot be replaced. Write into a blob's array: net.blobs['data'].data[...] = array.")


class Named(OrderedDict[str, Any]):
    """A net's blobs or parameters by name. What a name stands for stays."""

    def __setitem__(self, name: str, value: Any) -> None:  # noqa: ANN401 (as dict has it)
        if name in self and self[name] is not value:
            raise TypeError(
                f"'{name}' cannot be replaced: the net would not see it. Write into a blob's array: "
                "net.blobs['data'].data[...] = array."
            )
        super().__setitem__(name, value)


class Blob:
    """A blob: `data` and `diff`, float32 arrays that forward and backward read and write.

    device: gives the device where a blob is allocated that no layer has written. Source: pycaffe's Blob.
    """

    def __init__(self, data: Memory, diff: Memory, device: Callable[[], torch.device]) -> None:
        self._data, self._diff, self._device = data, diff, device

    @property
    def data_memory(self) -> Memory:
        """The memory of `data`, which layers compute in."""
        return self._data

    @property
    def diff_memory(self) -> Memory:
        """The memory of `diff`, in the shape that `data` has."""
        self.fit_diff()
        return self._diff

    def fit_diff(self) -> None:
        """Give `diff` the shape of `data`."""
        self._diff.reshape(self._data.shape)

    def share_data(self, other: Blob, shape: Iterable[int]) -> None:
        """Let `data` be the memory that another blob's data is now, in a shape of its own."""
        self._data = _shared(self._data, other.data_memory, tuple(shape))
        self.fit_diff()

    def share_diff(self, other: Blob) -> None:
        """Let `diff` be the memory that another blob's diff is now."""
        self._diff = _shared(self._diff, other.diff_memory, self._data.shape)

    @property
    def data(self) -> Array:
        """The numbers as an array; the next forward sees what is written to it."""
        return self._data.array(self._device())

    @property
    def diff(self) -> Array:
        """The gradient as an array; a backward that starts here starts from what is written to it."""
        return self.diff_memory.array(self._device())

    @property
    def shape(self) -> Vec:
        return Vec(self._data.shape)

    @property
    def count(self) -> int:
        return prod(self._data.shape)

    def reshape(self, *shape: int, **options: object) -> None:
        """Take a shape; the numbers stay in their order as far as they go.

        Raises:
            RuntimeError: there are keyword arguments.
            ValueError: a size is negative, they are too large, or the blob is a parameter of another shape.
        """
        if options:
            raise RuntimeError(f"Blob.reshape takes sizes only, got {', '.join(options)}.")
        sizes = tuple(int(size) for size in shape)
        if any(size < 0 for size in sizes):
            raise ValueError(f"Blob.reshape: sizes must not be negative, got {show(sizes)}.")
        if prod(sizes) > INT_MAX:
            raise ValueError(f"Blob.reshape: {show(sizes)} is {prod(sizes)} numbers, a blob has at most {INT_MAX}.")
        self._data.reshape(sizes)
        self._diff.reshape(sizes)

    def _legacy(self, axis: int) -> int:
        shape = self._data.shape
        if len(shape) > 4:
            raise ValueError(f"num, channels, height and width are for at most 4 axes, this blob has {len(shape)}.")
        return shape[axis] if axis < len(shape) else 1

    @property
    def num(self) -> int:
        return self._legacy(0)

    @property
    def channels(self) -> int:
        return self._legacy(1)

    @property
    def height(self) -> int:
        return self._legacy(2)

    @property
    def width(self) -> int:
        return self._legacy(3)

    def __repr__(self) -> str:
        return f"<caffe blob {show(self._data.shape)}>"


def _shared(memory: Memory, other: Memory, shape: Shape) -> SharedMemory:
    """Return memory that is another's, in a shape: the memory of before if it is that already."""
    source = other.source if isinstance(other, SharedMemory) else other
    if not isinstance(memory, SharedMemory) or memory.source is not source:
        return SharedMemory(source, shape)
    memory.reshape(shape)
    return memory


class BlobVec(Vec):
    """Blobs in order. A Python layer adds its own with `add_blob` in setup."""

    def add_blob(self, *shape: int) -> Blob:
        """Add a zero blob of this shape."""
        self.append(Blob(Memory(shape), Memory(shape), lambda: torch.device("cpu")))
        return self[-1]  # type: ignore[no-any-return]
