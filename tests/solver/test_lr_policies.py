"""Learning rates by hand, and what a policy refuses."""

from __future__ import annotations

import math

import pytest

from fcn_caffe import SolverError
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import LearningRate


def policy(text: str) -> LearningRate:
    return LearningRate(parse_text(text, caffe_pb2.SolverParameter), "solvers/x.prototxt")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('base_lr: 0.5 lr_policy: "fixed"', {0: 0.5, 10**6: 0.5}),
        (
            'base_lr: 0.5 lr_policy: "step" gamma: 0.25 stepsize: 3',
            {0: 0.5, 2: 0.5, 3: 0.125, 5: 0.125, 6: 0.5 * 0.25**2},
        ),
        ('base_lr: 0.5 lr_policy: "exp" gamma: 0.5', {0: 0.5, 1: 0.25, 4: 0.5**5}),
        ('base_lr: 0.5 lr_policy: "inv" gamma: 0.5 power: 2', {0: 0.5, 2: 0.125, 6: 0.5 / 16}),
        ('base_lr: 0.5 lr_policy: "poly" power: 2 max_iter: 4', {0: 0.5, 2: 0.125, 4: 0.0, 6: 0.125}),
        (
            'base_lr: 0.5 lr_policy: "sigmoid" gamma: 0.5 stepsize: 10',
            {10: 0.25, 0: 0.5 / (1 + math.exp(5)), 20: 0.5 / (1 + math.exp(-5)), 10**6: 0.5},
        ),
    ],
)
def test_rates(text: str, expected: dict[int, float]) -> None:
    rate = policy(text)
    assert {iteration: rate(iteration) for iteration in expected} == pytest.approx(expected, abs=1e-300)


def test_multistep_counts_one_step_a_call() -> None:
    rate = policy('base_lr: 1 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 3 stepvalue: 3')
    assert [rate(iteration) for iteration in range(6)] == [1, 1, 0.5, 0.25, 0.125, 0.125]
    assert rate.current_step == 3


def test_multistep_without_stepvalue_stays(caplog: pytest.LogCaptureFixture) -> None:
    rate = policy('base_lr: 0.1 lr_policy: "multistep" gamma: 0.5')
    assert [rate(iteration) for iteration in (0, 100)] == [pytest.approx(0.1)] * 2
    assert "lr_policy 'multistep' has no stepvalue: the rate stays 0.1." in caplog.text


def test_multistep_says_each_step(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fcn_caffe.solver")
    rate = policy('base_lr: 1 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 2')
    for iteration in range(4):
        rate(iteration)
    assert caplog.messages == [f"MultiStep Status: Iteration {step + 1}, step = {step}" for step in (1, 2)]


def test_multistep_goes_on_from_its_state() -> None:
    rate = policy('base_lr: 1 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 4')
    rate.current_step = 1
    assert [rate(iteration) for iteration in (3, 4)] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'base_lr: 1 lr_policy: "cosine"',
            "solvers/x.prototxt: lr_policy 'cosine' is unknown. "
            "Known: exp, fixed, inv, multistep, poly, sigmoid, step.",
        ),
        (
            'base_lr: 1 lr_policy: "setp"',
            "solvers/x.prototxt: lr_policy 'setp' is unknown. "
            "Known: exp, fixed, inv, multistep, poly, sigmoid, step. Did you mean 'step'?",
        ),
        (
            "base_lr: 1",
            "solvers/x.prototxt: lr_policy is not set. Known: exp, fixed, inv, multistep, poly, sigmoid, step.",
        ),
        (
            'lr_policy: "fixed"',
            "solvers/x.prototxt: lr_policy 'fixed' needs base_lr, which is not set. Add `base_lr: …`.",
        ),
        (
            'base_lr: 1 lr_policy: "step" gamma: 0.1',
            "solvers/x.prototxt: lr_policy 'step' needs stepsize, which is not set. Add `stepsize: …`.",
        ),
        (
            'base_lr: 1 lr_policy: "step" gamma: 0.1 stepsize: 0',
            "solvers/x.prototxt: stepsize is 0, lr_policy 'step' needs 1 or more.",
        ),
        (
            'base_lr: 1 lr_policy: "multistep" stepvalue: 3',
            "solvers/x.prototxt: lr_policy 'multistep' needs gamma, which is not set. Add `gamma: …`.",
        ),
        (
            'base_lr: 1 lr_policy: "sigmoid" gamma: 1 stepsize: 0',
            "solvers/x.prototxt: stepsize is 0, lr_policy 'sigmoid' needs 1 or more.",
        ),
        (
            'base_lr: 1 lr_policy: "sigmoid" gamma: -0.5 stepsize: 2',
            "solvers/x.prototxt: gamma is -0.5, lr_policy 'sigmoid' needs 0 or more.",
        ),
        (
            'base_lr: 1 lr_policy: "poly" power: 1 max_iter: 0',
            "solvers/x.prototxt: max_iter is 0, lr_policy 'poly' needs 1 or more.",
        ),
        (
            'base_lr: 1 lr_policy: "inv" gamma: 1',
            "solvers/x.prototxt: lr_policy 'inv' needs power, which is not set. Add `power: …`.",
        ),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(SolverError) as caught:
        policy(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('base_lr: 2 lr_policy: "exp" gamma: 1e38', math.inf),
        ('base_lr: 2 lr_policy: "poly" power: 0.5 max_iter: 1', math.nan),
        ('base_lr: 2 lr_policy: "poly" power: -1 max_iter: 99', math.inf),
    ],
)
def test_rates_that_are_no_number_are_those_of_c(text: str, expected: float) -> None:
    assert policy(text)(99) == pytest.approx(expected, nan_ok=True)
