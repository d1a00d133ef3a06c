"""Rules of layers that the golden cases do not reach: other options, edges, state, refusals."""

from __future__ import annotations

from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net, randomise
from torch import Tensor

from fcn_caffe import TEST, TRAIN, DataError, GraphError, LayerError, Net
from fcn_caffe.proto.blob_file import write_blob


def one_layer(type: str, *shapes: tuple[int, ...], options: str = "", top: str = "l", phase: int = TEST) -> Net:
    """A net of one layer over inputs x0, x1 …"""
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = [input_layer(name, *shape) for name, shape in zip(names, shapes, strict=True)]
    return make_net(*inputs, layer("l", type, " ".join(names), top, options), phase=phase)


def give(net: Net, *bottoms: Tensor) -> Tensor:
    """The top `l` for these bottoms."""
    return net({f"x{i}": bottom for i, bottom in enumerate(bottoms)}, keep=("l",))["l"]


# -- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "slope"), [("power: 0", 0), ("scale: 0 shift: 2 power: 3", 0)])
def test_power_that_is_constant(options: str, slope: float) -> None:
    net = one_layer("Power", (3,), options=f"power_param {{ {options} }}")
    x = torch.tensor([0.0, torch.inf, -2.0], requires_grad=True)
    top = give(net, x)
    assert top.tolist() == [8.0 if "shift" in options else 1.0] * 3
    top.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [slope] * 3


@pytest.mark.parametrize("top", ["y", "x0"])
def test_relu_with_a_slope_below_zero_has_its_gradient_in_place_too(top: str) -> None:
    net = one_layer("ReLU", (3,), options="relu_param { negative_slope: -0.5 }", top=top)
    x = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    y = net({"x0": x}, keep=(top,))[top]
    y.sum().backward()
    assert x.grad is not None and (y.tolist(), x.grad.tolist()) == ([1, 0, 3], [-0.5, -0.5, 1])


def test_power_of_a_negative_shift_to_a_fraction_is_not_a_number() -> None:
    assert give(
        one_layer("Power", (1,), options="power_param { scale: 0 shift: -2 power: 0.5 }"), torch.ones(1)
    ).isnan()


def test_border_copies_stand_beside_what_they_copy_and_sum_their_gradients() -> None:
    options = "border_copy_param { start: 1 end: 0 copies: 2 copies: 0 }"
    x = torch.arange(8.0).reshape(1, 1, 4, 2).requires_grad_()
    top = give(one_layer("BorderCopy", (1, 1, 4, 2), options=options), x)
    assert top[0, 0, :, 0].tolist() == [0, 2, 2, 2, 4, 6, 6, 6]
    top.backward(torch.arange(16.0).reshape(top.shape))
    assert x.grad is not None and x.grad[0, 0, :, 0].tolist() == [0, 2 + 4 + 6, 8, 10 + 12 + 14]


def test_clip_with_its_bounds_crossed_gives_the_lower_as_caffe_does() -> None:
    net = one_layer("Clip", (3,), options="clip_param { min: 2 max: 1 }")
    assert give(net, torch.tensor([0.0, 1.5, 3.0])).tolist() == [2, 2, 2]


@pytest.mark.parametrize(("x", "expected"), [(-100.0, exp(-100)), (0.0, log(2)), (100.0, 100.0)])
def test_bnll_far_out(x: float, expected: float) -> None:
    assert float(give(one_layer("BNLL", (1,)), torch.tensor([x]))) == pytest.approx(expected, rel=1e-6)


