"""Files whole or not at all, under failures and kills; what a killed process leaves, and who takes it away."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
from needs import needs_linux
from places import ROOT

from fcn_caffe.errors import DataError
from fcn_caffe.host import atomic
from fcn_caffe.host.atomic import (
    atomic_files,
    atomic_write,
    check_folder,
    check_place,
    make_folders,
    name_errors,
    new_folder,
    remove_empty,
    replace_together,
)

KILLED_IN_A_BLOCK = """
import os, signal, sys
from pathlib import Path
from fcn_caffe.host.atomic import atomic_files, atomic_write, new_folder
with atomic_write("one", "w") as file, new_folder(Path("two")) as folder, atomic_files("three") as place:
    file.write("half"); file.flush(); (folder / "half").write_text("half"); place.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""

# Files `a` and `b` are replaced as one, and `old` goes. For each of its changes a child is killed before it; then
# another one writes there. Says whether the first was killed, and what is there then.
KILLED_IN_A_RENAME = """
import json, os, signal
from pathlib import Path
from fcn_caffe.host.atomic import atomic_write, new_folder, replace_together

def replace(number):
    count, folder = iter(range(number)), Path.cwd()
    def die(event, arguments):
        if event in ("os.rename", "os.remove", "os.rmdir") and next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
    with new_folder(folder / "b") as fresh:
        for name in "abc":
            (fresh / name).write_text("new")
        os.sys.addaudithook(die)
        replace_together(folder / "b", folder, {name: fresh / name for name in "cab"}, ["old"])

def write_another(number):
    with atomic_write("another", "w") as file:
        file.write("x")

def child(call, number):
    process = os.fork()
    if not process:
        call(number)
        os._exit(0)
    return os.waitpid(process, 0)[1]

for number in range(LAST):
    for name in os.listdir():
        os.remove(name)
    for name in ("a", "b", "old"):
        Path(name).write_text("old")
    killed = child(replace, number)
    if LAST == 20:
        child(write_another, number)
        print(json.dumps([killed, {str(path): path.read_text() for path in Path().rglob("*") if path.is_file()}]))
"""

