"""Huge scores, infinities and NaN: what Caffe's arithmetic in C++ makes of them."""

from __future__ import annotations

import pytest
import torch
from test_layer_rules import give, one_layer
from torch import Tensor, inf, nan


def gradient(net_top: Tensor, x: Tensor) -> list[float]:
    """The gradient of the sum of a top by x, as a flat list."""
    net_top.sum().backward()
    assert x.grad is not None
    return [float(value) for value in x.grad.flatten()]


@pytest.mark.parametrize("score", [88, 1e3, 1e7, 1e9, 3e9, 1e30])
def test_softmax_loss_of_a_huge_score_is_minus_the_logarithm_of_flt_min(score: float) -> None:
    x = torch.tensor([[0.0, score]], requires_grad=True)
    loss = give(one_layer("SoftmaxWithLoss", (1, 2), (1,)), x, torch.zeros(1))
    assert loss.item() == pytest.approx(87.3365, abs=1e-3)
    assert gradient(loss, x) == pytest.approx([-1, 1])


def test_softmax_loss_where_the_labels_score_is_minus_infinity() -> None:
    x = torch.tensor([[-inf, 0.0]], requires_grad=True)
    loss = give(one_layer("SoftmaxWithLoss", (1, 2), (1,)), x, torch.zeros(1))
    assert loss.item() == pytest.approx(87.3365, abs=1e-3)
    assert gradient(loss, x) == [-1, 1]


@pytest.mark.parametrize("type", ["SoftmaxWithLoss", "InfogainLoss", "SigmoidCrossEntropyLoss"])
@pytest.mark.parametrize("bad", [inf, -inf, nan])
def test_a_bad_score_at_an_ignored_place_has_no_gradient(type: str, bad: float) -> None:
    x = torch.tensor([[bad, 0.0], [0.0, 0.0]], requires_grad=True)
    label = torch.tensor([[1.0, 1], [0, 0]]) if type.startswith("Sigmoid") else torch.tensor([1.0, 0])
    bottoms = [x, label, torch.eye(2)][: 3 if type == "InfogainLoss" else 2]
    net = one_layer(type, *(tuple(bottom.shape) for bottom in bottoms), options="loss_param { ignore_label: 1 }")
    loss = give(net, *bottoms)
    assert loss.isfinite()
    slopes = gradient(loss, x)
    assert slopes[:2] == [0, 0] and slopes[2] != 0


@pytest.mark.parametrize("score", [200, 1e4, 1e10])
def test_infogain_loss_of_a_huge_score_is_minus_the_logarithm_of_its_threshold(score: float) -> None:
    x = torch.tensor([[0.0, score]], requires_grad=True)
    loss = give(one_layer("InfogainLoss", (1, 2), (1,), (2, 2)), x, torch.zeros(1), torch.eye(2))
    assert loss.item() == pytest.approx(46.0517, abs=1e-3)
    assert gradient(loss, x) == pytest.approx([-1, 1])


@pytest.mark.parametrize(
    ("score", "target", "loss", "slope"),
    [
        (1e30, 1, 0, 0),
        (-1e30, 0, 0, 0),
        (1e30, 0, 1e30, 1),
        (-inf, 1, inf, -1),
        (inf, 0, inf, 1),
        (0, 0.25, 0.6931, 0.25),
    ],
)
def test_sigmoid_cross_entropy_of_huge_scores(score: float, target: float, loss: float, slope: float) -> None:
    x = torch.tensor([[float(score)]], requires_grad=True)
    top = give(one_layer("SigmoidCrossEntropyLoss", (1, 1), (1, 1)), x, torch.tensor([[target]]))
    assert top.item() == pytest.approx(loss, rel=1e-4)
    assert gradient(top, x) == pytest.approx([slope])


def test_sigmoid_cross_entropy_keeps_the_small_part_of_a_large_score() -> None:
    net = one_layer("SigmoidCrossEntropyLoss", (1, 1), (1, 1))
    target = torch.tensor([[1 - 2.0**-20]])
    assert float(give(net, torch.tensor([[1e8]]), target)) == pytest.approx(1e8 * 2.0**-20, rel=1e-5)


@pytest.mark.parametrize(
    ("probability", "loss", "slope"), [(-inf, 46.0517, -1e20), (inf, -inf, 0), (0, 46.0517, -1e20), (0.5, 0.6931, -2)]
)
def test_multinomial_logistic_loss_bounds_the_probability(probability: float, loss: float, slope: float) -> None:
    x = torch.tensor([[probability, 1.0]], requires_grad=True)
    top = give(one_layer("MultinomialLogisticLoss", (1, 2), (1,)), x, torch.zeros(1))
    assert top.item() == pytest.approx(loss, rel=1e-4)
    assert gradient(top, x) == pytest.approx([slope, 0])


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_hinge_loss_skips_a_score_that_is_not_a_number(norm: str) -> None:
    x = torch.tensor([[nan, 0.0]], requires_grad=True)
    loss = give(one_layer("HingeLoss", (1, 2), (1,), options=f"hinge_loss_param {{ norm: {norm} }}"), x, torch.zeros(1))
    assert loss.item() == 1
    assert gradient(loss, x) == [0, 1 if norm == "L1" else 2]


def test_hinge_loss_reads_the_first_values_of_a_larger_label() -> None:
    scores = torch.tensor([[1.0, -2], [0.5, 3]])
    loss = give(one_layer("HingeLoss", (2, 2), (2, 2)), scores, torch.tensor([[0.0, 1], [0, 0]]))
    assert loss.item() == pytest.approx((0 + 0 + 1.5 + 0) / 2)  # the labels are 0 and 1


def test_contrastive_loss_of_single_values_and_of_distances_that_overflow() -> None:
    net = one_layer("ContrastiveLoss", (2,), (2,), (3,), options="contrastive_loss_param { margin: 4 }")
    first = torch.tensor([3.0, 1e30], requires_grad=True)
    loss = give(net, first, torch.tensor([1.0, 0]), torch.zeros(3))
    assert loss.item() == pytest.approx((4 - 2) ** 2 / 4)
    assert gradient(loss, first) == pytest.approx([-(4 - 2) * 2 / (2 + 1e-4) / 2, 0])
