"""`fcn-caffe export`: each format and option, run in its engine at other sizes; what is refused leaves nothing."""

from __future__ import annotations

import copy
import errno
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, net_param
from needs import needs_linux, needs_package
from places import ROOT

from fcn_caffe import Net, commands
from fcn_caffe.export import onnx_file, program_file
from fcn_caffe.export.engines import Array, Engine
from fcn_caffe.export.onnx_file import open_onnx
from fcn_caffe.export.openvino_file import open_openvino, write_openvino
from fcn_caffe.export.program_file import open_program
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random
from fcn_caffe.proto import write_text
from fcn_caffe.weights.record import Preprocessing, sha256_of, write_preprocessing
from fcn_caffe.weights.transfer import load_weights, net_weights, save_weights

pytestmark = [pytest.mark.needs_package("onnxruntime"), pytest.mark.needs_package("onnxscript")]

OPEN = {".onnx": open_onnx, ".pt2": open_program, ".xml": open_openvino}
BGR = Preprocessing("BGR", (104.0, 117.0, 123.0), scale=1.0, classes=("sky", "sea", "land", "bird"))


def conv(name: str, bottom: str, outputs: int, options: str) -> str:
    return layer(name, "Convolution", bottom, more=f"convolution_param {{ num_output: {outputs} {options} }}")


FCN = (
    input_layer("data", 1, 3, 24, 32),
    conv("conv/1", "data", 4, "kernel_size: 3 pad: 8"),
    layer("relu1", "ReLU", "conv/1", "conv/1"),
    layer("pool1", "Pooling", "conv/1", more="pooling_param { kernel_size: 3 stride: 2 }"),
    layer("norm1", "LRN", "pool1", more="lrn_param { local_size: 3 alpha: 0.001 }"),
    conv("fr", "norm1", 4, "kernel_size: 1"),
    layer("up", "Deconvolution", "fr", more="convolution_param { num_output: 4 kernel_size: 4 stride: 2 group: 4 }"),
    layer("score", "Crop", "up data", more="crop_param { axis: 2 offset: 6 }"),
)

SMALL = (
    input_layer("data", 1, 3, 24, 32),
    conv("conv", "data", 4, "kernel_size: 3 pad: 1"),
    layer("relu", "ReLU", "conv", "conv"),
    conv("score", "conv", 4, "kernel_size: 3"),
)


def save(folder: Path, *text: str, name: str = "net", record: Preprocessing | None = BGR) -> Net:
    """Write NAME.prototxt with NAME.caffemodel, filled at random, and their record; return the net."""
    param = net_param(*text)
    param.name = "small"
    net = Net(param, stages=("deploy",))
    fill_at_random(net)
    (folder / f"{name}.prototxt").write_text(write_text(param))
    save_weights(folder / f"{name}.caffemodel", net_weights(net), "small")
    if record is not None:
        write_preprocessing(folder / f"{name}.caffemodel", record)
    return net


def export(folder: Path, out: str, *options: str, weights: str = "net.caffemodel") -> int:
    net, place = str(folder / "net.prototxt"), str(folder / out)
    return commands.main(["export", net, place, "--weights", str(folder / weights), *options])


def numbers(*shape: int, spread: float = 1.0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).standard_normal(shape, np.float32) * np.float32(spread)


def close(found: np.ndarray[Any, Any], wanted: torch.Tensor, within: float = 1e-5) -> None:
    expected = wanted.detach().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= within * np.abs(expected).max()


@pytest.mark.needs_package("openvino")
@pytest.mark.parametrize("ending", OPEN)
def test_a_file_gives_the_nets_numbers_at_any_size(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], ending: str
) -> None:
    net = save(tmp_path, *FCN)
    assert export(tmp_path, f"a{ending}") == 0
    said = capfd.readouterr()
    assert said.err == ""
    files = ["wrote"] * (2 if ending == ".xml" else 1)
    assert [line.split(" ")[0] for line in said.out.splitlines()] == ["takes", "gives", "checked", *files]
    for line in (
        "takes data, N x 3 x H x W, float32",
        "gives score, N x 4 x H x W, float32",
        "at 1x3x75x100 and 2x3x101x83: largest difference",
    ):
        assert line in said.out
    engine = OPEN[ending](tmp_path / f"a{ending}")
    for shape in ((3, 3, 24, 32), (1, 3, 41, 18)):
        blob = numbers(*shape)
        close(engine.run({"data": blob})[0], net(torch.from_numpy(blob))["score"])
    known = {"net.prototxt", "net.caffemodel", "net.caffemodel.preprocessing.json", f"a{ending}"}
    assert {file.name for file in tmp_path.iterdir()} == known | ({"a.bin"} if ending == ".xml" else set())


