"""pycaffe's solvers: Caffe's own runs fed and read through blobs, and every method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracle import cases, draw, load

import fcn_caffe.pycaffe as caffe

STATES = Path(__file__).parent / "golden" / "states"


def golden_solver(case: str, folder: Path) -> caffe.Solver:
    data = load("solvers")
    (folder / "net.prototxt").write_text(str(data[f"{case}/net"]))
    (folder / "solver.prototxt").write_text(f'{data[f"{case}/solver"]}\ntrain_net: "{folder}/net.prototxt"')
    solver = caffe.get_solver(str(folder / "solver.prototxt"))
    for name, blobs in solver.net.params.items():
        for index, blob in enumerate(blobs):
            blob.data[...] = draw(name, solver.net.layer_dict[name].type, index, tuple(blob.shape))
    return solver


def feed(solver: caffe.Solver, case: str, first: int, last: int) -> list[float]:
    """Steps first to last - 1 with the oracle's inputs; the `loss` blob after each step."""
    data = load("solvers")
    losses = []
    for step in range(first, last):
        for name in ("data", "label"):
            solver.net.blobs[name].data[...] = data[f"{case}/input/{name}"][step]
        solver.step(1)
        losses.append(float(solver.net.blobs["loss"].data))
    return losses


def check_params(solver: caffe.Solver, case: str, key: str) -> None:
    """Every parameter within 1e-5 of its own change since the start."""
    checked = 0
    for name, expected in load("solvers").items():
        if name.startswith(f"{case}/{key}/"):
            layer, index = name.removeprefix(f"{case}/{key}/").rsplit("/", 1)
            start = draw(layer, solver.net.layer_dict[layer].type, int(index), expected.shape)
            off = np.abs(solver.net.params[layer][int(index)].data - expected).max()
            assert off <= 1e-5 * np.abs(expected - start).max() + 2e-7 * np.abs(expected).max(), name
            checked += 1
    assert checked == 5


@pytest.mark.parametrize("case", cases("solvers"))
def test_runs_equal_caffe(case: str, tmp_path: Path) -> None:
    solver = golden_solver(case, tmp_path)
    losses = load("solvers")[f"{case}/losses"]
    half = len(losses) // 2
    found = feed(solver, case, 0, half)
    check_params(solver, case, "param_half")
    before = {name: [blob.data.copy() for blob in blobs] for name, blobs in solver.net.params.items()}
    found += feed(solver, case, half, half + 1)
    for name, blobs in solver.net.params.items():
        for blob, was in zip(blobs, before[name], strict=True):
            # After an update a diff is what was taken away.
            np.testing.assert_allclose(was - blob.diff, blob.data, rtol=1e-5, atol=1e-6 * np.abs(was).max())
    found += feed(solver, case, half + 1, len(losses))
    check_params(solver, case, "param")
    np.testing.assert_allclose(found, losses, rtol=2e-5)


@pytest.mark.parametrize("case", ["sgd_heavy", "sgd_multistep", "adam", "adadelta"])
def test_caffes_own_snapshots_continue(case: str, tmp_path: Path) -> None:
    steps = len(load("solvers")[f"{case}/losses"])
    solver = golden_solver(case, tmp_path)
    solver.restore(str(STATES / f"{case}_iter_{steps // 2}.solverstate"))
    assert solver.iter == steps // 2
    feed(solver, case, steps // 2, steps)
    check_params(solver, case, "param")
