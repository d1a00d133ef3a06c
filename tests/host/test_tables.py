"""Tables: drawn on a terminal, the plain text as it is elsewhere."""

from __future__ import annotations

import io

import pytest

from fcn_caffe.host.tables import Table, print_tables

TABLE = Table(("class", "IU", "note"), [("sky [x]", "91.25", ""), ("sea", "-", "absent")], "scores")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_the_plain_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables("class IU\nsky 91.25", [TABLE])
    assert capsys.readouterr().out == "class IU\nsky 91.25\n"


def test_a_terminal_gets_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    print_tables("plain", [TABLE], stream)
    text = stream.getvalue()
    assert "plain" not in text and "scores" in text and "sky [x]" in text
    (sky,) = (line for line in text.splitlines() if "sky" in line)
    (sea,) = (line for line in text.splitlines() if "sea" in line)
    assert sky.index("91.25") + len("91.25") == sea.index("-") + 1  # numbers end in one column
    assert sky.index("sky") == sea.index("sea")


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [(("1", "2.5e-3", "-", ""), True), (("12%", "nan", "-7"), True), (("1x3",), False), (("train",), False)],
)
def test_columns_of_numbers(cells: tuple[str, ...], numeric: bool) -> None:
    assert Table(("what", "value"), [("a", cell) for cell in cells]).is_numeric(1) is numeric
