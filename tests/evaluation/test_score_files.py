"""What scoring writes: tables, the confusion picture, answers as palette PNGs, VOC's layout; several heads at once."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from fcn_caffe import TEST, Net
from fcn_caffe.commands.score import main
from fcn_caffe.data.readers.image_files import FolderIndex
from fcn_caffe.data.sets.shapes_scenes import CLASSES
from fcn_caffe.data.sets.siftflow_layers import SCENES
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation import predictions
from fcn_caffe.evaluation.confusion_picture import ABSENT, LEAST, MOST, draw_confusion
from fcn_caffe.evaluation.metrics import ConfusionMatrix
from fcn_caffe.evaluation.predictions import VOC_LAYOUT, PredictionWriter
from fcn_caffe.evaluation.score import score_heads, score_net
from fcn_caffe.weights.transfer import net_weights, save_weights


def score_layer(name, classes):
    return f"""layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}" convolution_param {{
      num_output: {classes} kernel_size: 1 weight_filler {{ type: "gaussian" std: 0.1 }} }} }}"""


def loss_layer(name, score, label):
    return f"""layer {{ name: "{name}" type: "SoftmaxWithLoss" bottom: "{score}" bottom: "{label}" top: "{name}"
      loss_param {{ ignore_label: 255 normalize: true }} }}"""


def python_data(module, layer, tops, options):
    tops = " ".join(f'top: "{top}"' for top in tops)
    return f"""layer {{ name: "data" type: "Python" {tops} python_param {{
      module: "{module}" layer: "{layer}" param_str: "{options}" }} }}"""


SHAPES = python_data("shapes_layers", "ShapesSegData", ("data", "label"), {"split": "val", "size": 32, "count": 3})


@pytest.fixture
def trained(tmp_path):
    """Write a net with random weights; returns it and the command's first arguments."""

    def make(*text):
        path, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
        path.write_text("\n".join(text))
        torch.manual_seed(0)
        net = Net(path, TEST)
        save_weights(weights, net_weights(net))
        return net, [str(path), "--weights", str(weights)]

    return make


@pytest.fixture
def shapes(trained):
    return trained(SHAPES, score_layer("score", 6), loss_layer("loss", "score", "label"))


def folder_task(place, classes):
    """A folder of two images of different sizes whose names lie in subfolders; returns the data layer."""
    for index, name in enumerate(("a/one", "two")):
        image = np.random.default_rng(index).integers(0, 256, (8 + index, 10, 3), np.uint8)
        for kind, array in (("images", image), ("labels", image[:, :, 0] % 6)):
            path = place / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (place / "val.txt").write_text("a/one\ntwo\n")
    options = {"images": str(place / "images"), "labels": str(place / "labels"), "split": str(place / "val.txt")}
    return python_data("folder_layers", "FolderSegData", ("data", "label"), {**options, "classes": classes})


def answer(net, path):
    rgb = np.asarray(Image.open(path)).astype(np.float32)
    data = rgb[:, :, ::-1].transpose(2, 0, 1) - np.array((104.00699, 116.66877, 122.67892), np.float32)[:, None, None]
    weight, bias = (blob.detach().numpy() for blob in net.params["score"])
    return (np.einsum("oi,ihw->ohw", weight[:, :, 0, 0], data) + bias[:, None, None]).argmax(0)


def test_tables(shapes, tmp_path):
    net, arguments = shapes
    record, table = tmp_path / "scores.json", tmp_path / "classes.csv"
    assert main([*arguments, "--json", str(record), "--per-class", str(table)]) == 0
    scores, saved = score_net(net), json.loads(record.read_text())
    assert saved["confusion"] == scores.confusion.tolist() and saved["pixels"] == scores.confusion.sum()
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["name"] for row in rows] == list(CLASSES)
    for index, row in enumerate(rows):
        assert int(row["pixels"]) == scores.confusion[index].sum()
        assert int(row["predicted_pixels"]) == scores.confusion[:, index].sum()
        expected = scores.class_iu[index]
        assert row["iu"] == "" if np.isnan(expected) else float(row["iu"]) == expected
        assert saved["class_accuracy"][row["name"]] == (float(row["accuracy"]) if row["accuracy"] else None)


def test_confusion_picture_shows_shares(shapes, tmp_path):
    _, arguments = shapes
    assert main([*arguments, "--confusion", str(tmp_path / "confusion.png")]) == 0
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.size[0] > 6 * 30
    shown = draw_confusion(np.array([[9, 0], [0, 0]]), ["sky", "sea"])
    top, left = (int(places[0]) for places in np.nonzero((shown == MOST).all(2)))
    corners = [tuple(shown[top + 30 * row + 1, left + 30 * column + 1].tolist()) for row in (0, 1) for column in (0, 1)]
    assert corners == [MOST, LEAST, ABSENT, ABSENT]


