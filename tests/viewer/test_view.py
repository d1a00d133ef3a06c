"""`fcn-caffe view`: what its page says, from the facts alone."""

from __future__ import annotations

import io
import json
import re
from base64 import b64decode

import numpy as np
import pytest
from helpers import input_layer, layer, net_param
from PIL import Image
from places import ROOT

from fcn_caffe import TEST, FcnCaffeError, Net
from fcn_caffe.commands import view as command
from fcn_caffe.net.coord_map import derive_crop
from fcn_caffe.net.multiply_adds import multiply_adds
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.viewer import facts as facts_module
from fcn_caffe.viewer import write_view
from fcn_caffe.viewer.facts import form_facts, view_facts
from fcn_caffe.viewer.filters import BINS, blob_facts, filter_picture
from fcn_caffe.viewer.options import layer_options, meanings, solver_options
from fcn_caffe.weights.transfer import save_net

HOSTILE = "</script><script>document.title='broken'</script>\\\"'&<b>"
NET = ROOT / "nets/shapes-fcn8s.prototxt"


def facts_in(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="view">(.*?)</script>', page, re.DOTALL)[1])


# -- options -----------------------------------------------------------------------------------------------------------


def test_every_option_has_a_meaning():
    wanted: set[str] = set()
    waiting = [caffe_pb2.SolverParameter.DESCRIPTOR]
    seen = {"NetParameter", "BlobProto"}
    for field in caffe_pb2.LayerParameter.DESCRIPTOR.fields:
        waiting += [field.message_type] if field.message_type else []
    for message in waiting:
        if message.name in seen:
            continue
        seen.add(message.name)
        for field in message.fields:
            wanted.add(f"{message.name}.{field.name}")
            waiting += [field.message_type] if field.message_type else []
    known = set(meanings())
    assert wanted <= known
    assert {key for key in known - wanted if not key.startswith("LayerParameter.")} == set()
    assert all(len(text) < 110 and not text.endswith(".") for text in meanings().values())


def test_options_that_are_set_come_first_then_defaults():
    text = 'convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "msra" } } loss_weight: 0.5'
    options = layer_options(net_param(layer("c", "Convolution", "x", more=text)).layer[0])
    said = [(option.name, option.value) for option in options if option.is_set]
    assert said == [
        ("loss_weight", "0.5"),
        ("convolution_param.num_output", "8"),
        ("convolution_param.kernel_size", "3"),
        ("convolution_param.weight_filler.type", "msra"),
    ]
    defaults = {option.name: option.value for option in options if not option.is_set}
    assert defaults["convolution_param.group"] == "1" and defaults["convolution_param.bias_term"] == "true"
    assert defaults["convolution_param.engine"] == "DEFAULT" and "convolution_param.num_output" not in defaults
    assert [option.is_set for option in options] == sorted((option.is_set for option in options), reverse=True)


def test_a_layer_without_options_shows_those_of_its_type():
    options = layer_options(net_param(layer("r", "ReLU", "x")).layer[0])
    assert ("relu_param.negative_slope", "0", False) in [option[1:] for option in options]
    assert layer_options(net_param(layer("s", "Silence", "x")).layer[0]) == []


def test_solver_options():
    solver = caffe_pb2.SolverParameter(base_lr=0.1, stepvalue=[1, 2], lr_policy="multistep")
    solver.test_state.add(stage=["deep"])
    options = {option.name: option for option in solver_options(solver)}
    assert options["stepvalue"].value == "1, 2" and options["test_state.stage"].value == "deep"
    assert options["momentum2"].value == "0.999" and not options["momentum2"].is_set


# -- weights -----------------------------------------------------------------------------------------------------------


def pixels(picture: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(b64decode(picture["uri"].partition(",")[2]))))


