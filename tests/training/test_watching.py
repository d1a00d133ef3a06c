"""Seeing a run: TensorBoard's files read back by its own reader, patience, the gate, lines with the time left."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import sys
import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_stages import write_stages

from fcn_caffe import DataError
from fcn_caffe.commands import solve, train
from fcn_caffe.host import progress
from fcn_caffe.host.progress import Screen, logging_to
from fcn_caffe.training import ScoreTable, Training, read_stage
from fcn_caffe.training.run_record import RunRecord, read_images, read_record
from fcn_caffe.training.solver import Solver

COARSE, FINE = "solvers/coarse.prototxt", "solvers/fine.prototxt"
needs_tensorboard = pytest.mark.needs_package("tensorboard")


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.chdir(write_stages(tmp_path))
    return tmp_path


def events(folder: Path):
    """What TensorBoard shows of one of its runs: (step, value) by name of a scalar, and all images."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = reader.Tags()
    scalars = {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in tags["scalars"]}
    return scalars, {tag: reader.Images(tag) for tag in tags["images"]}


def interrupt(monkeypatch, at: int) -> None:
    """Let the solver hear of SIGINT at an iteration, as often as it comes to it."""
    step = Solver._update

    def update(self):
        if self.iter == at:
            self._requests._interrupt(signal.SIGINT, None)
        step(self)

    monkeypatch.setattr(Solver, "_update", update)


# -- TensorBoard ---------------------------------------------------------------------------------------------------


@needs_tensorboard
def test_tensorboard_reads_what_solve_wrote(task):
    assert solve.main([COARSE, "--tensorboard", "board"]) == 0
    scalars, _ = events(task / "board/coarse/train")
    assert [step for step, _ in scalars["loss"]] == [*range(6)] == [step for step, _ in scalars["rate"]]
    assert scalars["rate"][3][1] == pytest.approx(0.0005)
    assert [step for step, _ in scalars["output/loss"]] == [*range(6)]
    assert {tag for tag in scalars if tag.startswith("gradient norm")} == {"gradient norm/conv", "gradient norm/score"}
    assert all(np.isfinite(value) and value > 0 for _, value in scalars["gradient norm/score"])

    scores, images = events(task / "board/coarse/score")
    rows = ScoreTable.read(task / "snapshot/coarse/scores.csv").rows
    assert scores["mean_iu"] == [(row.iteration, pytest.approx(row.mean_iu)) for row in rows]
    assert {"pixel_accuracy", "mean_accuracy", "frequency_weighted_iu", "loss"} <= scores.keys()
    assert set(images) == {"image 4", "image 5"}
    assert [image.step for image in images["image 4"]] == [2, 4, 6]


@needs_tensorboard
def test_images_keep_their_colours(task):
    import io

    from PIL import Image

    assert solve.main([COARSE, "--steps", "1", "--tensorboard", "board"]) == 0
    _, images = events(task / "board/coarse/score")
    shown = np.asarray(Image.open(io.BytesIO(images["image 4"][0].encoded_image_string)))
    image, label = (np.asarray(Image.open(f"{folder}/4.png")) for folder in ("images", "labels"))
    assert np.array_equal(shown[4:16, 4:18], image)
    assert {tuple(pixel) for pixel in shown[4:16, 22:36].reshape(-1, 3)} == {(0, 0, 0), (128, 0, 0)}
    assert np.array_equal(shown[4:16, 22:36, 0] == 128, label == 1)


@needs_tensorboard
@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_resumed_run_has_no_step_twice(task, monkeypatch, at):
    from tensorboard.summary.writer import event_file_writer

    # Files of one process and one second are read in the order of their names, in which 10 comes before 9. A run that
    # goes on is a process of its own.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))
    assert solve.main([COARSE, "--tensorboard", "whole"]) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, at)
        assert solve.main([COARSE, "--from", "coarse", "--tensorboard", "parts"]) == 130
    assert solve.main([COARSE, "--resume", "--from", "coarse", "--tensorboard", "parts"]) == 0
    for run in ("train", "score"):
        whole, parts = (events(task / folder / "coarse" / run)[0] for folder in ("whole", "parts"))
        assert whole == parts


@needs_tensorboard
def test_a_full_disk_under_tensorboard_is_told_with_its_folder(task, monkeypatch, capfd):
    from tensorboard.summary.writer import event_file_writer

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(event_file_writer.RecordWriter, "write", full)
    hook = threading.excepthook
    assert solve.main([COARSE, "--tensorboard", "board"]) == 1
    said = capfd.readouterr().err
    assert "error: board/coarse: TensorBoard's files cannot be written: No space left on device. Make room" in said
    assert "Traceback" not in said and threading.excepthook is hook


def test_a_disk_too_small_for_snapshots_is_told_in_its_own_unit(task, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=700))
    assert solve.main([COARSE]) == 1
    assert re.search(
        r"700 bytes free, the snapshots of coarse need [1-9][0-9.]* KiB\. Make room", capsys.readouterr().err
    )


