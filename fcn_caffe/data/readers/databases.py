"""The databases that Caffe keeps Datums in: LMDB by the package `lmdb`, LevelDB by `plyvel`, both optional.

Reading changes nothing in the database's folder and takes no lock, so the folder may be read-only.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Protocol

from fcn_caffe.data.readers.lmdb_pages import read_pages
from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import check_folder, new_folder

__all__ = ["BACKENDS", "read_records", "write_records"]

BACKENDS = ("lmdb", "leveldb")
_LEVELDB_TABLES = (".sst", ".ldb")  # old LevelDB's and new LevelDB's name for the same files
_PACKAGE = {"lmdb": "lmdb", "leveldb": "plyvel"}


class _LevelDB(Protocol):
    """What is used of plyvel.DB."""

    def iterator(
        self, *, start: bytes | None, include_start: bool
    ) -> AbstractContextManager[Iterator[tuple[bytes, bytes]]]: ...


def read_records(
    path: str | os.PathLike[str], backend: str, after: bytes | None = None
) -> Generator[tuple[bytes, bytes], None, None]:
    """Yield (key, value) in the order of the keys, from the first one beyond `after`.

    Close the generator to close the database. backend: "lmdb" or "leveldb".

    Raises:
        DataError: for a missing package, with the pip command; a folder that is not such a database.
    """
    package = _import(backend)
    place = _check(Path(path), backend)
    with ExitStack() as stack:
        try:
            if backend == "lmdb":
                yield from read_pages(place / "data.mdb" if place.is_dir() else place, after)
            else:
                database = stack.enter_context(_private_leveldb(package, place))
                yield from _leveldb_records(database, after)
        except (package.Error, OSError) as error:
            raise DataError(
                f"{place}: cannot be read as {backend.upper()} ({_why(error)}). Copy it again, or name the other "
                "backend."
            ) from error


def write_records(path: str | os.PathLike[str], backend: str, records: Iterator[tuple[bytes, bytes]]) -> int:
    """Write a new database of these records and return their number. A failure leaves nothing behind.

    Raises:
        DataError: if there is something at `path`, for a missing package, or where it cannot be written.
    """
    package = _import(backend)
    place = Path(os.path.realpath(path))
    _refuse_older(path)
    if not place.parent.is_dir():
        raise DataError(f"{place.parent}: no such folder for the database. Create it.")
    check_folder(place.parent)
    # Written beside its place, then renamed: a failure or Ctrl-C cannot leave half of it.
    try:
        with new_folder(place) as folder:
            count = (_write_lmdb if backend == "lmdb" else _write_leveldb)(package, folder, records)
            _refuse_older(path)  # of another run meanwhile
            os.rename(folder, place)
    except (package.Error, OSError) as error:
        raise DataError(
            f"{place}: cannot be written ({_why(error)}). Nothing was left there. Name another folder, or make room."
        ) from error
    return count


def _why(error: BaseException) -> str:
    said = error.args[0] if error.args else ""
    return os.fsdecode(said) if isinstance(said, bytes) else str(error)  # plyvel's are bytes


def _refuse_older(path: str | os.PathLike[str]) -> None:
    if os.path.exists(path):
        raise DataError(f"{os.fspath(path)}: exists already. Remove it, or give another name.")


def _import(backend: str) -> ModuleType:
    if backend not in BACKENDS:
        raise DataError(f"database backend {backend!r} is unknown. Known: {', '.join(BACKENDS)}.")
    try:
        return importlib.import_module(_PACKAGE[backend])
    except ImportError as error:
        name = _PACKAGE[backend]
        raise DataError(
            f"{backend.upper()} databases need the package {name}: pip install 'fcn-caffe[{backend}]'."
        ) from error


def _check(place: Path, backend: str) -> Path:
    """Return the place of a database; raise DataError for one of another backend, or none."""
    if not place.exists():
        raise DataError(f"{place}: no such database (looked from {os.getcwd()}). Correct the path.")
    kinds = {"lmdb": place.is_dir() and (place / "data.mdb").is_file(), "leveldb": (place / "CURRENT").is_file()}
    if backend == "lmdb" and place.is_file():
        return place  # an environment opened without a folder
    if not kinds[backend]:
        others = [kind for kind in BACKENDS if kinds[kind]]
        wanted = "data.mdb" if backend == "lmdb" else "a file CURRENT"
        hint = f" It looks like {others[0].upper()}: set backend to that." if others else f" It should hold {wanted}."
        raise DataError(f"{place}: no {backend.upper()} database is there.{hint}")
    return place


# -- LMDB --------------------------------------------------------------------------------------------------------


def _write_lmdb(lmdb: ModuleType, folder: Path, records: Iterator[tuple[bytes, bytes]]) -> int:
    count, size = 0, 1 << 26
    # Nobody reads the folder before it is whole: one flush at the end is enough, and no lock file, which LMDB maps into
    # memory, so that a full disk would kill the process. Who reads the database makes one.
    environment = lmdb.open(os.fspath(folder), map_size=size, sync=False, lock=False)
    try:
        while chunk := list(islice(records, 100)):
            while True:
                try:
                    with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                        cursor.putmulti(chunk)
                    break
                except lmdb.MapFullError:
                    size *= 2
                    environment.set_mapsize(size)
            count += len(chunk)
        environment.sync(True)
    finally:
        environment.close()
    return count


# -- LevelDB -----------------------------------------------------------------------------------------------------


@contextmanager
def _private_leveldb(plyvel: ModuleType, place: Path) -> Iterator[_LevelDB]:
    """Open a LevelDB through a folder of links: LevelDB writes a lock and a manifest where it opens."""
    owner = os.getpid()
    with new_folder(Path(tempfile.gettempdir(), "fcn-caffe-leveldb"), 0o700) as folder:
        for file in place.iterdir():
            target = folder / file.name
            if file.suffix in _LEVELDB_TABLES:
                try:
                    target.symlink_to(file.resolve())
                except OSError:  # a system without links
                    shutil.copyfile(file, target)
            elif file.name == "CURRENT" or file.name.startswith("MANIFEST-") or file.suffix == ".log":
                shutil.copyfile(file, target)
        database = plyvel.DB(str(folder), create_if_missing=False, max_open_files=100)
        try:
            yield database
        finally:
            if os.getpid() == owner:
                database.close()


def _leveldb_records(database: _LevelDB, after: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    with database.iterator(start=after, include_start=False) as iterator:
        yield from iterator


def _write_leveldb(plyvel: ModuleType, folder: Path, records: Iterator[tuple[bytes, bytes]]) -> int:
    count = 0
    database = plyvel.DB(os.fspath(folder), create_if_missing=True, write_buffer_size=1 << 26)
    try:
        for key, value in records:
            database.put(key, value)
            count += 1
    finally:
        database.close()
    return count