def test_mvn_takes_eps_as_caffe_does_in_the_gradient() -> None:
    options = "mvn_param { eps: 0.5 }"
    net = one_layer("MVN", (1, 1, 5, 1), options=options).double()
    x = torch.tensor([1.0, 2, 4, 7, 3], dtype=torch.float64).reshape(1, 1, 5, 1).requires_grad_()
    top_diff = torch.tensor([1.0, -2, 0.5, 3, 1], dtype=torch.float64).reshape(1, 1, 5, 1)
    top = give(net, x)
    top.backward(top_diff)
    y, d = top.detach(), top_diff
    scale = x.detach().std(correction=0) + 0.5
    expected = (d - d.mean() - y * (d * y).mean()) / scale
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)
    flat = torch.full((1, 1, 5, 1), 3.0, dtype=torch.float64, requires_grad=True)
    give(net, flat).backward(top_diff)
    assert flat.grad is not None
    torch.testing.assert_close(flat.grad, (d - d.mean()) / 0.5)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_argmax_breaks_ties_towards_the_end(axis: int | None) -> None:
    x = torch.tensor([[3.0, 1, 3, 3], [0, 0, 0, -1]])
    axis_option = "" if axis is None else f"axis: {axis}"
    top = give(one_layer("ArgMax", (2, 4), options=f"argmax_param {{ {axis_option} top_k: 2 }}"), x)
    if axis == 0:
        assert top.tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]
    elif axis is None:
        assert top.tolist() == [[[3, 2]], [[2, 1]]]
    else:
        assert top.tolist() == [[3, 2], [2, 1]]


def test_argmax_writes_values_behind_positions() -> None:
    top = give(
        one_layer("ArgMax", (2, 4), options="argmax_param { out_max_val: true }"), torch.arange(8.0).reshape(2, 4)
    )
    assert top.tolist() == [[[3], [3]], [[3], [7]]]
    axis = give(one_layer("ArgMax", (2, 4), options="argmax_param { out_max_val: true axis: 1 }"), torch.eye(4)[:2])
    assert axis.tolist() == [[1], [1]]


@pytest.mark.parametrize(
    ("type", "shapes", "options"),
    [
        ("Reshape", [(1,)], "reshape_param { shape { } }"),
        ("Scale", [(), ()], ""),
        ("Bias", [(), ()], ""),
        ("Reduction", [(3,)], ""),
        ("ReLU", [()], ""),
        ("Power", [()], ""),
        ("Eltwise", [(), ()], ""),
    ],
)
def test_single_values_without_axes(type: str, shapes: list[tuple[int, ...]], options: str) -> None:
    net = one_layer(type, *shapes, options=options)
    assert net.blob_shapes["l"] == ()
    assert give(net, *(torch.ones(shape) for shape in shapes)).shape == ()


def test_filter_keeps_what_is_selected_even_nothing() -> None:
    net = one_layer("Filter", (3, 2), (3,))
    x = torch.arange(6.0).reshape(3, 2)
    assert give(net, x, torch.tensor([0.0, -1, 2])).tolist() == [[2, 3], [4, 5]]
    assert give(net, x, torch.zeros(3)).shape == (0, 2)


@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 3, 8, 7), (1, 2, 5, 6, 4)])
def test_im2col_is_what_a_convolution_multiplies(shape: tuple[int, ...]) -> None:
    options = "kernel_size: 3 stride: 2 pad: 1 dilation: 2"
    x = torch.randn(shape)
    columns = give(one_layer("Im2col", shape, options=f"convolution_param {{ {options} }}"), x)
    net = one_layer("Convolution", shape, options=f"convolution_param {{ {options} num_output: 4 bias_term: false }}")
    randomise(net)
    top = give(net, x)
    weight = net.layer("l").blobs[0].reshape(4, -1)
    rows = columns.flatten(2)
    torch.testing.assert_close((weight @ rows).reshape(top.shape), top, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "size"), [(1, (5, 3)), (2, (5, 3)), (3, (9, 14)), (3, (4, 4))])
