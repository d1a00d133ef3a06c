"""SoftmaxWithLoss with a weight for each class: SegNet's and ENet's in loss_param, DeepLab v1's in a file."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.errors import DataError
from fcn_caffe.layers.base import variant
from fcn_caffe.layers.gradients import with_value
from fcn_caffe.layers.loss import LOG_FLOAT_MIN, SoftmaxWithLoss, check_labels, loss_places
from fcn_caffe.proto import caffe_pb2


class _WeightedSoftmaxLoss(SoftmaxWithLoss):
    """Base: -sum of weight[label] log p[label] over the places whose label is not ignored."""

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.classes: int = bottoms[0].shape[self.dim]
        self.weights: Tensor | None
        self.register_buffer("weights", self.class_weights(), persistent=False)

    def class_weights(self) -> Tensor | None:
        """Return a weight for each class; None where all are 1."""
        raise NotImplementedError

    def counts(self, labels: Tensor) -> Tensor:
        """Return where labels count."""
        return labels != self.ignore_label if self.ignore_label is not None else torch.ones_like(labels).bool()

    def divisor(self, counted: Tensor, weighed: Tensor, places: tuple[int, ...]) -> Tensor | float:
        """Return what divides the sum; counted: where labels count; weighed: the weights there, 0 elsewhere."""
        raise NotImplementedError

    def forward(self, score: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        places = loss_places(self, score, label, self.dim)
        labels = label.detach().reshape(places).long()
        counted = self.counts(labels)
        labels = torch.where(counted, labels, 0)
        check_labels(self, labels, self.classes)
        weights = score.new_ones(self.classes) if self.weights is None else self.weights.to(score)
        weighed = torch.where(counted, weights[labels], 0)
        logs = torch.log_softmax(self._class_rows(score, counted), min(1, score.ndim - 1))
        losses = F.nll_loss(logs, labels, reduction="none")
        # Caffe bounds p by FLT_MIN in the value, and not in the gradient.
        total = with_value((weighed * losses).sum(), (weighed * losses.detach().clamp(max=-LOG_FLOAT_MIN)).sum())
        loss = total / self.divisor(counted, weighed, places)
        return loss if self.top_count == 1 else (loss, torch.softmax(score.detach(), self.dim))


@variant("SoftmaxWithLoss", "segnet", "SegNet, ENet", bottoms=2, tops=(1, 2))
class SegNetSoftmaxLoss(_WeightedSoftmaxLoss):
    """SegNet's SoftmaxWithLoss: each pixel weighs as its class, where weight_by_label_freqs is true.

    The sum is divided by the number of counted pixels, not of weights; by N with normalize: false; or as
    `normalization` says where it is written. A batch without counted pixels gives 0 / 0, as in the fork.
    Shapes: score (N, C, H, W), label (N, 1, H, W) -> (); second top: the softmax.
    Units: nats.
    Gradient: to the score: (p - onehot) weight[label] / divisor.
    Raises: LayerError for another number of weights than classes, or as SoftmaxWithLoss.
    Source: SegNet's SoftmaxWithLossLayer; ENet's.
    """

    def class_weights(self) -> Tensor | None:
        options = self.param.loss_param
        if not options.weight_by_label_freqs:
            return None
        if len(options.class_weighting) != self.classes:
            raise self.error(
                f"class_weighting is given {len(options.class_weighting)} times for {self.classes} classes: "
                "give it once a class."
            )
        return torch.tensor(list(options.class_weighting))

    def divisor(self, counted: Tensor, weighed: Tensor, places: tuple[int, ...]) -> Tensor | float:
        options = self.param.loss_param
        if options.HasField("normalization"):
            return self.normalizer(counted.sum(), prod(places[: self.dim]), prod(places[self.dim :]))
        return counted.sum() if options.normalize or not options.HasField("normalize") else float(places[0])


@variant("SoftmaxWithLoss", "deeplab1", "DeepLab v1", bottoms=2, tops=(1, 2))
class DeepLabSoftmaxLoss(_WeightedSoftmaxLoss):
    """DeepLab v1's SoftmaxWithLoss: each pixel weighs as the file weight_source says of its class.

    softmaxloss_param: weight_source names a text file of C numbers, none below 0; without it all are 1; ignore_label
    may be given several times. The sum is divided by that of the weights of the counted pixels.
    Shapes: score (N, C, H, W), label (N, 1, H, W) -> (); second top: the softmax.
    Units: nats.
    Gradient: to the score, alike; 0 at ignored pixels, which the fork leaves unwritten.
    Raises: LayerError for another number of weights than classes, or as SoftmaxWithLoss; DataError for a file that
    cannot be read.
    Source: DeepLab v1's SoftmaxWithLossLayer.
    """

    def class_weights(self) -> Tensor | None:
        source = self.param.softmaxloss_param.weight_source
        if not source:
            return None
        place = self.surroundings.find_source(source, "file of class weights")
        try:
            numbers = [float(word) for word in place.read_text(encoding="utf-8").split()]
        except (OSError, ValueError) as error:
            raise DataError(f"{place}: is no list of class weights ({error}). Write one number a line.") from None
        if len(numbers) != self.classes or not all(0 <= number < float("inf") for number in numbers):
            raise self.error(
                f"{source} has {len(numbers)} weights for {self.classes} classes: give one a class, 0 or above."
            )
        return torch.tensor(numbers)

    def counts(self, labels: Tensor) -> Tensor:
        counted = super().counts(labels)
        for ignored in self.param.softmaxloss_param.ignore_label:
            counted = counted & (labels != ignored)
        return counted

    def divisor(self, counted: Tensor, weighed: Tensor, places: tuple[int, ...]) -> Tensor | float:
        return weighed.sum()
