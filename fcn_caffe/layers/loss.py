"""Softmax, losses and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling

from fcn_caffe.host.ranks import ALONE, Ranks
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import NOT_IMPLEMENTED, Layer, SameShapeLayer, of_shape, register
from fcn_caffe.layers.gradients import is_finite, is_known, with_value
from fcn_caffe.proto import caffe_pb2

NO_LABEL = -(1 << 40)  # PyTorch always ignores one value: where Caffe ignores none, this one, which no label has
LOG_FLOAT_MIN = log(torch.finfo(torch.float32).tiny)


@register("Softmax", tops=(1, None))
class Softmax(SameShapeLayer):
    """exp(x) / sum exp(x) along `axis`.

    Shapes: any -> the same.
    Gradient: to the bottom.
    Source: Caffe SoftmaxLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.dim = self.axis(param.softmax_param.axis, bottoms[0])

    def forward(self, bottom: Tensor) -> Tensor:
        return torch.softmax(bottom, self.dim)


class LossLayer(Layer):
    """Base of the losses over labelled positions: ignore_label and the normaliser.

    Source: Caffe SoftmaxWithLossLayer::get_normalizer.
    """

    loss = True
    ranks: Ranks = ALONE  # the processes over which valid positions are counted
    undifferentiable: ClassVar[tuple[int, ...]] = (1,)
    never_forced = (1,)
    refused_gradients: ClassVar[Mapping[int, str]] = {1: "Layer cannot backpropagate to label inputs."}

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.loss_param
        self.ignore_label: int | None = options.ignore_label if options.HasField("ignore_label") else None
        modes = caffe_pb2.LossParameter
        self.normalization: int = self.default_normalization(options)
        if self.normalization == modes.PRE_FIXED:
            raise self.error("takes no normalization PRE_FIXED, which is SmoothL1Loss's. Write FULL or VALID.")
        self.by_valid = self.normalization == modes.VALID

    def default_normalization(self, options: caffe_pb2.LossParameter) -> int:
        """Return `normalization`, unless only the legacy `normalize` is given: true is VALID, false BATCH_SIZE."""
        modes = caffe_pb2.LossParameter
        if options.HasField("normalization") or not options.HasField("normalize"):
            return int(options.normalization)
        return int(modes.VALID if options.normalize else modes.BATCH_SIZE)

    def normalizer(self, valid: Tensor | int, outer: int, inner: int) -> Tensor | float:
        """Return the divisor of the summed loss, at least 1; `valid` is the number of positions that count.

        With `ranks` it is the mean of theirs: the mean of the losses then is over the valid positions of all.
        """
        modes = caffe_pb2.LossParameter
        if self.by_valid and self.ranks.count > 1:
            return max(self.ranks.mean([float(valid)])[0], 1 / self.ranks.count)
        if self.by_valid:
            return valid.clamp(min=1) if isinstance(valid, Tensor) else max(valid, 1)
        return float(max(1, {modes.FULL: outer * inner, modes.BATCH_SIZE: outer, modes.NONE: 1}[self.normalization]))


