"""What is known of a run, from the files that it left: records, logs and tables of scores."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.metrics import METRICS
from fcn_caffe.training.log_parser import Row, TrainingLog, parse_log
from fcn_caffe.training.run_record import IMAGES, RECORD, read_images, read_record
from fcn_caffe.training.stage import ScoreTable

__all__ = ["Head", "Run", "StageRun", "Test", "read_run"]

LOG, SCORES, SNAPSHOTS = "log.txt", "scores.csv", "snapshot"


@dataclass(frozen=True)
class Head:
    """The scores of one head in one test, as fractions of 1; None where a value is not a number."""

    metrics: Mapping[str, float | None]
    loss: float | None
    class_iu: Sequence[float | None] = ()
    class_accuracy: Sequence[float | None] = ()
    classes: Sequence[str] | None = None
    confusion: Sequence[Sequence[int]] | None = None

    @property
    def names(self) -> list[str]:
        """The classes' names, or their numbers."""
        return list(self.classes or map(str, range(len(self.class_iu))))


@dataclass(frozen=True)
class Test:
    """One scoring of a stage."""

    iteration: int
    heads: Mapping[str, Head]

    @property
    def mean_iu(self) -> float:
        """The mean over the heads; what the best test is chosen by."""
        known = [head.metrics["mean_iu"] or 0.0 for head in self.heads.values()]
        return sum(known) / len(known)


@dataclass
class StageRun:
    """One stage, or one training by `train`.

    Attributes:
        name: the stage's.
        folder: where its files lie.
        starts: what the record says of each process that trained it, in order; none of an older run.
        tests: the scorings, in the order of iterations.
        losses: the smoothed training loss by iteration.
        rates: the learning rate by iteration.
        solver_tests: the outputs of the solver's own tests: points by name.
        end: what the last process said at its end; None where it did not come to say it.
        images: the best and the worst images, and the iteration that they are of.
        seconds: how long it was trained, as far as that is known.
    """

    name: str
    folder: Path
    starts: list[dict[str, Any]] = field(default_factory=list)
    tests: list[Test] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    rates: list[tuple[int, float]] = field(default_factory=list)
    solver_tests: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    end: dict[str, Any] | None = None
    images: dict[str, Any] = field(default_factory=lambda: {"best": [], "worst": []})
    seconds: float = 0.0

    @property
    def best(self) -> Test | None:
        """The test of the highest mean IU, the first of equals."""
        return max(self.tests, key=lambda test: test.mean_iu, default=None)

    @property
    def reached(self) -> int:
        """The last iteration that anything is known of."""
        known = [test.iteration for test in self.tests] + [at for at, _ in self.losses[-1:]]
        known += [int(event["iteration"]) for event in (*self.starts, self.end or {"iteration": 0})]
        return max(known, default=0)

    @property
    def last(self) -> int | None:
        """The iteration that the stage is trained to; None if unknown."""
        return int(self.starts[-1]["last"]) if self.starts else None

    @property
    def state(self) -> str:
        """How far the stage came, in words."""
        of = "" if self.last is None else f" of {self.last:,}"
        if self.end is not None and self.end["done"]:
            return "done" if self.reached == self.last else f"ended early, at iteration {self.reached:,}{of}"
        if self.end is not None:
            return f"stopped at iteration {self.reached:,}{of}"
        if self.starts:
            return f"interrupted, or still running: iteration {self.reached:,}{of}"
        return f"iteration {self.reached:,}"


@dataclass(frozen=True)
class Run:
    """The stages of a run in the order of training, and where it lies."""

    place: Path
    stages: Sequence[StageRun]

    @property
    def name(self) -> str:
        """The name of the task's folder, or of the one stage."""
        return self.stages[0].name if len(self.stages) == 1 else self.place.resolve().name