def facts_of(path: Path) -> dict[str, str]:
    if path.suffix == ".onnx":
        import onnxruntime

        return dict(onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map)
    if path.suffix == ".xml":
        import openvino

        return {name: fact.astype(str) for name, fact in openvino.Core().read_model(path).rt_info["fcn_caffe"].items()}
    extra = {"fcn_caffe.json": ""}
    torch.export.load(path, extra_files=extra)
    return dict(json.loads(extra["fcn_caffe.json"]))


@pytest.mark.needs_package("openvino")
@pytest.mark.parametrize("ending", OPEN)
def test_a_file_takes_photographs_gives_classes_and_says_what_they_are(tmp_path: Path, ending: str) -> None:
    net = save(tmp_path, *SMALL)
    assert export(tmp_path, f"a{ending}", "--preprocess", "--argmax") == 0
    image = np.random.default_rng(3).integers(0, 256, (2, 3, 33, 47), np.uint8)
    (found,) = OPEN[ending](tmp_path / f"a{ending}").run({"data": image})
    blob = image[:, ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)[:, None, None]
    scores = net(torch.from_numpy(blob))["score"]
    best = scores.topk(2, 1).values
    clear = (best[:, 0] - best[:, 1] > 1e-5 * scores.abs().max()).numpy()
    assert found.dtype == np.int64
    assert clear.mean() > 0.9 and (found == scores.argmax(1).numpy())[clear].all()
    facts = facts_of(tmp_path / f"a{ending}")
    assert json.loads(facts["classes"]) == list(BGR.classes or ())
    assert json.loads(facts["colors"])[1] == [128, 0, 0]
    assert facts["weights_sha256"] == sha256_of(tmp_path / "net.caffemodel")
    assert (facts["net"], facts["channel_order"], json.loads(facts["mean"])) == ("small", "BGR", [104, 117, 123])


@pytest.mark.needs_package("openvino")
@pytest.mark.parametrize("ending", OPEN)
def test_float16_weights(tmp_path: Path, ending: str) -> None:
    net = save(
        tmp_path,
        input_layer("data", 1, 3, 12, 12),
        conv("wide", "data", 128, "kernel_size: 5"),
        conv("score", "wide", 32, "kernel_size: 3"),
    )
    assert export(tmp_path, f"a{ending}", "--fp16") == 0
    weights = tmp_path / ("a.bin" if ending == ".xml" else f"a{ending}")
    count = sum(blob.numel() for blobs in net.params.values() for blob in blobs)
    assert weights.stat().st_size < 2 * count + 20000  # bytes: of a .pt2, the program's text is 15 kB
    blob = numbers(2, 3, 20, 24)
    (found,) = OPEN[ending](tmp_path / f"a{ending}").run({"data": blob})
    wanted = net(torch.from_numpy(blob))["score"].detach()
    close(found, wanted, 2e-3)
    assert found.dtype == np.float32 and np.abs(found - wanted.numpy()).max() > 1e-5
    assert all(blob.dtype == torch.float32 for blobs in net.params.values() for blob in blobs)


def test_onnx_runtime_notes_down_nothing(tmp_path: Path) -> None:
    needs_package("onnxruntime")
    code = "from fcn_caffe.export.engines import import_engine; print(import_engine('onnxruntime').__version__)"
    homes = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(tmp_path))
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-c", code], env={**environment, **homes}, cwd=ROOT, check=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".onnx", ".pt2"])
def test_a_limit_of_file_sizes_ends_in_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    """PyTorch's own writer of files would end the process."""
    needs_linux()
    import resource

    save(tmp_path, *SMALL)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        assert export(tmp_path, f"a{ending}") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert f"a{ending}: File too large. Raise the limit of file sizes" in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "a."))]


