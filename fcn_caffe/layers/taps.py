"""Convolution as a sum over the kernel's taps, for any number of spatial axes: where PyTorch has no kernel for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_evenly(bottom: Tensor, pad: Sequence[int]) -> Tensor:
    """Pad the last axes with zeros, each by its pad on both sides."""
    return F.pad(bottom, [size for size in reversed(pad) for _ in range(2)])


def at_end(values: Tensor, index: Sequence[int | slice]) -> Tensor:
    """Return a view of the values at an index into the last axes."""
    whole: Any = (..., *index)
    view: Tensor = values[whole]
    return view


def taps_of(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], sizes: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Yield each place in the kernel with the slices, along the spatial axes, of what it meets in `sizes` windows."""
    for tap in product(*(range(size) for size in kernel)):
        starts = [place * step for place, step in zip(tap, dilation, strict=True)]
        yield (
            tap,
            tuple(
                slice(start, start + (size - 1) * step + 1, step)
                for start, size, step in zip(starts, sizes, stride, strict=True)
            ),
        )


def convolve_by_taps(
    padded: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    group: int,
    sizes: Sequence[int],
) -> Tensor:
    """Convolve.

    Shapes: padded (N, C, ...), weight (outputs, C / group, *kernel) -> (N, outputs, *sizes).
    """
    items, outputs = padded.shape[0], weight.shape[0]
    top = padded.new_zeros(items, group, outputs // group, prod(sizes))
    for tap, place in taps_of(weight.shape[2:], stride, dilation, sizes):
        values = at_end(padded, place).reshape(items, group, padded.shape[1] // group, top.shape[3])
        factors = at_end(weight, tap).reshape(group, outputs // group, weight.shape[1])
        top = top + torch.einsum("goc,ngcp->ngop", factors, values)
    return top.reshape(items, outputs, *sizes)


def deconvolve_by_taps(
    bottom: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    group: int,
    sizes: Sequence[int],
) -> Tensor:
    """Spread the bottom, the transpose of `convolve_by_taps`.

    Shapes: bottom (N, C, ...), weight (C, outputs / group, *kernel) -> (N, outputs, *sizes).
    """
    items, outputs = bottom.shape[0], weight.shape[1] * group
    values = bottom.reshape(items, group, bottom.shape[1] // group, prod(bottom.shape[2:]))
    top = bottom.new_zeros(items, outputs, *sizes)
    for tap, place in taps_of(weight.shape[2:], stride, dilation, bottom.shape[2:]):
        factors = at_end(weight, tap).reshape(group, weight.shape[0] // group, weight.shape[1])
        part = torch.einsum("gco,ngcp->ngop", factors, values)
        at_end(top, place).add_(part.reshape(items, outputs, *bottom.shape[2:]))
    return top
