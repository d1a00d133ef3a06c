"""What a long run shows: on a terminal one line that is redrawn, elsewhere the log; log.txt has it all."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fcn_caffe.host.glog import GlogFormatter, logger, say

REDRAW_SECONDS = 0.2


def duration(seconds: float) -> str:
    """A length of time as people say it: 42 s, 3 min 05 s, 2 h 10 min, 4 d 3 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


class Progress:
    """A bar for iterations `first` to `last`, drawn on a terminal only.

    `update` at every iteration; `clear` before anybody else writes a line; `close` at the end.
    """

    def __init__(self, title: str, first: int, last: int, stream: TextIO | None = None) -> None:
        self.title, self.first, self.last = title, first, last
        self.stream = sys.stderr if stream is None else stream
        self.shown = self.stream.isatty()
        self.started = self.drawn = time.monotonic()
        self._width = 0

    def update(self, iteration: int, loss: float, rate: float) -> None:
        """Redraw, a few times a second at most. loss: smoothed; rate: the learning rate."""
        now = time.monotonic()
        if not self.shown or (now - self.drawn < REDRAW_SECONDS and iteration < self.last):
            return
        self.drawn = now
        done = iteration - self.first
        left = (now - self.started) / done * (self.last - iteration) if done else 0.0
        numbers = f"{iteration}/{self.last}  loss {loss:.5g}  lr {rate:.3g}  {duration(left)} left"
        room = shutil.get_terminal_size().columns - 1
        bar_room = min(30, room - len(self.title) - len(numbers) - 6)
        filled = round(bar_room * iteration / max(self.last, 1))
        bar = f"[{'#' * filled}{'.' * (bar_room - filled)}] " if bar_room >= 5 else ""
        self._draw(f"{self.title} {bar}{numbers}"[:room])

    def clear(self) -> None:
        """Take the bar off the line, so that a line of text can be written there."""
        if self.shown and self._width:
            self._draw("")

    def close(self) -> None:
        """Take the bar away for good."""
        self.clear()
        self.shown = False

    def _draw(self, line: str) -> None:
        self.stream.write("\r" + line.ljust(self._width) + ("\r" if not line else ""))
        self.stream.flush()
        self._width = len(line)


class Screen(logging.Handler):
    """Shows a run on a stream: a bar and short lines on a terminal, Caffe's log lines elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self.setFormatter(GlogFormatter())
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.bar = Progress("", 0, 0, self.stream)

    def start(self, title: str, first: int, last: int) -> Progress:
        """A new bar, in place of the one before."""
        self.bar.close()
        self.bar = Progress(title, first, last, self.stream)
        return self.bar

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log line; on a terminal only warnings and what `report` says, without the log's prefix."""
        said = getattr(record, "place", "") == REPORT
        if self.terminal and not said and record.levelno < logging.WARNING:
            return
        self.bar.clear()
        print(record.getMessage() if self.terminal else self.format(record), file=self.stream, flush=True)


REPORT = "solve"  # stands where Caffe's lines have source file and line


def report(text: str) -> None:
    """Log lines of our own."""
    for line in text.splitlines():
        say(REPORT, line)


@contextmanager
def logging_to(path: Path, screen: Screen) -> Iterator[None]:
    """Let the solver's lines and `report`'s go to the end of a file and to the screen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(GlogFormatter())
    level = logger.level
    logger.setLevel(logging.INFO)
    for handler in (file, screen):
        logger.addHandler(handler)
    try:
        yield
    finally:
        screen.bar.close()
        logger.setLevel(level)
        for handler in (file, screen):
            logger.removeHandler(handler)
        file.close()