def read_run(place: Path) -> Run:
    """Read what a run left.

    Args:
        place: the folder of a task or of a working directory, which has `snapshot/`; that folder; the folder of one
            stage in it; or a training log.
    Raises:
        DataError: there is no run, or one of its files is damaged.
    """
    if place.is_file():
        return Run(place.parent, [_read_log_alone(place)])
    if not place.is_dir():
        raise DataError(f"{place}: no such folder or log. Give a task's folder, or snapshot/NAME of a stage.")
    if _is_stage(place):
        return Run(place, [_read_stage(place)])
    folder = place / SNAPSHOTS if (place / SNAPSHOTS).is_dir() else place
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_stage(path)]
    if not folders:
        raise DataError(
            f"{place}: no run here: {folder} has no folder with {LOG}, {RECORD} or {SCORES}. Give the folder that "
            "`solve` worked in, snapshot/NAME of one stage, or a log that `train --log` wrote."
        )
    stages = sorted((_read_stage(path) for path in folders), key=_order)
    return Run(place.parent if folder is place and place.name == SNAPSHOTS else place, stages)


def _is_stage(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (LOG, RECORD, SCORES))


def _order(stage: StageRun) -> tuple[float, str]:
    if stage.starts:
        return _moment(stage.starts[0]).timestamp(), stage.name
    files = (stage.folder / name for name in (LOG, SCORES))
    return min(path.stat().st_mtime for path in files if path.is_file()), stage.name


def _moment(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(event["time"]))


# -- one stage -----------------------------------------------------------------------------------------------------


def _read_stage(folder: Path) -> StageRun:
    stage = StageRun(folder.resolve().name, folder)
    events = read_record(folder / RECORD)
    if events:
        try:
            _take_events(stage, events)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"{folder / RECORD}: not as `solve` writes it ({error!r}). Move it away.") from error
    else:
        stage.tests = _tests_of_table(ScoreTable.read(folder / SCORES))
    try:
        stage.images = _checked_images(read_images(folder / IMAGES))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{folder / IMAGES}: not as `solve` writes it ({error!r}). Move it away.") from error
    if (folder / LOG).is_file():
        _take_log(stage, folder / LOG)
    return stage


def _take_events(stage: StageRun, events: Sequence[dict[str, Any]]) -> None:
    """Fill in what the record says. A process that goes on takes the place of what came after its iteration."""
    tests: dict[int, Test] = {}
    began: datetime | None = None
    before: datetime | None = None
    for event in events:
        now = _moment(event)
        if event["event"] == "start":
            stage.name, stage.end = str(event["stage"]), None
            stage.starts.append(_checked_start(event))
            tests = {at: test for at, test in tests.items() if at <= event["iteration"]}
            began = now
        elif event["event"] == "test":
            heads = {str(name): _head(scores) for name, scores in event["heads"].items()}
            if not heads:
                raise ValueError("a test without heads")
            tests[event["iteration"]] = Test(event["iteration"], heads)
        elif event["event"] == "end":
            stage.end = {**event, "done": bool(event["done"])}
        if before is not None and began is not None and event["event"] != "start":
            stage.seconds += (now - before).total_seconds()
        before = now
    stage.tests = [tests[at] for at in sorted(tests)]


def _checked_start(event: dict[str, Any]) -> dict[str, Any]:
    texts = {name: str(event[name]) for name in ("time", "stage", "solver", "net", "settings", "result", "device")}
    lists = {name: [str(word) for word in event[name]] for name in ("sources", "command")}
    numbers = {name: _whole(event[name]) for name in ("iteration", "last", "step", "processes", "threads")}
    versions = {str(name): str(version) for name, version in event["versions"].items()}
    return {**texts, **lists, **numbers, "versions": versions, "shell": shlex.join(lists["command"])}