@pytest.mark.parametrize("option", ["--csv", "--json", "--per-class", "--confusion"])
def test_places_are_checked_before_anything_runs(shapes, tmp_path, capsys, option):
    _, arguments = shapes
    for place, why in (("gone/x.png", "there is no folder"), (".", "is a folder")):
        assert main([*arguments, option, str(tmp_path / place)]) == 1
        out, err = capsys.readouterr()
        assert why in err and not out
    if option == "--confusion":
        assert main([*arguments, option, str(tmp_path / "x.wrong")]) == 1
        out, err = capsys.readouterr()
        assert "no image format has the suffix '.wrong'" in err and not out


def test_many_classes_and_names_that_do_not_fit():
    assert draw_confusion(np.eye(60, dtype=np.int64), title="x" * 300).shape[1] > 300
    with pytest.raises(DataError, match=r"shape 2x2 with 1 names"):
        draw_confusion(np.eye(2, dtype=np.int64), ["a"])


def test_answers_by_the_names_of_the_images(trained, tmp_path, capsys):
    net, arguments = trained(folder_task(tmp_path, 6), score_layer("score", 6), loss_layer("loss", "score", "label"))
    assert main([*arguments, "--save-predictions", str(tmp_path / "out")]) == 0
    assert f"wrote 2 answers to {tmp_path / 'out'}" in capsys.readouterr().out
    for name in ("a/one", "two"):
        with Image.open(tmp_path / "out" / f"{name}.png") as saved:
            assert saved.mode == "P" and saved.getpalette()[3:6] == [128, 0, 0]
            assert np.array_equal(np.asarray(saved), answer(net, tmp_path / "images" / f"{name}.png"))


