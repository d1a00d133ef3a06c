"""Learned linear maps: InnerProduct, Embed, Scale and Bias."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, SameShapeLayer, check_indices, of_shape, register
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
    takes_in_place = False  # Caffe overwrites what it still reads

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
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


class _BroadcastLayer(SameShapeLayer):
    """Base of Scale and Bias: an operand, learned or bottom[1], broadcast over the axes it does not have.

    The operand has the sizes of `num_axes` of the bottom's axes from `axis` on, or bottom[1]'s own.
    Source: Caffe ScaleLayer and BiasLayer, whose rules are the same.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = self.options = getattr(param, f"{self.layer_type.lower()}_param")
        self.learned = len(bottoms) == 1
        if self.learned:
            self.first = self.axis(options.axis, bottoms[0])
            count = options.num_axes if options.num_axes >= 0 else bottoms[0].ndim - self.first
            if options.num_axes < -1 or self.first + count > bottoms[0].ndim:
                raise self.error(
                    f"axis {self.first} and num_axes {options.num_axes} pass the end of {show(bottoms[0].shape)}."
                )
            self.shape = tuple(bottoms[0].shape[self.first : self.first + count])
        else:
            self.shape = tuple(bottoms[1].shape)
            # A scalar fits any axis, so Caffe does not check it, unless a bias of Scale is laid along it.
            wants_axis = self.shape or (self.layer_type == "Scale" and options.bias_term)
            self.first = self.axis(options.axis, bottoms[0]) if wants_axis else 0
            self._check(bottoms[0], bottoms[1])

    def _check(self, bottom: Tensor, operand: Tensor) -> None:
        if bottom.shape[self.first : self.first + operand.ndim] != operand.shape:
            what = "blob 0" if self.learned else "bottom 1"
            raise self.error(
                f"{what} is {show(operand.shape)}, bottom 0 is {show(bottom.shape)}: "
                f"from axis {self.first} on they must agree."
            )

    def spread(self, operand: Tensor, bottom: Tensor) -> Tensor:
        """Return the operand with axes of size 1 appended, so that it broadcasts against the bottom."""
        self._check(bottom, operand)
        return operand.reshape((*operand.shape, *(1,) * (bottom.ndim - self.first - operand.ndim)))


@register("Scale", bottoms=(1, 2))
class Scale(_BroadcastLayer):
    """Multiply by a learned blob or by bottom[1], broadcast from `axis`; optionally add a learned bias.

    Shapes: (N, C, H, W), scale of any run of axes from `axis` -> (N, C, H, W).
    Gradient: to both bottoms, scale and bias. A learned scale without a filler starts at 1.
    Raises: LayerError where the scale's shape does not match the bottom's axes.
    Source: Caffe ScaleLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = self.options
        if self.learned:
            ones = caffe_pb2.FillerParameter(type="constant", value=1)
            self.add_blob("weight", self.shape, options.filler if options.HasField("filler") else ones)
        self.bias: Tensor | None
        if options.bias_term:
            self.add_blob("bias", self.shape, options.bias_filler if options.HasField("bias_filler") else None)
        else:
            self.bias = None

    def forward(self, bottom: Tensor, scale: Tensor | None = None) -> Tensor:
        top = bottom * self.spread(self.weight if scale is None else scale, bottom)
        return top if self.bias is None else top + self.spread(self.bias, bottom)


@register("Bias", bottoms=(1, 2))
class Bias(_BroadcastLayer):
    """Add a learned blob or bottom[1], broadcast from `axis`.

    Shapes: (N, C, H, W), bias of any run of axes from `axis` -> (N, C, H, W).
    Gradient: to both bottoms, or the bottom and the bias.
    Raises: LayerError where the bias's shape does not match the bottom's axes.
    Source: Caffe BiasLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        if self.learned:
            self.add_blob("bias", self.shape, self.options.filler if self.options.HasField("filler") else None)

    def forward(self, bottom: Tensor, bias: Tensor | None = None) -> Tensor:
        return bottom + self.spread(self.bias if bias is None else bias, bottom)


@register("Embed")
class Embed(Layer):
    """Look up a row of the weight for each value of the bottom, a whole number; add a bias.

    Shapes: (...) -> (..., num_output); weight (input_dim, num_output), bias (num_output).
    Gradient: to weight and bias.
    Raises: LayerError for num_output or input_dim below 1, or a value outside [0, input_dim).
    Source: Caffe EmbedLayer.
    """

    fresh_top = True
    takes_in_place = False
    undifferentiable = (0,)
    refused_gradients: ClassVar[Mapping[int, str]] = {0: "Can't backpropagate to EmbedLayer input."}

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.embed_param
        if options.num_output < 1 or options.input_dim < 1:
            raise self.error(
                f"num_output and input_dim must be at least 1, got {options.num_output} and {options.input_dim}."
            )
        self.add_blob("weight", (options.input_dim, options.num_output), options.weight_filler)
        self.bias: Tensor | None
        if options.bias_term:
            self.add_blob("bias", (options.num_output,), options.bias_filler)
        else:
            self.bias = None

    def infer(self, *bottoms: Tensor) -> Tensor:
        return of_shape(*bottoms[0].shape, self.weight.shape[1])

    def forward(self, bottom: Tensor) -> Tensor:
        index = bottom.long()
        check_indices(self, index, self.weight.shape[0], "input_dim")
        top = F.embedding(index, self.weight)
        return top if self.bias is None else top + self.bias
