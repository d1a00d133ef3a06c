"""Files that are there whole or not at all: written beside their place, flushed to disk, then renamed onto it.

A killed process leaves what it wrote beside, which has no final name. A lock, which ends with its process, tells it
from a living one's, and the next process that writes into the folder takes it away.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from fcn_caffe.errors import DataError

try:
    import fcntl
except ImportError:  # Windows has no such locks: what a killed process left stays there
    fcntl = None  # type: ignore[assignment]

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.(partial|replaced)")
_JOURNAL = "journal.json"
_NOT_OVER = {
    errno.EEXIST,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EPERM,
}  # file systems that rename onto nothing that is there

_cleared: set[str] = set()  # folders that this process has looked into


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb", *, flush: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` and rename it to `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part. Whoever has mapped the old file keeps it.

    Args:
        path: The file.
        mode: "wb", or "w" for UTF-8 text.
        flush: Whether it is to survive a power cut, too, which takes milliseconds.

    Raises:
        OSError: The disk is full, there is no such folder … The temporary file is removed then.
        DataError: `path` is a device or a pipe, which stays.
    """
    # A link keeps pointing where it did: the file it names is the one replaced.
    target = Path(os.path.realpath(path))
    with name_errors(path), _beside(target) as temporary:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            if flush:
                os.fsync(file.fileno())
        _put(temporary, target)
    if flush:
        _sync_folder(target.parent)


def unwritten(error: OSError) -> str:
    """Return the words for a file that could not be written: nothing was replaced by half of it."""
    why = error.strerror or str(error).rstrip(".")
    return f"cannot be written: {why}. Nothing was replaced. Make room, or give another place."


@contextmanager
def name_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let the system's errors name the file that was asked for, where they name none, or what lies beside it."""
    try:
        yield
    except OSError as error:
        is_ours = error.filename is not None and is_beside(
            Path(os.fspath(error.filename)), Path(os.path.realpath(path))
        )
        if is_ours or (error.filename is None and error.errno is not None):  # else it is a reader's, not the system's
            error.filename = os.fspath(path)
        raise


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
    with name_errors(path), _beside(target, folder_mode=0o777) as folder:
        yield folder / target.name
        files = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
        for file in files:
            with open(file, "rb+") as whole:
                os.fsync(whole.fileno())
        replace_together(target, target.parent, {file.name: file for file in files})
    _sync_folder(target.parent)


@contextmanager
def new_folder(target: Path, mode: int = 0o777) -> Iterator[Path]:
    """Make a folder beside `target` for the block, which may rename it to `target`; else it is removed.

    Raises:
        OSError: It cannot be made.
    """
    with _beside(target, folder_mode=mode) as folder:
        yield folder


def replace_together(target: Path, folder: Path, files: Mapping[str, Path], leaving: Sequence[str] = ()) -> None:
    """Give several new files or folders their names, as one: all of them, or what was there before stays.

    What they replace lies beside `target` until the last of them has its name. Where a kill comes before that, the next
    process that writes there puts it back.

    Args:
        target: What they belong to: it, or they, are in the folder that it is in.
        folder: Where they go: `target` itself or the folder that it is in.
        files: By name in `folder`, what takes that name; in this order.
        leaving: Names in `folder` that go without anything in their place.

    Raises:
        OSError: One of them cannot be moved. What was there before is back.
    """
    before = [name for name in dict.fromkeys([*leaving, *files]) if os.path.lexists(folder / name)]
    with _beside(target, "replaced", folder_mode=0o777) as old:
        # A copy of such a folder, or one from an archive, has another inode, and undoes nothing.
        journal = {
            "inode": old.stat().st_ino,
            "folder": os.path.relpath(folder, old.parent),
            "before": before,
            "files": {name: os.path.relpath(file, old.parent) for name, file in files.items()},
        }
        with open(old / f"{_JOURNAL}.partial", "w", encoding="utf-8") as file:
            json.dump(journal, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, old / _JOURNAL)
        try:
            for name in before:
                os.replace(folder / name, old / name)
            for name, source in files.items():
                os.replace(source, folder / name)
        except BaseException:
            _undo(old)
            raise
        (old / _JOURNAL).unlink()


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and those that it lies in; return what was made, which `remove_empty` takes away again.

    Raises:
        OSError: One cannot be made. None of them stays.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, innermost first, that nothing was put into."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def clear_leftovers(folder: str | os.PathLike[str]) -> None:
    """Take away what killed processes left unfinished in a folder, and put back what they were replacing.

    A process looks once into each folder that it writes to: the files of others that live may be many.
    """
    real = os.path.realpath(folder)
    if fcntl is None or real in _cleared:
        return
    _cleared.add(real)
    with suppress(OSError):  # a folder that is not there, or that nobody may look into
        # What was replaced comes first: undoing it asks which of the new files are still unfinished.
        for place in sorted(_unfinished(real), key=lambda place: place.suffix != ".replaced"):
            lock = _lock(place, wait=False)
            if lock is None:
                continue  # its process lives
            try:
                if place.suffix == ".partial" or _undo(place):
                    _remove(place)
            finally:
                os.close(lock)


def _unfinished(folder: str) -> list[Path]:
    with os.scandir(folder) as entries:
        return [
            Path(entry.path)
            for entry in entries
            if _UNFINISHED.fullmatch(entry.name)
            and (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False))
        ]