@needs_tensorboard
def test_steps_that_a_killed_run_made_after_its_snapshot_are_replaced(task):
    """The first run goes on to 5 behind its snapshot at 4 and dies."""

    class Killed(BaseException):
        pass

    from fcn_caffe.training.event_files import EventFiles

    def run(resume: bool, die_at: int) -> None:
        training = Training(read_stage(COARSE), resume=resume)

        def die(solver: Solver) -> None:
            if solver.iter == die_at:
                raise Killed

        training.solver.on_step.append(die)
        scored = bool(training.scores.at(training.solver.iter))
        with EventFiles(task / "board", training.solver, scored=scored) as board:
            training.on_scores.append(board.add_scores)
            training.run()

    with pytest.raises(Killed):
        run(False, 6)
    run(True, 0)
    assert [step for step, _ in events(task / "board/train")[0]["loss"]] == [*range(6)]
    assert [step for step, _ in events(task / "board/score")[0]["mean_iu"]] == [2, 4, 6]


@needs_tensorboard
def test_train_adds_the_solvers_own_tests(task):
    text = Path(COARSE).read_text().replace("test_interval: 999999999", "test_interval: 2")
    Path(COARSE).write_text(text.replace("display: 1\n", "").replace("max_iter: 6", "max_iter: 4"))
    assert train.main(["--solver", COARSE, "--tensorboard", "board"]) == 0
    state = "snapshot/coarse/train_iter_2.solverstate"
    assert train.main(["--solver", COARSE, "--snapshot", state, "--tensorboard", "board"]) == 0
    tests, _ = events(task / "board/test")
    assert [step for step, _ in tests["output/loss"]] == [2, 4]
    steps, _ = events(task / "board/train")
    assert [step for step, _ in steps["loss"]] == [*range(4)] and [step for step, _ in steps["gradient norm/conv"]] == [
        0
    ]


