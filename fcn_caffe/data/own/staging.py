"""A task's folder that is there whole or not at all: written beside its place, then moved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import clear_leftovers, is_beside, make_folders, new_folder, remove_empty, replace_together

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
    clear_leftovers(Path(os.path.realpath(out)).parent)  # an older task comes back that a killed run was replacing
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file. Give another --out.")
    real = Path(os.path.realpath(out))
    for source in sources:
        if source.resolve().is_relative_to(real):
            raise DataError(f"{out}: holds {source}, which is read. Give another --out.")
    _refuse_older(out, force)


def _refuse_older(out: Path, force: bool) -> None:
    # A suggested mapping is there from a run that was refused: it alone makes no task.
    present = [name for name in WRITTEN if (out / name).exists() and name != "mapping.txt"]
    if not present:
        return
    if not force:
        raise DataError(f"{out}: there is {', '.join(present)} already. Give another --out, or --force to replace it.")
    if not (out / _CARD).is_file():
        raise DataError(f"{out}: holds {', '.join(present)}, but is no task of new_task's. Give another --out.")


@contextmanager
def staged(out: Path, force: bool) -> Iterator[Path]:
    """Give a folder to write a task in, which becomes `out` when the block ends without an error.

    Args:
        out: The task's folder.
        force: Whether an older task there is replaced.

    Raises:
        DataError: Nothing can be written there; or another run has written a task there meanwhile, and no --force.
    """
    folder = Path(os.path.realpath(out))
    try:
        made = make_folders(folder.parent)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}). Give another --out.") from error
    try:
        with new_folder(folder) as fresh:
            yield fresh
            _refuse_older(out, force)
            _replace(folder, fresh)
    except OSError as error:
        place = Path(error.filename2 or error.filename or out)  # a copy's second is where it goes
        if place == out or place.is_relative_to(folder) or is_beside(place, folder):
            raise DataError(f"{out}: cannot be written ({error.strerror}). Give another --out.") from error
        raise DataError(f"{place}: cannot be read ({error.strerror}). Correct its rights, or take it out.") from error
    finally:
        remove_empty(made)


def _replace(folder: Path, fresh: Path) -> None:
    """Move what was written to its place, as one: a failure or a kill leaves the task that was there."""
    if not folder.exists():
        os.replace(fresh, folder)
        return
    names = sorted(path.name for path in fresh.iterdir())
    files = {name: fresh / name for name in names if name in WRITTEN or not (folder / name).exists()}
    replace_together(folder, folder, files, WRITTEN)  # weights/, which training fills, stays
