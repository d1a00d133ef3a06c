"""Scores of edge maps: by hand, and over a net's own data; the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net
from PIL import Image

from fcn_caffe.commands.score_edges import main
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.edges import THRESHOLDS, EdgeScores, count_matches, score_edges
from fcn_caffe.weights.transfer import save_weights


def plane(*points: tuple[int, int], value: float = 1.0, size: int = 7) -> torch.Tensor:
    values = torch.zeros(size, size)
    for row, column in points:
        values[row, column] = value
    return values


def at(counts: torch.Tensor, threshold: float) -> list[int]:
    return counts[THRESHOLDS.index(threshold)].tolist()


def test_an_answer_counts_where_an_edge_is_near_and_likely_enough() -> None:
    edges = plane((1, 1), (5, 5))
    answers = plane((1, 3), value=0.6) + plane((6, 0), value=0.3)
    counts = count_matches(answers, edges, 2)
    assert at(counts, 0.5) == [1, 1, 1, 2]  # (1, 3) is two columns beside (1, 1); nothing is near (5, 5)
    assert at(counts, 0.2) == [1, 2, 1, 2]  # (6, 0) is near none
    assert at(counts, 0.7) == [0, 0, 0, 2]
    assert at(count_matches(answers, edges, 1), 0.5) == [0, 1, 0, 2]
    assert at(count_matches(answers, answers > 0.5, 0), 0.5) == [1, 1, 1, 1]


def test_the_set_has_one_threshold_and_each_image_its_own() -> None:
    edges = plane((3, 3))
    sure = plane((3, 3), value=0.9) + plane((0, 0), value=0.6)
    faint = plane((3, 3), value=0.5)
    scores = EdgeScores([count_matches(values, edges, 0) for values in (sure, faint)])
    threshold, precision, recall, best = scores.best()
    # Above 0.6 one of two is found, and right: 2/3. At 0.5 both are, beside one wrong answer: 4/5.
    assert threshold <= 0.5 and (precision, recall) == (pytest.approx(2 / 3), 1)
    assert best == pytest.approx(0.8) and scores.best_by_image() == 1


def test_nothing_to_find_scores_nothing() -> None:
    scores = EdgeScores([count_matches(torch.zeros(3, 3), torch.zeros(3, 3), 1)])
    assert scores.best()[1:] == (0, 0, 0) and scores.best_by_image() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of 6x8, black on the left and white on the right, and a net that answers their right halves."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for name in ("a", "b"):
        picture = np.zeros((6, 8, 3), np.uint8)
        picture[:, 4:] = 255
        Image.fromarray(picture).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray((picture[..., 0] > 0).astype(np.uint8)).save(tmp_path / "labels" / f"{name}.png")
    (tmp_path / "val.txt").write_text("a\nb\n")
    options = {key: str(tmp_path / key) for key in ("images", "labels")} | {"split": str(tmp_path / "val.txt")}
    options |= {"mean": (128.0, 128.0, 128.0), "outlines": True}
    python = f'python_param {{ module: "folder_layers" layer: "FolderSegData" param_str: "{options}" }}'
    conv = "convolution_param { num_output: 1 kernel_size: 1 }"
    text = layer("data", "Python", top="data label", more=python) + layer("edge", "Convolution", "data", more=conv)
    (tmp_path / "net.prototxt").write_text(text + layer("quiet", "Silence", "label", top=""))
    weights = [np.full((1, 3, 1, 1), 0.01, np.float32), np.zeros(1, np.float32)]
    save_weights(tmp_path / "net.caffemodel", {"edge": weights})
    return tmp_path


def test_the_command_scores_the_nets_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(folder / "net.prototxt"), "--weights", str(folder / "net.caffemodel"), "--score", "edge"]
    more = ["--tolerance", "0", "--save", str(folder / "maps"), "--json", str(folder / "scores.json")]
    assert main([*arguments, *more]) == 0
    record = json.loads((folder / "scores.json").read_text())
    # Every column is alike in its half: the edge is column 3, in the half of the low scores, 0.02.
    assert record["images"] == 2 and record["recall"] == 1 and record["precision"] == pytest.approx(6 / 48)
    assert record["threshold"] <= 0.02 and record["ods"] == pytest.approx(record["ois"])
    assert "ods " in capsys.readouterr().out
    maps = sorted((folder / "maps").glob("*.png"))
    assert len(maps) == 2
    pixels = np.asarray(Image.open(maps[0]))
    assert pixels.shape[:2] == (6, 8) and pixels[0, 0].max() > 240 and pixels[0, 7].max() < 15


def test_blobs_must_be_of_edges() -> None:
    net = make_net(input_layer("data", 1, 2, 3, 3), input_layer("label", 1, 1, 3, 3))
    with pytest.raises(DataError, match="no blob 'fuse'"):
        score_edges(net, "fuse")
    with pytest.raises(DataError, match="edges have one channel"):
        score_edges(net, "data")
