"""Early and late fusion hold, and the experiment notices what is broken on purpose."""

from __future__ import annotations

import pytest
import torch

from fcn_caffe.commands.experiment import main
from fcn_caffe.models import starts_of
from fcn_caffe.paper.experiments import fusion as experiment
from fcn_caffe.paper.experiments.fusion import fusion, narrow_net
from fcn_caffe.paper.result import DIFFERS, HOLDS
from fcn_caffe.training.stage import start_from


def failed(result):
    assert result.verdict == DIFFERS
    return [row.what.split(",")[0] for row in result.rows if row.holds is False]


@pytest.mark.parametrize("seed", [1, 3])
def test_it_holds_for_other_weights(seed):
    assert fusion(32, seed).verdict == HOLDS


def test_the_command(capsys):
    assert main(["fusion", "--seed", "2"]) == 0
    assert "early, zero depth: score_fr, of the colour net's" in capsys.readouterr().out


def test_a_first_convolution_that_nothing_sets_is_noticed(monkeypatch):
    monkeypatch.setattr(experiment, "starts_of", lambda *given: starts_of(*given)._replace(wider=None))
    found = failed(fusion(32))
    assert "early: colour's filters" in found and "early: depth's filters" in found
    assert not [row for row in found if row.startswith("late")]


@pytest.mark.parametrize(
    ("layer", "index", "row"),
    [
        ("conv1_1_bgrd", (slice(None), 3), "early: depth's filters"),
        ("conv1_1_bgrd", (slice(None), 0), "early: colour's filters"),
        ("conv4_1hha", ..., "late: score_frhha"),
        ("score_frcolor", ..., "late: score_frcolor"),
        ("upscore", ..., "late: score"),
        ("score_pool4hha", ..., "late 16s: largest score_pool4"),
        ("upscore2", ..., "late 16s: fuse_pool4"),
    ],
)
def test_a_layer_that_starts_otherwise_is_noticed(monkeypatch, layer, index, row):
    def spoilt(net, starts):
        start_from(net, starts)
        if layer in net.params:
            with torch.no_grad():
                net.params[layer][0][index] += 0.25

    monkeypatch.setattr(experiment, "start_from", spoilt)
    assert row in failed(fusion(32))


def test_narrow_nets_keep_their_names_and_scores():
    net = narrow_net("nyud-fcn32s-color-hha", 32)
    assert net.params["conv1_1hha"][0].shape == (2, 3, 3, 3) and net.params["score_frhha"][0].shape[0] == 40
    assert net.blob_shapes["score"] == (1, 40, 48, 64)
