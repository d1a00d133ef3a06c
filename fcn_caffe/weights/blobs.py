"""A net's blobs as weights meet them: which arrays fit, and how they are set."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fcn_caffe.errors import WeightsError
from fcn_caffe.weights.formats.arrays import Array

__all__ = [
    "Fit",
    "HasAllParams",
    "HasParams",
    "Shaped",
    "fit",
    "memory_of",
    "missing_layers",
    "refuse_meta",
    "set_values",
]


class Shaped(Protocol):
    """An array or a tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class HasParams(Protocol):
    """A net, as far as weights know it: the blobs of every layer that has some, by layer name."""

    @property
    def params(self) -> Mapping[str, Sequence[Tensor]]: ...


class HasAllParams(HasParams, Protocol):
    """A net that gives name, type and blobs of every layer, also where several have one name."""

    @property
    def name(self) -> str: ...

    def all_params(self) -> Sequence[tuple[str, str, Sequence[Tensor]]]: ...


class Fit(IntEnum):
    """How well the numbers of an array fit a blob; compare with `>=`."""

    NONE = 0
    COUNT = 1  # as many numbers, in another shape
    LEGACY = 2  # the blob's shape behind 1s: old Caffes write every blob with 4 axes, and other tools a scalar as (1)
    SHAPE = 3


def fit(array: Shaped, target: Shaped) -> Fit:
    """Say how well the numbers of `array` fit the blob `target`.

    >>> fit(np.zeros((1, 1, 2, 3)), torch.zeros(2, 3)).name
    'LEGACY'
    """
    have, want = tuple(array.shape), tuple(target.shape)
    if have == want:
        return Fit.SHAPE
    if (len(have) == 4 and have == (1,) * (4 - len(want)) + want) or (have, want) == ((1,), ()):
        return Fit.LEGACY
    return Fit.COUNT if prod(have) == prod(want) else Fit.NONE


def memory_of(blob: Tensor) -> int:
    """Return a number that blobs which share their values have in common, views of one blob too."""
    return blob.data_ptr() or id(blob)


def missing_layers(
    params: Mapping[str, Sequence[Tensor]], named: Collection[str], targets: Iterable[Tensor]
) -> list[str]:
    """Return the layers that keep their values: not named, and with a blob that is none of the targets.

    A layer that shares another's parameters has them from there.
    """
    reached = {memory_of(target) for target in targets}
    return [
        layer
        for layer, blobs in params.items()
        if layer not in named and any(memory_of(blob) not in reached for blob in blobs)
    ]


def refuse_meta(targets: Iterable[Tensor], place: str = "") -> None:
    """Raise WeightsError where a blob is on the meta device, which holds no numbers; `place` begins the message."""
    if any(target.is_meta for target in targets):
        raise WeightsError(f"{place}the net is on the meta device and holds no memory. Build it on cpu or cuda.")


def set_values(target: Tensor, array: Array) -> None:
    """Set a blob to an array of as many numbers; it stays on its device, in its dtype and its shape."""
    with torch.no_grad():
        if target.device.type == "cpu" and target.dtype == torch.float32:
            # NumPy's copy runs at the speed of memcpy, also from a file's unaligned floats; torch's at two thirds.
            np.copyto(target.detach().numpy(), array.reshape(tuple(target.shape)))
            # Autograd counts writes, and has not seen this one: write to none of the elements.
            target.reshape(-1)[:0].zero_()
        else:
            # torch warns of arrays it may not write to; a loaded file's are writable, the few others are copied.
            writable = array if array.flags.writeable else array.copy()
            target.copy_(torch.from_numpy(writable).reshape(target.shape))
