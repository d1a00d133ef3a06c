"""Regimes, balance, augmentation, masking: all run for a few iterations, and verdicts that follow from the scores."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.commands.experiment import main
from fcn_caffe.data.sets.shapes_scenes import draw_scene
from fcn_caffe.models.class_weights import weigh_classes
from fcn_caffe.models.shapes import SEED, fcn
from fcn_caffe.paper.experiments import augmentation, balance, masking, regimes, sampling
from fcn_caffe.paper.experiments import registry as experiments
from fcn_caffe.paper.experiments.miniature import Miniature
from fcn_caffe.paper.experiments.sampling_nets import with_data_options
from fcn_caffe.paper.result import DIFFERS, HOLDS, Curve, Result
from fcn_caffe.proto.blob_file import write_blob

TINY = 0.005


@pytest.fixture
def scored(monkeypatch):
    """Let training give these mean IUs in turn, without any; returns what it was asked to train."""

    def prepare(module, *mean_ius, accuracies=(0.1, 0.2, 0.3, 0.4)):
        asked, left = [], list(mean_ius)

        def train(net, solver, start, *, score=True, on_step=None):
            asked.append((net, solver))
            mean_iu = left.pop(0)
            scores = SimpleNamespace(mean_iu=mean_iu, mean_accuracy=accuracies[len(asked) - 1], pixel_accuracy=mean_iu)
            return SimpleNamespace(weights=mean_iu, scores=scores)

        fake = Miniature()
        monkeypatch.setattr(fake, "train", train)
        for name in ("shapes-classifier", "shapes-fcn32s-fixed"):
            fake.stages[name] = SimpleNamespace(weights=None)
        monkeypatch.setattr(module, "miniature", lambda seed, scale: fake)
        return asked

    return prepare


@pytest.mark.parametrize(
    ("mean_ius", "verdict"),
    [((0.1, 0.2, 0.3, 0.3), HOLDS), ((0.2, 0.1, 0.3, 0.3), DIFFERS), ((0.1, 0.3, 0.2, 0.3), DIFFERS)],
)
def test_regimes_are_compared_at_one_rate_and_as_many_images(scored, mean_ius, verdict):
    asked = scored(regimes, *mean_ius)
    result = regimes.regimes()
    assert result.verdict == verdict
    assert [(solver.momentum, solver.max_iter) for _, solver in asked] == [
        (pytest.approx(0.9), regimes.IMAGES // 20),
        (pytest.approx(0.9), regimes.IMAGES),
        (pytest.approx(0.99), regimes.IMAGES),
        (pytest.approx(0.9), regimes.IMAGES // 20),
    ]
    assert len({solver.base_lr for _, solver in asked[:3]}) == 1
    moves = [row.value for row in result.rows if row.what.startswith("  ")]
    # rate x pixels / (1 - momentum) / images a step
    assert moves[0] == pytest.approx(regimes.RATE * 112 * 112 * 10 / 20, rel=1e-4)
    assert [move / moves[0] for move in moves] == pytest.approx([1, 20, 200, 200], rel=1e-4)


@pytest.mark.parametrize(("module", "name"), [(balance, "balance"), (augmentation, "augmentation")])
def test_a_gain_would_be_told(scored, module, name):
    for gained, verdict in ((0.009, HOLDS), (0.011, DIFFERS), (-0.3, HOLDS)):
        asked = scored(module, 0.4, 0.4 + gained)
        assert getattr(module, name)().verdict == verdict
        assert len(asked) == 2 and asked[0][1] == asked[1][1] and asked[0][0] != asked[1][0]


def test_a_balanced_net_that_answers_one_class_is_no_comparison(scored):
    scored(balance, 0.4, 0.1, accuracies=(0.3, 0.2))
    assert balance.balance().verdict == DIFFERS


def test_masks_are_compared_in_order(scored, monkeypatch):
    counts = np.array([[3, 1], [1, 1]])  # 4 of 6 pixels are of the first class: IU 2/3 and 0 if all are said to be
    monkeypatch.setattr(
        masking, "score_objects", lambda net, weights, scale: SimpleNamespace(mean_iu=weights, confusion=counts)
    )
    for mean_ius, verdict in (((0.8, 0.7, 0.3), HOLDS), ((0.7, 0.8, 0.3), DIFFERS), ((0.8, 0.3, 0.7), DIFFERS)):
        scored(masking, *mean_ius)
        result = masking.masking()
        assert result.verdict == verdict
        assert [row.value for row in result.rows if "most frequent" in row.what] == [pytest.approx(100 / 3)]
        assert len(result.rows) == 6 and "unverified" in result.remarks[0]


def test_weights_of_classes(tmp_path):
    shares = balance.class_shares(SEED, 4)
    labels = np.concatenate([draw_scene(SEED, "train", index)[1].ravel() for index in range(4)])
    assert shares[0] == pytest.approx((labels == 0).sum() / (labels != 255).sum())
    weights = balance.inverse_frequency(np.array([0.5, 0.25, 0.25]))
    assert weights == pytest.approx([2 / 3, 4 / 3, 4 / 3]) and (weights * [0.5, 0.25, 0.25]).sum() == pytest.approx(1)
    # A loss whose weights are all 1 is the plain one; a class of weight 0 does not count.
    plain = with_data_options(fcn("shapes-fcn32s"), batch=1, size=64)
    blobs = Net(plain, TRAIN)(keep=["label", "loss"])
    ln6 = float(blobs["loss"].detach())
    assert ln6 == pytest.approx(np.log(6))

    def loss(matrix):
        return float(Net(weigh_classes(plain, str(matrix)), TRAIN)(keep=["loss"])["loss"].detach())

    ones, silent = tmp_path / "ones", tmp_path / "silent"
    write_blob(ones, np.eye(6))
    write_blob(silent, np.diag([0.0] + [1] * 5))
    assert loss(ones) == pytest.approx(ln6, rel=1e-5)
    counted = float(((blobs["label"] > 0) & (blobs["label"] < 255)).sum() / (blobs["label"] < 255).sum())
    assert 0 < counted < 1
    found = loss(silent)
    assert found == pytest.approx(ln6 * counted, rel=1e-5)  # every score is 0, so every pixel costs ln 6


def test_masked_nets_see_one_of_the_two():
    net = with_data_options(fcn("shapes-fcn32s"), TEST, batch=2, size=64)
    whole = Net(net, TEST)(keep=["data", "label"])
    seen = {
        keep: Net(masking.with_masked_input(net, keep), TEST)(keep=["data"])["data"]
        for keep in ("foreground", "background")
    }
    void = whole["label"] == 255
    assert torch.equal(seen["foreground"] + seen["background"], whole["data"] * ~void)
    assert not seen["background"].masked_select(whole["label"] > 0).any()
    assert seen["foreground"].any() and seen["background"].any()


@pytest.mark.slow
@pytest.mark.parametrize("module", [regimes, balance, augmentation, masking])
def test_training_in_miniature(module):
    """All of it for a few iterations: the numbers mean nothing, the rows are there."""
    name = module.__name__.rpartition(".")[2]
    result = getattr(module, name)(scale=TINY)
    assert result.name == name and result.verdict in (HOLDS, DIFFERS)
    assert any(row.holds is not None for row in result.rows)
    assert all(0 <= row.value <= 100 for row in result.rows if row.what.startswith("mean IU"))


def test_the_command_passes_seed_and_scale(monkeypatch, capsys):
    calls = []

    def record(seed, scale):
        calls.append((seed, scale))
        return Result("x", "4.3", "nothing")

    modules = {"sampling": sampling, "balance": balance, "augmentation": augmentation, "regimes": regimes}
    for name, module in {**modules, "masking": masking}.items():
        monkeypatch.setattr(module, name, record)
        assert main([name, "--seed", "3", "--scale", "0.5"]) == 1  # nothing was asked for
        assert main([name]) == 1
    assert calls == [(3, 0.5), (0, 1.0)] * 5
    monkeypatch.undo()
    for wrong in ("0", "-1", "nan"):
        with pytest.raises(SystemExit):
            main(["balance", "--scale", wrong])
        assert "should be a number above 0" in capsys.readouterr().err


def test_curves_are_drawn_where_there_are_some(monkeypatch, tmp_path, capsys):
    result = Result(
        "sampling", "3.4", "says <b>", curves=[Curve("Loss <i>", "iteration", "nats", {"all": [(1.0, 2.0)]})]
    )
    result.measure("x", 1, "1", True)
    experiment = experiments.EXPERIMENTS["sampling"]
    monkeypatch.setitem(experiments.EXPERIMENTS, "sampling", replace(experiment, run=lambda options: result))
    page = tmp_path / "curves.html"
    assert main(["sampling", "--curves", str(page)]) == 0
    text = page.read_text()
    assert text.count("<figure") == 1 and "<svg" in text and "Loss &lt;i&gt;" in text and "says &lt;b&gt;" in text
    assert f"{page}: its curves" in capsys.readouterr().out
    page.unlink()
    result.curves.clear()
    assert main(["sampling", "--curves", str(page)]) == 0
    assert not page.exists() and "has no curves" in capsys.readouterr().out
    assert main(["sampling", "--curves", str(tmp_path)]) == 1
    assert "is a folder" in capsys.readouterr().err
