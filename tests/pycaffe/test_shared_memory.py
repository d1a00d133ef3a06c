"""Blobs that are one memory in Caffe: in place on one changes the others, forward and backward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer

import fcn_caffe.pycaffe as caffe
import fcn_caffe.pycaffe.memory as memory_module
from fcn_caffe import Net

TWICE = "power_param { scale: 2 }"
NUMBERS = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)


@pytest.fixture(autouse=True, params=["one memory", "two memories"])
def memories(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two, arrays are copies that count as the newest once they are handed out, as they are of a GPU."""
    if request.param == "two memories":
        monkeypatch.setattr(memory_module, "can_be_array", lambda tensor: False)


def make(folder: Path, *text: str, phase: int = caffe.TEST) -> caffe.Net:
    path = folder / "net.prototxt"
    path.write_text("\n".join(text))
    return caffe.Net(str(path), phase)


SHARING = [
    ("Reshape", "reshape_param { shape { dim: 6 dim: -1 } }", [6, 20]),
    ("Flatten", "", [2, 60]),
    ("Concat", "", [2, 3, 4, 5]),
    ("Slice", "", [2, 3, 4, 5]),
]


@pytest.mark.parametrize(("kind", "options", "shape"), SHARING)
def test_a_top_that_is_its_bottom_in_another_shape(kind: str, options: str, shape: list[int], tmp_path: Path) -> None:
    text = ["force_backward: true", input_layer("x", 2, 3, 4, 5), layer("y", kind, "x", more=options)]
    net = make(tmp_path, *text, layer("double", "Power", "y", "y", TWICE))
    net.blobs["x"].data[...] = NUMBERS
    net.forward()
    np.testing.assert_array_equal(net.blobs["x"].data, 2 * NUMBERS)
    net.blobs["y"].data[...] = 5
    assert (net.blobs["x"].data == 5).all()
    net.blobs["y"].diff[...] = 1
    net.backward()
    # Power in place writes its slope, 2, over the diff before it multiplies by it.
    assert (net.blobs["x"].diff == 4).all() and net.blobs["x"].diff.shape == (2, 3, 4, 5)
    assert net.blobs["y"].diff.shape == tuple(shape)


@pytest.mark.parametrize(("kind", "options", "shape"), SHARING)
def test_only_flattens_diff_is_apart_until_backward(kind: str, options: str, shape: list[int], tmp_path: Path) -> None:
    net = make(tmp_path, input_layer("x", 2, 3, 4, 5), layer("y", kind, "x", more=options))
    net.forward()
    net.blobs["y"].diff[...] = 1
    assert net.blobs["x"].diff.all() == (kind != "Flatten")
    net.backward()  # it runs no layer: nothing learns
    assert net.blobs["x"].diff.all() == (kind != "Flatten")


def test_flatten_behind_a_reshape_leaves_the_reshapes_bottom_without_a_gradient(tmp_path: Path) -> None:
    text = [
        "force_backward: true",
        input_layer("x", 1, 2),
        layer("r", "Reshape", "x", more="reshape_param { shape { dim: 0 dim: 0 } }"),
    ]
    net = make(tmp_path, *text, layer("f", "Flatten", "r"), layer("p", "Power", "f", more=TWICE))
    net.forward()
    net.blobs["p"].diff[...] = 3
    net.backward()
    assert net.blobs["r"].diff.tolist() == [[6, 6]] and net.blobs["x"].diff.tolist() == [[0, 0]]


def test_shared_memory_follows_a_reshape(tmp_path: Path) -> None:
    net = make(tmp_path, input_layer("x", 2, 3), layer("y", "Flatten", "x", more="flatten_param { axis: 0 }"))
    for rows in (1, 4, 2):
        net.blobs["x"].reshape(rows, 3)
        net.blobs["x"].data[...] = np.arange(rows * 3).reshape(rows, 3)
        assert net.blobs["y"].data.shape != (rows * 3,)  # until the layer runs
        net.forward()
        assert net.blobs["y"].data.tolist() == list(range(rows * 3))
        net.blobs["y"].diff[...] = rows