def test_numbers_of_a_blob():
    array = np.zeros((4, 3, 2, 2), np.float32)
    array[0, 0, 0, 0], array[1] = 3, -1
    array[2, 0, 0] = np.nan, np.inf
    facts = blob_facts(array)
    assert (facts["low"], facts["high"], facts["odd"], facts["dead"]) == (-1, 3, 2, 1)
    assert sum(facts["bins"]) == 46 and facts["zeros"] == 48 - 2 - 13
    assert blob_facts(np.full(3, np.nan)) == {"shape": [3], "odd": 3}
    assert "bins" not in blob_facts(np.ones(3))


def test_filters_of_an_image_are_colours():
    weight = np.zeros((2, 3, 3, 3), np.float32)
    weight[0, 0] = 1  # blue, where the net reads BGR
    blue = pixels(filter_picture(weight, is_first=True))
    assert blue.shape == (3, 7, 3) and blue[0, 0].tolist() == [0, 0, 255]
    assert pixels(filter_picture(weight, is_first=True, is_bgr=False))[0, 0].tolist() == [255, 0, 0]


def test_other_filters_are_gray_and_large_matrices_are_averaged():
    weight = np.zeros((200, 5, 3, 3), np.float32)
    weight[0, :, 0, 0], weight[1, :, 1, 1] = 2, -2
    picture = filter_picture(weight, is_first=False)
    shown = pixels(picture)
    assert shown[0, 0] == 255 and shown[1, 5] == 0 and shown[0, 1] == 127
    assert picture["note"].startswith("the first 96 of 200") and max(picture["size"]) <= 160
    matrix = filter_picture(np.ones((500, 330, 1, 1), np.float32), is_first=False)
    assert matrix["size"] == [110, 125] and "4x3 in a pixel" in matrix["note"]
    assert filter_picture(np.ones(5), is_first=False) is None
    assert pixels(filter_picture(np.full((2, 2), np.nan), is_first=False)).max() == 0


# -- facts -------------------------------------------------------------------------------------------------------------


def test_facts_of_a_net():
    net = Net(NET, TEST, stages=("deploy",), device="meta")
    facts = form_facts(net)
    layers = {entry["name"]: entry for entry in facts["layers"]}
    assert sum(entry["adds"] for entry in facts["layers"]) == multiply_adds(net)
    assert sum(entry["parameters"] for entry in facts["layers"]) == sum(
        blob.numel() for blobs in net.params.values() for blob in blobs
    )
    assert layers["conv1_1"]["sees"] == [3, "1", "-16"] and layers["conv1_1"]["blobs"][1]["lr_mult"] == 2
    crop = layers["score"]["crop"]
    assert crop["offset"] == [str(layers["score"]["rule"]["offsets"][0])] and crop["scale"] == ["1"]
    assert crop["from"][0][:3] == ["upscore8", "Deconvolution", "8 x + 7.5"] and crop["to"] == []
    boxes = [index for box in facts["boxes"] for index in box["layers"]]
    assert sorted(boxes) == list(range(len(facts["layers"])))


def test_a_very_deep_net_has_no_receptive_fields(monkeypatch):
    monkeypatch.setattr(facts_module, "_MOST_LAYERS", 2)
    for count, key in ((1, "sees"), (2, "blind")):
        layers = [input_layer("x", 1, 1, 4, 4), *(layer(f"r{index}", "ReLU", "x") for index in range(count))]
        assert key in form_facts(Net(net_param(*layers), TEST))["layers"][1]


def test_pictures_hold_each_box_once_open_or_in_its_folded_stage():
    facts = form_facts(Net(ROOT / "nets/cityscapes-icnet.prototxt", TEST, stages=("deploy",), device="meta"))
    stages = [box["stage"] for box in facts["boxes"]]
    assert {"folded", "open"} < set(facts["pictures"])
    for name, picture in facts["pictures"].items():
        ids = [node[0] for node in picture["nodes"]]
        shown = [at for id in ids for at in ([id] if id >= 0 else [b for b, s in enumerate(stages) if s == -1 - id])]
        assert sorted(shown) == list(range(len(stages)))
        if name.isdigit():
            assert {at for at, stage in enumerate(stages) if stage == int(name)} <= set(ids)
        assert {end for line in picture["lines"] for end in line[:2]} <= set(ids)


