"""Losses of edge and skeleton nets, which weigh the rare class up: HED's, RCF's, DeepSkeleton's."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.layers.base import Layer, of_shape, register, variant
from fcn_caffe.layers.gradients import with_value
from fcn_caffe.layers.loss import LossLayer, check_labels, check_targets, loss_places
from fcn_caffe.proto import caffe_pb2


class _BalancedSigmoid(LossLayer):
    """Base of the balanced sigmoid losses, of which no field of loss_param is read.

    Of each picture P targets are 1 and Z are 0, n = P + Z: l is weighed by Z / n where the target is 1, by
    negatives P / n where it is 0. The sum is divided by the number of pictures.
    """

    negatives: ClassVar[float] = 1.0  # the factor of places whose target is 0
    others_learn: ClassVar[bool] = True  # whether the fork's gradient at other targets is sigmoid - target

    def infer(self, *bottoms: Tensor) -> Tensor:
        check_targets(self, *bottoms)
        return of_shape()

    def targets(self, target: Tensor) -> Tensor:
        """Return the targets that count as 1 and 0."""
        return target

    def forward(self, score: Tensor, target: Tensor) -> Tensor:
        check_targets(self, score, target)
        rows = score.reshape(score.shape[0], -1)
        targets = self.targets(target.reshape(rows.shape).to(score.dtype))
        positive, negative = targets == 1, targets == 0
        ones = positive.sum(1, keepdim=True).to(score.dtype)
        zeros = negative.sum(1, keepdim=True).to(score.dtype)
        weights = torch.where(positive, zeros, negative * ones * self.negatives) / (ones + zeros)
        losses = F.binary_cross_entropy_with_logits(rows, targets, reduction="none")
        # A product would make NaN of an infinite loss where the weight is 0.
        total = torch.where(positive | negative, weights * losses, 0).sum()
        # 0 / 0 where a picture has neither, as in the forks.
        total = total + (0 * (ones + zeros) / (ones + zeros)).sum()
        if self.follows_caffe and self.others_learn:
            others = torch.where(positive | negative, 0, losses).sum()
            total = with_value(total + others, total)
        return total / score.shape[0]


@register("SigmoidCrossEntropyBalanceLoss", bottoms=2, forks="OSVOS")
class SigmoidCrossEntropyBalanceLoss(_BalancedSigmoid):
    """Sigmoid cross entropy in which edges and the rest weigh the same; HED's, under a name of its own.

    Of each picture P targets are 1 and Z are 0, n = P + Z: (Z / n) sum of l over the ones + (P / n) sum over the zeros,
    divided by the number of pictures. No field is read.
    Shapes: score, target of equal counts -> ().
    Units: nats.
    Gradient: to the score. At other targets than 0 and 1 it is 0; where Caffe is followed (sigmoid - target) / N, which
    the forks leave there.
    Raises: LayerError where the counts differ.
    Source: OSVOS's SigmoidCrossEntropyBalanceLossLayer.
    """


@variant("SigmoidCrossEntropyLoss", "hed", "HED", bottoms=2)
class HEDLoss(_BalancedSigmoid):
    """HED's SigmoidCrossEntropyLoss: as SigmoidCrossEntropyBalanceLoss.

    Shapes: score, target of equal counts -> ().
    Gradient: as SigmoidCrossEntropyBalanceLoss.
    Source: HED's SigmoidCrossEntropyLossLayer.
    """


@variant("SigmoidCrossEntropyLoss", "rcf", "RCF", bottoms=2)
class RCFLoss(_BalancedSigmoid):
    """RCF's SigmoidCrossEntropyLoss: as HED's, the zeros weighed 1.1 times.

    Shapes: score, target of equal counts -> ().
    Gradient: to the score; 0 at targets other than 0 and 1.
    Source: RCF's SigmoidCrossEntropyLossLayer.
    """

    negatives = 1.1
    others_learn = False


@variant("SigmoidCrossEntropyLoss", "deepskeleton", "DeepSkeleton", bottoms=2)
class DeepSkeletonSigmoidLoss(_BalancedSigmoid):
    """DeepSkeleton's SigmoidCrossEntropyLoss: as HED's, every target but 0 counted as 1.

    Shapes: score, target of equal counts -> ().
    Gradient: to the score.
    Source: DeepSkeleton's SigmoidCrossEntropyLossLayer.
    """

    others_learn = False

    def targets(self, target: Tensor) -> Tensor:
        return (target != 0).to(target.dtype)


@variant("SoftmaxWithLoss", "deepskeleton", "DeepSkeleton", bottoms=2, tops=(1, 2))
class DeepSkeletonSoftmaxLoss(LossLayer):
    """DeepSkeleton's SoftmaxWithLoss: class 0 and all the others weigh the same; labels beyond the classes are 0.

    Of the batch P labels are above 0 and Z are 0, n = P + Z: (Z / n) sum of l over the first + (P / n) sum over the
    others, divided by the counted places where normalize is true (the default), else by N.
    Shapes: score (N, C, H, W), label (N, 1, H, W) -> (); second top: the softmax.
    Gradient: to the score, where Caffe is followed by counts that run over the pictures so far.
    Raises: LayerError for a label count that does not match, a negative label that is not ignored; in TRAIN for
    normalize: true, whose backward divides by 0 in the fork.
    Source: DeepSkeleton's SoftmaxWithLossLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.dim = self.axis(param.softmax_param.axis, bottoms[0])
        options = param.loss_param
        self.normalizes: bool = options.normalize if options.HasField("normalize") else True

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        loss_places(self, bottoms[0], bottoms[1], self.dim)
        return (of_shape(), bottoms[0])[: self.top_count]

    def forward(self, score: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.training and self.normalizes and score.requires_grad:
            raise self.error("the fork's backward divides by 0 with normalize: true. Write normalize: false.")
        places = loss_places(self, score, label, self.dim)
        classes = score.shape[self.dim]
        labels = label.detach().reshape(places).long()
        counted = torch.ones_like(labels, dtype=torch.bool)
        if self.ignore_label is not None:
            counted = labels != self.ignore_label
        labels = torch.where(counted & (labels < classes), labels, 0)
        check_labels(self, labels, classes)
        logs = torch.log_softmax(score, self.dim)
        losses = -logs.gather(self.dim, labels.unsqueeze(self.dim)).squeeze(self.dim)
        positive, negative = counted & (labels > 0), counted & (labels == 0)
        total = self._weighed(losses, positive, negative, positive.sum(), negative.sum())
        if self.follows_caffe:
            outer = tuple(range(1, positive.ndim))
            running = [mask.sum(outer).cumsum(0).reshape(-1, *(1 for _ in outer)) for mask in (positive, negative)]
            total = with_value(self._weighed(losses, positive, negative, *running), total)
        loss = total / (counted.sum() if self.normalizes else places[0])
        return loss if self.top_count == 1 else (loss, torch.softmax(score.detach(), self.dim))

    @staticmethod
    def _weighed(losses: Tensor, positive: Tensor, negative: Tensor, ones: Tensor, zeros: Tensor) -> Tensor:
        share = ones / (ones + zeros)
        return torch.where(positive, (1 - share) * losses, torch.where(negative, share * losses, 0)).sum()


class _Asking(Layer):
    """A loss of Caffe 1.0's whose net is of a fork that may have changed it."""

    meanings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        raise self.ask_fork(*self.meanings)


@variant("SigmoidCrossEntropyLoss", "?", "HED, RCF, DeepSkeleton", bottoms=2)
class AskedSigmoidLoss(_Asking):
    """SigmoidCrossEntropyLoss in a net with ImageLabelmapData: several forks have such nets, and changed the loss."""

    meanings = ("hed (balanced)", "rcf (balanced, zeros 1.1 times)", "deepskeleton", "bvlc (not changed)")


@variant("SoftmaxWithLoss", "?", "DeepSkeleton", bottoms=2, tops=(1, 2))
class AskedSoftmaxLoss(_Asking):
    """SoftmaxWithLoss in a net with ImageLabelmapData: DeepSkeleton changed it."""

    meanings = ("deepskeleton (balanced)", "bvlc (not changed; HED, RCF and OSVOS have it, too)")
