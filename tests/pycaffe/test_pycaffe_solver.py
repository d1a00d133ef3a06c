"""pycaffe's solvers: Caffe's own runs fed and read through blobs, and every method."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from helpers import input_layer, layer
from oracle import cases, draw, load
from places import GOLDEN

import fcn_caffe.pycaffe as caffe
import fcn_caffe.pycaffe.memory as memory_module

STATES = GOLDEN / "states"


@pytest.fixture(params=["one memory", "two memories"])
def memories(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two, arrays are copies that count as the newest once they are handed out, as they are of a GPU."""
    if request.param == "two memories":
        monkeypatch.setattr(memory_module, "can_be_array", lambda tensor: False)


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
def test_runs_equal_caffe(case: str, tmp_path: Path, memories: None) -> None:
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
def test_caffes_own_snapshots_continue(case: str, tmp_path: Path, memories: None) -> None:
    steps = len(load("solvers")[f"{case}/losses"])
    solver = golden_solver(case, tmp_path)
    solver.restore(str(STATES / f"{case}_iter_{steps // 2}.solverstate"))
    assert solver.iter == steps // 2
    feed(solver, case, steps // 2, steps)
    check_params(solver, case, "param")


# -- the methods --------------------------------------------------------------------------------------------------

NET = "\n".join(
    [
        input_layer("x", 4, 3),
        input_layer("y", 4, 1),
        layer("ip", "InnerProduct", "x", more="inner_product_param { num_output: 1 }"),
        layer("loss", "EuclideanLoss", "ip y"),
        layer("copy", "Power", "ip", more="include { phase: TEST }"),
    ]
)
OPTIONS = "base_lr: 0.1 lr_policy: 'step' gamma: 0.5 stepsize: 2 max_iter: 4 snapshot_after_train: false "


def make(folder: Path, more: str = "", kind: type[caffe.Solver] | None = None) -> caffe.Solver:
    (folder / "small.prototxt").write_text(NET)
    text = f'net: "{folder}/small.prototxt" snapshot_prefix: "{folder}/s" {OPTIONS} {more}'
    (folder / "small_solver.prototxt").write_text(text)
    path = str(folder / "small_solver.prototxt")
    solver = caffe.get_solver(path) if kind is None else kind(path)
    for net in (solver.net, *solver.test_nets):
        net.blobs["x"].data[...] = np.arange(12).reshape(4, 3) / 12
        net.blobs["y"].data[...] = 1
    return solver


def test_a_solver_tells_where_it_is(tmp_path: Path) -> None:
    solver = make(tmp_path)
    assert (solver.iter, solver.param.base_lr, solver.param.max_iter) == (0, pytest.approx(0.1), 4)
    rates = []
    for _ in range(4):
        rates.append(solver.lr)
        solver.step(1)
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05, 0.05])
    assert solver.iter == 4 and isinstance(solver.net, caffe.Net) and len(solver.test_nets) == 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (caffe.SGDSolver, "SGD"),
        (caffe.NesterovSolver, "Nesterov"),
        (caffe.AdaGradSolver, "AdaGrad"),
        (caffe.RMSPropSolver, "RMSProp"),
        (caffe.AdaDeltaSolver, "AdaDelta"),
        (caffe.AdamSolver, "Adam"),
    ],
)
def test_a_class_is_its_type_and_get_solver_the_files(kind: type[caffe.Solver], name: str, tmp_path: Path) -> None:
    solver = make(tmp_path, kind=kind)
    assert solver.param.type == solver.core.optimizer.type == name and isinstance(solver, caffe.Solver)
    assert type(make(tmp_path, f"type: '{name}'")) is kind
    solver.step(1)
    assert solver.net.params["ip"][0].data.any() and solver.net.params["ip"][0].diff.any()
    with pytest.raises(RuntimeError, match="Could not open file"):
        kind(str(tmp_path / "gone.prototxt"))


def test_gradients_come_between_the_callbacks(tmp_path: Path) -> None:
    solver = make(tmp_path, "iter_size: 2")
    calls: list[tuple[str, int, float]] = []
    bias = solver.net.params["ip"][1]

    def on_gradients() -> None:
        calls.append(("gradients", solver.iter, float(bias.diff[0])))
        bias.diff[...] = 0

    solver.add_callback(lambda: calls.append(("start", solver.iter, float(bias.diff[0]))), on_gradients)
    solver.step(2)
    assert [call[:2] for call in calls] == [("start", 0), ("gradients", 0), ("start", 1), ("gradients", 1)]
    assert calls[0][2] == calls[2][2] == 0 and calls[1][2] == -2
    assert bias.data.tolist() == [0] and solver.net.params["ip"][0].data.any()


