"""tools/draw_net.py: the DOT text, and Graphviz's pictures of it where it is installed."""

from __future__ import annotations

import re

import pytest
from helpers import input_layer, layer, net_param
from places import ROOT

from fcn_caffe import TRAIN, FcnCaffeError
from fcn_caffe.commands import draw_net as command
from fcn_caffe.net.draw import draw_net, draw_net_to_file, edge_label, layer_label, to_dot

needs_graphviz = pytest.mark.needs_program("dot")


def one(type: str, more: str = "", name: str = "it"):
    return net_param(layer(name, type, "data", more=more)).layer[0]


@pytest.mark.parametrize(
    ("type", "more", "lines"),
    [
        ("ReLU", "", ["it (ReLU)"]),
        (
            "Convolution",
            "convolution_param { num_output: 8 kernel_size: 3 pad: 100 }",
            ["it (Convolution)", "kernel size: 3", "stride: 1", "pad: 100"],
        ),
        (
            "Deconvolution",
            "convolution_param { kernel_h: 4 kernel_w: 2 stride: 2 stride: 1 dilation: 2 }",
            ["it (Deconvolution)", "kernel size: 4x2", "stride: 2x1", "pad: 0", "dilation: 2"],
        ),
        (
            "Pooling",
            "pooling_param { pool: AVE kernel_size: 2 stride_h: 2 stride_w: 3 }",
            ["it (AVE Pooling)", "kernel size: 2", "stride: 2x3", "pad: 0"],
        ),
        ("Pooling", "pooling_param { global_pooling: true }", ["it (MAX Pooling)", "global"]),
        ("BorderCopy", "border_copy_param { copies: 6 copies: 4 }", ["it (BorderCopy)", "copies 6x4"]),
    ],
)
def test_labels(type, more, lines):
    assert layer_label(one(type, more)) == "\n".join(lines)
    assert layer_label(one(type, more), "TB") == " ".join(lines)


def test_multipliers_are_shown_when_asked_for():
    shown = one("InnerProduct", "param { lr_mult: 0 } param { lr_mult: 2 }")
    assert layer_label(shown, lr_mult=True) == "it (InnerProduct)\nlr mult: 0, 2"
    assert layer_label(shown) == "it (InnerProduct)"


@pytest.mark.parametrize(
    ("type", "more", "text"),
    [
        ("Convolution", "convolution_param { num_output: 21 }", "21"),
        ("InnerProduct", "inner_product_param { num_output: 10 }", "10"),
        ("Data", "data_param { batch_size: 64 }", "Batch 64"),
        ("HDF5Data", "hdf5_data_param { batch_size: 3 }", "Batch 3"),
        ("ReLU", "", ""),
    ],
)
def test_edges(type, more, text):
    assert edge_label(one(type, more)) == text


NET = net_param(
    'name: "a \\"net\\""',
    input_layer("data", 1, 3, 8, 8),
    layer("c", "Convolution", "data", more="convolution_param { num_output: 4 kernel_size: 3 }"),
    layer("r", "ReLU", "c", "c"),
    layer("fc\\\\n{a|b}", "InnerProduct", "c", "fc", "inner_product_param { num_output: 2 } include { phase: TRAIN }"),
    layer("pool", "Pooling", "c", more="pooling_param { kernel_size: 2 } include { phase: TEST }"),
)


def test_the_graph():
    text = to_dot(NET)
    assert text.startswith('digraph "a \\"net\\"" {\n  rankdir=LR;')
    nodes = dict(re.findall(r'^  (\w+) \[label="(.*)", shape', text, re.M))
    assert [name for key, name in nodes.items() if key.startswith("blob")] == ["data", "c", "fc", "pool"]
    assert nodes["layer3"] == "fc\\\\n{a|b} (InnerProduct)"  # the backslash is a backslash, not the end of a line
    # In place: to the blob and back, green.
    assert "  blob1 -> layer2;" in text and "  layer2 -> blob1;" in text
    assert re.search(r'layer2 \[.*fillcolor="#90EE90"', text)
    assert '  layer1 -> blob1 [label=" 4"];' in text


def test_phases_choose_the_layers():
    assert "Pooling" not in to_dot(NET, phase=TRAIN) and "InnerProduct" in to_dot(NET, phase=TRAIN)


def test_layers_of_one_name_are_two_nodes():
    twice = net_param(input_layer("data", 1), input_layer("data", 1))
    assert to_dot(twice).count("data (Input)") == 2


def test_shapes_replace_numbers_of_outputs():
    assert '[label=" 1x4x6x6"]' in to_dot(NET, shapes={"c": (1, 4, 6, 6)})


def test_an_unknown_direction():
    with pytest.raises(FcnCaffeError, match="rankdir 'UP' is unknown"):
        to_dot(NET, rankdir="UP")


def test_without_graphviz_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FcnCaffeError, match="apt install graphviz"):
        draw_net_to_file(NET, tmp_path / "net.png")
    draw_net_to_file(NET, tmp_path / "net.dot")
    assert [path.name for path in tmp_path.iterdir()] == ["net.dot"]
    assert (tmp_path / "net.dot").read_text() == to_dot(NET)


def test_an_ending_is_needed(tmp_path):
    with pytest.raises(FcnCaffeError, match="the ending says the format"):
        draw_net_to_file(NET, tmp_path / "net")


@needs_graphviz
@pytest.mark.parametrize(("format", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_pictures(format, start):
    picture = draw_net(NET, format)
    assert picture.startswith(start)
    if format == "svg":
        assert b"fc\\n{a|b} (InnerProduct)" in picture


@needs_graphviz
def test_an_unknown_format(tmp_path):
    with pytest.raises(FcnCaffeError, match="Graphviz could not draw bmq"):
        draw_net_to_file(NET, tmp_path / "net.bmq")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys):
    out = tmp_path / "net.dot"
    net = str(ROOT / "nets/voc-fcn8s.prototxt")
    assert command.main([net, str(out), "--phase", "TEST", "--stage", "deploy", "--shapes", "--rankdir", "TB"]) == 0
    text = out.read_text()
    assert "rankdir=TB" in text and '[label=" 1x21x500x500"]' in text and "upscore8 (Deconvolution)" in text
    assert command.main([net, str(out), "--phase", "TEST", "--stage", "deploy", "--as-run", "--shapes"]) == 0
    text = out.read_text()
    assert 'copies 6", shape=box, fillcolor="#FFD700"' in text and '[label=" 1x64x514x514"]' in text
    assert command.main([net, str(out), "--display_lrm"]) == 0
    assert "lr mult: 1, 2" in out.read_text() and "VOCSegData" not in out.read_text()
    assert command.main([str(tmp_path / "none.prototxt"), str(out)]) == 1
    assert "none.prototxt: cannot be read: No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([net, str(out), "--stage", "deploy"])
    assert "give --phase" in capsys.readouterr().err
