"""What a rate means under a normalisation: the numbers, and that training with the equivalent is the same training."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import pytest
import torch
from helpers import layer
from places import ROOT

from fcn_caffe import GraphError, SolverError
from fcn_caffe.commands.explain_lr import main
from fcn_caffe.doctor.findings import NOTE
from fcn_caffe.doctor.learning_rate import explain
from fcn_caffe.doctor.learning_rate_table import compare
from fcn_caffe.models import RECIPES
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver

VALID, FULL, BATCH_SIZE, NONE = (
    "normalization: VALID, or normalize: true",
    "normalization: FULL",
    "normalization: BATCH_SIZE, or normalize: false",
    "normalization: NONE",
)


def data(images=2, side=6):
    filled = 'data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 }'
    shapes = f"shape {{ dim: {images} dim: 2 dim: {side} dim: {side} }} shape {{ dim: {images} dim: {side * side} }}"
    return layer("data", "DummyData", "", "data label", f"dummy_data_param {{ {filled} {shapes} }}")


SCORE = layer("score", "Convolution", "data", more="convolution_param { num_output: 3 kernel_size: 1 }")


def loss(options="", name="loss", kind="SoftmaxWithLoss", more=""):
    return layer(name, kind, "score label", name, f"loss_param {{ {options} }} {more}" if options else more)


def solver_text(*layers, lr=1e-3, momentum=0.9, decay=0.01, iter_size=2, more=""):
    return (
        f"net_param {{ {' '.join(layers)} }} base_lr: {lr!r} momentum: {momentum} weight_decay: {decay!r} "
        f'iter_size: {iter_size} lr_policy: "fixed" max_iter: 9 random_seed: 3 {more}'
    )


@pytest.fixture
def told(tmp_path):
    def explained(*layers, **options):
        path = tmp_path / "solver.prototxt"
        path.write_text(solver_text(*layers, **options))
        return explain(path)

    return explained


@pytest.mark.parametrize(
    ("options", "words", "divisor"),
    [
        ("", VALID, 72),
        ("normalize: true", VALID, 72),
        ("normalize: false", BATCH_SIZE, 2),
        ("normalization: FULL", FULL, 72),
        ("normalization: NONE", NONE, 1),
        ("normalization: BATCH_SIZE normalize: true", BATCH_SIZE, 2),
    ],
)
def test_normaliser_and_its_equivalents(told, options, words, divisor):
    found = told(data(), SCORE, loss(options))
    (one,) = found.losses
    assert (one.normalisation, one.divisor, one.images, one.pixels) == (words, divisor, 2, 36)
    assert one.at_start == pytest.approx(log(3)) and one.shown == pytest.approx(log(3) * 72 / divisor)
    assert found.factor == pytest.approx(10) and one.acts == pytest.approx(1e-3 * 72 / divisor)
    for name, size in ((VALID, 72), (FULL, 72), (BATCH_SIZE, 2), (NONE, 1)):
        assert one.equivalents[name].base_lr == pytest.approx(1e-3 * size / divisor)
        assert one.equivalents[name].weight_decay == pytest.approx(1e-2 * divisor / size)
    assert "  (as it is)" in next(line for line in str(found).splitlines() if line.strip().startswith(words + " "))


def trained(options, lr, decay, clip=-1):
    text = solver_text(data(), SCORE, loss(options), lr=lr, decay=decay, more=f"clip_gradients: {clip!r}")
    solver = Solver(parse_text(text, caffe_pb2.SolverParameter))
    with torch.no_grad():  # from weights that decay can pull at
        solver.net.params["score"][0].copy_(torch.linspace(-1, 1, 6).reshape(3, 2, 1, 1))
    solver.step(6)
    return solver.net.params["score"]


@pytest.mark.parametrize("words", [BATCH_SIZE, NONE, FULL])
def test_training_with_the_equivalent_is_the_same(told, words):
    same = told(data(), SCORE, loss("normalize: true"), lr=0.05).losses[0].equivalents[words]
    wanted = trained("normalize: true", 0.05, 0.01)
    found = trained(words.split(",")[0], same.base_lr, same.weight_decay)
    other = trained(words.split(",")[0], 0.05 if words != FULL else 0.04, 0.01)
    for index, blob in enumerate(wanted):
        assert torch.allclose(found[index], blob, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(other[index], blob, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("words", [BATCH_SIZE, NONE])
def test_clipped_training_with_the_equivalent_is_the_same(told, words):
    said = told(data(), SCORE, loss("normalize: true"), lr=0.05, more="clip_gradients: 0.1")
    same = said.losses[0].equivalents[words]
    assert f"clip_gradients: {same.clip_gradients:g}" in str(said)
    wanted = trained("normalize: true", 0.05, 0.01, 0.1)
    found = trained(words.split(",")[0], same.base_lr, same.weight_decay, same.clip_gradients)
    other = trained(words.split(",")[0], same.base_lr, same.weight_decay)
    for index, blob in enumerate(wanted):
        assert torch.allclose(found[index], blob, rtol=1e-4, atol=1e-6)
        assert not torch.allclose(other[index], blob, rtol=1e-3, atol=1e-4)


def test_the_log_begins_where_it_is_said_to(told):
    one = told(data(), SCORE, loss("normalize: false")).losses[0]
    solver = Solver(
        parse_text(solver_text(data(), SCORE, loss("normalize: false")), caffe_pb2.SolverParameter)
    )  # score starts at zero
    assert solver.net.forward_loss()[0].item() == pytest.approx(one.shown, rel=1e-5)


def test_both_papers_regimes():
    heavy, text = (explain(ROOT / f"solvers/{name}-fcn32s.prototxt", (500, 400)) for name in ("voc", "cvpr"))
    assert (heavy.factor, text.factor) == (pytest.approx(100), pytest.approx(10))
    assert (heavy.losses[0].divisor, text.losses[0].divisor) == (1, 200000)
    assert heavy.losses[0].equivalents[VALID].base_lr == pytest.approx(2e-5)
    assert text.losses[0].equivalents[BATCH_SIZE].base_lr == pytest.approx(5e-10)
    assert (heavy.iter_size, text.iter_size) == (1, 20)


@pytest.mark.parametrize("name", RECIPES)
def test_every_rate_of_ours_fits_its_normalisation(name):
    found = explain(ROOT / f"solvers/{name}.prototxt", (60, 80))
    assert len(found.losses) == len(RECIPES[name].heads)
    assert not [line for line in found.warnings if not line.startswith(NOTE)]


@pytest.mark.parametrize(("lr", "options"), [(1e-10, "normalize: true"), (1, "normalize: false")])
def test_a_rate_that_does_not_fit_is_an_error(tmp_path, capsys, lr, options):
    path = tmp_path / "solver.prototxt"
    path.write_text(solver_text(data(), SCORE, loss(options), lr=lr))
    assert main([str(path)]) == 1
    assert f"error: {path}, layer 'loss'" in capsys.readouterr().out


def test_two_losses_weights_and_void(told):
    found = told(
        data(),
        SCORE,
        loss("ignore_label: 255"),
        loss("normalize: false", "more", more="loss_weight: 0.5"),
        loss(name="unweighted", more="loss_weight: 0"),
    )
    assert [one.layer for one in found.losses] == ["loss", "more"]
    assert found.losses[1].acts == pytest.approx(1e-3 * 0.5 * 36)
    said = str(found)
    assert "at most 72, the pixels" in said and "label 255 is void" in said and "loss_weight: 0.5" in said
    assert "note: layer 'more': the loss sums over pixels" in said and "layer 'loss': the loss sums" not in said


def test_other_losses(told):
    target = layer("euclid", "EuclideanLoss", "score score2")
    twin = SCORE.replace('"score"', '"score2"')
    (one,) = told(data(), SCORE, twin, target).losses
    assert (one.divisor, one.at_start, one.equivalents) == (2, None, {})
    binary = layer(
        "binary", "SigmoidCrossEntropyLoss", "score score2", more="propagate_down: true propagate_down: false"
    )
    (one,) = told(data(), SCORE, twin, binary).losses
    assert (one.normalisation, one.pixels) == (BATCH_SIZE, 108) and one.at_start == pytest.approx(log(2))
    reduced = layer("sum", "Reduction", "score", more="loss_weight: 1")
    found = told(data(), SCORE, reduced)
    assert not found.losses and "layer 'sum' (Reduction): how it is normalised is not known" in str(found)


@pytest.mark.parametrize("rule", ["Adam", "AdaDelta"])
def test_rules_with_a_scale_of_their_own(told, rule):
    said = str(told(data(), SCORE, loss(), more=f'type: "{rule}" momentum2: 0.999'))
    assert f"{rule} scales each step" in said and "same steps with another" not in said and "again" not in said


def test_what_cannot_be_explained(told, tmp_path, capsys):
    with pytest.raises(SolverError, match="no loss"):
        told(data(), SCORE)
    with pytest.raises(GraphError):
        told(SCORE, loss())
    assert main([str(ROOT / "nets/voc-fcn32s.prototxt")]) == 1
    assert "is a net, which has no rate" in capsys.readouterr().err


def test_json(tmp_path, capsys):
    path = tmp_path / "solver.prototxt"
    path.write_text(solver_text(data(), SCORE, loss()))
    assert main([str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (one,) = record["losses"]
    assert (
        one["pixels"] == 36 and one["steps"] == pytest.approx(0.01) and record["momentum_factor"] == pytest.approx(10)
    )
    path.write_text(solver_text(data(), SCORE, loss(), momentum=1))
    assert main([str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["momentum_factor"] is None
    assert main([str(ROOT / "solvers/cvpr-fcn16s.prototxt"), "--size", "60x80"]) == 0
    assert "built for 1x3x60x80" in capsys.readouterr().out


PAIR = [str(ROOT / f"solvers/{name}-fcn32s.prototxt") for name in ("voc", "cvpr")]


def side_by_side(*arguments, capsys, status=0):
    assert main([*arguments, "--json"]) == status
    record = json.loads(capsys.readouterr().out)
    return record["solvers"], {line["what"]: line["values"] for line in record["side_by_side"]}


def test_two_regimes_side_by_side(capsys):
    solvers, lines = side_by_side(*PAIR, "--size", "500x400", capsys=capsys)
    assert [solver["solver"] for solver in solvers] == PAIR
    assert lines["images a step"] == [1, 20] and lines["normaliser of a pass"] == [1, 200000]
    assert lines["momentum factor, 1 / (1 - momentum)"] == pytest.approx([100, 10])
    assert lines["rate for a loss averaged over positions"] == pytest.approx([2e-5, 1e-4])
    assert lines["weight_decay beside it"] == pytest.approx([2.5e-9, 5e-4])
    assert lines["that rate x momentum factor"] == pytest.approx([2e-3, 1e-3])
    assert lines["step, beside the first's"] == pytest.approx([1, 0.5], rel=1e-5)
    assert lines["step an image, beside the first's"] == pytest.approx([1, 0.025], rel=1e-5)
    for index, solver in enumerate(solvers):  # the table says what each says alone
        assert solver["losses"][0]["acts"] == lines["rate for a loss averaged over positions"][index]


def test_the_table_in_print(capsys):
    assert main([*PAIR, PAIR[0], "--size", "60x80"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == [*PAIR, PAIR[0]]
    row = next(line for line in said if line.startswith("step, beside"))
    # 1e-4 / 10 of the momenta, against 1e-10 times 4800 positions.
    assert [float(value) for value in row.split()[-3:]] == pytest.approx([1, 1e-5 / 4.8e-7, 1], rel=1e-5)
    assert sum(line.startswith(f"{PAIR[0]}: note: layer 'loss'") for line in said) == 2
    assert said[0].index(PAIR[1]) == said[1].index("SGD", said[0].index(PAIR[0]) + 3)  # under its solver


def written(path, *layers, **options):
    path.write_text(solver_text(*layers, **options))
    return str(path)


def test_side_by_side_predicts_the_steps_ratio(tmp_path):
    """Without momentum and decay one step is the rate times the gradient: the ratio is seen in the weights."""
    layers = data(), SCORE
    options = {"momentum": 0, "decay": 0, "iter_size": 1}
    one = written(tmp_path / "one.prototxt", *layers, loss("normalize: false"), lr=1e-4, **options)
    two = written(tmp_path / "two.prototxt", *layers, loss("normalize: true"), lr=3e-3, **options)
    lines = {line.what: line.values for line in compare([explain(one), explain(two)]).lines}
    moved = []
    for path in (one, two):
        solver = Solver(parse_text(Path(path).read_text(), caffe_pb2.SolverParameter))
        solver.step(1)  # score starts at zero
        moved.append(solver.net.params["score"][0].detach().norm().item())
    assert lines["step, beside the first's"][1] == pytest.approx(moved[1] / moved[0], rel=1e-4)
    assert lines["step, beside the first's"][1] == pytest.approx(3e-3 / 36e-4)


def test_losses_are_matched_by_name(tmp_path, capsys):
    one = written(tmp_path / "one.prototxt", data(), SCORE, loss(), loss("normalize: false", "more"))
    two = written(tmp_path / "two.prototxt", data(), SCORE, loss(name="more"))
    _, lines = side_by_side(one, two, capsys=capsys)
    assert lines["loss: normaliser of a pass"] == [72, None] and lines["more: normaliser of a pass"] == [2, 72]
    assert lines["loss: step, beside the first's"] == [1, None]
    _, lines = side_by_side(two, written(tmp_path / "three.prototxt", data(), SCORE, loss()), capsys=capsys)
    assert lines["loss"] == ["more (SoftmaxWithLoss)", "loss (SoftmaxWithLoss)"]  # the only one of each


def test_what_has_no_ratio(tmp_path, capsys):
    plain = written(tmp_path / "plain.prototxt", data(), SCORE, loss())
    adam = written(tmp_path / "adam.prototxt", data(), SCORE, loss(), more='type: "Adam" momentum2: 0.999')
    _, lines = side_by_side(plain, adam, capsys=capsys)
    assert lines["step, beside the first's"] == [1, None] and lines["weight_decay beside it"][1] is None
    endless = written(tmp_path / "endless.prototxt", data(), SCORE, loss(), momentum=1)
    _, lines = side_by_side(endless, plain, capsys=capsys, status=1)
    assert lines["step, beside the first's"] == [None, None] and lines["that rate x momentum factor"][0] is None
    reduced = layer("sum", "Reduction", "score", more="loss_weight: 1")
    _, lines = side_by_side(plain, written(tmp_path / "r.prototxt", data(), SCORE, reduced), capsys=capsys)
    assert lines["losses of unknown normalisation"] == [None, "layer 'sum' (Reduction)"]
    with pytest.raises(ValueError, match="two solvers or more"):
        compare([explain(plain)])
    assert main([plain, str(tmp_path / "gone.prototxt")]) == 1
    assert "gone.prototxt" in capsys.readouterr().err
