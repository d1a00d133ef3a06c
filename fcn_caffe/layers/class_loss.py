"""Losses over classes besides the softmax loss: sigmoid cross entropy, infogain, multinomial logistic, hinge."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, prod
from typing import ClassVar

import torch
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, of_shape, register
from fcn_caffe.layers.gradients import with_value
from fcn_caffe.layers.loss import LossLayer, check_first_axes, check_labels, check_targets, loss_places
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.blob_file import read_blob

LOG_THRESHOLD = 1e-20  # Caffe's kLOG_THRESHOLD: a smaller probability counts as this one


@register("SigmoidCrossEntropyLoss", bottoms=2)
class SigmoidCrossEntropyLoss(LossLayer):
    """Cross entropy of sigmoid(score) against targets in [0, 1], over the values whose target is not ignore_label.

    Shapes: score, target of equal counts -> ().
    Units: nats, summed and divided by the normaliser (BATCH_SIZE by default).
    Gradient: to the score.
    Raises: LayerError where the counts differ.
    Source: Caffe SigmoidCrossEntropyLossLayer.
    """

    def default_normalization(self, options: caffe_pb2.LossParameter) -> int:
        if options.HasField("normalization") or options.HasField("normalize"):
            return super().default_normalization(options)
        return int(caffe_pb2.LossParameter.BATCH_SIZE)

    def infer(self, *bottoms: Tensor) -> Tensor:
        check_targets(self, *bottoms)
        return of_shape()

    def forward(self, score: Tensor, target: Tensor) -> Tensor:
        check_targets(self, score, target)
        target = target.reshape(score.shape).to(score.dtype)
        valid: Tensor | int = score.numel()
        counted = None
        if self.ignore_label is not None:
            counted = target.long() != self.ignore_label
            valid, score = counted.sum(), torch.where(counted, score, 0)
        positive = score >= 0
        # Each part is finite for a finite score however large; that of log(1 + exp(-|x|)) has a slope at 0 too.
        losses = torch.where(positive, score * (1 - target), -score * target)
        losses = losses + torch.log1p(torch.exp(torch.where(positive, -score, score)))
        total = (losses if counted is None else torch.where(counted, losses, 0)).sum()
        return total / self.normalizer(valid, *_outer_inner(score))


def _outer_inner(score: Tensor) -> tuple[int, int]:
    return (score.shape[0] if score.ndim else 1), prod(score.shape[1:])


@register("InfogainLoss", bottoms=(2, 3), tops=(1, 2))
class InfogainLoss(LossLayer):
    """Multinomial logistic loss of the softmax along `axis`, weighted by a matrix H: -sum_k H[label, k] log p_k.

    Shapes: score (N, C, H, W), one label per position, H (C, C) in a third bottom or in infogain_loss_param.source (a
    binary BlobProto) -> (); second top: the softmax.
    Units: nats, summed and divided by the normaliser (VALID positions by default).
    Gradient: to the score.
    Raises: LayerError for a missing matrix, counts that do not match, or a label outside [0, C); DataError for a source
    that cannot be read.
    Source: Caffe InfogainLossLayer.
    """

    undifferentiable = (1, 2)
    refused_gradients: ClassVar[Mapping[int, str]] = {
        **LossLayer.refused_gradients,
        2: "Layer cannot backpropagate to infogain inputs.",
    }

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.infogain_loss_param
        self.dim = self.axis(options.axis, bottoms[0])
        if param.loss_param.HasField("normalize"):
            raise self.error(
                "loss_param { normalize } is of older losses, and Caffe's InfogainLoss refuses it: give "
                "normalization: VALID in place of true, BATCH_SIZE in place of false."
            )
        self.matrix: Tensor | None
        self.register_buffer("matrix", None, persistent=False)
        if len(bottoms) == 2:
            if not options.source:
                raise self.error("needs its matrix: give a third bottom, or infogain_loss_param { source: … }.")
            self.matrix = torch.from_numpy(read_blob(options.source, self.surroundings))

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        self._check(*bottoms)
        return (of_shape(), bottoms[0])[: self.top_count]

    def _check(self, score: Tensor, label: Tensor, matrix: Tensor | None = None) -> tuple[int, ...]:
        places, classes = loss_places(self, score, label, self.dim), score.shape[self.dim]
        infogain = self.matrix if matrix is None else matrix
        if infogain is None or infogain.numel() != classes**2:
            shape = "nothing" if infogain is None else show(infogain.shape)
            raise self.error(f"the infogain matrix is {shape}, expected {classes}x{classes} for {classes} classes.")
        return places

    def forward(self, score: Tensor, label: Tensor, matrix: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        places, classes = self._check(score, label, matrix), score.shape[self.dim]
        weights = (self.matrix if matrix is None else matrix).to(score).reshape(classes, classes)  # type: ignore[union-attr]
        labels = label.reshape(-1).long()
        counted = torch.ones_like(labels, dtype=torch.bool)
        if self.ignore_label is not None:
            counted = labels != self.ignore_label
            labels = torch.where(counted, labels, 0)
        check_labels(self, labels, classes)
        rows = torch.where(counted[:, None], score.movedim(self.dim, -1).reshape(len(labels), classes), 0)
        logs, factors = torch.log_softmax(rows, 1), -weights[labels] * counted[:, None]
        # Caffe bounds the value by the threshold, and not the gradient.
        bounded = logs.detach().clamp(min=log(LOG_THRESHOLD))
        total = with_value((factors * logs).sum(), (factors * bounded).sum())
        loss = total / self.normalizer(counted.sum(), prod(places[: self.dim]), prod(places[self.dim :]))
        return loss if self.top_count == 1 else (loss, torch.softmax(score.detach(), self.dim))


class _ClassLoss(Layer):
    """Base of the losses over N rows of scores with one label each."""

    loss = True
    undifferentiable = (1,)
    never_forced = (1,)
    refused_gradients: ClassVar[Mapping[int, str]] = LossLayer.refused_gradients

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._rows(*bottoms)
        return of_shape()

    def check_label_count(self, items: int, label: Tensor) -> None:
        """Raise LayerError for another number of labels than the layer takes."""

    def _rows(self, score: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (N, classes) and labels (N, 1) that are in range."""
        check_first_axes(self, score, label)
        items = score.shape[0]
        self.check_label_count(items, label)
        rows, labels = score.reshape(items, prod(score.shape[1:])), label.reshape(-1)[:items, None].long()
        if not labels.is_meta:
            check_labels(self, labels, rows.shape[1])
        return rows, labels


