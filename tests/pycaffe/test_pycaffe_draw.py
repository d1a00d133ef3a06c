"""caffe.draw: pycaffe's labels and graphs, and Graphviz's pictures of them where it is installed."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from helpers import input_layer, layer, net_param
from places import ROOT

import fcn_caffe.pycaffe as caffe
from fcn_caffe import FcnCaffeError
from fcn_caffe.pycaffe.proto import caffe_pb2

draw = caffe.draw
needs_graphviz = pytest.mark.needs_program("dot")


def one(type, more=""):
    return net_param(layer("it", type, "data", more=more)).layer[0]


LABELS = {
    "relu": ("ReLU", "", ["it", "(ReLU)"]),
    "conv": (
        "Convolution",
        "convolution_param { num_output: 8 kernel_size: 3 kernel_size: 5 pad: 100 }",
        ["it", "(Convolution)", "kernel size: 3", "stride: 1", "pad: 100"],
    ),
    "deconv": (
        "Deconvolution",
        "convolution_param { stride: 2 }",
        ["it", "(Deconvolution)", "kernel size: 1", "stride: 2", "pad: 0"],
    ),
    "pool": (
        "Pooling",
        "pooling_param { pool: AVE kernel_size: 2 stride: 2 pad: 1 }",
        ["it", "(AVE Pooling)", "kernel size: 2", "stride: 2", "pad: 1"],
    ),
}


@pytest.mark.parametrize("case", LABELS)
def test_layer_labels(case):
    type, more, parts = LABELS[case]
    assert draw.get_layer_label(one(type, more), "LR") == '"' + "\\n".join(parts) + '"'
    assert draw.get_layer_label(one(type, more), "BT") == '"' + " ".join(parts) + '"'


def test_multipliers():
    learns = one("InnerProduct", "param { lr_mult: 0 } param { lr_mult: 2 }")
    assert draw.get_layer_lr_mult(learns) == [0, 2] and draw.get_layer_lr_mult(one("Convolution")) == [1]
    assert draw.get_layer_label(learns, "TB", display_lrm=True) == '"it (InnerProduct) lr mult: 0.0, 2.0"'
    with pytest.raises(ValueError, match="ReLU layers have no learning rate multiplier"):
        draw.get_layer_lr_mult(one("ReLU"))


def test_edge_labels():
    assert draw.get_edge_label(one("Data", "data_param { batch_size: 64 }")) == "Batch 64"
    assert draw.get_edge_label(one("Deconvolution", "convolution_param { num_output: 21 }")) == "21"
    assert draw.get_edge_label(one("InnerProduct", "inner_product_param { num_output: 10 }")) == "10"
    assert draw.get_edge_label(one("ReLU")) == '""'


def test_tables():
    assert draw.get_pooling_types_dict() == {0: "MAX", 1: "AVE", 2: "STOCHASTIC"}
    colours = [draw.choose_color_by_layertype(type) for type in ("Convolution", "Pooling", "InnerProduct", "ReLU")]
    assert colours == ["#FF5050", "#FF9900", "#CC33FF", "#6495ED"]


NET = net_param(
    input_layer("data", 1, 3, 8, 8),
    layer("c", "Convolution", "data", more="convolution_param { num_output: 4 kernel_size: 3 }"),
    layer("r", "ReLU", "c", "c"),
    layer("fc {a|b}", "InnerProduct", "c", "fc", "include { phase: TRAIN }"),
    layer("pool", "Pooling", "c", more="pooling_param { kernel_size: 2 } exclude { phase: TRAIN }"),
)


def test_the_graph():
    graph = draw.get_pydot_graph(NET, "LR")
    shown = [node.get_name() for node in graph.get_nodes()]
    assert shown[:4] == ['"data\\n(Input)"', "data", '"c\\n(Convolution)\\nkernel size: 3\\nstride: 1\\npad: 0"', "c"]
    assert graph.get_name() == "Net" and graph.get_rankdir() == "LR" and len(graph.get_edge_list()) == 9
    assert {edge.get_label() for edge in graph.get_edges()} == {'""', "4", "0"}
    assert {edge.label for edge in draw.get_pydot_graph(NET, "LR", label_edges=False).edges} == {'""'}
    relu = next(node for node in graph.get_node_list() if "ReLU" in node.get_label())
    assert relu.attributes == draw.NEURON_LAYER_STYLE
    text = graph.to_string()
    assert text.startswith('digraph "Net" {\nrankdir=LR;\nnode0 [label="data\\n(Input)", shape="box"')
    assert 'node2 -> node3 [label="4"];' in text and 'node0 -> node1 [label=""];' in text
    assert graph.create(format="raw") == graph.create_dot() == text.encode()


def test_phases():
    train, test = (draw.get_pydot_graph(NET, "LR", phase=phase).to_string() for phase in (caffe.TRAIN, caffe.TEST))
    assert "InnerProduct" in train and "Pooling" not in train and "Pooling" in test and "InnerProduct" not in test
    both = net_param(layer("x", "Input", more="include { phase: TRAIN } exclude { phase: TEST }"))
    assert draw.get_pydot_graph(both, "LR").nodes
    with pytest.raises(ValueError, match="layer 'x' has both include and exclude rules"):
        draw.get_pydot_graph(both, "LR", phase=caffe.TEST)


def test_names_with_quotes_and_backslashes():
    odd = net_param(layer("a", "Input", top="b"))
    odd.name, odd.layer[0].name, odd.layer[0].top[0] = 'n "1"', 'q"uote', 'back\\slash"'
    text = draw.get_pydot_graph(odd, "TB").to_string()
    assert 'digraph "n \\"1\\""' in text and 'label="q\\"uote (Input)"' in text
    assert 'label="back\\\\slash\\""' in text


def test_writing(tmp_path):
    graph = draw.get_pydot_graph(NET, "TB")
    assert graph.write(tmp_path / "a.dot") and graph.write_raw(tmp_path / "b.dot")
    assert (tmp_path / "a.dot").read_text() == (tmp_path / "b.dot").read_text() == graph.to_string()
    draw.draw_net_to_file(NET, str(tmp_path / "c.dot"), "TB")
    assert (tmp_path / "c.dot").read_text() == graph.to_string()
    with pytest.raises(AttributeError, match="no 'set_size'"):
        _ = graph.set_size
    with pytest.raises(FcnCaffeError, match="not by 'neato'"):
        graph.create(prog="neato")
    with pytest.raises(FcnCaffeError, match="rankdir 'UP' is unknown"):
        draw.draw_net(NET, "UP")


@needs_graphviz
def test_pictures(tmp_path):
    assert draw.draw_net(NET, "LR").startswith(b"\x89PNG")
    assert b"(Convolution)" in draw.draw_net(NET, "TB", ext="svg", phase=caffe.TEST)
    draw.draw_net_to_file(NET, str(tmp_path / "net.png"), phase=caffe.TRAIN)
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    assert draw.get_pydot_graph(NET, "LR").create_svg().startswith(b"<?xml")


@needs_graphviz
def test_every_net_of_ours_is_drawn():
    for path in sorted((ROOT / "nets").glob("*.prototxt"))[:3]:
        net = caffe_pb2.NetParameter()
        text_format.Merge(path.read_text(), net)
        assert draw.draw_net(net, "LR", "svg").count(b'class="node"') > len(net.layer)
