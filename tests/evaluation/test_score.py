"""Scoring a net over its data layer, and the command that prints, writes and refuses."""

import csv
import json

import numpy as np
import pytest
import torch
from datum_fixtures import write_pairs

from fcn_caffe import TEST, Net
from fcn_caffe.commands.score import main
from fcn_caffe.data.sets import shapes_scenes as shapes
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.metrics import ConfusionMatrix
from fcn_caffe.evaluation.score import class_names, format_scores, score_heads, score_net
from fcn_caffe.weights.transfer import net_weights, save_weights

COUNT = 5


def net_text(classes=6, batch=1, more=""):
    return f"""
    layer {{ name: "data" type: "Python" top: "data" top: "label" python_param {{
      module: "shapes_layers" layer: "ShapesSegData"
      param_str: "{{'split': 'val', 'size': 48, 'count': {COUNT}, 'batch': {batch}}}" }} }}
    layer {{ name: "mix" type: "Convolution" bottom: "data" top: "score"
      convolution_param {{ num_output: {classes} kernel_size: 3 pad: 1
        weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
    layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
      loss_param {{ ignore_label: 255 normalize: true }} }}
    {more}
    """


@pytest.fixture
def net_file(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(net_text())
    return path


@pytest.fixture
def net(net_file):
    torch.manual_seed(0)
    return Net(net_file, TEST)


def by_hand(net):
    """Confusion of the net's convolution over the generated images themselves."""
    matrix = ConfusionMatrix(6)
    for index in range(COUNT):
        image, label = shapes.draw_scene(1337, "val", index, 48)
        data = torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) - 120)[None]
        weight, bias = net.params["mix"]
        score = torch.nn.functional.conv2d(data, weight, bias, padding=1)
        matrix.add(label, score.argmax(1)[0].numpy())
    return matrix.scores()


def test_every_image_once_by_default(net):
    scores, expected = score_net(net), by_hand(net)
    assert scores.summary() == expected.summary() and scores.pixels == expected.pixels
    assert scores.loss is not None and scores.loss > 0


def test_again_gives_the_same(net):
    assert score_net(net).summary() == score_net(net).summary()


def test_batches_count_alike(net, tmp_path):
    (tmp_path / "batch.prototxt").write_text(net_text(batch=COUNT))
    batch = Net(tmp_path / "batch.prototxt", TEST)
    batch.share_with(net)
    assert score_net(batch).summary() == score_net(net).summary()


def test_iterations_and_seeing_images(net):
    seen = []
    scores = score_net(net, 2, on_image=lambda number, blobs: seen.append((number, blobs["data"].shape)))
    assert seen == [(0, (1, 3, 48, 48)), (1, (1, 3, 48, 48))]
    assert scores.pixels < score_net(net).pixels


def test_mode_is_put_back(net):
    net.train()
    score_net(net, 1)
    assert net.training


def test_two_heads_in_one_pass(tmp_path):
    other = """layer { name: "other" type: "Convolution" bottom: "data" top: "flat"
      convolution_param { num_output: 6 kernel_size: 1 } }"""
    (tmp_path / "two.prototxt").write_text(net_text(more=other))
    found = score_heads(Net(tmp_path / "two.prototxt", TEST), heads={"score": "label", "flat": "label"})
    assert list(found) == ["score", "flat"]
    assert found["flat"].class_accuracy.tolist() == [1, 0, 0, 0, 0, 0]  # zero scores: the first class always


def test_errors(net):
    with pytest.raises(DataError, match=r"has no score blob 'scores'\. It has: score"):
        score_net(net, score="scores")
    with pytest.raises(DataError, match="has no label blob 'sem'"):
        score_net(net, label="sem")
    with pytest.raises(DataError, match="how many iterations to score is not known"):
        score_net(net, 0)
    with pytest.raises(DataError, match=r"score blob 'loss' is \(scalar\): expected \(N, classes"):
        score_net(net, score="loss")


