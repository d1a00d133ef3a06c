"""Whole nets against BVLC Caffe: every blob of a TRAIN pass and every parameter's gradient."""

from __future__ import annotations

import pytest
import torch
from oracle import assert_close, cases, draw_all, load

from fcn_caffe import TRAIN, Net
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


def vgg_fcn8s_without_data() -> Net:
    return Net("nets/voc-fcn8s.prototxt", TRAIN, input_shapes={"data": (1, 3, 64, 80), "label": (1, 1, 64, 80)})
