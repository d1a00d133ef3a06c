"""BN: SegNet's, which keeps no statistics, and PSPNet's, which keeps running ones. And BatchNorm with a scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, SameShapeLayer, of_shape, register, variant
from fcn_caffe.layers.gradients import with_value
from fcn_caffe.layers.norm import BatchNorm, OverRanks, Statistics, batch_statistics, normalise_by
from fcn_caffe.proto import caffe_pb2

_BATCH_AXES = (0, 2, 3)


class _ChannelNorm(OverRanks, SameShapeLayer):
    """Base of the kinds of BN: 4-D bottoms, and a blob 1 x C x 1 x 1 for each name."""

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        if bottoms[0].ndim != 4:
            raise self.error(f"needs a 4-D bottom (N x C x H x W), got {show(bottoms[0].shape)}.")
        self.channels: int = bottoms[0].shape[1]

    def add_channel_blob(self, name: str, filler: caffe_pb2.FillerParameter | None) -> None:
        """Add a blob with one value a channel."""
        self.add_blob(name, (1, self.channels, 1, 1), filler)

    def filler(self, field: str) -> caffe_pb2.FillerParameter | None:
        """Return a filler of bn_param; None where it is not given: Caffe's default, zeros."""
        options = self.param.bn_param
        return getattr(options, field) if options.HasField(field) else None

    def check(self, bottom: Tensor) -> None:
        """Raise LayerError for a bottom of other channels than the blobs have."""
        if bottom.ndim != 4 or bottom.shape[1] != self.channels:
            raise self.error(
                f"bottom is {show(bottom.shape)}, the blobs are for N x {self.channels} x H x W. Give it such a bottom."
            )


def normalise_batch(
    bottom: Tensor, eps: float, scale: Tensor | None, shift: Tensor | None, shared: Statistics | None
) -> Tensor:
    """Normalise each channel by mean and biased variance, `shared` or the batch's own; then scale and shift it.

    One value a channel has no variance: it becomes 0, without a gradient, before the shift. PyTorch raises an error.
    """
    if shared is not None:
        channels = (1, -1, *(1,) * (bottom.ndim - 2))
        top = normalise_by(shared, bottom, eps)
        top = top if scale is None else top * scale.reshape(channels)
        return top if shift is None else top + shift.reshape(channels)
    if bottom.numel() > bottom.shape[1]:
        weight, bias = (None if blob is None else blob.reshape(-1) for blob in (scale, shift))
        return F.batch_norm(bottom, None, None, weight, bias, training=True, eps=eps)
    top = bottom * 0
    return top if shift is None else top + shift.reshape(1, -1, 1, 1)


