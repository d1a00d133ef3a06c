"""The update rules as torch optimizers, without a Solver, against the formulas written out in numpy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fcn_caffe import SolverError
from fcn_caffe.training.solver import RULES, SGD, Adam, UpdateRule, update_rules

RATE, MOMENTUM, DECAY, STEPS = 0.1, 0.9, 0.01, 4


def formulas() -> dict[str, Callable[..., Any]]:
    """One step of each rule on float64: (w, g, histories, t) -> the new w; histories change in place."""

    def sgd(w: Any, g: Any, h: list[Any], t: int) -> Any:
        h[0] = MOMENTUM * h[0] + RATE * g
        return w - h[0]

    def nesterov(w: Any, g: Any, h: list[Any], t: int) -> Any:
        old, h[0] = h[0], MOMENTUM * h[0] + RATE * g
        return w - ((1 + MOMENTUM) * h[0] - MOMENTUM * old)

    def adagrad(w: Any, g: Any, h: list[Any], t: int) -> Any:
        h[0] = h[0] + g**2
        return w - RATE * g / (np.sqrt(h[0]) + 1e-4)

    def rmsprop(w: Any, g: Any, h: list[Any], t: int) -> Any:
        h[0] = 0.95 * h[0] + 0.05 * g**2
        return w - RATE * g / (np.sqrt(h[0]) + 1e-4)

    def adadelta(w: Any, g: Any, h: list[Any], t: int) -> Any:
        h[0] = MOMENTUM * h[0] + (1 - MOMENTUM) * g**2
        u = g * np.sqrt((h[1] + 1e-4) / (h[0] + 1e-4))
        h[1] = MOMENTUM * h[1] + (1 - MOMENTUM) * u**2
        return w - RATE * u

    def adam(w: Any, g: Any, h: list[Any], t: int) -> Any:
        h[0] = MOMENTUM * h[0] + (1 - MOMENTUM) * g
        h[1] = 0.99 * h[1] + 0.01 * g**2
        return w - RATE * np.sqrt(1 - 0.99**t) / (1 - MOMENTUM**t) * h[0] / (np.sqrt(h[1]) + 1e-4)

    return {
        "SGD": sgd,
        "Nesterov": nesterov,
        "AdaGrad": adagrad,
        "RMSProp": rmsprop,
        "AdaDelta": adadelta,
        "Adam": adam,
    }


def make(rule: type[UpdateRule], params: Any, **options: Any) -> UpdateRule:
    momentum = MOMENTUM if rule.has_momentum else 0.0
    return rule(params, RATE, momentum, DECAY, momentum2=0.99, rms_decay=0.95, delta=1e-4, **options)


@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_follow_their_formulas(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_rules, "_CHUNK_ELEMENTS", 4)  # several chunks, and tensors larger than one
    random = np.random.RandomState(0)
    starts = [random.randn(*shape).astype(np.float32) for shape in ((3, 2), (2,), (1,), (2,))]
    params = [torch.nn.Parameter(torch.from_numpy(start.copy())) for start in starts]
    rule = make(RULES[name], params)
    expected = [start.astype(np.float64) for start in starts]
    histories = [[np.zeros_like(value) for _ in range(rule.histories)] for value in expected]
    for t in range(1, STEPS + 1):
        for index, param in enumerate(params):
            grad = random.randn(*param.shape).astype(np.float32)
            param.grad = torch.from_numpy(grad.copy())
            expected[index] = formulas()[name](expected[index], grad + DECAY * expected[index], histories[index], t)
        rule.step()
    for param, value, history in zip(params, expected, histories, strict=True):
        np.testing.assert_allclose(param.detach().numpy(), value, rtol=2e-5)
        for ours, theirs in zip(rule.history(param), history, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-5, atol=1e-9)


def test_the_rate_is_inside_sgds_history() -> None:
    """Dropping the rate to zero leaves the movement of before, which torch.optim.SGD would stop."""
    param = torch.nn.Parameter(torch.zeros(1))
    rule = SGD([param], lr=1.0, momentum=0.5)
    param.grad = torch.ones(1)
    rule.step()
    rule.param_groups[0]["lr"] = 0.0
    param.grad = torch.ones(1)
    rule.step()
    assert param.item() == -1.5


def test_multipliers_of_groups() -> None:
    fast, slow = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    rule = SGD([{"params": [fast], "lr_mult": 2.0, "decay_mult": 0.0}, {"params": [slow]}], lr=0.5, weight_decay=0.5)
    for param in (fast, slow):
        param.grad = torch.ones(1)
    rule.step()
    assert (fast.item(), slow.item()) == (0.0, 0.25)


def test_clip_is_of_the_sum_and_before_decay(caplog: pytest.LogCaptureFixture) -> None:
    """Norm 5 of the accumulated gradient, clipped to 2.5, halved by iter_size, and only then the decay."""
    params = [torch.nn.Parameter(torch.tensor([value])) for value in (10.0, 0.0)]
    rule = SGD(params, lr=1.0, weight_decay=0.1, clip_gradients=2.5, iter_size=2)
    params[0].grad, params[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    with caplog.at_level("INFO", "fcn_caffe.solver"):
        rule.step()
    assert [param.item() for param in params] == pytest.approx([10 - (0.75 + 1.0), -1.0])
    assert "Gradient clipping: scaling down gradients (L2 norm 5 > 2.5) by scale factor 0.5" in caplog.text


def test_l1_decay_is_the_sign() -> None:
    param = torch.nn.Parameter(torch.tensor([5.0, -5.0, 0.0]))
    rule = SGD([param], lr=1.0, weight_decay=0.5, regularization_type="L1")
    param.grad = torch.zeros(3)
    rule.step()
    assert param.tolist() == [4.5, -4.5, 0.0]


def test_a_parameter_without_gradient_still_decays() -> None:
    param = torch.nn.Parameter(torch.tensor([1.0]))
    SGD([param], lr=1.0, weight_decay=0.25).step()
    assert param.item() == 0.75


def test_a_frozen_parameter_stays_and_has_no_history() -> None:
    param = torch.nn.Parameter(torch.tensor([1.0]), requires_grad=False)
    rule = SGD([param], lr=1.0, weight_decay=0.25)
    rule.step()
    assert param.item() == 1.0 and not rule.state


def test_state_dict_round_trip() -> None:
    def run(rule: UpdateRule, param: torch.nn.Parameter, steps: int) -> None:
        for _ in range(steps):
            param.grad = param.detach().clone()
            rule.step()

    first = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    whole = make(Adam, [first])
    run(whole, first, 2)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = make(Adam, [second])
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    run(whole, first, 2)
    run(resumed, second, 2)
    assert torch.equal(first, second)


def test_a_closure_runs_with_gradients() -> None:
    param = torch.nn.Parameter(torch.tensor([2.0]))

    def closure() -> float:
        loss = (param**2).sum()
        loss.backward()
        return loss.item()

    assert SGD([param], lr=0.25).step(closure) == 4.0
    assert param.item() == 1.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("AdaGrad", {"momentum": 0.9}, "type 'AdaGrad' has no momentum, 0.9 was given. Drop it."),
        ("RMSProp", {"momentum": 0.9}, "type 'RMSProp' has no momentum, 0.9 was given. Drop it."),
        ("SGD", {"regularization_type": "L3"}, "regularization_type 'L3' is unknown. Known: L1, L2."),
        ("SGD", {"iter_size": 0}, "iter_size is 0, wanted 1 or more."),
    ],
)
def test_refusals(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SolverError) as caught:
        RULES[name]([torch.nn.Parameter(torch.ones(1))], lr=1.0, **options)
    assert str(caught.value) == message


@pytest.mark.parametrize("rule", RULES.values())
def test_a_rate_beyond_float_diverges_as_caffes_does(rule: type[UpdateRule]) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    options = {"momentum": 1.0, "momentum2": 1e38} if rule is Adam else {}
    rule([weight], lr=1e300, **options).step()
    assert not weight.isfinite().any()


@pytest.mark.parametrize("name", ["SGD", "Nesterov"])
def test_a_history_that_overflowed_is_forgotten_without_momentum(name: str) -> None:
    """BLAS, which updates Caffe's histories, makes 0 of infinity times 0."""
    weight = torch.nn.Parameter(torch.zeros(2))
    rule = RULES[name]([weight], lr=1.0)
    for gradient in (math.inf, 3.0):
        weight.data.zero_()
        weight.grad = torch.tensor([gradient, 1.0])
        rule.step()
    assert weight.tolist() == [-3, -1]