def test_outputs_come_in_the_order_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = save(tmp_path, *SMALL)
    assert export(tmp_path, "a.pt2", "--outputs", "score", "conv") == 0
    blob = numbers(1, 3, 30, 26)
    found = open_program(tmp_path / "a.pt2").run({"data": blob})
    wanted = net({"data": torch.from_numpy(blob)}, keep=("score", "conv"))
    close(found[0], wanted["score"])
    close(found[1], wanted["conv"])
    assert "gives score, N x 4 x H - 2 x W - 2, float32\ngives conv, N x 4 x H x W" in capsys.readouterr().out


def test_names_that_python_has_and_outputs_that_are_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = save(
        tmp_path,
        *(input_layer("self", 1, 3, 8, 8), input_layer("unread", 2, 4), input_layer("x", 1, 3, 8, 8)),
        layer("relu", "ReLU", "x", "x"),
        layer("class", "Convolution", "self", "größe/1", "convolution_param { num_output: 2 kernel_size: 3 }"),
        layer("sum", "Reduction", "größe/1"),
        layer("same", "Dropout", "self"),
        record=None,
    )
    assert export(tmp_path, "a.onnx") == 0
    said = capsys.readouterr().out
    assert "takes self, N x 3 x H x W, float32\ntakes x, N x 3 x H x W, float32\n" in said
    assert "gives same, N x 3 x H x W, float32\ngives sum, one number, float32\ngives x_out, N x 3 x H x W" in said
    blob = numbers(2, 3, 9, 8)
    same, top, rectified = open_onnx(tmp_path / "a.onnx").run({"self": blob, "x": blob})
    wanted = net.as_module("größe/1")(torch.from_numpy(blob)).sum()
    close(top, wanted)
    np.testing.assert_array_equal(same, blob)
    np.testing.assert_array_equal(rectified, np.maximum(blob, 0))
    assert export(tmp_path, "a.onnx", "--outputs", "unread") == 1
    assert "net 'small' computes nothing: its outputs, unread, are its inputs." in capsys.readouterr().err


