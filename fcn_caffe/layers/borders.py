"""BorderCopy: repeats rows and columns inside of a blob, to widen a border whose places are all equal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.layers.gradients import is_known
from fcn_caffe.proto import caffe_pb2

Fold = tuple[int, int, int]  # an axis's start, end and copies
Part = tuple[slice, slice]  # places of the top, places of the bottom


@register("BorderCopy", restrictions="ours, not Caffe's: `net/rewrite/borders.py` writes it; 4-D bottoms")
class BorderCopy(Layer):
    """Insert copies of a row and of a column beside it, on each side of a blob.

    Row `start` gets `copies` copies after it, row `H - 1 - end` as many before it; columns likewise.

    Shapes: (N, C, H, W) -> (N, C, H + 2 copies of H, W + 2 copies of W).
    Gradient: to the bottom; a place's is the sum over its copies.
    Raises: LayerError for options that are not given once or twice, or a bottom that lacks such rows or columns.
    """

    fresh_top = True
    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        start, end, copies = (self._pair(name) for name in ("start", "end", "copies"))
        self.folds: tuple[Fold, Fold] = ((start[0], end[0], copies[0]), (start[1], end[1], copies[1]))

    def _pair(self, name: str) -> tuple[int, int]:
        values = list(getattr(self.param.border_copy_param, name))
        if len(values) not in (1, 2):
            raise self.error(f"{name} is given {len(values)} times: give it once, or for H and for W.")
        return values[0], values[-1]

    def _check(self, bottom: Tensor) -> None:
        if bottom.ndim != 4:
            raise self.error(f"needs a 4-D bottom (N x C x H x W), got {show(bottom.shape)}.")
        for axis, size, (start, end, copies) in zip("HW", bottom.shape[2:], self.folds, strict=True):
            if copies and size < start + end + 2:
                raise self.error(
                    f"bottom {show(bottom.shape)} is too small: with start {start} and end {end}, {axis} needs "
                    f"{start + end + 2} places. Use a larger input, or smaller values."
                )

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(bottoms[0])
        N, C, H, W = bottoms[0].shape
        return of_shape(N, C, *(size + 2 * fold[2] for size, fold in zip((H, W), self.folds, strict=True)))

    def forward(self, bottom: Tensor) -> Tensor:
        self._check(bottom)
        if not is_known(bottom):
            return _join(_join(bottom, 3, self.folds[1]), 2, self.folds[0])
        apply: Any = _Copy.apply
        top: Tensor = apply(bottom, self.folds)
        return top


def _join(bottom: Tensor, axis: int, fold: Fold) -> Tensor:
    """Widen one axis by joining slices: what an exported graph holds."""
    start, end, copies = fold
    if not copies:
        return bottom
    sizes = [-1] * bottom.ndim
    sizes[axis] = copies
    size = bottom.shape[axis]
    first, last = bottom.narrow(axis, start, 1), bottom.narrow(axis, size - 1 - end, 1)
    before, between = bottom.narrow(axis, 0, start + 1), bottom.narrow(axis, start + 1, size - start - end - 2)
    after = bottom.narrow(axis, size - 1 - end, end + 1)
    return torch.cat([before, first.expand(sizes), between, last.expand(sizes), after], axis)


class _Copy(torch.autograd.Function):
    """Widens both axes in one pass over memory, which joined slices would take two of, and their gradient ten."""

    @staticmethod
    def forward(ctx: Any, bottom: Tensor, folds: tuple[Fold, Fold]) -> Tensor:  # noqa: ANN401 (PyTorch's)
        ctx.folds, ctx.shape = folds, bottom.shape
        rows, columns = (_parts(size, fold) for size, fold in zip(bottom.shape[2:], folds, strict=True))
        sizes = (size + 2 * fold[2] for size, fold in zip(bottom.shape[2:], folds, strict=True))
        top = bottom.new_empty((*bottom.shape[:2], *sizes))
        for to_rows, from_rows in rows:
            for to_columns, from_columns in columns:
                top[..., to_rows, to_columns] = bottom[..., from_rows, from_columns]
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 (PyTorch's)
        rows, columns = (_sums(size, fold) for size, fold in zip(ctx.shape[2:], ctx.folds, strict=True))
        below = gradient.new_empty(ctx.shape)
        for top_rows, bottom_rows in rows:
            for top_columns, bottom_columns in columns:
                part, target = gradient[..., top_rows, top_columns], below[..., bottom_rows, bottom_columns]
                axes = [axis for axis in (2, 3) if part.shape[axis] != target.shape[axis]]
                target.copy_(part.sum(axes, keepdim=True) if axes else part)
        return below, None


def _parts(size: int, fold: Fold) -> list[Part]:
    """Cover the top of an axis: each part's places, and the places, or the one place, that they come from."""
    start, end, copies = fold
    if not copies:
        return [(slice(0, size), slice(0, size))]
    first, last = start + 1, size - end - 1
    return [
        (slice(0, first), slice(0, first)),
        (slice(first, first + copies), slice(start, first)),
        (slice(first + copies, last + copies), slice(first, last)),
        (slice(last + copies, last + 2 * copies), slice(last, last + 1)),
        (slice(last + 2 * copies, size + 2 * copies), slice(last, size)),
    ]


def _sums(size: int, fold: Fold) -> list[Part]:
    """Cover the bottom of an axis: the places of the top that a part, or a single place, went to."""
    start, end, copies = fold
    if not copies:
        return [(slice(0, size), slice(0, size))]
    first, last = start + 1, size - end - 1
    return [
        (slice(0, start), slice(0, start)),
        (slice(start, first + copies), slice(start, first)),
        (slice(first + copies, last + copies), slice(first, last)),
        (slice(last + copies, last + 2 * copies + 1), slice(last, last + 1)),
        (slice(last + 2 * copies + 1, size + 2 * copies), slice(last + 1, size)),
    ]
