"""In place on a blob that is another's memory in Caffe: the core has Caffe's values, and their true gradient."""

from __future__ import annotations

import pytest
import torch

from fcn_caffe import Net
from fcn_caffe.proto import caffe_pb2, parse_text

X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 4 } } }'
SHARED = {
    "Reshape": "reshape_param { shape { dim: 2 dim: 2 } }",
    "Flatten": "flatten_param { axis: 0 }",
    "Concat": "",
    "Slice": "",
    "Split": "",
}


@pytest.mark.parametrize("kind", SHARED)
def test_in_place_changes_what_is_read_later(kind: str) -> None:
    text = (
        f'{X} layer {{ name: "v" type: "{kind}" bottom: "x" top: "v" {SHARED[kind]} }}'
        'layer { name: "p" type: "Power" bottom: "v" top: "v" power_param { scale: 3 } }'
        'layer { name: "y" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }'
    )
    net = Net(parse_text(text, caffe_pb2.NetParameter))
    x = torch.tensor([[1.0, 2, 3, 4]], requires_grad=True)
    y = net(x=x)["y"]
    assert y.flatten().tolist() == [6, 12, 18, 24]
    y.sum().backward()
    assert x.grad is not None and x.grad.unique().tolist() == [6]
