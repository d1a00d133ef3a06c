"""Convolution, Deconvolution and Im2col, N-D."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import prod
from operator import lt
from typing import TypeVar
from warnings import warn

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.layers.taps import at_end, convolve_by_taps, deconvolve_by_taps, pad_evenly, taps_of
from fcn_caffe.proto import caffe_pb2

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_LONGEST_STRIDE = 4096
DECONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


_Convolving = TypeVar("_Convolving", bound="_ConvolutionBase")


class _WindowLayer(Layer):
    """Base of layers that move a window over the axes after `axis`: its size, and the output's.

    Source: Caffe BaseConvolutionLayer.
    """

    fresh_top = True
    takes_in_place = False  # Caffe overwrites what it still reads
    transposed = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        if len(param.top) != len(bottoms):
            raise self.error(f"has {len(param.top)} tops for {len(bottoms)} bottoms: give one for each.")
        self.channel_axis = self.axis(param.convolution_param.axis, bottoms[0])
        self.spatial_axes = bottoms[0].ndim - self.channel_axis - 1
        self.kernel = self._spatial("kernel_size", "kernel_h", "kernel_w", None)
        self.stride = self._spatial("stride", "stride_h", "stride_w", 1)
        self.pad = self._spatial("pad", "pad_h", "pad_w", 0)
        self.dilation = self._spatial("dilation", None, None, 1)
        for name, values in (("kernel_size", self.kernel), ("stride", self.stride)):
            if min(values, default=1) < 1:
                raise self.error(f"{name} must be at least 1, got {show(values)}.")
        self.channels: int = bottoms[0].shape[self.channel_axis]

    def _spatial(self, field: str, h: str | None, w: str | None, default: int | None) -> tuple[int, ...]:
        options = self.param.convolution_param
        values = list(getattr(options, field))
        if h and w and (options.HasField(h) or options.HasField(w)):
            if values:
                raise self.error(f"give {field} or {h} and {w}, not both.")
            if self.spatial_axes != 2:
                raise self.error(
                    f"{h} and {w} are for two spatial axes, this bottom has {self.spatial_axes}. Give the list instead."
                )
            return getattr(options, h), getattr(options, w)
        if not values:
            if default is None and self.spatial_axes:
                raise self.error(f"{field} is missing: give {field}, or {h} and {w}.")
            values = [default or 0]
        if len(values) not in (1, self.spatial_axes):
            raise self.error(f"{field} is given {len(values)} times: give it once, or {self.spatial_axes} times.")
        return tuple(values * self.spatial_axes if len(values) == 1 else values)

    def sizes(self, bottom: Tensor) -> list[int]:
        """Return the top's spatial sizes.

        Raises:
            LayerError: for other axes or channels than the layer was built for, or a bottom that is too small.
        """
        self.check_axes(bottom)
        if bottom.shape[self.channel_axis] != self.channels:
            raise self.error(
                f"bottom of shape {show(bottom.shape)} has {bottom.shape[self.channel_axis]} channels, "
                f"the layer was built for {self.channels}. Give it as many."
            )
        return self.output_sizes(bottom, self.channel_axis + 1)

    def check_axes(self, bottom: Tensor) -> None:
        """Raise LayerError for another number of axes than the layer was built for; PyTorch takes C x H x W, too."""
        axes = self.channel_axis + 1 + self.spatial_axes
        if bottom.ndim != axes:
            raise self.error(f"bottom {show(bottom.shape)} has {bottom.ndim} axes, the layer was built for {axes}.")

    def output_sizes(self, bottom: Tensor, first: int) -> list[int]:
        """Return the top's sizes for the bottom's axes from `first` on; raise LayerError where one would be below 1."""
        sizes = []
        for axis, size in enumerate(bottom.shape[first:]):
            extent = self.dilation[axis] * (self.kernel[axis] - 1) + 1
            if self.transposed:
                out = self.stride[axis] * (size - 1) + extent - 2 * self.pad[axis]
            else:
                # C++ divides towards zero: a window that reaches too far by less than the stride gives one output.
                room = size + 2 * self.pad[axis] - extent
                out = (room // self.stride[axis] if room >= 0 else -(-room // self.stride[axis])) + 1
            if out < 1:
                raise self.error(
                    f"bottom of shape {show(bottom.shape)} is too small: with kernel extent {extent} and "
                    f"pad {self.pad[axis]} the output would have size {out}. Use a larger input or more pad."
                )
            sizes.append(out)
        return sizes

    def fill_up(self, bottom: Tensor, sizes: list[int]) -> Tensor:
        """Return the bottom with zeros at its ends where a window reaches beyond the bottom and its pad."""
        missing = [
            max(0, (out - 1) * stride + dilation * (kernel - 1) + 1 - size - 2 * pad)
            for out, stride, dilation, kernel, size, pad in zip(
                sizes, self.stride, self.dilation, self.kernel, _last_sizes(bottom, len(sizes)), self.pad, strict=True
            )
        ]
        return F.pad(bottom, [size for beyond in reversed(missing) for size in (0, beyond)]) if any(missing) else bottom


def _last_sizes(bottom: Tensor, count: int) -> torch.Size:
    return bottom.shape[bottom.ndim - count :]


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
        # PyTorch convolves along 1 to 3 axes, and its gradient fails where strides are longer than some thousands. With
        # a dilation of 0 all taps of a window read its first element.
        is_long = not self.transposed and max(self.stride, default=1) > _LONGEST_STRIDE
        self.by_taps = self.spatial_axes not in CONVOLVE or 0 in self.dilation or is_long
        self.convolve = (DECONVOLVE if self.transposed else CONVOLVE).get(self.spatial_axes)

    def check_equal(self, bottoms: tuple[Tensor, ...]) -> None:
        """Raise LayerError for bottoms of several shapes."""
        for position, bottom in enumerate(bottoms[1:], 1):
            if bottom.shape != bottoms[0].shape:
                raise self.error(
                    f"bottom {position} '{self.param.bottom[position]}' is {show(bottom.shape)}, bottom 0 "
                    f"'{self.param.bottom[0]}' is {show(bottoms[0].shape)}: all must have one shape. Give the other "
                    'shape a layer of its own, with weights shared by param { name: "…" }.'
                )

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        self.check_equal(bottoms)
        outputs: int = self.param.convolution_param.num_output
        return tuple(of_shape(*bottom.shape[: self.channel_axis], outputs, *self.sizes(bottom)) for bottom in bottoms)

    def set_pad(self, pad: tuple[int, ...]) -> None:
        """Pad by so much on each axis."""
        self.pad = pad

    def with_pad(self: _Convolving, pad: tuple[int, ...]) -> _Convolving:
        """Return a layer over the same blobs that pads by so much on each axis."""
        twin = copy.copy(self)
        twin.set_pad(pad)
        return twin

    def with_convolve(self: _Convolving, convolve: Callable[..., Tensor]) -> _Convolving:
        """Return a layer over the same blobs that convolves as it is told."""
        twin = copy.copy(self)
        twin.convolve = convolve
        return twin

    def compute(self, bottom: Tensor) -> Tensor:
        """Return the top of a bottom whose channels are axis 1."""
        raise NotImplementedError

    def with_bias(self, top: Tensor) -> Tensor:
        """Return the top plus the bias, if there is one."""
        return top if self.bias is None else top + self.bias.reshape(-1, *(1,) * self.spatial_axes)

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        if len(bottoms) > 1:
            self.check_equal(bottoms)
        tops = []
        for bottom in bottoms:
            self.check_axes(bottom)
            if self.channel_axis == 1:
                tops.append(self.compute(bottom))
            else:
                lead = bottom.shape[: self.channel_axis]
                top = self.compute(bottom.reshape(-1, *bottom.shape[self.channel_axis :]))
                tops.append(top.reshape(*lead, *top.shape[1:]))
        return tops[0] if len(tops) == 1 else tuple(tops)


@register("Convolution", bottoms=(1, None), tops=(1, None))
class Convolution(_ConvolutionBase):
    """Convolve each bottom with the same weights.

    Shapes: (N, C, H, W) -> (N, num_output, h, w), h = floor((H + 2 pad - (dilation (kernel - 1) + 1)) / stride) + 1;
    weight (num_output, C / group, *kernel), bias (num_output). Any number of spatial axes after `axis`. An input that
    is smaller than the kernel by less than the stride gives one output, over zeros beyond its end.
    Gradient: to every bottom, weight and bias.
    Raises: LayerError for channels or sizes that do not fit, or bottoms of several shapes.
    Source: Caffe ConvolutionLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.set_pad(self.pad)

    def set_pad(self, pad: tuple[int, ...]) -> None:
        """Pad by so much on each axis, and work out the sizes of a bottom that hold one window."""
        super().set_pad(pad)
        self.least = [
            dilation * (kernel - 1) + 1 - 2 * size
            for dilation, kernel, size in zip(self.dilation, self.kernel, pad, strict=True)
        ]
        self.holds_any = all(size <= 1 for size in self.least)
        self.axes = 2 + self.spatial_axes
        self.is_plain = self.holds_any and not self.by_taps and self.channel_axis == 1

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        # Nearly always: calls show in small nets.
        if self.is_plain and len(bottoms) == 1 and bottoms[0].ndim == self.axes and not self.blob_views:
            assert self.convolve is not None
            blobs = self._parameters  # an attribute that is a parameter costs a call
            bias = blobs["bias"] if len(blobs) > 1 else None
            return self.convolve(bottoms[0], blobs["weight"], bias, self.stride, self.pad, self.dilation, self.group)
        return super().forward(*bottoms)

    def compute(self, bottom: Tensor) -> Tensor:
        if self.by_taps or (not self.holds_any and any(map(lt, bottom.shape[2:], self.least))):
            return self._compute_at_the_edge(bottom)
        assert self.convolve is not None
        return self.convolve(bottom, self.weight, self.bias, self.stride, self.pad, self.dilation, self.group)

    def _compute_at_the_edge(self, bottom: Tensor) -> Tensor:
        sizes = self.output_sizes(bottom, 2)
        bottom = self.fill_up(bottom, sizes)
        if self.by_taps:
            padded = pad_evenly(bottom, self.pad)
            return self.with_bias(convolve_by_taps(padded, self.weight, self.stride, self.dilation, self.group, sizes))
        assert self.convolve is not None
        return self.convolve(bottom, self.weight, self.bias, self.stride, self.pad, self.dilation, self.group)