@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_spatial_pyramid_against_loops(height: int, size: tuple[int, int], pool: str) -> None:
    x = torch.randn(2, 3, *size)
    pyramid = give(one_layer("SPP", (2, 3, *size), options=f"spp_param {{ pyramid_height: {height} pool: {pool} }}"), x)
    parts = []
    for level in range(height):
        bins, level_tops = 2**level, []
        (kh, ph), (kw, pw) = (((k := -(-s // bins)), (k * bins - s + 1) // 2) for s in size)
        for i in range(bins):
            for j in range(bins):
                top, left = i * kh - ph, j * kw - pw
                window = x[:, :, max(top, 0) : top + kh, max(left, 0) : left + kw].flatten(2)
                area = (min(top + kh, size[0] + ph) - top) * (min(left + kw, size[1] + pw) - left)
                level_tops.append(window.amax(2) if pool == "MAX" else window.sum(2) / area)
        parts.append(torch.stack(level_tops, 2).flatten(1))
    torch.testing.assert_close(pyramid.flatten(1), torch.cat(parts, 1))
    assert give(one_layer("SPP", (2, 3, *size), options="spp_param { pyramid_height: 1 }"), x).shape == (2, 3, 1, 1)


def test_stochastic_pooling_in_test_weighs_values_by_themselves() -> None:
    x = torch.rand(1, 2, 5, 5)
    x[0, 0, :2, :2] = 0
    top = give(one_layer("Pooling", x.shape, options="pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }"), x)
    assert top.shape == (1, 2, 3, 3)
    for i in range(3):
        for j in range(3):
            window = x[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1)
            expected = window.square().sum(1) / window.sum(1).clamp(min=1e-30)
            torch.testing.assert_close(top[0, :, i, j], expected)


def test_stochastic_pooling_in_training_draws_in_proportion_and_sends_the_gradient_there() -> None:
    options = "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }"
    net = one_layer("Pooling", (1, 4000, 2, 3), options=options, phase=TRAIN)
    values = torch.tensor([[1.0, 2.0, 5.0], [0.0, 5.0, 0.0]])
    x = values.expand(1, 4000, 2, 3).clone().requires_grad_()
    torch.manual_seed(0)
    top = give(net, x)
    share = [(top[0, :, 0, 0] == value).float().mean().item() for value in (0.0, 1.0, 2.0, 5.0)]
    np.testing.assert_allclose(share, [0, 1 / 8, 2 / 8, 5 / 8], atol=0.03)
    assert bool((top[0, :, 0, 1] == 5).all()), "the clipped window holds 5 and 0"
    top.sum().backward()
    assert x.grad is not None
    assert float(x.grad.sum()) == top.numel()
    torch.testing.assert_close((x.grad * x.detach()).sum(), top.detach().sum())


# -- recurrent ---------------------------------------------------------------------------------------------------


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("expose", [False, True])
@pytest.mark.parametrize("type", ["LSTM", "RNN"])
def test_recurrent_layers_step_by_step(type: str, expose: bool, static: bool) -> None:
    T, N, D, H = 4, 2, 3, 5
    names = ["h", "c"] if type == "LSTM" else ["h"]
    shapes = [(T, N, D), (T, N)] + [(N, 2, 2)] * static + [(1, N, H)] * len(names) * expose
    top = " ".join(["l"] + [f"{name}_T" for name in names] * expose)
    net = one_layer(
        type, *shapes, options=f"recurrent_param {{ num_output: {H} expose_hidden: {expose} }}".lower(), top=top
    )
    randomise(net)
    bottoms = [torch.randn(shape) for shape in shapes]
    bottoms[1] = torch.tensor([[0.0, 1], [1, 1], [0, 1], [1, 1]])
    tops = net({f"x{i}": bottom for i, bottom in enumerate(bottoms)})
    params = [blob.detach() for blob in net.layer("l").blobs]
    weight, bias = params.pop(0), params.pop(0)
    constant = bottoms[2].flatten(1) @ params.pop(0).t() if static else torch.zeros(())
    states = [bottom[0] for bottom in bottoms[2 + static :]] if expose else [torch.zeros(N, H)] * len(names)
    for t in range(T):
        gates = bottoms[0][t] @ weight.t() + bias + constant
        cont = bottoms[1][t][:, None]
        gates = gates + (cont * states[0]) @ params[0].t()
        if type == "LSTM":
            i, f, o, g = (gates[:, H * k : H * k + H] for k in range(4))
            c = sigmoid(f) * cont * states[1] + sigmoid(i) * g.tanh()
            states = [sigmoid(o) * c.tanh(), c]
            output = states[0]
        else:
            states = [gates.tanh()]
            output = (states[0] @ params[1].t() + params[2]).tanh()
        torch.testing.assert_close(tops["l"][t], output, rtol=1e-4, atol=1e-5)
    for name, state in zip(names, states, strict=True):
        if expose:
            assert not tops[f"{name}_T"].requires_grad, "Caffe shares the states' values, not their gradients"
            torch.testing.assert_close(tops[f"{name}_T"][0], state, rtol=1e-4, atol=1e-5)


def test_a_recurrent_layer_goes_on_where_it_stopped_until_cont_is_zero() -> None:
    net = one_layer("LSTM", (2, 1, 3), (2, 1), options="recurrent_param { num_output: 2 }")
    randomise(net)
    x = torch.randn(4, 1, 3)
    going = torch.ones(2, 1)
    halves = torch.cat([give(net, x[:2], going), give(net, x[2:], going)])
    net.layer("l").reset()
    whole = give(net, x, torch.ones(4, 1))
    torch.testing.assert_close(halves, whole)
    first = give(net, x[:2], torch.tensor([[0.0], [1]]))
    torch.testing.assert_close(first, halves[:2], msg="cont 0 forgets")


# -- losses ------------------------------------------------------------------------------------------------------


def test_a_loss_need_not_name_its_top() -> None:
    net = one_layer("EuclideanLoss", (2, 3), (2, 3), top="")
    assert net.graph.outputs == ()
    loss, _ = net.forward_loss({"x0": torch.ones(2, 3), "x1": torch.zeros(2, 3)})
    assert float(loss) == 1.5
    with pytest.raises(LayerError, match="takes 1 top"):
        one_layer("ReLU", (2,), top="")


def test_infogain_from_a_file_with_ignored_labels(tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).random((3, 3)).astype(np.float32)
    write_blob(tmp_path / "h.binaryproto", matrix)
    text = [input_layer("x", 2, 3, 2), input_layer("label", 2, 2)]
    options = f'infogain_loss_param {{ source: "{tmp_path}/h.binaryproto" }} loss_param {{ ignore_label: 255 }}'
    net = make_net(*text, layer("l", "InfogainLoss", "x label", "l p", f"{options} loss_weight: 1 loss_weight: 0"))
    score = torch.randn(2, 3, 2, requires_grad=True)
    label = torch.tensor([[0.0, 255], [2, 1]])
    tops = net({"x": score, "label": label})
    probability = torch.softmax(score, 1).detach()
    expected, slope = 0.0, torch.zeros_like(probability)
    for n, k, place in ((0, 0, 0), (1, 2, 0), (1, 1, 1)):
        row = torch.from_numpy(matrix[k])
        p = probability[n, :, place]
        expected -= float((row * p.log()).sum()) / 3
        slope[n, :, place] = (row.sum() * p - row) / 3
    assert float(tops["l"].detach()) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(tops["p"].detach(), probability)
    tops["l"].backward()
    torch.testing.assert_close(score.grad, slope)


def test_logarithms_of_nothing_stop_at_caffes_threshold() -> None:
    net = one_layer("MultinomialLogisticLoss", (1, 2), (1,))
    x = torch.tensor([[0.0, 1.0]], requires_grad=True)
    loss = give(net, x, torch.zeros(1))
    assert float(loss.detach()) == pytest.approx(-log(1e-20), rel=1e-5)
    loss.backward()
    assert x.grad is not None and float(x.grad[0, 0]) == pytest.approx(-1e20, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "divisor"),
    [
        ("", 2),
        ("normalization: FULL", 6),
        ("normalization: VALID", 5),
        ("normalization: NONE", 1),
        ("normalize: true", 5),
        ("normalize: false", 2),
    ],
)
def test_normalisers_of_sigmoid_cross_entropy(options: str, divisor: int) -> None:
    net = one_layer("SigmoidCrossEntropyLoss", (2, 3), (2, 3), options=f"loss_param {{ ignore_label: -1 {options} }}")
    target = torch.tensor([[1.0, 0, -1], [0, 1, 1]])
    assert float(give(net, torch.zeros(2, 3), target)) == pytest.approx(5 * log(2) / divisor)


def test_a_legacy_contrastive_pair_at_the_margin_has_no_slope() -> None:
    net = one_layer("ContrastiveLoss", (2, 2), (2, 2), (2,), options="contrastive_loss_param { legacy_version: true }")
    x = torch.tensor([[1.0, 0], [0, 0.5]], requires_grad=True)
    give(net, x, torch.zeros(2, 2), torch.zeros(2)).backward()
    assert x.grad is not None and x.grad.tolist() == [[0, 0], [0, -0.25]]


@pytest.mark.parametrize(("type", "bottoms"), [("SoftmaxWithLoss", 2), ("InfogainLoss", 3)])
def test_nothing_flows_back_through_the_softmax_beside_a_loss(type: str, bottoms: int) -> None:
    net = one_layer(type, *[(2, 3), (2,), (3, 3)][:bottoms], top="l p", options="loss_weight: 1 loss_weight: 0")
    x = torch.randn(2, 3, requires_grad=True)
    bottoms_given = [x, torch.zeros(2), torch.eye(3)][:bottoms]
    tops = net({f"x{i}": bottom for i, bottom in enumerate(bottoms_given)}, keep=("l", "p"))
    assert tops["l"].requires_grad and not tops["p"].requires_grad
    torch.testing.assert_close(tops["p"], torch.softmax(x.detach(), 1))


def test_eltwise_max_overlooks_coefficients_as_caffe_does() -> None:
    net = one_layer("Eltwise", (2,), (2,), options="eltwise_param { operation: MAX coeff: 5 coeff: 1 }")
    assert give(net, torch.tensor([1.0, 2]), torch.tensor([3.0, 0])).tolist() == [3, 2]


def test_argmax_of_single_values() -> None:
    assert give(one_layer("ArgMax", (4,)), torch.randn(4)).tolist() == [[[0]]] * 4


@pytest.mark.parametrize(
    "filler", ["type: 'xavier'", "type: 'msra'", "type: 'positive_unitball'", "type: 'gaussian' sparse: 1"]
)
def test_fillers_that_want_axes(filler: str) -> None:
    with pytest.raises(LayerError, match=r"layer 'l' \(Scale\).* is for blobs with axes"):
        one_layer("Scale", (2, 3), options=f"scale_param {{ num_axes: 0 filler {{ {filler} }} }}")


def test_a_contrastive_pair_that_is_equal_has_a_finite_gradient() -> None:
    net = one_layer("ContrastiveLoss", (1, 2), (1, 2), (1,))
    x = torch.ones(1, 2, requires_grad=True)
    give(net, x, torch.ones(1, 2), torch.zeros(1)).backward()
    assert x.grad is not None and x.grad.tolist() == [[0, 0]]


# -- refusals ----------------------------------------------------------------------------------------------------

REFUSED = [
    ("AbsVal", [(2,)], "", "x0", "does not allow in-place computation"),
    ("Reshape", [(2,)], "reshape_param { shape { dim: 2 } }", "x0", "does not allow in-place"),
    ("Clip", [(2,)], "", "l", "clip_param lacks min and max"),
    ("Exp", [(2,)], "exp_param { base: -2 }", "l", "base must be positive, or -1 for e; got -2"),
    ("Log", [(2,)], "log_param { base: 1 }", "l", "base 1 has no logarithm"),
    ("PReLU", [(2,)], "", "l", "needs at least 2 axes"),
    ("Tile", [(2, 2)], "", "l", "tiles must be given and at least 1"),
    ("ArgMax", [(2, 3)], "argmax_param { top_k: 4 }", "l", "top_k 4 must be between 1 and the 3"),
    ("BatchReindex", [(2, 3), (2, 1)], "", "l", "one index per item"),
    ("Filter", [(2, 3), (3,)], "", "l", "as many items as the selector, 3"),
    ("Filter", [(2, 3), (2, 2)], "", "l", "give one value per item"),
    ("Filter", [(2, 3), (2,)], "", "l m", "2 tops for 1 bottoms besides the selector"),
    ("Embed", [(2,)], "embed_param { num_output: 3 }", "l", "must be at least 1, got 3 and 0"),
    ("Bias", [(2, 3), (4,)], "", "l", "bottom 1 is 4, bottom 0 is 2x3"),
    ("Bias", [(2, 3)], "bias_param { num_axes: 5 }", "l", "pass the end of 2x3"),
    ("EuclideanLoss", [(2, 3), (2, 4)], "", "l", "as many values each"),
    ("ContrastiveLoss", [(2, 3), (2, 4), (2,)], "", "l", "give N x C twice"),
    ("ContrastiveLoss", [(2, 3), (2, 3), (1,)], "", "l", "one value per pair"),
    ("HingeLoss", [(2, 3), (3,)], "", "l", "first axes must be of the same size"),
    ("HingeLoss", [(), ()], "", "l", "first axes must be of the same size"),
    ("SoftmaxWithLoss", [(2, 3), (1, 2)], "", "l", "first axes must be of the same size"),
    ("EuclideanLoss", [(2, 3), (3, 2)], "", "l", "first axes must be of the same size"),
    ("MultinomialLogisticLoss", [(2, 3), (2, 2)], "", "l", "one label for each"),
    ("InfogainLoss", [(2, 3), (2,), (3, 3)], "loss_param { normalize: true }", "l", "normalization: VALID"),
    ("InfogainLoss", [(2, 3), (2,)], "", "l", "needs its matrix"),
    ("InfogainLoss", [(2, 3), (2,), (2, 2)], "", "l", "expected 3x3 for 3 classes"),
    ("SigmoidCrossEntropyLoss", [(2, 3), (2,)], "", "l", "one target per score"),
    ("SPP", [(1, 1, 3, 3)], "spp_param { pyramid_height: 3 }", "l", "Use a smaller pyramid_height"),
    ("SPP", [(1, 1, 3, 3)], "", "l", "pyramid_height must be at least 1"),
    ("Pooling", [(1, 1, 3, 3)], "pooling_param { pool: STOCHASTIC kernel_size: 2 pad: 1 }", "l", "pad is only for"),
    ("LSTM", [(2, 3, 4)], "recurrent_param { num_output: 2 }", "l", "takes at least 2 bottom"),
    ("LSTM", [(2, 3, 4), (3, 2)], "recurrent_param { num_output: 2 }", "l", "must be T x N, 2x3"),
    ("LSTM", [(2, 3, 1), (2, 3)], "", "l", "num_output must be at least 1"),
    ("LSTM", [(2, 3, 1), (2, 3), (4, 1)], "recurrent_param { num_output: 2 }", "l", "values with N = 3, got 4x1"),
    ("LSTM", [(2, 3), (2, 3)], "recurrent_param { num_output: 2 }", "l", "needs 3 axes or more, T x N x values"),
    ("RNN", [(2, 3, 1), (2, 3), (3,)], "recurrent_param { num_output: 2 }", "l", "must be N x values"),
    ("RNN", [(2, 3, 1), (2, 3)], "recurrent_param { num_output: 2 expose_hidden: true }", "l", "takes 3 bottoms"),
    ("RNN", [(2, 3, 1), (2, 3), (1, 3, 3)], "recurrent_param { num_output: 2 expose_hidden: true }", "l h", "1x3x2"),
    ("Im2col", [(1, 1, 3, 3)], "convolution_param { kernel_size: 9 }", "l", "too small"),
    ("BorderCopy", [(1, 1, 4, 4)], "border_copy_param { start: 1 end: 1 }", "l", "copies is given 0 times"),
    ("BorderCopy", [(1, 4, 4)], "border_copy_param { start: 1 end: 1 copies: 1 }", "l", "needs a 4-D bottom"),
    ("BorderCopy", [(1, 1, 4, 3)], "border_copy_param { start: 1 end: 1 copies: 1 }", "l", "W needs 4 places"),
]


@pytest.mark.parametrize(("type", "shapes", "options", "top", "message"), REFUSED)
def test_refused_when_building(type: str, shapes: list[tuple[int, ...]], options: str, top: str, message: str) -> None:
    with pytest.raises(LayerError, match=f"layer 'l' \\({type}\\).*") as caught:
        one_layer(type, *shapes, options=options, top=top)
    assert message in str(caught.value)


def test_indices_out_of_range_name_the_layer() -> None:
    with pytest.raises(LayerError, match=r"layer 'l' \(BatchReindex\): index 5 is outside the batch, 0 to 1"):
        give(one_layer("BatchReindex", (2, 3), (2,)), torch.ones(2, 3), torch.tensor([0.0, 5]))
    net = one_layer("Embed", (2,), options="embed_param { num_output: 3 input_dim: 4 }")
    with pytest.raises(LayerError, match=r"layer 'l' \(Embed\): index -1 is outside input_dim, 0 to 3"):
        give(net, torch.tensor([0.0, -1]))


def test_a_missing_infogain_matrix_says_where_it_looked() -> None:
    with pytest.raises(DataError, match=r"h\.binaryproto"):
        one_layer("InfogainLoss", (2, 3), (2,), options='infogain_loss_param { source: "h.binaryproto" }')


def test_a_bilinear_filler_without_group_warns() -> None:
    options = "kernel_size: 4 stride: 2 num_output: 3 weight_filler { type: 'bilinear' }"
    with pytest.warns(UserWarning, match=r"layer 'l' \(Deconvolution\): the bilinear filler .* sums 3 .*surgery"):
        one_layer("Deconvolution", (1, 3, 4, 4), options=f"convolution_param {{ {options} }}")
    one_layer("Deconvolution", (1, 3, 4, 4), options=f"convolution_param {{ {options} group: 3 }}")
    one_layer("Deconvolution", (1, 1, 4, 4), options=f"convolution_param {{ {options} }}")


def test_an_automatic_top_cannot_be_read() -> None:
    text = [input_layer("x", 2, 3), layer("loss", "EuclideanLoss", "x x", ""), layer("r", "ReLU", "loss", "r")]
    with pytest.raises(GraphError, match="bottom 'loss' is not produced"):
        make_net(*text)


@pytest.mark.parametrize(
    ("type", "shapes", "top"),
    [
        ("ArgMax", [(0, 3, 2)], (0, 1, 1)),
        ("MVN", [(0, 3, 2, 2)], (0, 3, 2, 2)),
        ("Reduction", [(0, 3)], ()),
        ("HingeLoss", [(0, 3), (0, 1)], ()),
        ("MultinomialLogisticLoss", [(0, 3), (0, 1)], ()),
        ("ContrastiveLoss", [(0, 3), (0, 3), (0, 1)], ()),
        ("Im2col convolution_param { kernel_size: 2 }", [(0, 3, 4, 4)], (0, 12, 3, 3)),
        ("SPP spp_param { pyramid_height: 2 }", [(0, 3, 4, 4)], (0, 15)),
        ("ShuffleChannel shuffle_channel_param { group: 2 }", [(0, 4, 2, 2)], (0, 4, 2, 2)),
        ("Reshape reshape_param { shape { dim: 0 dim: 2 dim: -1 } }", [(0, 8)], (0, 2, 4)),
        ("Reshape reshape_param { shape { dim: -1 dim: 8 } }", [(0, 8)], (0, 8)),
    ],
)
def test_a_batch_of_nothing_runs(type: str, shapes: list[tuple[int, ...]], top: tuple[int, ...]) -> None:
    type, _, options = type.partition(" ")
    assert give(one_layer(type, *shapes, options=options), *(torch.zeros(shape) for shape in shapes)).shape == top


@pytest.mark.parametrize(
    ("type", "value", "message"),
    [
        ("SoftmaxWithLoss", 7, r"label 7 is outside the 3 classes .* give loss_param \{ ignore_label: 7 \} if it"),
        ("Accuracy", -1, r"label -1 is outside the 3 classes .* give accuracy_param \{ ignore_label: -1 \} if it"),
        ("HingeLoss", 7, r"label 7 is outside the 3 classes \(0 to 2\)\. Check the labels\.$"),
        ("SoftmaxWithLoss", float("nan"), r"a label is NaN, infinite or beyond 32 bits, wanted 0 to 2\. Check"),
        ("Accuracy", float("inf"), "a label is NaN, infinite or beyond 32 bits"),
    ],
)
def test_a_bad_label_is_told_with_the_cure_that_the_layer_knows(type: str, value: float, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        give(one_layer(type, (2, 3), (2, 1)), torch.zeros(2, 3), torch.full((2, 1), value))


@pytest.mark.parametrize("filler", ["gaussian std: nan", "uniform min: -inf", "constant value: inf"])
def test_fillers_of_no_number(filler: str) -> None:
    kind, field = filler.split(" ", 1)
    options = f'inner_product_param {{ num_output: 1 weight_filler {{ type: "{kind}" {field} }} }}'
    with pytest.raises(LayerError, match=r"a filler's (std|min|value) must be a finite number"):
        one_layer("InnerProduct", (1, 2), options=options)
