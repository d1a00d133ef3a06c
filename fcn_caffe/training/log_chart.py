"""Charts of training logs: the eight that Caffe's plot_training_log.py draws."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.errors import DataError, FcnCaffeError
from fcn_caffe.host.atomic import atomic_write, check_place
from fcn_caffe.training.log_parser import Row, TrainingLog

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Chart", "Curve", "curves", "draw_chart", "find_chart"]

Curve = tuple[str, list[float], list[float]]  # name, x, y

_SHORT_WORDS = {"lr": "learning rate", "acc": "accuracy", "iterations": "iters", "time": "seconds"}


TEST_ACCURACY, TEST_LOSS = "Test accuracy", "Test loss"
LEARNING_RATE, TRAIN_LOSS = "Train learning rate", "Train loss"
ITERATIONS, SECONDS = "Iters", "Seconds"


class Chart(Enum):
    """A chart: its number in plot_training_log.py, what it shows (y), and against what (x)."""

    TEST_ACCURACY_BY_ITERATION = 0, TEST_ACCURACY, ITERATIONS
    TEST_ACCURACY_BY_TIME = 1, TEST_ACCURACY, SECONDS
    TEST_LOSS_BY_ITERATION = 2, TEST_LOSS, ITERATIONS
    TEST_LOSS_BY_TIME = 3, TEST_LOSS, SECONDS
    LEARNING_RATE_BY_ITERATION = 4, LEARNING_RATE, ITERATIONS
    LEARNING_RATE_BY_TIME = 5, LEARNING_RATE, SECONDS
    TRAIN_LOSS_BY_ITERATION = 6, TRAIN_LOSS, ITERATIONS
    TRAIN_LOSS_BY_TIME = 7, TRAIN_LOSS, SECONDS

    def __init__(self, number: int, subject: str, against: str) -> None:
        self.number, self.subject, self.against = number, subject, against

    @property
    def title(self) -> str:
        """The chart's title in Caffe's script."""
        return f"{self.subject} vs. {self.against}"

    @property
    def is_of_test(self) -> bool:
        """Whether the chart shows the test nets, not the train net."""
        return self.subject in (TEST_ACCURACY, TEST_LOSS)


def find_chart(text: str) -> Chart | None:
    """Return the chart that a number means, or a title as in `train-loss-iters`; None where there is none."""
    if text.isascii() and text.isdigit():
        return next((chart for chart in Chart if chart.number == int(text)), None)
    return next((chart for chart in Chart if _words(chart.title) == _words(text)), None)


def _words(title: str) -> list[str]:
    words = [_SHORT_WORDS.get(word, word) for word in re.findall(r"[a-z]+", title.lower()) if word != "vs"]
    return " ".join(words).split()


def curves(log: TrainingLog, chart: Chart, outputs: Sequence[str] = ()) -> list[Curve]:
    """Return the curves of one log.

    The accuracy is the output `accuracy`, else every output with `acc` in its name; so is the test loss. The train loss
    is the smoothed one.

    Args:
        log: the log's rows.
        chart: what to draw.
        outputs: the net's outputs to draw instead of the usual ones.
    Raises:
        DataError: the log has nothing to draw.
    """
    sets = {number: rows for number, rows in sorted(log.tests.items()) if rows} if chart.is_of_test else {0: log.train}
    is_by_time = chart.against == SECONDS
    drawn: list[Curve] = []
    for number, rows in sets.items():
        prefix = f"net {number}: " if number else ""
        for name, values in _series(rows, chart, outputs).items():
            places = [row.seconds if is_by_time else float(row.iteration) for row in rows]
            pairs = [(x, y) for x, y in zip(places, values, strict=True) if x is not None and y is not None]
            if pairs:
                drawn.append((prefix + name, [x for x, _ in pairs], [y for _, y in pairs]))
    if not drawn:
        known = dict.fromkeys(name for rows in sets.values() for row in rows for name in row.outputs)
        raise DataError(
            f"nothing to draw for '{chart.title}'{' with seconds' if is_by_time and sets else ''}. "
            f"{'Test' if chart.is_of_test else 'Train'} outputs of the log: {', '.join(known) or 'none'}. "
            "Name some with --output."
        )
    return drawn


def _series(rows: Sequence[Row], chart: Chart, outputs: Sequence[str]) -> Mapping[str, list[float | None]]:
    """Return the values of each curve, one a row, None where a row has none."""
    if chart.subject == LEARNING_RATE:
        return {"learning rate": [row.rate for row in rows]}
    known = list(dict.fromkeys(name for row in rows for name in row.outputs))
    has_loss = any(row.loss is not None for row in rows)
    if outputs:
        names = [name for name in known if name in outputs]
    elif not chart.is_of_test and has_loss:
        names = []
    else:
        names = _usual_outputs(known, "accuracy" if chart.subject == TEST_ACCURACY else "loss")
    if not names and not outputs and chart.subject != TEST_ACCURACY and has_loss:
        return {"loss": [row.loss for row in rows]}
    return {name: [row.outputs.get(name) for row in rows] for name in names}


def _usual_outputs(known: Sequence[str], what: str) -> list[str]:
    """Return the outputs that mean accuracy, or loss."""
    if what in known:
        return [what]
    part = "acc" if what == "accuracy" else what
    names = [name for name in known if part in name.lower()]
    if not names and what == "accuracy":
        names = [name for name in known if re.fullmatch(r"score\d+", name)][:1]  # what old Caffe calls them
    return names


def draw_chart(
    logs: Mapping[str, TrainingLog], chart: Chart, path: str | os.PathLike[str], outputs: Sequence[str] = ()
) -> None:
    """Draw a chart of several logs into a file. The file is whole, or not there.

    Args:
        logs: the logs by their names in the legend.
        chart: what to draw.
        path: the picture to write; its ending gives the format.
        outputs: the net's outputs to draw instead of the usual ones.
    Raises:
        FcnCaffeError: matplotlib is not installed, or does not know the format.
        DataError: a log has nothing to draw, or the folder is not there.
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
    _draw_curves(figure.subplots(), chart, drawn)
    ending = Path(path).suffix.removeprefix(".").lower()
    if ending not in canvas.get_supported_filetypes():
        known = ", ".join(sorted(canvas.get_supported_filetypes()))
        raise FcnCaffeError(f"{os.fspath(path)}: the ending says the format. matplotlib knows: {known}.")
    with atomic_write(path) as file:
        figure.savefig(file, format=ending, dpi=120)


def _draw_curves(axes: Axes, chart: Chart, drawn: Sequence[tuple[str, Sequence[Curve]]]) -> None:
    for name, lines in drawn:
        for title, x, y in lines:
            label = name if len(lines) == 1 else f"{name}: {title}"
            # A point alone makes no line.
            axes.plot(x, y, label=label, linewidth=1.2, marker="o" if len(x) < 30 else None, markersize=3)
    axes.set_title(chart.title)
    axes.set_xlabel(chart.against)
    axes.set_ylabel(chart.subject)
    axes.grid(alpha=0.3)
    if not any(math.isfinite(value) for _, lines in drawn for _, _, y in lines for value in y):
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center")
    axes.legend(fontsize="small")
