"""Element-wise layers: each output element depends on the input element in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import NOT_IMPLEMENTED, Layer, SameShapeLayer, register
from fcn_caffe.layers.gradients import is_finite, with_value
from fcn_caffe.proto import caffe_pb2


@register("ReLU")
class ReLU(SameShapeLayer):
    """max(x, 0) + negative_slope * min(x, 0).

    Shapes: any -> the same.
    Gradient: to the bottom, 0 at a NaN.
    Source: Caffe ReLULayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.negative_slope: float = param.relu_param.negative_slope

    def forward(self, bottom: Tensor) -> Tensor:
        if not self.negative_slope:
            # As in Caffe, and unlike relu, this has no gradient at a NaN, and makes one of -infinity.
            return F.relu(bottom) if is_compiling() else F.leaky_relu(bottom, 0.0, self.inplace)
        if bottom.requires_grad and not is_finite(bottom):
            bottom = torch.where(bottom.isnan(), bottom.detach(), bottom)
        # Overwriting needs the sign of the input to survive in the output.
        return F.leaky_relu(bottom, self.negative_slope, inplace=self.inplace and self.negative_slope > 0)


@register("Sigmoid")
class Sigmoid(SameShapeLayer):
    """1 / (1 + exp(-x)).

    Shapes: any -> the same.
    Gradient: to the bottom.
    Source: Caffe SigmoidLayer.
    """

    def forward(self, bottom: Tensor) -> Tensor:
        return torch.sigmoid(bottom)


@register("Dropout")
class Dropout(SameShapeLayer):
    """Zero each element with probability dropout_ratio in train(), scaling the rest by 1 / (1 - ratio).

    Shapes: any -> the same; the identity in eval(). A ratio of 1 gives NaN in train(): nothing times infinity.
    Gradient: to the bottom.
    Raises: LayerError in train() for a ratio outside [0, 1].
    Source: Caffe DropoutLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.ratio: float = param.dropout_param.dropout_ratio

    def forward(self, bottom: Tensor) -> Tensor:
        if not self.training:
            return bottom
        if not 0 <= self.ratio < 1:
            if self.ratio == 1:
                return bottom * torch.nan
            raise self.error(f"dropout_ratio must be from 0 to below 1, got {self.ratio:g}: it is a probability.")
        return F.dropout(bottom, self.ratio)

    def is_repeatable(self) -> bool:
        return not self.training  # it draws a mask


@register("AbsVal")
class AbsVal(SameShapeLayer):
    """|x|.

    Shapes: any -> the same; not in place.
    Gradient: sign(x), 0 at 0.
    Source: Caffe AbsValLayer.
    """

    fresh_top = True
    takes_in_place = False

    def forward(self, bottom: Tensor) -> Tensor:
        return bottom.abs()


@register("BNLL")
class BNLL(SameShapeLayer):
    """Binomial normal log likelihood: log(1 + exp(x)).

    Shapes: any -> the same.
    Gradient: to the bottom.
    Source: Caffe BNLLLayer.
    """

    def forward(self, bottom: Tensor) -> Tensor:
        return -F.logsigmoid(-bottom)


@register("Clip")
class Clip(SameShapeLayer):
    """Clip x to [min, max]: max(min, x), then no more than max.

    Shapes: any -> the same. A NaN becomes min.
    Gradient: where min <= x <= max.
    Source: Caffe ClipLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.clip_param
        missing = [name for name in ("min", "max") if not options.HasField(name)]
        if missing:
            raise self.error(f"clip_param lacks {' and '.join(missing)}: give clip_param {{ min: … max: … }}.")
        self.least, self.most = options.min, options.max

    def forward(self, bottom: Tensor) -> Tensor:
        top = bottom.clamp(max=self.most)
        return torch.where(top >= self.least, top, self.least)  # as in C++, where no comparison with a NaN holds


