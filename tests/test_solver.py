"""The solver against BVLC Caffe's own runs, and its loop, log, options and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import cases, draw, draw_all, load

from fcn_caffe.net import Net
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.solver import Solver

STATES = Path(__file__).parent / "golden" / "states"


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
