"""Caffe's update rules as optimizers of PyTorch, for any model; Solver is one user of them.

Before its update every rule clips the gradients, divides them by iter_size and adds the weight decay. It does so in
place: after `step()` a parameter's `.grad` is no longer its gradient. Clear it, as always.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fcn_caffe.errors import SolverError
from fcn_caffe.host.text import show

_log = logging.getLogger("fcn_caffe.solver")

Tensors = list[Tensor]

# The most elements of a temporary: rules that need one take the parameters in parts.
_CHUNK_ELEMENTS = 1 << 22

_MOST = torch.finfo(torch.float32).max


class UpdateRule(torch.optim.Optimizer):
    """The base of all rules. A rule defines `update` and `difference`, its `type` and how many `histories` it keeps.

    A parameter without a gradient has gradient zero: it still decays and still moves by its history.

    Args:
        params: tensors or groups; a group may have `lr_mult` and `decay_mult` besides every option.
        lr: the rate, which `lr_mult` multiplies.
        momentum: the share of the history that a step keeps.
        weight_decay: the strength of the regularization, which `decay_mult` multiplies.
        regularization_type: "L2" or "L1".
        clip_gradients: the greatest L2 norm of all gradients together, before they are divided by `iter_size`; none if
            negative.
        iter_size: the number of passes whose gradients are summed.
        momentum2: Adam's second decay.
        rms_decay: RMSProp's decay.
        delta: what keeps a divisor from zero.
    Raises:
        SolverError: an option is out of range.
    Source: Caffe SGDSolver::ApplyUpdate.
    """

    type: ClassVar[str]
    histories: ClassVar[int] = 1
    has_momentum: ClassVar[bool] = True

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
        if momentum and not self.has_momentum:
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

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles are made from: PyTorch knows of no more than groups and histories."""
        own = ("regularization_type", "clip_gradients", "iter_size")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def history(self, param: Tensor) -> Tensors:
        """Return the histories of a parameter, in Caffe's order; they are zero until its first step."""
        state = self.state[param]
        if not state:
            state["history"] = [torch.zeros_like(param, requires_grad=False) for _ in range(self.histories)]
        histories: Tensors = state["history"]
        return histories

    def follow(self, others: Mapping[int, Tensor]) -> None:
        """Go on with other tensors in the place of some, by the id of the old one; histories stay.

        Raises:
            SolverError: a tensor is of another shape than the one before.
        """
        for old in self.parameters():
            if (new := others.get(id(old))) is not None and new.shape != old.shape:
                raise SolverError(
                    f"a blob of {show(old.shape)} was replaced by one of {show(new.shape)}: make a new solver."
                )
        for group in self.param_groups:
            for index, old in enumerate(group["params"]):
                new = others.get(id(old), old)
                if new is not old:
                    group["params"][index] = new
                    if old in self.state:
                        self.state[new] = self.state.pop(old)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters from their gradients, which are sums over `iter_size` passes.

        Args:
            closure: a function that runs the passes and returns the loss, as for every optimizer of PyTorch.
        Returns:
            What `closure` returns.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        self.scale_gradients()
        for group in self.param_groups:
            for params in _chunks([param for param in group["params"] if param.requires_grad]):
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

    def parameters(self) -> Tensors:
        """Return the parameters of all groups."""
        return [param for group in self.param_groups for param in group["params"]]

    def gradients(self) -> Tensors:
        """Return the gradients of all parameters that learn: zero where a pass gave none."""
        return [_gradient(param) for param in self.parameters() if param.requires_grad]

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        """Change parameters and histories in place; gradients may be overwritten. rate: the rate times lr_mult."""
        raise NotImplementedError

    def last_update(self, param: Tensor) -> Tensor:
        """Return what the last step subtracted from a parameter: what Caffe leaves in its diff.

        It is right until the gradient, the history or an option changes. The tensor is a new one, or the gradient.
        """
        group = next(group for group in self.param_groups if any(param is known for known in group["params"]))
        rate = _single(group["lr"] * group["lr_mult"])
        with torch.no_grad():
            return self.difference(group, rate, _gradient(param), *self.history(param))

    def difference(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        """Return what `update` subtracted, computed from what it left in the gradient and the histories."""
        raise NotImplementedError

    @torch.no_grad()
    def scale_gradients(self) -> None:
        """Clip all gradients, then divide them by iter_size, in one pass over them. `step` begins with it."""
        if self.clip_gradients < 0 and self.iter_size == 1:
            return
        grads, scale = self.gradients(), 1.0
        if self.clip_gradients >= 0 and grads:
            norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))
            if norm > self.clip_gradients:
                scale = self.clip_gradients / norm
                _log.info(
                    "Gradient clipping: scaling down gradients (L2 norm %g > %g) by scale factor %g",
                    *(norm, self.clip_gradients, scale),
                    extra={"place": "sgd_solver.cpp:96"},
                )
        if grads and (scale != 1 or self.iter_size > 1):
            torch._foreach_mul_(grads, scale / self.iter_size)


def _gradient(param: Tensor) -> Tensor:
    if param.grad is None:
        param.grad = torch.zeros_like(param)
    return param.grad


