"""Images run in parts: the same labels, scores, losses and files as whole; chosen where the whole would not fit."""

import numpy as np
import pytest
import torch
from PIL import Image

from fcn_caffe.commands.infer import main as infer
from fcn_caffe.commands.score import main as score
from fcn_caffe.errors import DataError, GraphError
from fcn_caffe.evaluation import tiles
from fcn_caffe.evaluation.infer import Segmenter
from fcn_caffe.evaluation.score import score_heads
from fcn_caffe.evaluation.tiles import parts
from fcn_caffe.weights.transfer import net_weights, save_weights
from tests.helpers import input_layer, layer, make_net, randomise

SEGMENTS = (
    layer("wide", "Convolution", "data", more="convolution_param { num_output: 4 kernel_size: 5 pad: 2 }"),
    layer("relu", "ReLU", "wide", "wide"),
    layer("score", "Convolution", "wide", more="convolution_param { num_output: 3 kernel_size: 3 pad: 1 }"),
)
DATA = """layer {{ name: "data" type: "Python" top: "data" top: "label" include {{ not_stage: "deploy" }}
  python_param {{ module: "folder_layers" layer: "FolderSegData" param_str: "{options}" }} }}
layer {{ name: "input" type: "Input" top: "data" include {{ stage: "deploy" }}
  input_param {{ shape {{ dim: 1 dim: 3 dim: 20 dim: 24 }} }} }}
"""
LOSS = """layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
  include { not_stage: "deploy" } loss_param { ignore_label: 255 %s } }
"""


@pytest.fixture
def place(tmp_path):
    """Three pictures of several sizes with labels, a net that segments them, and its weights."""
    generator = np.random.default_rng(0)
    for folder in ("i", "l"):
        (tmp_path / folder).mkdir()
    for name, size in (("a", (20, 24)), ("b", (13, 31)), ("c", (9, 7))):
        Image.fromarray(generator.integers(0, 256, (*size, 3)).astype(np.uint8)).save(tmp_path / "i" / f"{name}.png")
        label = generator.choice([0, 1, 2, 255], size).astype(np.uint8)
        Image.fromarray(label).save(tmp_path / "l" / f"{name}.png")
    (tmp_path / "val.txt").write_text("a\nb\nc\n")
    options = {"images": f"{tmp_path}/i", "labels": f"{tmp_path}/l", "split": f"{tmp_path}/val.txt", "mean": (9, 8, 7)}
    text = DATA.format(options=options) + "".join(SEGMENTS)
    net = make_net(text + LOSS % "", path=tmp_path / "net.prototxt")
    randomise(net)
    save_weights(tmp_path / "net.caffemodel", net_weights(net))
    return tmp_path


def arguments(place, *more):
    return [*("--weights", str(place / "net.caffemodel")), *map(str, more)]


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_infer_writes_the_same_files(place):
    for name, tile in (("whole", 0), ("parts", 5)):
        more = ("--net", place / "net.prototxt", "--out", place / name, "--tile", tile, place / "i")
        assert infer(arguments(place, *more)) == 0
    written = sorted(path.name for path in (place / "parts").iterdir())
    assert len(written) == 6
    for name in written:
        assert (read(place / "parts" / name) == read(place / "whole" / name)).all()


def test_score_writes_the_same_files(place):
    for name, tile in (("whole", "none"), ("parts", "5")):
        more = ("--tile", tile, "--json", place / f"{name}.json", "--save-predictions", place / name)
        assert score([str(place / "net.prototxt"), *arguments(place, *more)]) == 0
    assert len(list((place / "parts").iterdir())) == 3
    for path in (place / "parts").iterdir():
        assert (read(path) == read(place / "whole" / path.name)).all()
    whole, other = ((place / f"{name}.json").read_text() for name in ("whole", "parts"))
    assert "loss" in whole and [line for line in whole.splitlines() if '"loss"' not in line] == [
        line for line in other.splitlines() if '"loss"' not in line
    ]


@pytest.mark.parametrize("mode", ["VALID", "FULL", "BATCH_SIZE", "NONE"])
def test_loss_and_only_count_as_whole(place, mode):
    text = (place / "net.prototxt").read_text().replace("ignore_label: 255", f"ignore_label: 255 normalization: {mode}")
    net = make_net(text, path=place / "other.prototxt")
    randomise(net)
    whole, other = (score_heads(net, only=[0, 2], tile=tile)["score"] for tile in (0, 6))
    assert (whole.confusion == other.confusion).all()
    assert other.loss == pytest.approx(whole.loss, rel=1e-6)