def test_weights_written_between_steps_are_trained_on(tmp_path: Path) -> None:
    solver = make(tmp_path)
    weight = solver.net.params["ip"][0].data
    weight[...] = 0
    solver.net.params["ip"][1].data[...] = 1
    solver.step(1)
    assert float(solver.net.blobs["loss"].data) == 0 and not weight.any()
    solver.net.blobs["y"].data[...] = 3
    solver.step(1)
    assert float(solver.net.blobs["loss"].data) == 2 and weight.all()


def test_apply_update_is_an_update_alone(tmp_path: Path) -> None:
    solver = make(tmp_path)
    bias = solver.net.params["ip"][1]
    bias.diff[...] = 2
    solver.apply_update()
    assert bias.data[0] == pytest.approx(-0.2) and solver.iter == 0 and bias.diff[0] == pytest.approx(0.2)
    solver.net.clear_param_diffs()
    assert not bias.diff.any()


def test_solve_goes_to_the_end_and_on_from_a_state(tmp_path: Path) -> None:
    whole = make(tmp_path, "momentum: 0.9")
    whole.solve()
    assert whole.iter == 4
    part = make(tmp_path, "momentum: 0.9")
    part.step(2)
    assert part.snapshot() is None
    state = str(tmp_path / "s_iter_2.solverstate")
    assert (tmp_path / "s_iter_2.caffemodel").is_file()
    resumed, restored = (make(tmp_path, "momentum: 0.9") for _ in range(2))
    resumed.solve(state)
    restored.restore(state)
    assert restored.iter == 2
    restored.step(2)
    for solver in (resumed, restored):
        np.testing.assert_array_equal(solver.net.params["ip"][0].data, whole.net.params["ip"][0].data)
    with pytest.raises(RuntimeError, match="Could not open file"):
        resumed.restore(str(tmp_path / "gone.solverstate"))
    with pytest.raises(RuntimeError, match="Could not open file"):
        resumed.solve(str(tmp_path / "gone.solverstate"))


def test_test_nets_have_the_trained_weights_and_their_own_blobs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fcn_caffe.solver")
    solver = make(tmp_path, "test_iter: 2 test_interval: 2 test_compute_loss: true")
    (test_net,) = solver.test_nets
    assert np.shares_memory(test_net.params["ip"][0].data, solver.net.params["ip"][0].data)
    test_net.blobs["y"].data[...] = 2
    solver.step(3)
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "Testing net" in line] == [f"Iteration {n}, Testing net (#0)" for n in (0, 2)]
    assert "Test loss: 2" in lines and any("Test net output #4: loss = 2" in line for line in lines)
    test_net.share_with(solver.net)  # as the reference's score.py does
    test_net.forward()
    expected = test_net.blobs["x"].data @ solver.net.params["ip"][0].data.T + solver.net.params["ip"][1].data
    np.testing.assert_allclose(test_net.blobs["copy"].data, expected, rtol=1e-5)


def test_another_net_shares_a_solvers_weights(tmp_path: Path) -> None:
    solver = make(tmp_path)
    net = caffe.Net(str(tmp_path / "small.prototxt"), caffe.TEST)
    solver.share_weights(net)
    solver.step(1)
    assert np.shares_memory(net.params["ip"][0].data, solver.net.params["ip"][0].data)


def test_held_diffs_show_the_update(tmp_path: Path) -> None:
    solver = make(tmp_path, "momentum: 0.9")
    weight = solver.net.params["ip"][0]
    data, diff = weight.data, weight.diff
    before = data.copy()
    solver.step(1)
    np.testing.assert_allclose(before - diff, data, rtol=1e-6)
    assert np.shares_memory(diff, weight.diff) and diff.any()


def test_display_lines_come_from_the_blobs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fcn_caffe.solver")
    make(tmp_path, "display: 2").solve()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("Train net output #0: loss = " in line for line in lines) == 2
    assert lines[-1] == "Optimization Done." and lines[-2].startswith("Iteration 4, loss = ")


def test_solvers_that_share_weights_train_one_set(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    second.share_weights(first.net)
    before = second.net.params["ip"][0].data.copy()
    first.step(1)
    assert np.array_equal(first.net.params["ip"][0].data, second.net.params["ip"][0].data)
    assert not np.array_equal(before, second.net.params["ip"][0].data)
    with pytest.raises(TypeError, match="a caffe solver is neither copied nor pickled"):
        copy.deepcopy(first)
