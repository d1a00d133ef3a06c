"""The solver against BVLC Caffe's own runs, and its loop, log, options and refusals."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training_run
from oracle import cases, draw, draw_all, load
from places import GOLDEN

from fcn_caffe import SolverError
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import GlogFormatter, Solver
from fcn_caffe.weights.transfer import net_weights, save_weights

STATES = GOLDEN / "states"


def golden_solver(case: str) -> Solver:
    data = load("solvers")
    param = parse_text(str(data[f"{case}/solver"]), caffe_pb2.SolverParameter)
    param.train_net_param.CopyFrom(parse_text(str(data[f"{case}/net"]), caffe_pb2.NetParameter))
    solver = Solver(param, device="cpu")
    draw_all(solver.net)
    return solver


def feed(solver: Solver, case: str, first: int, last: int) -> list[float]:
    """Steps first to last - 1 with the oracle's inputs; the `loss` blob after each step."""
    data = load("solvers")
    losses: list[float] = []
    with_outputs = solver.net.forward_loss

    def remember(inputs=None, keep=()):
        loss, blobs = with_outputs(inputs, keep)
        losses.append(float(blobs["loss"].detach()))
        return loss, blobs

    solver.net.forward_loss = remember
    found = []
    for step in range(first, last):
        for name in ("data", "label"):
            solver.net.inputs[name] = torch.from_numpy(data[f"{case}/input/{name}"][step])
        solver.step(1)
        found.append(losses[-1])
    del solver.net.forward_loss
    return found


def check_params(net: Net, case: str, key: str) -> None:
    """Every parameter within 1e-5 of its own change since the start."""
    data = load("solvers")
    checked = 0
    for name, expected in data.items():
        if name.startswith(f"{case}/{key}/"):
            layer, index = name.removeprefix(f"{case}/{key}/").rsplit("/", 1)
            node = next(node for node in net.graph.nodes if node.name == layer)
            start = draw(layer, node.type, int(index), expected.shape)
            change = np.abs(expected - start).max()
            off = np.abs(net.params[layer][int(index)].detach().numpy() - expected).max()
            # A float's own resolution is the floor: a change of 1e-6 cannot be seen to 1e-5 of itself.
            assert off <= 1e-5 * change + 2e-7 * np.abs(expected).max(), (
                f"{name}: off by {off:.3g}, change {change:.3g}"
            )
            checked += 1
    assert checked == 5


@pytest.mark.parametrize("case", cases("solvers"))
def test_runs_equal_caffe(case: str) -> None:
    solver = golden_solver(case)
    losses = load("solvers")[f"{case}/losses"]
    half = len(losses) // 2
    found = feed(solver, case, 0, half)
    check_params(solver.net, case, "param_half")
    found += feed(solver, case, half, len(losses))
    check_params(solver.net, case, "param")
    np.testing.assert_allclose(found, losses, rtol=2e-5)


@pytest.mark.parametrize("case", ["sgd_heavy", "sgd_multistep", "adam", "adadelta"])
def test_caffes_own_snapshots_continue(case: str, caplog: pytest.LogCaptureFixture) -> None:
    steps = len(load("solvers")[f"{case}/losses"])
    solver = golden_solver(case)
    solver.restore(STATES / f"{case}_iter_{steps // 2}.solverstate")
    assert solver.iter == steps // 2
    assert "data order and dropout start anew" in caplog.text
    feed(solver, case, steps // 2, steps)
    check_params(solver.net, case, "param")


# -- the loop ----------------------------------------------------------------------------------------------------


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "fcn_caffe.solver"]


NUMBER = r"[-+.e\d]+"


def test_solve_logs_in_caffes_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    solver = training_run.solver(tmp_path, "snapshot: 3", max_iter=4)
    caplog.set_level(logging.INFO, "fcn_caffe.solver")
    solver.solve()
    display = [
        rf"Iteration %d \({NUMBER} iter/s, {NUMBER}s/2 iters\), loss = {NUMBER}",
        rf"    Train net output #0: loss = {NUMBER} \(\* 2 = {NUMBER} loss\)",
        "Iteration %d, lr = %s",
    ]
    test = [
        "Iteration %d, Testing net \\(#0\\)",
        rf"    Test net output #0: accuracy = {NUMBER}",
        rf"    Test net output #1: loss = {NUMBER} \(\* 2 = {NUMBER} loss\)",
    ]

    def snapshot(iteration: int) -> list[str]:
        prefix = re.escape(str(tmp_path / f"out/run_iter_{iteration}"))
        return [
            f"Snapshotting to binary proto file {prefix}.caffemodel",
            f"Snapshotting solver state to binary proto file {prefix}.solverstate",
        ]

    def at(iteration: int, patterns: list[str], rate: str = "") -> list[str]:
        return [p.replace("%d", str(iteration)).replace("%s", re.escape(rate)) for p in patterns]

    expected = [
        "Solving tiny",
        "Learning Rate Policy: multistep",
        *at(0, test),
        *at(0, display, "0.05"),
        *at(2, display[:2]),
        "MultiStep Status: Iteration 2, step = 1",
        *at(2, display[2:], "0.025"),
        *snapshot(3),
        *at(3, test),
        *snapshot(4),
        rf"Iteration 4, loss = {NUMBER}",
        "Optimization Done.",
    ]
    found = lines(caplog)
    assert len(found) == len(expected), found
    for line, pattern in zip(found, expected, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"


def test_glog_lines_are_read_by_caffes_parser() -> None:
    """The expressions of tools/extra/parse_log.py and the columns it takes the time from."""
    record = logging.LogRecord("x", logging.INFO, "solver.py", 1, "Iteration %d, lr = 0.01", (20,), None)
    record.place = "sgd_solver.cpp:112"
    line = GlogFormatter().format(record)
    assert re.fullmatch(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ sgd_solver\.cpp:112\] Iteration 20, lr = 0\.01", line)
    found = re.search(r"Iteration (\d+)", line)
    assert found is not None and float(found.group(1)) == 20
    rate = re.search(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)", line)
    assert rate is not None and float(rate.group(1)) == 0.01
    columns = line.split()
    assert len(columns[0]) == 5 and len(columns[1].split(":")) == 3
    warning = logging.LogRecord("x", logging.WARNING, "solver.py", 1, "x", (), None)
    assert GlogFormatter().format(warning).startswith("W")


def test_lines_go_to_stderr_when_logging_is_not_set_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("fcn_caffe.solver")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [])
    training_run.solver(tmp_path).step(1)
    assert re.search(r"^I\d{4} .* solver\.cpp:239\] Iteration 0 \(", capsys.readouterr().err, re.MULTILINE)


