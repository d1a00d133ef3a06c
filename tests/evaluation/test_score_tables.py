"""Scoring as each of the paper's tables does: the paper's own nets, narrow and of random weights, on data sets in their
own layout, against scores counted here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from fcn_caffe import TEST, DataError, Net
from fcn_caffe.commands.score import main
from fcn_caffe.data.sets.nyud_layers import CLASSES as NYUD
from fcn_caffe.data.sets.siftflow_layers import SCENES
from fcn_caffe.evaluation.predictions import VOC_LAYOUT
from fcn_caffe.evaluation.score import class_indices, is_scored_without_absent
from fcn_caffe.models import make_net
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random
from fcn_caffe.proto import write_text
from fcn_caffe.weights.surgery import interp
from fcn_caffe.weights.transfer import net_weights, save_weights

SIZE = (40, 56)
IMAGES = ("one", "two")
random = np.random.default_rng(0)


def photograph(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(path)


def mat(path, **variables):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables)


def listed(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in IMAGES))


def blocks(*values):
    """A label image of 8x8 blocks, each one of the values."""
    coarse = random.choice(values, (SIZE[0] // 8, SIZE[1] // 8))
    return np.kron(coarse, np.ones((8, 8), int))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory; the nets look for data sets in ../data."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "data"


def started(name, **shown):
    """Write the net, narrow, with random weights; returns it and the command's arguments. Its data has to be there.

    shown: classes by score blob. They get a bias, and all are centred, so that the answers are several of them.
    """
    param = make_net(name)
    for layer in param.layer:
        if layer.type == "Convolution" and not layer.name.startswith("score"):
            layer.convolution_param.num_output //= 32
    Path(f"{name}.prototxt").write_text(write_text(param))
    net = Net(f"{name}.prototxt", TEST)
    fill_at_random(net)
    interp(net)
    with torch.no_grad():
        scores = net(keep=list(shown))
        for blob, classes in shown.items():
            bias = net.params[f"score_fr{blob.removeprefix('score')}"][1]
            bias -= scores[blob].mean((0, 2, 3))
            bias[list(classes)] += 2 * scores[blob].std((2, 3)).max()
    save_weights("net.caffemodel", net_weights(net))
    return net, [f"{name}.prototxt", "--weights", "net.caffemodel", "--json", "scores.json", "--ignore-preprocessing"]


def counted(net, score, label, chosen, absent_out=False):
    """The four metrics from the answers and labels themselves, pixel by pixel and class by class."""
    hits, truths, answers = (np.zeros(len(chosen)) for _ in range(3))
    with torch.no_grad():
        for _ in IMAGES:
            blobs = net(keep=[score, label])
            best = np.array(chosen)[blobs[score][0, list(chosen)].argmax(0).numpy()]
            truth = blobs[label][0, 0].numpy()
            best, truth = (array[np.isin(truth, chosen)] for array in (best, truth))
            for row, index in enumerate(chosen):
                hits[row] += ((best == index) & (truth == index)).sum()
                truths[row] += (truth == index).sum()
                answers[row] += (best == index).sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        union = hits / (truths + answers - hits)
        accuracy = hits / truths
    if absent_out:
        union[truths == 0] = np.nan
    frequency = truths / truths.sum()
    return {
        "pixel_accuracy": hits.sum() / truths.sum(),
        "mean_accuracy": np.nanmean(accuracy),
        "mean_iu": np.nanmean(union),
        "frequency_weighted_iu": (frequency[truths > 0] * union[truths > 0]).sum(),
    }


def check(record, wanted):
    assert {name: record[name] for name in wanted} == pytest.approx(wanted)
    assert 0 < record["pixel_accuracy"] < 1


def saved():
    return json.loads(Path("scores.json").read_text())


def siftflow(place):
    root = place / "sift-flow"
    for name in IMAGES:
        photograph(root / "Images" / SCENES / f"{name}.jpg")
        mat(root / "SemanticLabels" / SCENES / f"{name}.mat", S=blocks(0, 3, 6, 22, 28).astype(np.uint8))
        mat(root / "GeoLabels" / SCENES / f"{name}.mat", S=blocks(-1, 1, 3).astype(np.int16))
    listed(root / "test.txt")


def test_sift_flow_counts_both_heads_and_leaves_out_absent_classes(place):
    siftflow(place)
    net, arguments = started("siftflow-fcn8s", score_sem=(2, 5, 21, 32), score_geo=(0, 1, 2))
    assert main(arguments) == 0
    semantic, geometric = saved()
    assert [semantic["head"], geometric["head"]] == ["score_sem", "score_geo"]
    check(semantic, counted(net, "score_sem", "sem", range(33), absent_out=True))
    check(geometric, counted(net, "score_geo", "geo", range(3), absent_out=True))
    assert len(semantic["absent"]) == 29 and geometric["absent"] == ["1"]
    # Which is not what the other tables do: an absent class that is answered counts as 0.
    kept = counted(net, "score_sem", "sem", range(33))
    assert kept["mean_iu"] < semantic["mean_iu"] and kept["mean_accuracy"] == pytest.approx(semantic["mean_accuracy"])


def test_nyud_counts_40_classes(place, capsys):
    root = place / "nyud"
    for name in IMAGES:
        photograph(root / "data" / "images" / f"img_{name}.png")
        mat(root / "segmentation" / f"img_{name}.mat", segmentation=blocks(0, 1, 2, 17, 40).astype(np.uint8))
    listed(root / "test.txt")
    net, arguments = started("nyud-fcn32s-color", score=(0, 1, 16, 39))
    assert main(arguments) == 0
    check(saved(), counted(net, "score", "label", range(40)))
    assert list(saved()["class_iu"]) == list(NYUD) and len(saved()["absent"]) == 36
    assert "floor mat" in capsys.readouterr().out


def context(place):
    """PASCAL-Context with its lists: 459 classes, the 59 among them, and a user's list of 33."""
    root, voc = place / "pascal-context", place / "pascal" / "VOC2010"
    names = [f"thing {index}" for index in range(1, 460)]
    names[9], names[19] = "table", "sky"
    for name in IMAGES:
        photograph(voc / "JPEGImages" / f"{name}.jpg")
        mat(root / "trainval" / f"{name}.mat", LabelMap=blocks(459, 2, 10, 20, 30).astype(np.uint16))
    listed(voc / "ImageSets" / "Main" / "val.txt")
    (root / "labels.txt").write_text("".join(f"{index}: {name}\n" for index, name in enumerate(names, 1)))
    lines = [f"{index}: {'diningtable' if index == 10 else names[index - 1]}\n" for index in range(1, 60)]
    (root / "59_labels.txt").write_text("".join(lines))
    Path("33_labels.txt").write_text("# 33 of them\n" + "".join(lines[:33]))


