"""Writes the page of a run: one HTML file that needs nothing else, and in which nothing can act."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from fcn_caffe.evaluation.metrics import METRICS, NAMES
from fcn_caffe.host.charts import STYLES, chart
from fcn_caffe.host.pages import document, package_text, shared_style, templates
from fcn_caffe.host.pictures import palette
from fcn_caffe.host.progress import duration
from fcn_caffe.training.report.facts import Head, StageRun, read_run

__all__ = ["write_run"]

_ROOM = "fcn_caffe.training.report"
MOST_DRAWN = 40  # classes of a confusion matrix that is drawn; of larger ones the most frequent mistakes are listed
MISTAKES = 10  # listed
CELL, LETTER = 24, 7  # pixels of a cell's side, and of a letter's width


class StageRow(NamedTuple):
    """A line of the table of stages. gain: of mean IU over the stage it started from, in points."""

    stage: StageRun
    metrics: list[str]
    gain: float | None
    started_from: str


class Mistake(NamedTuple):
    """Pixels of one class that were taken for another. share: of the true class's pixels."""

    truth: str
    answer: str
    pixels: int
    share: float


class ClassRow(NamedTuple):
    """A line of the table of classes. pixels: its share of the scored pixels; None where they were not counted."""

    name: str
    colour: str
    iu: float | None
    accuracy: float | None
    pixels: float | None


class Cell(NamedTuple):
    """A field of the drawn confusion matrix: where it is, how dark, and what it says."""

    x: int
    y: int
    strength: float
    text: str
    title: str


class Confusion(NamedTuple):
    """A confusion matrix as it is drawn."""

    width: int
    height: int
    left: int
    top: int
    names: list[tuple[int, str]]
    cells: list[Cell]


def write_run(place: Path) -> str:
    """Return the page of a run.

    Args:
        place: as `read_run` takes it.

    Raises:
        DataError: as `read_run`.
    """
    run = read_run(place)
    environment = templates(_ROOM)
    environment.filters |= {"per_cent": _per_cent, "duration": duration, "moment": _moment}
    return document(
        environment,
        "run.html",
        shared_style() + package_text(_ROOM, "page.css"),
        Markup(),
        run=run,
        rows=_stage_rows(run.stages),
        names=NAMES,
        metrics=METRICS,
        overview=_overview(run.stages),
        curves=_curves,
        chart=chart,
        class_rows=_class_rows,
        confusion=_confusion,
        mistakes=_mistakes,
        cell=CELL,
    )


def _per_cent(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value * 100:.1f}"


def _moment(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text):%d %B %Y, %H:%M} UTC"
    except ValueError:
        return text


# -- stages and curves ---------------------------------------------------------------------------------------------


def _stage_rows(stages: Sequence[StageRun]) -> list[StageRow]:
    by_result = {stage.starts[-1]["result"]: stage for stage in stages if stage.starts}
    rows = []
    for stage in stages:
        sources = stage.starts[-1]["sources"] if stage.starts else []
        before = next((by_result[path].best for path in sources if path in by_result), None)
        best = stage.best
        gain = None if before is None or best is None else (best.mean_iu - before.mean_iu) * 100
        heads = list(best.heads.values()) if best is not None else []
        metrics = [", ".join(_per_cent(head.metrics[name]) for head in heads) or "–" for name in METRICS]
        rows.append(StageRow(stage, metrics, gain, ", ".join(sources) or "–"))
    return rows


def _overview(stages: Sequence[StageRun]) -> dict[str, Any] | None:
    """Return the curve of mean IU of all stages, where more than one was scored."""
    lines = {stage.name: [(test.iteration, test.mean_iu * 100) for test in stage.tests] for stage in stages}
    lines = {name: points for name, points in lines.items() if points}
    if not 1 < len(lines) <= STYLES:
        return None
    return {"title": "Mean IU of the stages", "x": "iteration of the stage", "y": "mean IU, per cent", "lines": lines}


def _curves(stage: StageRun) -> list[dict[str, Any]]:
    """Return the curves of a stage that have points."""
    losses: dict[str, Any] = {"training, smoothed": stage.losses}
    scores: dict[str, Any] = {}
    for name in dict.fromkeys(head for test in stage.tests for head in test.heads):
        of = "" if name == "score" else f" ({name})"
        heads = [(test.iteration, test.heads[name]) for test in stage.tests if name in test.heads]
        losses[f"test{of}"] = [(at, head.loss) for at, head in heads if head.loss is not None]
        for metric in METRICS:
            values = [(at, head.metrics[metric]) for at, head in heads]
            scores[NAMES[metric] + of] = [(at, value * 100) for at, value in values if value is not None]
    curves = [
        ("Scores", "per cent", scores),
        ("Loss", "loss", losses),
        ("The solver's own tests", "output", dict(stage.solver_tests)),
        ("Learning rate", "rate", {"base rate": stage.rates}),
    ]
    made = []
    for title, y, lines in curves:
        lines = {name: points for name, points in lines.items() if points}
        if lines:
            made.append({"title": title, "x": "iteration", "y": y, "lines": lines})
    return made


# -- classes -------------------------------------------------------------------------------------------------------


def _class_rows(head: Head) -> list[ClassRow]:
    """Return the classes, the worst first."""
    colours = [f"rgb({red},{green},{blue})" for red, green, blue in palette().tolist()]
    totals = [sum(row) for row in head.confusion] if head.confusion else []
    every = sum(totals)
    rows = [
        ClassRow(
            name,
            colours[at % len(colours)],
            head.class_iu[at],
            head.class_accuracy[at],
            totals[at] / every if every and at < len(totals) else None,
        )
        for at, name in enumerate(head.names[: len(head.class_iu)])
    ]
    return sorted(rows, key=lambda row: (row.iu is None, row.iu or 0.0))


def _mistakes(head: Head) -> list[Mistake]:
    """Return the mistakes of most pixels."""
    names, found = head.names, []
    for at, row in enumerate(head.confusion or ()):
        total = sum(row)
        found += [
            Mistake(names[at], names[other], count, count / total)
            for other, count in enumerate(row[: len(names)])
            if count and other != at and at < len(names)
        ]
    return sorted(found, key=lambda mistake: -mistake.pixels)[:MISTAKES]


def _confusion(head: Head) -> Confusion | None:
    """Lay out the confusion matrix; None where there is none, or it has too many classes to draw."""
    counts, names = head.confusion, head.names
    if not counts or len(counts) > MOST_DRAWN or len(names) != len(counts):
        return None
    short = [name if len(name) <= 18 else f"{name[:17]}…" for name in names]
    room = max(map(len, short)) * LETTER + 12
    cells = []
    for at, row in enumerate(counts):
        total = sum(row)
        for other, count in enumerate(row[: len(counts)]):
            share = count / total if total else 0.0
            text = f"{share * 100:.0f}" if share >= 0.005 else ""
            title = f"{names[at]} taken for {names[other]}: {count:,} pixels, {share:.1%}"
            # The square root shows the small confusions, which are what one looks for.
            cells.append(Cell(room + other * CELL, room + at * CELL, round(share**0.5, 3), text, title))
    side = room + len(counts) * CELL + 2
    return Confusion(side, side, room, room, [(room + at * CELL, name) for at, name in enumerate(short)], cells)
