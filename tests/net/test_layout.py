"""Layouts for a screen: boxes do not overlap and no line crosses one, for graphs of any form and for all our nets."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from helpers import layer, net_param
from places import ROOT

from fcn_caffe import TEST, Net
from fcn_caffe.commands import draw_net as command
from fcn_caffe.net.boxes import box_label, box_reads, kind, make_boxes, make_stages, stage_titles
from fcn_caffe.net.layout import BOX, Layout, lay_out, place, svg_path
from fcn_caffe.net.picture import shorten, to_svg
from fcn_caffe.proto import caffe_pb2, parse_text

NETS = sorted(path.stem for path in (ROOT / "nets").glob("*.prototxt"))


def deploy(name: str) -> Net:
    return Net(ROOT / f"nets/{name}.prototxt", TEST, stages=("deploy",), device="meta")


def check(layout: Layout, reads: list[list[int]]) -> None:
    width, height = BOX
    for box, (x, y) in enumerate(layout.corners):
        assert 0 <= x <= layout.width - width and 0 <= y <= layout.height - height
        for a, b in layout.corners[:box]:
            assert abs(x - a) >= width or abs(y - b) >= height
    for at, one in enumerate(layout.frames):
        for other in layout.frames[:at]:
            beside = one.x >= other.x + other.width or other.x >= one.x + one.width
            assert beside or one.y >= other.y + other.height or other.y >= one.y + one.height
    assert {(route.source, route.target) for route in layout.routes} == {
        (source, target) for target, below in enumerate(reads) for source in below
    }
    for route in layout.routes:
        assert route.points[0][1] == layout.corners[route.source][1] + height
        assert route.points[-1][1] == layout.corners[route.target][1]
        for (x, y), (u, v) in pairwise(route.points):
            assert (x == u) != (y == v)
            left, right, top, foot = min(x, u), max(x, u), min(y, v), max(y, v)
            assert 0 <= left <= right <= layout.width and 0 <= top <= foot <= layout.height
            for a, b in layout.corners:
                assert right <= a or left >= a + width or foot <= b or top >= b + height


@pytest.mark.parametrize("seed", range(60))
def test_any_graph(seed):
    chance = random.Random(seed)
    reads = [
        sorted(chance.sample(range(at), min(at, chance.choice([0, 1, 1, 1, 2, 3])))) for at in range(seed // 2 + 1)
    ]
    stages = [0]
    for _ in reads[1:]:
        stages.append(stages[-1] + (chance.random() < chance.choice([0.1, 0.4])))
    check(lay_out(reads, stages, aspect=chance.choice([0.5, 1.7])), reads)


@pytest.mark.parametrize("name", NETS)
def test_our_nets(name):
    net = deploy(name)
    layers = list(net.param.layer)
    boxes = make_boxes(layers)
    assert sorted(index for box in boxes for index in box.layers) == list(range(len(layers)))
    for shapes in (net.blob_shapes, None):
        stages = make_stages(boxes, layers, shapes)
        assert stages == sorted(stages) and set(stages) == set(range(stages[-1] + 1))
        assert len(stage_titles(boxes, layers, stages)) == stages[-1] + 1
        reads = box_reads(boxes)
        check(lay_out(reads, stages), reads)


def test_an_fcn_8s_fits_a_screen():
    net = deploy("voc-fcn8s")
    boxes = make_boxes(net.param.layer)
    layout = lay_out(box_reads(boxes), make_stages(boxes, net.param.layer, net.blob_shapes))
    assert layout.width <= 1366 and layout.height <= 768
    firsts = {stages: net.param.layer[box.layers[0]].name for box, stages in zip(boxes, layout.corners, strict=True)}
    assert firsts[min(firsts)] == "input"


def test_a_wide_screen_has_fewer_bands():
    reads = [[] if at == 0 else [at - 1] for at in range(24)]
    wide, tall = (lay_out(reads, [at // 2 for at in range(24)], aspect) for aspect in (10, 0.2))
    assert wide.width > wide.height and tall.height > tall.width


def test_nothing_and_one():
    assert lay_out([], []).corners == []
    assert len(lay_out([[]], [0]).corners) == 1


def test_places_in_a_grid():
    assert place([[], [0], [0], [1, 2]]) == [(0, 0), (1, 0), (1, 1), (2, 0)]
    assert place([[], [0], []], {2: [1]})[2][0] == 1


def test_corners_are_rounded_only_where_there_is_room():
    assert svg_path([(0, 0), (0, 40), (10, 40), (10, 0)]) == "M0 0V35q0 5 5 5H5q5 0 5 -5V0"


# -- boxes -------------------------------------------------------------------------------------------------------------


TEXT = """
name: "a <b>&amp;"
layer { name: "data" type: "DummyData" top: "data" }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 8 kernel_h: 3 kernel_w: 1 stride: 2 dilation: 2 } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "n" }
layer { name: "r</title>" type: "ReLU" bottom: "n" top: "n" }
layer { name: "up" type: "Deconvolution" bottom: "n" top: "up"
        convolution_param { num_output: 2 kernel_size: 4 stride: 2 } }