@register("BN", tops=(1, 3), forks="SegNet, ENet, DeconvNet, or PSPNet, ICNet, DAVSOD, TSN")
class BN(Layer):
    """Normalise channels: the forks' two layers of this name have other blobs, and other numbers.

    Raises: LayerError where the net does not say which one is meant.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        raise self.ask_fork("segnet (2 blobs, no running statistics)", "pspnet (4 blobs, running mean and variance)")


@variant("BN", "segnet", "SegNet, ENet, DeconvNet", tops=(1, 3))
class SegNetBN(_ChannelNorm):
    """SegNet's BN: normalise by the batch, in TRAIN and TEST alike, or (INFERENCE) only scale and shift.

    LEARN: scale (x - mean) / sqrt(variance + 1e-9) + shift, mean and biased variance over N, H and W; INFERENCE: scale
    x + shift, where a script has written the statistics of the training set into scale and shift.
    Shapes: (N, C, H, W) -> the same; tops 2 and 3: mean and variance (1, C, 1, 1), zeros in INFERENCE. Blobs scale,
    shift (1, C, 1, 1).
    Gradient: to the bottom, scale and shift, added over passes (the fork's last pass overwrites). In place and
    INFERENCE, where Caffe is followed, scale's is sum(y dy), as of the bottom that is overwritten.
    Source: SegNet's BNLayer; ENet's and DeconvNet's are the same.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.learns = param.bn_param.bn_mode == caffe_pb2.BNParameter.LEARN
        self.add_channel_blob("scale", self.filler("scale_filler"))
        self.add_channel_blob("shift", self.filler("shift_filler"))
        self.overwrites = param.bottom[:1] == param.top[:1]

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        one = of_shape(1, self.channels, 1, 1)
        return (bottoms[0], one, one)[: self.top_count]

    def forward(self, bottom: Tensor) -> Tensor | tuple[Tensor, ...]:
        self.check(bottom)
        if self.learns:
            shared = self.shared_statistics(bottom)
            top = normalise_batch(bottom, 1e-9, self.scale, self.shift, shared)
        else:
            top = self.scale * bottom + self.shift
            if self.overwrites and self.follows_caffe:
                top = with_value(self.scale.detach() * bottom + self.scale * top.detach() + self.shift, top)
        if self.top_count == 1:
            return top
        if self.learns:
            mean, variance, _ = shared or batch_statistics(bottom.detach())
            mean, variance = mean.detach(), variance.detach()
        else:
            variance = mean = bottom.new_zeros(1, self.channels, 1, 1)
        return (top, mean, variance)[: self.top_count]


@variant("BN", "pspnet", "PSPNet, ICNet, DAVSOD, TSN")
class PSPNetBN(_ChannelNorm):
    """PSPNet's BN: slope (x - mean) / sqrt(variance + eps) + bias, by the batch in train(), by running blobs in eval().

    In train() and not frozen: mean and biased variance of the batch, and running = (1 - momentum) batch + momentum
    running; engine CUDNN keeps the unbiased variance and takes eps no smaller than 1e-5. Else the running ones.
    Shapes: (N, C, H, W) -> the same; blobs slope, bias, running mean, running variance, each (1, C, 1, 1). The last two
    are never learned; frozen, none is.
    Gradient: to the bottom, slope and bias. In eval() and not frozen, where Caffe is followed, by the formula of the
    batch on what the running statistics gave, as in the fork.
    `moving_average: true` and `decay` are the words of PSPNet's first nets, whose fillers are SegNet's: momentum is 1 -
    decay. That form's own code was not read; its weights are of the same four blobs.
    Raises: LayerError for moving_average: false.
    Source: PSPNet's BNLayer; DAVSOD's is the same.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.bn_param
        if options.HasField("moving_average") and not options.moving_average:
            raise self.error(
                "moving_average: false is of a BN without running statistics, which is not known here. If the net "
                "normalises by the batch, give the layer SegNet's two blobs and leave moving_average out."
            )
        self.momentum: float = 1 - options.decay if options.HasField("decay") else options.momentum
        self.frozen: bool = options.frozen
        self.by_cudnn = options.engine == caffe_pb2.BNParameter.CUDNN
        self.eps: float = max(options.eps, 1e-5) if self.by_cudnn else options.eps
        self.add_channel_blob("slope", self.filler("slope_filler") or self.filler("scale_filler"))
        self.add_channel_blob("bias", self.filler("bias_filler") or self.filler("shift_filler"))
        self.add_channel_blob("mean", None)
        ones = caffe_pb2.FillerParameter(type="constant", value=1)
        self.add_channel_blob("variance", ones if self.frozen else None)
        while len(param.param) < 4:
            param.param.add()
        for spec in param.param[0 if self.frozen else 2 : 4]:
            spec.lr_mult = spec.decay_mult = 0

    def adapt_arrays(self, arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Give the blobs of TSN, which are 1 x C, or C, the axes of PSPNet's."""
        flat = ((self.channels,), (1, self.channels))
        return [array.reshape(1, self.channels, 1, 1) if array.shape in flat else array for array in arrays]

    def is_repeatable(self) -> bool:
        return not self.training or self.frozen  # else the running statistics move

    def forward(self, bottom: Tensor) -> Tensor:
        self.check(bottom)
        if self.training and not self.frozen:
            shared = self.shared_statistics(bottom)
            self._move(bottom.detach(), shared)
            return normalise_batch(bottom, self.eps, self.slope, self.bias, shared)
        deviation = (self.variance.detach() + self.eps).sqrt()
        normal: Tensor = (bottom - self.mean.detach()) / deviation
        slope: Tensor = self.slope
        bias: Tensor = self.bias
        if self.frozen:
            return slope.detach() * normal + bias.detach()
        if self.follows_caffe and normal.requires_grad:
            value = normal.detach()
            centred = bottom - bottom.mean(_BATCH_AXES, keepdim=True)
            along = (bottom * value).mean(_BATCH_AXES, keepdim=True)
            normal = with_value((centred - value * along) / deviation, value)
        return slope * normal + bias

    @torch.no_grad()
    def _move(self, bottom: Tensor, shared: Statistics | None) -> None:
        mean, variance, count = shared or batch_statistics(bottom)
        if self.by_cudnn and count > 1:
            variance = variance * (count / (count - 1))
        self.mean.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
        self.variance.mul_(self.momentum).add_(variance, alpha=1 - self.momentum)


@variant("BatchNorm", "nvidia", "NVIDIA")
class NvidiaBatchNorm(OverRanks, SameShapeLayer):
    """NVIDIA's BatchNorm: (x - mean) / sqrt(variance + eps), with scale_bias times scale plus bias.

    By the batch in train(), by the blobs in eval(); the third blob divides nothing. The first two passes of a layer
    copy the batch's statistics into the blobs, later ones average with the fraction; the variance that is kept has eps
    in it, as in the fork's CPU code. eps is no smaller than 1e-5. use_global_stats is not read.
    Shapes: (N, C, ...) -> the same; blobs mean (C), variance (C), factor (1), and scale (C), bias (C).
    Gradient: to the bottom, scale and bias.
    Source: NVIDIA Caffe 0.17 BatchNormLayer.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.batch_norm_param
        self.fraction: float = options.moving_average_fraction
        self.eps: float = max(options.eps, 1e-5)
        self.passes = 0
        self.affine: bool = options.scale_bias or options.HasField("scale_filler") or options.HasField("bias_filler")
        self.channels: int = bottoms[0].shape[1] if bottoms[0].ndim > 1 else 1
        self.add_blob("mean", (self.channels,))
        self.add_blob("variance", (self.channels,))
        self.add_blob("scale_factor", (1,), caffe_pb2.FillerParameter(type="constant", value=1))
        if self.affine:
            _add_affine(self, self.channels, "scale_filler", "bias_filler")
        while len(param.param) < len(self.blob_names):
            param.param.add()
        for index, spec in enumerate(param.param):
            spec.lr_mult = spec.decay_mult = float(index > 2)

    def adapt_arrays(self, arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Divide BVLC's statistics by their factor, which then is 1; put the first DIGITS' blobs in today's order.

        A scale and a bias that are missing are 1 and 0. The first DIGITS had scale, bias, mean, variance and a number.
        """
        if len(arrays) == 5 and arrays[4].size == 1 < self.channels:
            scale, bias, mean, variance, one = arrays
            return [mean, variance, np.ones_like(one), scale, bias]
        if len(arrays) != 3 or any(array.size == 0 for array in arrays):
            return arrays
        mean, variance, factor = arrays
        divisor = float(factor.reshape(-1)[0]) or 1.0
        plain = [mean / divisor, variance / divisor, np.ones_like(factor)]
        return [*plain, np.ones_like(mean), np.zeros_like(mean)] if self.affine else plain

    def is_repeatable(self) -> bool:
        return not self.training  # else the statistics move

    def forward(self, bottom: Tensor) -> Tensor:
        shaped = bottom if bottom.ndim > 1 else bottom.reshape(-1, 1)
        if shaped.shape[1] != self.channels:
            raise self.error(
                f"bottom is {show(bottom.shape)}, the blobs are for {self.channels} channels. Give it such a bottom."
            )
        scale, bias = (self.scale, self.bias) if self.affine else (None, None)
        if self.training:
            shared = self.shared_statistics(shaped)
            top = normalise_batch(shaped, self.eps, scale, bias, shared)
            self._move(shaped.detach(), shared)
        else:
            top = F.batch_norm(shaped, self.mean, self.variance, scale, bias, eps=self.eps)
        return top.reshape(bottom.shape)

    @torch.no_grad()
    def _move(self, bottom: Tensor, shared: Statistics | None) -> None:
        mean, variance, _ = shared or batch_statistics(bottom)
        fraction = self.fraction if self.passes > 1 else 0.0
        self.passes += 1
        self.mean.mul_(fraction).add_(mean.reshape(-1), alpha=1 - fraction)
        self.variance.mul_(fraction).add_(variance.reshape(-1) + self.eps, alpha=1 - fraction)


@variant("BatchNorm", "intel", "Intel", restrictions="stats_batch_size is refused")
class IntelBatchNorm(BatchNorm):
    """Intel's BatchNorm with engine MKL2017 or MKLDNN: BVLC's, times scale plus bias, then a ReLU with relu: true.

    use_weight_bias (the default) adds the scale, bias_term (the default) the bias.
    Shapes: (N, C, ...) -> the same; blobs mean (C), variance (C), factor (1), and scale (C), bias (C).
    Gradient: to the bottom, scale and bias.
    Source: Intel Caffe's MKLBatchNormLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        learned = param.param[3:]
        del param.param[3:]
        super().__init__(param, *bottoms)
        param.param.extend(learned)
        options = param.batch_norm_param
        self.rectified: bool = options.relu
        self.affine = bool(options.use_weight_bias), bool(options.use_weight_bias and options.bias_term)
        if options.use_weight_bias:
            _add_affine(self, self.mean.shape[0], "filler", "bias_filler" if options.bias_term else "")

    def forward(self, bottom: Tensor) -> Tensor:
        top: Tensor = super().forward(bottom)
        rest = (1,) * (bottom.ndim - 2)
        scaled, biased = self.affine
        if scaled:
            top = top * self.scale.reshape(-1, *rest)
        if biased:
            top = top + self.bias.reshape(-1, *rest)
        return F.relu(top) if self.rectified else top


def _add_affine(layer: Layer, channels: int, scale: str, bias: str) -> None:
    """Add the blobs scale and, where a field is named for its filler, bias; 1 and 0 where no filler is given."""
    options = layer.param.batch_norm_param
    for name, field, value in (("scale", scale, 1), ("bias", bias, 0)):
        if field:
            plain = caffe_pb2.FillerParameter(type="constant", value=value)
            layer.add_blob(name, (channels,), getattr(options, field) if options.HasField(field) else plain)