def test_weights_keep_caffes_names_also_beside_the_file_of_a_large_net(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    net = save(tmp_path, *FCN)
    monkeypatch.setattr(onnx_file, "MOST_BYTES", 100)
    assert export(tmp_path, "a.onnx", "--opset", "20") == 0
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("a.onnx", "a.onnx.data"):
        (tmp_path / name).rename(moved / name)
    blob = numbers(1, 3, 24, 32)
    close(open_onnx(moved / "a.onnx").run({"data": blob})[0], net(torch.from_numpy(blob))["score"])

    model = onnx.load(moved / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, blobs in net.params.items():
        for kind, parameter in zip(("weight", "bias"), blobs, strict=False):
            np.testing.assert_array_equal(tensors[f"{name}.{kind}"], parameter.detach().numpy())
    assert [entry.version for entry in model.opset_import] == [20]
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in sizes] == ["N", 3, "H", "W"]
    assert str(ROOT) not in str(model)  # the exporter notes where each operator comes from


NORMED = (
    input_layer("data", 1, 3, 12, 12),
    conv("conv", "data", 4, "kernel_size: 3 bias_term: false"),
    layer("bn", "BatchNorm", "conv", "conv"),
    conv("score", "conv", 3, "kernel_size: 1"),
)


def test_merged_weights_do_not_have_the_name_of_the_layers_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    save(tmp_path, *NORMED)
    assert export(tmp_path, "a.onnx") == 0 and export(tmp_path, "a.pt2") == 0
    names = {tensor.name for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert names >= {"conv_merged.weight", "score.weight", "score.bias"} and "conv.weight" not in names

    net, back = str(tmp_path / "net.prototxt"), tmp_path / "back.caffemodel"
    assert commands.main(["port_weights", str(tmp_path / "a.onnx"), str(back), "--net", net]) == 1
    said = capsys.readouterr().err
    assert "The file lacks batch normalisations of the net" in said and "the .pt2 of the model" in said
    assert not back.exists()
    assert commands.main(["port_weights", str(tmp_path / "a.pt2"), str(back), "--net", net]) == 0
    wanted = load_weights(tmp_path / "net.caffemodel")
    for name, blobs in load_weights(back).items():
        for found, expected in zip(blobs, wanted[name], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_borders_are_computed_once_in_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = layer("pool", "Pooling", "conv", more="pooling_param { kernel_size: 2 stride: 2 }")
    net = save(
        tmp_path,
        *(input_layer("data", 1, 1, 32, 32), conv("conv", "data", 16, "kernel_size: 3 pad: 24"), pool),
        *(conv("two", "pool", 16, "kernel_size: 3 pad: 1"), conv("score", "two", 4, "kernel_size: 7")),
        record=None,
    )
    assert export(tmp_path, "a.pt2") == 0
    assert "net 'small': constant borders are computed once" in capsys.readouterr().out
    blob = numbers(2, 1, 21, 50)
    close(open_program(tmp_path / "a.pt2").run({"data": blob})[0], net(torch.from_numpy(blob))["score"])
    assert export(tmp_path, "a.pt2", "--plain") == 0
    assert "constant borders" not in capsys.readouterr().out


# -- nets whose sizes are not all free ---------------------------------------------------------------------------------

CLASSIFIER = (
    input_layer("data", 1, 3, 12, 10),
    conv("conv", "data", 4, "kernel_size: 3 stride: 2"),
    layer("fc", "InnerProduct", "conv", more="inner_product_param { num_output: 5 }"),
    layer("prob", "Softmax", "fc"),
)
FIXED_BATCH = (
    input_layer("data", 1, 2, 4, 6),
    layer("flat", "Reshape", "data", more="reshape_param { shape { dim: 1 dim: 48 } }"),
    layer("fc", "InnerProduct", "flat", more="inner_product_param { num_output: 5 }"),
)
TWO_INPUTS = (
    input_layer("color", 1, 3, 20, 24),
    input_layer("depth", 1, 1, 20, 24),
    conv("one", "color", 4, "kernel_size: 3 pad: 1 stride: 2"),
    conv("two", "depth", 4, "kernel_size: 3 pad: 1 stride: 2"),
    layer("score", "Eltwise", "one two"),
)
RECURRENT = (
    input_layer("data", 3, 2, 4),
    input_layer("cont", 3, 2),
    layer("lstm", "LSTM", "data cont", more="recurrent_param { num_output: 5 weight_filler { type: 'xavier' } }"),
)
TRAINING = (
    'layer { name: "data" type: "ImageData" top: "data" top: "label" transform_param { crop_size: 12 } }',
    conv("score", "data", 3, "kernel_size: 3 pad: 1"),
    layer("loss", "SoftmaxWithLoss", "score label"),
)


@pytest.mark.parametrize(
    "text, options, said",
    [
        (CLASSIFIER, (), ["takes data, N x 3 x 12 x 10", "at 1x3x12x10 and 2x3x12x10"]),
        (FIXED_BATCH, (), ["takes data, 1 x 2 x 4 x 6", "at 1x2x4x6:"]),
        (TWO_INPUTS, (), ["takes color, N x 3 x H x W", "takes depth, N x 1 x H x W", "2x3x101x83, 2x1x101x83"]),
        (RECURRENT, (), ["takes data, 3 x data_1 x 4", "takes cont, 3 x data_1", "at 3x2x4, 3x2 and 3x3x4, 3x3"]),
        (FCN, ("--fixed", "--input-size", "9x8"), ["takes data, 1 x 3 x 9 x 8", "at 1x3x9x8:"]),
    ],
)
def test_sizes_that_are_free_and_sizes_that_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: tuple[str, ...], options: tuple[str, ...], said: list[str]
) -> None:
    save(tmp_path, *text, record=None)
    assert export(tmp_path, "a.pt2", *options) == 0
    out = capsys.readouterr().out
    assert all(line in out for line in said), out


@pytest.mark.needs_package("openvino")
def test_a_batch_normalised_in_the_file_of_one_value_and_of_many(tmp_path: Path) -> None:
    bn = layer("bn", "BN", "conv", more="bn_param { shift_filler { type: 'constant' value: 0.5 } }")
    net = save(tmp_path, input_layer("data", 1, 3, 5, 5), conv("conv", "data", 4, "kernel_size: 5"), bn)
    assert export(tmp_path, "a.onnx") == 0  # a check at one image
    write_openvino(tmp_path / "a.onnx", tmp_path / "a.xml", {}, half=False)
    for ending, size in product((".onnx", ".xml"), ((5, 5), (364, 484))):
        blob = numbers(1, 3, *size, spread=64)  # of one value it is the shift; the sum of many is exact
        close(OPEN[ending](tmp_path / f"a{ending}").run({"data": blob})[0], net(torch.from_numpy(blob))["bn"], 3e-6)


def test_a_net_that_trains_loses_what_it_trains_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = (input_layer("data", 1, 3, 12, 12), TRAINING[1])
    net = save(tmp_path, *plain)
    (tmp_path / "net.prototxt").write_text("\n".join(TRAINING))
    assert export(tmp_path, "a.pt2", "--ignore-preprocessing") == 0
    assert "gives score, N x 3 x H x W, float32" in capsys.readouterr().out
    blob = numbers(2, 3, 9, 14)
    close(open_program(tmp_path / "a.pt2").run({"data": blob})[0], net(torch.from_numpy(blob))["score"])


# -- refusals ----------------------------------------------------------------------------------------------------------

PYTHON = 'layer { name: "odd" type: "Python" bottom: "fr" top: "odd" python_param { module: "odd" layer: "Odd" } }'
GREY = (input_layer("data", 1, 1, 8, 8), conv("score", "data", 1, "kernel_size: 3"))


@pytest.mark.parametrize(
    "text, out, options, message",
    [
        (FCN, "a.tflite", (), "a.tflite: no format has the ending '.tflite'. Known: .onnx (ONNX)"),
        (FCN, "a", (), "no format has the ending ''"),
        (FCN, "none/a.onnx", (), "there is no folder"),
        (FCN, "a.pt2", ("--opset", "18"), "is not made of. Leave --opset out."),
        (FCN, "a.onnx", ("--weights", "gone.caffemodel"), "gone.caffemodel"),
        (FCN, "a.onnx", ("--outputs", "scores"), "has no blob 'scores'. Its outputs: score."),
        (FCN, "a.onnx", ("--mean", "0"), "was made for other inputs"),
        (FCN, "a.onnx", ("--mean", "1", "2", "--ignore-preprocessing", "--preprocess"), "--preprocess needs to know"),
        (TWO_INPUTS, "a.onnx", ("--preprocess",), "inputs are color 1x3x20x24, depth 1x1x20x24. Export it without"),
        (GREY, "a.onnx", ("--argmax",), "output 'score' is 1x1x6x6, and --argmax needs the scores of two classes"),
    ],
)
def test_what_is_refused_leaves_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: tuple[str, ...],
    out: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    save(tmp_path, *text)
    before = sorted(tmp_path.iterdir())
    assert export(tmp_path, out, *options) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_net_without_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, *FCN)
    assert commands.main(["export", str(tmp_path / "net.prototxt"), str(tmp_path / "a.onnx")]) == 1
    assert "a net file has no weights. Give them: --weights FILE." in capsys.readouterr().err


def test_a_python_layer_is_refused_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, *FCN)
    (tmp_path / "odd.py").write_text(
        "import caffe\n\n\nclass Odd(caffe.Layer):\n    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)\n"
    )
    with open(tmp_path / "net.prototxt", "a") as file:
        file.write(PYTHON)
    before = sorted(tmp_path.iterdir())
    for out in ("a.onnx", "a.pt2"):
        assert export(tmp_path, out) == 1
        said = capsys.readouterr().err
        assert "layer 'odd' (Python)" in said and said.count("\n") == 1
    assert sorted(path for path in tmp_path.iterdir() if path.name != "__pycache__") == before


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, *SMALL)
    save(tmp_path, *SMALL[:2], name="other", record=None)
    assert export(tmp_path, "a.onnx", weights="other.caffemodel") == 1
    assert "has no weights for layer score" in capsys.readouterr().err