layer { name: "crop" type: "Crop" bottom: "up" bottom: "data" top: "crop" crop_param { offset: 1 offset: 2 } }
layer { name: "s" type: "Sigmoid" bottom: "n" top: "s" }
layer { name: "sum" type: "Eltwise" bottom: "s" bottom: "n" top: "sum" }
layer { name: "gp" type: "Pooling" bottom: "sum" top: "gp" pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "gp" top: "fc" inner_product_param { num_output: 7 } }
layer { name: "copy" type: "BorderCopy" bottom: "crop" top: "copy" border_copy_param { copies: 3 } }
layer { name: "py" type: "Python" bottom: "copy" top: "py" python_param { layer: "Thing" } }
layer { name: "l" type: "EuclideanLoss" bottom: "fc" bottom: "py" top: "l" }
"""


def test_boxes_say_what_layers_do():
    layers = list(parse_text(TEXT, caffe_pb2.NetParameter).layer)
    boxes = make_boxes(layers)
    said = {layers[box.layers[0]].name: (kind(layers[box.layers[0]]), box_label(box, layers)) for box in boxes}
    assert said == {
        "data": ("data", "DummyData"),
        "c": ("conv", "conv 3×1 8 /2 dilated 2 + BatchNorm + ReLU"),
        "up": ("up", "up 4×4 2 /2"),
        "crop": ("crop", "crop at 1x2"),
        "s": ("other", "Sigmoid"),  # its bottom has another reader
        "sum": ("join", "sum"),
        "gp": ("pool", "global ave pool"),
        "fc": ("conv", "inner product 7"),
        "copy": ("copy", "copies 3"),
        "py": ("other", "Python Thing"),
        "l": ("loss", "EuclideanLoss"),
    }
    crop = next(box for box in boxes if layers[box.layers[0]].name == "crop")
    assert (crop.reads, crop.references) == ([2], [0])


def test_layers_of_two_phases_both_lead_to_their_reader():
    text = "".join(
        f'layer {{ name: "data" type: "Data" top: "data" include {{ phase: {p} }} }}' for p in ("TRAIN", "TEST")
    )
    boxes = make_boxes(
        parse_text(text + 'layer { name: "r" type: "LRN" bottom: "data" top: "r" }', caffe_pb2.NetParameter).layer
    )
    assert [box.reads for box in boxes] == [[], [], [0, 1]]


def test_a_long_stage_is_parted():
    layers = list(
        net_param(
            *(layer(f"block{at // 12}_{at}", "LRN", str(at - 1) if at else "", str(at)) for at in range(48))
        ).layer
    )
    boxes = make_boxes(layers)
    stages = make_stages(boxes, layers)
    assert [stages.count(stage) for stage in range(4)] == [12] * 4
    assert stage_titles(boxes, layers, stages)[1] == "block1_12 … block1_23"


# -- the picture -------------------------------------------------------------------------------------------------------


def test_names_are_escaped_in_the_picture():
    from xml.etree import ElementTree

    svg = to_svg(parse_text(TEXT, caffe_pb2.NetParameter), {"c": (1, 8, 9, 9)})
    texts = [element.text for element in ElementTree.fromstring(svg).iter()]
    named = parse_text(TEXT.replace('"c"', '"c\\033"'), caffe_pb2.NetParameter)
    assert "c\ufffd (Convolution)" in "".join(ElementTree.fromstring(to_svg(named)).itertext())
    assert "a <b>&amp;: 13 layers" in texts and "c (Convolution), bn (BatchNorm), r</title> (ReLU)" in texts


@pytest.mark.parametrize(
    ("text", "between", "cut"),
    [
        ("conv 7×7 4096 + ReLU", " + ", "conv 7×7 4096 + ReLU"),
        ("conv 7×7 4096 + ReLU + Dropout", " + ", "conv 7×7 4096 + ReLU …"),
        ("conv4_1_1x1_reduce … conv4_2_1x1_increase", " … ", "conv4_1_1x1_reduce …"),
        ("Python AnExtremelyWellNamedLayerOfImages + ReLU", " + ", "Python AnExt…erOfImages"),
        ("畳み込み層の名前がとても長い場合に何が起こるか", "", "畳み込み層の名…何が起こるか"),
        ("W" * 300, "", "WWWWWWWW…WWWWWW"),
    ],
)
def test_texts_are_cut_between_their_parts_and_to_the_letters_they_have(text, between, cut):
    assert shorten(text, 158, between=between) == cut


def test_the_command_draws_for_a_screen_without_graphviz(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    net, out = str(ROOT / "nets/voc-fcn8s.prototxt"), tmp_path / "net.svg"
    assert command.main([net, str(out), "--phase", "TEST", "--stage", "deploy", "--shapes"]) == 0
    assert "1x21x500x500" in out.read_text() and "max pool 2×2 /2" in out.read_text()
    assert command.main([net, str(out)]) == 0  # all phases
    assert "SoftmaxWithLoss" in out.read_text()
    before = out.read_bytes()
    assert command.main([net, str(out), "--rankdir", "LR"]) == 1  # Caffe's picture
    assert "apt install graphviz" in capsys.readouterr().err and out.read_bytes() == before
    for words in (["--rankdir", "TB"], ["--display_lrm"]):
        with pytest.raises(SystemExit):
            command.main([net, str(out), "--layout", "screen", *words])
    with pytest.raises(SystemExit):
        command.main([net, str(tmp_path / "net.png"), "--layout", "screen"])
    assert "--layout screen writes .svg" in capsys.readouterr().err
