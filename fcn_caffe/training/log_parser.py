"""Training logs, Caffe's and this package's, as rows of numbers."""

from __future__ import annotations

import csv
import os
import re
from calendar import isleap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.paths import ENDLESS, is_endless

COLUMNS = ("NumIters", "Seconds", "LearningRate")

_NUMBER = r"([-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf))"
# glog puts the year before month and day from its version 0.6 on.
_PREFIX = re.compile(r"[IWEF](\d{4})?(\d\d)(\d\d) (\d\d):(\d\d):(\d\d)(\.\d{1,6})?\s+\d+ [^\]\s]+\] ?")
_ITERATION = re.compile(r"^Iteration (\d{1,18})\b")
_LOSS = re.compile(rf"^Iteration \d+(?: \([^)]*\))?, loss = {_NUMBER}")
_RATE = re.compile(rf"^Iteration \d+, lr = {_NUMBER}")
_TESTING = re.compile(r"^Iteration \d+, Testing net(?: \(#(\d{1,18})\))?")
_TEST_LOSS = re.compile(rf"^Test loss: {_NUMBER}")
_OUTPUT = re.compile(rf"^\s*(Train|Test) net output #\d+: (\S+) = {_NUMBER}(?=\s|$)")
_OLD_OUTPUT = re.compile(rf"^\s*Test score #(\d{{1,18}}): {_NUMBER}")
# What tools/solve.py says after scoring: `NAME: iteration 20, score: pixel acc. 91.25, …, loss 0.1`, in per cent.
_SCORED = re.compile(rf"^\S+: iteration (\d{{1,18}}), (\S+): ((?:[a-zA-Z. ]+ {_NUMBER}, )+)loss {_NUMBER}$")