@register("MultinomialLogisticLoss", bottoms=2)
class MultinomialLogisticLoss(_ClassLoss):
    """Minus the logarithm of the label's probability, averaged over the batch. Its bottom is a softmax's top.

    Shapes: probabilities (N, C), label (N) -> ().
    Units: nats.
    Gradient: to the probabilities.
    Raises: LayerError for another number of labels, or a label outside [0, C).
    Source: Caffe MultinomialLogisticLossLayer.
    """

    def check_label_count(self, items: int, label: Tensor) -> None:
        if label.numel() != items:
            raise self.error(f"label is {show(label.shape)} for {items} items: give one label for each.")

    def forward(self, score: Tensor, label: Tensor) -> Tensor:
        rows, labels = self._rows(score, label)
        probability = rows.gather(1, labels)
        # Below the threshold Caffe's value is constant, and its gradient 1 / threshold.
        floor = probability.detach().clamp(min=LOG_THRESHOLD)
        return with_value(-(probability / floor).sum(), -torch.log(floor).sum()) / rows.shape[0]


@register("HingeLoss", bottoms=2)
class HingeLoss(_ClassLoss):
    """max(0, 1 - x) of the label's score and max(0, 1 + x) of the others, summed (norm L1) or squared and summed
    (L2), averaged over the batch.

    Shapes: score (N, C), label (N) -> (); of a label N x k the first N values are read.
    Gradient: to the score.
    Raises: LayerError for first axes that differ, or a label outside [0, C).
    Source: Caffe HingeLossLayer.
    """

    def forward(self, score: Tensor, label: Tensor) -> Tensor:
        rows, labels = self._rows(score, label)
        signs = torch.ones_like(rows).scatter(1, labels, -1)
        margins = 1 + signs * rows
        margins = torch.where(margins > 0, margins, 0)  # a NaN counts as 0, as in C++
        squared = self.param.hinge_loss_param.norm == caffe_pb2.HingeLossParameter.L2
        return (margins.square() if squared else margins).sum() / rows.shape[0]
