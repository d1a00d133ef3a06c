"""Archives that a person downloaded: finding them, checking them, unpacking what is wanted and nothing else.

Nothing here uses the network. A file is unpacked beside its place and renamed onto it, so one that is there is whole:
an interrupted run goes on where it stood.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from fcn_caffe.errors import DataError

__all__ = ["Archive", "check_md5", "find", "new_file", "unpack"]

CHUNK = 1 << 22


@dataclass(frozen=True)
class Archive:
    """A file to download: its name, where it is published, and its MD5 sum, empty where we do not know it.

    packed: whether there are files to unpack from it.
    """

    name: str
    address: str
    md5: str = ""
    packed: bool = True

    def __str__(self) -> str:
        return f"{self.name} from {self.address} (MD5 {self.md5 or 'unknown to us'})"


def find(archive: Archive, folder: Path) -> Path | None:
    """The archive in the folder of archives, or None."""
    path = folder / archive.name
    return path if path.is_file() else None


def check_md5(archive: Archive, path: Path) -> None:
    """Compare a file with its published sum, where that is known.

    Raises:
        DataError: naming the file.
    """
    if not archive.md5:
        return
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != archive.md5:
        raise DataError(
            f"{path}: its MD5 sum is {digest.hexdigest()}, that of the published file is {archive.md5} "
            f"({path.stat().st_size} bytes are here). Download it again from {archive.address}, or give --no-checksum "
            "for a copy that was packed anew."
        )


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file written beside its place and renamed at the end; unlike `atomic_write` it is not flushed to disk.

    Data sets have tens of thousands of files, and all of them are read again when they are checked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@dataclass
class _Member:
    """One file of an archive. `kind` says what it is when it is no plain file."""

    name: str
    size: int
    kind: str
    open: Callable[[], IO[bytes] | None]


def _tar_members(path: Path) -> Iterator[_Member]:
    with tarfile.open(path) as tar:
        for info in tar:
            if not info.isdir():
                kind = "" if info.isfile() else "a link" if info.issym() or info.islnk() else "a device"
                yield _Member(info.name, info.size, kind, partial(tar.extractfile, info))


def _zip_members(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            if not info.is_dir():
                kind = "a link" if stat.S_ISLNK(mode) else ""
                yield _Member(info.filename, info.file_size, kind, partial(archive.open, info))


def _safe(name: str, path: Path) -> PurePosixPath:
    plain = PurePosixPath(name.replace("\\", "/"))
    if plain.is_absolute() or ".." in plain.parts or (plain.parts and plain.parts[0].endswith(":")):
        raise DataError(f"{path}: holds {name!r}, which lies outside the folder it is unpacked to. Do not trust it.")
    return plain


def unpack(path: Path, target: Path, place: Callable[[Sequence[str]], str | None]) -> int:
    """Unpack the files of a tar (any compression) or zip that `place` gives a place below `target`; how many it did.

    `place` is given the parts of a member's name. Files that are there in their full size are left alone.

    Raises:
        DataError: naming the archive: damaged, or holding links, devices or places outside `target`.
    """
    count = 0
    try:
        members = _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)
        for member in members:
            wanted = place(_safe(member.name, path).parts)
            if wanted is None:
                continue
            goal = target / _safe(wanted, path)
            if member.kind:
                raise DataError(f"{path}: {member.name!r} is {member.kind}, expected plain files. Do not trust it.")
            if not goal.resolve().is_relative_to(target.resolve()):
                raise DataError(f"{goal}: a link leads out of {target}. Remove it.")
            if goal.is_file() and goal.stat().st_size == member.size:
                continue
            source = member.open()
            assert source is not None
            with source, new_file(goal) as file:
                shutil.copyfileobj(source, file, CHUNK)
            if goal.stat().st_size != member.size:
                goal.unlink()
                raise EOFError(f"{member.name} ends early")
            count += 1
    except DataError:
        raise
    except Exception as error:  # the unpackers raise a dozen kinds for damaged archives
        if isinstance(error, OSError) and error.filename:
            raise  # the system's: no room, no permission
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: cannot be unpacked ({reason}). It looks damaged: download it again.") from error
    return count
