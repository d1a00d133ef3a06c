"""Normalisation: LRN, BatchNorm and MVN."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.ranks import ALONE, Ranks
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, SameShapeLayer, of_shape, register
from fcn_caffe.proto import caffe_pb2


@register("LRN", restrictions="4-D bottoms")
class LRN(SameShapeLayer):
    """Divide by (k + alpha * mean of squares)^beta, across channels or within a channel's neighbourhood.

    Shapes: (N, C, H, W) -> the same. ACROSS_CHANNELS: scale = k + alpha / local_size * sum over local_size channels;
    WITHIN_CHANNEL: 1 + alpha * mean over local_size² positions, zero padding counts, k is not used.
    Gradient: to the bottom. In place and ACROSS_CHANNELS Caffe overwrites the bottom by scale^-beta before it
    multiplies by it, and gives scale^(-2 beta).
    Raises: LayerError for an even local_size.
    Source: Caffe LRNLayer.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.lrn_param
        self.size: int = options.local_size
        if self.size < 1 or self.size % 2 == 0:
            raise self.error(f"local_size must be odd, got {self.size}.")
        if bottoms[0].ndim != 4:
            raise self.error(f"needs a 4-D bottom (N x C x H x W), got {show(bottoms[0].shape)}.")
        self.alpha, self.beta, self.k = options.alpha, options.beta, options.k
        self.within = options.norm_region == caffe_pb2.LRNParameter.WITHIN_CHANNEL
        self.overwrites = not self.within and list(param.bottom) == list(param.top)

    def forward(self, bottom: Tensor) -> Tensor:
        square, reach = bottom * bottom, self.size // 2
        if self.within:
            scale = 1 + self.alpha * F.avg_pool2d(square, self.size, 1, reach, count_include_pad=True)
        else:
            channels = bottom.shape[1]
            padded = F.pad(square, (0, 0, 0, 0, reach, reach))
            total = padded[:, :channels]
            for shift in range(1, self.size):
                total = total + padded[:, shift : shift + channels]
            scale = self.k + self.alpha / self.size * total
        factor = torch.pow(scale, -self.beta)
        return factor * (factor if self.overwrites else bottom)


Statistics = tuple[Tensor, Tensor, float]  # of each channel: mean, biased variance, number of values


class OverRanks:
    """Mixed into batch normalisations: the processes whose batches give one mean and one variance; by default none."""

    ranks: Ranks = ALONE

    def shared_statistics(self, bottom: Tensor) -> Statistics | None:
        """Return the statistics of the batches of all processes, and so their gradients; None for a single one."""
        if self.ranks.count == 1:
            return None
        axes = _axes(bottom)
        total = bottom.sum(axes, keepdim=True)
        count = sum(one for (one,) in self.ranks.gather_numbers([bottom.numel() / total.numel()]))
        mean = _sum_over(self.ranks, total) / count
        return mean, _sum_over(self.ranks, (bottom - mean).square().sum(axes, keepdim=True)) / count, count


def batch_statistics(bottom: Tensor) -> Statistics:
    """Return the statistics of a batch."""
    variance, mean = torch.var_mean(bottom, _axes(bottom), correction=0, keepdim=True)
    return mean, variance, bottom.numel() / mean.numel()


def normalise_by(statistics: Statistics, bottom: Tensor, eps: float) -> Tensor:
    """Subtract the mean of each channel, and divide by its standard deviation."""
    mean, variance, _ = statistics
    return (bottom - mean) / (variance + eps).sqrt()


def _axes(bottom: Tensor) -> list[int]:
    """Return the axes but the channels."""
    return [axis for axis in range(bottom.ndim) if axis != 1]