@pytest.mark.parametrize(
    "out, gone, extra", [("a.onnx", "onnxscript", "onnx"), ("a.xml", "openvino", "openvino"), ("a.xml", "onnx", "onnx")]
)
def test_a_package_that_is_not_there_is_named_with_its_extra(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    out: str,
    gone: str,
    extra: str,
) -> None:
    save(tmp_path, *SMALL)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == gone else find(name, *more))
    assert export(tmp_path, out) == 1
    assert f'needs the package {gone}. Install: pip install "fcn-caffe[{extra}]".' in capsys.readouterr().err


def test_a_file_whose_numbers_are_off_is_not_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, *SMALL)
    (tmp_path / "a.pt2").write_text("the old one")
    before = sorted(tmp_path.iterdir())

    def run_wrongly(path: Path) -> Engine:
        engine = open_program(path)
        return Engine(engine.name, lambda inputs: [top * np.float32(1.001) for top in engine.run(inputs)])

    monkeypatch.setattr(program_file, "open_program", run_wrongly)
    assert export(tmp_path, "a.pt2") == 1
    assert "the file is not exact enough, within 0.0001: checked in PyTorch" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "a.pt2").read_text() == "the old one"

    def shift(path: Path) -> Engine:
        engine = open_program(path)
        return Engine(engine.name, lambda inputs: [(top + 1) % 4 for top in engine.run(inputs)])

    monkeypatch.setattr(program_file, "open_program", shift)
    assert export(tmp_path, "a.pt2", "--argmax") == 1
    assert "0.0000% of the classes are the same" in capsys.readouterr().err


