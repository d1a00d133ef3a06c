"""The recipe in memory: stages start from each other, once a seed, to the bit, and leave the process as it was."""

from __future__ import annotations

import random
import signal

import numpy as np
import pytest
import torch

from fcn_caffe import TEST, Net, SolverError
from fcn_caffe.models import shapes
from fcn_caffe.paper.experiments.miniature import Miniature, begin, miniature
from fcn_caffe.weights.surgery import upsample_filter

TINY = 0.004
NAMES = ("shapes-fcn32s-fixed", "shapes-fcn32s")


@pytest.fixture(scope="module")
def mini():
    return miniature(0, TINY)


def test_one_miniature_a_seed_and_each_stage_once(mini):
    assert miniature(0, TINY) is mini is not miniature(1, TINY)
    assert mini.stage("shapes-fcn32s-fixed") is mini.stage("shapes-fcn32s-fixed")


def test_a_stage_starts_from_the_one_before(mini):
    classifier, fixed = (mini.stage(name).weights for name in ("shapes-classifier", "shapes-fcn32s-fixed"))
    assert (fixed["conv4_2"][0] == classifier["conv4_2"][0]).all()  # in the fixed net only the scores learn
    assert fixed["fc6"][0].shape == (128, 64, 2, 2) and (fixed["fc6"][0].ravel() == classifier["fc6"][0].ravel()).all()
    assert fixed["score_fr"][0].any()
    assert (fixed["upscore"][0][2, 2] == upsample_filter(64)).all()


def test_runs_are_the_same_to_the_bit(mini):
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = (torch.rand(1), np.random.rand(), random.random())
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    one, other = mini.stage(NAMES[0]), Miniature(0, TINY).stage(NAMES[0])
    assert [loss for _, loss in one.curve] == [loss for _, loss in other.curve]
    assert all(
        (a == b).all() for name in one.weights for a, b in zip(one.weights[name], other.weights[name], strict=True)
    )
    assert one.scores.confusion.tolist() == other.scores.confusion.tolist()
    assert (torch.rand(1), np.random.rand(), random.random()) == before
    different = miniature(1, TINY).stage(NAMES[0])
    assert different.curve != one.curve


def test_a_run_tells_every_iteration(mini):
    net, solver = mini.net(NAMES[1]), mini.solver(NAMES[1])
    solver.max_iter, solver.average_loss = 3, 1
    seen = []
    run = mini.train(net, solver, mini.stage(NAMES[0]).weights, score=False, on_step=lambda s: seen.append(s.loss))
    assert run.curve == [(at, loss) for at, loss in enumerate(seen, 1)] and len(seen) == 3
    assert len(run.seconds) == 3 and 0 < run.seconds[0] < run.seconds[1] < run.seconds[2]
    assert run.scores.pixels == 0 and np.isnan(run.scores.mean_iu)
    scores = mini.score(net, run.weights)
    assert 0 < scores.pixels <= shapes.VAL_BATCH * shapes.SCENE**2  # fewer scenes at a small scale


def test_nothing_is_written(mini, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solver = mini.solver(NAMES[0])
    solver.snapshot = 1
    mini.train(mini.net(NAMES[0]), solver, None, score=False)
    assert list(tmp_path.iterdir()) == []


def test_a_learned_upsampling_is_kept():
    def net(rate):
        param = shapes.fcn("shapes-fcn16s")
        next(layer for layer in param.layer if layer.name == "upscore2").param[0].lr_mult = rate
        return Net(param, TEST)

    source = {"upscore2": [np.ones((6, 6, 4, 4), np.float32)], "upscore16": [np.ones((6, 6, 32, 32), np.float32)]}
    for rate, kept in ((1, True), (0, False)):
        made = net(rate)
        begin(made, source)
        assert bool((made.params["upscore2"][0] == 1).all()) == kept
        assert not (made.params["upscore16"][0] == 1).all()


def test_an_interrupt_stops_at_once(mini):
    def interrupt(solver):
        signal.raise_signal(signal.SIGINT)

    solver = mini.solver(NAMES[1])
    with pytest.raises(KeyboardInterrupt):
        mini.train(mini.net(NAMES[1]), solver, None, on_step=interrupt)


@pytest.mark.parametrize(("seed", "scale"), [(-1, 1), (0, 0), (0, float("nan")), (0, float("inf"))])
def test_what_makes_no_miniature(seed, scale):
    with pytest.raises(SolverError, match="seed of 0 or more and a scale above 0"):
        Miniature(seed, scale)


def test_stages_it_lacks(mini):
    for ask in (mini.stage, mini.net, mini.solver):
        with pytest.raises(SolverError, match=r"no stage 'shapes-fcn4s'. It has shapes-classifier, "):
            ask("shapes-fcn4s")