def test_without_the_flag_tensorboard_is_not_loaded(task, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "torch.utils.tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    solver = Training(read_stage(COARSE)).solver
    assert solver.before_update == solver.on_test == solver.on_display == []
    assert solve.main([COARSE, "--steps", "1"]) == 0
    assert not [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]


def test_what_cannot_be_written_is_refused_before_training(task, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for call in (
        lambda: solve.main([COARSE, "--tensorboard", "b"]),
        lambda: train.main(["--solver", COARSE, "--tensorboard", "b"]),
    ):
        assert call() == 1
        assert 'pip install "fcn-caffe[tensorboard]"' in capsys.readouterr().err
    assert not (task / "snapshot").exists()


@needs_tensorboard
def test_a_file_is_no_folder_for_tensorboard(task, capsys):
    (task / "taken").write_text("")
    assert solve.main([COARSE, "--tensorboard", "taken"]) == 1
    assert "--tensorboard taken: this is a file." in capsys.readouterr().err
    assert not (task / "snapshot").exists()


# -- patience, the gate --------------------------------------------------------------------------------------------


def falling(monkeypatch) -> None:
    """Let every scoring be worse than the one before."""
    add = ScoreTable.write

    def write(self):
        self.rows = [type(row)(**{**vars(row), "mean_iu": 1 / (1 + row.iteration)}) for row in self.rows]
        add(self)

    monkeypatch.setattr(ScoreTable, "write", write)


def test_patience_ends_a_stage_and_keeps_the_best(task, monkeypatch, capsys):
    falling(monkeypatch)
    assert solve.main([COARSE, "--patience", "1", "--max-iter", "6"]) == 0
    table = ScoreTable.read(task / "snapshot/coarse/scores.csv")
    assert [row.iteration for row in table.rows] == [2, 4] and table.tests_since_best() == 1
    assert "coarse: ends at iteration 4 of 6: no better mean IU in 1 tests" in capsys.readouterr().err
    best = Path("snapshot/coarse/train_iter_2.caffemodel").read_bytes()
    assert Path("weights/coarse.caffemodel").read_bytes() == best


def test_patience_that_does_not_run_out(task, monkeypatch):
    falling(monkeypatch)
    assert solve.main([COARSE, "--patience", "3"]) == 0
    assert [row.iteration for row in ScoreTable.read(task / "snapshot/coarse/scores.csv").rows] == [2, 4, 6]


def test_an_interrupted_stage_ends_by_patience_where_it_would_have(task, monkeypatch):
    falling(monkeypatch)
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        assert solve.main([COARSE, "--patience", "1"]) == 130
    assert solve.main([COARSE, "--patience", "1", "--resume"]) == 0
    assert [row.iteration for row in ScoreTable.read(task / "snapshot/coarse/scores.csv").rows] == [2, 4]


def test_the_gate_stays_shut_until_the_stage_is_better(task, capsys):
    assert solve.main([COARSE]) == 0
    scores = ScoreTable.read(task / "snapshot/coarse/scores.csv")
    scores.rows = [type(row)(**{**vars(row), "mean_iu": 0.999}) for row in scores.rows]
    scores.write()
    for _ in range(2):  # also where the stage's weights are there by now
        assert solve.main([FINE, "--gate"]) == 1
        message = capsys.readouterr().err.splitlines()[-1]
        assert "error: --gate: fine scores " in message and "not better than the 99.9 of coarse" in message
        assert "--from fine" in message
    scores.rows = [type(row)(**{**vars(row), "mean_iu": 0.0}) for row in scores.rows]
    scores.write()
    assert solve.main([FINE, "--gate"]) == 0


# -- lines ---------------------------------------------------------------------------------------------------------


def test_elsewhere_a_line_every_half_minute_says_the_time_left(tmp_path, monkeypatch):
    import io

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    screen = Screen(stream)
    with logging_to(tmp_path / "log.txt", screen):
        bar = screen.start("coarse", 100)
        for iteration in range(10, 31):
            bar.update(iteration, 0.5, 0.01)
            now[0] += 4
        bar.close()
        now[0] += 99
        bar.update(31, 0.5, 0.01)
    lines = [line.split("] ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == [
        "coarse: 18 of 100 iterations, loss 0.5  lr 0.01, 5 min 28 s left",
        "coarse: 26 of 100 iterations, loss 0.5  lr 0.01, 4 min 56 s left",
    ]


# -- the record ----------------------------------------------------------------------------------------------------


def test_the_record_has_what_a_page_needs(task):
    (task / "nets/classes.txt").write_text("0: ground\n1: thing\n")
    assert solve.main([COARSE]) == 0
    start, *tests, end = read_record(task / "snapshot/coarse/run.jsonl")
    assert (start["event"], start["iteration"], start["last"], start["solver"]) == ("start", 0, 6, COARSE)
    assert start["settings"] == Path(COARSE).read_text() and start["command"][-1] == COARSE
    assert start["versions"].keys() == {"fcn-caffe", "PyTorch", "Python"}
    assert [test["iteration"] for test in tests] == [2, 4, 6] and (end["event"], end["done"]) == ("end", True)
    rows = ScoreTable.read(task / "snapshot/coarse/scores.csv").rows
    for test, row in zip(tests, rows, strict=True):
        head = test["heads"]["score"]
        assert head["mean_iu"] == row.mean_iu == pytest.approx(np.mean(head["class_iu"]))
        assert head["classes"] == ["ground", "thing"] and ("confusion" in head) == test["best"]
    images = read_images(task / "snapshot/coarse/images.json")
    assert images["iteration"] == end["best"]
    assert {one["name"] for kind in ("best", "worst") for one in images[kind]} == {"4", "5"}
    assert images["best"][0]["mean_iu"] >= images["worst"][0]["mean_iu"]


def test_a_record_goes_on_behind_a_torn_line(task, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        assert solve.main([COARSE]) == 130
    path = task / "snapshot/coarse/run.jsonl"
    before = read_record(path)
    assert [event["event"] for event in before] == ["start", "test", "end"] and not before[-1]["done"]
    with open(path, "a") as file:
        file.write('{"event": "te')
    assert read_record(path) == before
    assert solve.main([COARSE, "--resume"]) == 0
    after = read_record(path)
    assert after[: len(before)] == before
    assert [(event["event"], event["iteration"]) for event in after[len(before) :]] == [
        ("start", 4),
        ("test", 4),
        ("test", 6),
        ("end", 6),
    ]


def test_damaged_records_are_refused_by_name(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps({"event": "start", "iteration": 0}) + "\nx\n")
    with pytest.raises(DataError, match=r"run.jsonl:2: no event of a run"):
        read_record(path)
    images = tmp_path / "images.json"
    images.write_text("[]")
    with pytest.raises(DataError, match=r"images.json: not the images of a run"):
        read_images(images)


# -- killed while a scoring is kept ---------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def is_call(number: int):
    calls = count(1)
    return lambda _: next(calls) == number


def is_deleted(name: str, number: int):
    """Whether a path is the first, second … file of a snapshot to be deleted that has a part of its name."""
    calls = count(1)
    return lambda path: path.name.startswith("train_iter") and name in path.name and next(calls) == number


@pytest.mark.parametrize(
    ("owner", "name", "is_then"),
    [
        (RunRecord, "add_scores", is_call(3)),
        (ScoreTable, "write", is_call(3)),
        (Path, "unlink", is_deleted("iter_4.solverstate", 1)),
        (Path, "unlink", is_deleted("iter_4.rngstate", 1)),
        (Path, "unlink", is_deleted(".caffemodel", 2)),
    ],
    ids=[
        "before the images",
        "before the table",
        "before the deletions",
        "between two states",
        "between weights and record",
    ],
)
def test_a_run_that_was_killed_while_it_kept_a_scoring(tmp_path, monkeypatch, owner, name, is_then):
    def run(folder: Path, *words: str) -> dict[str, bytes]:
        monkeypatch.chdir(folder)
        assert solve.main([COARSE, *words]) == 0
        kept = (folder / "snapshot/coarse").iterdir()
        return {path.name: path.read_bytes() for path in kept if path.name not in ("log.txt", "run.jsonl")}

    original = getattr(owner, name)

    def die_then(self, *arguments, **options):
        if is_then(self):
            raise Killed
        return original(self, *arguments, **options)

    whole, killed = write_stages(tmp_path / "whole"), write_stages(tmp_path / "killed")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, die_then)
        run(killed)
    assert run(killed, "--resume") == run(whole)