@register("ELU")
class ELU(SameShapeLayer):
    """x where x > 0, else alpha * (exp(x) - 1).

    Shapes: any -> the same.
    Gradient: to the bottom; Caffe's is NaN at infinity.
    Source: Caffe ELULayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.alpha: float = param.elu_param.alpha

    def forward(self, bottom: Tensor) -> Tensor:
        top = F.elu(bottom, self.alpha)
        if self.follows_caffe and not is_finite(top):
            x, y = bottom.detach(), top.detach()
            return with_value(bottom * ((x > 0) + (self.alpha + y) * (x <= 0)), top)
        return top


@register("Exp")
class Exp(SameShapeLayer):
    """base ^ (shift + scale * x); base -1, the default, is e.

    Shapes: any -> the same.
    Gradient: to the bottom.
    Raises: LayerError for another base that is not positive.
    Source: Caffe ExpLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.exp_param
        log_base = _log_base(self, options.base)
        self.scale: float = log_base * options.scale
        self.factor = _exp(log_base * options.shift)

    def forward(self, bottom: Tensor) -> Tensor:
        if self.scale == 0:
            return _constant(bottom, self.factor)
        top = torch.exp(bottom * self.scale)
        return top if self.factor == 1 else top * self.factor


@register("Log")
class Log(SameShapeLayer):
    """log_base(shift + scale * x); base -1, the default, is e.

    Shapes: any -> the same.
    Gradient: to the bottom, 0 where scale is 0.
    Raises: LayerError for another base that is not positive, or is 1.
    Source: Caffe LogLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.log_param
        log_base = _log_base(self, options.base)
        if log_base == 0:
            raise self.error("base 1 has no logarithm: give another base, or -1 for e.")
        self.factor = 1 / log_base
        self.scale, self.shift = options.scale, options.shift

    def forward(self, bottom: Tensor) -> Tensor:
        if self.scale == 0:
            return _constant(bottom, float(torch.tensor(self.shift).log()) * self.factor)
        return torch.log(bottom * self.scale + self.shift) * self.factor


def _log_base(layer: SameShapeLayer, base: float) -> float:
    """Return the natural logarithm of a base; -1 stands for e."""
    if base == -1:
        return 1.0
    if not 0 < base < math.inf:
        raise layer.error(f"base must be positive, or -1 for e; got {base:g}.")
    return math.log(base)


@register("Power")
class Power(SameShapeLayer):
    """(shift + scale * x) ^ power.

    Shapes: any -> the same.
    Gradient: to the bottom, 0 where scale or power is 0. Where shift + scale * x is 0 and the power is not 0, 1 or 2,
    Caffe's is NaN.
    Source: Caffe PowerLayer.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.power_param
        self.power, self.scale, self.shift = options.power, options.scale, options.shift

    def forward(self, bottom: Tensor) -> Tensor:
        if self.power * self.scale == 0:
            # PyTorch's pow would give NaN for an infinite bottom, and for the slope at 0.
            return _constant(bottom, 1.0 if self.power == 0 else _power(self.shift, self.power))
        inner = bottom * self.scale + self.shift
        if self.power == 1:
            return inner
        top = torch.pow(inner, self.power)
        if self.follows_caffe and self.power != 2:
            # Caffe divides the top by what was raised to the power: 0 / 0 where that is 0.
            slope = top.detach() / inner.detach() * (self.power * self.scale)
            return with_value(bottom * slope, top)
        return top


def _constant(bottom: Tensor, value: float) -> Tensor:
    """Return a tensor of one value in the bottom's shape, with a gradient of 0 to the bottom."""
    return bottom.masked_fill(torch.ones((), dtype=torch.bool, device=bottom.device), value)


def _exp(exponent: float) -> float:
    """Return C's exp: infinite where Python raises an error."""
    try:
        return math.exp(exponent)
    except OverflowError:
        return math.inf


