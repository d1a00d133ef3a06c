"""Log lines as Caffe's glog writes them, so that its log parsers read ours."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

logger = logging.getLogger("fcn_caffe.solver")

# A line a value, as Caffe prints outputs; an unread score map would be millions of lines.
_MOST_VALUES = 1000

_LETTERS = {logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}


class GlogFormatter(logging.Formatter):
    """`I1121 05:12:33.123456 12345 solver.cpp:239] message`. A record's `place` stands for the source line."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1e6)
        thread = threading.get_native_id()
        place = getattr(record, "place", f"{record.filename}:{record.lineno}")
        letter = _LETTERS.get(record.levelno, "I")
        return f"{letter}{when}.{micros:06} {thread:5} {place}] {super().format(record)}"


class _Stderr(logging.Handler):
    """Writes to whatever sys.stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)


def show_log() -> None:
    """Show the solver's lines on stderr, unless the program has set up logging itself. Safe to call again."""
    if not logger.hasHandlers():
        handler = _Stderr()
        handler.setFormatter(GlogFormatter())
        logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def say(place: str, message: str, level: int = logging.INFO) -> None:
    """Log one line under the name and line that Caffe logs it under."""
    logger.log(level, "%s", message, extra={"place": place})


@contextmanager
def silence_log() -> Iterator[None]:
    """Log nothing in this block: the steps of a measurement are no lines of their own."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def number(value: float) -> str:
    """Write a number as a C++ stream does: with six significant digits, and a NaN with its sign.

    >>> number(2 / 3), number(-math.nan)
    ('0.666667', '-nan')
    """
    return "-nan" if math.isnan(value) and math.copysign(1, value) < 0 else f"{value:g}"


def mean_outputs(sums: dict[str, Tensor], count: int) -> dict[str, Any]:
    """Return sums over `count` passes as means: a float for a single value, an array for more."""
    means: dict[str, Any] = {}
    for name, total in sums.items():
        array = (total.detach() / count).cpu().numpy()
        means[name] = float(array.reshape(())) if array.size == 1 else array
    return means


def output_lines(kind: str, outputs: dict[str, Any], loss_weights: dict[str, float]) -> list[str]:
    """Write a net's outputs as Caffe logs them, one line a value.

    >>> output_lines("Train", {"loss": 0.5}, {"loss": 1.0})
    ['    Train net output #0: loss = 0.5 (* 1 = 0.5 loss)']
    """
    lines: list[str] = []
    index = 0
    for name, output in outputs.items():
        values = np.asarray(output, dtype=np.float64).reshape(-1)
        weight = loss_weights.get(name, 0.0)
        for value in values if values.size <= _MOST_VALUES else ():
            loss = f" (* {number(weight)} = {number(weight * value)} loss)" if weight else ""
            lines.append(f"    {kind} net output #{index}: {name} = {number(value)}{loss}")
            index += 1
    return lines