@register("Deconvolution", bottoms=(1, None), tops=(1, None))
class Deconvolution(_ConvolutionBase):
    """The backward pass of a convolution as a layer: upsampling by `stride`.

    Shapes: (N, C, H, W) -> (N, num_output, h, w), h = stride (H - 1) + dilation (kernel - 1) + 1 - 2 pad; weight (C,
    num_output / group, *kernel), bias (num_output). Any number of spatial axes after `axis`.
    Gradient: to every bottom, weight and bias.
    Raises: LayerError for channels or sizes that do not fit.
    Source: Caffe DeconvolutionLayer; paper section 3.3.
    """

    transposed = True

    def compute(self, bottom: Tensor) -> Tensor:
        if self.by_taps:
            return self.with_bias(self._spread(bottom))
        assert self.convolve is not None
        return self.convolve(bottom, self.weight, self.bias, self.stride, self.pad, 0, self.group, self.dilation)

    def _spread(self, bottom: Tensor) -> Tensor:
        sizes = self.output_sizes(bottom, 2)
        padded = [size + 2 * pad for size, pad in zip(sizes, self.pad, strict=True)]
        top = deconvolve_by_taps(bottom, self.weight, self.stride, self.dilation, self.group, padded)
        return at_end(top, [slice(pad, pad + size) for pad, size in zip(self.pad, sizes, strict=True)])


