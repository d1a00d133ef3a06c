"""Gradients of labels, indices and layers that have none: refused when a net to train is built, as Caffe's backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fcn_caffe.pycaffe as caffe
from fcn_caffe import LayerError, Net
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.proto.phases import TEST, TRAIN

INPUT = (
    'layer { name: "x" type: "Input" top: "x" top: "t" input_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } } '
    'layer { name: "w" type: "Scale" bottom: "%s" top: "w" scale_param { axis: 0 num_axes: 0 } } '
)
SUM = 'layer { name: "sum" type: "Reduction" bottom: "y" top: "r" loss_weight: 1 %s }'


def layer(kind: str, bottoms: str, more: str = "") -> str:
    listed = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "l" type: "{kind}" {listed} top: "y" {more} }} '


EMBED = "embed_param { input_dim: 3 num_output: 2 }"
CASES = {
    "learned scores of ArgMax": (INPUT % "x" + layer("ArgMax", "w") + SUM % "", "'w', where Caffe aborts: 'Not Impl"),
    "learned bottom of Threshold": (
        INPUT % "x" + layer("Threshold", "w") + SUM % "",
        "Write `propagate_down: false` for",
    ),
    "learned indices": (INPUT % "t" + layer("Embed", "w", EMBED) + SUM % "", "Write `propagate_down: false` in it"),
    "learned rows": (
        INPUT % "t" + layer("BatchReindex", "x w") + SUM % "",
        "propagate_down: true propagate_down: false`",
    ),
    "asked of a label": (
        INPUT % "x" + layer("SoftmaxWithLoss", "w t", "propagate_down: true propagate_down: true"),
        "'t', where Caffe aborts: 'Layer cannot backpropagate to label inputs.'",
    ),
    "forced on Accuracy": ("force_backward: true " + INPUT % "x" + layer("Accuracy", "w t"), "Drop force_backward"),
}
SOUND = {
    "no loss above": INPUT % "x" + layer("ArgMax", "w"),
    "told not to": INPUT % "x" + layer("ArgMax", "w") + SUM % "propagate_down: false",
    "told not to by the layer": INPUT % "t" + layer("Embed", "w", f"{EMBED} propagate_down: false") + SUM % "",
    "force_backward leaves labels": "force_backward: true " + INPUT % "x" + layer("SoftmaxWithLoss", "w t"),
    "a loss of no weight": INPUT % "x"
    + layer("SoftmaxWithLoss", "w t", "loss_weight: 0 propagate_down: true propagate_down: true"),
}


def build(text: str, phase: int = TRAIN) -> Net:
    return Net(parse_text(text, caffe_pb2.NetParameter), phase)


@pytest.mark.parametrize("case", CASES)
def test_refused_when_building_to_train(case: str) -> None:
    text, message = CASES[case]
    with pytest.raises(LayerError) as caught:
        build(text)
    assert "layer 'l'" in str(caught.value) and message in str(caught.value)
    build(text, TEST)


@pytest.mark.parametrize("case", CASES)
def test_the_face_refuses_backward_in_test_too(case: str, tmp_path: Path) -> None:
    text, message = CASES[case]
    (tmp_path / "net.prototxt").write_text(text)
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    net.forward()
    with pytest.raises(LayerError) as caught:
        net.backward()
    assert message in str(caught.value)


@pytest.mark.parametrize("case", SOUND)
def test_what_caffe_trains_is_built(case: str) -> None:
    build(SOUND[case])


def test_force_backward_overrules_propagate_down() -> None:
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } } ' + (
        'layer { name: "p" type: "Power" bottom: "x" top: "y" power_param { scale: 3 } propagate_down: false }'
    )
    x = torch.ones(2, 3, requires_grad=True)
    assert not build(text)(x=x)["y"].requires_grad
    build("force_backward: true " + text)(x=x)["y"].sum().backward()
    assert x.grad is not None and x.grad.unique().tolist() == [3]