def _head(scores: Mapping[str, Any]) -> Head:
    classes, confusion = scores.get("classes"), scores.get("confusion")
    if len(scores["class_iu"]) != len(scores["class_accuracy"]):
        raise ValueError(f"{len(scores['class_iu'])} classes and {len(scores['class_accuracy'])}")
    return Head(
        {name: _value(scores[name]) for name in METRICS},
        _value(scores["loss"]),
        [_value(value) for value in scores["class_iu"]],
        [_value(value) for value in scores["class_accuracy"]],
        None if classes is None else [str(name) for name in classes],
        None if confusion is None else [[_count(count) for count in row] for row in confusion],
    )


def _count(value: float) -> int:
    if int(value) < 0:
        raise ValueError(f"{value} pixels")
    return _whole(value)


def _whole(value: float) -> int:
    if abs(int(value)) >= 2**63:
        raise ValueError(f"a number of {int(value).bit_length()} bits")
    return int(value)


def _value(value: float | None) -> float | None:
    return None if value is None else float(value)


def _checked_images(images: dict[str, Any]) -> dict[str, Any]:
    """Return the images with each value of its type; so that a page of others' files is no surprise."""
    checked: dict[str, Any] = {"iteration": _whole(images.get("iteration", 0))}
    for kind in ("best", "worst"):
        checked[kind] = [
            {
                **{name: str(one[name]) for name in ("name", "image", "truth", "answer")},
                "mean_iu": float(one["mean_iu"]),
                "size": [_whole(side) for side, _ in zip(one["size"], ("width", "height"), strict=True)],
            }
            for one in images[kind]
        ]
    return checked


def _tests_of_table(table: ScoreTable) -> list[Test]:
    """Return what scores.csv has of an older run: no classes."""
    tests = []
    for iteration in dict.fromkeys(row.iteration for row in table.rows):
        heads = {
            row.head: Head({name: _finite(getattr(row, name)) for name in METRICS}, _finite(row.loss))
            for row in table.at(iteration)
        }
        tests.append(Test(iteration, heads))
    return tests


def _finite(value: float) -> float | None:
    return value if value == value else None


# -- logs ----------------------------------------------------------------------------------------------------------


def _take_log(stage: StageRun, path: Path) -> None:
    """Fill in the curves; a log that ends before the first display has none."""
    try:
        log = parse_log(path)
    except DataError:
        return
    begin = stage.starts[0]["iteration"] if stage.starts else 0
    rows = log.train
    if stage.starts:  # the log may have earlier runs of the stage in it: take the last that began anew
        fresh = [at for at, row in enumerate(rows) if row.iteration == begin]
        rows = rows[fresh[-1] :] if fresh else rows
    _take_curves(stage, log, rows)


def _take_curves(stage: StageRun, log: TrainingLog, rows: Sequence[Row]) -> None:
    """Fill in the curves of a log; `rows` are those of its displays that count."""
    stage.losses = sorted({row.iteration: row.loss for row in rows if row.loss is not None}.items())
    stage.rates = sorted({row.iteration: row.rate for row in rows if row.rate is not None}.items())
    stage.solver_tests = _solver_tests(log, stage)


def _solver_tests(log: TrainingLog, stage: StageRun) -> dict[str, list[tuple[int, float]]]:
    """Return the outputs of the solver's own tests. What `solve` logs of its scorings is not of them."""
    scored = {test.iteration for test in stage.tests}
    points: dict[str, dict[int, float]] = {}
    for number, rows in log.tests.items():
        for row in rows:
            if row.iteration in scored or any(name.rpartition("/")[2] in METRICS for name in row.outputs):
                continue
            for name, value in row.outputs.items():
                points.setdefault(name if number == 0 else f"{name}, net {number}", {})[row.iteration] = value
    return {name: sorted(values.items()) for name, values in points.items()}


def _read_log_alone(path: Path) -> StageRun:
    stage = StageRun(path.stem, path.parent)
    log = parse_log(path)
    _take_curves(stage, log, log.train)
    times = [row.seconds for row in log.train if row.seconds is not None]
    stage.seconds = max(times, default=0.0) - min(times, default=0.0)
    return stage