WRITES_ANOTHER = (
    "from fcn_caffe.host.atomic import atomic_write\nwith atomic_write('another', 'w') as file: file.write('x')"
)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.needs_linux
def test_the_next_process_takes_away_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    before = {"one": "whole", "three": "whole", ".mine.partial": "mine", ".mine.12345678.part": "mine"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    assert run(KILLED_IN_A_BLOCK, tmp_path).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 7 and {**contents(tmp_path), **before} == contents(tmp_path)
    with atomic_write(tmp_path / "living", "w") as file, new_folder(tmp_path / "alive"):
        assert run(WRITES_ANOTHER, tmp_path).returncode == 0
        left = {path.name for path in tmp_path.iterdir()} - {*before, "another"}
        assert sorted(name.split(".")[1] for name in left) == ["alive", "living"]
        file.write("to the end")
    assert contents(tmp_path) == {**before, "another": "x", "living": "to the end"}


@pytest.mark.needs_linux
def test_several_files_are_replaced_as_one_whenever_a_kill_comes(tmp_path: Path) -> None:
    old, new = {"a": "old", "b": "old", "old": "old"}, {"a": "new", "b": "new", "c": "new"}
    done = run(KILLED_IN_A_RENAME.replace("LAST", "20"), tmp_path)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    for _, found in outcomes:
        assert found.pop("another") == "x" and found in (old, new)
    is_new = [found == new for _, found in outcomes]
    assert is_new == sorted(is_new) and not is_new[0] and is_new[-1], "from some moment on it is the new ones"
    killed = [status == signal.SIGKILL for status, _ in outcomes]
    assert killed == sorted(killed, reverse=True) and 5 < sum(killed) < 20


@pytest.mark.needs_linux
def test_a_copy_of_a_half_done_replacement_undoes_nothing(tmp_path: Path) -> None:
    """Such as one in an archive of a stranger, which could name any file."""
    folder, copy = tmp_path / "folder", tmp_path / "copy"
    folder.mkdir()
    run(KILLED_IN_A_RENAME.replace("range(LAST)", "[5]").replace("LAST", "0"), folder)
    assert any(path.suffix == ".replaced" for path in folder.iterdir()) and contents(folder)["c"] == "new"
    shutil.copytree(folder, copy)
    (copy / "c").write_text("mine")
    before = contents(copy)
    assert run(WRITES_ANOTHER, copy).returncode == 0
    assert contents(copy) == {"another": "x", **{name: before[name] for name in before if ".partial/" not in name}}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_full_disk_a_quota_a_read_only_disk(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("whole")

    def refuse(descriptor: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    for write in (atomic_write, atomic_files):
        with pytest.raises(OSError, match=os.strerror(number)), write(path) as place:
            if isinstance(place, Path):
                place.write_text("new")
                place.with_name("other").write_text("new")
    assert contents(tmp_path) == {"file": "whole"}


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EPERM, errno.ENOTSUP])
def test_a_file_system_that_renames_onto_nothing(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, path = os.replace, tmp_path / "file"
    path.write_text("old")

    def onto_nothing(source: str | Path, target: str | Path) -> None:
        if os.path.lexists(target):
            raise OSError(number, os.strerror(number), os.fspath(source), None, os.fspath(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", onto_nothing)
    with atomic_write(path, "w") as file:
        file.write("new")
    assert contents(tmp_path) == {"file": "new"}
    with atomic_files(path) as place:
        place.write_text("newer")
        place.with_name("other").write_text("newer")
    assert contents(tmp_path) == {"file": "newer", "other": "newer"}


def test_a_rename_that_fails_puts_back_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")

    def not_b(source: Path, target: Path) -> None:
        if target.name == "b" and source.read_text() == "new":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(source))
        replace(source, target)

    with new_folder(tmp_path / "b") as fresh:
        files = {name: fresh / name for name in "ab"}
        for file in files.values():
            file.write_text("new")
        monkeypatch.setattr(os, "replace", not_b)
        with pytest.raises(OSError, match="No space"):
            replace_together(tmp_path / "b", tmp_path, files)
    assert contents(tmp_path) == {"a": "old", "b": "old"}


def test_a_folder_that_is_removed_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FileNotFoundError) as caught, atomic_write(folder / "file") as file:
        file.write(b"new")
        shutil.rmtree(folder)
    assert caught.value.filename == str(folder / "file"), "the message names what was asked for"
    assert not folder.exists()


@pytest.mark.needs_linux
def test_a_signal_between_making_and_locking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(place: Path, wait: bool) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "_lock", interrupt)
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a", "w"):
        pass
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "b"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There nobody knows whether a process lives: files are written, and what others left stays."""
    import fcntl

    def no_locks(descriptor: int, operation: int) -> NoReturn:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".file.0123abcd.partial").write_text("of another")
    with atomic_write(tmp_path / "file", "w") as file:
        file.write("new")
    assert contents(tmp_path) == {".file.0123abcd.partial": "of another", "file": "new"}


def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in (atomic_write, atomic_files):
        with pytest.raises(DataError, match="is no file but a device or a pipe"), write(pipe):
            raise AssertionError
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_the_root_is_no_file() -> None:
    with pytest.raises(IsADirectoryError), atomic_write("/"):
        raise AssertionError


def test_a_link_to_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(DataError, match="is a link to nothing"):
        check_folder(tmp_path / "link")
    check_folder(tmp_path / "not" / "yet")


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for refused in (check_place, check_folder):
        with pytest.raises(DataError, match=r"loop: is a link that leads to itself\. Remove it, or give another"):
            refused(loop)
    with pytest.raises(DataError, match="is a link that leads to itself"), atomic_write(loop) as file:
        file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["loop"] and loop.is_symlink()


def test_a_disk_that_is_read_only_has_its_own_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_linux()
    monkeypatch.setattr(os, "access", lambda *_: False)
    for refused in (check_place, check_folder):
        with pytest.raises(DataError, match=r"cannot be written to\. Check who owns it"):
            refused(tmp_path / "file")
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_flag=os.ST_RDONLY))
    for refused in (check_place, check_folder):
        with pytest.raises(DataError, match=r"is on a disk that is read-only\. Give a place on another"):
            refused(tmp_path / "file")


def test_errors_without_a_name_get_that_of_the_file(tmp_path: Path) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left") as caught, atomic_files(tmp_path / "net.onnx"):
        full()
    assert caught.value.filename == str(tmp_path / "net.onnx")
    with pytest.raises(OSError, match="No such file") as caught, atomic_files(tmp_path / "net.onnx") as place:
        (place / "data").write_bytes(b"")
    assert caught.value.filename == str(tmp_path / "net.onnx")
    with pytest.raises(OSError, match="No such file") as caught, name_errors(tmp_path / "net.onnx"):
        (tmp_path / "read").read_text()
    assert caught.value.filename == str(tmp_path / "read")


def test_folders_that_were_made_for_nothing_go_again(tmp_path: Path) -> None:
    made = make_folders(tmp_path / "a" / "b" / "c")
    assert made == [tmp_path / "a" / "b" / "c", tmp_path / "a" / "b", tmp_path / "a"]
    (tmp_path / "a" / "kept").touch()
    remove_empty(made)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]
    with pytest.raises(NotADirectoryError):
        make_folders(tmp_path / "a" / "kept" / "d")