@register("SoftmaxWithLoss", bottoms=2, tops=(1, 2))
class SoftmaxWithLoss(LossLayer):
    """Multinomial logistic loss of the softmax along `axis`, over the positions whose label is not ignore_label.

    Shapes: score (N, C, H, W), label (N, 1, H, W) or any N H W values -> loss (); second top: the softmax.
    Units: nats, summed and divided by the normaliser (VALID pixels by default; `normalize: false` means the batch).
    Gradient: to the score, from the loss only.
    Raises: LayerError for first axes or label counts that differ, or a label outside [0, C) that is not ignored.
    Source: Caffe SoftmaxWithLossLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.dim = self.axis(param.softmax_param.axis, bottoms[0])

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        loss_places(self, bottoms[0], bottoms[1], self.dim)
        return (of_shape(), bottoms[0])[: self.top_count]

    def forward(self, score: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        places = loss_places(self, score, label, self.dim)
        labels = label.detach().reshape(places).long()
        if labels.is_cuda:
            self._check(labels, score.shape[self.dim])  # CUDA would end the process at a label out of range
        counted = self._counted(labels)
        logs = torch.log_softmax(self._class_rows(score, counted), min(1, score.ndim - 1))
        try:
            ignored = NO_LABEL if self.ignore_label is None else self.ignore_label
            total = F.nll_loss(logs, labels, ignore_index=ignored, reduction="sum")
        except IndexError:
            self._check(labels, score.shape[self.dim])
            raise
        # A sum within the bound has no part beyond it; of most others no class at all is.
        is_huge = not is_compiling() and bool(total.detach() > -LOG_FLOAT_MIN)
        if is_huge and not bool(logs.detach().min() >= LOG_FLOAT_MIN):
            total = with_value(total, self._bounded(logs, labels, counted))
        valid = (labels.numel() if counted is None else counted.sum()) if self.by_valid else 0
        loss = total / self.normalizer(valid, prod(places[: self.dim]), prod(places[self.dim :]))
        return loss if self.top_count == 1 else (loss, torch.softmax(score.detach(), self.dim))

    def _counted(self, labels: Tensor) -> Tensor | None:
        """Return where labels count; None if they all do, unless it takes a wait for a GPU to know."""
        if self.ignore_label is None:
            return None
        counted = labels != self.ignore_label
        return None if labels.device.type == "cpu" and is_known(labels) and bool(counted.all()) else counted

    def _check(self, labels: Tensor, classes: int) -> None:
        known = labels if self.ignore_label is None else labels[labels != self.ignore_label]
        check_labels(self, known, classes)

    def _class_rows(self, score: Tensor, counted: Tensor | None) -> Tensor:
        """Return the score with the classes as axis 1, and zeros at positions that do not count, where that matters.

        An infinite score at such a position has no gradient, where that of the softmax would be NaN.
        """
        # On a CPU a look at the scores costs less than the copy; on a GPU it would be a wait.
        if counted is not None and not (score.device.type == "cpu" and is_known(score) and is_finite(score)):
            score = torch.where(counted.unsqueeze(self.dim), score, 0)
        # nll_loss takes the classes as axis 1, and its backward contiguous memory.
        return (score if score.ndim == 1 else score.movedim(self.dim, 1)).contiguous()

    @torch.no_grad()
    def _bounded(self, logs: Tensor, labels: Tensor, counted: Tensor | None) -> Tensor:
        """Return the sum of the losses: Caffe bounds p by FLT_MIN in the value, and not in the gradient."""
        classes = min(1, logs.ndim - 1)
        index = labels if counted is None else torch.where(counted, labels, 0)
        losses = -logs.gather(classes, index.unsqueeze(classes)).squeeze(classes).clamp(min=LOG_FLOAT_MIN)
        return (losses if counted is None else torch.where(counted, losses, 0)).sum()


def check_first_axes(layer: Layer, score: Tensor, label: Tensor) -> None:
    """Raise LayerError unless both bottoms of a loss have a first axis, of the same size.

    Source: Caffe LossLayer::Reshape.
    """
    if not score.ndim or not label.ndim or score.shape[0] != label.shape[0]:
        raise layer.error(
            f"bottom 0 is {show(score.shape)}, bottom 1 is {show(label.shape)}: their first axes must be of the same "
            "size, the number of items. Give the label as N x …, by a Reshape layer if its values are in that order."
        )


def check_targets(layer: Layer, score: Tensor, target: Tensor) -> None:
    """Raise LayerError unless a loss has one target for each score."""
    check_first_axes(layer, score, target)
    if score.numel() != target.numel():
        raise layer.error(f"score is {show(score.shape)}, target {show(target.shape)}: give one target per score.")


def loss_places(layer: Layer, score: Tensor, label: Tensor, dim: int) -> tuple[int, ...]:
    """Return a loss's sizes without the classes in `dim`; raise LayerError for a label that does not fit."""
    places = label_places(layer, score, label, dim)
    check_first_axes(layer, score, label)
    return places


