"""What the documents say is what the code does."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import fcn_caffe
import fcn_caffe.net  # brings in every layer, data layers too
from fcn_caffe import errors
from fcn_caffe.layers.base import REGISTRY, Layer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def table_row(name: str, layer: type[Layer]) -> str:
    def count(wanted: object) -> str:
        if isinstance(wanted, tuple):
            return f"{wanted[0]} or more" if wanted[1] is None else f"{wanted[0]} to {wanted[1]}"
        return str(wanted)

    traced = f"no: {layer.untraced}" if layer.untraced else "yes"
    return f"| {name} | {count(layer.bottoms)} | {count(layer.tops)} | {traced} | {layer.restrictions or 'none'} |"


def test_the_table_of_layers_is_the_registry() -> None:
    section = README.split("## Layers", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert rows == [table_row(name, REGISTRY[name]) for name in sorted(REGISTRY)]


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


def test_files_that_the_documents_name_are_there() -> None:
    for document in ("README.md", "ARCHITECTURE.md"):
        text = (ROOT / document).read_text()
        linked = r"\]\(([\w./-]+)\)|`((?:tools|tests|docs|nets|solvers|benchmarks)/[\w./-]+\.\w+)`"
        for path in re.findall(linked, text):
            name = next(filter(None, path))
            assert "X.py" in name or "NAME" in name or (ROOT / name).exists(), f"{document} names {name}"


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


def test_readme_names_every_tool() -> None:
    for path in (ROOT / "tools").glob("*.py"):
        assert re.search(rf"`(tools/)?{path.stem}(\.py)?`|tools/{path.name}", README), (
            f"README does not name {path.stem}"
        )