def test_smoothed_loss_is_over_a_window_that_each_step_call_begins(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path)
    losses: list[float] = []
    seen: list[float] = []
    solver.on_step.append(lambda solver: (losses.append(solver.loss), seen.append(solver.smoothed_loss))[0])
    solver.step(5)
    solver.step(2)
    expected = [np.mean(losses[max(0, i - 2) : i + 1]) for i in range(5)] + [losses[5], np.mean(losses[5:7])]
    np.testing.assert_allclose(seen, expected, rtol=1e-12)


def test_display_comes_before_the_update(tmp_path: Path) -> None:
    """The lr displayed at iteration 2 is that of the step, and nothing has moved yet."""
    solver = training_run.solver(tmp_path)
    seen: list[Any] = []
    solver.on_display.append(lambda solver, _: seen.append((solver.iter, solver.rate)))
    first = net_weights(solver.net)["c1"][0].copy()
    unmoved: list[bool] = []
    solver.on_display.append(lambda solver, _: unmoved.append(np.array_equal(net_weights(solver.net)["c1"][0], first)))
    solver.step(3)
    assert [(iteration, pytest.approx(rate)) for iteration, rate in seen] == [(0, 0.05), (2, 0.025)]
    assert unmoved == [True, False]


def test_iter_size_gives_the_mean_loss_and_gradient(tmp_path: Path) -> None:
    """Two passes over one image are one pass over it, in loss and in update."""
    text = (
        'layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'
        'layer { name: "t" type: "Input" top: "y" input_param { shape { dim: 2 dim: 1 } } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "s" inner_product_param { num_output: 2 '
        'weight_filler { type: "xavier" } } }'
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "s" bottom: "y" top: "l" }'
    )
    found = []
    for size in (1, 2):
        param = parse_text(
            f'base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 random_seed: 1 iter_size: {size}', caffe_pb2.SolverParameter
        )
        param.net_param.CopyFrom(parse_text(text, caffe_pb2.NetParameter))
        solver = Solver(param, device="cpu")
        solver.net.inputs.update(x=torch.arange(6.0).reshape(2, 3), y=torch.tensor([[0.0], [1.0]]))
        solver.step(3)
        found.append((solver.loss, net_weights(solver.net)["ip"][0].copy()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)


def test_test_nets_share_weights_and_give_means(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path, "test_compute_loss: true")
    assert solver.test_nets[0].params["c1"][0] is solver.net.params["c1"][0]
    solver.step(4)
    assert solver.test_nets[0].params["c1"][0] is solver.net.params["c1"][0]
    state = solver.test_nets[0].data_state()
    found = solver.test(0)
    solver.test_nets[0].load_data_state(state)
    with torch.no_grad():
        each = [solver.test_nets[0]() for _ in range(2)]
    for name in ("loss", "accuracy"):
        assert found[name] == pytest.approx(float(each[0][name] + each[1][name]) / 2, rel=1e-6)
    with pytest.raises(SolverError, match="test net 1 is not there: the solver has 1"):
        solver.test(1)


def test_a_loss_that_is_not_finite_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    solver = training_run.solver(tmp_path)
    solver.step(1)
    with torch.no_grad():
        solver.net.params["score"][0].fill_(float("nan"))
    solver.step(3)
    told = [line for line in lines(caplog) if "loss is nan" in line]
    assert told == ["Iteration 1: loss is nan. Training goes on; lower base_lr if this stays."]
    assert solver.iter == 4


def test_weights_are_applied_to_both_nets(tmp_path: Path) -> None:
    first = training_run.solver(tmp_path)
    arrays = net_weights(first.net)
    save_weights(tmp_path / "a.caffemodel", {"c1": [array + 1 for array in arrays["c1"]]})
    save_weights(tmp_path / "b.caffemodel", {"score": [array + 2 for array in arrays["score"]], "other": arrays["c1"]})
    solver = training_run.solver(tmp_path, 'weights: "a.caffemodel, b.caffemodel"')
    np.testing.assert_array_equal(net_weights(solver.net)["c1"][0], arrays["c1"][0] + 1)
    np.testing.assert_array_equal(net_weights(solver.test_nets[0])["score"][1], arrays["score"][1] + 2)


def test_random_seed_decides_everything(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        solver = training_run.solver(tmp_path)
        solver.step(3)
        runs.append(net_weights(solver.net)["c1"][0].copy())
    np.testing.assert_array_equal(*runs)
