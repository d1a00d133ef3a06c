"""Files that are there whole or not at all: written beside their place, flushed to disk, then renamed onto it."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fcn_caffe.errors import DataError


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part. Whoever has mapped the old file keeps it.

    Args:
        path: The file.
        mode: "wb", or "w" for UTF-8 text.

    Raises:
        OSError: The disk is full, there is no such folder … The temporary file is removed then.
    """
    # A link keeps pointing where it did: the file it names is the one replaced.
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = os.fspath(path)  # what was asked for
        raise
    _sync_folder(target.parent)


@contextmanager
def atomic_files(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path in a new folder beside `path`, for what writes several files there, and put them in their places.

    When the block ends without an error each file of the folder takes its place beside `path`, the one of that name
    last: who reads it finds the others. The folder is removed in any case.

    Args:
        path: the file that the others belong to.

    Raises:
        OSError: The disk is full, there is no such folder …
    """
    target = Path(os.path.realpath(path))
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield folder / target.name
        files = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
        for file in files:
            with open(file, "rb+") as whole:
                os.fsync(whole.fileno())
        for file in files:
            os.replace(file, target.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _sync_folder(target.parent)


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a path where no file can be written, before the work whose result it is for.

    Raises:
        DataError: It is a folder, a device or a pipe, or its folder is not there or cannot be written to.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise DataError(f"{os.fspath(path)}: is a folder. Give the name of a file in it.")
    if target.exists() and not target.is_file():
        # Renamed onto, /dev/null would be a file from then on.
        raise DataError(f"{os.fspath(path)}: is no file but a device or a pipe. Give the name of a file.")
    if not target.parent.is_dir():
        raise DataError(f"{os.fspath(path)}: there is no folder {target.parent} to write it to. Make it first.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise DataError(f"{os.fspath(path)}: {target.parent} cannot be written to. Check who owns it.")


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a folder where no files can be written, before the work whose results they are; it need not be there yet.

    Raises:
        DataError: It, or what it would be made in, is a file or cannot be written to.
    """
    place = Path(os.path.realpath(path))
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise DataError(f"{os.fspath(path)}: {place} is a file, not a folder. Give another folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise DataError(f"{os.fspath(path)}: {place} cannot be written to. Check who owns it.")


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets a folder be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