@register("Im2col")
class Im2col(_WindowLayer):
    """Put the values that each window of a convolution reads along the channel axis.

    Shapes: (N, C, H, W) -> (N, C kernel_h kernel_w, h, w), h as Convolution's.
    Gradient: to the bottom.
    Raises: LayerError for sizes that do not fit, or a bottom without spatial axes.
    Source: Caffe Im2colLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        if not self.spatial_axes:
            raise self.error(f"needs axes after the channels, which are axis {self.channel_axis}: none are left.")

    def infer(self, *bottoms: Tensor) -> Tensor:
        rows = self.channels * prod(self.kernel)
        return of_shape(*bottoms[0].shape[: self.channel_axis], rows, *self.sizes(bottoms[0]))

    def forward(self, bottom: Tensor) -> Tensor:
        sizes, lead, first = self.sizes(bottom), bottom.shape[: self.channel_axis], self.channel_axis + 1
        padded = pad_evenly(self.fill_up(bottom, sizes), self.pad)
        taps = taps_of(self.kernel, self.stride, self.dilation, sizes)
        # ... x C x taps x h x w -> ... x (C taps) x h x w
        rows = torch.stack([at_end(padded, place) for _, place in taps], first)
        return rows.reshape(*lead, self.channels * prod(self.kernel), *sizes)
