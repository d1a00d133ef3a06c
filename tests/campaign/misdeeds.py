"""Readers that each do one thing that the watch must see: what shows that the campaign can find failures at all.

PYTHONPATH=.:tests python -m campaign.misdeeds FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from mutations import BYTES

from campaign import run
from campaign.readers import Reader
from fcn_caffe import FcnCaffeError

OUTSIDE = Path(tempfile.gettempdir(), "campaign-misdeed")


def _refuse(text: str) -> NoReturn:
    error = FcnCaffeError()
    error.args = (text,)  # unshortened
    raise error


def _wait(path: Path) -> None:
    while True:
        pass


# By the kind of failure that it is.
MISDEEDS: dict[str, Callable[[Path], object]] = {
    "writes": lambda path: OUTSIDE.write_text("x"),
    "opens": lambda path: Path("/etc/hostname").read_bytes(),
    "runs": lambda path: subprocess.run(["true"], check=True),
    "hang": _wait,
    "memory": lambda path: len(b"x" * 2**28),
    "ZeroDivisionError": lambda path: 1 // 0,
    "no place": lambda path: _refuse("Correct it."),
    "no cure": lambda path: _refuse(f"{path}: no."),
    "long message": lambda path: _refuse(f"{path}: correct it {'x' * 5000}"),
    "leaves": lambda path: tempfile.mkdtemp(),
    "crash": lambda path: os.abort(),
}


def _prepare(folder: Path) -> Path:
    path = folder / "file"
    path.write_bytes(b"something")
    return path


def make_readers(folder: Path) -> Iterator[tuple[Reader, Path, Path, list[bytes]]]:
    """Make a reader of each misdeed, as `readers.make_readers` makes them of the real ones."""
    for index, (name, read) in enumerate(MISDEEDS.items()):
        place = folder / f"{index:02d}"
        place.mkdir()
        yield Reader(name, _prepare, read, BYTES), place, _prepare(place), [b"something"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        campaign = run.Campaign(make_readers(Path(scratch)), Path(scratch), Path(sys.argv[1]), len(MISDEEDS), 0)
        campaign.run(1, time.time() + 600)
        campaign.report()