def test_the_data_may_lie_in_another_folder(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FCN_CAFFE_DATA", raising=False)
    folder_task(tmp_path / "sets/task", 6)
    monkeypatch.chdir(tmp_path / "sets")
    options = {"images": "data/task/images", "labels": "data/task/labels", "split": "data/task/val.txt"}
    layer = python_data("folder_layers", "FolderSegData", ("data", "label"), options)
    (tmp_path / "sets/data").symlink_to(tmp_path / "sets")
    _, arguments = trained(layer, score_layer("score", 6), loss_layer("loss", "score", "label"))
    (tmp_path / "sets/data").unlink()
    assert main(arguments) == 1 and "data/task/images: no such folder of images" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--data", "sets"]) == 0
    assert "mean IU" in capsys.readouterr().out
    assert main([*arguments, "--data", "nowhere"]) == 1
    assert "error: --data nowhere: no such folder. Give the folder" in capsys.readouterr().err


def test_batches_are_numbered(trained, tmp_path):
    batch = SHAPES.replace("'count': 3", "'count': 3, 'batch': 3")
    _, arguments = trained(batch, score_layer("score", 6), loss_layer("loss", "score", "label"))
    assert main([*arguments, "--save-predictions", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000000.png", "000001.png", "000002.png"]


def test_voc_layout(trained, tmp_path, capsys):
    text = folder_task(tmp_path, 21), score_layer("score", 21), loss_layer("loss", "score", "label")
    net, arguments = trained(*text)
    assert main([*arguments, "--voc-results", str(tmp_path)]) == 0
    place = tmp_path / "results/VOC2012/Segmentation/comp6_test_cls"
    assert place == tmp_path / VOC_LAYOUT
    saved = np.asarray(Image.open(place / "two.png"))
    assert np.array_equal(saved, answer(net, tmp_path / "images/two.png"))
    _, arguments = trained(SHAPES, score_layer("score", 6), loss_layer("loss", "score", "label"))
    assert main([*arguments, "--voc-results", str(tmp_path)]) == 1
    assert "one answer of 21 classes an image, the heads have 6" in capsys.readouterr().err


def test_sift_flow_both_heads_in_one_pass(trained, tmp_path, capsys):
    random = np.random.default_rng(0)
    semantic, geometric = random.integers(0, 12, (9, 9)), random.integers(-1, 4, (9, 9))
    geometric[geometric == 0] = -1
    folders = {name: tmp_path / name / SCENES for name in ("Images", "SemanticLabels", "GeoLabels")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).save(folders["Images"] / "a.jpg")
    scipy.io.savemat(folders["SemanticLabels"] / "a.mat", {"S": semantic.astype(np.uint8)})
    scipy.io.savemat(folders["GeoLabels"] / "a.mat", {"S": geometric.astype(np.int16)})
    (tmp_path / "test.txt").write_text("a\n")
    options = {"siftflow_dir": str(tmp_path), "split": "test", "seed": 1337}
    source = python_data("siftflow_layers", "SIFTFlowSegDataLayer", ("data", "sem", "geo"), options)
    heads = score_layer("score_sem", 33), score_layer("score_geo", 3)
    losses = loss_layer("loss", "score_sem", "sem"), loss_layer("loss_geo", "score_geo", "geo")
    net, arguments = trained(source, *heads, *losses)
    files = ["--json", str(tmp_path / "s.json"), "--confusion", str(tmp_path / "c.png")]
    assert main([*arguments, *files, "--save-predictions", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "== score_sem" in printed and "== score_geo" in printed and "awning" in printed
    records = json.loads((tmp_path / "s.json").read_text())
    assert [record["head"] for record in records] == ["score_sem", "score_geo"]
    # Classes 12 to 33 are not in the image: whatever is predicted, they are left out.
    assert all(records[0]["class_iu"][name] is None for name in records[0]["absent"])
    present = [value for value in records[0]["class_iu"].values() if value is not None]
    assert len(present) == 11 and records[0]["mean_iu"] == pytest.approx(np.mean(present))
    predicted = np.asarray(Image.open(tmp_path / "out/score_geo/a.png"))
    labelled = geometric > 0
    expected = (predicted[labelled] == geometric[labelled] - 1).mean()
    assert records[1]["pixel_accuracy"] == pytest.approx(expected)
    assert (tmp_path / "c-score_sem.png").is_file() and (tmp_path / "c-score_geo.png").is_file()
    assert list(net.blob_shapes["score_geo"]) == [1, 3, 9, 9]
    blobs = net(keep=["loss", "loss_geo"])  # the split has one image
    assert [record["loss"] for record in records] == pytest.approx(
        [blobs[name].item() for name in ("loss", "loss_geo")]
    )
    assert main([*arguments, "--score", "score_geo", "--json", str(tmp_path / "s.json")]) == 0  # its loss has its label
    assert json.loads((tmp_path / "s.json").read_text()) == records[1]


def test_some_classes_as_a_task_of_their_own(shapes, tmp_path, capsys):
    net, arguments = shapes
    chosen = [4, 1, 2]
    matrix = ConfusionMatrix(3)

    def count(_, blobs):
        truth = blobs["label"][:, 0].numpy()
        best = blobs["score"][:, chosen].argmax(1).numpy()
        placed = np.full(truth.shape, 255)
        for row, index in enumerate(chosen):
            placed[truth == index] = row
        matrix.add(placed, best)

    score_net(net, on_image=count)
    only = tmp_path / "only.txt"
    only.write_text("triangle\n1  # the disc\nring\n")
    assert main([*arguments, "--only", str(only), "--json", str(tmp_path / "s.json")]) == 0
    saved = json.loads((tmp_path / "s.json").read_text())
    assert saved["confusion"] == matrix.counts.tolist() and list(saved["class_iu"]) == ["triangle", "disc", "ring"]
    assert saved["mean_iu"] == matrix.scores().mean_iu
    # What is written is what was scored: the best of the chosen, by their own indices.
    assert main([*arguments, "--only", str(only), "--save-predictions", str(tmp_path / "out")]) == 0
    written = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out").iterdir())]
    answers = []
    score_net(net, on_image=lambda _, blobs: answers.append(blobs["score"][0, chosen].argmax(0).numpy()))
    assert np.array_equal(written, np.array(chosen)[answers])
    only.write_text("square\n")
    assert main([*arguments, "--only", str(only)]) == 1
    assert "only.txt:1: 'square' is no class of 'score'. Did you mean 'star'?" in capsys.readouterr().err
    for wrong in ([6], [1, 1], []):
        with pytest.raises(DataError, match="classes to score alone"):
            score_heads(net, only=wrong)


def test_answers_do_not_replace_the_labels(tmp_path, monkeypatch):
    (tmp_path / "labels").mkdir()
    (tmp_path / "link").symlink_to("labels")
    source = SimpleNamespace(labels=FolderIndex(tmp_path / "labels", what="label"))
    monkeypatch.setattr(predictions, "data_layer", lambda net: source)
    net = SimpleNamespace(blob_shapes={"score": (1, 3, 4, 4)})
    for place in ("labels", "link"):
        with pytest.raises(DataError, match=r"labels: has the labels that the net reads\."):
            PredictionWriter(net, ["score"], tmp_path / place)
    assert PredictionWriter(net, ["score"], tmp_path / "answers").written == 0
