"""Losses between blobs of features: EuclideanLoss and ContrastiveLoss."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.layers.gradients import with_value
from fcn_caffe.layers.loss import check_first_axes
from fcn_caffe.proto import caffe_pb2


@register("EuclideanLoss", bottoms=2)
class EuclideanLoss(Layer):
    """Half the mean over the batch of the squared distance: sum (a - b)² / (2 N).

    Shapes: (N, ...), (N, ...) of equal counts -> ().
    Gradient: to both bottoms.
    Raises: LayerError where the counts differ.
    Source: Caffe EuclideanLossLayer.
    """

    loss = True

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(*bottoms)
        return of_shape()

    def _check(self, first: Tensor, second: Tensor) -> None:
        check_first_axes(self, first, second)
        if first.numel() != second.numel():
            raise self.error(
                f"bottoms are {show(first.shape)} and {show(second.shape)}: they must have as many values each."
            )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        self._check(first, second)
        difference = (first.reshape(-1) - second.reshape(-1)) if first.shape != second.shape else first - second
        return difference.square().sum() / (2 * first.shape[0])


@register("ContrastiveLoss", bottoms=3)
class ContrastiveLoss(Layer):
    """Draw similar pairs together, push others apart up to `margin`: the sum over pairs, divided by 2 N, of
    d² where they are similar, else max(margin - d, 0)², or with legacy_version max(margin - d², 0).

    Shapes: features (N, C), or (N) of one value each, twice; similar (N), not 0 for similar pairs -> ().
    Gradient: to both features; for pairs that differ Caffe divides by d + 1e-4 in place of d.
    Raises: LayerError for bottoms of other shapes.
    Source: Caffe ContrastiveLossLayer.
    """

    loss = True
    undifferentiable = (2,)
    never_forced = (2,)

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.contrastive_loss_param
        self.margin: float = options.margin
        self.legacy: bool = options.legacy_version

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(*bottoms)
        return of_shape()

    def _check(self, first: Tensor, second: Tensor, similar: Tensor) -> None:
        check_first_axes(self, first, second)
        pairs, channels = first.shape[0], prod(first.shape[1:2])
        if first.numel() != pairs * channels or second.numel() != pairs * channels:
            raise self.error(
                f"features are {show(first.shape)} and {show(second.shape)}: give N x C twice (flatten larger ones)."
            )
        if similar.numel() < pairs or similar.numel() != prod(similar.shape[:1]):
            raise self.error(f"bottom 2 is {show(similar.shape)} for {pairs} pairs: give one value per pair.")

    def forward(self, first: Tensor, second: Tensor, similar: Tensor) -> Tensor:
        self._check(first, second, similar)
        pairs, size = first.shape[0], prod(first.shape[1:])
        square = (first.reshape(pairs, size) - second.reshape(pairs, size)).square().sum(1)
        if self.legacy:
            apart = F.relu(self.margin - square)  # no slope at the margin itself
        else:
            distance = square.detach().sqrt()
            short = (self.margin - distance).clamp(min=0)
            # The value is short²; its slope by d² is Caffe's, finite where the features are equal.
            apart = with_value(-short / (distance + 1e-4) * square, short.square())
        alike = similar.reshape(-1)[:pairs].long() != 0
        return torch.where(alike, square, apart).sum() / (2 * pairs)
