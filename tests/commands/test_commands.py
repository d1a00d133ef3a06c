"""The command line, and the schedule run for real on a tiny task."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT
from small_stages import write_stages

from fcn_caffe import commands
from fcn_caffe.commands import command, solve
from fcn_caffe.errors import DataError, SolverError
from fcn_caffe.host import paths
from fcn_caffe.training.plan import read_stage
from fcn_caffe.training.stage import ScoreTable, Training
from fcn_caffe.weights.record import Preprocessing, write_preprocessing
from fcn_caffe.weights.transfer import load_weights, save_weights

FINE = "solvers/fine.prototxt"


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.chdir(write_stages(tmp_path))
    return tmp_path


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def same(first, second):
    one, two = load_weights(first), load_weights(second)
    assert one.keys() == two.keys()
    return all(np.array_equal(a, b) for name in one for a, b in zip(one[name], two[name], strict=True))


# -- the command decorator and the dispatcher ----------------------------------------------------------------------


def raising(error):
    @command
    def main(argv=None):
        raise error

    return main


def test_a_mistake_is_one_line_and_status_1(capsys):
    assert raising(DataError("a.png: no such file."))([]) == 1
    assert capsys.readouterr().err == "error: a.png: no such file.\n"


def test_a_full_disk_is_one_line_too(capsys):
    assert raising(OSError(28, "No space left on device", "a.png"))([]) == 1
    assert capsys.readouterr().err == "error: a.png: No space left on device. Make room on the disk.\n"


def test_an_interrupt_is_no_traceback(capsys):
    assert raising(KeyboardInterrupt())([]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())([])


def test_a_reader_that_goes_away_is_no_error():
    code = """
import sys
from fcn_caffe.commands import command

@command
def main(argv=None):
    print("x\\n" * 100000)
    return 0

