"""What Caffe's layers leave in diffs besides gradients, which a script and other layers can see.

HingeLoss keeps its margins in the score's diff from forward on. Scale multiplies the top's diff by the bottom in the
bottom's diff, and writes some of its gradients where other layers add.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from fcn_caffe.layers.class_loss import HingeLoss
from fcn_caffe.layers.linear import Scale
from fcn_caffe.proto import caffe_pb2


def _hinge_signs(score: Tensor, label: Tensor) -> Tensor:
    """Return -1 for the label's score, 1 for the others, in the score's shape."""
    rows = torch.ones_like(score).reshape(score.shape[0], -1)
    labels = label.reshape(-1)[: len(rows), None].long()
    return rows.scatter(1, labels, -1).reshape(score.shape)


def hinge_margins(score: Tensor, label: Tensor) -> Tensor:
    """Return the margins, which HingeLoss leaves in the score's diff; a NaN has none."""
    margins = 1 + _hinge_signs(score, label) * score
    return torch.where(margins > 0, margins, 0)


def hinge_gradient(layer: HingeLoss, diff: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Return HingeLoss's gradient from what is in the score's diff.

    weight: the loss's own diff.
    """
    signed = diff * _hinge_signs(diff, label)
    scale = weight.reshape(-1)[0] / diff.shape[0]
    if layer.param.hinge_loss_param.norm == caffe_pb2.HingeLossParameter.L1:
        return signed.sign() * scale
    return signed * (2 * scale)


def scale_product(bottom: Tensor, operand: Tensor, dy: Tensor) -> Tensor | None:
    """Return what Scale, not in place, leaves in the bottom's diff on its way to the operand's gradient, if it does."""
    return None if bottom.numel() == operand.numel() else dy * bottom


def overwrites_gradient(layer: Scale, shape: Sequence[int]) -> bool:
    """Whether a Scale layer writes the gradient of its learned scale in place of adding it.

    It does where the product of bottom and diff, or one sum for each number of the scale, is the gradient.
    shape: the bottom's.
    """
    if not layer.learned:
        return False
    count = layer.weight.numel()
    return bool(count == prod(shape) or (prod(shape[: layer.first]) == 1 and count > 1))
