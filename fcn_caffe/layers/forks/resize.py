"""Interp and Padding of DeepLab."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.proto import caffe_pb2


@register("Interp", forks="DeepLab, PSPNet, ICNet, DAVSOD")
class Interp(Layer):
    """Resize bilinearly with the corners aligned: pixel i of the top lies at i (H - 1) / (h - 1) of the bottom.

    Pads below 0 crop the bottom first, the same pair on both axes. The size is the first that fits of: shrink_factor s
    alone, (H - 1) div s + 1; zoom_factor z alone, H + (H - 1)(z - 1); height and width; both factors, shrinking first.
    So one factor goes before height and width, and these before both.
    Shapes: (N, C, H, W) -> (N, C, h, w).
    Gradient: to the bottom, the transpose of the same weights; what is cropped gets none.
    Raises: LayerError for a size that is not given, pads above 0, or a bottom or top without pixels.
    Source: DeepLab's and PSPNet's InterpLayer.
    """

    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.interp_param
        self.pads = (options.pad_beg, options.pad_end)
        if max(self.pads) > 0:
            raise self.error(f"pad_beg and pad_end only crop: 0 or less, got {show(self.pads)}. See Padding.")
        shrinks, zooms = options.HasField("shrink_factor"), options.HasField("zoom_factor")
        self.wanted: tuple[int, int] | None = None
        self.shrink, self.zoom = (options.shrink_factor, options.zoom_factor)
        if shrinks == zooms and options.HasField("height") and options.HasField("width"):
            self.wanted = options.height, options.width
        elif not shrinks and not zooms:
            raise self.error("gives no size: write height and width, zoom_factor, shrink_factor, or both factors.")
        elif min(self.shrink, self.zoom) < 1:
            raise self.error(f"factors are at least 1, got shrink {self.shrink} and zoom {self.zoom}.")

    def _sizes(self, bottom: Tensor) -> tuple[int, int]:
        if bottom.ndim != 4:
            raise self.error(f"needs a 4-D bottom (N x C x H x W), got {show(bottom.shape)}.")
        height, width = (size + sum(self.pads) for size in bottom.shape[2:])
        if height < 1 or width < 1:
            raise self.error(f"pads {show(self.pads)} leave nothing of a bottom {show(bottom.shape)}.")
        sizes = self.wanted or (self._by_factors(height), self._by_factors(width))
        if min(sizes) < 1:
            raise self.error(f"the top would be {show(sizes)}: its sizes must be positive.")
        return sizes

    def _by_factors(self, size: int) -> int:
        size = (size - 1) // self.shrink + 1
        return size + (size - 1) * (self.zoom - 1)

    def infer(self, *bottoms: Tensor) -> Tensor:
        return of_shape(*bottoms[0].shape[:2], *self._sizes(bottoms[0]))

    def forward(self, bottom: Tensor) -> Tensor:
        sizes = self._sizes(bottom)
        if any(self.pads):
            bottom = F.pad(bottom, self.pads * 2)
        return F.interpolate(bottom, sizes, mode="bilinear", align_corners=True)


@register("Padding", forks="DeepLab v1")
class Padding(Layer):
    """Put zeros around each plane, or crop it: pad_beg and pad_end rows and columns, the same pair on both axes.

    Shapes: (N, C, H, W) -> (N, C, H + pad_beg + pad_end, W + pad_beg + pad_end).
    Gradient: to the bottom.
    Raises: LayerError for pads of both signs, or pads that leave nothing.
    Source: DeepLab v1's PaddingLayer.
    """

    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.pads = (param.padding_param.pad_beg, param.padding_param.pad_end)
        if min(self.pads) < 0 < max(self.pads):
            raise self.error(f"pad_beg and pad_end must both pad or both crop, got {show(self.pads)}.")

    def forward(self, bottom: Tensor) -> Tensor:
        if bottom.ndim != 4 or min(size + sum(self.pads) for size in bottom.shape[2:]) < 1:
            raise self.error(
                f"a bottom {show(bottom.shape)} cannot have pads {show(self.pads)}: N x C x H x W, larger. "
                "Make the pads smaller."
            )
        return F.pad(bottom, self.pads * 2)
