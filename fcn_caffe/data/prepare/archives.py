"""Archives that a person downloaded: find them, check them, unpack the files that are needed.

Nothing here uses the network. A file is unpacked beside its place and then renamed, so a file in its place is whole,
and an interrupted run continues where it stopped.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.unfolding import MOST_TIMES, most_bytes

__all__ = ["Archive", "check_md5", "find", "new_file", "unpack"]

CHUNK = 1 << 22
_LONGEST_NOTE = 1 << 16
_MEMBERS = (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE)  # what has a size besides notes
_NOT_TRUSTED = "Do not trust it: download it from another place."


@dataclass(frozen=True)
class Archive:
    """A file to download.

    Args:
        name: its file name.
        address: where it is published.
        md5: its MD5 sum, or "" if it is unknown to us.
        packed: whether it is an archive, with files to unpack.
    """

    name: str
    address: str
    md5: str = ""
    packed: bool = True

    def __str__(self) -> str:
        return f"{self.name} from {self.address} (MD5 {self.md5 or 'unknown to us'})"


def find(archive: Archive, folder: Path) -> Path | None:
    """Return the path of an archive in the folder of archives, or None."""
    path = folder / archive.name
    return path if path.is_file() else None


def check_md5(archive: Archive, path: Path) -> None:
    """Compare a file with its published MD5 sum, if that is known.

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
            f"(this file has {path.stat().st_size} bytes). Download it again from {archive.address}, or give "
            "--no-checksum for a copy that was packed anew."
        )


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that is written beside its place and renamed at the end.

    It is not flushed to disk: a data set has tens of thousands of files, and all of them are read again when they are
    checked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, flush=False) as file:
        yield file


@dataclass
class _Member:
    """One file of an archive. `kind` is "" for a plain file, else what it is."""

    name: str
    size: int
    kind: str
    open: Callable[[], IO[bytes] | None]


class _ShortNotes(tarfile.TarInfo):
    """A member whose notes, names that its head has no room for among them, are read only where they are short."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in _MEMBERS and self.size > _LONGEST_NOTE:
            raise ValueError(f"a note of {self.size:,} bytes")
        whole: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return whole


def _tar_members(path: Path) -> Iterator[_Member]:
    with tarfile.open(path, tarinfo=_ShortNotes) as tar:
        for info in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # all members with their notes would fill the memory
            if sum(map(len, tar.pax_headers.values())) > _LONGEST_NOTE:
                raise ValueError("notes on all members are long")
            if not info.isdir():
                kind = "" if info.isfile() else "a link" if info.issym() or info.islnk() else "a device"
                yield _Member(info.name, info.size, kind, partial(tar.extractfile, info))


def _zip_members(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            sort = stat.S_IFMT(info.external_attr >> 16)  # 0 where the packer was not of Unix
            if not info.is_dir():
                kind = "" if sort in (0, stat.S_IFREG) else "a link" if sort == stat.S_IFLNK else "a device"
                yield _Member(info.filename, info.file_size, kind, partial(archive.open, info))


def _safe(name: str, path: Path) -> PurePosixPath:
    plain = PurePosixPath(name.replace("\\", "/"))
    if plain.is_absolute() or ".." in plain.parts or (plain.parts and plain.parts[0].endswith(":")):
        raise DataError(f"{path}: holds {name!r}, which lies outside the folder it is unpacked to. {_NOT_TRUSTED}")
    return plain


def _is_in_a_file(goal: Path, target: Path) -> bool:
    return any((target / folder).is_file() for folder in goal.relative_to(target).parents)


def unpack(path: Path, target: Path, place: Callable[[Sequence[str]], str | None]) -> int:
    """Unpack files of a tar (of any compression) or zip, and return how many.

    Args:
        path: the archive.
        target: the folder to unpack to. A file that is there in its full size stays.
        place: takes the parts of a file's name; returns its place below `target`, or None to leave it out.

    Raises:
        DataError: naming the archive: damaged, or holding links, devices or places outside `target`.
    """
    count, unfolded = 0, 0
    most = most_bytes(path.stat().st_size)
    try:
        members = _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)
        for member in members:
            wanted = place(_safe(member.name, path).parts)
            if wanted is None:
                continue
            goal = target / _safe(wanted, path)
            if member.kind:
                raise DataError(f"{path}: {member.name!r} is {member.kind}, expected plain files. {_NOT_TRUSTED}")
            if not goal.resolve().is_relative_to(target.resolve()):
                raise DataError(f"{goal}: a link leads out of {target}. Remove it.")
            if goal == target or goal.is_dir() or _is_in_a_file(goal, target):
                raise DataError(f"{path}: {member.name!r} is a file and a folder. It looks damaged: download it again.")
            if goal.is_file() and goal.stat().st_size == member.size:
                continue
            unfolded += member.size
            if unfolded > most:
                raise DataError(
                    f"{path}: unfolds to more than {MOST_TIMES} times its size, with {member.name!r} to "
                    f"{unfolded:,} bytes. Do not trust it: download it again."
                )
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
        if isinstance(error, OSError) and error.filename and error.errno != errno.ENAMETOOLONG:
            raise  # the system's: no room, no permission
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: cannot be unpacked ({reason}). It looks damaged: download it again.") from error
    return count
