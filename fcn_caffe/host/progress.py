"""What a long run shows: a bar on a terminal, elsewhere Caffe's log lines and the time left; log.txt has it all."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fcn_caffe.host.atomic import check_folder, check_place
from fcn_caffe.host.glog import GlogFormatter, logger, say

if TYPE_CHECKING:  # rich is imported where something is drawn
    from rich.console import Console
    from rich.progress import Progress

REDRAW_SECONDS = 0.2
LINE_SECONDS = 30.0  # from one line with the time left to the next, where there is no terminal


def duration(seconds: float) -> str:
    """Write a length of time as people say it.

    >>> duration(42), duration(185), duration(7800), duration(356_400)
    ('42 s', '3 min 05 s', '2 h 10 min', '4 d 3 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


class Bar:
    """How far a training run is: `update` it at every iteration.

    On a terminal it is a bar, log lines go above it. Elsewhere it is a line every half minute.
    """

    def __init__(self, title: str, last: int, console: Console | None) -> None:
        self.title, self.last, self._console = title, last, console
        self._progress: Progress | None = None
        self._redrawn = 0.0
        self._is_open = True
        self._first: tuple[int, float] | None = None  # the iteration and the time of the first call

    def update(self, iteration: int, loss: float, rate: float) -> None:
        """Redraw, a few times a second at most; or log a line. The time left is reckoned from the first call on.

        Args:
            iteration: How many are done.
            loss: The smoothed loss.
            rate: The learning rate.
        """
        now = time.monotonic()
        numbers = f"loss {loss:.5g}  lr {rate:.3g}"
        if self._console is None:
            self._say(now, iteration, numbers)
            return
        if now - self._redrawn < REDRAW_SECONDS and iteration < self.last:
            return
        self._redrawn = now
        if self._progress is None:
            self._progress = _start_drawing(self._console)
            self._progress.add_task(self.title, total=self.last, completed=iteration, numbers=numbers)
        task = self._progress.task_ids[0]
        self._progress.update(task, completed=iteration, numbers=numbers, refresh=True)

    def _say(self, now: float, iteration: int, numbers: str) -> None:
        """Log how far the run is, if it was not said of late."""
        if not self._is_open:
            return
        if self._first is None:
            self._first, self._redrawn = (iteration, now), now
        if now - self._redrawn < LINE_SECONDS:
            return
        self._redrawn = now
        begin, since = self._first
        left = (now - since) / max(iteration - begin, 1) * (self.last - iteration)
        report(f"{self.title}: {iteration} of {self.last} iterations, {numbers}, {duration(left)} left")

    def close(self) -> None:
        """Take the bar away for good."""
        self._is_open = False
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._console = None


def _start_drawing(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(30),
        TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.fields[numbers]}", markup=False),
        TimeRemainingColumn(),
    )
    # No thread of its own: the bar moves when an iteration is done.
    progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
    progress.start()
    return progress


class Screen(logging.Handler):
    """Shows a run on a stream: a bar and short lines on a terminal, Caffe's log lines elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__()
        self.setFormatter(GlogFormatter())
        self.stream = sys.stderr if stream is None else stream
        self._console = _console(self.stream) if self.stream.isatty() else None
        self._bar = Bar("", 0, None)

    def start(self, title: str, last: int) -> Bar:
        """Return a new bar that ends at iteration `last`, in place of the one before."""
        self.close_bar()
        self._bar = Bar(title, last, self._console)
        return self._bar

    def close_bar(self) -> None:
        """Take the bar away, if there is one."""
        self._bar.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log line; on a terminal only warnings and what `report` says, without the log's prefix."""
        if self._console is None:
            print(self.format(record), file=self.stream, flush=True)
        elif record.levelno >= logging.WARNING or getattr(record, "place", "") == REPORT:
            # Written by the console, a line goes above the bar. It is no markup, and the terminal wraps it.
            self._console.print(record.getMessage(), markup=False, highlight=False, emoji=False, soft_wrap=True)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream)


REPORT = "solve"  # stands where Caffe's lines have source file and line


def report(text: str) -> None:
    """Log lines that Caffe does not have."""
    for line in text.splitlines():
        say(REPORT, line)


class _LogFile(logging.FileHandler):
    """A log in a file. Where it can no longer be written, it says so once, and the run goes on without it."""

    _is_broken = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        if not self._is_broken:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say what is wrong, within the `except` block of `emit`."""
        self._is_broken = True
        print(f"warning: {self.baseFilename}: {sys.exc_info()[1]}. The log ends, the run goes on.", file=sys.stderr)

    def close(self) -> None:
        """Close the file; what it could not take is lost."""
        with suppress(OSError):
            super().close()


@contextmanager
def logging_to(path: Path, screen: Screen) -> Iterator[None]:
    """Write the solver's lines and those of `report` to the end of a file and to the screen.

    Raises:
        DataError: No file can be written there.
    """
    check_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_char_device():  # /dev/null takes a log; a pipe would wait for its reader
        check_place(path)
    file = _LogFile(path, encoding="utf-8")
    file.setFormatter(GlogFormatter())
    level = logger.level
    logger.setLevel(logging.INFO)
    for handler in (file, screen):
        logger.addHandler(handler)
    try:
        yield
    finally:
        screen.close_bar()
        logger.setLevel(level)
        for handler in (file, screen):
            logger.removeHandler(handler)
        file.close()
