"""Caffe's update rules as torch optimizers. They work on any torch model; Solver is one user of them.

All rules share what comes before the update: gradient clipping, division by iter_size, weight decay. Gradients are
worked on in place, so after `step()` a parameter's `.grad` is no longer its gradient; clear it, as always.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from fcn_caffe.errors import SolverError

_log = logging.getLogger("fcn_caffe.solver")

Tensors = list[Tensor]

# Rules that need a temporary take it for so many elements at a time, not for all parameters at once.
_CHUNK_ELEMENTS = 1 << 22

_MOST = torch.finfo(torch.float32).max


class UpdateRule(torch.optim.Optimizer):
    """What all rules share. A rule is `update` and, as class attributes, its name and number of histories.

    params: tensors or groups; a group may have `lr_mult` and `decay_mult` besides every option. lr: the rate, which
    `lr_mult` multiplies. clip_gradients: greatest L2 norm of all gradients together, taken before the division by
    `iter_size`; negative for none. regularization_type: "L2" or "L1".
    A parameter without a gradient has gradient zero: it still decays and still moves by its history.
    Raises: SolverError for options out of range. Source: Caffe SGDSolver::ApplyUpdate.
    """

    type: ClassVar[str]
    histories: ClassVar[int] = 1
    takes_momentum: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        regularization_type: str = "L2",
        clip_gradients: float = -1.0,
        iter_size: int = 1,
        momentum2: float = 0.999,
        rms_decay: float = 0.99,
        delta: float = 1e-8,
    ) -> None:
        if regularization_type not in ("L1", "L2"):
            raise SolverError(f"regularization_type {regularization_type!r} is unknown. Known: L1, L2.")
        if momentum and not self.takes_momentum:
            raise SolverError(f"type {self.type!r} has no momentum, {momentum:g} was given. Drop it.")
        if iter_size < 1:
            raise SolverError(f"iter_size is {iter_size}, wanted 1 or more.")
        self.regularization_type, self.clip_gradients, self.iter_size = regularization_type, clip_gradients, iter_size
        defaults = {
            "lr": lr,
            "lr_mult": 1.0,
            "decay_mult": 1.0,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "momentum2": momentum2,
            "rms_decay": rms_decay,
            "delta": delta,
            "iter": 0,  # steps taken; Adam corrects its means by it
        }
        super().__init__(params, defaults)

    def history(self, param: Tensor) -> Tensors:
        """The histories of one parameter, in Caffe's order; zero until its first step."""
        state = self.state[param]
        if not state:
            state["history"] = [torch.zeros_like(param, requires_grad=False) for _ in range(self.histories)]
        found: Tensors = state["history"]
        return found

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all parameters from their gradients, which are the sums of `iter_size` passes."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        groups = [(group, [param for param in group["params"] if param.requires_grad]) for group in self.param_groups]
        self._scale([_gradient(param) for _, params in groups for param in params])
        for group, all_params in groups:
            for params in _chunks(all_params):
                grads = [_gradient(param) for param in params]
                decay = _single(group["weight_decay"] * group["decay_mult"])
                if decay and self.regularization_type == "L2":
                    torch._foreach_add_(grads, params, alpha=decay)
                elif decay:
                    for grad, param in zip(grads, params, strict=True):
                        grad.add_(param.sign(), alpha=decay)
                histories = [list(column) for column in zip(*map(self.history, params), strict=True)]
                self.update(group, _single(group["lr"] * group["lr_mult"]), params, grads, *histories)
            group["iter"] += 1
        return result

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        """Change parameters and histories in place. rate: with lr_mult in it. Gradients may be overwritten."""
        raise NotImplementedError

    def last_update(self, param: Tensor) -> Tensor:
        """What the last step took away from a parameter that learns: what Caffe leaves in its diff.

        Only until its gradient, its history or an option changes. A new tensor, or the gradient's own.
        """
        group = next(group for group in self.param_groups if any(param is known for known in group["params"]))
        rate = _single(group["lr"] * group["lr_mult"])
        with torch.no_grad():
            return self.taken(group, rate, _gradient(param), *self.history(param))

    def taken(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        """What `update` took away, from what it left in the gradient and the histories."""
        raise NotImplementedError

    def _scale(self, grads: Tensors) -> None:
        """Clip, then divide by iter_size, in one pass over the gradients."""
        scale = 1.0
        if self.clip_gradients >= 0 and grads:
            norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))
            if norm > self.clip_gradients:
                scale = self.clip_gradients / norm
                _log.info(
                    "Gradient clipping: scaling down gradients (L2 norm %g > %g) by scale factor %g",
                    *(norm, self.clip_gradients, scale),
                    extra={"place": "sgd_solver.cpp:96"},
                )
        if scale != 1 or self.iter_size > 1:
            torch._foreach_mul_(grads, scale / self.iter_size)


def _gradient(param: Tensor) -> Tensor:
    if param.grad is None:
        param.grad = torch.zeros_like(param)
    return param.grad


