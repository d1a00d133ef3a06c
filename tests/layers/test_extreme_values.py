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


@pytest.mark.parametrize(
    ("type", "options", "x", "top", "slopes"),
    [
        ("ReLU", "", [nan, -inf, inf, 2], [nan, nan, inf, 2], [0, 0, 1, 1]),
        ("ReLU", "relu_param { negative_slope: 0.5 }", [nan, -inf, inf, -2], [nan, -inf, inf, -1], [0, 0.5, 1, 0.5]),
        ("Clip", "clip_param { min: -1 max: 1 }", [nan, -inf, inf, 1], [-1, -1, 1, 1], [0, 0, 0, 1]),
        ("Log", "log_param { scale: 0 }", [1, nan], [-inf, -inf], [0, 0]),
        ("Log", "log_param { scale: 0 shift: 8 base: 2 }", [1, nan], [3, 3], [0, 0]),
        ("Exp", "exp_param { scale: 0 shift: 3 base: 2 }", [1, inf], [8, 8], [0, 0]),
        ("Exp", "exp_param { shift: -50 }", [0, 100], [1.9287e-22, inf], [1.9287e-22, inf]),
        ("Threshold", "", [nan, 1], [0, 1], None),
        ("Dropout", "dropout_param { dropout_ratio: 1 }", [1, 2], [1, 2], [1, 1]),
        ("Dropout", "dropout_param { dropout_ratio: 1.5 }", [1, 2], [1, 2], [1, 1]),
    ],
)
def test_neurons(type: str, options: str, x: list[float], top: list[float], slopes: list[float] | None) -> None:
    bottom = torch.tensor([float(value) for value in x], requires_grad=True)
    y = give(one_layer(type, (len(x),), options=options), bottom)
    assert y.tolist() == pytest.approx(top, nan_ok=True, rel=1e-4)
    if slopes is not None:
        assert gradient(y, bottom) == pytest.approx(slopes, rel=1e-4)


@pytest.mark.parametrize(
    ("type", "options", "x", "caffes", "right"),
    [
        ("ELU", "", [inf, -inf, 1], [nan, 0, 1], [1, 0, 1]),
        ("Swish", "", [1e30, -1e30, 0], [0, 0, 0.5], [1, 0, 0.5]),
        ("Power", "power_param { power: 3 }", [0, 2], [nan, 12], [0, 12]),
        ("Power", "power_param { power: 3 scale: 2 shift: -2 }", [1, 2], [nan, 24], [0, 24]),
        ("Power", "power_param { power: 2 }", [0, 2], [0, 4], [0, 4]),
    ],
)
def test_gradients_that_are_wrong_in_caffe(
    type: str, options: str, x: list[float], caffes: list[float], right: list[float]
) -> None:
    for follows, slopes in ((True, caffes), (False, right)):
        net = one_layer(type, (len(x),), options=options)
        net.layer("l").follows_caffe = follows
        bottom = torch.tensor([float(value) for value in x], requires_grad=True)
        assert gradient(give(net, bottom), bottom) == pytest.approx(slopes, nan_ok=True)


def test_prelu_follows_caffe_at_infinity_and_at_a_nan() -> None:
    net = one_layer("PReLU", (1, 1, 3))
    layer = net.layer("l")
    layer.follows_caffe = True
    x = torch.tensor([[[nan, inf, -2.0]]], requires_grad=True)
    y = give(net, x)
    assert y.tolist() == [[pytest.approx([nan, inf, -0.5], nan_ok=True)]]
    assert gradient(y, x) == [0, 1, 0.25]
    assert layer.blobs[0].grad is not None and layer.blobs[0].grad.isnan().all()


def test_max_pooling_skips_what_is_not_a_number() -> None:
    net = one_layer("Pooling", (1, 1, 2, 4), options="pooling_param { kernel_size: 2 stride: 2 }")
    x = torch.tensor([[[[1.0, nan, nan, -inf], [2, 3, nan, nan]]]], requires_grad=True)
    y = give(net, x)
    assert y.flatten().tolist() == [3, -torch.finfo(torch.float32).max]
    assert gradient(y, x) == [0, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("x", "place"),
    [([3, nan, 1, 2], 3), ([3, nan, 2, 1], 2), ([3, 1, 2, nan], 3), ([nan, 1, 1, 0], 2), ([nan, nan], 1)],
)
def test_argmax_starts_anew_after_a_nan(x: list[float], place: int) -> None:
    top = give(one_layer("ArgMax", (1, len(x)), options="argmax_param { axis: 1 }"), torch.tensor([x]))
    assert top.tolist() == [[place]]