def test_parts_are_chosen_where_the_whole_is_too_large(place, monkeypatch):
    net = make_net(input_layer("data", 1, 3, 20, 24), *SEGMENTS)
    shapes = {"data": (1, 3, 20, 24)}
    assert parts(net, shapes, ["score"]) is None
    monkeypatch.setattr(tiles, "WHOLE", 10_000)
    run = parts(net, shapes, ["score"])
    assert run is not None and run.blocks == [(0, 24)]
    monkeypatch.setattr(tiles, "free_bytes", lambda device: 70_000)
    run = parts(net, shapes, ["score"])
    assert run is not None
    run_blobs = {"data": lambda rows, columns: torch.zeros(1, 3, rows[1] - rows[0], columns[1] - columns[0])}
    assert len(list(run.pieces(run_blobs))) > 1
    with pytest.raises(DataError, match=r"run whole, takes about .* 68\.36 KiB are free\. Use a smaller image"):
        parts(net, shapes, ["score"], 0)
    monkeypatch.setattr(tiles, "free_bytes", lambda device: 1 << 20)
    assert parts(net, shapes, ["score"], 0) is None
    with pytest.raises(DataError, match="1 MiB are free"):
        parts(net, shapes, ["score"], 0, beside=1 << 20)


def test_a_net_that_looks_far_is_run_whole_while_it_fits(monkeypatch):
    far = layer("far", "MVN", "data", "score")
    net = make_net(input_layer("data", 1, 3, 20, 24), far)
    shapes = {"data": (1, 3, 20, 24)}
    monkeypatch.setattr(tiles, "WHOLE", 10_000)
    assert parts(net, shapes, ["score"]) is None
    with pytest.raises(GraphError, match=r"layer 'far' \(MVN\) does not compute"):
        parts(net, shapes, ["score"], 8)
    monkeypatch.setattr(tiles, "free_bytes", lambda device: 10_000)
    with pytest.raises(DataError, match=r"takes about .* 9\.766 KiB are free, and it cannot be run in parts: layer"):
        parts(net, shapes, ["score"])


def test_scores_of_another_size_are_refused():
    smaller = layer("score", "Convolution", "data", more="convolution_param { num_output: 2 kernel_size: 3 }")
    net = make_net(input_layer("data", 1, 3, 20, 24), smaller)
    segment = Segmenter(net, (0, 0, 0), tile=8)
    with pytest.raises(DataError, match="blob 'score' is 1x2x18x22 for an image of 20x24"):
        segment(np.zeros((20, 24, 3), np.uint8))


def test_labels_that_a_layer_makes_are_not_scored_in_parts(place):
    made = 'layer { name: "made" type: "Power" bottom: "label" top: "made" }\n'
    text = (place / "net.prototxt").read_text().replace('bottom: "label" top: "loss"', 'bottom: "made" top: "loss"')
    net = make_net(text.replace('layer { name: "loss"', made + 'layer { name: "loss"'), path=place / "made.prototxt")
    with pytest.raises(GraphError, match="labels or loss are not of the kind that is scored in parts"):
        score_heads(net, heads={"score": "made"}, tile=8)
    assert score_heads(net, heads={"score": "made"})["score"].loss


@pytest.mark.parametrize(("most", "fitting"), [(1, 1), (99, 99), (2**20, 100)])
def test_the_batch_that_fits_is_found_in_few_steps(most, fitting, monkeypatch):
    asked = []

    def forward_bytes(net, shapes):
        asked.append(shapes["data"][0])
        return shapes["data"][0] * tiles.WHOLE // 100

    monkeypatch.setattr(tiles, "forward_bytes", forward_bytes)
    monkeypatch.setattr(tiles, "free_bytes", lambda device: None)
    net = make_net(input_layer("data", 1, 3, 4, 4))
    assert tiles.batch_that_fits(net, "data", (3, 4, 4), most) == fitting and len(asked) < 30


def test_tile_is_a_number_or_none(capsys):
    with pytest.raises(SystemExit):
        infer(["x.png", "--net", "n", "--weights", "w", "--tile", "-3"])
    assert "should be a whole number, or none, got -3" in capsys.readouterr().err
