"""SmoothL1Loss, the loss of boxes, in the three forms of Fast R-CNN, Faster R-CNN and R-FCN."""

from __future__ import annotations

from math import inf, prod

import torch
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.layers.gradients import with_value
from fcn_caffe.proto import caffe_pb2

FAST, FASTER, RFCN = "fast-rcnn", "faster-rcnn", "rfcn"
_NAMES = {FAST: "Fast R-CNN", FASTER: "Faster R-CNN", RFCN: "R-FCN"}


@register("SmoothL1Loss", bottoms=(2, 4), tops=(1, 2), forks="Fast R-CNN; Faster R-CNN; R-FCN")
class SmoothL1Loss(Layer):
    """Sum f(w (a - b)), where f is a parabola near 0 and a straight line beyond: 0.5 s² d² if |d| < 1 / s², else
    |d| - 0.5 / s².

    Faster R-CNN: s is sigma; bottoms 3 and 4 are w and weights of the terms; divided by N.
    Fast R-CNN: s is 1; bottom 3 is w; divided by N.
    R-FCN: s is 1, and sigma is not read; bottom 3 is w; divided by what loss_param says, VALID and FULL N H W,
    BATCH_SIZE N, PRE_FIXED pre_fixed_normalizer, NONE 1, never less than 1; a second top holds the sum over the
    channels at each place.
    Which one is meant: 2 tops or loss_param, R-FCN's; 4 bottoms or sigma, Faster R-CNN's; else Fast R-CNN's, where all
    three are one, or the layer's `fork` says so.

    Shapes: a, b and weights (N, C, ...) -> (); R-FCN's second top (N, 1, ...).
    Gradient: to a and b; none to the weights. Fast R-CNN and R-FCN leave the factor w out: it is missing in the
    `caffe` face alone, and where w is 0 or 1 both are equal.
    Raises: LayerError for bottoms of other sizes, 3 bottoms with sigma, or where forks differ and no field tells which
    one is meant.
    Source: SmoothL1LossLayer of Fast R-CNN, Faster R-CNN and R-FCN.
    """

    loss = True
    undifferentiable = (2, 3)
    never_forced = (2, 3)

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self._check(*bottoms)
        self.form = self._choose(bottoms)
        if self.form == FASTER and len(bottoms) == 3:
            raise self.error("has 3 bottoms, and Faster R-CNN's takes 2 or 4: add the outside weights, or drop sigma.")
        if self.form != FASTER and len(bottoms) == 4:
            raise self.error(f"has 4 bottoms, and {_NAMES[self.form]}'s takes 2 or 3: drop the last, or loss_param.")
        if self.top_count == 2 and not param.loss_weight:
            param.loss_weight.extend((1, 0))
        self.sharpness: float = param.smooth_l1_loss_param.sigma**2 if self.form == FASTER else 1.0
        if not 0 < self.sharpness < inf:
            raise self.error(f"sigma is {param.smooth_l1_loss_param.sigma:g}: give a number above 0.")

    def _choose(self, bottoms: tuple[Tensor, ...]) -> str:
        """Say whose layer this is. Raises: LayerError where it cannot be known."""
        param = self.param
        if self.top_count == 2 or param.HasField("loss_param"):
            return RFCN
        if param.fork in _NAMES:
            return str(param.fork)
        if len(bottoms) == 4 or param.HasField("smooth_l1_loss_param"):
            return FASTER
        if prod(bottoms[0].shape[2:]) > 1:
            raise self.ask_fork(f"{FAST} (divides by N)", f"{RFCN} (divides by N H W)")
        return FAST

    def infer(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        self._check(*bottoms)
        shape = bottoms[0].shape
        return of_shape() if self.top_count == 1 else (of_shape(), of_shape(shape[0], 1, *shape[2:]))

    def _check(self, first: Tensor, *others: Tensor) -> None:
        if not first.ndim:
            raise self.error("bottom 0 is (scalar): give N x …, the boxes of N images or regions.")
        for other in others:
            if other.numel() != first.numel() or other.shape[:1] != first.shape[:1]:
                raise self.error(f"bottoms are {show(first.shape)} and {show(other.shape)}: they must be alike.")

    def forward(self, first: Tensor, second: Tensor, *weights: Tensor) -> Tensor | tuple[Tensor, ...]:
        self._check(first, second, *weights)
        difference = first - second.reshape(first.shape)
        if weights:
            weighted = weights[0].reshape(first.shape) * difference
            drops_weight = self.follows_caffe and self.form != FASTER
            difference = with_value(difference, weighted) if drops_weight else weighted
        size = difference.abs()
        near = 0.5 * self.sharpness * difference.square()
        terms = torch.where(size < 1 / self.sharpness, near, size - 0.5 / self.sharpness)
        if len(weights) == 2:
            terms = weights[1].reshape(first.shape) * terms
        loss = terms.sum() / self._divisor(first)
        return loss if self.top_count == 1 else (loss, terms.detach().sum(1, keepdim=True))

    def _divisor(self, bottom: Tensor) -> float:
        options, batch = self.param.loss_param, bottom.shape[0]
        if self.form != RFCN:
            return batch
        modes, mode = caffe_pb2.LossParameter, options.normalization
        if options.HasField("normalize") and not options.HasField("normalization"):
            mode = modes.VALID if options.normalize else modes.BATCH_SIZE
        by_mode = {modes.BATCH_SIZE: batch, modes.PRE_FIXED: options.pre_fixed_normalizer, modes.NONE: 1}
        return max(by_mode.get(mode, batch * prod(bottom.shape[2:])), 1)
