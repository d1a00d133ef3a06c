"""One run at a time for a snapshot prefix: two would write over each other's snapshots."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fcn_caffe.errors import SolverError
from fcn_caffe.host.atomic import clear_leftovers, make_folders, remove_empty

try:
    import fcntl
except ImportError:  # Windows has no such locks: there two runs are not told apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["clear_killed_run", "only_run"]


@dataclass
class _Kept:
    """A lock file that this process keeps: descriptor, -1 without locks; blocks that keep it; folders made for it."""

    descriptor: int = -1
    count: int = 0
    made: list[Path] = field(default_factory=list)


_kept: dict[tuple[int, Path], _Kept] = {}  # by process and lock file
_threads = threading.Lock()


@contextmanager
def only_run(prefix: Path) -> Iterator[None]:
    """Keep a snapshot prefix for this process in the block; what an earlier run left unfinished there is taken away.

    The prefix's folder is made if need be and gets a file .PREFIX.lock. A kill leaves it but not its lock: the next run
    takes it over. Several solvers of one process may have one prefix.

    Args:
        prefix: the path that snapshots' names begin with.
    Raises:
        SolverError: another process has it, or nothing can be written there.
    """
    key = os.getpid(), _lock_file(prefix)
    with _threads:
        _take(key, prefix)
    try:
        yield
    finally:
        with _threads:
            _give_up(key)


def clear_killed_run(prefix: Path) -> None:
    """Take away what a killed run has left at a snapshot prefix, unless a run is there or it cannot be removed."""
    if _lock_file(prefix).exists():
        with suppress(SolverError), only_run(prefix):
            pass


def _lock_file(prefix: Path) -> Path:
    return Path(os.path.realpath(prefix.with_name(f".{prefix.name}.lock")))


def _take(key: tuple[int, Path], prefix: Path) -> None:
    _, path = key
    kept = _kept.setdefault(key, _Kept())
    if fcntl is not None and not (kept.count and path.exists()):  # its folder may have been removed meanwhile
        if kept.descriptor >= 0:
            os.close(kept.descriptor)
            kept.descriptor = -1
        try:
            kept.made = make_folders(path.parent)
            kept.descriptor = _lock(path, prefix)
        except OSError as error:
            raise SolverError(
                f"{prefix}: snapshots cannot be written there ({error.strerror}). Set another snapshot_prefix."
            ) from error
        clear_leftovers(path.parent)
    kept.count += 1


def _lock(path: Path, prefix: Path) -> int:
    """Lock the file for this process; return its descriptor, which forked children do not share the lock of.

    Returns:
        -1 on a file system without locks.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 1000).decode("utf-8", "replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                path.unlink(missing_ok=True)
                return -1
            raise SolverError(
                f"{prefix}: {holder or 'another process'} trains with this snapshot_prefix. "
                "Wait for its end or stop it, or set another snapshot_prefix."
            ) from None
        if _is_there(path, descriptor):
            break
        os.close(descriptor)  # the run that had it ended, and removed it, between opening and locking
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    except OSError:
        _drop(path, descriptor)
        raise
    return descriptor


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _give_up(key: tuple[int, Path]) -> None:
    process, path = key
    if process != os.getpid():
        return  # a forked child, whose parent keeps it
    kept = _kept[key]
    kept.count -= 1
    if not kept.count:
        del _kept[key]
        if kept.descriptor >= 0:
            _drop(path, kept.descriptor)
        remove_empty(kept.made)  # a run that was refused, or came to no snapshot, leaves no folders


def _drop(path: Path, descriptor: int) -> None:
    """Remove the file while it is locked, so that nobody who opens it now takes it for kept."""
    if _is_there(path, descriptor):
        with suppress(OSError):
            path.unlink()
    os.close(descriptor)
