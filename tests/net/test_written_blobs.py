"""`blobs { … }` in a net are its layers' weights, as in Caffe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fcn_caffe.pycaffe as caffe
from fcn_caffe import FcnCaffeError, Net
from fcn_caffe.proto import caffe_pb2, parse_text

X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }'
IP = (
    '{ name: "l" type: %s bottom: "x" top: "y" %s inner_product_param { num_output: 1 bias_term: false '
    'weight_filler { type: "gaussian" std: 9 } } }'
)
SHAPE = "shape { dim: 1 dim: 2 }"


def build(text: str) -> Net:
    return Net(parse_text(text, caffe_pb2.NetParameter))


@pytest.mark.parametrize(
    "blob",
    [
        f"{SHAPE} data: [5, 7]",
        f"{SHAPE} double_data: [5, 7]",
        f"{SHAPE} double_data: [5, 7] data: [1, 1]",  # the doubles count
        "num: 1 channels: 1 height: 1 width: 2 data: [5, 7]",
        f"num: 1 channels: 1 height: 1 width: 2 {SHAPE} data: 5 data: 7",
    ],
)
def test_every_form(blob: str, tmp_path: Path) -> None:
    text = X + "layer " + IP % ('"InnerProduct"', f"blobs {{ {blob} }}")
    net = build(text)
    assert net(x=torch.ones(1, 2))["y"].item() == 12
    assert net.learnable_params[0].blob.requires_grad
    (tmp_path / "net.prototxt").write_text(text)
    face = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    face.blobs["x"].data[...] = 1
    assert face.forward()["y"].tolist() == [[12]]


def test_old_layers_have_them_too() -> None:
    text = 'input: "x" input_dim: 1 input_dim: 2 input_dim: 1 input_dim: 1 layers '
    net = build(text + IP % ("INNER_PRODUCT", f"blobs {{ {SHAPE} data: [5, 7] }}"))
    assert net(x=torch.ones(1, 2, 1, 1))["y"].item() == 12
    v0 = (
        'layers { bottom: "x" top: "y" layer { name: "l" type: "innerproduct" num_output: 1 biasterm: false '
        "blobs { num: 1 channels: 1 height: 1 width: 2 data: [5, 7] } } }"
    )
    net = build(text.removesuffix("layers ") + v0)
    assert net(x=torch.ones(1, 2, 1, 1))["y"].item() == 12


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        (f"blobs {{ {SHAPE} data: [5, 7] }}" * 2, r"layer 'l' \(InnerProduct\): has 2 `blobs \{ … \}` in the net"),
        ("blobs { shape { dim: 2 dim: 1 } data: [5, 7] }", "blob 0 .weight. in the net is 2x1, the layer wants 1x2"),
        (f"blobs {{ {SHAPE} data: [5, 7, 9] }}", "in the net: the blob's shape is 1x2, but it holds 3 numbers"),
    ],
)
def test_blobs_that_do_not_fit_are_refused(blobs: str, message: str) -> None:
    with pytest.raises(FcnCaffeError, match=message):
        build(X + "layer " + IP % ('"InnerProduct"', blobs))


def test_a_filler_that_is_not_used_is_not_checked() -> None:
    text = X + "layer " + IP % ('"InnerProduct"', f"blobs {{ {SHAPE} data: [5, 7] }}")
    assert build(text.replace("gaussian", "none"))(x=torch.ones(1, 2))["y"].item() == 12


def test_a_sharer_takes_the_owners() -> None:
    share = 'param { name: "w" }'
    first = IP % ('"InnerProduct"', f"{share} blobs {{ {SHAPE} data: [5, 7] }}")
    second = first.replace('"l"', '"m"').replace('top: "y"', 'top: "z"').replace("[5, 7]", "[0, 0]")
    tops = build(f"{X} layer {first} layer {second}")(x=torch.ones(1, 2))
    assert (tops["y"].item(), tops["z"].item()) == (12, 12)