def _chunks(params: Tensors) -> Iterator[Tensors]:
    """Give runs of parameters of at most _CHUNK_ELEMENTS elements; a larger parameter comes alone."""
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
        _decay(history, group["momentum"])
        torch._foreach_add_(history, grads, alpha=rate)
        torch._foreach_sub_(params, history)

    def difference(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        return histories[0].clone()


class Nesterov(UpdateRule):
    """h' = momentum h + rate g; w -= (1 + momentum) h' - momentum h, which is momentum h' + rate g.

    Source: Caffe NesterovSolver.
    """

    type = "Nesterov"

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (history,) = histories
        _decay(history, group["momentum"])
        torch._foreach_mul_(grads, rate)
        torch._foreach_add_(history, grads)
        if group["momentum"]:
            torch._foreach_add_(grads, history, alpha=group["momentum"])
        torch._foreach_sub_(params, grads)

    def difference(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        return grad


class AdaGrad(UpdateRule):
    """h += g²; w -= rate g / (√h + delta). Source: Caffe AdaGradSolver."""

    type, has_momentum = "AdaGrad", False

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (history,) = histories
        torch._foreach_addcmul_(history, grads, grads)
        _divided_step(params, grads, history, rate, group["delta"])

    def difference(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        return grad.mul(rate).div_(histories[0].sqrt().add_(group["delta"]))


class RMSProp(UpdateRule):
    """h = d h + (1 - d) g², d being rms_decay; w -= rate g / (√h + delta). Source: Caffe RMSPropSolver."""

    type, has_momentum = "RMSProp", False

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (history,) = histories
        _decay(history, group["rms_decay"])
        torch._foreach_addcmul_(history, grads, grads, 1 - group["rms_decay"])
        _divided_step(params, grads, history, rate, group["delta"])

    def difference(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        return grad.mul(rate).div_(histories[0].sqrt().add_(group["delta"]))


class AdaDelta(UpdateRule):
    """h1 = m h1 + (1 - m) g²; u = g √((h2 + delta) / (h1 + delta)); h2 = m h2 + (1 - m) u²; w -= rate u.

    m is momentum. Source: Caffe AdaDeltaSolver.
    """

    type, histories = "AdaDelta", 2

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (squares, updates), momentum = histories, group["momentum"]
        _decay(squares, momentum)
        torch._foreach_addcmul_(squares, grads, grads, 1 - momentum)
        ratio = torch._foreach_add(updates, group["delta"])
        torch._foreach_div_(ratio, torch._foreach_add(squares, group["delta"]))
        torch._foreach_sqrt_(ratio)
        torch._foreach_mul_(grads, ratio)
        _decay(updates, momentum)
        torch._foreach_addcmul_(updates, grads, grads, 1 - momentum)
        torch._foreach_add_(params, grads, alpha=-rate)

    def difference(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        return rate * grad


class Adam(UpdateRule):
    """m1, m2: means of g and g²; w -= rate √(1 - b2^t) / (1 - b1^t) · m1 / (√m2 + delta); b1, b2: momentum, momentum2.

    t counts steps from 1. Source: Caffe AdamSolver, whose delta stands outside the correction, unlike the paper's.
    """

    type, histories = "Adam", 2

    def update(self, group: dict[str, Any], rate: float, params: Tensors, grads: Tensors, *histories: Tensors) -> None:
        (mean, squares), (b1, b2), t = histories, (group["momentum"], group["momentum2"]), group["iter"] + 1
        _decay(mean, b1)
        torch._foreach_add_(mean, grads, alpha=1 - b1)
        _decay(squares, b2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - b2)
        _divided_step(params, mean, squares, _single(rate * _correction(b1, b2, t)), group["delta"])

    def difference(self, group: dict[str, Any], rate: float, grad: Tensor, *histories: Tensor) -> Tensor:
        mean, squares = histories
        correction = _correction(group["momentum"], group["momentum2"], group["iter"])
        return mean.mul(_single(rate * correction)).div_(squares.sqrt().add_(group["delta"]))


def _decay(histories: Tensors, factor: float) -> None:
    """Multiply in place; by 0 they become 0 whatever they were, as BLAS does it for Caffe."""
    if factor:
        torch._foreach_mul_(histories, factor)
    else:
        torch._foreach_zero_(histories)


def _correction(b1: float, b2: float, t: int) -> float:
    """Return the factor that corrects means which started at zero; NaN, as in C, for a decay outside [0, 1)."""
    try:
        return math.sqrt(1 - b2**t) / (1 - b1**t)
    except (ArithmeticError, ValueError):
        return math.nan


def _single(number: float) -> float:
    """Return the number as Caffe's float holds it: infinite beyond its range, where torch would refuse it."""
    return math.copysign(math.inf, number) if abs(number) > _MOST else number


def _divided_step(params: Tensors, numerators: Tensors, squares: Tensors, rate: float, delta: float) -> None:
    """Subtract rate · numerator / (√square + delta)."""
    divisors = torch._foreach_sqrt(squares)
    torch._foreach_add_(divisors, delta)
    torch._foreach_addcdiv_(params, numerators, divisors, -rate)


RULES: dict[str, type[UpdateRule]] = {rule.type: rule for rule in (SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam)}
