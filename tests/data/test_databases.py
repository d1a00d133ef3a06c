"""LMDB and LevelDB: records in order, folders untouched, nothing half-written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import needs_package

from fcn_caffe.data.readers.databases import BACKENDS, read_records, write_records
from fcn_caffe.errors import DataError


def records(count: int, size: int = 10) -> Iterator[tuple[bytes, bytes]]:
    for number in range(count):
        yield b"%05d" % number, bytes([number % 256]) * size


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_written_is_read_in_the_order_of_the_keys(tmp_path: Path, backend: str) -> None:
    written = list(records(250))
    assert write_records(tmp_path / "db", backend, iter(written[::-1])) == 250
    assert list(read_records(tmp_path / "db", backend)) == written
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_reading_starts_behind_a_key(tmp_path: Path, backend: str) -> None:
    write_records(tmp_path / "db", backend, records(5))
    keys = [key for key, _ in read_records(tmp_path / "db", backend, b"00002")]
    assert keys == [b"00003", b"00004"]
    assert [key for key, _ in read_records(tmp_path / "db", backend, b"000021")] == keys
    assert list(read_records(tmp_path / "db", backend, b"00004")) == []


def test_an_lmdb_grows_as_it_must(tmp_path: Path) -> None:
    size = 1 << 20
    assert write_records(tmp_path / "db", "lmdb", records(150, size)) == 150
    assert sum(len(value) for _, value in read_records(tmp_path / "db", "lmdb")) == 150 * size


def test_an_lmdb_of_one_file_is_read_too(tmp_path: Path) -> None:
    needs_package("lmdb")
    import lmdb

    with (
        lmdb.open(str(tmp_path / "one.mdb"), subdir=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"a", b"1")
    assert list(read_records(tmp_path / "one.mdb", "lmdb")) == [(b"a", b"1")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_reading_changes_nothing_in_the_folder(tmp_path: Path, backend: str) -> None:
    write_records(tmp_path / "db", backend, records(100))

    def look() -> dict[str, tuple[int, int]]:
        statuses = {path.name: path.stat() for path in (tmp_path / "db").iterdir()}
        return {name: (status.st_size, status.st_mtime_ns) for name, status in statuses.items()}

    before = look()
    (tmp_path / "db").chmod(0o555)
    try:
        assert len(list(read_records(tmp_path / "db", backend))) == 100
        assert look() == before
    finally:
        (tmp_path / "db").chmod(0o755)


def test_leveldb_of_old_caffe_with_sst_tables_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_package("plyvel")
    import plyvel

    database = plyvel.DB(str(tmp_path / "db"), create_if_missing=True)
    for key, value in records(100):
        database.put(key, value)
    database.compact_range()
    database.close()
    tables = list((tmp_path / "db").glob("*.ldb"))
    assert tables
    for table in tables:  # LevelDB before 1.14 called them so
        table.rename(table.with_suffix(".sst"))
    (tmp_path / "private").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "private"))
    reading = read_records(tmp_path / "db", "leveldb")
    assert next(reading)[0] == b"00000"
    assert len(list((tmp_path / "private").iterdir())) == 1
    reading.close()
    assert not list((tmp_path / "private").iterdir()), "the private folder goes with the reader"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("failure", [DataError("no"), KeyboardInterrupt(), ZeroDivisionError()])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, backend: str, failure: BaseException) -> None:
    def failing() -> Iterator[tuple[bytes, bytes]]:
        yield from records(150)
        raise failure

    with pytest.raises(type(failure)):
        write_records(tmp_path / "db", backend, failing())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("backend", BACKENDS)
def test_refusals(tmp_path: Path, backend: str) -> None:
    write_records(tmp_path / "db", backend, records(2))
    before = sorted(path.name for path in (tmp_path / "db").iterdir())
    with pytest.raises(DataError, match=r"db: exists already. Remove it, or give another name"):
        write_records(tmp_path / "db", backend, records(2))
    assert sorted(path.name for path in (tmp_path / "db").iterdir()) == before
    with pytest.raises(DataError, match=r"none: no such folder for the database. Create it"):
        write_records(tmp_path / "none" / "db", backend, records(2))
    with pytest.raises(DataError, match=r"none: no such database \(looked from"):
        next(read_records(tmp_path / "none", backend))
    with pytest.raises(DataError, match=r"backend 'sqlite' is unknown. Known: lmdb, leveldb"):
        next(read_records(tmp_path / "db", "sqlite"))


def test_damaged_databases_are_named(tmp_path: Path) -> None:
    write_records(tmp_path / "lmdb", "lmdb", records(2))
    os.truncate(tmp_path / "lmdb" / "data.mdb", 100)
    with pytest.raises(DataError, match=r"lmdb: cannot be read as LMDB"):
        list(read_records(tmp_path / "lmdb", "lmdb"))
    write_records(tmp_path / "leveldb", "leveldb", records(2))
    for manifest in (tmp_path / "leveldb").glob("MANIFEST-*"):
        manifest.unlink()
    with pytest.raises(DataError, match=r"leveldb: cannot be read as LEVELDB"):
        list(read_records(tmp_path / "leveldb", "leveldb"))


def test_an_lmdb_that_is_open_elsewhere_in_the_process_is_told(tmp_path: Path) -> None:
    needs_package("lmdb")
    import lmdb

    write_records(tmp_path / "db", "lmdb", records(2))
    with (
        lmdb.open(str(tmp_path / "db")),
        pytest.raises(DataError, match=r"db: cannot be read as LMDB .*already open in this process"),
    ):
        next(read_records(tmp_path / "db", "lmdb"))
