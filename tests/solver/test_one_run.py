"""One run at a time for a snapshot prefix; a run goes on by iteration, whatever clocks say."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import training_run
from places import ROOT
from small_stages import write_stages

from fcn_caffe import SolverError
from fcn_caffe.commands.solve import main as solve
from fcn_caffe.commands.train import main as train
from fcn_caffe.training.plan import make_plan
from fcn_caffe.training.solver.one_run import clear_killed_run, only_run

HOLDS = """
import sys
from pathlib import Path
from fcn_caffe.training.solver.one_run import only_run
with only_run(Path(sys.argv[1])):
    print("here", flush=True)
    sys.stdin.read()
"""


@contextmanager
def other_run(prefix: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that trains with a prefix, until the block ends."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", HOLDS, str(prefix)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.needs_linux
def test_the_second_run_is_refused_and_a_killed_one_bars_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(write_stages(tmp_path / "work"))
    coarse, out = Path("solvers/coarse.prototxt"), tmp_path / "out"
    coarse.write_text(coarse.read_text().replace("snapshot/coarse/train", str(out / "run")))
    Path("one.prototxt").write_text(coarse.read_text())
    solver = training_run.solver(tmp_path, "snapshot: 2")
    with other_run(out / "run") as process:
        files = sorted(tmp_path.rglob("*"))
        refusal = (
            rf"out/run: process {process.pid} on {re.escape(os.uname().nodename)} trains with this "
            r"snapshot_prefix\. Wait for its end or stop it, or set another snapshot_prefix\."
        )
        for call, words in ((train, ["--solver", "one.prototxt"]), (solve, ["solvers/coarse.prototxt"])):
            assert call(words) == 1
            assert re.search(refusal, capsys.readouterr().err)
        for refused in (solver.snapshot, solver.solve, lambda: solver.step(1)):
            with pytest.raises(SolverError, match=refusal):
                refused()
        assert solver.iter == 0 and sorted(tmp_path.rglob("*")) == files, "nothing was written, to a log or elsewhere"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (out / ".run.lock").exists()
        assert solve(["solvers/coarse.prototxt"]) == 0
    assert not list(out.glob(".*")), "the lock of the killed run is gone, too"


@pytest.mark.needs_linux
def test_what_a_run_left_that_was_killed_at_its_very_end(tmp_path: Path) -> None:
    """Nobody trains with its prefix again: its stage is kept."""
    lock, leftover = tmp_path / ".run.lock", tmp_path / ".run_iter_2.caffemodel.5f3a9c01.partial"
    clear_killed_run(tmp_path / "gone" / "run")
    assert list(tmp_path.iterdir()) == []
    for path in (lock, leftover):
        path.touch()
    holds = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print('here', flush=True)"
    )
    command = [sys.executable, "-c", f"{holds}; input()", str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        clear_killed_run(tmp_path / "run")
        assert lock.exists(), "somebody runs"
        process.kill()
    clear_killed_run(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_solvers_of_one_process_may_have_one_prefix(tmp_path: Path) -> None:
    first, second = (training_run.solver(tmp_path, "snapshot: 2") for _ in range(2))
    first.step(2)
    second.step(2)
    lock = tmp_path / "out" / ".run.lock"
    assert lock.exists()
    first.give_up_prefix()
    assert lock.exists(), "the second still has it"
    second.give_up_prefix()
    assert not lock.exists()


def test_a_run_without_snapshots_leaves_no_folder(tmp_path: Path) -> None:
    with only_run(tmp_path / "some" / "folder" / "run"):
        assert (tmp_path / "some" / "folder").is_dir()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_linux
def test_a_folder_of_snapshots_that_is_removed_meanwhile(tmp_path: Path) -> None:
    solver = training_run.solver(tmp_path, "snapshot: 2")
    solver.step(3)
    shutil.rmtree(tmp_path / "out")
    solver.step(1)
    assert (tmp_path / "out" / "run_iter_4.solverstate").is_file()
    solver.give_up_prefix()
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.needs_linux
def test_a_file_system_without_locks_trains_unguarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def no_locks(*arguments: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    solver = training_run.solver(tmp_path)
    solver.solve()
    assert (tmp_path / "out" / "run_iter_8.solverstate").is_file()


def test_a_prefix_that_nothing_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*arguments: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only)
    refusal = r"run: snapshots cannot be written there \(Read-only file system\)\. Set another snapshot_prefix\."
    with pytest.raises(SolverError, match=refusal), only_run(tmp_path / "run"):
        pass


def test_clocks_that_are_turned_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--resume takes the highest iteration; a result is a run's own by its bytes, not by when it was written."""
    monkeypatch.chdir(write_stages(tmp_path / "work"))
    assert solve(["solvers/coarse.prototxt"]) == 0
    stage = make_plan("solvers/coarse.prototxt", resume=True).stages[0].stage
    states = [stage.snapshot(number, ".solverstate") for number in stage.snapshots()]
    for year, path in enumerate([stage.result, *reversed(states)]):
        os.utime(path, (1e9 - year * 3e7, 1e9 - year * 3e7))
    plan = make_plan("solvers/coarse.prototxt", resume=True, from_stage="coarse")
    assert [planned.action for planned in plan.stages] == ["keep"]
    lock = stage.prefix.with_name(f".{stage.prefix.name}.lock")
    lock.touch()
    assert solve(["solvers/coarse.prototxt", "--resume"]) == 0
    assert not lock.exists()
    stage.result.write_bytes(b"of an earlier run")  # the newest file of all
    plan = make_plan("solvers/coarse.prototxt", resume=True, from_stage="coarse")
    assert plan.stages[0].description == "resume from iteration 6 to iteration 6, scored every 2"
