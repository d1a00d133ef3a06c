"""Layers of one name, which Caffe runs in order: its look-ups take the last, weights go to the first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fcn_caffe.pycaffe as caffe
from fcn_caffe import LayerError, Net
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.weights import copy_weights

DATA = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } } '
IP = (
    'layer { name: "ip" type: "InnerProduct" bottom: "%s" top: "%s" '
    'inner_product_param { num_output: 2 bias_term: false weight_filler { type: "constant" value: %g } } } '
)
TWO = DATA + IP % ("x", "y", 2) + IP % ("y", "z", 3)
# As BVLC's autoencoder has its two losses, and published nets of HED their crops.
CUT = """
layer { name: "wide%d" type: "Convolution" bottom: "image" top: "%s"
        convolution_param { num_output: 2 kernel_size: 3 pad: %d weight_filler { type: "constant" value: 1 } } }
layer { name: "cut" type: "Crop" bottom: "%s" bottom: "image" top: "%s_cut" crop_param { axis: 2 offset: %d } }
"""
HED = (
    'input: "image" input_shape { dim: 1 dim: 1 dim: 8 dim: 8 } '
    + "".join(CUT % (pad, top, pad, top, top, pad - 1) for top, pad in (("a", 3), ("b", 2)))
    + 'layer { name: "both" type: "Eltwise" bottom: "a_cut" bottom: "b_cut" top: "sum" }'
)


def core(text: str, phase: int = TEST) -> Net:
    return Net(parse_text(text, caffe_pb2.NetParameter), phase)


def face(folder: Path, text: str, phase: int = TRAIN) -> caffe.Net:
    path = folder / "net.prototxt"
    path.write_text(text)
    return caffe.Net(str(path), phase)


def test_layers_run_in_order() -> None:
    net = core(HED)
    assert [type(net.layer(node)).__name__ for node in net.graph.nodes].count("Crop") == 2
    image = torch.randn(1, 1, 8, 8)
    sums = torch.nn.functional.conv2d(image, torch.ones(1, 1, 3, 3), padding=1)
    torch.testing.assert_close(net(image=image)["sum"], torch.cat([2 * sums] * 2, 1))


def test_the_face_runs_them(tmp_path: Path) -> None:
    net = face(tmp_path, HED)
    assert list(net._layer_names).count("cut") == 2
    net.blobs["image"].data[...] = 1
    assert net.forward()["sum"][0, 0, 4, 4] == 18
    last = len(net.layers) - 1 - list(reversed(net._layer_names)).index("cut")
    assert net.layer_dict["cut"] is net.layers[last]
    assert net.top_names["cut"] == ["b_cut"]


def test_look_ups_take_the_last_and_weights_go_to_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = core(TWO)
    assert "several layers named 'ip' have blobs" in caplog.text
    assert net.layer("ip").param.top == ["z"]
    copy_weights(net, {"ip": [np.eye(2, dtype=np.float32)]})
    assert [blobs[0][0, 0].item() for _, _, blobs in net.all_params()] == [1, 3]
    of_face = face(tmp_path, TWO)
    assert of_face.params["ip"][0].data[0, 0] == 3


def test_saved_weights_hold_every_layer_and_are_copied_to_the_first(tmp_path: Path) -> None:
    net = face(tmp_path, TWO)
    net.save(str(tmp_path / "two.caffemodel"))
    saved = caffe_pb2.NetParameter.FromString((tmp_path / "two.caffemodel").read_bytes())
    assert [(layer.name, layer.blobs[0].data[0]) for layer in saved.layer] == [("ip", 2), ("ip", 3)]
    net.copy_from(str(tmp_path / "two.caffemodel"))
    net.blobs["x"].data[...] = 1
    assert net.forward()["z"][0, 0] == (3 * 2) * (3 * 2)


def test_keys_of_many_layers_of_one_name_stay_short() -> None:
    net = core(DATA + "".join(IP % ("x", f"y{index}", 1) for index in range(12)))
    assert list(net.layers)[1:] == [*("ip" + "_" * count for count in range(9)), "ip_9", "ip_10", "ip_11"]


def test_a_test_net_shares_the_last_with_its_first() -> None:
    train, test = core(TWO), core(TWO)
    test.share_with(train)
    assert test.params["ip"][0] is train.layer("ip").blobs[0]
    other = core(DATA + IP % ("x", "y", 2) + 'layer { name: "ip" type: "ReLU" bottom: "y" top: "z" }')
    with pytest.raises(LayerError, match="cannot share blobs"):
        test.share_with(other)
