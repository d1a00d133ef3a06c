"""The layers in the arithmetic that every engine has alike: padding written out, windows that lie in their bottom.

Where engines part from PyTorch is in the padding of pools and deconvolutions: in which windows it holds, what it counts
for in an average, and where it is cut off. Here a bottom is padded first, its windows lie in it, and a slice cuts off.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.layers.conv import DECONVOLVE
from fcn_caffe.layers.forks.batch_norm import SegNetBN
from fcn_caffe.layers.forks.ssd import PriorBox
from fcn_caffe.layers.norm import MVN, BatchNorm
from fcn_caffe.layers.pooling import FLOAT_MAX, SPP, Pooling
from fcn_caffe.layers.reduce import ArgMax
from fcn_caffe.proto import caffe_pb2

__all__ = [
    "PortableArgMax",
    "PortableBatchNorm",
    "PortableMVN",
    "PortablePooling",
    "PortablePriorBox",
    "PortableSPP",
    "PortableSegNetBN",
    "deconvolve",
]


class PortablePooling(Pooling):
    """A Pooling whose windows lie in its padded bottom: the padding is the same at every size of the bottom.

    Windows that are rounded up, of which one that starts past the image is dropped where there is pad, are those that
    fit when min(pad + stride, kernel) - 1 places follow the bottom; without pad none is dropped: stride - 1.
    Shapes: as Pooling.
    Source: Caffe PoolingLayer.
    """

    def forward(self, bottom: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.training:
            return super().forward(bottom)
        if self.top_count > 1:
            return self._with_mask(bottom)
        if self.whole:
            return self._over_planes(bottom)
        if self.maximum:
            return self._largest(bottom)
        if self.stochastic:
            return self._expected(bottom)
        return self._mean(bottom)

    def _over_planes(self, bottom: Tensor) -> Tensor:
        if self.maximum:
            return bottom.amax((2, 3), keepdim=True)
        if self.stochastic:
            return self._expected(bottom)
        return even_mean(bottom, (2, 3))

    def _after(self) -> tuple[int, int]:
        """How many places follow the bottom on each axis, so that Caffe's windows are those that fit."""
        after = []
        for kernel, stride, pad in zip(self.kernel, self.stride, self.pad, strict=True):
            up = pad + stride - 1
            after.append(pad if not self.ceil else min(up, kernel - 1) if any(self.pad) else up)
        return after[0], after[1]

    def _padded(self, bottom: Tensor, value: float) -> Tensor:
        (ph, pw), (below, right) = self.pad, self._after()
        return F.pad(bottom, (pw, right, ph, below), value=value) if any((ph, pw, below, right)) else bottom

    def _largest(self, bottom: Tensor) -> Tensor:
        fits = all(
            stride + pad <= kernel and 2 * pad <= kernel
            for kernel, stride, pad in zip(self.kernel, self.stride, self.pad, strict=True)
        )
        if fits:  # no window starts past the image: every engine rounds up alike
            return F.max_pool2d(bottom, self.kernel, self.stride, self.pad, ceil_mode=self.ceil)
        return F.max_pool2d(self._padded(bottom, -FLOAT_MAX), self.kernel, self.stride)

    def _mean(self, bottom: Tensor) -> Tensor:
        means = F.avg_pool2d(self._padded(bottom, 0.0), self.kernel, self.stride)
        (ph, pw), (below, right) = self.pad, self._after()
        if below <= ph and right <= pw:
            return means
        # Caffe's divisor counts the pad, and nothing beyond it: here the same windows over ones.
        ones = torch.ones_like(bottom[:1, :1])
        counted = F.pad(ones, (pw, pw, ph, ph), value=1.0) if ph or pw else ones
        counted = F.pad(counted, (0, max(right - pw, 0), 0, max(below - ph, 0)))
        share = F.avg_pool2d(counted, self.kernel, self.stride)
        if any(stride > kernel for kernel, stride in zip(self.kernel, self.stride, strict=True)):
            share = share.clamp(min=torch.finfo(bottom.dtype).tiny)  # a window past the image has the mean 0
        return means / share[0, 0]  # of two axes: OpenCV 5 leaves the quotient of two blobs of pools in its own layout

    def _expected(self, bottom: Tensor) -> Tensor:
        """Return the mean of each window weighed by its own values: what STOCHASTIC gives in TEST."""
        if self.whole:
            total, squares = (values.sum((2, 3), keepdim=True) for values in (bottom, bottom * bottom))
        else:
            area = float(self.kernel[0] * self.kernel[1])
            padded = self._padded(bottom, 0.0)
            total, squares = (
                F.avg_pool2d(values, self.kernel, self.stride) * area for values in (padded, padded * padded)
            )
        return expected_value(total, squares)

    def _with_mask(self, bottom: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maxima and their places in the plane, found tap by tap: engines number the places differently."""
        if self.whole:
            flat = bottom.flatten(2)
            return bottom.amax((2, 3), keepdim=True), flat.argmax(2).to(bottom.dtype)[..., None, None]
        (kh, kw), (sh, sw), (height, width) = self.kernel, self.stride, bottom.shape[2:]
        padded = self._padded(bottom, -FLOAT_MAX)
        rows = torch.arange(height, dtype=bottom.dtype, device=bottom.device)
        columns = torch.arange(width, dtype=bottom.dtype, device=bottom.device)
        places = self._padded((rows[:, None] * width + columns)[None, None], -1.0)
        h, w = (padded.shape[2] - kh) // sh + 1, (padded.shape[3] - kw) // sw + 1
        top = torch.full_like(padded[:, :, : (h - 1) * sh + 1 : sh, : (w - 1) * sw + 1 : sw], -FLOAT_MAX)
        mask = torch.full_like(top, -1.0)
        for row in range(kh):
            for column in range(kw):
                window = slice(row, row + (h - 1) * sh + 1, sh), slice(column, column + (w - 1) * sw + 1, sw)
                values = padded[..., window[0], window[1]]
                larger = values > top
                top = torch.where(larger, values, top)
                mask = torch.where(larger, places[..., window[0], window[1]], mask)
        return top, mask


def expected_value(total: Tensor, squares: Tensor) -> Tensor:
    """Return the mean of values weighed by themselves, of their sum and that of their squares; 0 where all are 0."""
    total = total + torch.finfo(total.dtype).tiny
    return torch.where(total > 0, squares / total, torch.zeros_like(total))


class PortableSPP(SPP):
    """An SPP for bottoms of any size: its windows do not overlap, so that they are axes of the padded bottom.

    Shapes: as SPP.
    Source: Caffe SPPLayer.
    """

    def forward(self, bottom: Tensor) -> Tensor:
        options = self.param.spp_param
        levels = [self._level(bottom, 2**level) for level in range(options.pyramid_height)]
        return levels[0] if len(levels) == 1 else torch.cat([level.flatten(1) for level in levels], 1)

    def _level(self, bottom: Tensor, bins: int) -> Tensor:
        modes = caffe_pb2.SPPParameter
        pool, maximum = self.param.spp_param.pool, self.param.spp_param.pool == modes.MAX
        kernels, pads = [], []
        for size in bottom.shape[:1:-1]:
            kernel = (size + bins - 1) // bins
            before = (kernel * bins - size + 1) // 2
            kernels.append(kernel)
            pads += [before, kernel * bins - size - before]
        padded = F.pad(bottom, pads, value=-FLOAT_MAX if maximum else 0.0) if bins > 1 else bottom
        windows = padded.reshape(*bottom.shape[:2], bins, kernels[1], bins, kernels[0])
        if maximum:
            return windows.amax((3, 5))
        if pool == modes.AVE:
            return even_mean(windows, (3, 5)).squeeze((3, 5))
        return expected_value(windows.sum((3, 5)), windows.square().sum((3, 5)))


class PortableArgMax(ArgMax):
    """An ArgMax that takes one largest value after the other: engines sort equal values in different orders.

    Shapes: as ArgMax.
    Source: Caffe ArgMaxLayer.
    """

    def forward(self, bottom: Tensor) -> Tensor:
        if self.dim is None:
            left, dim = bottom.flatten(1) if bottom.ndim > 1 else bottom[:, None], 1
        else:
            left, dim = bottom, self.dim
        count = torch.arange(left.shape[dim], dtype=bottom.dtype, device=bottom.device)
        count = count.reshape(-1, *(1,) * (left.ndim - dim - 1))
        largest: list[Tensor] = []
        positions: list[Tensor] = []
        for _ in range(self.top_k):
            if positions:
                left = torch.where(count == positions[-1], torch.full_like(left, -torch.inf), left)
            largest.append(left.amax(dim, keepdim=True))
            # of equal values the last
            positions.append(torch.where(left == largest[-1], count, torch.full_like(left, -1.0)).amax(dim, True))
        if self.dim is not None:
            return torch.cat(largest if self.values else positions, dim)
        rows = [torch.cat(found, 1)[:, None] for found in ((positions, largest) if self.values else (positions,))]
        top = torch.cat(rows, 1)
        return top.reshape(*top.shape, *(1,) * (bottom.ndim - 3))


class PortableSegNetBN(SegNetBN):
    """SegNet's BN by the batch, with the mean taken off first: one value a channel is exactly 0 in every engine.

    Engines compute x * s - mean * s, and with an eps of 1e-9 s is 30000: of one value, rounding alone would be left.

    Shapes: as SegNetBN.
    Source: SegNet's BNLayer.
    """

    def forward(self, bottom: Tensor) -> Tensor | tuple[Tensor, ...]:
        if not self.learns:
            return super().forward(bottom)
        mean, variance = _mean_and_variance(bottom, (0, 2, 3))
        top = (bottom - mean) / (variance + 1e-9).sqrt() * self.scale + self.shift
        return top if self.top_count == 1 else (top, mean, variance)[: self.top_count]


class PortableBatchNorm(BatchNorm):
    """A BatchNorm by the batch (use_global_stats: false), whose statistics every engine adds up alike; it keeps none.

    Shapes: as BatchNorm.
    Source: Caffe BatchNormLayer.
    """

    def forward(self, bottom: Tensor) -> Tensor:
        shaped = bottom if bottom.ndim > 1 else bottom[:, None]
        mean, variance = _mean_and_variance(shaped, (0, *range(2, shaped.ndim)))
        return ((shaped - mean) / (variance + self.eps).sqrt()).reshape(bottom.shape)


class PortableMVN(MVN):
    """An MVN whose statistics every engine adds up alike.

    Shapes: as MVN.
    Source: Caffe MVNLayer.
    """

    def forward(self, bottom: Tensor) -> Tensor:
        bottom = bottom.reshape(self._sizes(bottom))
        flat = bottom.flatten(self.kept_axes)
        centred = flat - even_mean(flat, (self.kept_axes,))
        if self.variance:
            centred = centred / (even_mean(centred.square(), (self.kept_axes,)).sqrt() + self.eps)
        return centred.reshape(bottom.shape)


def even_mean(values: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the mean over axes, kept with size 1, and the mean of what it leaves over added.

    Engines add up a plane in few float32 sums: of 172,800 values of 0.1 the mean is 1e-4 off in ONNX Runtime 1.32 and
    OpenVINO 2026.4 (findings/engines_mean_of_a_flat_image.sh). What is left over is small, and so is its error.
    """
    mean = values.mean(list(axes), keepdim=True)
    return mean + (values - mean).mean(list(axes), keepdim=True)


def _mean_and_variance(values: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    mean = even_mean(values, axes)
    return mean, even_mean((values - mean).square(), axes)


class PortablePriorBox(PriorBox):
    """A PriorBox for bottoms of any size: their sizes are counted in the graph, in float32.

    Shapes: as PriorBox.
    Source: SSD's PriorBoxLayer (weiliu89/caffe).
    """

    def forward(self, feature: Tensor, picture: Tensor) -> Tensor:
        centres, halves = [], []
        boxes = feature.new_tensor(self._boxes) / 2  # P x (width, height)
        for axis in (1, 0):  # x, then y
            line = torch.ones_like(feature[0, 0].select(1 - axis, 0))
            count, size = line.sum(), torch.ones_like(picture[0, 0].select(1 - axis, 0)).sum()
            if self.image_size is not None:
                size = torch.full_like(size, self.image_size[axis])
            step = size / count if self.step is None else torch.full_like(size, self.step[axis])
            centres.append((line.cumsum(0) - 1 + self.offset) * step / size)
            halves.append(boxes[:, 1 - axis] / size)
        (columns, rows), boxes_at = centres, torch.stack(halves, -1)  # P x 2
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centre = torch.stack((x, y), -1)[:, :, None]
        corners = torch.cat((centre - boxes_at, centre + boxes_at), -1)
        if self.clip:
            corners = corners.clamp(0, 1)
        variances = torch.ones_like(corners) * feature.new_tensor(self.variances)
        return torch.stack((corners.flatten(), variances.flatten()))[None]


def deconvolve(
    bottom: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pad: Sequence[int],
    output_padding: int,
    group: int,
    dilation: Sequence[int],
) -> Tensor:
    """Deconvolve as PyTorch's conv_transpose does, without pad, and cut the pad off the top.

    Args:
        bottom: N x C x sizes.
        weight: C x outputs / group x kernel.
        bias: one for each output, or None.
        stride: by axis.
        pad: by axis.
        output_padding: 0; Caffe has none.
        group: the number of groups.
        dilation: by axis; 1 or more.

    Returns:
        N x outputs x sizes.
    """
    axes = len(stride)
    top = DECONVOLVE[axes](bottom, weight, bias, stride, 0, output_padding, group, dilation)
    for axis, size in enumerate(pad, 2):
        if size:
            top = top.narrow(axis, size, top.shape[axis] - 2 * size)
    return top