def test_what_an_engine_raises_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, *GREY)
    before = sorted(tmp_path.iterdir())

    def fail(path: Path) -> Engine:
        try:
            raise ValueError("\x1b[96mno such operator\x1b[0m.\nAnd so on")
        except ValueError as error:
            raise RuntimeError("The engine is lost") from error

    monkeypatch.setattr(program_file, "open_program", fail)
    assert export(tmp_path, "a.pt2") == 1
    said = capsys.readouterr().err
    assert "the engine fails on the file, and nothing was written: ValueError: no such operator. Try" in said
    assert said.count("\n") == 1 and sorted(tmp_path.iterdir()) == before


CANCELLING = (
    *(input_layer("data", 1, 3, 24, 32), conv("conv", "data", 4, "kernel_size: 3")),
    layer("far", "Power", "conv", more="power_param { shift: 200000 }"),
    layer("score", "Power", "far", more="power_param { shift: -200000 }"),
)


@pytest.mark.parametrize("which", ["the net", "the file"])
def test_the_net_in_float64_says_whose_rounding_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    net = save(tmp_path, *(CANCELLING if which == "the net" else SMALL))
    deep = copy.deepcopy(net).double()

    def open_exact(path: Path) -> Engine:
        def run(inputs: Mapping[str, Array]) -> list[Array]:
            with torch.no_grad():
                top = deep(torch.from_numpy(inputs["data"]).double())["score"].numpy()
            return [(top + (0 if which == "the net" else 3e-5 * np.abs(top).max())).astype(np.float32)]

        return Engine("exact", run)

    monkeypatch.setattr(program_file, "open_program", open_exact)
    assert export(tmp_path, "a.pt2") == 0
    said = re.search(r"from the net in float64 the file is (\S+), the net in float32 (\S+)", capsys.readouterr().out)
    assert said is not None
    file, plain = map(float, said.groups())
    assert min(file, plain) < 1e-6 and 1e-5 < max(file, plain) < 1e-4
    assert (file < plain) == (which == "the net")


def test_a_stop_during_the_check_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, *GREY)
    before = sorted(tmp_path.iterdir())

    def stop(path: Path) -> Engine:
        assert path.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(program_file, "open_program", stop)
    assert export(tmp_path, "a.pt2") == 130
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, *GREY)
    before = sorted(tmp_path.iterdir())

    def fill(program: object, path: Path, facts: str) -> None:
        path.write_bytes(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(program_file, "write_program", fill)
    assert export(tmp_path, "a.pt2") == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said and said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = save(tmp_path, *SMALL)
    with torch.no_grad():
        net.params["score"][0].fill_(float("nan"))
    save_weights(tmp_path / "net.caffemodel", net_weights(net), "small")
    assert export(tmp_path, "a.pt2") == 1
    assert "'score' is not finite on random inputs. Are the weights this net's?" in capsys.readouterr().err


def test_an_input_that_passes_through_and_wants_a_gradient(tmp_path: Path) -> None:
    save(tmp_path, "force_backward: true", *GREY, layer("same", "Dropout", "data"))
    assert export(tmp_path, "a.pt2", "--outputs", "score", "same") == 0
    blob = numbers(1, 1, 8, 8)
    assert np.array_equal(open_program(tmp_path / "a.pt2").run({"data": blob})[1], blob)
