"""LMDB and LevelDB: records in order, folders untouched, nothing half-written."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random

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
def test_a_database_of_another_run_meanwhile_stays(tmp_path: Path, backend: str) -> None:
    def beside() -> Iterator[tuple[bytes, bytes]]:
        yield from records(2)
        write_records(tmp_path / "db", backend, records(5))

    with pytest.raises(DataError, match=r"db: exists already. Remove it, or give another name"):
        write_records(tmp_path / "db", backend, beside())
    assert len(list(read_records(tmp_path / "db", backend))) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


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


def test_leveldbs_own_words_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_package("plyvel")
    import plyvel

    def full(*_: object, **__: object) -> None:
        raise plyvel.IOError(b"IO error: 000003.log: No space left on device")

    monkeypatch.setattr(plyvel, "DB", full)
    with pytest.raises(DataError, match=r"\(IO error: 000003\.log: No space left on device\)"):
        write_records(tmp_path / "db", "leveldb", records(2))


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


def test_an_lmdb_that_is_open_elsewhere_in_the_process_is_read(tmp_path: Path) -> None:
    needs_package("lmdb")
    import lmdb

    write_records(tmp_path / "db", "lmdb", records(2))
    with lmdb.open(str(tmp_path / "db")):
        assert list(read_records(tmp_path / "db", "lmdb")) == list(records(2))


@pytest.mark.parametrize("count", [0, 1, 7, 400])
def test_an_lmdb_is_read_as_its_library_reads_it(tmp_path: Path, count: int) -> None:
    needs_package("lmdb")
    import lmdb

    random = Random(count)
    written = {
        random.randbytes(random.randint(1, 300)): random.randbytes(random.choice([0, 9, 900, 9000]))
        for _ in range(count)
    }
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 24) as environment:
        for key in written:
            with environment.begin(write=True) as transaction:
                transaction.put(key, written[key])
        with environment.begin(write=True) as transaction:
            for key in list(written)[::5]:
                transaction.delete(key)
                del written[key]
    assert list(read_records(tmp_path / "db", "lmdb")) == sorted(written.items())
    for after in [*list(written)[:20], *(random.randbytes(2) for _ in range(20))]:
        beyond = [key for key, _ in read_records(tmp_path / "db", "lmdb", after)]
        assert beyond == sorted(key for key in written if key > after)


def test_a_damaged_lmdb_is_read_or_refused(tmp_path: Path) -> None:
    """Cut off at any page, and with numbers changed in any page's head, list of nodes and nodes."""
    write_records(tmp_path / "db", "lmdb", records(300, 50))
    path, random = tmp_path / "db" / "data.mdb", Random(0)
    data = path.read_bytes()
    for length in range(0, len(data), 2048):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"db: cannot be read as LMDB \(.*\)\. Copy it again"):
            list(read_records(tmp_path / "db", "lmdb"))
    refused = 0
    for _ in range(300):
        spoilt, page = bytearray(data), random.randrange(len(data) // 4096) * 4096
        nodes = int.from_bytes(data[page + 16 : page + 18], "little") % 4096
        at = page + random.choice([random.randrange(160), nodes + random.randrange(8)])
        spoilt[at : at + 2] = random.choice([0, 1, 2, 4, 2**15, 2**16 - 1, random.randrange(2**16)]).to_bytes(
            2, "little"
        )
        path.write_bytes(spoilt)
        try:
            list(read_records(tmp_path / "db", "lmdb"))
        except DataError as error:
            assert "cannot be read as LMDB (" in str(error)
            refused += 1
    assert refused > 30


def patch(path: Path, *places: tuple[int, str, int]) -> None:
    data = bytearray(path.read_bytes())
    for at, form, value in places:
        struct.pack_into(form, data, at, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([(0, "<H", 9)], "page 0 is damaged"),
        ([(16, "<I", 1)], "it does not begin as a database"),
        ([(20, "<I", 999)], "it is of version 999, wanted 1"),
        ([(40, "<I", 4095)], "pages of 4,095 bytes"),
        ([(144, "<Q", 99), (136, "<Q", 10**6)], "the file has 24,576 bytes, its pages take 4,096,004,096"),
        ([(144, "<Q", 99), (128, "<Q", 2**40)], "page 1,099,511,627,776 is not there"),
        ([(144, "<Q", 99), (128, "<Q", 2), (94, "<H", 0)], "its pages lead to one another without end"),
        ([(2 * 4096 + 12, "<H", 2)], "page 2 has its nodes from 2 to 4056"),
        ([(2 * 4096 + 16, "<H", 4095)], "a node at byte 12,287"),
        ([(2 * 4096 + 4074 + 6, "<H", 4000)], "a key of 4,000 bytes at byte 12,274"),
        ([(2 * 4096 + 4074, "<H", 400)], "a value of 400 bytes at byte 12,275"),
        ([(2 * 4096 + 4074 + 4, "<H", 4)], "it has several values under one key"),
    ],
)
def test_what_is_wrong_with_an_lmdb_is_told(tmp_path: Path, places: list[tuple[int, str, int]], message: str) -> None:
    write_records(tmp_path / "db", "lmdb", iter([(b"a", b"x" * 13), (b"b", b"y" * 10_000)]))
    patch(tmp_path / "db" / "data.mdb", *places)
    with pytest.raises(DataError) as caught:
        list(read_records(tmp_path / "db", "lmdb"))
    assert message in str(caught.value)
