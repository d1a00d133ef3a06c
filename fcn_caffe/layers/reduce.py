"""Layers that reduce a blob, or pick from it: Reduction, ArgMax, BatchReindex, Filter."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import NOT_IMPLEMENTED, Layer, check_indices, of_shape, register
from fcn_caffe.layers.gradients import is_known
from fcn_caffe.proto import caffe_pb2


@register("Reduction")
class Reduction(Layer):
    """Reduce the axes from `axis` on to one value: coeff times the SUM, ASUM (of |x|), SUMSQ (of x²) or MEAN.

    Shapes: (N, C, H, W) -> the axes before `axis`; () by default.
    Gradient: to the bottom.
    Source: Caffe ReductionLayer.
    """

    fresh_top = True
    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.reduction_param
        self.first = self.axis(options.axis, bottoms[0])
        self.operation: int = options.operation
        self.coefficient: float = options.coeff

    def infer(self, *bottoms: Tensor) -> Tensor:
        return of_shape(*bottoms[0].shape[: self.first])

    def forward(self, bottom: Tensor) -> Tensor:
        modes = caffe_pb2.ReductionParameter
        flat = bottom.reshape(*bottom.shape[: self.first], prod(bottom.shape[self.first :]))
        if self.operation == modes.ASUM:
            flat = flat.abs()
        elif self.operation == modes.SUMSQ:
            flat = flat.square()
        top = flat.mean(-1) if self.operation == modes.MEAN else flat.sum(-1)
        return top * self.coefficient


@register("ArgMax")
class ArgMax(Layer):
    """The positions of the top_k largest values along `axis`, or in each image; equal values: the last position first.

    Caffe goes from position to position, and a NaN is no less than any value: for a top_k of 1 what comes before the
    last NaN is out, and so is that NaN unless nothing follows. For a larger top_k a NaN counts as the largest.

    Shapes: with `axis`: its size becomes top_k, and the top holds the values where out_max_val is set; without: (N,
    ...) -> (N, 1, top_k), or (N, 2, top_k) with the values behind the positions, and 1s up to the bottom's number of
    axes.
    Gradient: none.
    Raises: LayerError for a top_k below 1 or above the number of values.
    Source: Caffe ArgMaxLayer.
    """

    undifferentiable = (0,)
    takes_in_place = False
    refused_gradients: ClassVar[Mapping[int, str]] = {0: NOT_IMPLEMENTED}

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.argmax_param
        self.dim = self.axis(options.axis, bottoms[0]) if options.HasField("axis") else None
        self.values: bool = options.out_max_val
        self.top_k: int = options.top_k
        self._check(bottoms[0])

    def _check(self, bottom: Tensor) -> None:
        count = prod(bottom.shape[1:]) if self.dim is None else bottom.shape[self.dim]
        if not 1 <= self.top_k <= count:
            raise self.error(f"top_k {self.top_k} must be between 1 and the {count} values to choose from.")

    def infer(self, *bottoms: Tensor) -> Tensor:
        bottom = bottoms[0]
        if self.dim is not None:
            return of_shape(*bottom.shape[: self.dim], self.top_k, *bottom.shape[self.dim + 1 :])
        return of_shape(bottom.shape[0], 1 + self.values, self.top_k, *(1,) * (bottom.ndim - 3))

    def forward(self, bottom: Tensor) -> Tensor:
        self._check(bottom)
        searched, dim = (
            (bottom.reshape(bottom.shape[0], prod(bottom.shape[1:])), 1) if self.dim is None else (bottom, self.dim)
        )
        # Reversed, so that of equal values the last wins.
        reverse = searched.flip(dim)
        if self.top_k == 1:
            values, places = reverse.max(dim, keepdim=True)
            if is_known(values) and values.isnan().any():
                values, places = _forget_up_to_nan(reverse, dim).max(dim, keepdim=True)
        else:
            values, places = reverse.sort(dim=dim, descending=True, stable=True)
            values, places = values.narrow(dim, 0, self.top_k), places.narrow(dim, 0, self.top_k)
        positions = (searched.shape[dim] - 1 - places).to(bottom.dtype)
        if self.dim is not None:
            return values if self.values else positions
        top = torch.stack([positions, values], 1) if self.values else positions[:, None]
        return top.reshape(*top.shape, *(1,) * (bottom.ndim - 3))


def _forget_up_to_nan(reverse: Tensor, dim: int) -> Tensor:
    """Return the values with -infinity from the first NaN on, unless that is the very first."""
    out = reverse.isnan().cumsum(dim) > 0
    out.select(dim, 0).fill_(False)
    return reverse.masked_fill(out, -torch.inf)


@register("BatchReindex", bottoms=2)
class BatchReindex(Layer):
    """Select, repeat and reorder the items of bottom[0] by the indices in bottom[1].

    Shapes: (N, ...), (M) -> (M, ...).
    Gradient: to bottom[0], summed over its copies.
    Raises: LayerError for indices that are not one axis, or outside [0, N).
    Source: Caffe BatchReindexLayer.
    """

    fresh_top = True
    takes_in_place = False
    undifferentiable = (1,)
    refused_gradients: ClassVar[Mapping[int, str]] = {1: "Cannot backprop to index."}

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(*bottoms)
        return of_shape(bottoms[1].shape[0], *bottoms[0].shape[1:])

    def _check(self, bottom: Tensor, index: Tensor) -> None:
        if index.ndim != 1 or bottom.ndim < 1:
            raise self.error(
                f"bottom 1 holds one index per item, so it has one axis; got {show(index.shape)}. Flatten it before."
            )

    def forward(self, bottom: Tensor, index: Tensor) -> Tensor:
        self._check(bottom, index)
        places = index.long()
        check_indices(self, places, bottom.shape[0], "the batch")
        return bottom.index_select(0, places)


@register("Filter", bottoms=(2, None), tops=(1, None))
class Filter(Layer):
    """Keep the items of each bottom for which the last bottom, the selector, is not 0.

    Shapes: (N, ...) for each bottom but the last, which holds N values -> (kept, ...) for each top.
    Gradient: to every bottom but the selector. When the net is built the selector is unknown, and the tops have the
    bottoms' shapes.
    Raises: LayerError where tops are not one less than bottoms, or numbers of items differ.
    Source: Caffe FilterLayer.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        selector = len(bottoms) - 1
        self.undifferentiable = (selector,)  # type: ignore[misc]
        self.refused_gradients = {selector: "Layer cannot backpropagate to filter index inputs"}  # type: ignore[misc]
        if len(param.top) != len(bottoms) - 1:
            raise self.error(
                f"has {len(param.top)} tops for {len(bottoms) - 1} bottoms besides the selector: give one for each."
            )

    def _check(self, bottoms: tuple[Tensor, ...]) -> None:
        selector = bottoms[-1]
        if selector.ndim < 1 or selector.numel() != selector.shape[0]:
            raise self.error(
                f"the selector, bottom {len(bottoms) - 1}, is {show(selector.shape)}: give one value per item."
            )
        for position, bottom in enumerate(bottoms[:-1]):
            if bottom.ndim < 1 or bottom.shape[0] != selector.shape[0]:
                raise self.error(
                    f"bottom {position} {show(bottom.shape)} must have as many items as the selector, "
                    f"{selector.shape[0]}."
                )

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        self._check(bottoms)
        return bottoms[:-1]

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        self._check(bottoms)
        kept = bottoms[-1].reshape(-1).nonzero()[:, 0]
        return tuple(bottom.index_select(0, kept) for bottom in bottoms[:-1])
