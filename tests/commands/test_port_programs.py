"""port_weights from ONNX, from torch.export and from a state_dict of a net written by hand, checked on data."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import narrow_net, randomise
from torch import Tensor, nn
from torch.nn import functional

from fcn_caffe import Net
from fcn_caffe.commands import port_weights
from fcn_caffe.proto import write_text
from fcn_caffe.weights.record import read_preprocessing
from fcn_caffe.weights.transfer import copy_weights, load_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's own, of its exporters
onnx_tests = [pytest.mark.needs_package(name) for name in ("onnx", "onnxscript", "onnxruntime")]

FCN = """
name: "fcn"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 14 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 6 kernel_size: 3 pad: 1 %s } }
%s
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc2" type: "Convolution" bottom: "pool1" top: "fc2" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "up" type: "Deconvolution" bottom: "fc2" top: "score"
        convolution_param { num_output: 4 group: 4 kernel_size: 2 stride: 2 bias_term: false } }
"""
NORM = """
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
"""


class ByHand(nn.Module):
    """The net above as one writes it in PyTorch."""

    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=4, bias=False)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6) if normed else nn.Identity())
        self.classifier = nn.Conv2d(6, 4, 1)
        if normed:
            for buffer in (self.features[1].running_mean, self.features[1].running_var):
                buffer.uniform_(0.5, 1.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.upsample(self.classifier(functional.max_pool2d(self.features(images).relu(), 2)))


def port(*arguments: Any) -> int:
    return port_weights.main([str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(4)
    (tmp_path / "plain.prototxt").write_text(FCN % ("", ""))
    (tmp_path / "normed.prototxt").write_text(FCN % ("", NORM))
    return tmp_path


def scores_alike(net: Path, weights: Path, module: nn.Module) -> None:
    filled = Net(net)
    copy_weights(filled, load_weights(weights), strict=True)
    images = torch.randn(2, 3, 10, 8)
    with torch.no_grad():
        torch.testing.assert_close(filled(images)["score"], module(images))


def test_a_state_dict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module, images = ByHand(normed=True).eval(), torch.randn(1, 3, 12, 14)
    torch.save(module.state_dict(), folder / "hand.pth")
    with torch.no_grad():
        np.savez(folder / "expected.npz", data=images, score=module(images))
    arguments = (folder / "hand.pth", folder / "out.caffemodel", "--net", folder / "normed.prototxt")
    assert port(*arguments, "--check", folder / "expected.npz") == 0
    out = capsys.readouterr().out
    assert "  bn1     <- features.1.running_mean, features.1.running_var\n" in out
    assert "copied 5: conv1, bn1, scale1, fc2, up\n" in out
    assert "expected.npz on data 1x3x12x14: largest difference score " in out
    scores_alike(folder / "normed.prototxt", folder / "out.caffemodel", module)


@pytest.mark.parametrize("ending", ["npz", pytest.param("safetensors", marks=pytest.mark.needs_package("safetensors"))])
def test_other_files_of_names(folder: Path, ending: str) -> None:
    module = ByHand(normed=False)
    arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    if ending == "npz":
        np.savez(folder / "hand.npz", **arrays)
    else:
        from safetensors.numpy import save_file

        save_file(arrays, folder / "hand.safetensors")
    arguments = (folder / f"hand.{ending}", folder / "out.caffemodel", "--net", folder / "plain.prototxt")
    assert port(*arguments) == 0
    scores_alike(folder / "plain.prototxt", folder / "out.caffemodel", module)


def test_a_program(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = ByHand(normed=True).eval()
    torch.export.save(torch.export.export(module, (torch.randn(2, 3, 12, 14),)), folder / "hand.pt2")
    arguments = (folder / "hand.pt2", folder / "out.npz", "--net", folder / "normed.prototxt")
    assert port(*arguments) == 0
    scores_alike(folder / "normed.prototxt", folder / "out.npz", module)
    assert "hand.pt2 (torch.export): 9 tensors\n" in capsys.readouterr().out
    assert port(*arguments[:1], folder / "checked.npz", *arguments[2:], "--check") == 1
    assert "torch.export's loader runs code that the file holds" in capsys.readouterr().err
    assert not (folder / "checked.npz").exists()


@pytest.mark.parametrize("dynamo", [pytest.param(dynamo, marks=onnx_tests) for dynamo in (True, False)])
def test_an_onnx_file(folder: Path, dynamo: bool, capsys: pytest.CaptureFixture[str]) -> None:
    sample, path = torch.randn(1, 3, 12, 14), folder / "hand.onnx"
    for normed in (True, False):
        module = ByHand(normed).eval()
        torch.onnx.export(module, (sample,), path, dynamo=dynamo, verbose=False)
        net = folder / ("normed.prototxt" if normed else "plain.prototxt")
        assert port(path, folder / "out.caffemodel", "--net", net, "--check") == int(normed)
    scores_alike(folder / "plain.prototxt", folder / "out.caffemodel", module)
    said = capsys.readouterr()
    assert "checked with hand.onnx in ONNX Runtime" in said.out
    assert "The file lacks batch normalisations of the net: exporters fold them into the convolutions." in said.err


@pytest.mark.needs_package("onnxscript")
@pytest.mark.needs_package("onnxruntime")
def test_a_net_of_ours_comes_back(tmp_path: Path) -> None:
    param = narrow_net("voc-fcn8s", 32)
    (tmp_path / "net.prototxt").write_text(write_text(param))
    net = Net(param, input_shapes={"data": (1, 3, 40, 32)})
    randomise(net)
    module = net.as_module()
    torch.onnx.export(module, (torch.randn(1, 3, 40, 32),), tmp_path / "a.onnx", dynamo=True, verbose=False)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    torch.export.save(torch.export.export(module, (torch.randn(1, 3, 40, 32),)), tmp_path / "a.pt2")
    for name in ("a.onnx", "a.pth", "a.pt2"):
        assert port(tmp_path / name, tmp_path / "b.caffemodel", "--net", tmp_path / "net.prototxt") == 0
        found = load_weights(tmp_path / "b.caffemodel")
        for layer, blobs in net.params.items():
            assert all(np.array_equal(blob.detach(), array) for blob, array in zip(blobs, found[layer], strict=True))


FACTS = {
    **{"net": "fcn", "weights_sha256": "0", "channel_order": "RGB", "mean": "[1, 2, 3]", "scale": "0.5"},
    **{"classes": '["a", "b"]', "colors": "[[0, 0, 0], [1, 2, 3]]"},
}


@pytest.mark.parametrize(
    ("changed", "known"),
    [
        ({}, True),
        ({"mean": "1 2"}, False),  # another's words
        ({"classes": "[1]"}, False),
        ({"weights_sha256": None}, False),
    ],
)
@pytest.mark.parametrize("ending", [pytest.param("onnx", marks=pytest.mark.needs_package("onnx")), "pt2"])
def test_what_an_exported_file_says_of_itself(folder: Path, ending: str, changed: dict[str, Any], known: bool) -> None:
    facts = {key: fact for key, fact in {**FACTS, **changed}.items() if fact is not None}
    path = folder / f"a.{ending}"
    if ending == "onnx":
        onnx = importlib.import_module("onnx")
        arrays = {name: tensor.numpy() for name, tensor in Net(folder / "plain.prototxt").state_dict().items()}
        kinds = {"conv1": "Conv", "fc2": "Conv", "up": "ConvTranspose"}
        nodes = [
            onnx.helper.make_node(kind, ["x", *(name for name in arrays if f".{layer}." in name)], [layer])
            for layer, kind in kinds.items()
        ]
        tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
        model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], tensors))
        onnx.helper.set_model_props(model, facts)
        onnx.save(model, path)
    else:
        program = torch.export.export(ByHand(normed=False), (torch.randn(2, 3, 12, 14),))
        torch.export.save(program, path, extra_files={"fcn_caffe.json": json.dumps(facts)})
    assert port(path, folder / "out.npz", "--net", folder / "plain.prototxt", "--scale", "2") == 0
    record = read_preprocessing(folder / "out.npz")
    assert record is not None and record.scale == 2
    assert record.mean == ((1, 2, 3) if known else None) and record.channel_order == ("RGB" if known else None)
    assert record.classes == (("a", "b") if known else None)


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hand.pth"], "hand.pth: holds 'features.0.weight', 'features.0.bias'; wanted LAYER/0"),
        (["hand.pth", "--map", "m.txt"], "--map needs the net that the weights are for: --net NET."),
        (["hand.pth", "--check"], "--check needs the net that the weights are for: --net NET."),
        (["hand.pth", "--net", "normed.prototxt"], "2 layers of the net and 0 of the file have no counterpart."),
        (["hand.pth", "--net", "plain.prototxt", "--map", "m.txt"], "m.txt:1: the net has no 'conv2'. Did you mean"),
        (
            ["hand.pth", "--net", "plain.prototxt", "--check"],
            "a file of weights (torch) holds no model that could be run",
        ),
        (
            ["own.caffemodel", "--net", "plain.prototxt", "--map", "m.txt"],
            "has layers with names of their own (caffemodel)",
        ),
        (
            ["hand.pth", "--net", "plain.prototxt", "--check", "hand.pth"],
            "hand.pth: wanted an .npz file of arrays by blob",
        ),
        (
            ["hand.pth", "--net", "plain.prototxt", "--check", "other.npz"],
            "other.npz: the net has no blob 'scores'. Did",
        ),
        (
            ["hand.pth", "--net", "plain.prototxt", "--check", "half.npz"],
            "half.npz: holds score; wanted the inputs data and",
        ),
        (["hand.pth", "--net", "plain.prototxt", "--check", "small.npz"], "'score' is 1x4x1x1, the net's 1x4x12x14."),
        (["hand.pth", "--net", "plain.prototxt", "--check", "wrong.npz"], "proof failed: 'score' "),
    ],
)
def test_refusals_write_nothing(
    folder: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    torch.save(ByHand(normed=False).state_dict(), "hand.pth")
    Path("m.txt").write_text("conv2 features.0")
    images, score = np.ones((1, 3, 12, 14), np.float32), np.ones((1, 4, 12, 14), np.float32)
    np.savez("other.npz", data=images, scores=score)
    np.savez("half.npz", score=score)
    np.savez("small.npz", data=images, score=score[..., :1, :1])
    np.savez("wrong.npz", data=images, score=score * 9)
    assert port_weights.main(["hand.pth", "own.caffemodel", "--net", "plain.prototxt"]) == 0
    capsys.readouterr()
    assert port_weights.main([arguments[0], "out.caffemodel", *arguments[1:]]) == 1
    assert message in capsys.readouterr().err
    assert not list(folder.glob("out*"))
