"""Convolution, Deconvolution and Im2col, N-D."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from warnings import warn

import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.proto import caffe_pb2

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
DECONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


class _WindowLayer(Layer):
    """Base of layers that move a window over the axes after `axis`: its size, and the output's.

    Source: Caffe BaseConvolutionLayer.
    """

    fresh_top = True
    transposed = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        if len(param.top) != len(bottoms):
            raise self.error(f"has {len(param.top)} tops for {len(bottoms)} bottoms: give one for each.")
        self.channel_axis = self.axis(param.convolution_param.axis, bottoms[0])
        self.spatial_axes = bottoms[0].ndim - self.channel_axis - 1
        if self.spatial_axes not in CONVOLVE:
            raise self.error(
                f"the bottom {show(bottoms[0].shape)} has {self.spatial_axes} spatial axes; 1, 2 and 3 are supported."
            )
        self.kernel = self._spatial("kernel_size", "kernel_h", "kernel_w", None)
        self.stride = self._spatial("stride", "stride_h", "stride_w", 1)
        self.pad = self._spatial("pad", "pad_h", "pad_w", 0)
        self.dilation = self._spatial("dilation", None, None, 1)
        for name, values in (("kernel_size", self.kernel), ("stride", self.stride), ("dilation", self.dilation)):
            if min(values) < 1:
                raise self.error(f"{name} must be at least 1, got {show(values)}.")
        self.channels: int = bottoms[0].shape[self.channel_axis]

    def _spatial(self, field: str, h: str | None, w: str | None, default: int | None) -> tuple[int, ...]:
        options = self.param.convolution_param
        values = list(getattr(options, field))
        if h and w and (options.HasField(h) or options.HasField(w)):
            if values:
                raise self.error(f"give {field} or {h} and {w}, not both.")
            if self.spatial_axes != 2:
                raise self.error(f"{h} and {w} are for two spatial axes, this bottom has {self.spatial_axes}.")
            return getattr(options, h), getattr(options, w)
        if not values:
            if default is None:
                raise self.error(f"{field} is missing: give {field}, or {h} and {w}.")
            values = [default]
        if len(values) not in (1, self.spatial_axes):
            raise self.error(f"{field} is given {len(values)} times: give it once, or {self.spatial_axes} times.")
        return tuple(values * self.spatial_axes if len(values) == 1 else values)

    def sizes(self, bottom: Tensor) -> list[int]:
        """Return the top's spatial sizes.

        Raises:
            LayerError: for other channels than the layer was built for, or a bottom that is too small.
        """
        if bottom.shape[self.channel_axis] != self.channels:
            raise self.error(
                f"bottom of shape {show(bottom.shape)} has {bottom.shape[self.channel_axis]} channels, "
                f"the layer was built for {self.channels}."
            )
        sizes = []
        for axis, size in enumerate(bottom.shape[self.channel_axis + 1 :]):
            extent = self.dilation[axis] * (self.kernel[axis] - 1) + 1
            if self.transposed:
                out = self.stride[axis] * (size - 1) + extent - 2 * self.pad[axis]
            else:
                out = (size + 2 * self.pad[axis] - extent) // self.stride[axis] + 1
            if out < 1:
                raise self.error(
                    f"bottom of shape {show(bottom.shape)} is too small: with kernel extent {extent} and "
                    f"pad {self.pad[axis]} the output would have size {out}. Use a larger input or more pad."
                )
            sizes.append(out)
        return sizes


class _ConvolutionBase(_WindowLayer):
    """Base of Convolution and Deconvolution: the weights.

    Source: Caffe BaseConvolutionLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.convolution_param
        self.group: int = options.group
        channels, outputs = self.channels, options.num_output
        if outputs < 1:
            raise self.error(f"num_output must be at least 1, got {outputs}.")
        if self.group < 1 or channels % self.group or outputs % self.group:
            raise self.error(f"group {self.group} must divide the {channels} channels and num_output {outputs}.")
        first, second = (channels, outputs) if self.transposed else (outputs, channels)
        shape = (first, second // self.group, *self.kernel)
        if self.transposed and options.weight_filler.type == "bilinear" and channels > self.group:
            warn(
                f"layer '{self.name}' (Deconvolution): the bilinear filler fills every pair of channels, so each of "
                f"the {outputs} outputs sums {channels // self.group} interpolated inputs. Set group: {channels} and "
                "num_output to match, or fill the diagonal with fcn_caffe.weights.surgery.interp(net).",
                stacklevel=2,
            )
        self.add_blob("weight", shape, options.weight_filler if options.HasField("weight_filler") else None)
        self.bias: Tensor | None
        if options.bias_term:
            self.add_blob("bias", (outputs,), options.bias_filler if options.HasField("bias_filler") else None)
        else:
            self.bias = None
        self.convolve = (DECONVOLVE if self.transposed else CONVOLVE)[self.spatial_axes]

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        outputs: int = self.param.convolution_param.num_output
        return tuple(of_shape(*bottom.shape[: self.channel_axis], outputs, *self.sizes(bottom)) for bottom in bottoms)

    def compute(self, bottom: Tensor) -> Tensor:
        """Return the top of a bottom whose channels are axis 1."""
        raise NotImplementedError

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        tops = []
        for bottom in bottoms:
            if self.channel_axis == 1:
                tops.append(self.compute(bottom))
            else:
                lead = bottom.shape[: self.channel_axis]
                top = self.compute(bottom.reshape(-1, *bottom.shape[self.channel_axis :]))
                tops.append(top.reshape(*lead, *top.shape[1:]))
        return tops[0] if len(tops) == 1 else tuple(tops)


@register("Convolution", bottoms=(1, None), tops=(1, None), restrictions="1, 2 or 3 spatial axes")
class Convolution(_ConvolutionBase):
    """Convolve each bottom with the same weights.

    Shapes: (N, C, H, W) -> (N, num_output, h, w), h = floor((H + 2 pad - (dilation (kernel - 1) + 1)) / stride) + 1;
    weight (num_output, C / group, *kernel), bias (num_output). One to three spatial axes after `axis`.
    Gradient: to every bottom, weight and bias.
    Raises: LayerError for channels or sizes that do not fit.
    Source: Caffe ConvolutionLayer.
    """

    def compute(self, bottom: Tensor) -> Tensor:
        return self.convolve(bottom, self.weight, self.bias, self.stride, self.pad, self.dilation, self.group)


@register("Deconvolution", bottoms=(1, None), tops=(1, None), restrictions="1, 2 or 3 spatial axes")
class Deconvolution(_ConvolutionBase):
    """The backward pass of a convolution as a layer: upsampling by `stride`.

    Shapes: (N, C, H, W) -> (N, num_output, h, w), h = stride (H - 1) + dilation (kernel - 1) + 1 - 2 pad; weight (C,
    num_output / group, *kernel), bias (num_output).
    Gradient: to every bottom, weight and bias.
    Raises: LayerError for channels or sizes that do not fit.
    Source: Caffe DeconvolutionLayer; paper section 3.3.
    """

    transposed = True

    def compute(self, bottom: Tensor) -> Tensor:
        return self.convolve(bottom, self.weight, self.bias, self.stride, self.pad, 0, self.group, self.dilation)


@register("Im2col", bottoms=(1, None), tops=(1, None), restrictions="1, 2 or 3 spatial axes")
class Im2col(_WindowLayer):
    """Put the values that each window of a convolution reads along the channel axis.

    Shapes: (N, C, H, W) -> (N, C kernel_h kernel_w, h, w), h as Convolution's.
    Gradient: to every bottom.
    Raises: LayerError for sizes that do not fit.
    Source: Caffe Im2colLayer.
    """

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        rows = self.channels * prod(self.kernel)
        return tuple(of_shape(*bottom.shape[: self.channel_axis], rows, *self.sizes(bottom)) for bottom in bottoms)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._columns(bottom) for bottom in bottoms)

    def _columns(self, bottom: Tensor) -> Tensor:
        sizes, lead, first = self.sizes(bottom), bottom.shape[: self.channel_axis], self.channel_axis + 1
        windows = F.pad(bottom, [pad for pad in reversed(self.pad) for _ in range(2)])
        for axis, (kernel, stride, dilation) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            windows = windows.unfold(first + axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
        # ... x C x h x w x kh x kw -> ... x C x kh x kw x h x w
        axes = range(first, first + self.spatial_axes)
        windows = windows.permute(*range(first), *(axis + self.spatial_axes for axis in axes), *axes)
        return windows.reshape(*lead, -1, *sizes)
