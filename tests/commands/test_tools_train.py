"""tools/train.py and tools/test_net.py: Caffe's `train` and `test` over the solver."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT
from small_stages import write_stages

from fcn_caffe import DataError, Net, SolverError
from fcn_caffe.commands import INTERRUPTED, train
from fcn_caffe.commands import test_net as command
from fcn_caffe.training.solver import Solver, read_solver
from fcn_caffe.weights.transfer import copy_weights, load_weights, net_weights, save_weights

SOLVER = "solvers/coarse.prototxt"


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.chdir(write_stages(tmp_path))
    return tmp_path


def same(first, second):
    one, two = load_weights(first), load_weights(second)
    assert one.keys() == two.keys()
    return all(np.array_equal(a, b) for name in one for a, b in zip(one[name], two[name], strict=True))


def changed(**fields):
    """Write the solver with fields replaced, as changed.prototxt beside it."""
    text = Path(SOLVER).read_text()
    for name, value in fields.items():
        text = re.sub(rf"(?m)^{name}:.*\n", "", text) + f"{name}: {value}\n"
    Path("solvers/changed.prototxt").write_text(text)
    return "solvers/changed.prototxt"


def test_it_trains_as_the_solver_does(task, caplog):
    assert train.main(["-solver", SOLVER]) == 0
    Path("snapshot/coarse").rename("snapshot/first")
    Solver(SOLVER).solve()
    assert same("snapshot/first/train_iter_6.caffemodel", "snapshot/coarse/train_iter_6.caffemodel")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:4] == ["Use CPU.", "Starting Optimization", "Solving coarse", "Learning Rate Policy: poly"]
    assert lines.count("Optimization Done.") == 3  # two of ours, as in Caffe; one of the solver alone


def test_from_a_snapshot_as_if_never_stopped(task):
    assert train.main(["--solver", SOLVER]) == 0
    Path("whole.caffemodel").write_bytes(Path("snapshot/coarse/train_iter_6.caffemodel").read_bytes())
    for path in Path("snapshot/coarse").glob("train_iter_6.*"):
        path.unlink()
    assert train.main(["--solver", SOLVER, "--snapshot", "snapshot/coarse/train_iter_2.solverstate"]) == 0
    assert same("snapshot/coarse/train_iter_6.caffemodel", "whole.caffemodel")


def test_weights_replace_the_solvers_own(task, caplog):
    net = Net("nets/coarse.prototxt")
    for name in ("conv", "score"):
        save_weights(f"{name}.caffemodel", {name: [blob + 0.5 for blob in net_weights(net)[name]]})
    path = changed(weights='"missing.caffemodel"', max_iter=0, lr_policy='"fixed"')
    assert train.main(["--solver", path, "--weights", "conv.caffemodel,score.caffemodel"]) == 0
    said = [record.getMessage() for record in caplog.records]
    assert "Finetuning from conv.caffemodel" in said and "Finetuning from score.caffemodel" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--weights", "a", "--snapshot", "b"],
            "--snapshot to go on with training or --weights to start from, not both",
        ),
        (["--snapshot", "b"], "b: no such solver state"),
        (["--gpu", "0,1"], "was asked for, but"),
        (["--gpu", "x"], "wanted device numbers"),
        (["--weights", "a.caffemodel"], "weights 'a.caffemodel' is not there"),
    ],
)
def test_refusals(task, arguments, message, capsys):
    assert train.main(["--solver", SOLVER, *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not Path("snapshot").exists()


def test_errors_name_the_solver_file(task, capsys):
    assert train.main(["--solver", changed(type='"SDG"')]) == 1
    assert "error: solvers/changed.prototxt: type 'SDG' is unknown" in capsys.readouterr().err


def test_stage_and_level_reach_the_net(task, capsys):
    """In stage deploy the net of this task has no data layer."""
    assert train.main(["--solver", SOLVER, "--stage", "other,deploy"]) == 1
    assert "bottom 'data' is not produced" in capsys.readouterr().err
    assert train.main(["--solver", SOLVER, "--stage", "other", "--level", "2"]) == 0


def test_the_log_goes_to_a_file_too(task):
    assert train.main(["--solver", SOLVER, "--log", "logs/run.log"]) == 0
    text = Path("logs/run.log").read_text()
    assert "] Iteration 5, lr = " in text and text.rstrip().endswith("caffe.cpp:259] Optimization Done.")


def interrupting(number, at):
    """Send this process a signal after iteration `at`."""

    def send(solver):
        if solver.iter == at:
            os.kill(os.getpid(), number)

    return send


@pytest.mark.parametrize(
    ("number", "option", "effect", "status", "left"),
    [
        (signal.SIGINT, [], "stop", INTERRUPTED, [3]),
        (signal.SIGINT, ["--sigint_effect", "snapshot"], "snapshot", 0, [3, 6]),
        (signal.SIGINT, ["-sigint_effect", "none"], "none", 0, [6]),
        (signal.SIGTERM, ["--sigint_effect=none"], "stop", 143, [3]),
        (signal.SIGHUP, [], "snapshot", 0, [3, 6]),
        (signal.SIGHUP, ["--sighup_effect=stop"], "stop", INTERRUPTED, [3]),
        (signal.SIGHUP, ["--sighup_effect=none"], "none", 0, [6]),
    ],
)
def test_what_signals_do(task, monkeypatch, number, option, effect, status, left, capsys):
    path = changed(snapshot=0, snapshot_after_train="true")
    start = Solver.__init__

    def with_signal(self, *arguments, **named):
        start(self, *arguments, **named)
        self.on_step.append(interrupting(number, 3))

    monkeypatch.setattr(Solver, "__init__", with_signal)
    before = signal.getsignal(number)
    assert train.main(["--solver", path, *option]) == status
    assert signal.getsignal(number) is before
    taken = sorted(int(name.stem.rpartition("_")[2]) for name in Path("snapshot/coarse").glob("*.solverstate"))
    assert taken == left
    if effect == "stop":
        again = capsys.readouterr().err.splitlines()[-1].partition("To go on: ")[2]
        assert "--snapshot snapshot/coarse/train_iter_3.solverstate" in again


def test_interrupted_and_gone_on_with_the_command_that_was_told(task):
    path = changed(snapshot=0, snapshot_after_train="true", max_iter=100000, lr_policy='"fixed"')
    save_weights("start.caffemodel", net_weights(Net("nets/coarse.prototxt")))
    call = [sys.executable, str(ROOT / "tools/train.py"), "--solver", path, "--weights", "start.caffemodel"]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "Iteration 3 " in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == INTERRUPTED and "Traceback" not in rest
    told = shlex.split(rest.splitlines()[-1].partition("To go on: ")[2])
    assert shutil.which(told[0]) and told[1] == call[1] and "--weights" not in told
    reached = int(re.findall(r"_iter_(\d+)\.solverstate", told[-1])[0])
    changed(snapshot=0, snapshot_after_train="true", max_iter=reached + 1, lr_policy='"fixed"')
    assert train.main(told[2:]) == 0
    assert Path(f"snapshot/coarse/train_iter_{reached + 1}.caffemodel").is_file()


def test_a_solver_read_from_a_file_looks_beside_it(task, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    path = task / "solvers/coarse.prototxt"
    path.write_text(path.read_text().replace('"nets/', '"../nets/'))
    with pytest.raises(SolverError, match="is not there"):
        Solver(read_solver(path))
    with pytest.raises(DataError, match="images"):  # the net was found; its images lie relative to the task
        Solver(read_solver(path), path=path)


# -- test ----------------------------------------------------------------------------------------------------------


def test_batches_and_means(task, capsys):
    assert train.main(["--solver", SOLVER]) == 0
    weights = "snapshot/coarse/train_iter_6.caffemodel"
    capsys.readouterr()
    assert command.main(["-model", "nets/coarse.prototxt", "-weights", weights, "-iterations", "3"]) == 0
    out = capsys.readouterr().out
    losses = [float(value) for value in re.findall(r"^Batch \d, loss = (\S+)$", out, re.M)]
    assert len(losses) == 3 and len(set(losses)) > 1
    mean = float(re.search(r"^Loss: (\S+)$", out, re.M)[1])
    assert mean == pytest.approx(np.mean(losses), abs=2e-6)
    assert out.splitlines()[-1] == f"loss = {mean:g} (* 1 = {mean:g} loss)"
    net = Net("nets/coarse.prototxt")
    copy_weights(net, load_weights(weights))
    with torch.no_grad():
        assert losses == pytest.approx([float(net()["loss"]) for _ in range(3)], rel=1e-5)


def test_outputs_of_several_values_and_no_loss(task, capsys):
    text = 'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 2 } } }'
    Path("net.prototxt").write_text(text)
    save_weights("w.caffemodel", {"p": [np.array([1, 2.5], np.float32)]})
    assert command.main(["--model", "net.prototxt", "--weights", "w.caffemodel", "--iterations", "2"]) == 0
    batches = [f"Batch {batch}, p = {value}" for batch in (0, 1) for value in ("1", "2.5")]
    assert capsys.readouterr().out.splitlines() == [*batches, "Loss: 0", "p = 1", "p = 2.5"]


def test_model_and_weights_are_needed(capsys):
    with pytest.raises(SystemExit):
        command.main(["--model", "net.prototxt"])
    assert "-weights" in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["train", "test_net", "time_net"])
def test_weights_that_are_not_there(task, tool, capsys):
    from fcn_caffe import commands

    wanted = {"train": ["--solver", SOLVER], "test_net": ["--model", "nets/coarse.prototxt"]}
    arguments = wanted.get(tool, ["nets/coarse.prototxt"])
    assert commands.main([tool, *arguments, "--weights", "none.caffemodel"]) == 1
    assert "none.caffemodel" in capsys.readouterr().err
    if tool == "test_net":
        assert commands.main([tool, *arguments, "--weights", ","]) == 1
        assert "--weights names no file" in capsys.readouterr().err


def test_the_collector_takes_the_tool_for_no_test():
    call = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "tools/test_net.py",
        "fcn_caffe/commands/test_net.py",
    ]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "no tests collected" in done.stdout, done.stdout
