"""What the documents say is what the code does: their commands, names, links and tables. test_docs_run.py runs them."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import layers_table
import pytest
from documents import CURRENT, DOCUMENTS, Block, blocks, files, links, names, text_of, tool_of
from places import ROOT

import fcn_caffe
from fcn_caffe import commands, errors


@cache
def help_of(tool: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        commands.main([tool, "--help"])
    return out.getvalue()


@pytest.mark.parametrize("document", CURRENT)
def test_commands_in_a_document_are_there_with_their_flags(document: str) -> None:
    inline = [
        Block("sh", text, "", "") for text in re.findall(r"`(fcn-caffe [^`]*|python tools/[^`]*)`", text_of(document))
    ]
    for block in (*(block for block in blocks(document) if block.language == "sh"), *inline):
        for words in block.commands():
            tool = tool_of(words)
            if tool and tool not in ("NAME", "X", "TOOL") and not tool.startswith("__"):
                assert (ROOT / "tools" / f"{tool}.py").is_file(), f"{document}: no tool {tool}"
                for flag in (word.split("=")[0] for word in words if re.match(r"--\w", word)):
                    assert re.search(rf"{flag}\b", help_of(tool)), f"{document}: {tool} has no {flag}"


@pytest.mark.parametrize("document", CURRENT)
def test_names_in_a_document_are_there(document: str) -> None:
    for name in names(document):
        assert is_there(name), f"{document} names {name}"


def is_there(name: str) -> bool:
    """Whether a dotted name is a module or something within one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_a_document_names_are_there(document: str) -> None:
    for link in links(document):
        place = link.split("#")[0]
        assert not place or (ROOT / document).parent.joinpath(place).exists(), f"{document} links {link}"
    if document in CURRENT:
        for file in files(document):
            variable = re.search(r"\b(X|NAME)\b", file)
            assert variable or (ROOT / file).exists(), f"{document} names {file}"


def test_the_table_of_layers_is_the_registry() -> None:
    wrong = "docs/layers.md is not what `python tests/layers_table.py` writes: run it"
    assert layers_table.PAGE.read_text(encoding="utf-8") == layers_table.page(), wrong


def test_all_is_what_can_be_imported() -> None:
    assert sorted(fcn_caffe.__all__) == sorted(set(fcn_caffe.__all__))
    for name in fcn_caffe.__all__:
        assert getattr(fcn_caffe, name) is not None
    public = {name for name, value in vars(fcn_caffe).items() if isinstance(value, type) and not name.startswith("_")}
    assert public <= set(fcn_caffe.__all__), "a public class is missing from __all__"


def test_every_error_class_is_raised_in_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert re.search(rf"raises\({name}\b", tests), f"no test expects {name}"


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_every_tool_explains_itself_and_has_its_command(
    tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process: a process for each would load PyTorch 26 times.
    monkeypatch.setattr(sys, "argv", [tool, "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")
    assert (ROOT / "fcn_caffe" / "commands" / tool).is_file()


def test_a_tool_runs_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "tools" / "make_nets.py", "--help"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("usage: ")


def test_the_page_of_tools_names_every_tool() -> None:
    page = text_of("docs/howto/tools.md")
    for path in (ROOT / "tools").glob("*.py"):
        assert f"`{path.stem}`" in page, f"docs/howto/tools.md does not name {path.stem}"


@pytest.mark.needs_package("griffe")
def test_docstrings_are_in_the_form_that_the_reference_reads(caplog: pytest.LogCaptureFixture) -> None:
    import griffe

    options = {"returns_named_value": False, "returns_multiple_items": False, "warn_missing_types": False}
    with caplog.at_level(logging.WARNING, "griffe"):
        pending = [griffe.load("fcn_caffe", search_paths=[ROOT], docstring_parser="google", docstring_options=options)]
        while pending:
            thing = pending.pop()
            if thing.docstring:
                assert thing.docstring.parsed is not None
            pending += [member for member in thing.members.values() if not member.is_alias]
    assert caplog.messages == []