def test_what_reads_a_shared_blob_later_sees_it_changed(tmp_path: Path) -> None:
    text = [input_layer("x", 2), layer("r", "Reshape", "x", more="reshape_param { shape { dim: 1 dim: 2 } }")]
    text += [layer("before", "Power", "x"), layer("square", "Power", "r", "r", "power_param { power: 2 }")]
    net = make(tmp_path, *text, layer("after", "Power", "x"))
    net.blobs["x"].data[...] = [3, 4]
    tops = net.forward()
    assert tops["before"].tolist() == [3, 4] and tops["after"].tolist() == [9, 16]


def test_in_place_on_a_parameters_top_overwrites_the_parameter(tmp_path: Path) -> None:
    parameter = layer("p", "Parameter", "", more="parameter_param { shape { dim: 2 } }")
    text = ["force_backward: true", parameter, layer("double", "Power", "p", "p", TWICE)]
    net = make(tmp_path, *text, layer("y", "Power", "p", more="power_param { power: 2 }"))
    net.params["p"][0].data[...] = [1, 2]
    for passes in (1, 2):
        net.forward()
        assert net.params["p"][0].data.tolist() == [2**passes, 2 * 2**passes]
        net.blobs["y"].diff[...] = 1
        net.backward()
        assert net.params["p"][0].diff.tolist() == [4, 4]  # written, not added


def test_a_loss_weight_in_place_is_overwritten_by_backward(tmp_path: Path) -> None:
    weighted = layer("relu", "ReLU", "s", "s", "loss_weight: 2")
    net = make(tmp_path, input_layer("x", 3), layer("s", "Scale", "x", more="scale_param { axis: 0 }"), weighted)
    net.blobs["x"].data[...] = [-1, 2, 3]
    assert net.run_forward(0, 2) == 10
    net.backward()
    assert net.blobs["s"].diff.tolist() == [0, 2, 2] and net.params["s"][0].diff.tolist() == [0, 4, 6]
    net.blobs["s"].diff[...] = [5, 1, 0]
    assert net.run_forward(0, 2) == 2


# -- layers whose blobs are overwritten ---------------------------------------------------------------------------

LAYERS = {
    "BNLL": "",
    "Clip": "clip_param { min: -0.5 max: 0.4 }",
    "ELU": "elu_param { alpha: 0.7 }",
    "Exp": "exp_param { base: 2 scale: 0.5 shift: 0.3 }",
    "LRN": "lrn_param { local_size: 3 alpha: 2 beta: 0.6 }",
    "LRN within": "lrn_param { local_size: 3 alpha: 2 beta: 0.6 norm_region: WITHIN_CHANNEL }",
    "Log": "log_param { base: 3 scale: 0.4 shift: 3 }",
    "MVN": "mvn_param { eps: 0.1 }",
    "MVN across": "mvn_param { across_channels: true eps: 0.1 }",
    "MVN mean": "mvn_param { normalize_variance: false }",
    "Power": "power_param { power: 3 scale: 0.5 shift: 2 }",
    "Power 2": "power_param { power: 2 scale: 0.5 shift: 2 }",
    "Power 1": "power_param { power: 1 scale: 0.5 shift: 2 }",
    "Power without shift": "power_param { power: 3 scale: 0.5 }",
    "Power 0": "power_param { power: 0 }",
    "ReLU": "relu_param { negative_slope: 0.1 }",
    "Sigmoid": "",
    "Softmax": "",
    "Swish": "swish_param { beta: 1.5 }",
    "TanH": "",
    "BatchNorm": "batch_norm_param { use_global_stats: false }",
    "Pooling": "pooling_param { kernel_size: 2 }",
    "Convolution": "convolution_param { num_output: 2 kernel_size: 2 weight_filler { type: 'gaussian' std: 1 } }",
    "PReLU": "",
}