sys.exit(main())
"""
    run = f'{sys.executable} -c "$0" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", run, code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "")


def test_the_commands_are_the_modules(capsys):
    assert "solve" in commands.names()
    assert commands.main(["--help"]) == 0
    assert "solve" in capsys.readouterr().out


def test_an_unknown_command(capsys):
    assert commands.main(["slove"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown command 'slove'. Known: ")


def test_a_command_takes_its_own_arguments(task, capsys):
    assert commands.main(["solve", FINE, "--dry-run"]) == 0
    assert "fine" in capsys.readouterr().out


# -- solve ---------------------------------------------------------------------------------------------------------


def test_solve_with_hdf5_snapshots(task, capsys):
    for name in ("coarse", "fine"):
        with open(f"solvers/{name}.prototxt", "a") as file:
            file.write("snapshot_format: HDF5\n")
    assert solve.main([FINE, "--steps", "2"]) == 0
    assert solve.main([FINE, "--from", "weights/fine.caffemodel", "--steps", "1"]) == 0
    for name in ("coarse", "fine"):
        left = {path.name for path in (task / "snapshot" / name).glob("train_iter_*")}
        last = 4 if name == "coarse" else 2
        assert {f"train_iter_{last}{kind}" for kind in (".caffemodel.h5", ".rngstate", ".solverstate.h5")} <= left
        assert not [file for file in left if file.endswith((".caffemodel", ".solverstate"))]
        assert load_weights(task / "weights" / f"{name}.caffemodel")


def test_solve_from_weights_made_for_other_inputs(task, capsys):
    weights = task / "start.caffemodel"
    save_weights(weights, {"other": [np.zeros(1, np.float32)]})
    write_preprocessing(weights, Preprocessing("RGB", (1.0, 2.0, 3.0), classes=("a", "b", "c")))
    assert solve.main([FINE, "--from", str(weights), "--steps", "1"]) == 1
    error = capsys.readouterr().err
    assert "start.caffemodel: was made for other inputs than" in error and "channels RGB, not BGR" in error
    assert "classes" not in error and not (task / "snapshot" / "fine" / "scores.csv").exists()
    assert solve.main([FINE, "--from", str(weights), "--steps", "1", "--ignore-preprocessing"]) == 0


def test_solve_from_a_net(task, capsys):
    assert solve.main([FINE, "--from", "nets/fine.prototxt"]) == 1
    assert "nets/fine.prototxt: is a net or a solver in text, not weights." in capsys.readouterr().err
    assert not (task / "snapshot").exists()


def test_solve_runs_both_stages(task, capsys):
    assert solve.main([FINE]) == 0
    out = capsys.readouterr().out
    assert out.index("| coarse |") < out.index("| fine |") and "picture.png" in out
    for name in ("coarse", "fine"):
        folder = task / "snapshot" / name
        with open(folder / "scores.csv") as file:
            rows = list(csv.DictReader(file))
        assert [row["iteration"] for row in rows] == ["2", "4", "6"]
        best = max(rows, key=lambda row: float(row["mean_iu"]))["iteration"]
        assert same(task / "weights" / f"{name}.caffemodel", folder / f"train_iter_{best}.caffemodel")
        left = {path.name for path in folder.glob("train_iter_*")}
        newest = {f"train_iter_6.{kind}" for kind in ("caffemodel", "rngstate", "solverstate")}
        kept = newest | {f"train_iter_{best}.caffemodel"}
        assert left == kept | {f"{file}.preprocessing.json" for file in kept if file.endswith(".caffemodel")}
        log = (folder / "log.txt").read_text()
        assert "] Iteration 5, lr = " in log and f"best at iteration {best}" in log
    # The fine stage started from the coarse one.
    assert "copied 2: conv, score" in (task / "snapshot/fine/log.txt").read_text()


def test_solve_again_trains_nothing_and_shows_the_table(task, capsys):
    assert solve.main(["solvers/coarse.prototxt"]) == 0
    first = capsys.readouterr().out
    before = (task / "weights/coarse.caffemodel").stat().st_mtime_ns
    assert solve.main(["solvers/coarse.prototxt"]) == 0
    assert capsys.readouterr().out.split("\n\n")[1] == first.split("\n\n")[1]
    assert (task / "weights/coarse.caffemodel").stat().st_mtime_ns == before


def test_dry_run_writes_nothing(task, capsys):
    before = files(task)
    assert solve.main([FINE, "--dry-run"]) == 0
    assert files(task) == before
    assert "train from weights/coarse.caffemodel to iteration 6, scored every 2" in capsys.readouterr().out


def test_dry_run_and_run_say_what_is_missing(task, capsys):
    (task / "solvers/coarse.prototxt").unlink()
    assert solve.main([FINE, "--dry-run"]) == 0
    assert "missing: weights/coarse.caffemodel is not there" in capsys.readouterr().out
    assert solve.main([FINE]) == 1
    assert "error: cannot start: weights/coarse.caffemodel is not there" in capsys.readouterr().err


def test_solve_from_elsewhere(task, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert solve.main([str(task / "solvers/coarse.prototxt"), "--steps", "1"]) == 0
    assert (task / "weights/coarse.caffemodel").is_file() and not files(elsewhere)
    assert Path.cwd() == elsewhere


def test_solve_from_elsewhere_is_solve_there(tmp_path, monkeypatch, capsys):
    """The same lines are printed, but for the first, and the same files written; nothing of the process changes."""
    there, elsewhere = write_stages(tmp_path / "there"), write_stages(tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(there)
    assert solve.main([FINE]) == 0
    plan = capsys.readouterr().out.splitlines()[:2]
    monkeypatch.chdir(tmp_path / "empty")
    environment, changes = dict(os.environ), []
    with monkeypatch.context() as patch:
        for change in ("chdir", "putenv", "unsetenv"):
            patch.setattr(os, change, lambda *arguments: changes.append(arguments))
        assert solve.main([str(elsewhere / FINE)]) == 0
    assert not changes
    assert capsys.readouterr().out.splitlines()[:3] == [f"working in {elsewhere}", *plan]
    assert Path.cwd() == tmp_path / "empty" and not files(tmp_path / "empty") and dict(os.environ) == environment
    assert files(there) == files(elsewhere)
    for name in files(there):
        if not name.endswith(("log.txt", ".solverstate", "run.jsonl")):  # which name files where they are
            assert (there / name).read_bytes() == (elsewhere / name).read_bytes(), name


def test_an_installed_packages_solver_runs_in_the_working_directory(tmp_path, monkeypatch):
    package = tmp_path / "site-packages/fcn_caffe"
    monkeypatch.setattr(paths, "_PACKAGE", package)
    shipped = write_stages(package / "models/shipped")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FCN_CAFFE_DATA", str(shipped))
    before = files(shipped)
    assert solve.main([FINE, "--steps", "1"]) == 0
    assert files(shipped) == before
    made = files(tmp_path / "here")
    assert {f"weights/{name}.caffemodel" for name in ("coarse", "fine")} <= made
    assert {f"snapshot/{name}/scores.csv" for name in ("coarse", "fine")} <= made
    assert solve.main([FINE, "--steps", "1"]) == 0 and files(tmp_path / "here") >= made


def test_data_elsewhere(task, monkeypatch):
    (task / "images").rename(task / "moved")
    (task / "elsewhere").mkdir()
    (task / "moved").rename(task / "elsewhere/images")
    assert solve.main(["solvers/coarse.prototxt", "--steps", "1"]) == 1
    assert solve.main(["solvers/coarse.prototxt", "--steps", "1", "--data", "elsewhere"]) == 0
    assert "FCN_CAFFE_DATA" not in os.environ


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(tmp_path, monkeypatch, stop):
    whole, parts = write_stages(tmp_path / "whole"), write_stages(tmp_path / "parts")
    monkeypatch.chdir(whole)
    assert Training(read_stage("solvers/coarse.prototxt")).run()
    monkeypatch.chdir(parts)
    stage = read_stage("solvers/coarse.prototxt")

    def interrupt(solver):
        if solver.iter == stop:
            os.kill(os.getpid(), signal.SIGINT)

    assert not Training(stage, on_step=interrupt).run()
    assert stage.snapshots()[-1] == stop
    training = Training(stage, resume=True)
    assert training.solver.iter == stop and training.run()
    for name in ("train_iter_6.caffemodel", "train_iter_6.solverstate", "train_iter_6.rngstate", "scores.csv"):
        assert (parts / "snapshot/coarse" / name).read_bytes() == (whole / "snapshot/coarse" / name).read_bytes()
    assert same(parts / "weights/coarse.caffemodel", whole / "weights/coarse.caffemodel")


def test_killed_while_scoring_resumes_by_scoring(tmp_path, monkeypatch):
    whole, parts = write_stages(tmp_path / "whole"), write_stages(tmp_path / "parts")
    monkeypatch.chdir(whole)
    assert Training(read_stage("solvers/coarse.prototxt")).run()
    monkeypatch.chdir(parts)
    stage = read_stage("solvers/coarse.prototxt")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_score", lambda self: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            Training(stage).run()
    assert stage.snapshots() == [2] and not (parts / "snapshot/coarse/scores.csv").exists()
    assert Training(stage, resume=True).run()
    for name in ("train_iter_6.solverstate", "scores.csv"):
        assert (parts / "snapshot/coarse" / name).read_bytes() == (whole / "snapshot/coarse" / name).read_bytes()


def test_scoring_does_not_disturb_training(tmp_path, monkeypatch):
    results = []
    for name, every in (("often", 1), ("seldom", 6)):
        monkeypatch.chdir(write_stages(tmp_path / name))
        path = tmp_path / name / "solvers/coarse.prototxt"
        path.write_text(path.read_text().replace("snapshot: 2", f"snapshot: {every}"))
        assert Training(read_stage("solvers/coarse.prototxt")).run()
        results.append(tmp_path / name / "snapshot/coarse/train_iter_6.caffemodel")
    assert same(*results)


def test_a_signal_ends_the_scoring_too(task):
    training = Training(read_stage("solvers/coarse.prototxt"))
    forward, passes = training.solver.test_nets[0].forward, []

    def interrupting(*arguments, **blobs):
        passes.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return forward(*arguments, **blobs)

    training.solver.test_nets[0].forward = interrupting
    assert not training.run() and training.solver.stopped_by == signal.SIGTERM
    assert len(passes) == 1 and not training.scores.rows
    assert Training(read_stage("solvers/coarse.prototxt"), resume=True).run()


@pytest.mark.slow
def test_interrupted_from_the_keyboard_says_how_to_go_on(task):
    path = task / "solvers/coarse.prototxt"
    text = path.read_text().replace("max_iter: 6", "max_iter: 100000")
    path.write_text(text.replace("snapshot: 2", "snapshot: 100000"))
    call = [sys.executable, str(ROOT / "tools/solve.py"), FINE]
    with subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "Iteration 3," in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    said, _, told = rest.splitlines()[-1].partition(": ")
    python, *words = shlex.split(told)
    assert said == "stopped. To go on" and shutil.which(python) and words == [*call[1:], "--resume"]
    assert read_stage("solvers/coarse.prototxt").snapshots()


def test_a_stage_below_its_start_is_warned_of(task, capsys):
    assert solve.main(["solvers/coarse.prototxt"]) == 0
    scores = ScoreTable.read(task / "snapshot/coarse/scores.csv")
    scores.rows = [type(row)(**{**vars(row), "mean_iu": 0.999}) for row in scores.rows]
    scores.write()
    assert solve.main([FINE]) == 0
    assert "not better than the 99.9 of coarse that it started from" in capsys.readouterr().err


def test_a_classifier_becomes_convolutional_and_is_kept(task):
    """vgg16fc is made from the classifier, whose fc6 is an inner product over a 3x3 window of 3 channels."""
    name = "voc-fcn32s"  # a stage that starts from vgg16fc
    for folder in ("nets", "solvers"):
        text = (task / folder / "coarse.prototxt").read_text().replace("coarse", name).replace('"conv"', '"fc6"')
        (task / folder / f"{name}.prototxt").write_text(text)
    with open(task / f"solvers/{name}.prototxt", "a") as file:
        file.write('weights: "weights/vgg16fc.caffemodel"\n')
    dense = np.arange(4 * 27, dtype=np.float32).reshape(4, 27) / 1e6
    (task / "weights").mkdir()
    save_weights("weights/VGG_ILSVRC_16_layers.caffemodel", {"fc6": [dense, np.zeros(4, np.float32)], "fc8": [dense]})
    assert solve.main([f"solvers/{name}.prototxt", "--max-iter", "1"]) == 0
    made = load_weights("weights/vgg16fc.caffemodel")
    assert list(made) == ["fc6"] and np.array_equal(made["fc6"][0], dense.reshape(4, 3, 3, 3))
    assert "fc6 blob 0 4x27 to 4x3x3x3" in (task / f"snapshot/{name}/log.txt").read_text()


def test_training_again_forgets_the_old_snapshots(task):
    assert solve.main(["solvers/coarse.prototxt"]) == 0
    assert solve.main(["solvers/coarse.prototxt", "--from", "coarse", "--steps", "1"]) == 0
    assert read_stage("solvers/coarse.prototxt").snapshots() == [2]
    assert [row.iteration for row in ScoreTable.read(task / "snapshot/coarse/scores.csv").rows] == [2]


def test_weights_without_their_run_need_no_picture(task):
    assert solve.main(["solvers/coarse.prototxt", "--max-iter", "2"]) == 0
    shutil.rmtree("snapshot")
    assert solve.main(["solvers/coarse.prototxt", "--max-iter", "2"]) == 0
    assert not (task / "snapshot").exists()


def test_weights_that_do_not_fit_destroy_no_older_run(task, capsys):
    assert solve.main(["solvers/coarse.prototxt"]) == 0
    before = {path: path.read_bytes() for path in (task / "snapshot/coarse").glob("train_iter*")}
    save_weights("other.npz", {"conv": [np.zeros((1, 1, 1, 1), np.float32)]})
    assert before and solve.main(["solvers/coarse.prototxt", "--from", "other.npz"]) == 1
    assert "layer 'conv' has 1 blob, the net wants 2" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (task / "snapshot/coarse").glob("train_iter*")} == before


def test_a_damaged_table_of_scores(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("iteration,head\n4000,score\n")
    with pytest.raises(SolverError, match="not a table of scores"):
        ScoreTable.read(path)
