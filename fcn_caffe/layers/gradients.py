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


def is_known(values: Tensor) -> bool:
    """Whether the numbers can be looked at: not in a graph that is being compiled, nor where there are shapes alone."""
    return not (values.is_meta or torch.compiler.is_compiling())


def is_finite(values: Tensor) -> bool:
    """Whether every number is finite, or unknown. Numbers whose sum overflows count as infinite: one sum is quick."""
    return not is_known(values) or bool(values.detach().sum().isfinite())


def with_value(carrier: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of `carrier`, a tensor of the same shape.

    `carrier + (value - carrier).detach()` would do for finite numbers; here an infinite carrier does no harm.
    """
    apply: Any = _WithValue.apply
    top: Tensor = apply(carrier, value)
    return top
