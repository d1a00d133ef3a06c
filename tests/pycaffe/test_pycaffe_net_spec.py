"""caffe.net_spec and caffe.proto.caffe_pb2 as pycaffe's scripts use them."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from google.protobuf import text_format

import fcn_caffe.pycaffe as caffe
from fcn_caffe import GraphError
from fcn_caffe.pycaffe import layers as L
from fcn_caffe.pycaffe import params as P
from fcn_caffe.pycaffe.net_spec import (
    Function,
    Layers,
    Parameters,
    Top,
    assign_proto,
    param_name_dict,
    to_proto,
)
from fcn_caffe.pycaffe.proto import caffe_pb2


def dummy(**options):
    return L.DummyData(shape=[{"dim": [4, 1, 28, 28]}, {"dim": [4, 1, 1, 1]}], ntop=2, **options)


def lenet_like(spec):
    """A small classifier, as names in `spec`."""
    spec.data, spec.label = dummy(transform_param={"scale": 1.0 / 255})
    spec.conv1 = L.Convolution(spec.data, kernel_size=5, num_output=20, weight_filler={"type": "xavier"})
    spec.pool1 = L.Pooling(spec.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    spec.relu1 = L.ReLU(spec.pool1, in_place=True)
    spec.ip = L.InnerProduct(spec.relu1, num_output=10, param=[{"lr_mult": 1}, {"lr_mult": 2}])
    spec.loss = L.SoftmaxWithLoss(spec.ip, spec.label, loss_weight=0.5)
    return spec


def names(proto):
    return [layer.name for layer in proto.layer]


def test_a_named_net():
    n = lenet_like(caffe.NetSpec())
    proto = n.to_proto()
    assert names(proto) == ["data", "conv1", "pool1", "relu1", "ip", "loss"]
    assert list(proto.layer[0].top) == ["data", "label"]
    assert proto.layer[3].bottom == proto.layer[3].top == ["pool1"]
    assert proto.layer[2].pooling_param.pool == caffe_pb2.PoolingParameter.MAX
    assert [spec.lr_mult for spec in proto.layer[4].param] == [1, 2]
    assert list(proto.layer[5].loss_weight) == [0.5]
    assert proto == caffe.NetSpec.to_proto(n) and isinstance(proto, caffe_pb2.NetParameter)


def test_a_net_without_names():
    data, label = dummy()
    conv = L.Convolution(data, kernel_size=5, num_output=20)
    loss = L.SoftmaxWithLoss(L.InnerProduct(L.ReLU(conv, in_place=True), num_output=10), label)
    proto = loss.to_proto()
    assert names(proto) == ["DummyData1", "Convolution1", "ReLU1", "InnerProduct1", "SoftmaxWithLoss1"]
    assert list(proto.layer[0].top) == ["DummyData1", "DummyData2"]
    assert list(proto.layer[2].top) == ["Convolution1"]
    assert names(to_proto(conv, loss)) == names(proto)
    assert caffe.to_proto(loss) == proto


def test_layers_without_tops():
    n = caffe.NetSpec()
    n.data, n.data2 = L.DummyData(shape={"dim": 3}, ntop=2)
    n.silence = L.Silence(n.data, ntop=0)
    n.silence2 = L.Silence(n.data2, ntop=0)
    assert isinstance(n.silence, Function)
    assert names(n.to_proto()) == ["data", "silence", "silence2"]
    assert names(to_proto(L.Silence(n.data, ntop=0))) == ["DummyData1", "Silence1"]


def test_dependencies_stand_before_what_was_assigned_sooner():
    n = caffe.NetSpec()
    a, b = L.Input(shape={"dim": 1}), L.Input(shape={"dim": 1})
    n.sum = L.Eltwise(b, L.ReLU(a))
    n.a, n.late, n.b = a, L.TanH(a), b
    assert names(n.to_proto()) == ["b", "a", "ReLU1", "sum", "late"]


def test_the_last_name_of_a_top_counts_and_a_replaced_top_has_none():
    n = caffe.NetSpec()
    n.first = L.Input(shape={"dim": 1})
    n.second = n.first
    n.relu = L.ReLU(n.first)
    assert names(n.to_proto()) == ["second", "relu"]
    n.relu = L.TanH(n.relu)
    assert names(n.to_proto()) == ["second", "ReLU1", "relu"]


def test_in_place_takes_every_bottom():
    n = caffe.NetSpec()
    n.a, n.b = dummy()
    n.both = L.Python(n.a, n.b, module="m", layer="C", in_place=True)
    assert list(n.to_proto().layer[1].top) == ["a", "b"]


def test_access_by_attribute_item_and_table():
    n = caffe.NetSpec()
    n["inception/1x1"] = L.Input(shape={"dim": 1})
    n.relu = L.ReLU(n["inception/1x1"])
    assert isinstance(n.tops, OrderedDict) and n.tops["relu"] is n.relu is n["relu"]
    assert n.keys() == ["inception/1x1", "relu"] and n.vals() == [n["inception/1x1"], n.relu]
    assert isinstance(n.relu, Top) and n.relu.fn.type_name == "ReLU" and n.relu.n == 0
    assert n.relu.fn.inputs == (n["inception/1x1"],) and n.relu.fn.tops == (n.relu,)
    n.update("relu", {"negative_slope": 0.5})
    assert n.to_proto().layer[1].relu_param.negative_slope == 0.5
    del n["relu"]
    assert n.keys() == ["inception/1x1"]


def test_every_form_of_option():
    layer = Layers().Python(
        L.Input(),
        python_param={"module": "m", "layer": "C", "param_str": "{}"},
        include={"phase": caffe.TRAIN},
        propagate_down=[True],
        param={"name": "w"},
        name="mine",
    )
    proto = layer.to_proto().layer[1]
    assert (proto.name, proto.python_param.layer, proto.include[0].phase) == ("mine", "C", caffe_pb2.TRAIN)
    assert list(proto.propagate_down) == [True] and proto.param[0].name == "w"
    own = L.Convolution(L.Input(), num_output=np.int64(3), kernel_size=np.array([3, 5]), bias_term=np.bool_(False))
    options = own.to_proto().layer[1].convolution_param
    assert (options.num_output, list(options.kernel_size), options.bias_term) == (3, [3, 5], False)
    assert Parameters().Eltwise.PROD == caffe_pb2.EltwiseParameter.PROD == 0


def test_assign_proto():
    proto = caffe_pb2.LayerParameter()
    assign_proto(proto, "bottom", "a")
    assign_proto(proto, "convolution_param", {"kernel_size": 3, "weight_filler": {"type": "bilinear"}})
    assign_proto(proto, "param", [{"lr_mult": 0}, {}])
    wanted = 'bottom: "a" param { lr_mult: 0 } param {} convolution_param { kernel_size: 3 weight_filler '
    assert proto == text_format.Parse(wanted + '{ type: "bilinear" } }', caffe_pb2.LayerParameter())


def test_param_name_dict():
    found = param_name_dict()
    assert found["Convolution"] == "convolution" and found["InnerProduct"] == "inner_product"
    assert found["LRN"] == "lrn" and found["Transformation"] == "transform"


def test_errors_are_the_kinds_that_scripts_catch():
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(dummy(), ntop=0)
    n = caffe.NetSpec()
    with pytest.raises(KeyError, match="the net has no top 'conv1'"):
        n["conv1"]
    assert getattr(n, "conv1", None) is None and not hasattr(n, "conv1")
    with pytest.raises(AttributeError, match="no option 'kernal'"):
        L.Convolution(L.Input(), kernal=3).to_proto()
    with pytest.raises(TypeError, match="num_output cannot be 'many'"):
        L.Convolution(L.Input(), num_output="many").to_proto()
    with pytest.raises(AttributeError, match="FillerParameter has no field 'kind'"):
        L.Convolution(L.Input(), weight_filler={"kind": "x"}).to_proto()
    with pytest.raises(GraphError, match="in place has an input for each top"):
        L.Input(in_place=True)
    with pytest.raises(AttributeError, match="MEAN"):
        _ = P.Pooling.MEAN


def test_messages_and_enums():
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST, caffe_pb2.Phase.Name(1)) == (0, 1, "TEST")
    assert caffe_pb2.V1LayerParameter.CONVOLUTION == 4 and caffe_pb2.SolverParameter.GPU == 1
    assert caffe_pb2.PoolingParameter.PoolMethod.Name(1) == "AVE" and caffe_pb2.DataParameter.LMDB == 1
    assert caffe_pb2._LAYERPARAMETER.fields_by_name["name"].number == 1
    assert caffe_pb2.DESCRIPTOR.package == "caffe" and caffe_pb2._PHASE.values_by_name["TEST"].number == 1
    for name in ("BlobProto", "BlobProtoVector", "BlobShape", "Datum", "SolverState", "NetState", "V0LayerParameter"):
        message = getattr(caffe_pb2, name)()
        assert type(message).FromString(message.SerializeToString()) == message


def test_text_and_copies_of_messages():
    net = caffe_pb2.NetParameter()
    text = 'name: "n" layer { name: "p" type: "Pooling" pooling_param { pool: AVE } }'
    assert text_format.Merge(text, net) is net
    assert text_format.Parse(str(net), caffe_pb2.NetParameter()) == net
    assert text_format.Merge(text_format.MessageToString(net), caffe_pb2.NetParameter()) == net
    assert copy.deepcopy(net) == pickle.loads(pickle.dumps(net)) == net
    other = caffe_pb2.NetParameter()
    other.CopyFrom(net)
    other.layer.add(name="more")
    assert len(other.layer) == 2 and net != other
    with pytest.raises(text_format.ParseError):
        text_format.Merge("nane: 1", net)