def test_pascal_context_counts_60_59_or_33_classes(place):
    context(place)
    net, arguments = started("pascalcontext-fcn8s", score=(0, 2, 10, 20, 30, 59))
    for options, chosen in (
        ([], range(60)),
        (["--without", "background"], range(1, 60)),
        (["--only", "33_labels.txt"], range(1, 34)),
    ):
        assert main([*arguments, *options]) == 0
        check(saved(), counted(net, "score", "label", chosen))
        names = list(saved()["class_iu"])
        assert len(names) == len(chosen) and ("background" in names) is (0 in chosen)
    assert names[9] == "table"  # which the list of 33 calls by VOC's name


def test_classes_are_named_as_people_name_them(place, tmp_path):
    context(place)
    net, _ = started("pascalcontext-fcn32s")
    assert class_indices(net, "score", ["Sky", "0", "Thing_3", "dining-table", "33"]) == [20, 0, 3, 10, 33]
    assert class_indices(net, "score", ["33_labels.txt", "background"]) == [*range(1, 34), 0]
    Path("own.txt").write_text("sky  # blue\n\n12\n400: thing 7\n")
    assert class_indices(net, "score", ["own.txt"]) == [20, 12, 7]
    Path("bad.txt").write_text("sky\nskye\n")
    Path("empty.txt").write_text("# nothing\n")
    Path("twice.txt").write_text("sky\n20\n")
    for given, message in (
        ("bad.txt", r"bad.txt:2: 'skye' is no class of 'score'\. Did you mean 'sky'\? Give names"),
        ("60", "'60' is no class of 'score'. Give names, or indices from 0 to 59"),
        ("34_labels.txt", "'34_labels.txt' is no class of 'score'"),
        ("empty.txt", "empty.txt: lists no class"),
        ("twice.txt", "class sky is chosen twice"),
    ):
        with pytest.raises(DataError, match=message):
            class_indices(net, "score", [given])


def test_voc_counts_seg11valid_and_writes_what_the_server_takes(place, capsys):
    root = place / "pascal" / "VOC2011"
    for name in IMAGES:
        photograph(root / "JPEGImages" / f"{name}.jpg")
        (root / "SegmentationClass").mkdir(exist_ok=True)
        Image.fromarray(blocks(0, 7, 15, 255).astype(np.uint8)).save(root / "SegmentationClass" / f"{name}.png")
    listed(root / "ImageSets" / "Segmentation" / "seg11valid.txt")
    net, arguments = started("voc-fcn8s", score=(0, 7, 15))
    assert main([*arguments, "--voc-results", "server"]) == 0
    check(saved(), counted(net, "score", "label", range(21)))
    folder = Path("server", VOC_LAYOUT)
    assert sorted(path.name for path in folder.iterdir()) == ["one.png", "two.png"]
    # The net has seen the first image in `started`, and both in `counted`.
    with torch.no_grad(), Image.open(folder / "two.png") as image:
        assert image.mode == "P" and image.size == SIZE[::-1]
        assert np.array_equal(np.asarray(image), net(keep=["score"])["score"].argmax(1)[0].numpy())


def test_one_head_is_chosen_before_its_classes(place, capsys):
    siftflow(place)
    _, arguments = started("siftflow-fcn32s")
    assert main([*arguments, "--without", "sky"]) == 1
    assert "--without: the net has heads score_sem, score_geo. Choose one with --score" in capsys.readouterr().err
    assert main([*arguments, "--without", "sky", "--score", "score_sem", "--label", "sem"]) == 0
    assert len(saved()["class_iu"]) == 32 and "sky" not in saved()["class_iu"]


@pytest.mark.parametrize(("name", "left_out"), [("SIFTFlowSegDataLayer", True), ("OtherDataLayer", False)])
def test_the_references_own_class_is_known_by_its_name(name, left_out):
    """A file of the reference beside a net does not say `leaves_out_absent` itself."""
    layer = SimpleNamespace(user=type(name, (), {"__len__": lambda self: 1})())
    assert is_scored_without_absent(SimpleNamespace(layers={"data": layer})) is left_out