def _chunks(params: Tensors) -> Iterator[Tensors]:
    """Runs of parameters of at most _CHUNK_ELEMENTS elements, larger parameters alone."""
    chunk: Tensors = []
    size = 0
    for param in params:
        if chunk and size + param.numel() > _CHUNK_ELEMENTS:
            yield chunk
            chunk, size = [], 0
        chunk.append(param)
        size += param.numel()
    if chunk:
        yield chunk


class SGD(UpdateRule):
    """h = momentum h + rate g; w -= h. The rate is inside the history, unlike torch.optim.SGD.

    Source: Caffe SGDSolver.
    """

    type = "SGD"

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (history,) = histories
        torch._foreach_mul_(history, group["momentum"])
        torch._foreach_add_(history, grads, alpha=rate)
        torch._foreach_sub_(params, history)

    def taken(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        return histories[0].clone()


class Nesterov(UpdateRule):
    """h' = momentum h + rate g; w -= (1 + momentum) h' - momentum h, which is momentum h' + rate g.

    Source: Caffe NesterovSolver.
    """

    type = "Nesterov"

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (history,) = histories
        torch._foreach_mul_(history, group["momentum"])
        torch._foreach_mul_(grads, rate)
        torch._foreach_add_(history, grads)
        torch._foreach_add_(grads, history, alpha=group["momentum"])
        torch._foreach_sub_(params, grads)

    def taken(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        return grad


class AdaGrad(UpdateRule):
    """h += g²; w -= rate g / (√h + delta). Source: Caffe AdaGradSolver."""

    type, takes_momentum = "AdaGrad", False

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (history,) = histories
        torch._foreach_addcmul_(history, grads, grads)
        _divided_step(params, grads, history, rate, group["delta"])

    def taken(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        return grad.mul(rate).div_(histories[0].sqrt().add_(group["delta"]))


class RMSProp(UpdateRule):
    """h = d h + (1 - d) g², d being rms_decay; w -= rate g / (√h + delta). Source: Caffe RMSPropSolver."""

    type, takes_momentum = "RMSProp", False

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (history,) = histories
        torch._foreach_mul_(history, group["rms_decay"])
        torch._foreach_addcmul_(history, grads, grads, 1 - group["rms_decay"])
        _divided_step(params, grads, history, rate, group["delta"])

    def taken(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        return grad.mul(rate).div_(histories[0].sqrt().add_(group["delta"]))


class AdaDelta(UpdateRule):
    """h1 = m h1 + (1 - m) g²; u = g √((h2 + delta) / (h1 + delta)); h2 = m h2 + (1 - m) u²; w -= rate u.

    m is momentum. Source: Caffe AdaDeltaSolver.
    """

    type, histories = "AdaDelta", 2

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (squares, updates), momentum = histories, group["momentum"]
        torch._foreach_mul_(squares, momentum)
        torch._foreach_addcmul_(squares, grads, grads, 1 - momentum)
        ratio = torch._foreach_add(updates, group["delta"])
        torch._foreach_div_(ratio, torch._foreach_add(squares, group["delta"]))
        torch._foreach_sqrt_(ratio)
        torch._foreach_mul_(grads, ratio)
        torch._foreach_mul_(updates, momentum)
        torch._foreach_addcmul_(updates, grads, grads, 1 - momentum)
        torch._foreach_add_(params, grads, alpha=-rate)

    def taken(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        return rate * grad


class Adam(UpdateRule):
    """m1, m2: means of g and g²; w -= rate √(1 - b2^t) / (1 - b1^t) · m1 / (√m2 + delta); b1, b2: momentum, momentum2.

    t counts steps from 1. Source: Caffe AdamSolver, whose delta stands outside the correction, unlike the paper's.
    """

    type, histories = "Adam", 2

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (mean, squares), (b1, b2), t = histories, (group["momentum"], group["momentum2"]), group["iter"] + 1
        torch._foreach_mul_(mean, b1)
        torch._foreach_add_(mean, grads, alpha=1 - b1)
        torch._foreach_mul_(squares, b2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - b2)
        _divided_step(params, mean, squares, _single(rate * _correction(b1, b2, t)), group["delta"])

    def taken(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        mean, squares = histories
        correction = _correction(group["momentum"], group["momentum2"], group["iter"])
        return mean.mul(_single(rate * correction)).div_(squares.sqrt().add_(group["delta"]))


def _correction(b1: float, b2: float, t: int) -> float:
    """What makes up for means that started at zero; NaN, as C has it, for decays that are not from 0 to below 1."""
    try:
        return math.sqrt(1 - b2**t) / (1 - b1**t)
    except (ArithmeticError, ValueError):
        return math.nan


def _single(number: float) -> float:
    """The number as Caffe's float takes it: infinite beyond its range, where torch would refuse it."""
    return math.copysign(math.inf, number) if abs(number) > _MOST else number


def _divided_step(params: Tensors, numerators: Tensors, squares: Tensors, rate: float, delta: float) -> None:
    """w -= rate · numerator / (√square + delta)."""
    divisors = torch._foreach_sqrt(squares)
    torch._foreach_add_(divisors, delta)
    torch._foreach_addcdiv_(params, numerators, divisors, -rate)


RULES: dict[str, type[UpdateRule]] = {rule.type: rule for rule in (SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam)}
