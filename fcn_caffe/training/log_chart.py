"""Curves from training logs: Caffe's eight charts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcn_caffe.errors import DataError, FcnCaffeError
from fcn_caffe.host.atomic import atomic_write, check_place
from fcn_caffe.training.log_parser import Row, TrainingLog

# By number, as Caffe's plot_training_log.py has them.
CHARTS = (
    "Test accuracy vs. Iters",
    "Test accuracy vs. Seconds",
    "Test loss vs. Iters",
    "Test loss vs. Seconds",
    "Train learning rate vs. Iters",
    "Train learning rate vs. Seconds",
    "Train loss vs. Iters",
    "Train loss vs. Seconds",
)

Curve = tuple[str, list[float], list[float]]


def chart_number(text: str) -> int | None:
    """The number of a chart given by number, or by name as in `train-loss-iters`; None if it is not one."""
    if text.isascii() and text.isdigit():
        return int(text) if int(text) < len(CHARTS) else None
    found = [number for number, name in enumerate(CHARTS) if _words(name) == _words(text)]
    return found[0] if found else None


def _words(name: str) -> list[str]:
    short = {"lr": "learning rate", "acc": "accuracy", "iterations": "iters", "time": "seconds"}
    words = [short.get(word, word) for word in re.findall(r"[a-z]+", name.lower()) if word != "vs"]
    return " ".join(words).split()


def curves(log: TrainingLog, chart: int, outputs: Sequence[str] = ()) -> list[Curve]:
    """The curves of one log: a name, x and y each. outputs: which of the net's to draw instead of the usual ones.

    The usual accuracy is the output `accuracy`, else all whose names have `acc` in them; the loss likewise; the
    training loss is the smoothed one. Raises: DataError when the log does not have what is asked for.
    """
    test, rate, seconds = chart < 4, chart in (4, 5), chart % 2 == 1
    sets = {number: rows for number, rows in sorted(log.tests.items()) if rows} if test else {0: log.train}
    found: list[Curve] = []
    for number, rows in sets.items():
        prefix = f"net {number}: " if number else ""
        for name, values in _series(rows, test, rate, "acc" if chart < 2 else "loss", outputs).items():
            places = [row.seconds if seconds else float(row.iteration) for row in rows]
            pairs = [(x, y) for x, y in zip(places, values, strict=True) if x is not None and y is not None]
            if pairs:
                found.append((prefix + name, [x for x, _ in pairs], [y for _, y in pairs]))
    if not found:
        known = dict.fromkeys(name for rows in sets.values() for row in rows for name in row.outputs)
        raise DataError(
            f"nothing to draw for '{CHARTS[chart]}'{' with seconds' if seconds and sets else ''}. "
            f"{'Test' if test else 'Train'} outputs of the log: {', '.join(known) or 'none'}. Name some with --output."
        )
    return found


def _series(
    rows: Sequence[Row], test: bool, rate: bool, wanted: str, outputs: Sequence[str]
) -> Mapping[str, list[float | None]]:
    if rate:
        return {"learning rate": [row.rate for row in rows]}
    known = list(dict.fromkeys(name for row in rows for name in row.outputs))
    if outputs:
        names = [name for name in known if name in outputs]
    elif not test and any(row.loss is not None for row in rows):
        return {"loss": [row.loss for row in rows]}
    else:
        exact = "accuracy" if wanted == "acc" else wanted
        names = [exact] if exact in known else [name for name in known if wanted in name.lower()]
        if not names and wanted == "acc":
            names = [name for name in known if re.fullmatch(r"score\d+", name)][:1]  # what old Caffe calls them
        if not names and wanted == "loss" and any(row.loss is not None for row in rows):
            return {"loss": [row.loss for row in rows]}
    return {name: [row.outputs.get(name) for row in rows] for name in names}


def draw_chart(
    logs: Mapping[str, TrainingLog], chart: int, path: str | os.PathLike[str], outputs: Sequence[str] = ()
) -> None:
    """Draw a chart of several logs, by the names in the legend, into a file whose ending says the format.

    Whole or not at all. Raises: FcnCaffeError when matplotlib is not installed or does not know the format;
    DataError as `curves`, or when there is no such folder.
    """
    check_place(path)
    drawn = []
    for name, log in logs.items():
        try:
            drawn.append((name, curves(log, chart, outputs)))
        except DataError as error:
            raise error.named(name) from None
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FcnCaffeError("matplotlib is not there to draw with. Install it: pip install fcn-caffe[plot].") from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    for name, found in drawn:
        for title, x, y in found:
            label = name if len(found) == 1 else f"{name}: {title}"
            # A point alone makes no line.
            axes.plot(x, y, label=label, linewidth=1.2, marker="o" if len(x) < 30 else None, markersize=3)
    subject, against = CHARTS[chart].split(" vs. ")
    axes.set_title(CHARTS[chart])
    axes.set_xlabel(against)
    axes.set_ylabel(subject)
    axes.grid(alpha=0.3)
    if not any(math.isfinite(value) for _, found in drawn for _, _, y in found for value in y):
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center")
    axes.legend(fontsize="small")
    ending = Path(path).suffix.removeprefix(".").lower()
    if ending not in canvas.get_supported_filetypes():
        known = ", ".join(sorted(canvas.get_supported_filetypes()))
        raise FcnCaffeError(f"{os.fspath(path)}: the ending says the format. matplotlib knows: {known}.")
    with atomic_write(path) as file:
        figure.savefig(file, format=ending, dpi=120)