def _undo(old: Path) -> bool:
    """Put back what was replaced, unless all that replaced it is in place; say whether nothing is left to do."""
    try:
        journal = json.loads((old / _JOURNAL).read_text("utf-8"))
    except FileNotFoundError:
        return True  # killed before the first file moved, or after the last
    except (OSError, ValueError):
        return False
    if not isinstance(journal, dict) or journal.get("inode") != old.stat().st_ino:
        return False
    folder = old.parent / journal["folder"]
    if not any(os.path.lexists(old.parent / file) for file in journal["files"].values()):
        return True
    for name in dict.fromkeys([*journal["before"], *journal["files"]]):
        if os.path.lexists(old / name):
            _remove(folder / name)
            os.replace(old / name, folder / name)
        elif name not in journal["before"]:
            _remove(folder / name)
    (old / _JOURNAL).unlink()
    return True


@contextmanager
def _beside(target: Path, kind: str = "partial", folder_mode: int | None = None) -> Iterator[Path]:
    """Make a hidden file or folder beside `target` that others know to be a living process's; remove it in the end."""
    _refuse_device(target, target)
    clear_leftovers(target.parent)
    place, lock = _make(target, kind, folder_mode)
    owner = os.getpid()
    try:
        yield place
    finally:
        if os.getpid() == owner:  # a forked child leaves it to its parent
            _remove(place)
        if lock is not None:
            os.close(lock)


def _make(target: Path, kind: str, folder_mode: int | None) -> tuple[Path, int | None]:
    if not target.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(target))
    while True:
        place = target.with_name(f".{target.name}.{secrets.token_hex(4)}.{kind}")
        try:
            if folder_mode is None:
                place.touch(exist_ok=False)
            else:
                place.mkdir(folder_mode)
            lock = _lock(place, wait=True)
            if place.exists():
                return place, lock
        except FileExistsError:  # of another process
            raise
        except BaseException:  # a signal, before the caller knows of the place
            _remove(place)
            raise
        # Before it was locked another process took it for a dead one's.
        if lock is not None:
            os.close(lock)


def _lock(place: Path, wait: bool) -> int | None:
    """Lock a file or folder; None where another process has it locked, or the file system has no locks."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(place, os.O_RDONLY if place.is_dir() else os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _put(temporary: Path, target: Path) -> None:
    """Rename a file onto another; where the file system cannot, the other is moved away first."""
    try:
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in _NOT_OVER or not target.is_file():
            raise
        replace_together(target, target.parent, {target.name: temporary})


def _remove(place: Path) -> None:
    """Remove a file, or a folder with all that is in it; what cannot be removed stays."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(OSError):
            place.unlink()


def is_beside(place: Path, target: Path) -> bool:
    """Say whether a place is a temporary one of `target`, or lies in one: messages name `target` instead."""
    return any(
        each.parent == target.parent and each.name.startswith(f".{target.name}.") and _UNFINISHED.fullmatch(each.name)
        for each in (place, *place.parents)
    )


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a path where no file can be written, before the work whose result it is for.

    Raises:
        DataError: It is a folder, a device or a pipe, or its folder is not there or cannot be written to.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise DataError(f"{os.fspath(path)}: is a folder. Give the name of a file in it.")
    _refuse_device(target, path)
    if not target.parent.is_dir():
        raise DataError(f"{os.fspath(path)}: there is no folder {target.parent} to write it to. Make it first.")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise _unwritable(path, target.parent)


def refuse_same(
    outputs: Iterable[str | os.PathLike[str] | None], inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> None:
    """Refuse an output that is another output, or a file that is read: it would be overwritten.

    Raises:
        DataError: Names it.
    """
    taken = {os.path.realpath(path) for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        real = os.path.realpath(path)
        if real in taken:
            raise DataError(
                f"{os.fspath(path)}: is named twice and would be overwritten. Give the output its own name."
            )
        taken.add(real)


def _refuse_device(target: Path, path: str | os.PathLike[str]) -> None:
    """Refuse a device or a pipe, which is called `path`: renamed onto, /dev/null would be a file from then on.

    Likewise a link that leads to itself, so that it leads to no file to replace.
    """
    if target.is_symlink():
        raise DataError(f"{os.fspath(path)}: is a link that leads to itself. Remove it, or give another name.")
    if target.exists() and not target.is_file() and not target.is_dir():
        raise DataError(f"{os.fspath(path)}: is no file but a device or a pipe. Give the name of a file.")


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a folder where no files can be written, before the work whose results they are; it need not be there yet.

    Raises:
        DataError: It, or what it would be made in, is a file or cannot be written to, or it is a link to nothing.
    """
    place = Path(os.path.realpath(path))
    if place.is_symlink():
        raise DataError(f"{os.fspath(path)}: is a link that leads to itself. Remove it, or give another folder.")
    if os.path.islink(path) and not place.exists():
        raise DataError(f"{os.fspath(path)}: is a link to nothing. Make {place}, or give another folder.")
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise DataError(f"{os.fspath(path)}: {place} is a file, not a folder. Give another folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise _unwritable(path, place)


def _unwritable(path: str | os.PathLike[str], folder: Path) -> DataError:
    if hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY:
        return DataError(f"{os.fspath(path)}: {folder} is on a disk that is read-only. Give a place on another.")
    return DataError(f"{os.fspath(path)}: {folder} cannot be written to. Check who owns it.")


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets a folder be opened."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