def test_the_way_of_a_derivation_composes_to_its_result():
    net = Net(ROOT / "nets/voc-fcn8s.prototxt", TEST, stages=("deploy",), device="meta")
    made = derive_crop(net.graph, "upscore8", "data")
    assert [step.node.name for step in made.from_steps[:2]] == ["upscore8", "fuse_pool3"] and made.to_steps == []
    composed = made.from_steps[0].map
    for step, following in zip(made.from_steps, made.from_steps[1:], strict=False):
        assert composed == step.to_blob
        composed = composed.after(following.map)
    assert composed == made.from_steps[-1].to_blob == made.result and made.common.name == "input"


def test_the_forms_of_a_file_and_of_a_solver():
    assert [form["title"] for form in view_facts(NET)["forms"]] == ["deploy", "test", "train"]
    facts = view_facts(ROOT / "solvers/shapes-fcn8s.prototxt")
    assert [form["title"] for form in facts["forms"]] == ["train", "test"]
    assert any(option.name == "base_lr" for option in facts["settings"])
    assert view_facts(ROOT / "nets/voc-fcn32s.prototxt")["forms"][1]["note"].startswith("The sizes are assumed:")


def test_a_file_of_one_form_has_no_other(tmp_path):
    file = tmp_path / "one.prototxt"
    file.write_text(input_layer("data", 1, 3, 8, 8) + layer("l", "LRN", "data"))
    assert [form["title"] for form in view_facts(file)["forms"]] == ["deploy"]


def test_weights_and_what_doctor_says_are_with_their_layers(tmp_path):
    file, weights = tmp_path / "net.prototxt", tmp_path / "w.npz"
    file.write_text(
        input_layer("data", 1, 3, 40, 40)
        + layer("c", "Convolution", "data", more="convolution_param { num_output: 4 kernel_size: 3 pad: 9 stride: 2 }")
        + layer("d", "Deconvolution", "c", more="convolution_param { num_output: 2 kernel_size: 3 stride: 2 }")
        + layer("crop", "Crop", "d data", more="crop_param { offset: 3 }")
    )
    save_net(weights, Net(file))
    facts = view_facts(file, weights)
    assert facts["weights"]["c"]["picture"]["note"].startswith("all 4 filters (BGR")
    assert "mean over 2 inputs" in facts["weights"]["d"]["picture"]["note"]
    assert "misfit" not in facts["weights"]["c"]
    found = [item for item in facts["findings"] if item["layer"] == "crop"]
    assert [item["level"] for item in found] == ["error"] and "the coordinate map gives" in found[0]["problem"]
    file.write_text(file.read_text().replace("num_output: 4", "num_output: 5"))
    assert view_facts(file, weights)["weights"]["c"]["misfit"]


# -- the page ----------------------------------------------------------------------------------------------------------


def test_names_from_a_file_stay_text(tmp_path):
    file = tmp_path / "net.prototxt"
    file.write_text(
        f'name: "{HOSTILE}"\n' + input_layer("data", 1, 3, 8, 8) + layer(HOSTILE.replace(" ", ""), "LRN", "data", "l")
    )
    page = write_view(file)
    assert "document.title" in page and page.count("<script") == 2
    assert "&lt;b&gt;" in page and "<b>" not in page.partition("<header>")[2].partition("<noscript>")[0]
    assert facts_in(page)["forms"][0]["layers"][1]["name"] == HOSTILE.replace('\\"', '"')
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-") and "unsafe" not in policy


