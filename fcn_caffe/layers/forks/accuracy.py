"""Scores of segmentation: DeepLab's SegAccuracy, SegNet's Accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import NOT_IMPLEMENTED, Layer, of_shape, register, variant
from fcn_caffe.layers.loss import Accuracy, label_places
from fcn_caffe.proto import caffe_pb2


def last_maximum(score: Tensor, dim: int) -> Tensor:
    """Return the class of the largest score; of equal ones the larger class."""
    classes = score.shape[dim]
    return classes - 1 - score.flip(dim).argmax(dim)


@register("SegAccuracy", bottoms=2, forks="DeepLab, PSPNet")
class SegAccuracy(Layer):
    """Pixel accuracy, mean recall over the classes in the labels, and mean IoU over all classes.

    A class whose intersection is its union counts as 1 in the mean IoU, also one that is nowhere. Of equal scores the
    larger class counts. With reset: false the counts go on from forward to forward.
    Shapes: score (N, C, H, W), label (N, 1, H, W) -> (1, 1, 1, 3).
    Gradient: none.
    Raises: LayerError for a label outside [0, C) that is not ignored, or sizes that differ.
    Source: DeepLab's and PSPNet's SegAccuracyLayer; `metric` is read by neither.
    """

    undifferentiable = (0, 1)
    refused_gradients: ClassVar[Mapping[int, str]] = {0: NOT_IMPLEMENTED, 1: NOT_IMPLEMENTED}

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.resets: bool = param.seg_accuracy_param.reset
        self.ignored = list(param.seg_accuracy_param.ignore_label)
        self.counts: Tensor  # label x prediction
        self._check(*bottoms)
        classes = bottoms[0].shape[1]
        self.register_buffer("counts", torch.zeros(classes, classes, dtype=torch.int64), persistent=False)

    def _check(self, score: Tensor, label: Tensor) -> None:
        if score.ndim != 4 or label.shape != (score.shape[0], 1, *score.shape[2:]):
            raise self.error(
                f"score is {show(score.shape)}, label {show(label.shape)}: give N x C x H x W and N x 1 x H x W."
            )

    def is_repeatable(self) -> bool:
        return self.resets

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(*bottoms)
        return of_shape(1, 1, 1, 3)

    @torch.no_grad()
    def forward(self, score: Tensor, label: Tensor) -> Tensor:
        self._check(score, label)
        classes = score.shape[1]
        labels, predictions = label[:, 0].long().flatten(), last_maximum(score, 1).flatten()
        counted = torch.ones_like(labels, dtype=torch.bool)
        for ignored in self.ignored:
            counted &= labels != ignored
        outside = counted & ((labels < 0) | (labels >= classes))
        if not torch.compiler.is_compiling() and bool(outside.any()):
            worst = int(labels[outside][0])
            raise self.error(
                f"label {worst} is outside the {classes} classes. Name it as ignore_label if it means void."
            )
        pairs = torch.where(counted, labels * classes + predictions, classes * classes)
        counts = pairs.bincount(minlength=classes * classes + 1)[: classes * classes].reshape(classes, classes)
        if not self.resets:
            self.counts.add_(counts)
            counts = self.counts
        return _measures(counts.to(score.dtype)).reshape(1, 1, 1, 3)


def _measures(counts: Tensor) -> Tensor:
    """Return pixel accuracy, mean recall and mean IoU of counts by label and prediction."""
    hits, labels, predictions = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = labels + predictions - hits
    present = labels > 0
    accuracy = hits.sum() / labels.sum().clamp(min=1)
    recall = torch.where(present, hits / labels.clamp(min=1), 0).sum() / present.sum().clamp(min=1)
    iou = torch.where(hits == union, 1, hits / union.clamp(min=1)).mean()
    return torch.stack([accuracy, recall, iou])


@variant("Accuracy", "segnet", "SegNet, ENet", bottoms=2, tops=(1, 2))
class SegNetAccuracy(Accuracy):
    """SegNet's Accuracy: a label outside the classes is a wrong pixel, and of equal scores the larger class counts.

    Shapes: score (N, C, ...), one label per position -> (); second top: accuracy of each class (C, 1, 1, 1), 1 for a
    class that is not in the labels.
    Gradient: none.
    Raises: as Accuracy, but for labels.
    Source: SegNet's AccuracyLayer.
    """

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        label_places(self, bottoms[0], bottoms[1], self.dim)
        return (of_shape(), of_shape(bottoms[0].shape[self.dim], 1, 1, 1))[: self.top_count]

    def forward(self, score: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        places = label_places(self, score, label, self.dim)
        classes = score.shape[self.dim]
        labels = label.reshape(places).long()
        counted = labels != self.ignore_label if self.ignore_label is not None else torch.ones_like(labels).bool()
        inside = counted & (labels >= 0) & (labels < classes)
        index = torch.where(inside, labels, 0).unsqueeze(self.dim)
        true = score.gather(self.dim, index)
        numbers = torch.arange(classes, device=score.device).reshape(-1, *(1,) * (score.ndim - 1 - self.dim))
        rivals = ((score > true) | ((score == true) & (numbers > index))).sum(self.dim)
        right = (inside & (rivals < self.top_k)).to(score.dtype)
        top = right.sum() / counted.sum().clamp(min=1)
        if self.top_count == 1:
            return top
        flat = index.reshape(-1)
        hits = torch.zeros(classes, dtype=score.dtype, device=score.device).index_add(0, flat, right.reshape(-1))
        totals = torch.zeros_like(hits).index_add(0, flat, inside.reshape(-1).to(score.dtype))
        return top, torch.where(totals > 0, hits / totals.clamp(min=1), 1).reshape(classes, 1, 1, 1)
