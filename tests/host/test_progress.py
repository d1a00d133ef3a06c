"""What a run shows: a bar and short lines on a terminal, Caffe's log lines elsewhere, all of it in the log."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import pytest

from fcn_caffe.errors import DataError
from fcn_caffe.host import progress
from fcn_caffe.host.glog import say
from fcn_caffe.host.progress import Screen, logging_to, report


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)


def run(stream: io.StringIO, log: Path) -> str:
    screen = Screen(stream)
    with logging_to(log, screen):
        bar = screen.start("voc-[b]fcn32s", 8)
        say("solver.cpp:239", "Iteration 5, loss = 2.5")
        for iteration in (5, 6, 8):
            bar.update(iteration, 2.5 / iteration, 1e-10)
            report(f"scored [red]{iteration}[/red] " + "long " * 40)
        say("solver.cpp:1", "odd", logging.WARNING)
    return stream.getvalue()


def test_a_terminal_has_a_bar_and_short_lines(tmp_path: Path) -> None:
    text = run(Terminal(), tmp_path / "log.txt")
    assert "voc-[b]fcn32s" in text and "5/8  loss 0.5  lr 1e-10" in text and "8/8  loss 0.3125" in text
    assert "scored [red]6[/red] " + "long " * 40 in text, "no markup, and one line of text stays one"
    assert "Iteration 5" not in text and "solver.cpp" not in text and "odd\n" in text
    assert "\x1b[2K" in text[text.rindex("8/8") :], "the bar is taken away"


def test_elsewhere_there_are_log_lines_alone(tmp_path: Path) -> None:
    text = run(io.StringIO(), tmp_path / "log.txt")
    lines = text.splitlines()
    assert [line.split("] ", 1)[1][:9] for line in lines] == ["Iteration", *["scored [r"] * 3, "odd"]
    assert all(line[0] in "IW" and (" solver.cpp:" in line or " solve]" in line) for line in lines)


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_the_log_has_every_line(tmp_path: Path, stream: type[io.StringIO]) -> None:
    run(stream(), tmp_path / "sub" / "log.txt")
    lines = (tmp_path / "sub" / "log.txt").read_text().splitlines()
    assert len(lines) == 5 and " solver.cpp:239] Iteration 5, loss = 2.5" in lines[0]


def test_the_bar_is_redrawn_a_few_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 5000.0)
    stream = Terminal()
    bar = Screen(stream).start("net", 9)
    for iteration in range(1, 10):
        bar.update(iteration, 1.0, 0.1)
    bar.close()
    bar.update(9, 1.0, 0.1)
    text = stream.getvalue()
    assert "1/9" in text and "9/9" in text and not any(f"{number}/9" in text for number in range(2, 9))
    assert text.rindex("9/9") < text.rindex("\x1b[2K"), "and nothing is drawn once it is closed"


@pytest.mark.needs_linux
def test_a_log_on_a_full_disk_ends_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    shown = run(io.StringIO(), Path("/dev/full"))
    assert shown.count("scored") == 3
    error = capsys.readouterr().err
    assert error.count("The log ends, the run goes on.") == 1 and "Traceback" not in error


def test_a_log_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for log, why in (
        ("pipe", "is no file but a device or a pipe. Give the name of a file."),
        ("file/log", "is a file, not a folder. Give another folder."),
        (".", "is a folder. Give the name of a file in it."),
    ):
        with pytest.raises(DataError, match=why):
            run(io.StringIO(), tmp_path / log)
