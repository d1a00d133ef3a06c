"""The doctor names each layer whose gradient is wrong in Caffe: where `import caffe` and fcn_caffe.Net differ."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer
from places import GOLDEN, ROOT

import fcn_caffe.pycaffe as caffe
from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.doctor import WARNING, examine
from fcn_caffe.doctor.wrong_gradients import overwritten_blobs, scale_gradients
from fcn_caffe.net.graph import read_net
from fcn_caffe.proto import caffe_pb2, parse_text

CASES = {
    "ELU_then_inplace": "layer 'a' (ELU)",
    "Sigmoid_then_inplace": "layer 'a' (Sigmoid)",
    "Softmax_then_inplace": "layer 'a' (Softmax)",
    "inplace_Clip": "layer 'l' (Clip)",
    "inplace_Eltwise_MAX": "layer 'l' (Eltwise)",
    "inplace_Eltwise_SUM": "layer 'l' (Eltwise)",
    "inplace_LRN": "layer 'l' (LRN)",
    "inplace_Log": "layer 'l' (Log)",
    "inplace_MVN": "layer 'l' (MVN)",
    "inplace_Power": "layer 'l' (Power)",
    "inplace_over_shared_Flatten": "layer 'r' (ReLU)",
    "inplace_over_shared_Reshape": "layer 'r' (ReLU)",
    "relu_inplace_then_batchnorm_inplace": "layer 'r' (ReLU)",
}
# Name -> type and options.
LAYERS = {
    "AbsVal": ("AbsVal", ""),
    "BNLL": ("BNLL", ""),
    "BatchNorm": ("BatchNorm", ""),
    "Bias": ("Bias", "bias_param { filler { value: 0.3 } }"),
    "Clip": ("Clip", "clip_param { min: -0.5 max: 0.5 }"),
    "ELU": ("ELU", ""),
    "ELU of -0.5": ("ELU", "elu_param { alpha: -0.5 }"),
    "Exp": ("Exp", ""),
    "LRN": ("LRN", "lrn_param { local_size: 3 alpha: 0.5 }"),
    "Log": ("Log", "log_param { shift: 9 }"),
    "MVN": ("MVN", ""),
    "MVN, the mean alone": ("MVN", "mvn_param { normalize_variance: false }"),
    "PReLU": ("PReLU", ""),
    "Power of 0": ("Power", "power_param { power: 0 }"),
    "Power of 1": ("Power", "power_param { scale: 2 shift: 1 }"),
    "Power of 2": ("Power", "power_param { power: 2 }"),
    "Power of 3": ("Power", "power_param { power: 3 scale: 0.5 shift: 2 }"),
    "ReLU": ("ReLU", ""),
    "ReLU of -0.5": ("ReLU", "relu_param { negative_slope: -0.5 }"),
    "ReLU of 0.1": ("ReLU", "relu_param { negative_slope: 0.1 }"),
    "Scale": ("Scale", "scale_param { filler { value: -2 } }"),
    "Sigmoid": ("Sigmoid", ""),
    "Softmax": ("Softmax", ""),
    "Swish": ("Swish", ""),
    "TanH": ("TanH", ""),
}
WRITERS = [name for name in LAYERS if name != "AbsVal"]  # which Caffe refuses in place
HARMLESS = [
    ("ReLU", "TanH"),
    ("ReLU", "Swish"),
    ("ReLU of 0.1", "ELU"),
    ("Sigmoid", "ReLU"),
    ("Softmax", "PReLU"),
    ("TanH", "ReLU"),
    ("ELU", "ReLU"),
    ("MVN, the mean alone", "Scale"),
    ("BatchNorm", "ReLU"),
    ("Power of 2", "Scale"),
]


def named(text: str | Path, phase: int = TRAIN) -> list[str]:
    return [finding.where for finding in overwritten_blobs(read_net(text, phase))]


@pytest.mark.parametrize("name", [path.parent.name for path in sorted(GOLDEN.glob("cases/*/net.prototxt"))])
def test_cases_of_caffe(name: str) -> None:
    assert named(GOLDEN / "cases" / name / "net.prototxt") == ([CASES[name]] if name in CASES else [])


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_the_released_nets_have_none(phase: int) -> None:
    for path in sorted((ROOT / "nets").glob("*.prototxt")):
        assert named(path, phase) == [], path


def chain(*names: tuple[str, bool]) -> str:
    """Layers behind a Bias, each by its name above and whether it is in place; the last blob is `end`'s bottom."""
    text, blob = "force_backward: true " + input_layer("x", 2, 4, 3, 3), "x"
    for number, (name, in_place) in enumerate([("Bias", False), *names]):
        type, options = LAYERS[name]
        top = blob if in_place else f"t{number}"
        text += layer(f"l{number}", type, blob, top, options)
        blob = top
    return text


