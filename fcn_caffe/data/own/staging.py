"""A task's folder that is there whole or not at all: written beside its place, then moved."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fcn_caffe.errors import DataError

__all__ = ["check_out", "staged"]

# What new_task writes. Weights and snapshots, which training adds, are never touched.
WRITTEN = (
    *("images", "labels", "nets", "solvers", "start", "classes.png"),
    *("train.txt", "val.txt", "test.txt", "mapping.txt"),
)
_CARD = Path("nets", "classes.txt")


def check_out(out: Path, force: bool, sources: list[Path]) -> None:
    """Refuse a folder that holds other things, before any work is done.

    Args:
        out: The task's folder.
        force: Whether an older task there is replaced.
        sources: Folders that are read, and must not be replaced.

    Raises:
        DataError: There is a task, and no --force; or something that is no task, or that is read.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file. Give another --out.")
    # A suggested mapping is there from a run that was refused: it alone makes no task.
    present = [name for name in WRITTEN if (out / name).exists() and name != "mapping.txt"]
    real = out.resolve()
    for source in sources:
        if source.resolve().is_relative_to(real):
            raise DataError(f"{out}: holds {source}, which is read. Give another --out.")
    if not present:
        return
    if not force:
        raise DataError(f"{out}: there is {', '.join(present)} already. Give another --out, or --force to replace it.")
    if not (out / _CARD).is_file():
        raise DataError(f"{out}: holds {', '.join(present)}, but is no task of new_task's. Give another --out.")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Give a folder to write a task in, which becomes `out` when the block ends without an error.

    Raises:
        DataError: Nothing can be written there.
    """
    folder = out.resolve()
    mark = secrets.token_hex(4)
    fresh, old = (folder.with_name(f".{folder.name}.{mark}.{what}") for what in ("partial", "old"))
    try:
        fresh.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}). Give another --out.") from error
    try:
        yield fresh
        _replace(folder, fresh, old)
    except OSError as error:
        place = Path(error.filename2 or error.filename or out)  # a copy's second is where it goes
        if place == out or any(place.is_relative_to(each) for each in (fresh, folder, old)):
            raise DataError(f"{out}: cannot be written ({error.strerror}). Give another --out.") from error
        raise DataError(f"{place}: cannot be read ({error.strerror}). Correct its rights, or take it out.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _replace(folder: Path, fresh: Path, old: Path) -> None:
    """Move what was written to its place, and what it replaces away; all back again where that fails."""
    if not folder.exists():
        os.replace(fresh, folder)
        return
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for name in WRITTEN:
            if (folder / name).exists():
                moved.append((folder / name, old / name))
                os.replace(*moved[-1])
        for path in sorted(fresh.iterdir()):
            if (folder / path.name).exists():  # weights/, which training fills
                continue
            moved.append((path, folder / path.name))
            os.replace(*moved[-1])
    except BaseException:
        for source, target in reversed(moved):
            with suppress(OSError):
                os.replace(target, source)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
