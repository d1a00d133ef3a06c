"""Tables of commands: drawn on a terminal, the same lines as ever in a pipe."""

import sys

import pytest

from fcn_caffe.commands import audit, experiment

LINES = {
    "experiment": (experiment.main, ["--list"], "fc-to-conv          3.1         a classifier and its fully"),
    "audit": (audit.main, ["--list", "--only", "T1.rf"], "T1.rf  static"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_list_is_lines_in_a_pipe_and_a_table_on_a_terminal(name, capsys, monkeypatch):
    main, words, line = LINES[name]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(line)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(words) == 0
    drawn = capsys.readouterr().out
    assert "┃" in drawn and "│" in drawn and line.split()[0] in drawn