def test_the_command(tmp_path, capsys):
    out = tmp_path / "net.html"
    assert command.main([str(NET), str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {out}: ")
    assert len(facts_in(out.read_text(encoding="utf-8"))["forms"]) == 3 and out.stat().st_size < 300_000


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("layer {", "net.prototxt:1"),
        ('layer { name: "a" type: "Nothing" top: "a" }', "Nothing"),
        (
            input_layer("data", 1, 3, 2, 2)
            + layer("c", "Convolution", "data", more="convolution_param { num_output: 1 kernel_size: 5 }"),
            "too small",
        ),
    ],
)
def test_a_net_that_cannot_be_is_one_line_and_leaves_no_page(tmp_path, capsys, net, words):
    (tmp_path / "net.prototxt").write_text(net)
    assert command.main([str(tmp_path / "net.prototxt"), str(tmp_path / "net.html")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.prototxt"]


def test_wrong_places_and_weights(tmp_path, capsys):
    assert command.main([str(NET), str(tmp_path / "no" / "net.html")]) == 1
    assert "Make it first" in capsys.readouterr().err
    assert command.main([str(NET), str(tmp_path / "net.html"), "--weights", str(tmp_path / "none.caffemodel")]) == 1
    assert "none.caffemodel" in capsys.readouterr().err and not list(tmp_path.iterdir())
    with pytest.raises(SystemExit):
        command.main([str(NET), str(tmp_path / "net.png")])
    assert "ends with .html" in capsys.readouterr().err
    with pytest.raises(FcnCaffeError):
        write_view(tmp_path / "none.prototxt")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("is_first", [True, False])
def test_weights_at_the_ends_of_float32_and_none_at_all(is_first):
    weight = np.full((4, 3, 3, 3), 3e38, np.float32)
    weight[0] *= -1  # further from the others than float32 goes
    assert blob_facts(weight)["bins"][:: BINS - 1] == [27, 81]
    shades = pixels(filter_picture(weight, is_first))
    assert is_first or (shades[0, 0], shades[0, -1]) == (0, 255)
    assert pixels(filter_picture(np.full((9, 9), 3e38, np.float32), is_first)).min() == 255
    assert blob_facts(np.full(2, 1e39)) == {"shape": [2], "odd": 2}
    for shape in ((0, 3, 3, 3), (4, 0, 3, 3), (0, 5)):
        assert filter_picture(np.zeros(shape, np.float32), is_first) is None
        assert blob_facts(np.zeros(shape, np.float32)) == {"shape": list(shape), "odd": 0}


def test_a_solvers_page_has_each_net_that_it_tests(tmp_path):
    data = input_layer("data", 1, 3, 8, 8)
    (tmp_path / "train.prototxt").write_text(data + layer("loss", "EuclideanLoss", "data data"))
    (tmp_path / "one.prototxt").write_text(data + layer("first", "LRN", "data"))
    staged = layer("second", "LRN", "data", more='include { stage: "whole" }') + layer("third", "LRN", "data")
    (tmp_path / "two.prototxt").write_text(data + staged)
    solver = tmp_path / "solver.prototxt"
    text = f'train_net: "{tmp_path}/train.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1 test_interval: 1\n'
    text += f'test_net: "{tmp_path}/one.prototxt" test_net: "{tmp_path}/two.prototxt" test_iter: 1 test_iter: 1\n'
    solver.write_text(text + 'test_state { } test_state { stage: "whole" }')
    forms = view_facts(solver)["forms"]
    assert [form["title"] for form in forms] == ["train", "test 0", "test 1"]
    assert [[one["name"] for one in form["layers"]][1:] for form in forms[1:]] == [["first"], ["second", "third"]]
    solver.write_text(text.replace("two.prototxt", "gone.prototxt"))  # the others are shown, and what doctor finds
    facts = view_facts(solver)
    assert [form["title"] for form in facts["forms"]] == ["train", "test"]
    assert any("gone.prototxt" in one["problem"] + one["advice"] for one in facts["findings"])