@pytest.mark.parametrize("case", LAYERS)
def test_an_overwritten_layer_goes_backward_as_autograd_does_if_the_numbers_are_the_same(
    case: str, tmp_path: Path
) -> None:
    """Dropout of TEST overwrites bottom and top by what they are."""
    same = [layer("r", "Flatten", "x"), layer("same_x", "Dropout", "r", "r"), layer("same_y", "Dropout", "y", "y")]
    text = ["force_backward: true", input_layer("x", 2, 3, 4, 5), layer("y", case.split()[0], "x", more=LAYERS[case])]
    torch.manual_seed(0)
    net = make(tmp_path, *text, *same)
    steps = {step.node.name: step for step in net.executor.steps}
    computes = case.split()[0] not in ("BatchNorm", "Pooling", "Convolution", "PReLU", "ReLU")
    assert (steps["y"].overwritten is not None) == computes
    net.blobs["x"].data[...] = NUMBERS
    y = net.forward()["y"]
    top_diff = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    net.blobs["y"].diff[...] = top_diff
    net.backward()

    (tmp_path / "core.prototxt").write_text("\n".join(text))
    core = Net(tmp_path / "core.prototxt")
    core.layer("y").load_state_dict(net.core.layer("y").state_dict())
    x = torch.from_numpy(NUMBERS.copy()).requires_grad_()
    (gradient,) = torch.autograd.grad(core(x=x)["y"], x, torch.from_numpy(top_diff))
    np.testing.assert_allclose(net.blobs["x"].diff, gradient, rtol=1e-4, atol=1e-5)


def test_who_reads_an_overwritten_bottom_late_and_who_keeps_it(tmp_path: Path) -> None:
    """The bottom x is 3 and becomes 6 before backward: SUMSQ reads 6 for its gradient, EuclideanLoss kept 3."""
    text = [
        "force_backward: true",
        input_layer("x", 1, 1),
        layer("r", "Reshape", "x", more="reshape_param { shape { dim: 0 dim: 0 } }"),
    ]
    text += [layer("late", "Reduction", "x", more="reduction_param { operation: SUMSQ }"), input_layer("zero", 1, 1)]
    text += [layer("kept", "EuclideanLoss", "x zero"), layer("double", "Power", "r", "r", TWICE)]
    net = make(tmp_path, *text)
    net.blobs["x"].data[...] = 3
    tops = net.forward()
    assert float(tops["late"]) == 9 and float(tops["kept"]) == 4.5
    net.blobs["late"].diff[...] = 1
    net.backward()
    assert net.blobs["x_x_0_split_1"].diff.tolist() == [[12]]
    assert net.blobs["x_x_0_split_2"].diff.tolist() == [[3]]


@pytest.mark.parametrize(
    ("options", "sums", "gradients"),
    [
        ("operation: SUM coeff: 2 coeff: 3 coeff: 1", 3 * 5 + 7, [4 * 2, 8 * 3, 8 * 1]),
        ("operation: PROD", 2 * 5 * 7, [(5 * 7) ** 2, 70 * 7 * 35**2, 70 * 5 * 35**2]),
        ("operation: MAX", 7, [0, 0, 0]),
    ],
)
def test_eltwise_in_place_reads_what_it_has_written(
    options: str, sums: float, gradients: list[float], tmp_path: Path
) -> None:
    text = ["force_backward: true", *(input_layer(name, 1) for name in "abc")]
    net = make(tmp_path, *text, layer("sum", "Eltwise", "a b c", "a", f"eltwise_param {{ {options} }}"))
    for name, number in zip("abc", (2, 5, 7), strict=True):
        net.blobs[name].data[...] = number
    assert net.forward()["a"].tolist() == [sums]
    net.blobs["a"].diff[...] = 4
    net.backward()
    assert [float(net.blobs[name].diff[0]) for name in "abc"] == gradients


# -- what Caffe leaves in diffs -----------------------------------------------------------------------------------


