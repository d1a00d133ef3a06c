"""Snapshots: whole under every failure tried, and training resumed from one equal to the bit."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import training_run
from places import ROOT

from fcn_caffe import DataError, SolverError, WeightsError
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.training.solver import Solver
from fcn_caffe.weights.transfer import load_weights, save_weights


@pytest.fixture
def solver(tmp_path: Path) -> Solver:
    return training_run.solver(tmp_path)


def everything(solver: Solver) -> list[np.ndarray]:
    """Parameters and histories, copied."""
    found = [blob.detach().numpy().copy() for blobs in solver.net.params.values() for blob in blobs]
    for item in solver.net.learnable_params:
        if item.lr_mult:
            found += [history.numpy().copy() for history in solver.optimizer.history(item.blob)]
    return found


def equal(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


# -- what is written ---------------------------------------------------------------------------------------------


def test_files_and_contents(solver: Solver, tmp_path: Path) -> None:
    solver.step(6)
    state = solver.snapshot()
    assert state == tmp_path / "out/run_iter_6.solverstate"
    assert sorted(os.listdir(tmp_path / "out")) == [
        "run_iter_6.caffemodel",
        "run_iter_6.rngstate",
        "run_iter_6.solverstate",
    ]
    # Read by protobuf itself, as Caffe would.
    message = caffe_pb2.SolverState.FromString(state.read_bytes())
    assert (message.iter, message.current_step) == (6, 2)
    assert message.learned_net == str(tmp_path / "out/run_iter_6.caffemodel")
    assert [tuple(blob.shape.dim) for blob in message.history] == [
        tuple(item.blob.shape) for item in solver.net.learnable_params
    ]
    frozen = [index for index, item in enumerate(solver.net.learnable_params) if not item.lr_mult]
    assert frozen and all(not np.any(message.history[index].data) for index in frozen)
    assert any(message.history[0].data)
    net = caffe_pb2.NetParameter.FromString((tmp_path / "out/run_iter_6.caffemodel").read_bytes())
    assert (net.name, [(layer.name, layer.type) for layer in net.layer]) == (
        "tiny",
        [("c1", "Convolution"), ("frozen", "Convolution"), ("score", "Convolution")],
    )


def test_two_histories_are_stored_one_after_the_other(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path, 'type: "Adam"')
    solver.step(2)
    message = caffe_pb2.SolverState.FromString(solver.snapshot().read_bytes())
    learnable = solver.net.learnable_params
    assert len(message.history) == 2 * len(learnable)
    second = np.array(message.history[len(learnable)].data, np.float32)
    np.testing.assert_array_equal(second, solver.optimizer.history(learnable[0].blob)[1].numpy().ravel())


def test_snapshot_before_the_first_step(solver: Solver, tmp_path: Path) -> None:
    state = solver.snapshot()
    other = training_run.solver(tmp_path)
    other.restore(state)
    assert other.iter == 0


# -- going on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "AdaDelta", "Adam"])
def test_resumed_equals_uninterrupted(tmp_path: Path, rule: str, form: str) -> None:
    more = f'type: "{rule}" iter_size: 2 snapshot_format: {form}'
    whole = training_run.solver(tmp_path, more)
    whole.step(8)
    first = training_run.solver(tmp_path, more)
    first.step(4)
    state = first.snapshot()
    # Whatever the process did with random numbers in between does not matter.
    torch.rand(3)
    second = training_run.solver(tmp_path, more)
    second.restore(state)
    second.step(4)
    assert second.iter == 8
    assert equal(everything(second), everything(whole))
    assert second.loss == whole.loss and second.rate == whole.rate


def test_dropout_and_order_matter_here(tmp_path: Path) -> None:
    """Without the random states the resumed run differs: the test above can fail."""
    whole = training_run.solver(tmp_path)
    whole.step(8)
    first = training_run.solver(tmp_path)
    first.step(4)
    state = first.snapshot()
    states = json.loads(state.with_suffix(".rngstate").read_text())
    for missing in ("torch", "data"):
        changed = dict(states, **{missing: json.loads(json.dumps(states[missing]))})
        fresh_solver = training_run.solver(tmp_path)
        begun = fresh_solver.snapshot()  # of iteration 0: the random states at the start
        changed[missing] = json.loads(begun.with_suffix(".rngstate").read_text())[missing]
        state.with_suffix(".rngstate").write_text(json.dumps(changed))
        fresh_solver.restore(state)
        fresh_solver.step(4)
        assert not equal(everything(fresh_solver), everything(whole)), missing


def test_a_snapshot_can_be_moved(solver: Solver, tmp_path: Path) -> None:
    solver.step(2)
    solver.snapshot()
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    other = training_run.solver(tmp_path)
    other.restore(tmp_path / "elsewhere/run_iter_2.solverstate")
    assert equal(everything(other), everything(solver))


def test_hdf5_files_log_and_moving(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    solver = training_run.solver(tmp_path, "snapshot_format: HDF5")
    solver.step(6)
    prefix = tmp_path / "out/run_iter_6"
    with caplog.at_level("INFO"):
        assert solver.snapshot() == Path(f"{prefix}.solverstate.h5")
    names = ["run_iter_6.caffemodel.h5", "run_iter_6.rngstate", "run_iter_6.solverstate.h5"]
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert f"Snapshotting to HDF5 file {prefix}.caffemodel.h5" in caplog.text
    assert f"Snapshotting solver state to HDF5 file {prefix}.solverstate.h5" in caplog.text
    with h5py.File(f"{prefix}.solverstate.h5") as file:
        assert (file["iter"][:], file["current_step"][:]) == ([6], [2])
        assert list(file["history"]) == [str(index) for index in range(6)]
        assert (
            not file["history/2"][()].any() and file["history/0"][()].any()
        )  # the frozen layer's, and a learning one's
    with h5py.File(f"{prefix}.caffemodel.h5") as file:
        layers = {"data", "c1", "drop", "frozen", "score", "loss"}
        assert set(file["data"]) == layers and list(file["data/c1"]) == ["0", "1"] and not list(file["data/drop"])
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    other = training_run.solver(tmp_path)  # which writes binary messages itself
    other.restore(tmp_path / "elsewhere/run_iter_6.solverstate.h5")
    assert other.iter == 6 and equal(everything(other), everything(solver))
    assert other.learning_rate.current_step == 2


def test_either_form_of_weights_serves_either_form_of_state(tmp_path: Path) -> None:
    """The state names its weights; beside it they may have been ported."""
    solver = training_run.solver(tmp_path)
    solver.step(2)
    state = solver.snapshot()
    model = state.with_suffix(".caffemodel")
    save_weights(f"{model}.h5", load_weights(model))
    model.unlink()
    other = training_run.solver(tmp_path)
    other.restore(state)
    assert equal(everything(other), everything(solver))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.pop("iter"), "has no number 'iter', as the solver states that Caffe writes do. Copy it"),
        (
            lambda file: file.pop("history"),
            "has no group 'history', as the solver states that Caffe writes do. Copy it",
        ),
        (lambda file: file.pop("history/3"), "history 3 of 5 is not there."),
        (lambda file: file.pop("history/5"), "holds 5 histories, SGD on net 'tiny' has 6 (6 blobs x 1)."),
        (
            lambda file: file["iter"].write_direct(np.array([-1], "i4")),
            "is of iteration -1, step 0. The file is corrupt",
        ),
    ],
)
def test_damaged_hdf5_states(tmp_path: Path, damage: Any, message: str) -> None:
    first = training_run.solver(tmp_path, "snapshot_format: HDF5")
    first.step(1)
    state = first.snapshot()
    with h5py.File(state, "r+") as file:
        damage(file)
    other = training_run.solver(tmp_path)
    before = everything(other)
    with pytest.raises((SolverError, WeightsError)) as caught:
        other.restore(state)
    assert str(caught.value).startswith(f"{state}: ") and message in str(caught.value)
    assert other.iter == 0 and equal(everything(other), before)


def test_a_state_without_weights_sets_histories_alone(tmp_path: Path) -> None:
    """As in Caffe, a state need not name weights."""
    first = training_run.solver(tmp_path, "snapshot_format: HDF5")
    first.step(1)
    state = first.snapshot()
    with h5py.File(state, "r+") as file:
        del file["learned_net"]
    other = training_run.solver(tmp_path)
    weights = everything(other)[: len(other.net.learnable_params)]
    other.restore(state)
    assert other.iter == 1 and equal(everything(other)[: len(weights)], weights)


def test_without_random_states(solver: Solver, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    solver.step(2)
    state = solver.snapshot()
    state.with_suffix(".rngstate").unlink()
    other = training_run.solver(tmp_path)
    other.restore(state)
    assert other.iter == 2 and equal(everything(other), everything(solver))
    assert "no random states beside it" in caplog.text


# -- refusals: nothing changes -----------------------------------------------------------------------------------


def damage_missing_weights(state: Path) -> None:
    state.with_suffix(".caffemodel").unlink()


def damage_truncated_weights(state: Path) -> None:
    os.truncate(state.with_suffix(".caffemodel"), 100)


def damage_truncated_state(state: Path) -> None:
    os.truncate(state, state.stat().st_size - 3)  # within the last history, however long the paths in front are


def damage_other_random_states(state: Path) -> None:
    path = state.with_suffix(".rngstate")
    path.write_text(path.read_text().replace('"iter": 2', '"iter": 3'))


def damage_random_states(state: Path) -> None:
    state.with_suffix(".rngstate").write_text("[]")


def damage_torch_state(state: Path) -> None:
    path = state.with_suffix(".rngstate")
    path.write_text(json.dumps(dict(json.loads(path.read_text()), torch="AAAA")))


def damage_fewer_histories(state: Path) -> None:
    message = caffe_pb2.SolverState.FromString(state.read_bytes())
    del message.history[-1]
    state.write_bytes(message.SerializeToString())


def damage_random_states_without_a_step(state: Path) -> None:
    path = state.with_suffix(".rngstate")
    path.write_text(path.read_text().replace('"iter":', '"item":'))


def damage_random_states_nested(state: Path) -> None:
    state.with_suffix(".rngstate").write_text("[" * 100_000)


def damage_history_shape(state: Path) -> None:
    message = caffe_pb2.SolverState.FromString(state.read_bytes())
    message.history[0].shape.dim[:] = [8, 2, 9]
    state.write_bytes(message.SerializeToString())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing_weights, "its weights are not there. Looked for"),
        (damage_truncated_weights, "run_iter_2.caffemodel: byte"),
        (damage_truncated_state, "run_iter_2.solverstate: byte"),
        (damage_other_random_states, "is of iteration 3, the solver state of 2. Remove it."),
        (damage_random_states, "not the random states of a snapshot"),
        (damage_torch_state, "not the random states of a snapshot"),
        (damage_random_states_without_a_step, "not the random states of a snapshot"),
        (damage_random_states_nested, "not the random states of a snapshot"),
        (damage_fewer_histories, "holds 5 histories, SGD on net 'tiny' has 6 (6 blobs x 1)."),
        (damage_history_shape, "the history of layer 'c1' blob 0 is 8x2x9, the net wants 8x2x3x3."),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_damaged_snapshots_change_nothing(tmp_path: Path, damage: Any, message: str) -> None:
    first = training_run.solver(tmp_path)
    first.step(2)
    state = first.snapshot()
    damage(state)
    other = training_run.solver(tmp_path)
    before, random = everything(other), torch.get_rng_state()
    with pytest.raises(Exception) as caught:
        other.restore(state)
    assert type(caught.value).__module__ == "fcn_caffe.errors" and message in str(caught.value)
    assert other.iter == 0 and equal(everything(other), before)
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.solverstate", "none.solverstate: no such solver state. Check the path."),
        ("x.caffemodel", "To start from weights use `weights:` in the solver, or --weights."),
    ],
)
def test_wrong_paths(solver: Solver, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SolverError) as caught:
        solver.restore(tmp_path / name)
    assert str(caught.value).endswith(message)


def test_a_state_json_cannot_hold(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path)
    solver.net.layer("data").user.get_state = lambda: {1, 2}
    with pytest.raises(SolverError, match=r"a data layer's get_state.. gave what JSON cannot hold .*layers: data"):
        solver.snapshot()
    assert not (tmp_path / "out").exists()


def test_a_data_layer_that_refuses_its_state(tmp_path: Path) -> None:
    first = training_run.solver(tmp_path)
    first.step(2)
    state = first.snapshot()
    other = training_run.solver(tmp_path)

    def refuse(_: Any) -> None:
        raise DataError("another split")

    other.net.layer("data").user.set_state = refuse
    before = everything(other)
    with pytest.raises(DataError, match="another split"):
        other.restore(state)
    assert other.iter == 0 and equal(everything(other), before)


# -- disk full, kill, signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fail_at", range(1, 4))
def test_disk_full_at_every_file(solver: Solver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int) -> None:
    solver.step(2)
    earlier = solver.snapshot()
    contents = {path: path.read_bytes() for path in earlier.parent.iterdir()}
    solver.step(2)
    calls, sync = [0], os.fsync

    def fsync(descriptor: int) -> None:
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            calls[0] += 1
            if calls[0] == fail_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(
            SolverError, match=r"run_iter_4.solverstate: the snapshot cannot be written: .*No space left"
        ):
            solver.snapshot()
    assert {path: path.read_bytes() for path in earlier.parent.iterdir()} == contents
    # With room again the same solver goes on.
    assert solver.snapshot().is_file()


def test_a_file_that_may_not_grow(solver: Solver, tmp_path: Path) -> None:
    """The kernel refuses the write itself: RLIMIT_FSIZE, in a process of its own."""
    solver.step(2)
    earlier = solver.snapshot()
    names = sorted(os.listdir(tmp_path / "out"))
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from fcn_caffe.training.solver import Solver; from fcn_caffe import SolverError\n"
        "solver = Solver('solver.prototxt', device='cpu'); solver.restore(sys.argv[1])\n"
        "solver.step(2); resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))\n"
        "try: solver.snapshot()\n"
        "except SolverError as error: print('refused:', error)"
    )
    out = subprocess.run([sys.executable, "-c", code, earlier], **in_folder(tmp_path), check=True)
    assert "refused:" in out.stdout and "run_iter_4.solverstate: the snapshot cannot be written" in out.stdout
    assert sorted(os.listdir(tmp_path / "out")) == names
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 500


def in_folder(folder: Path) -> dict[str, Any]:
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    return {"cwd": folder, "env": environment, "text": True, "stdout": subprocess.PIPE}


@pytest.mark.slow
def test_killed_while_writing(solver: Solver, tmp_path: Path) -> None:
    """SIGKILL at every stage of a second snapshot: the first is whole, nothing half has a final name."""
    solver.step(2)
    earlier = solver.snapshot()
    contents = {path.name: path.read_bytes() for path in earlier.parent.iterdir()}
    code = (
        "import os, signal, sys\n"
        "from fcn_caffe.training.solver import Solver, snapshot\n"
        "solver = Solver('solver.prototxt', device='cpu'); solver.restore(sys.argv[1]); solver.step(2)\n"
        "written = getattr(snapshot, sys.argv[2])\n"
        "def die(*arguments):\n"
        "    written(*arguments); os.kill(os.getpid(), signal.SIGKILL)\n"
        "setattr(snapshot, sys.argv[2], die)\n"
        "solver.snapshot()"
    )
    stages = ("save_net", "write_solver_state")
    folders = [tmp_path / stage for stage in stages]
    for folder in folders:
        shutil.copytree(tmp_path / "out", folder / "out")
        training_run.write(folder)
    running = [
        subprocess.Popen([sys.executable, "-c", code, "out/run_iter_2.solverstate", stage], **in_folder(folder))
        for stage, folder in zip(stages, folders, strict=True)
    ]
    for process, folder in zip(running, folders, strict=True):
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        left = {path.name: path for path in (folder / "out").iterdir()}
        assert {name: left.pop(name).read_bytes() for name in contents} == contents
        assert left, "the kill came too late to test anything"
        assert [name for name in left if not name.endswith((".partial", ".lock"))] == []
    folder = folders[-1]
    other = training_run.solver(folder)
    other.restore(folder / "out/run_iter_2.solverstate")
    other.step(1)
    other.snapshot()
    assert not list((folder / "out").glob(".*")), "what the killed process left is removed"


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(training_run.__file__)), str(folder), *arguments]
    return subprocess.Popen(command, **in_folder(ROOT), stderr=subprocess.DEVNULL)


def wait_for(process: subprocess.Popen[str], line: str) -> list[str]:
    assert process.stdout is not None
    seen: list[str] = []
    while line not in seen:
        read = process.stdout.readline()
        assert read, f"ended before {line!r}: {seen}"
        seen.append(read.strip())
    return seen


@pytest.mark.slow
def test_interrupted_and_resumed_processes_equal_an_uninterrupted_one(tmp_path: Path) -> None:
    steps = 200
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        training_run.write(tmp_path / name, max_iter=steps)
    whole = start(tmp_path / "whole")
    cut = start(tmp_path / "cut")
    wait_for(cut, "step 5")
    cut.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    cut.send_signal(signal.SIGINT)
    rest = cut.communicate(timeout=60)[0].split("\n")
    assert cut.returncode == 0 and rest[-2].startswith("stopped ")
    stopped = int(rest[-2].split()[1])
    assert 5 <= stopped < steps
    snapshots = sorted((tmp_path / "cut/out").glob("*.solverstate"), key=os.path.getmtime)
    assert snapshots[-1].name == f"run_iter_{stopped}.solverstate"
    assert 1 <= len(snapshots) <= 2  # SIGHUP's, and SIGINT's unless both fell on one step
    resumed = start(tmp_path / "cut", f"out/{snapshots[-1].name}")
    assert wait_for(resumed, f"done {steps}")[0] == f"step {stopped + 1}"
    wait_for(whole, f"done {steps}")
    for process in (whole, resumed):
        process.communicate(timeout=60)
        assert process.returncode == 0
    models = [load_weights(tmp_path / name / f"out/run_iter_{steps}.caffemodel") for name in ("whole", "cut")]
    assert models[0].keys() == models[1].keys()
    for layer, blobs in models[0].items():
        assert equal(blobs, models[1][layer]), layer
    states = [(tmp_path / name / f"out/run_iter_{steps}.rngstate").read_text() for name in ("whole", "cut")]
    assert states[0] == states[1]


@pytest.mark.parametrize("ending", ["", ".h5"])
def test_weights_given_for_the_state_beside_them(solver: Solver, ending: str, tmp_path: Path) -> None:
    (tmp_path / f"x_iter_5.solverstate{ending}").touch()
    with pytest.raises(SolverError, match=rf"Beside it is x_iter_5\.solverstate{ending}\. To start from weights use"):
        solver.restore(tmp_path / f"x_iter_5.caffemodel{ending}")


def test_a_state_of_a_net_with_other_layers_is_refused(tmp_path: Path) -> None:
    """Its histories fit by their shapes, and the weights would go nowhere."""
    solver = training_run.solver(tmp_path)
    solver.step(1)
    state = solver.snapshot()
    weights = load_weights(state.with_suffix(".caffemodel"))
    renamed = {f"other_{name}": blobs for name, blobs in weights.items()}
    save_weights(state.with_suffix(".caffemodel"), renamed)
    before = everything(solver)
    with pytest.raises(SolverError, match=r"is of another net: .* has nothing for layer "):
        solver.restore(state)
    assert equal(everything(solver), before)
