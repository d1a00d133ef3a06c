"""Scores along boundaries and confidence intervals: by hand, in parts, in batches; what the command writes of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fcn_caffe import TEST, DataError, Net
from fcn_caffe.commands import extract_features, infer, score, score_edges
from fcn_caffe.evaluation import METRICS, ConfusionMatrix, Details, Scores, format_scores, score_heads
from fcn_caffe.evaluation.details import RESAMPLES, trimap
from fcn_caffe.host.tables import Table
from fcn_caffe.weights.transfer import net_weights, save_weights

COUNT = 6
VOID = """
layer { name: "data" type: "DummyData" top: "score" top: "label" dummy_data_param {
  shape { dim: 2 dim: 3 dim: 4 dim: 5 } shape { dim: 2 dim: 1 dim: 4 dim: 5 } data_filler { type: "gaussian" }
  data_filler { value: 255 } } }
"""
ALL = Details((1, 3), intervals=True)


def net_text(batch: int = 1, count: int = COUNT) -> str:
    return f"""
    layer {{ name: "data" type: "Python" top: "data" top: "label" python_param {{
      module: "shapes_layers" layer: "ShapesSegData"
      param_str: "{{'split': 'val', 'size': 40, 'count': {count}, 'batch': {batch}}}" }} }}
    layer {{ name: "mix" type: "Convolution" bottom: "data" top: "score" convolution_param {{ num_output: 6
      kernel_size: 3 pad: 1 weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
    layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
      loss_param {{ ignore_label: 255 normalize: true }} }}
    """


def make(folder: Path, **options: int) -> Net:
    path = folder / "net.prototxt"
    path.write_text(net_text(**options))
    torch.manual_seed(0)
    return Net(path, TEST)


def scored(net: Net, details: Details = ALL, **options: object) -> Scores:
    return score_heads(net, details=details, **options)["score"]  # type: ignore[arg-type]


# -- along boundaries ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 5, 30])
def test_a_band_is_what_lies_near_another_label(width: int) -> None:
    label = np.random.default_rng(width).choice([0, 0, 0, 1, 255], (2, 9, 1)).repeat(14, 2)
    label[:, 4:, 7:] = 2
    found = trimap(label, width)
    for place in np.ndindex(label.shape):
        image, row, column = place
        rows, columns = (slice(max(0, middle - width), middle + width + 1) for middle in (row, column))
        assert found[place] == (label[image, rows, columns] != label[place]).any(), place


def test_one_row_one_column_and_no_boundary() -> None:
    assert trimap(np.array([[[0, 0, 0, 1]]]), 1).tolist() == [[[False, False, True, True]]]
    assert trimap(np.array([[[0], [0], [1]]]), 1).tolist() == [[[False], [True], [True]]]
    assert not trimap(np.zeros((1, 4, 4)), 3).any()


def test_a_band_wider_than_the_image_is_all_of_it() -> None:
    label = np.zeros((1, 5, 7))
    label[0, 4, 6] = 1
    assert trimap(label, 10**18).all() and not trimap(label, 5).all()


def by_hand(net: Net, width: int) -> ConfusionMatrix:
    matrix = ConfusionMatrix(6)

    def look(_: int, blobs: dict[str, torch.Tensor]) -> None:
        label = blobs["label"][:, 0].numpy()
        answer = blobs["score"].argmax(1).numpy()
        matrix.add(np.where(trimap(label, width), label, -1), answer)

    score_heads(net, on_image=look)  # type: ignore[arg-type]
    return matrix


def test_the_bands_metrics(tmp_path: Path) -> None:
    net = make(tmp_path)
    scores = scored(net, Details((3, 1, 3)))
    assert list(scores.trimap) == [1, 3] and not scores.intervals and scores.images is None
    for width, band in scores.trimap.items():
        assert band.summary() == by_hand(net, width).scores().summary()
    assert 0 < scores.trimap[1].pixels < scores.trimap[3].pixels < scores.pixels
    plain = score_heads(net)["score"]
    assert plain.summary() == scores.summary() and not plain.trimap and plain.loss == scores.loss


@pytest.mark.parametrize("options", [{"tile": 16}, {"only": [1, 3, 4]}])
def test_in_parts_and_of_some_classes(tmp_path: Path, options: dict[str, object]) -> None:
    net = make(tmp_path)
    whole = scored(net, **{**options, "tile": 0})
    scores = scored(net, **options)
    assert scores.intervals == whole.intervals and scores.images == COUNT
    for width, band in whole.trimap.items():
        assert band.summary() == scores.trimap[width].summary() and band.pixels < scores.pixels


def test_batches_are_of_images(tmp_path: Path) -> None:
    one, two = scored(make(tmp_path)), scored(make(tmp_path, batch=2))
    assert two.images == one.images == COUNT and two.intervals == one.intervals
    assert two.trimap[3].summary() == one.trimap[3].summary()


def test_answers_that_are_no_pictures_have_no_boundaries(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text("""
      layer { name: "data" type: "DummyData" top: "score" top: "label" dummy_data_param {
        shape { dim: 2 dim: 3 } shape { dim: 2 } data_filler { type: "gaussian" } data_filler { value: 1 } } }""")
    net = Net(tmp_path / "net.prototxt", TEST)
    with pytest.raises(DataError, match="a trimap is of pictures"):
        scored(net, Details((1,)), iterations=1)
    assert scored(net, Details(intervals=True), iterations=1).images == 2


# -- intervals -----------------------------------------------------------------------------------------------------


def test_intervals_are_of_resampled_confusion_matrices(tmp_path: Path) -> None:
    net = make(tmp_path)
    images = []

    def look(_: int, blobs: dict[str, torch.Tensor]) -> None:
        matrix = ConfusionMatrix(6)
        matrix.add(blobs["label"][:, 0].numpy(), blobs["score"].argmax(1).numpy())
        images.append(matrix)

    scores = score_heads(net, details=Details(intervals=True, seed=5), on_image=look)["score"]  # type: ignore[arg-type]
    generator, found = np.random.default_rng(5), []
    for _ in range(RESAMPLES):
        total = ConfusionMatrix(6)
        for count, matrix in zip(generator.multinomial(COUNT, np.full(COUNT, 1 / COUNT)), images, strict=True):
            total.counts += count * matrix.counts
        found.append(list(total.scores().summary().values()))
    ends = np.percentile(found, (2.5, 97.5), axis=0)
    for name, low, high in zip(METRICS, *ends, strict=True):
        assert scores.intervals[name] == (low, high)
        assert low < getattr(scores, name) < high
    other = scored(net, Details(intervals=True, seed=6))
    assert other.intervals != scores.intervals


def test_equal_images_do_not_vary_and_one_image_says_nothing(tmp_path: Path) -> None:
    net = make(tmp_path, count=1)
    scores = scored(net, iterations=4)
    assert all(ends == (getattr(scores, name),) * 2 for name, ends in scores.intervals.items())
    with pytest.raises(DataError, match="1 image scored: intervals need two or more"):
        scored(net, iterations=1)


def test_nothing_counted_has_no_interval(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(VOID)
    scores = scored(Net(tmp_path / "net.prototxt", TEST), Details((1,), intervals=True), iterations=1)
    assert np.isnan(scores.intervals["mean_iu"]).all() and np.isnan(scores.trimap[1].mean_iu)
    assert "mean IU            nan  - to -" in format_scores(scores)


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    net = make(tmp_path)
    save_weights(tmp_path / "w.caffemodel", net_weights(net))
    return [str(tmp_path / "net.prototxt"), "--weights", str(tmp_path / "w.caffemodel")]


def test_what_the_command_prints_and_writes(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = scored(make(tmp_path))
    files = ["--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")]
    assert score.main([*arguments, "--trimap", "3", "1", "--intervals", *files]) == 0
    out = capsys.readouterr().out
    low, high = wanted.intervals["mean_iu"]
    assert f"mean IU         {wanted.mean_iu * 100:6.2f}  {low * 100:.2f} to {high * 100:.2f}\n" in out
    assert f"(95 % intervals, bootstrap of {COUNT} images)\n" in out
    assert f"within 1 px   {wanted.trimap[1].pixel_accuracy * 100:12.2f}" in out and "within 3 px" in out
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["mean_iu_low"], record["mean_iu_high"]) == (low, high)
    assert record["trimap_3_mean_iu"] == wanted.trimap[3].mean_iu
    assert record["trimap_1_pixels"] == wanted.trimap[1].pixels
    with open(tmp_path / "a.csv") as file:
        (row,) = csv.DictReader(file)
    assert float(row["mean_iu_high"]) == high and float(row["trimap_3_mean_iu"]) == wanted.trimap[3].mean_iu
    assert format_scores(wanted).splitlines()[0] in out


def test_without_being_asked_nothing_is_other(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score.main([*arguments, "--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")]) == 0
    out = capsys.readouterr().out
    assert "interval" not in out and "within" not in out and " to " not in out
    numbers = ["net", "weights", "head", *METRICS, "loss", "pixels"]
    record = json.loads((tmp_path / "a.json").read_text())
    assert list(record) == [*numbers, "class_accuracy", "class_iu", "absent", "confusion"]
    assert (tmp_path / "a.csv").read_text().splitlines()[0] == ",".join(numbers)


def test_a_csv_of_other_columns_is_refused_before_anything_runs(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "a.csv"
    assert score.main([*arguments, "--csv", str(table)]) == 0
    before, _ = table.read_bytes(), capsys.readouterr()
    assert score.main([*arguments, "--csv", str(table), "--trimap", "2"]) == 1
    caught = capsys.readouterr()
    assert "a.csv: has columns net, weights, head," in caught.err and "trimap_2_mean_iu" in caught.err
    assert not caught.out and table.read_bytes() == before
    table.write_bytes(b"\xff\xfe\0")
    assert score.main([*arguments, "--csv", str(table)]) == 1
    assert "a.csv: cannot be read as a table of scores" in capsys.readouterr().err


def test_on_a_terminal(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Table] = []
    monkeypatch.setattr("fcn_caffe.evaluation.score.print_tables", lambda text, tables: shown.extend(tables))
    assert score.main([*arguments, "--trimap", "2", "--intervals"]) == 0
    metrics, bands, _ = shown
    assert metrics.columns[2] == f"95 % intervals, bootstrap of {COUNT} images" and " to " in metrics.rows[2][2]
    assert bands.columns == ("boundary", "pixel acc.", "mean acc.", "mean IU", "f.w. IU")
    assert bands.rows[0][0] == "within 2 px"


# -- devices -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (score.main, ["x.prototxt", "--weights", "x"]),
        (score_edges.main, ["x.prototxt", "--weights", "x"]),
        (infer.main, [".", "--net", "x.prototxt", "--weights", "x"]),
        (extract_features.main, ["x", "x.prototxt", "score", "x.npz", "1"]),
    ],
)
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu0", "device 'gpu0' is unknown. Use cpu, cuda or cuda:N."),
        ("meta", "device 'meta' is not usable here. Use cpu, cuda or cuda:N."),
        ("cuda:99", "device 'cuda:99'"),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(
    main: object,
    arguments: list[str],
    device: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    assert callable(main) and main([*arguments, "--device", device]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