@dataclass
class Row:
    """What a log says about one iteration.

    Attributes:
        iteration: its number.
        seconds: the time since solving started; None where the log's lines have no times.
        rate: the learning rate.
        loss: the smoothed training loss, or the test loss.
        outputs: the net's outputs in their order. The later values of an output are `name[1]`, `name[2]` and so on.
    """

    iteration: int
    seconds: float | None
    rate: float | None = None
    loss: float | None = None
    outputs: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add one value of an output."""
        key, count = name, 0
        while key in self.outputs:
            count += 1
            key = f"{name}[{count}]"
        self.outputs[key] = value


@dataclass
class TrainingLog:
    """The rows of a log in its order: of training, and of each test net by its number."""

    train: list[Row] = field(default_factory=list)
    tests: dict[int, list[Row]] = field(default_factory=dict)


def parse_log(path: str | os.PathLike[str]) -> TrainingLog:
    """Read a log of an old or new Caffe, or of this package. Several runs may have written to it.

    A row's learning rate is the one logged for its iteration, or the last before it. Times have no year: the year is
    that of the file, and the next one where the months start again.

    Raises:
        DataError: there is no such file, or no iteration in it.
    """
    if is_endless(path):
        raise DataError(f"{os.fspath(path)}: is {ENDLESS}")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            year = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime).year
            reader = _Reader()
            for text, when in _lines(file, year):
                reader.read(text, when)
    except OSError as error:
        raise DataError(f"{os.fspath(path)}: cannot be read: {error.strerror}. Check the path.") from error
    except OverflowError as error:  # moments that add up to beyond the year 9999
        raise DataError(f"{os.fspath(path)}: its times are those of no calendar. Cut out the damaged lines.") from error
    log = reader.log
    if not log.train and not log.tests:
        raise DataError(
            f"{os.fspath(path)}: not a training log: it has no line such as 'Iteration 0, loss = 0.5' with losses or "
            "outputs. Caffe logs to stderr: keep it with 2>&1 | tee LOG."
        )
    return log


def _lines(file: Iterable[str], year: int) -> Iterator[tuple[str, datetime | None]]:
    """Give the message of each line, and when it was logged."""
    before: datetime | None = None
    moved = timedelta(0)
    for line in file:
        text, match = line.rstrip("\r\n"), _PREFIX.search(line)
        if match is None:
            yield text, None
            continue
        own_year, month, day, hour, minute, second, fraction = match.groups()
        if not own_year and (month, day) == ("02", "29") and not isleap(year):
            # The log is older than its file's date: go back to a leap year, and keep the time that has passed.
            leap = next(other for other in range(year, 0, -1) if isleap(other))
            if before is not None:
                moved += before - before.replace(year=leap)
                before = before.replace(year=leap)
            year = leap
        try:
            when = datetime(int(own_year or year), int(month), int(day), int(hour), int(minute), int(second))
        except ValueError:  # month 13: text that looks like a time
            yield text, None
            continue
        when += timedelta(seconds=float(fraction or 0))
        # Clocks are put back by hours; months back is the next year.
        if not own_year and before is not None and before - when > timedelta(days=180):
            year += 1
            leap_day = (month, day) == ("02", "29")
            when = when + timedelta(days=366) if leap_day else when.replace(year=year)
        before = when
        yield line[match.end() :].rstrip("\r\n"), when + moved


class _Reader:
    """Turns messages into rows, one after the other."""

    def __init__(self) -> None:
        self.log = TrainingLog()
        self.start: datetime | None = None
        self.solving = False
        self.iteration: int | None = None
        self.rate: float | None = None
        self.test_net = 0
        self.now: float | None = None
        self.train: Row | None = None
        self.test: Row | None = None

    def read(self, text: str, when: datetime | None) -> None:
        """Take one message."""
        if when is not None:
            # Time counts from the first "Solving NET"; nets are built before it. Later ones are of resumed runs.
            if self.start is None or (not self.solving and text.startswith("Solving ")):
                self.start, self.solving = when, text.startswith("Solving ")
            self.now = (when - self.start).total_seconds()
        else:
            self.now = None
        if match := _ITERATION.match(text):
            self._iteration(int(match[1]), text)
        elif match := _OUTPUT.match(text):
            row = self._row(match[1] == "Train")
            if row is not None:
                if not row.outputs:
                    row.seconds = self.now  # Caffe's parse_log.py takes the time of the first output
                row.add(match[2], float(match[3]))
        elif (match := _OLD_OUTPUT.match(text)) and (row := self._row(False)):
            row.add(f"score{match[1]}", float(match[2]))
        elif (match := _TEST_LOSS.match(text)) and (row := self._row(False)):
            row.loss = float(match[1])
        elif match := _SCORED.match(text):
            self._scored(int(match[1]), match[2], match[3], match[5])

    def _iteration(self, iteration: int, text: str) -> None:
        if iteration != self.iteration:
            self.iteration, self.train, self.test = iteration, None, None
        if match := _TESTING.match(text):
            self.test_net, self.test = int(match[1] or 0), None
        elif match := _LOSS.match(text):
            self.train = None
            row = self._row(True)
            assert row is not None
            row.loss = float(match[1])
        elif match := _RATE.match(text):
            self.rate = float(match[1])
            for rows in (self.log.train, *self.log.tests.values()):
                for row in reversed(rows):
                    if row.iteration != iteration:
                        break
                    row.rate = self.rate

    def _row(self, train: bool) -> Row | None:
        """Return the row of this iteration, which is made if need be; None before the first iteration."""
        row = self.train if train else self.test
        if row is None and self.iteration is not None:
            row = Row(self.iteration, self.now, self.rate)
            if train:
                self.train = row
                self.log.train.append(row)
            else:
                self.test = row
                self.log.tests.setdefault(self.test_net, []).append(row)
        return row

    def _scored(self, iteration: int, head: str, metrics: str, loss: str) -> None:
        rows = self.log.tests.setdefault(0, [])
        if not rows or rows[-1].iteration != iteration:
            rows.append(Row(iteration, self.now, self.rate))
        prefix = "" if head == "score" else f"{head}/"
        from fcn_caffe.evaluation.metrics import NAMES  # here, as it brings NumPy: a command's --help does without

        known = {shown: name for name, shown in NAMES.items()}
        for metric in metrics.removesuffix(", ").split(", "):
            shown, value = metric.rsplit(" ", 1)
            name = known.get(shown, shown.replace(" ", "_"))
            rows[-1].outputs[prefix + name] = round(float(value) / 100, 6)
        rows[-1].outputs.setdefault("loss", float(loss))


# -- tables --------------------------------------------------------------------------------------------------------


def write_tables(log: TrainingLog, stem: Path, delimiter: str = ",") -> list[Path]:
    """Write the tables STEM.train and STEM.test, and STEM.test1 and so on for further test nets.

    The columns are NumIters, Seconds, LearningRate and the outputs, or `loss` where a log has no outputs. An unknown
    number is left empty. Each file is whole, or not there.

    Returns:
        The paths of the tables.
    Source: Caffe's parse_log.py.
    """
    tables = {"train": log.train}
    tables.update((f"test{number or ''}", rows) for number, rows in sorted({0: [], **log.tests}.items()))
    paths = []
    for ending, rows in tables.items():
        path = stem.with_name(f"{stem.name}.{ending}")
        _write(path, rows, delimiter)
        paths.append(path)
    return paths


def _write(path: Path, rows: Sequence[Row], delimiter: str) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row.outputs))
    with_loss = not names and any(row.loss is not None for row in rows)
    if names:
        rows = [row for row in rows if row.outputs]  # the line at the end of training has a loss only
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow([*COLUMNS, *(["loss"] if with_loss else names)])
        for row in rows:
            outputs = [row.loss] if with_loss else [row.outputs.get(name) for name in names]
            numbers = [None if row.seconds is None else round(row.seconds, 6), row.rate, *outputs]
            writer.writerow([row.iteration, *("" if number is None else f"{number:.10g}" for number in numbers)])
