"""The command merge_bn: a net and its weights in, a net without batch normalisations out, or one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer
from places import SHARED

from fcn_caffe import Net
from fcn_caffe.commands.merge_bn import main
from fcn_caffe.weights.record import Preprocessing, read_preprocessing, write_preprocessing
from fcn_caffe.weights.transfer import copy_weights, load_weights, save_weights

WECHAT = SHARED / "data" / "caffe" / "forks" / "wechat_qrcode_detect"
NET = (
    layer("data", "ImageData", top="data label", more="image_data_param {} transform_param { crop_size: 9 }")
    + layer("c", "Convolution", "data", more="convolution_param { num_output: 4 kernel_size: 3 bias_term: false }")
    + layer("n", "BN", "c", "c")
    + layer("r", "ReLU", "c", "c")
    + layer("loss", "SoftmaxWithLoss", "c label")
)  # fmt: skip


def files(folder: Path, text: str = NET, blobs: int = 4) -> list[str]:
    """A net's files and the arguments of the command."""
    (folder / "in.prototxt").write_text(text)
    generator = np.random.default_rng(0)
    bn = [generator.random((1, 4, 1, 1), np.float32) + 0.5 for _ in range(blobs)]
    weights = {"c": [generator.standard_normal((4, 3, 3, 3), np.float32)], "n": bn}
    save_weights(folder / "in.caffemodel", weights)
    names = [str(folder / name) for name in ("in.prototxt", "out.prototxt", "out.caffemodel", "in.caffemodel")]
    return [*names[:3], "--weights", names[3]]


def test_the_command_writes_a_net_without_batch_norms(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = files(tmp_path)
    write_preprocessing(arguments[4], Preprocessing("BGR", (104.0, 117.0, 123.0)))
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "n (BN) into c (Convolution) before it" in said and "left out" in said
    assert "proof on random images of 1x3x9x9 and 1x3x41x41, seed 0: blobs compared: 1" in said
    record = read_preprocessing(arguments[2])
    assert record is not None and record.mean == (104.0, 117.0, 123.0)
    new = Net(arguments[1])
    copy_weights(new, load_weights(arguments[2]), strict=True)
    assert [node.type for node in new.graph.nodes] == ["Input", "Convolution", "ReLU"]
    weights = load_weights(arguments[4])
    slope, bias, mean, variance = (torch.from_numpy(blob.copy()) for blob in weights["n"])
    image = torch.randn(1, 3, 20, 21)
    plain = torch.nn.functional.conv2d(image, torch.from_numpy(weights["c"][0].copy()))
    wanted = (slope * (plain - mean) / (variance + 1e-5).sqrt() + bias).relu()
    with torch.no_grad():
        assert torch.allclose(new(data=image)["c"], wanted, atol=1e-4)


def test_segnets_two_blobs_and_a_larger_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = files(tmp_path, NET.replace('"BN"', '"BN" bn_param { bn_mode: INFERENCE }'), 2)
    assert main([*arguments, "--input-size", "20x30", "--seed", "3"]) == 0
    assert "images of 1x3x20x30 and 1x3x52x62, seed 3" in capsys.readouterr().out
    full = layer("f", "InnerProduct", "c", more="inner_product_param { num_output: 2 bias_term: false }")
    arguments = files(tmp_path, NET + full)
    weights = load_weights(arguments[4])
    save_weights(arguments[4], {**weights, "f": [np.ones((2, 4 * 49), np.float32)], "old": [np.ones(1, np.float32)]})
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "no other size was compared: layer 'f' (InnerProduct): bottom" in said
    assert "weights of layers that the net lacks: old" in said


def test_the_command_refuses_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = files(tmp_path)
    known = sorted(tmp_path.iterdir())

    def refused(*words: str) -> str:
        assert main(list(words)) == 1 and sorted(tmp_path.iterdir()) == known
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    net, out, out_weights, _, weights = arguments
    assert "is named twice and would be overwritten" in refused(net, net, out_weights, "--weights", weights)
    assert "the ending names no weight format" in refused(net, out, str(tmp_path / "o.bin"), "--weights", weights)
    assert "No such file" in refused(net, out, out_weights, "--weights", str(tmp_path / "none.caffemodel"))
    assert "no such net file" in refused(str(tmp_path / "none"), out, out_weights, "--weights", weights)
    assert "BN" in refused(*arguments, "--strict")
    assert "fork 'segnot' is not known" in refused(*arguments, "--fork", "segnot")
    Path(net).write_text(
        NET.replace("c c", "c").replace('type: "BN"', 'type: "BN" bn_param { frozen: true bn_mode: LEARN }')
    )
    refused(*arguments)
    Path(net).write_text(NET.replace('"c"', '"e"'))
    assert "has no weights for layer e of" in refused(*arguments)
    Path(net).write_text(NET.replace(layer("n", "BN", "c", "c"), ""))
    assert "has no BatchNorm, no BN" in refused(*arguments)
    Path(net).write_text("layer {")
    refused(*arguments)


@pytest.mark.needs_data("data/caffe/forks")
def test_a_published_detector(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, weights = tmp_path / "out.prototxt", tmp_path / "out.caffemodel"
    arguments = [str(WECHAT / "net.prototxt"), str(out), str(weights), "--weights", str(WECHAT / "weights.caffemodel")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "stage1/bn (BatchNorm), stage1/bn/scale (Scale) into stage1 (Convolution) before it" in said
    assert "data/bn/scale (Scale) stays: before it, layer 'data' (Input) is no Convolution" in said
    assert [node.name for node in Net(out).graph.nodes if node.type == "BatchNorm"] == ["data/bn"]


def test_a_net_of_vectors_has_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = input_layer("data", 1, 3) + layer("c", "InnerProduct", "data", more="inner_product_param { num_output: 4 }")
    arguments = files(tmp_path, text + layer("n", "BatchNorm", "c"), 3)
    assert main(arguments) == 1
    assert "has no input of N x C x H x W" in capsys.readouterr().err
