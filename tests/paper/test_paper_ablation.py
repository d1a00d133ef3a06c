"""The ablations: nets as they should be, equal starts, what learns and what does not; verdicts follow from scores."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fcn_caffe import TRAIN, GraphError, Net
from fcn_caffe.commands.experiment import main
from fcn_caffe.evaluation.metrics import ConfusionMatrix
from fcn_caffe.layers.fillers import bilinear_kernel
from fcn_caffe.models import shapes
from fcn_caffe.models.shapes import SCENE, fcn
from fcn_caffe.paper.experiments import ablation, augmentation
from fcn_caffe.paper.experiments.ablation import at_once, distance_from_bilinear, learned_upsampling, pools, table2
from fcn_caffe.paper.experiments.ablation_nets import pool_alone, with_learned_upsampling, with_scaled_skips
from fcn_caffe.paper.experiments.miniature import Run, begin, miniature
from fcn_caffe.paper.result import DIFFERS, HOLDS
from fcn_caffe.weights.surgery import interp

TINY = 0.0051  # a scale of this file's own: its miniature is kept by the process


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """One image a pass: what is tested here does not depend on how many there are."""
    with pytest.MonkeyPatch.context() as patch:
        for name, recipe in shapes.RECIPES.items():
            patch.setitem(shapes.RECIPES, name, replace(recipe, batch=1))
        patch.setattr(shapes, "VAL_BATCH", 1)
        yield


def planned(mean_iu, count=3, weights=None):
    """A run that nobody trained, of this mean IU."""
    scores = replace(ConfusionMatrix(6).scores(), mean_iu=mean_iu)
    curve = [(at, math.log(6)) for at in range(1, count + 1)]
    return Run(weights or {}, curve, [0.1 * at for at in range(1, count + 1)], scores)


def plan(monkeypatch, stages=None, trained=()):
    """Let stages and trainings have these mean IUs, without any training; returns what is asked to be trained."""
    asked, left = [], list(trained)
    mini = miniature(0, TINY)
    runs = {name: planned((stages or {}).get(name, 0.1)) for name in ("shapes-classifier", *ablation.STAGES)}
    learned = {name: [np.ones((6, 6, 4, 4), np.float32)] for name in ("upscore2", "upscore_pool4")}

    def train(net, solver, start, *, score=True, on_step=None):
        asked.append((net, solver, start))
        return planned(left.pop(0) if score else math.nan, solver.max_iter, learned)

    fake = SimpleNamespace(
        seed=0, net=mini.net, solver=mini.solver, iterations=mini.iterations, stage=runs.__getitem__, train=train
    )
    monkeypatch.setattr(ablation, "miniature", lambda seed, scale: fake)
    monkeypatch.setattr(ablation, "feature_sizes", lambda net, weights, blobs: dict.fromkeys(blobs, 2.0))
    return asked


def rows(result, words):
    return [row for row in result.rows if words in row.what]


@pytest.mark.parametrize(
    ("mean_ius", "verdict"),
    [((0.1, 0.2, 0.3, 0.4), HOLDS), ((0.1, 0.3, 0.2, 0.4), DIFFERS), ((0.1, 0.2, 0.3, 0.3), DIFFERS)],
)
def test_table2_asks_for_a_rise_at_each_step(monkeypatch, mean_ius, verdict):
    plan(monkeypatch, dict(zip(ablation.STAGES, mean_ius, strict=True)))
    result = table2()
    assert result.verdict == verdict and len(result.rows) == 16
    assert [row.value for row in rows(result, "mean IU")] == [pytest.approx(100 * one) for one in mean_ius]
    assert list(result.curves[0].lines) == ["FCN-32s-fixed", "FCN-32s", "FCN-16s", "FCN-8s"]


def test_learned_upsampling_may_change_little(monkeypatch):
    for learned, verdict in ((0.419, HOLDS), (0.381, HOLDS), (0.421, DIFFERS), (0.379, DIFFERS)):
        plan(monkeypatch, {"shapes-fcn8s": 0.4}, [learned])
        assert learned_upsampling().verdict == verdict


def test_upsampling_learns_but_for_the_last():
    net, layers = with_learned_upsampling(fcn("shapes-fcn8s"))
    rates = {layer.name: layer.param[0].lr_mult for layer in net.layer if layer.type == "Deconvolution"}
    assert rates == {"upscore2": 1, "upscore_pool4": 1, "upscore8": 0} and layers == ["upscore2", "upscore_pool4"]
    with pytest.raises(GraphError, match="nothing to learn"):
        with_learned_upsampling(fcn("shapes-fcn32s"))


def test_distance_from_bilinear():
    weight = np.zeros((3, 3, 4, 4), np.float32)
    weight[range(3), range(3)] = bilinear_kernel(4).numpy()
    assert distance_from_bilinear(weight) == (0, 0)
    size = np.linalg.norm(weight)
    assert distance_from_bilinear(2 * weight) == (pytest.approx(1), 0)
    weight[0, 1, 2, 2] = size / 2
    assert distance_from_bilinear(weight) == (pytest.approx(0.5), pytest.approx(0.5))


def test_at_once_may_differ_little(monkeypatch):
    for once, close in ((0.429, True), (0.371, True), (0.431, False), (0.369, False)):
        asked = plan(monkeypatch, {"shapes-fcn8s": 0.4}, [once])
        (row,) = rows(at_once(), "points")
        assert row.holds == close
    # As many iterations as the steps, then the first ones with skips of three sizes.
    assert [solver.max_iter for _, solver, _ in asked] == [12, 2, 2, 2]
    scales = [
        [layer.scale_param.filler.value for layer in net.layer if layer.name.startswith("scale_pool")]
        for net, _, _ in asked
    ]
    assert scales == [[1, 1], [1, 1], [], [pytest.approx(1e2), pytest.approx(1e4)]]


def test_scales_that_do_nothing_are_noticed(monkeypatch):
    plan(monkeypatch, {"shapes-fcn8s": 0.4}, [0.4])
    result = at_once()
    assert result.verdict == DIFFERS
    assert [row.what for row in result.rows if row.holds is False] == [
        "mean loss of the first 2 iterations, unscaled, as large as VGG's"
    ]


def test_nets_that_answer_one_class_are_no_comparison(monkeypatch):
    """Nothing was learned, so nothing differs: that is no verdict."""
    for mean_iu, verdict in ((0.16, DIFFERS), (0.17, HOLDS)):
        plan(monkeypatch, {"shapes-fcn8s": mean_iu}, [mean_iu, mean_iu])
        assert learned_upsampling().verdict == verdict
        plan(monkeypatch, {"shapes-fcn8s": mean_iu}, [mean_iu])
        assert {row.holds for row in rows(at_once(), "mean IU")} == {verdict == HOLDS}
        plan(monkeypatch, trained=[mean_iu, mean_iu])
        monkeypatch.setattr(augmentation, "miniature", ablation.miniature)
        assert augmentation.augmentation().verdict == verdict


def test_scaled_skips():
    plain = fcn("shapes-fcn8s")
    made = with_scaled_skips(plain, {4: 0.5, 3: 0.25})
    assert [layer.name for layer in made.layer if layer.name.startswith("scale_pool")] == ["scale_pool4", "scale_pool3"]
    one, other = Net(plain, TRAIN), Net(made, TRAIN)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, factor in (("score_pool4", 0.5), ("score_pool3", 0.25)):
            weight = torch.randn(one.params[name][0].shape, generator=generator)
            one.params[name][0].copy_(weight)
            other.params[name][0].copy_(weight / factor)
        for name, blobs in one.params.items():
            if not name.startswith("score_pool"):
                for blob, target in zip(blobs, other.params[name], strict=True):
                    target.copy_(blob)
        for net in (one, other):
            interp(net)
        scores = [net(keep=["score"])["score"] for net in (one, other)]
    assert scores[0].any() and torch.allclose(*scores, rtol=1e-4, atol=1e-4 * float(scores[0].abs().max()))
    assert not any(item.lr_mult for item in other.learnable_params if item.layer.startswith("scale_"))
    with pytest.raises(GraphError, match="no layer 'score_pool5'"):
        with_scaled_skips(plain, {5: 1})


@pytest.mark.parametrize(("mean_ius", "verdict"), [((0.3, 0.2, 0.1), HOLDS), ((0.3, 0.2, 0.2), DIFFERS)])
def test_pools_ask_for_a_fall(monkeypatch, mean_ius, verdict):
    plan(monkeypatch, None, mean_ius)
    result = pools()
    assert result.verdict == verdict
    assert [row.value for row in rows(result, "mean IU")] == [pytest.approx(100 * one) for one in mean_ius]


@pytest.mark.parametrize("pool", [5, 4, 3])
def test_a_pool_alone(pool):
    net = Net(pool_alone(pool), TRAIN)
    assert net.blob_shapes["score"][2:] == (SCENE, SCENE)
    assert {item.layer for item in net.learnable_params if item.lr_mult} == {f"score_pool{pool}"}
    assert f"conv{pool}_1" in net.params and not {f"conv{pool + 1}_1", "fc6", "score_fr"} & set(net.params)
    mini = miniature(0, TINY)
    start = mini.stage("shapes-fcn32s").weights
    begin(net, start)
    loss, _ = net.forward_loss()
    assert loss.item() == pytest.approx(math.log(6), rel=1e-5)
    run = mini.train(pool_alone(pool), mini.solver("shapes-fcn32s"), start, score=False)
    assert (run.weights["conv3_1"][0] == start["conv3_1"][0]).all() and run.weights[f"score_pool{pool}"][0].any()


def command(name, capsys):
    """What the command tells, really trained for a few iterations."""
    status = main([name, "--scale", str(TINY), "--seed", "0", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == name and status == (told["verdict"] != HOLDS)
    return told


def values(told, words):
    return [row["value"] for row in told["rows"] if words in row["what"]]


def test_table2_trained(capsys):
    told = command("table2", capsys)
    assert len(told["rows"]) == 16 and all(0 <= value <= 100 for value in values(told, "%"))


def test_learned_upsampling_trained(capsys):
    told = command("learned-upsampling", capsys)
    assert values(told, "before the first update") == [0]  # the same images from the same weights
    distances = values(told, "distance from bilinear")
    assert len(distances) == 2 and all(0 < one < 0.1 for one in distances)


def test_at_once_trained(capsys):
    told = command("at-once", capsys)
    first, whole = told["curves"]
    total = sum(len(miniature(0, TINY).stage(name).curve) for name in ablation.STAGES)
    assert len(whole["lines"]["at once, scaled skips"]) == total
    # Scores start at zero, so every pixel costs ln 6 whatever the skips are.
    assert [line[0][1] for line in first["lines"].values()] == pytest.approx([math.log(6)] * 3, rel=1e-5)
    assert all(value > 0 for value in values(told, "root mean square"))


def test_pools_trained_again_are_the_same(capsys):
    one, other = (command("pools", capsys) for _ in range(2))
    assert one["rows"] == other["rows"] and one["curves"] == other["curves"]