def _power(base: float, exponent: float) -> float:
    """Return C's pow: infinite where Python raises an error, NaN where Python's result is complex."""
    return float(torch.tensor(base, dtype=torch.float32).pow(exponent))


@register("PReLU")
class PReLU(SameShapeLayer):
    """x where x > 0, else slope * x; the slope is learned, for each channel or for all (channel_shared).

    Shapes: (N, C, ...) -> the same; blob slope (C) or (). A slope without a filler starts at 0.25.
    Gradient: to the bottom and the slope.
    Raises: LayerError for a bottom without a channel axis, or another number of channels than it was built for.
    Source: Caffe PReLULayer.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.prelu_param
        if bottoms[0].ndim < 2:
            raise self.error(f"needs at least 2 axes (N x C), got {show(bottoms[0].shape)}.")
        shape = () if options.channel_shared else (bottoms[0].shape[1],)
        quarter = caffe_pb2.FillerParameter(type="constant", value=0.25)
        self.add_blob("slope", shape, options.filler if options.HasField("filler") else quarter)

    def forward(self, bottom: Tensor) -> Tensor:
        if self.slope.ndim and bottom.shape[1] != self.slope.shape[0]:
            raise self.error(
                f"bottom {show(bottom.shape)} has {bottom.shape[1]} channels, the slope was built for "
                f"{self.slope.shape[0]}. Rebuild the net for this bottom, or use channel_shared."
            )
        top = F.prelu(bottom, self.slope)
        if self.follows_caffe and not is_finite(top):
            return with_value(self._carrier(bottom), top)
        return top

    def _carrier(self, bottom: Tensor) -> Tensor:
        """Return what has Caffe's gradient: none to a NaN, and NaN to the slope of an infinite element."""
        slope = self.slope.reshape(-1, *(1,) * (bottom.ndim - 2)) if self.slope.ndim else self.slope
        x, below = bottom.detach(), bottom.detach() <= 0
        carrier: Tensor = bottom * ((x > 0) + slope.detach() * below) + x * below * slope
        return carrier


@register("Swish")
class Swish(SameShapeLayer):
    """x * sigmoid(beta * x).

    Shapes: any -> the same.
    Gradient: to the bottom; Caffe's beta y + sigmoid (1 - beta y) rounds to 0 for a huge x.
    Source: Caffe SwishLayer.
    """

    fresh_top = True

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.beta: float = param.swish_param.beta

    def forward(self, bottom: Tensor) -> Tensor:
        sigmoid = torch.sigmoid(bottom * self.beta)
        top = bottom * sigmoid
        if self.follows_caffe:
            scaled = self.beta * top.detach()
            return with_value(bottom * (scaled + sigmoid.detach() * (1 - scaled)), top)
        return top


@register("TanH")
class TanH(SameShapeLayer):
    """The hyperbolic tangent.

    Shapes: any -> the same.
    Gradient: to the bottom.
    Source: Caffe TanHLayer.
    """

    def forward(self, bottom: Tensor) -> Tensor:
        return torch.tanh(bottom)


@register("Threshold")
class Threshold(SameShapeLayer):
    """1 where x > threshold, else 0.

    Shapes: any -> the same.
    Gradient: none.
    Source: Caffe ThresholdLayer.
    """

    fresh_top = True
    undifferentiable = (0,)
    refused_gradients: ClassVar[Mapping[int, str]] = {0: NOT_IMPLEMENTED}

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.threshold: float = param.threshold_param.threshold

    def forward(self, bottom: Tensor) -> Tensor:
        return (bottom > self.threshold).to(bottom.dtype)


# Caffe's neuron layers: each value of the top is computed from the same one of the bottom.
NEURONS: tuple[type[Layer], ...] = (
    *(AbsVal, BNLL, Clip, Dropout, ELU, Exp, Log, Power, PReLU, ReLU, Sigmoid, Swish, TanH, Threshold),
)
NEURON_TYPES = frozenset(neuron.layer_type for neuron in NEURONS)
