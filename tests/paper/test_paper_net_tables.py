"""Tables of nets: numbers that the paper states, numbers counted by hand, and the lines of the files."""

from __future__ import annotations

import pytest
from helpers import input_layer, layer
from places import ROOT

from fcn_caffe.errors import GraphError
from fcn_caffe.net.multiply_adds import multiply_adds
from fcn_caffe.net.net import Net
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.net_tables import layer_lines, net_table, net_tables, paper_nets

CONV = "convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 } param { lr_mult: 1 } param { lr_mult: 2 }"
UP = "convolution_param { num_output: 4 kernel_h: 4 kernel_w: 6 stride: 2 bias_term: false } param { lr_mult: 0 }"
SMALL = "".join(
    (
        '# layer { name: "conv" }\nname: "small { layer"\n\n',
        input_layer("data", 1, 3, 20, 30),
        layer("drop", "Dropout", "data", more='include { stage: "never" }'),
        layer("drop", "Dropout", "data", top="dropped", more="exclude { phase: TRAIN }"),
        layer("conv", "Convolution", "dropped", more=CONV),
        layer("up", "Deconvolution", "conv", more=UP),
        layer("cut", "Crop", "up data", more="crop_param { axis: 2 offset: 0 }"),
        layer("global", "Pooling", "conv", more="pooling_param { global_pooling: true pool: AVE }"),
        layer("shape", "Reshape", "global", more="reshape_param { shape { dim: 1 dim: 4 } }"),
    )
)


@pytest.fixture
def audited(tmp_path):
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "voc-fcn32s-small.prototxt").write_text(SMALL)
    return AuditedFiles(tmp_path)


def by_name(table):
    return {one["name"]: one for one in table["layers"]}


def test_small_net(audited):
    table = net_table(audited, "voc-fcn32s-small")
    assert (table["file"], table["size"]) == ("nets/voc-fcn32s-small.prototxt", [20, 30])
    layers = by_name(table)
    assert [one["line"] for one in table["layers"]] == [4, 6, 7, 8, 9, 10, 11]
    conv = layers["conv"]
    assert conv["shape"] == [1, 4, 10, 15] and conv["bottoms"] == ["dropped"] and conv["tops"] == ["conv"]
    assert (conv["stride"], conv["receptive_field"]) == (2, 3)
    assert (conv["kernel"], conv["pad"], conv["step"], conv["lr_mult"]) == (3, 1, 2, [1, 2])
    assert conv["parameters"] == 4 * 3 * 9 + 4 and conv["multiply_adds"] == 4 * 3 * 9 * 150
    up = layers["up"]
    assert (up["kernel"], up["lr_mult"], up["stride"]) == ([4, 6], [0], 1)
    assert up["multiply_adds"] == 4 * 4 * 24 * 150
    assert layers["cut"]["offset"] == [0]
    assert layers["shape"]["receptive_field"] is None and layers["shape"]["stride"] is None
    totals = table["totals"]
    assert totals["parameters"] == conv["parameters"] + up["parameters"]
    assert (totals["convolutions"], totals["depth"], totals["max_stride"], totals["receptive_field"]) == (1, 1, 2, 3)


def test_lines_of_old_and_odd_layers(tmp_path):
    path = tmp_path / "old.prototxt"
    path.write_text(
        "name: 'old'\nlayers {\n  name: 'a' type: RELU bottom: 'data' top: 'a' }\n\nlayer: <\nname: \"b # }\"\n"
        'type: "TanH" bottom: "a" top: "b"\n>\n'
    )
    assert layer_lines(path) == {"a": 2, "b # }": 5}


def test_broken_net_is_told(audited):
    audited.net_path("voc-fcn8s").write_text(input_layer("data", 1, 3, 20, 20) + layer("c", "ReLU", "nothing"))
    with pytest.raises(GraphError):
        net_table(audited, "voc-fcn8s")
    assert paper_nets(audited) == ["voc-fcn32s-small", "voc-fcn8s"]
    good, bad = net_tables(audited)
    assert "error" not in good and "'nothing'" in bad["error"] and bad["layers"] == []


@pytest.mark.parametrize(
    ("name", "stride", "sees", "depth"),
    [("voc-fcn-alexnet", 32, 355, 8), ("voc-fcn8s", 32, 404, 16), ("nyud-fcn16s-rgb-hha", 32, 404, 16)],
)
def test_nets_of_the_paper(name, stride, sees, depth):
    audited = AuditedFiles(ROOT)
    table = net_table(audited, name)
    totals = table["totals"]
    assert (totals["max_stride"], totals["receptive_field"], totals["depth"]) == (stride, sees, depth)
    net = Net(audited.net_path(name), stages=("deploy",), device="meta")
    assert totals["multiply_adds"] == multiply_adds(net)
    assert totals["parameters"] == sum(blob.numel() for blobs in net.params.values() for blob in blobs)
    written = audited.net_path(name).read_text().splitlines()
    for one in table["layers"]:
        assert written[one["line"] - 1] == "layer {" and f'name: "{one["name"]}"' in written[one["line"]]


def test_paper_nets_are_there_in_its_order():
    found = paper_nets(AuditedFiles(ROOT))
    assert found[:4] == ["voc-fcn-alexnet", "voc-fcn-googlenet", "voc-fcn32s", "voc-fcn16s"]
    assert {"voc-fcn8s", "voc-fcn8s-atonce", "nyud-fcn32s-color-hha", "siftflow-fcn8s"} <= set(found)
    assert net_table(AuditedFiles(ROOT), "voc-fcn-googlenet")["totals"]["depth"] == 22
