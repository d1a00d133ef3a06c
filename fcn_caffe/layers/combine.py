"""Layers that join blobs or split them."""

from __future__ import annotations

import torch
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.layers.gradients import with_value
from fcn_caffe.proto import caffe_pb2

FLOAT_MIN = -torch.finfo(torch.float32).max


@register("Eltwise", bottoms=(2, None))
class Eltwise(Layer):
    """Combine equal-shaped bottoms element by element: SUM with coefficients, PROD or MAX.

    In place, where the top is bottom 0, Caffe begins to write it before it has read it: a SUM counts it as 0, a MAX as
    -FLT_MAX.
    Shapes: bottoms of one shape -> the same.
    Gradient: to every bottom; MAX sends it to the bottom whose value was taken. With stable_prod_grad: false that of
    PROD is top / bottom: NaN at zeros.
    Raises: LayerError for unequal shapes, or another number of coefficients than bottoms, or coefficients with PROD.
    Source: Caffe EltwiseLayer.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.eltwise_param
        self.operation: int = options.operation
        self.coefficients = list(options.coeff)
        if self.coefficients and len(self.coefficients) != len(bottoms):
            raise self.error(f"{len(self.coefficients)} coeff for {len(bottoms)} bottoms: give one each, or none.")
        if self.coefficients and self.operation == caffe_pb2.EltwiseParameter.PROD:
            raise self.error("coeff is only for operation: SUM.")
        self.stable: bool = options.stable_prod_grad
        self.overwrites = param.top[0] == param.bottom[0]

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(bottoms)
        return bottoms[0]

    def _check(self, bottoms: tuple[Tensor, ...]) -> None:
        first = bottoms[0]
        for position, bottom in enumerate(bottoms):
            if bottom.shape != first.shape:
                raise self.error(
                    f"bottom {position} '{self.param.bottom[position]}' is {show(bottom.shape)}, "
                    f"bottom 0 '{self.param.bottom[0]}' is {show(first.shape)}. All must be equal: crop the larger."
                )

    def forward(self, *bottoms: Tensor) -> Tensor:
        self._check(bottoms)
        if self.operation == caffe_pb2.EltwiseParameter.PROD:
            return self._product(bottoms)
        if self.operation == caffe_pb2.EltwiseParameter.MAX:
            return self._maximum(bottoms)
        return self._sum(bottoms)

    def _product(self, bottoms: tuple[Tensor, ...]) -> Tensor:
        top = bottoms[0] * bottoms[1]
        for bottom in bottoms[2:]:
            top = top * bottom
        if self.stable:
            return top
        value = top.detach()
        return with_value(sum((value / bottom.detach()) * bottom for bottom in bottoms), top)  # type: ignore[arg-type]

    def _maximum(self, bottoms: tuple[Tensor, ...]) -> Tensor:
        # Caffe's rule for equal values: bottom 1 wins over bottom 0, and a later bottom must be larger.
        first = torch.full_like(bottoms[0], FLOAT_MIN) if self.overwrites else bottoms[0]
        top = torch.where(first > bottoms[1], first, bottoms[1])
        for bottom in bottoms[2:]:
            top = torch.where(bottom > top, bottom, top)
        return top

    def _sum(self, bottoms: tuple[Tensor, ...]) -> Tensor:
        factors = self.coefficients or [1.0] * len(bottoms)
        top = torch.zeros_like(bottoms[0]) if self.overwrites else bottoms[0]
        top = top if factors[0] == 1 else top * factors[0]
        for bottom, factor in zip(bottoms[1:], factors[1:], strict=True):
            top = torch.add(top, bottom, alpha=factor)
        return top


@register("Concat", bottoms=(1, None))
class Concat(Layer):
    """Join bottoms along `axis` (or the legacy concat_dim).

    Shapes: equal but for `axis` -> their sizes added there.
    Gradient: to every bottom.
    Raises: LayerError where another axis differs.
    Source: Caffe ConcatLayer.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        if len(bottoms) > 1 and set(param.bottom) & set(param.top):
            raise self.error("cannot join several blobs in place of one of them: give the top its own name.")
        options = param.concat_param
        if options.HasField("axis") and options.HasField("concat_dim"):
            raise self.error("give axis or concat_dim, not both.")
        self.dim = self.axis(options.concat_dim if options.HasField("concat_dim") else options.axis, bottoms[0])

    def infer(self, *bottoms: Tensor) -> Tensor:
        shape = list(self._check(bottoms))
        shape[self.dim] = sum(bottom.shape[self.dim] for bottom in bottoms)
        return of_shape(*shape)

    def _check(self, bottoms: tuple[Tensor, ...]) -> torch.Size:
        dim, first = self.dim, bottoms[0].shape
        for position, bottom in enumerate(bottoms):
            if bottom.shape[:dim] != first[:dim] or bottom.shape[dim + 1 :] != first[dim + 1 :]:
                raise self.error(
                    f"bottom {position} '{self.param.bottom[position]}' is {show(bottom.shape)}, bottom 0 is "
                    f"{show(first)}. All axes but {dim} must be equal."
                )
        return first

    def forward(self, *bottoms: Tensor) -> Tensor:
        self._check(bottoms)
        return torch.cat(bottoms, self.dim)  # a copy even of a lone bottom: the top is fresh


@register("Slice", tops=(1, None))
class Slice(Layer):
    """Cut the bottom along `axis` (or the legacy slice_dim) at slice_point, or evenly.

    Shapes: the bottom's, with `axis` divided among the tops.
    Gradient: to the bottom.
    Raises: LayerError for slice points that are not one less than the tops, not rising, or an uneven cut.
    Source: Caffe SliceLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.slice_param
        if options.HasField("axis") and options.HasField("slice_dim"):
            raise self.error("give axis or slice_dim, not both.")
        self.dim = self.axis(options.slice_dim if options.HasField("slice_dim") else options.axis, bottoms[0])
        self.points = list(options.slice_point)
        if self.points and len(self.points) != self.top_count - 1:
            raise self.error(f"{len(self.points)} slice_point for {self.top_count} tops, give {self.top_count - 1}.")

    def forward(self, bottom: Tensor) -> tuple[Tensor, ...]:
        size = bottom.shape[self.dim]
        if not self.points:
            if size % self.top_count:
                raise self.error(
                    f"axis {self.dim} of size {size} does not cut evenly into {self.top_count} tops; give slice_point."
                )
            return torch.split(bottom, [size // self.top_count] * self.top_count, self.dim)
        edges = [0, *self.points, size]
        sizes = [edges[i + 1] - edges[i] for i in range(len(edges) - 1)]
        if min(sizes) < 1:
            raise self.error(f"slice_point {self.points} must rise and stay inside axis {self.dim} of size {size}.")
        return torch.split(bottom, sizes, self.dim)


@register("Split", tops=(1, None))
class Split(Layer):
    """Pass the bottom on as every top; the tops' gradients are summed.

    Shapes: any -> the same, once for each top.
    Source: Caffe SplitLayer.
    """

    def forward(self, bottom: Tensor) -> tuple[Tensor, ...]:
        return (bottom,) * self.top_count


@register("Silence", bottoms=(1, None), tops=0)
class Silence(Layer):
    """Read the bottoms, so that they do not count as outputs of the net.

    Source: Caffe SilenceLayer.
    """

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return ()