def test_batch_norm_and_others_write_a_diff_that_nothing_asks_for(tmp_path: Path) -> None:
    """Without param entries BatchNorm counts as a layer that learns; its backward does not look whether it is asked."""
    for entries, writes in (("", True), ("param { lr_mult: 0 } " * 3, False)):
        loss = layer("loss", "Reduction", "y", more="loss_weight: 1 reduction_param { operation: SUMSQ }")
        norm = layer("y", "BatchNorm", "x", more=f"{entries} batch_norm_param {{ use_global_stats: true }}")
        net = make(tmp_path, input_layer("x", 2, 3), norm, loss)
        net.blobs["x"].data[...] = NUMBERS[:, :, 0, 0]
        net.params["y"][1].data[...], net.params["y"][2].data[...] = 4, 1
        net.forward()
        net.backward()
        expected = NUMBERS[:, :, 0, 0] * (2 / 4) if writes else np.zeros((2, 3))
        np.testing.assert_allclose(net.blobs["x"].diff, expected, rtol=1e-4)


def test_scale_leaves_its_product_where_no_gradient_is_asked(tmp_path: Path) -> None:
    loss = layer("loss", "Reduction", "y", more="loss_weight: 1")
    for rate, left in ((1, NUMBERS), (0, np.zeros_like(NUMBERS))):
        param = f"param {{ lr_mult: {rate} }} scale_param {{ bias_term: true }}"
        net = make(tmp_path, input_layer("x", 2, 3, 4, 5), layer("y", "Scale", "x", more=param), loss)
        net.blobs["x"].data[...] = NUMBERS
        net.forward()
        net.backward()
        np.testing.assert_array_equal(net.blobs["x"].diff, left)


@pytest.mark.parametrize(
    ("shape", "options", "adds"),
    [
        ((1, 2, 3), "axis: 1", False),  # one sum for each number of the scale
        ((1, 2, 3), "axis: 0 num_axes: 3", False),  # the product is the gradient
        ((2, 2, 3), "axis: 1", True),
        ((1, 2, 3), "axis: 0 num_axes: 0", True),  # one number
    ],
)
def test_scales_gradient_over_several_passes(shape: tuple[int, ...], options: str, adds: bool, tmp_path: Path) -> None:
    net = make(
        tmp_path,
        "force_backward: true",
        input_layer("x", *shape),
        layer("y", "Scale", "x", more=f"scale_param {{ {options} bias_term: true }}"),
    )
    sums = []
    for passes in (1, 2):
        net.blobs["x"].data[...] = passes
        net.forward()
        net.blobs["y"].diff[...] = 1
        net.backward()
        sums.append([float(blob.diff.sum()) for blob in net.params["y"]])
    count = float(np.prod(shape))
    assert sums == [[count, count], [3 * count if adds else 2 * count, 2 * count]]


def test_a_solver_overwrites_scales_gradient_over_iter_size(tmp_path: Path) -> None:
    scale = layer("y", "Scale", "x", more="scale_param { axis: 1 }")
    text = [input_layer("x", 1, 2), scale, layer("loss", "Reduction", "y", more="loss_weight: 1")]
    (tmp_path / "net.prototxt").write_text("\n".join(text))
    (tmp_path / "solver.prototxt").write_text(
        f"train_net: '{tmp_path}/net.prototxt' base_lr: 1 lr_policy: 'fixed' iter_size: 2"
    )
    solver = caffe.get_solver(str(tmp_path / "solver.prototxt"))
    solver.net.blobs["x"].data[...] = [[2, 6]]
    solver.step(1)
    assert solver.net.params["y"][0].data.tolist() == [1 - 2 / 2, 1 - 6 / 2]  # one pass, over iter_size


def test_hinge_loss_leaves_its_margins(tmp_path: Path) -> None:
    for norm, gradient in (("L1", [[-0.5, 0.5], [0, -0.5]]), ("L2", [[-0.5, 4], [0, -1.5]])):
        loss = layer("loss", "HingeLoss", "x label", more=f"loss_weight: 1 hinge_loss_param {{ norm: {norm} }}")
        net = make(tmp_path, "force_backward: true", input_layer("x", 2, 2), input_layer("label", 2), loss)
        net.blobs["x"].data[...] = [[0.5, 3], [-2, -0.5]]
        net.blobs["label"].data[...] = [0, 1]
        net.forward()
        assert net.blobs["x"].diff.tolist() == [[0.5, 4], [0, 1.5]]
        net.backward()
        assert net.blobs["x"].diff.tolist() == gradient
