"""Values whose gradient Caffe computes by a rule of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _WithValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, carrier: Tensor, value: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def with_value(carrier: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of `carrier`, a tensor of the same shape.

    `carrier + (value - carrier).detach()` would do for finite numbers; here an infinite carrier does no harm.
    """
    apply: Any = _WithValue.apply
    top: Tensor = apply(carrier, value)
    return top
