"""Nets written in Python: names, wiring, options, and what a mistake is told."""

from __future__ import annotations

import pytest

from fcn_caffe import TRAIN, GraphError, Net
from fcn_caffe.net.net_spec import NetSpec, to_proto
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P
from fcn_caffe.proto import caffe_pb2, parse_text


def text(source):
    return parse_text(source, caffe_pb2.NetParameter)


def data(**more):
    return L.Input(input_param={"shape": {"dim": [1, 3, 8, 8]}}, **more)


def test_a_net_with_every_form_of_option():
    n = NetSpec()
    n.data, n.label = L.Python(module="m", layer="C", ntop=2, param_str="{}", include={"phase": TRAIN})
    n.conv1 = L.Convolution(
        n.data,
        num_output=4,
        kernel_size=3,
        pad=[1, 2],
        param=[{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 2, "decay_mult": 0}],
        weight_filler={"type": "xavier"},
    )
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.AVE, kernel_size=2, stride=2)
    n.up = L.Deconvolution(n.pool1, convolution_param={"num_output": 4, "kernel_size": 4, "stride": 2}, name="other")
    n.sum = L.Eltwise(n.up, n.pool1, operation=P.Eltwise.SUM, coeff=[0.5, 0.5])
    n.loss = L.SoftmaxWithLoss(n.sum, n.label, loss_weight=2, loss_param={"ignore_label": 255}, propagate_down=[1, 0])
    n.end = L.Silence(n.label, ntop=0)
    assert n.to_proto() == text("""
      layer { name: "data" type: "Python" top: "data" top: "label" include { phase: TRAIN }
              python_param { module: "m" layer: "C" param_str: "{}" } }
      layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
              param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
              convolution_param { num_output: 4 kernel_size: 3 pad: 1 pad: 2 weight_filler { type: "xavier" } } }
      layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
      layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
              pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
      layer { name: "other" type: "Deconvolution" bottom: "pool1" top: "up"
              convolution_param { num_output: 4 kernel_size: 4 stride: 2 } }
      layer { name: "sum" type: "Eltwise" bottom: "up" bottom: "pool1" top: "sum"
              eltwise_param { operation: SUM coeff: 0.5 coeff: 0.5 } }
      layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" top: "loss" loss_weight: 2
              propagate_down: true propagate_down: false loss_param { ignore_label: 255 } }
      layer { name: "end" type: "Silence" bottom: "label" }
    """)


def test_layers_without_a_name_are_numbered_by_type():
    n = NetSpec()
    n.data = data()
    n.sum = L.Eltwise(L.ReLU(L.ReLU(n.data)), L.TanH(n.data))
    assert [layer.name for layer in n.to_proto().layer] == ["data", "ReLU1", "ReLU2", "TanH1", "sum"]
    assert [layer.name for layer in to_proto(n.sum).layer] == ["Input1", "ReLU1", "ReLU2", "TanH1", "Eltwise1"]
    assert n.sum.to_proto() == to_proto(n.sum)


def test_a_top_read_before_it_is_assigned_stands_before_its_reader():
    n = NetSpec()
    x = data()
    n.late = L.ReLU(x)
    n.x = x
    assert [layer.name for layer in n.to_proto().layer] == ["x", "late"]


def test_a_net_deeper_than_pythons_stack():
    n = NetSpec()
    top = n["data"] = data()
    for number in range(3000):
        top = n[f"relu{number}"] = L.ReLU(top)
    assert len(n.to_proto().layer) == 3001


def test_the_net_runs():
    n = NetSpec()
    n.data = data()
    n["inception/1x1"] = L.Convolution(n.data, num_output=2, kernel_size=1)
    assert Net(n.to_proto()).blob_shapes["inception/1x1"] == (1, 2, 8, 8)


def test_a_spec_is_a_table_of_tops():
    n = NetSpec()
    n.update({"a": data(), "b": data()})
    assert n.keys() == list(n) == ["a", "b"] and n.vals() == [n.a, n["b"]] and "a" in n
    del n.a
    del n["b"]
    assert n.keys() == [] and not hasattr(NetSpec, "a") and "a" not in n


def assign(value):
    NetSpec().top = value


MISTAKES = {
    "option": (lambda: L.Convolution(data(), kernl_size=3).to_proto(), "no option 'kernl_size'. Did you mean 'kernel"),
    "nested": (lambda: L.DetectionOutput(data(), nms_param={}).to_proto(), "Write it as Caffe does: detection_output"),
    "field": (
        lambda: L.ReLU(data(), relu_param={"slope": 1}).to_proto(),
        "layer 'ReLU1' (ReLU): ReLUParameter has no field 'slope'.",
    ),
    "value": (lambda: L.ReLU(data(), negative_slope="steep").to_proto(), "negative_slope cannot be 'steep'"),
    "number for a message": (lambda: L.ReLU(data(), relu_param=3).to_proto(), "relu_param cannot be 3"),
    "bottom": (lambda: L.ReLU("data"), "ReLU input 0 is not a Top (type is <class 'str'>)"),
    "in place without bottom": (
        lambda: L.Input(in_place=True),
        "Input: a layer in place has an input for each top, and at least one.",
    ),
    "tuple": (lambda: assign(L.Python(ntop=2)), "'top' is assigned a tuple, wanted a top."),
    "missing": (lambda: NetSpec().conv1, "the net has no top 'conv1'."),
    "near": (lambda: (n := NetSpec()).update({"conv1": data()}) or n.conv2, "no top 'conv2'. Did you mean 'conv1'?"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case):
    act, message = MISTAKES[case]
    with pytest.raises(GraphError) as caught:
        act()
    assert message in str(caught.value)


def test_unknown_enum_values():
    with pytest.raises(AttributeError, match=r"PoolingParameter has no value 'MAXX'\. Did you mean 'MAX'\?"):
        _ = P.Pooling.MAXX
    with pytest.raises(AttributeError, match="no PolingParameter"):
        _ = P.Poling


def test_a_loop_is_refused():
    top = L.ReLU(data())
    top.fn.inputs = (top,)
    with pytest.raises(GraphError, match="ReLU: its inputs are made of its own top"):
        to_proto(top)
