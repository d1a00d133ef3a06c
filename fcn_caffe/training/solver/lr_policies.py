"""Caffe's learning rate policies: the rate of each iteration from a SolverParameter."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from fcn_caffe.errors import SolverError
from fcn_caffe.host.glog import say
from fcn_caffe.host.text import did_you_mean
from fcn_caffe.proto import caffe_pb2

_log = logging.getLogger("fcn_caffe.solver")

# The fields of SolverParameter that a policy cannot do without, `base_lr` aside.
_NEEDED: dict[str, tuple[str, ...]] = {
    "exp": ("gamma",),
    "fixed": (),
    "inv": ("gamma", "power"),
    "multistep": ("gamma",),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
    "step": ("gamma", "stepsize"),
}


class LearningRate:
    """The learning rate of each iteration, by `lr_policy`: call it with every iteration in turn.

    `current_step` counts the stepvalues that `multistep` has passed; each call counts one at most, as in Caffe: of two
    equal ones the second is passed an iteration later, or by a second call.

    Args:
        param: the solver.
        place: the solver's file, for messages.
    Raises:
        SolverError: the policy is unknown, or the solver lacks a field that the policy needs.
    Source: Caffe SGDSolver::GetLearningRate.
    """

    def __init__(self, param: caffe_pb2.SolverParameter, place: str = "solver") -> None:
        policy = param.lr_policy
        known = ", ".join(_NEEDED)
        if not policy:
            raise SolverError(f"{place}: lr_policy is not set. Known: {known}.")
        if policy not in _NEEDED:
            hint = did_you_mean(policy, _NEEDED)
            raise SolverError(f"{place}: lr_policy {policy!r} is unknown. Known: {known}.{hint}")
        for name in ("base_lr", *_NEEDED[policy]):
            if not param.HasField(name):
                raise SolverError(f"{place}: lr_policy {policy!r} needs {name}, which is not set. Add `{name}: …`.")
        if policy in ("step", "sigmoid") and param.stepsize < 1:
            raise SolverError(f"{place}: stepsize is {param.stepsize}, lr_policy {policy!r} needs 1 or more.")
        if "gamma" in _NEEDED[policy] and param.gamma < 0:
            raise SolverError(f"{place}: gamma is {param.gamma:g}, lr_policy {policy!r} needs 0 or more.")
        if policy == "poly" and param.max_iter < 1:
            raise SolverError(f"{place}: max_iter is {param.max_iter}, lr_policy 'poly' needs 1 or more.")
        if policy == "multistep" and not param.stepvalue:
            _log.warning("%s: lr_policy 'multistep' has no stepvalue: the rate stays %g.", place, param.base_lr)
        self.param = param
        self.current_step = 0
        self._rate: Callable[[int], float] = getattr(self, f"_{policy}")

    def __call__(self, iteration: int) -> float:
        """Return the rate at an iteration, counted from 0."""
        return self._rate(iteration)

    def _fixed(self, iteration: int) -> float:
        return float(self.param.base_lr)

    def _step(self, iteration: int) -> float:
        self.current_step = iteration // self.param.stepsize
        return float(self.param.base_lr * _power(self.param.gamma, self.current_step))

    def _exp(self, iteration: int) -> float:
        return float(self.param.base_lr * _power(self.param.gamma, iteration))

    def _inv(self, iteration: int) -> float:
        return float(self.param.base_lr * _power(1 + self.param.gamma * iteration, -self.param.power))

    def _multistep(self, iteration: int) -> float:
        steps = self.param.stepvalue
        if self.current_step < len(steps) and iteration >= steps[self.current_step]:
            self.current_step += 1
            say("sgd_solver.cpp:50", f"MultiStep Status: Iteration {iteration}, step = {self.current_step}")
        return float(self.param.base_lr * _power(self.param.gamma, self.current_step))

    def _poly(self, iteration: int) -> float:
        # Past max_iter it is a power of a negative number, as in Caffe: NaN, or negative for a whole power.
        return float(self.param.base_lr * _power(1 - iteration / self.param.max_iter, self.param.power))

    def _sigmoid(self, iteration: int) -> float:
        exponent = -self.param.gamma * (iteration - self.param.stepsize)
        return float(self.param.base_lr / (1 + math.exp(min(exponent, 700.0))))


def _power(base: float, exponent: float) -> float:
    """Return C's pow, as Caffe does: infinite where the result is too large, NaN where there is none."""
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return -math.inf if base < 0 and exponent % 2 == 1 else math.inf
    except ValueError:
        return -math.nan if base else math.inf  # C's NaN has its sign set, and Caffe's log shows it