def gradients(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of the input by Caffe's rules and by autograd, from the same gradient of the last blob."""
    random = np.random.RandomState(0)
    data, above = (random.randn(2, 4, 3, 3).astype(np.float32) for _ in range(2))
    face = caffe.Net(str(path), caffe.TRAIN)
    end = face.outputs[0]
    face.blobs["x"].data[...] = data
    face.forward()
    face.blobs[end].diff[...] = above
    face.backward()
    image = torch.from_numpy(data).requires_grad_()
    Net(path, TRAIN)(x=image)[end].backward(torch.from_numpy(above))
    return face.blobs["x"].diff, image.grad.numpy()


def differ(path: Path) -> bool:
    wrong, right = gradients(path)
    both = np.isfinite(wrong) & np.isfinite(right)
    return bool(np.abs(wrong - right)[both].max(initial=0) > 1e-4 * np.abs(right[both]).max(initial=1e-6))


@pytest.mark.parametrize(
    ("name", "in_place"), [*((name, False) for name in LAYERS), *((name, True) for name in WRITERS)]
)
def test_where_caffe_and_autograd_differ_a_layer_is_named(name: str, in_place: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    for behind in [None, *WRITERS]:
        path.write_text(chain((name, in_place), *([] if behind is None else [(behind, True)])))
        assert named(path) or not differ(path), behind


@pytest.mark.parametrize(("name", "behind"), HARMLESS)
def test_what_is_right_in_caffe_is_not_named(name: str, behind: str, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(chain((name, name.startswith("ReLU")), (behind, True)))
    assert named(path) == [] and not differ(path)


def test_dropout_behind() -> None:
    def warnings(type: str, phase: int, ratio: float, in_place: bool) -> int:
        text = input_layer("x", 1, 2) + layer("a", type, "x", "x" if in_place else "t")
        options = f"dropout_param {{ dropout_ratio: {ratio} }} phase: {('TRAIN', 'TEST')[phase]}"
        text += layer("d", "Dropout", "x" if in_place else "t", "x" if in_place else "t", options)
        return len(list(overwritten_blobs(parse_text(text, caffe_pb2.NetParameter))))

    assert warnings("ReLU", TRAIN, 0.5, True) == 0  # VGG's fc6 and fc7
    assert warnings("TanH", TRAIN, 0.5, False) == 1
    assert warnings("TanH", TEST, 0.5, False) == 0


def test_in_place_on_a_parameter(tmp_path: Path) -> None:
    text = 'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 2 } } }\n'
    path = tmp_path / "net.prototxt"
    path.write_text(text + layer("r", "ReLU", "p", "p"))
    assert named(path) == ["layer 'r' (ReLU)"]
    face, core = caffe.Net(str(path), caffe.TRAIN), Net(path, TRAIN)
    face.params["p"][0].data[...] = [-1, 2]
    with torch.no_grad():
        core.params["p"][0].copy_(torch.tensor([-1.0, 2]))
    assert face.forward()["p"].tolist() == core()["p"].tolist() == [0, 2]
    assert (face.params["p"][0].data.tolist(), core.params["p"][0].tolist()) == ([0, 2], [-1, 2])
    path.write_text(text + layer("r", "ReLU", "p", "q"))
    assert named(path) == []


SHARED = 'param { name: "s" } scale_param { axis: 1 }'


@pytest.mark.parametrize(
    ("batch", "iter_size", "options", "wrong"),
    [
        (1, 2, "", True),
        (2, 2, "", False),
        (1, 1, "", False),
        (1, 2, "scale_param { axis: 0 num_axes: 0 }", False),
        (2, 2, "scale_param { axis: 0 num_axes: -1 }", True),
        (1, 1, SHARED, True),
        (3, 1, SHARED, False),
    ],
)
def test_scale_over_several_passes(batch: int, iter_size: int, options: str, wrong: bool) -> None:
    text = (
        input_layer("x", batch, 3, 2, 2)
        + layer("a", "Scale", "x", "a", options)
        + layer("b", "Scale", "a", "b", options)
    )
    net = Net(parse_text(text, caffe_pb2.NetParameter), TRAIN)
    assert [finding.where for finding in scale_gradients(net, iter_size)] == (
        ["layer 'a' (Scale)", "layer 'b' (Scale)"] if wrong else []
    )


def test_a_solver_with_iter_size(tmp_path: Path) -> None:
    net = input_layer("data", 1, 3, 4, 4) + layer("s", "Scale", "data", "s")
    net += layer("sum", "Reduction", "s", "loss", "loss_weight: 1")
    (tmp_path / "net.prototxt").write_text(net)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" iter_size: 4')
    said = [finding.problem for finding in examine(solver).findings if finding.check == "gradient"]
    assert len(said) == 1 and "each of the 4 passes of iter_size writes over the one before" in said[0]


def test_batch_statistics_in_test(tmp_path: Path) -> None:
    path = GOLDEN / "reports" / "batchnorm_batch_statistics_in_test" / "net.prototxt"
    findings = [finding for finding in examine(path).findings if finding.check == "batch statistics"]
    assert [(finding.level, finding.where) for finding in findings] == [(WARNING, "layer 'b' (BatchNorm)")]
    both = tmp_path / "net.prototxt"
    rule = "batch_norm_param { use_global_stats: %s } include { phase: %s }"
    both.write_text(
        input_layer("x", 2, 3, 4, 4)
        + layer("b", "BatchNorm", "x", "b", rule % ("false", "TRAIN"))
        + layer("b", "BatchNorm", "x", "b", rule % ("true", "TEST"))
    )
    assert not [finding for finding in examine(both).findings if finding.check == "batch statistics"]


@pytest.mark.parametrize("split", [False, True])
def test_flatten_of_a_parameter(split: bool, tmp_path: Path) -> None:
    text = (
        'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 2 dim: 3 } } }'
        + layer("f", "Flatten", "p", "f")
        + layer("r", "Reduction", "f", "r", more="loss_weight: 1")
        + (layer("s", "Silence", "p", "") if split else "")
    )
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    findings = list(overwritten_blobs(read_net(path, TRAIN)))
    assert [finding.where for finding in findings] == ([] if split else ["layer 'f' (Flatten)"])
    face = caffe.Net(str(path), caffe.TRAIN)
    face.forward()
    face.backward()
    assert np.all(face.params["p"][0].diff == (1 if split else 0))
    core = Net(path, TRAIN)
    core.forward_loss()[0].backward()
    assert torch.all(core.layer("p").blobs[0].grad == 1)