class _SumOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:  # noqa: ANN401 (as PyTorch has it)
        ctx.ranks = ranks
        return ranks.add(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return ctx.ranks.add(gradient), None


def _sum_over(ranks: Ranks, tensor: Tensor) -> Tensor:
    """Return the sum over the processes; the gradient of each one's part is the sum of theirs."""
    apply: Any = _SumOver.apply
    total: Tensor = apply(tensor, ranks)
    return total


@register("BatchNorm")
class BatchNorm(OverRanks, SameShapeLayer):
    """Subtract each channel's mean and divide by its standard deviation. Scale adds the affine part.

    Shapes: (N, C, ...) -> the same; blobs mean (C), variance (C), scale factor (1), never learned. In train() (or
    use_global_stats: false) the batch's statistics are used and the blobs move: factor = factor * f + 1, mean = mean *
    f + batch mean, variance likewise with m / (m - 1); in eval() blob / factor.
    With `ranks` the batch is that of all processes.
    Gradient: to the bottom.
    Source: Caffe BatchNormLayer.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.batch_norm_param
        self.fixed: bool | None = options.use_global_stats if options.HasField("use_global_stats") else None
        self.fraction: float = options.moving_average_fraction
        self.eps: float = options.eps
        channels = bottoms[0].shape[1] if bottoms[0].ndim > 1 else 1
        self.add_blob("mean", (channels,))
        self.add_blob("variance", (channels,))
        self.add_blob("scale_factor", (1,))
        for position, spec in enumerate(param.param):
            if spec.lr_mult != 0:
                raise self.error(
                    f"param {position} has lr_mult {spec.lr_mult:g}: the statistics are not learned, give 0."
                )
        self.asks_backward = len(param.param) < 3  # Caffe sees the rates that the net gives, not those added here
        while len(param.param) < 3:
            param.param.add(lr_mult=0, decay_mult=0)

    def is_repeatable(self) -> bool:
        return self._uses_global_stats  # else it counts batches

    @property
    def _uses_global_stats(self) -> bool:
        return not self.training if self.fixed is None else self.fixed

    def forward(self, bottom: Tensor) -> Tensor:
        channels = bottom.shape[1] if bottom.ndim > 1 else 1
        if channels != self.mean.shape[0]:
            raise self.error(
                f"bottom {show(bottom.shape)} has {channels} channels, the blobs hold {self.mean.shape[0]}. "
                "Give it as many."
            )
        shaped = bottom if bottom.ndim > 1 else bottom.reshape(-1, 1)
        if self._uses_global_stats:
            factor = torch.where(self.scale_factor == 0, 0, 1 / self.scale_factor)
            top = F.batch_norm(shaped, self.mean * factor, self.variance * factor, eps=self.eps)
        else:
            # One value per channel has no variance: Caffe gives 0 and no gradient, PyTorch raises an error.
            lone = shaped.numel() == channels
            shared = self.shared_statistics(shaped)
            if shared is not None:
                top = normalise_by(shared, shaped, self.eps)
            elif self.eps <= 0:  # PyTorch wants one above 0
                top = self._normalise(shaped)
            else:
                top = shaped * 0 if lone else F.batch_norm(shaped, None, None, training=True, eps=self.eps)
            self._move(shaped.detach(), shared)
        return top.reshape(bottom.shape)

    def _normalise(self, bottom: Tensor) -> Tensor:
        axes = _axes(bottom)
        centred = bottom - bottom.mean(axes, keepdim=True)
        return centred / (centred.square().mean(axes, keepdim=True) + self.eps).sqrt()

    @torch.no_grad()
    def _move(self, bottom: Tensor, shared: Statistics | None) -> None:
        if not bottom.numel():  # no values, no statistics
            return
        mean, variance, count = shared or batch_statistics(bottom)
        self.scale_factor.mul_(self.fraction).add_(1)
        self.mean.mul_(self.fraction).add_(mean.reshape(-1))
        self.variance.mul_(self.fraction).add_(variance.reshape(-1), alpha=count / (count - 1) if count > 1 else 1)


@register("MVN")
class MVN(Layer):
    """Normalise mean and variance of each channel of each image, or of each whole image (across_channels).

    x minus its mean; with normalize_variance divided by (standard deviation + eps).
    Shapes: (N, C, ...) -> the same, with 1s up to four axes where there are fewer.
    Gradient: to the bottom.
    Source: Caffe MVNLayer.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.mvn_param
        self.variance: bool = options.normalize_variance
        self.kept_axes = 1 if options.across_channels else 2
        self.eps: float = options.eps

    def infer(self, *bottoms: Tensor) -> Tensor:
        return of_shape(*self._sizes(bottoms[0]))

    def _sizes(self, bottom: Tensor) -> tuple[int, ...]:
        return (*bottom.shape, *(1,) * (4 - bottom.ndim))

    def forward(self, bottom: Tensor) -> Tensor:
        bottom = bottom.reshape(self._sizes(bottom))
        lead = bottom.shape[: self.kept_axes]
        flat = bottom.reshape(*lead, prod(bottom.shape[self.kept_axes :]))
        centred = flat - flat.mean(-1, keepdim=True)
        if self.variance:
            square = centred.square().mean(-1, keepdim=True)
            scale = square.detach().sqrt() + self.eps
            # Caffe's slope of the deviation is c / (n scale), where scale holds eps: it is finite for a constant.
            centred = centred / (scale + (square - square.detach()) / (2 * scale))
        return centred.reshape(bottom.shape)