def test_table_names_classes_and_says_absent(net):
    assert class_names(net, 6) == list(shapes.CLASSES)
    assert class_names(net, 7) is None
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([0, 0, 1]), np.array([0, 1, 1]))
    text = format_scores(matrix.scores(), ["sky", "sea", "sand"])
    assert "pixel accuracy   66.67" in text and "mean IU          50.00" in text
    assert "sand       -      -  absent from the ground truth" in text


def test_class_card_beside_the_net_comes_first(net, net_file):
    (net_file.parent / "classes.txt").write_text("".join(f"{index}: thing {index}\n" for index in range(6)))
    assert class_names(net, 6)[5] == "thing 5"
    (net_file.parent / "classes.txt").write_text("0: a\n2: b\n")
    with pytest.raises(DataError, match="should run from 0 to 1 without gaps"):
        class_names(net, 6)


def test_command(net, net_file, tmp_path, capsys):
    weights = tmp_path / "net.caffemodel"
    save_weights(weights, net_weights(net))
    table, record = tmp_path / "scores.csv", tmp_path / "scores.json"
    arguments = [str(net_file), "--weights", str(weights), "--csv", str(table), "--json", str(record)]
    assert main(arguments) == main(arguments) == 0
    printed, expected = capsys.readouterr().out, score_net(net)
    assert f"mean IU         {expected.mean_iu * 100:6.2f}" in printed and "triangle" in printed
    saved = json.loads(record.read_text())
    assert saved["mean_iu"] == expected.mean_iu and list(saved["class_iu"]) == list(shapes.CLASSES)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 2 and float(rows[1]["mean_iu"]) == expected.mean_iu


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("classes", "mix"),
        ("missing layer", "has no weights for layer mix of "),
        ("no weights", "nowhere.caffemodel"),
        ("no net", "nowhere.prototxt"),
        ("labels", "1 score blobs and 2 labels: give one label each."),
    ],
)
def test_command_refuses(net, net_file, tmp_path, capsys, what, message):
    weights, path, options = tmp_path / "net.caffemodel", net_file, []
    arrays = net_weights(net)
    if what == "classes":
        arrays = {"mix": [np.zeros((4, 3, 3, 3), np.float32), np.zeros(4, np.float32)]}
    elif what == "missing layer":
        arrays = {"other": [np.zeros(1, np.float32)]}
    save_weights(weights, arrays)
    if what == "no weights":
        weights = tmp_path / "nowhere.caffemodel"
    elif what == "no net":
        path = tmp_path / "nowhere.prototxt"
    elif what == "labels":
        options = ["--label", "a", "b"]
    assert main([str(path), "--weights", str(weights), *options]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and message in printed.err and printed.out == ""


def test_lists_of_label_pictures_are_scored_once_over(tmp_path):
    random = np.random.RandomState(0)
    pictures = [random.randint(0, 256, (5, 6, 3)).astype(np.uint8) for _ in range(4)]
    marks = [random.randint(0, 3, (5, 6)).astype(np.uint8) for _ in range(4)]
    write_pairs(tmp_path, pictures, marks)
    text = f"""layer {{ name: "data" type: "DenseImageData" top: "data" top: "label" dense_image_data_param {{
      source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/" batch_size: 2 }} }}
    layer {{ name: "score" type: "Convolution" bottom: "data" top: "score"
      convolution_param {{ num_output: 3 kernel_size: 1 weight_filler {{ type: "gaussian" }} }} }}
    layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }}"""
    (tmp_path / "net.prototxt").write_text(text)
    net = Net(tmp_path / "net.prototxt", TEST)
    weight, bias = net.params["score"]
    matrix = ConfusionMatrix(3)
    for picture, mark in zip(pictures, marks, strict=True):
        image = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32))[None]
        matrix.add(mark, torch.nn.functional.conv2d(image, weight, bias).argmax(1)[0].numpy())
    assert score_net(net).mean_iu == matrix.scores().mean_iu
    (tmp_path / "net.prototxt").write_text(text.replace("batch_size: 2", "batch_size: 3"))
    with pytest.raises(DataError, match="its list has 4 images, which batches of 3 do not divide"):
        score_net(Net(tmp_path / "net.prototxt", TEST))
