"""The way back from pooling: Upsample of SegNet and of the YOLO ports, Unpooling of DeconvNet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, check_indices, of_shape, register
from fcn_caffe.layers.gradients import with_value
from fcn_caffe.proto import caffe_pb2

Pair = tuple[int, int]


class _MaskLayer(Layer):
    """Base of layers that put values where a mask says: the index in a plane of the top, row * width + column."""

    takes_in_place = False
    undifferentiable = (1,)

    def check_planes(self, bottom: Tensor) -> None:
        """Raise LayerError unless the bottom is planes."""
        if bottom.ndim != 4:
            raise self.error(f"needs 4-D bottoms (N x C x H x W), got {show(bottom.shape)}. Reshape it.")

    def check_mask(self, bottom: Tensor, mask: Tensor) -> None:
        """Raise LayerError unless there is one place for each value."""
        if bottom.ndim != 4 or mask.shape != bottom.shape:
            raise self.error(
                f"bottom 0 is {show(bottom.shape)}, the mask {show(mask.shape)}: both must be N x C x H x W, alike. "
                "The mask is the second top of the MAX Pooling whose size is to come back."
            )

    def spread(self, bottom: Tensor, places: Tensor, sizes: Pair) -> Tensor:
        """Return planes of zeros with each value in its place; of several in one place the last in row order.

        Gradient: each value gets that of its place, also where a later one has taken it, as in the forks.
        """
        height, width = sizes
        lead = bottom.shape[:2]
        check_indices(self, places, height * width, f"the {height}x{width} places of a plane")
        top = bottom.new_zeros(*lead, height * width).scatter(2, places, bottom.flatten(2))
        return top.reshape(*lead, height, width)


@register("Upsample", bottoms=(1, 2), forks="SegNet, ENet (2 bottoms), YOLO ports (1 bottom)")
class Upsample(_MaskLayer):
    """With a mask (SegNet): put each value back where its pooling found it, zeros elsewhere. Without (YOLO): repeat it.

    With a mask the top is upsample_h x upsample_w where both are given, else H scale_h - 1 with pad_out_h, H scale_h
    without; the pooled blob must have had that width. Without, each pixel becomes scale x scale of its value.
    Shapes: (N, C, H, W), mask (N, C, H, W) -> (N, C, h, w).
    Gradient: to bottom 0: that of the value's place, also where a later value has taken it; without a mask, summed.
    Raises: LayerError for sizes that do not fit, or a place outside the top.
    Source: SegNet's UpsampleLayer, ENet's is the same; eric612's MobileNet-YOLO.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.upsample_param
        self.scale: Pair = (options.scale, options.scale)
        self.less: Pair = (int(options.pad_out_h), int(options.pad_out_w))
        self.wanted: Pair | None = None
        if len(bottoms) == 1:
            if not options.HasField("scale") or options.scale < 1:
                raise self.error("of one bottom needs upsample_param { scale: … }, 1 or more.")
            self.less = (0, 0)
            return
        if options.HasField("upsample_h") and options.HasField("upsample_w"):
            self.wanted = (options.upsample_h, options.upsample_w)
            if min(self.wanted) < 2:
                raise self.error(f"upsample_h and upsample_w must be above 1, got {show(self.wanted)}.")
            return
        if options.HasField("scale_h") != options.HasField("scale_w"):
            raise self.error("give scale_h and scale_w, or scale.")
        if options.HasField("scale_h"):
            self.scale = (options.scale_h, options.scale_w)
        if min(self.scale) < 2:
            raise self.error(f"the scale must be above 1, got {show(self.scale)}.")
        if any(less and scale != 2 for less, scale in zip(self.less, self.scale, strict=True)):
            raise self.error(f"pad_out_h and pad_out_w are for a scale of 2, got {show(self.scale)}.")

    def _sizes(self, bottom: Tensor) -> Pair:
        self.check_planes(bottom)
        height, width = bottom.shape[2:]
        return self.wanted or (height * self.scale[0] - self.less[0], width * self.scale[1] - self.less[1])

    def infer(self, *bottoms: Tensor) -> Tensor:
        if len(bottoms) > 1:
            self.check_mask(*bottoms)
        return of_shape(*bottoms[0].shape[:2], *self._sizes(bottoms[0]))

    def forward(self, bottom: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return F.interpolate(bottom, self._sizes(bottom), mode="nearest")
        self.check_mask(bottom, mask)
        return self.spread(bottom, mask.flatten(2).long(), self._sizes(bottom))


@register("Unpooling", bottoms=(1, 2), forks="DeconvNet")
class Unpooling(_MaskLayer):
    """Undo a pooling: MAX puts each value into one place, AVE and TILE into its whole window.

    MAX: where the mask says, or without one into the first place of its window, (stride y, stride x), held within the
    top. AVE: the value divided by the window's area, TILE: the value, added up where windows overlap.
    Shapes: (N, C, H, W), mask (N, C, H, W) -> (N, C, unpool_h, unpool_w).
    Gradient: to bottom 0. Of TILE, where Caffe is followed, divided by the window's area, which the true one is not.
    MAX: as Upsample.
    Raises: LayerError for sizes that are not given, pads other than 0, or a place outside the top.
    Source: DeconvNet's UnpoolingLayer. Its AVE and TILE add to what the last forward left on the CPU; these do not.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.unpooling_param
        self.mode: int = options.unpool
        self.kernel = self._pair("kernel_size", "kernel_h", "kernel_w")
        self.stride = self._pair("stride", "stride_h", "stride_w")
        self.size = self._pair("unpool_size", "unpool_h", "unpool_w")
        if self._pair("pad", "pad_h", "pad_w") != (0, 0):
            raise self.error("takes no pad: leave it out.")
        for name, values in (("kernel_size", self.kernel), ("stride", self.stride), ("unpool_size", self.size)):
            if min(values) < 1:
                raise self.error(f"{name} must be given and at least 1, got {show(values)}.")

    def _pair(self, field: str, h: str, w: str) -> Pair:
        options = self.param.unpooling_param
        if options.HasField(h) or options.HasField(w):
            if options.HasField(field) or not (options.HasField(h) and options.HasField(w)):
                raise self.error(f"give {field}, or {h} and {w}, not both.")
            return getattr(options, h), getattr(options, w)
        return getattr(options, field), getattr(options, field)

    def infer(self, *bottoms: Tensor) -> Tensor:
        if len(bottoms) > 1:
            self.check_mask(*bottoms)
        self.check_planes(bottoms[0])
        return of_shape(*bottoms[0].shape[:2], *self.size)

    def forward(self, bottom: Tensor, mask: Tensor | None = None) -> Tensor:
        modes = caffe_pb2.UnpoolingParameter
        self.check_planes(bottom)
        if mask is not None:
            self.check_mask(bottom, mask)
        if self.mode == modes.MAX:
            places = self._first_places(bottom) if mask is None else mask.flatten(2).long()
            return self.spread(bottom, places, self.size)
        areas = self._areas(bottom)
        if self.mode == modes.AVE:
            return self._over_windows(bottom / areas)
        top = self._over_windows(bottom)
        return with_value(self._over_windows(bottom / areas), top) if self.follows_caffe else top

    def _first_places(self, bottom: Tensor) -> Tensor:
        rows, columns = (
            (torch.arange(count, device=bottom.device) * stride).clamp(max=size - 1)
            for count, stride, size in zip(bottom.shape[2:], self.stride, self.size, strict=True)
        )
        return (rows[:, None] * self.size[1] + columns).flatten().expand(*bottom.shape[:2], -1)

    def _areas(self, bottom: Tensor) -> Tensor:
        """Return the area of each window within the top; at least 1."""
        sides = [
            (size - torch.arange(count, device=bottom.device) * stride).clamp(0, kernel).to(bottom.dtype)
            for count, stride, size, kernel in zip(bottom.shape[2:], self.stride, self.size, self.kernel, strict=True)
        ]
        return (sides[0][:, None] * sides[1]).clamp(min=1)

    def _over_windows(self, bottom: Tensor) -> Tensor:
        """Add each value to all places of its window."""
        planes = bottom.flatten(0, 1)[:, None]
        ones = torch.ones(1, 1, *self.kernel, dtype=bottom.dtype, device=bottom.device)
        top = F.conv_transpose2d(planes, ones, stride=self.stride)
        below, right = (size - have for size, have in zip(self.size, top.shape[2:], strict=True))
        return F.pad(top, (0, right, 0, below)).reshape(*bottom.shape[:2], *self.size)
