"""Whole nets against BVLC Caffe: every blob of a TRAIN pass and every parameter's gradient."""

from __future__ import annotations

import pytest
import torch
from oracle import assert_close, cases, draw_all, load
from places import ROOT

from fcn_caffe import TRAIN, Net, read_net
from fcn_caffe.proto import caffe_pb2, parse_text

TOLERANCE = 1e-4  # sums run in another order


@pytest.mark.parametrize("case", cases("nets"))
def test_narrow_nets_equal_caffe(case: str) -> None:
    data = {key.removeprefix(f"{case}/"): value for key, value in load("nets").items() if key.startswith(f"{case}/")}
    net = Net(parse_text(str(data["prototxt"]), caffe_pb2.NetParameter), TRAIN)
    draw_all(net)
    inputs = {key[6:]: torch.from_numpy(value) for key, value in data.items() if key.startswith("input/")}
    expected = {key[5:]: value for key, value in data.items() if key.startswith("blob/")}
    loss, blobs = net.forward_loss(inputs, keep=expected)
    loss.backward()
    for name, value in expected.items():
        assert_close(blobs[name], value, TOLERANCE, f"{case} blob {name}")
    checked = 0
    for key, value in data.items():
        if key.startswith("diff/"):
            layer, index = key[5:].rsplit("/", 1)
            blob = net.layer(layer).blobs[int(index)]
            grad = torch.zeros_like(blob) if blob.grad is None else blob.grad
            assert_close(grad, value, TOLERANCE, f"{case} gradient of {layer} {index}")
            checked += 1
    assert checked


@pytest.mark.slow
def test_voc_fcn8s_at_full_width_equals_caffe() -> None:
    data = load("voc_fcn8s_full")
    param = read_net(ROOT / "nets" / "voc-fcn8s.prototxt", TRAIN)
    # Caffe's run had no dropout layers, so that its numbers could be repeated.
    kept = [layer for layer in param.layer if layer.type != "Dropout"]
    del param.layer[:]
    param.layer.extend(kept)
    net = Net(param, TRAIN, input_shapes={"data": data["data"].shape, "label": data["label"].shape})
    assert sum(item.blob.numel() for item in net.learnable_params) > 134_000_000
    draw_all(net)
    inputs = {name: torch.from_numpy(data[name]) for name in ("data", "label")}
    loss, blobs = net.forward_loss(inputs, keep=("score", "score_fr"))
    loss.backward()
    for name in ("score", "score_fr", "loss"):
        assert_close(blobs[name], data[name], TOLERANCE, name)
    for key, layer, index in (("conv1_1", "conv1_1", 0), ("score_pool3", "score_pool3", 0), ("fc7_bias", "fc7", 1)):
        assert_close(net.layer(layer).blobs[index].grad, data[f"diff_{key}"], TOLERANCE, f"gradient of {key}")
