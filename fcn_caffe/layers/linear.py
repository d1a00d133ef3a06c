"""Learned linear maps: InnerProduct and Scale."""

from __future__ import annotations

from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.layers.base import Layer, SameShapeLayer, of_shape, register, show
from fcn_caffe.proto import caffe_pb2


@register("InnerProduct")
class InnerProduct(Layer):
    """Multiply everything from `axis` on, flattened, by a weight matrix.

    Shapes: (N, C, H, W) -> (N, num_output); weight (num_output, C H W), or its transpose with `transpose`.
    Gradient: to the bottom, weight and bias.
    Raises: LayerError for an input whose flattened size is not the weight's.
    Source: Caffe InnerProductLayer.
    """

    fresh_top = True

    def __init__(self, param: Any, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.inner_product_param
        self.first = self.axis(options.axis, bottoms[0])
        self.transpose: bool = options.transpose
        self.size = prod(bottoms[0].shape[self.first :])
        if options.num_output < 1:
            raise self.error(f"num_output must be at least 1, got {options.num_output}.")
        shape = (self.size, options.num_output) if self.transpose else (options.num_output, self.size)
        self.add_blob("weight", shape, options.weight_filler if options.HasField("weight_filler") else None)
        self.bias: Tensor | None
        if options.bias_term:
            self.add_blob("bias", shape[:1] if not self.transpose else shape[1:], options.bias_filler)
        else:
            self.bias = None

    def infer(self, *bottoms: Tensor) -> Tensor:
        return of_shape(*bottoms[0].shape[: self.first], self.param.inner_product_param.num_output)

    def forward(self, bottom: Tensor) -> Tensor:
        size = prod(bottom.shape[self.first :])
        if size != self.size:
            raise self.error(
                f"bottom {show(bottom.shape)} gives {size} inputs, the weight was built for {self.size}. "
                "An inner product fixes its input size: convolutionalise it to take any."
            )
        flat = bottom.reshape(*bottom.shape[: self.first], size)
        return F.linear(flat, self.weight.t() if self.transpose else self.weight, self.bias)


@register("Scale", bottoms=(1, 2))
class Scale(SameShapeLayer):
    """Multiply by a learned blob or by bottom[1], broadcast from `axis`; optionally add a learned bias.

    Shapes: (N, C, H, W), scale of any run of axes from `axis` -> (N, C, H, W).
    Gradient: to both bottoms, scale and bias. A learned scale without a filler starts at 1.
    Raises: LayerError where the scale's shape does not match the bottom's axes.
    Source: Caffe ScaleLayer.
    """

    fresh_top = True

    def __init__(self, param: Any, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.scale_param
        shape: tuple[int, ...]
        if len(bottoms) == 2:
            shape = tuple(bottoms[1].shape)
            # A scalar scale may sit anywhere, so Caffe does not canonicalise its axis.
            self.first = self.axis(options.axis, bottoms[0]) if shape else 0
            if tuple(bottoms[0].shape[self.first : self.first + len(shape)]) != shape:
                raise self.error(
                    f"bottom 1 is {show(shape)}, bottom 0 is {show(bottoms[0].shape)}: "
                    f"from axis {self.first} on they must agree."
                )
        else:
            self.first = self.axis(options.axis, bottoms[0])
            count = options.num_axes if options.num_axes >= 0 else bottoms[0].ndim - self.first
            if options.num_axes < -1 or self.first + count > bottoms[0].ndim:
                raise self.error(
                    f"axis {self.first} and num_axes {options.num_axes} pass the end of {show(bottoms[0].shape)}."
                )
            shape = tuple(bottoms[0].shape[self.first : self.first + count])
            one = caffe_pb2.FillerParameter(type="constant", value=1)
            self.add_blob("weight", shape, options.filler if options.HasField("filler") else one)
        self.bias: Tensor | None
        if options.bias_term:
            self.add_blob("bias", shape, options.bias_filler if options.HasField("bias_filler") else None)
        else:
            self.bias = None
        self.learned = len(bottoms) == 1
        self.rank = len(shape)

    def forward(self, bottom: Tensor, scale: Tensor | None = None) -> Tensor:
        factor = self.weight if scale is None else scale
        if tuple(bottom.shape[self.first : self.first + self.rank]) != tuple(factor.shape):
            raise self.error(
                f"scale is {show(factor.shape)}, the bottom {show(bottom.shape)}: "
                f"from axis {self.first} on they must agree."
            )
        tail = (1,) * (bottom.ndim - self.first - self.rank)
        top = bottom * factor.reshape(*factor.shape, *tail)
        return top if self.bias is None else top + self.bias.reshape(*self.bias.shape, *tail)