def label_places(layer: Layer, score: Tensor, label: Tensor, dim: int) -> tuple[int, ...]:
    """Return the sizes of `score` without the classes in `dim`.

    Raises:
        LayerError: unless `label` has one value for each position.
    """
    places = (*score.shape[:dim], *score.shape[dim + 1 :])
    if label.numel() != prod(places):
        raise layer.error(
            f"score {show(score.shape)} has {prod(places)} positions, label {show(label.shape)} has {label.numel()} "
            "values. There must be one label per position: crop the score, or resize the label."
        )
    return places


def check_labels(layer: Layer, labels: Tensor, classes: int) -> None:
    """Raise LayerError for a label outside [0, classes)."""
    if labels.numel() == 0 or torch.compiler.is_compiling():  # a compiled graph checks nothing
        return
    least, most = (int(bound) for bound in torch.aminmax(labels))
    if most >= classes or least < 0:
        worst = most if most >= classes else least
        cure = "Check the labels"
        if abs(worst) >= 1 << 31:  # what PyTorch makes of NaN and infinity is beyond, too
            raise layer.error(f"a label is NaN, infinite or beyond 32 bits, wanted 0 to {classes - 1}. {cure}.")
        if hasattr(layer, "ignore_label"):
            field = "accuracy_param" if layer.layer_type == "Accuracy" else "loss_param"
            cure += f"; give {field} {{ ignore_label: {worst} }} if it means void"
        raise layer.error(f"label {worst} is outside the {classes} classes (0 to {classes - 1}). {cure}.")


@register("Accuracy", bottoms=2, tops=(1, 2))
class Accuracy(Layer):
    """The share of positions whose true class is among the top_k scores; equal scores count against it.

    A top_k of 0 gives 0.
    Shapes: score (N, C, ...), one label per position -> (); second top: accuracy of each class (C).
    Gradient: none.
    Raises: LayerError for a label count that does not match, top_k above C, or a label outside [0, C).
    Source: Caffe AccuracyLayer.
    """

    undifferentiable = (0, 1)
    refused_gradients: ClassVar[Mapping[int, str]] = {0: NOT_IMPLEMENTED, 1: NOT_IMPLEMENTED}

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.accuracy_param
        self.dim = self.axis(options.axis, bottoms[0])
        self.top_k: int = options.top_k
        self.ignore_label: int | None = options.ignore_label if options.HasField("ignore_label") else None
        if self.top_k > bottoms[0].shape[self.dim]:
            raise self.error(f"top_k {self.top_k} is more than the {bottoms[0].shape[self.dim]} classes. Lower it.")

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        label_places(self, bottoms[0], bottoms[1], self.dim)
        return (of_shape(), of_shape(bottoms[0].shape[self.dim]))[: self.top_count]

    def forward(self, score: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        places = label_places(self, score, label, self.dim)
        classes = score.shape[self.dim]
        labels = label.reshape(places).long()
        counted = torch.ones_like(labels, dtype=torch.bool)
        if self.ignore_label is not None:
            counted = labels != self.ignore_label
            labels = torch.where(counted, labels, 0)
        check_labels(self, labels, classes)
        index = labels.unsqueeze(self.dim)
        # The classes that score as high as the true one, itself not counted, push it down.
        rivals = (score >= score.gather(self.dim, index)).sum(self.dim) - 1
        right = ((rivals < self.top_k) & counted).to(score.dtype)
        total = counted.sum()
        top = torch.where(total > 0, right.sum() / total.clamp(min=1), 0)
        if self.top_count == 1:
            return top
        flat = index.reshape(-1)
        hits = torch.zeros(classes, dtype=score.dtype, device=score.device).index_add(0, flat, right.reshape(-1))
        totals = torch.zeros_like(hits).index_add(0, flat, counted.reshape(-1).to(score.dtype))
        return top, torch.where(totals > 0, hits / totals.clamp(min=1), 0)
