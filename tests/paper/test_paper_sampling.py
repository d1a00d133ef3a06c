"""Loss sampling: the identity is measured, a broken one is noticed, and the verdict follows from the runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, net_param

from fcn_caffe import TEST, TRAIN, GraphError, Net, read_net
from fcn_caffe.data.sets import altering_layers
from fcn_caffe.models.shapes import fcn
from fcn_caffe.paper.experiments import sampling
from fcn_caffe.paper.experiments.sampling import Training
from fcn_caffe.paper.experiments.sampling_nets import cell_of, sample_loss, with_change, with_data_options
from fcn_caffe.paper.result import DIFFERS, HOLDS

IDENTITIES = 3  # rows


def trained(monkeypatch, **runs):
    """The experiment with these runs in place of training: (mean loss, seconds an iteration) by share in per cent."""

    def train(share, seed, scale):
        loss, pace = runs[f"of{share * 100:.0f}"]
        return Training([pace * at for at in range(1, 31)], [loss] * 30, loss)

    monkeypatch.setattr(sampling, "_train", train)
    return sampling.sampling(seed=2)


def test_patches_are_a_sample_of_the_loss(monkeypatch):
    result = trained(monkeypatch, of100=(1.0, 1.0), of50=(1.02, 2.0), of25=(0.97, 4.0))
    assert result.verdict == HOLDS
    rows = {row.what: row for row in result.rows}
    assert all(row.holds for row in result.rows[:IDENTITIES])
    assert rows["25% sampling: iterations done in the whole images' time"].value == 7
    by_iteration, by_time = result.curves
    assert list(by_iteration.lines) == list(by_time.lines) == ["whole images", "50% sampling", "25% sampling"]
    assert by_iteration.lines["50% sampling"][-1] == (30, pytest.approx(1.02))
    assert by_time.lines["50% sampling"][-1] == (60, pytest.approx(1.02))


@pytest.mark.parametrize("faster", [(0.8, 2.0), (1.0, 0.9)])
def test_faster_convergence_would_be_told(monkeypatch, faster):
    result = trained(monkeypatch, of100=(1.0, 1.0), of50=(1.0, 2.0), of25=faster)
    assert result.verdict == DIFFERS and all(row.holds for row in result.rows[:IDENTITIES])


def test_a_broken_sample_is_noticed(monkeypatch):
    def broken(label, kept, cell, offset=0, ignore=255):
        wrong = np.repeat(np.repeat(kept, cell, 1), cell, 2)[:, None, : label.shape[2], : label.shape[3]]
        return np.where(wrong, label, 0)  # the first class, where void was meant

    monkeypatch.setattr(altering_layers, "ignore_cells", broken)
    result = trained(monkeypatch, of100=(1.0, 1.0), of50=(1.0, 2.0), of25=(1.0, 4.0))
    assert [row.holds for row in result.rows[:IDENTITIES]] == [False, False, True]


def test_curves_are_smoothed_over_what_there_is():
    assert sampling.running_mean([4.0, 2.0, 0.0]) == [4, 3, 2]
    assert sampling.running_mean([1.0] * 20 + [21.0])[-1] == 2


def test_cells_of_nets():
    assert cell_of(fcn("shapes-fcn32s"), "score_fr") == (32, 0)
    assert cell_of(fcn("shapes-fcn8s"), "score_pool4") == (16, 0)
    # Centres of the released net's cells lie 12.5 pixels into the image and every 32, so a cell begins at -3.
    assert cell_of(read_net("nets/voc-fcn32s.prototxt", TRAIN), "score_fr") == (32, 29)


def test_a_sampled_net_trains_on_its_share_and_is_scored_on_all():
    net = sample_loss(with_data_options(fcn("shapes-fcn32s"), batch=6, size=64), 0.5, seed=4)
    blobs = Net(net, TRAIN)(keep=["label"])
    whole = Net(with_data_options(fcn("shapes-fcn32s"), batch=6, size=64), TRAIN)(keep=["label"])["label"]
    kept = blobs["label"] == whole
    assert (blobs["label"][~kept] == 255).all()
    assert 0.2 < float(kept.float().mean()) < 0.8
    assert "loss_sampling" in Net(net, TRAIN).layers
    assert "loss_sampling" not in Net(net, TEST).layers
    assert "loss_sampling" not in Net(net, TEST, stages=["deploy"]).layers


def test_changes_of_nets_are_refused_or_named_apart():
    text = net_param(input_layer("data", 1, 3, 4, 4), layer("conv", "ReLU", "data"))
    with pytest.raises(GraphError, match="no data layer gives label"):
        with_change(text, "LossSampling", ["label"], ["label"], {"keep": 1})
    with pytest.raises(GraphError, match="no Python data layer"):
        with_data_options(text, batch=2)
    net = sample_loss(sample_loss(fcn("shapes-fcn32s"), 0.5), 0.5)
    assert [one.name for one in net.layer if one.type == "Python"][2:] == ["loss_sampling", "loss_sampling2"]
    torch.manual_seed(0)
    label = Net(with_data_options(net, size=64, batch=30), TRAIN)(keep=["label"])["label"]
    assert 0.1 < float((label != 255).float().mean()) < 0.4  # a quarter is left


def test_training_in_miniature():
    """All of it for a few iterations: the numbers mean nothing, the rows are there."""
    result = sampling.sampling(scale=0.005)
    assert [row.what for row in result.rows if row.holds is not None][IDENTITIES::3] == [
        "50% sampling: mean loss / whole images', all iterations",
        "25% sampling: mean loss / whole images', all iterations",
    ]
    assert all(len(points) == 2 for curve in result.curves for points in curve.lines.values())
    for points in result.curves[1].lines.values():
        assert points == sorted(points) and all(0 < loss < 10 for _, loss in points)
