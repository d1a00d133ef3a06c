"""What a stage leaves of its run beside log and scores: run.jsonl, an event a line, and images.json."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import fcn_caffe
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.metrics import Scores
from fcn_caffe.evaluation.score import class_names
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.net.net import Net
from fcn_caffe.net.rewrite.tuned import processor_name
from fcn_caffe.training.stage import MOST_ITERATIONS, Scoring, Training

__all__ = ["IMAGES", "RECORD", "RunRecord", "read_images", "read_record"]

RECORD, IMAGES = "run.jsonl", "images.json"


class RunRecord:
    """Writes the record of one stage; `training.on_scores.append(record.add_scores)`.

    A line is written whole or not at all: what an earlier process left of a last one is cut off.

    Args:
        training: the stage's training, before its first step.
        command: the words that repeat the run.
    """

    def __init__(self, training: Training, command: Sequence[str]) -> None:
        self.training = training
        self.path = training.stage.folder / RECORD
        if not training.solver.iter:
            for path in (self.path, training.stage.folder / IMAGES):
                path.unlink(missing_ok=True)  # of a run that this one replaces
        _cut_torn_line(self.path)
        self._start(command)

    def _start(self, command: Sequence[str]) -> None:
        stage, solver = self.training.stage, self.training.solver
        show = stage.paths.seen_from_root
        on_gpu = solver.device.type == "cuda"
        self._add(
            "start",
            stage=stage.name,
            solver=str(show(stage.solver)),
            net=str(show(stage.net)),
            sources=[str(show(path)) for path in stage.sources],
            result=str(show(stage.result)),
            last=stage.last,
            step=stage.step,
            settings=stage.solver.read_text(encoding="utf-8", errors="replace"),
            command=list(command),
            processes=self.training.ranks.count,
            device=torch.cuda.get_device_name(solver.device) if on_gpu else processor_name(),
            threads=torch.get_num_threads(),
            versions={
                "fcn-caffe": fcn_caffe.__version__,
                "PyTorch": torch.__version__,
                "Python": platform.python_version(),
            },
        )

    def add_scores(self, scoring: Scoring) -> None:
        """Add a scoring, with the confusion matrix where it is the best one; keep the images of the best."""
        net = self.training.solver.test_nets[0]
        heads = {}
        for head, scores in scoring.scores.items():
            heads[head] = _scores(scores, scoring.is_best)
            heads[head]["classes"] = _class_names(net, len(scores.class_iu))
        self._add("test", heads=heads, best=scoring.is_best)
        if scoring.is_best:
            with atomic_write(self.training.stage.folder / IMAGES, "w") as file:
                json.dump({"iteration": scoring.iteration, **scoring.ends}, file, allow_nan=False)

    def end(self, done: bool) -> None:
        """Add that the run came to its end, or was stopped."""
        self._add("end", done=done, best=self.training.scores.best())

    def _add(self, event: str, **facts: object) -> None:
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = {"event": event, "time": time, "iteration": self.training.solver.iter, **facts}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def _class_names(net: Net, classes: int) -> list[str] | None:
    try:
        return class_names(net, classes)
    except DataError:  # a list that cannot be read is no reason to end a training
        return None


def _scores(scores: Scores, with_confusion: bool) -> dict[str, Any]:
    """Return scores as JSON holds them; None where a value is not a number."""
    record: dict[str, Any] = {name: _number(value) for name, value in scores.summary().items()}
    record["loss"] = None if scores.loss is None else _number(scores.loss)
    record["class_iu"], record["class_accuracy"] = _numbers(scores.class_iu), _numbers(scores.class_accuracy)
    if with_confusion and scores.confusion is not None:
        record["confusion"] = scores.confusion.tolist()
    return record


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_number(float(value)) for value in values]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cut_torn_line(path: Path) -> None:
    """Cut off what a process that was killed left of a last line."""
    if path.is_file():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)


def read_record(path: Path) -> list[dict[str, Any]]:
    """Read a record's events in their order; none where there is no file. A torn last line is left out.

    Raises:
        DataError: the file is no such record; names the line.
    """
    if not path.is_file():
        return []
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    events = []
    for number, line in enumerate(lines, 1):
        event = _parse(line)
        if not isinstance(event, dict) or not _is_iteration(event.get("iteration")) or "event" not in event:
            raise DataError(f"{path}:{number}: no event of a run. The file is damaged: move it away.")
        events.append(event)
    return events


def _is_iteration(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= MOST_ITERATIONS


def read_images(path: Path) -> dict[str, Any]:
    """Read the images of a run's best scoring; none where there is no file.

    Raises:
        DataError: the file is no such file.
    """
    if not path.is_file():
        return {"best": [], "worst": []}
    images = _parse(path.read_text(encoding="utf-8", errors="replace"))
    if not isinstance(images, dict) or not {"iteration", "best", "worst"} <= images.keys():
        raise DataError(f"{path}: not the images of a run. The file is damaged: move it away.")
    return images


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
