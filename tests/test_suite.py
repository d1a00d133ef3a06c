"""The tests about the tests: what they skip, and what they leave."""

import re
import shutil
import subprocess
import sys

import pytest
from needs import NEEDS
from places import ROOT, TESTS


def test_only_needs_skip() -> None:
    """Conditions for skipping stand in needs.py alone: what a machine lacks, never what the project lacks."""
    skips = re.compile(r"pytest\.skip\(|skipif|importorskip|mark\.skip|mark\.xfail|pytest\.xfail")
    this = TESTS / "test_suite.py"
    files = [path for path in TESTS.rglob("*.py") if path not in (TESTS / "needs.py", this)]
    assert [str(path.relative_to(TESTS)) for path in files if skips.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ('needs_data("data/no_such_place")', "needs ../shared/data/no_such_place"),
        ('needs_package("no_such_package")', "needs the Python package no_such_package"),
        ('needs_program("no_such_program")', "needs the program no_such_program"),
    ],
)
def test_a_skipped_test_says_why(tmp_path, mark, reason) -> None:
    for name in ("conftest.py", "needs.py", "places.py"):
        shutil.copy(TESTS / name, tmp_path)
    (tmp_path / "test_it.py").write_text(f"import pytest\n\n@pytest.mark.{mark}\ndef test_it():\n    assert False\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    run = subprocess.run([*command, "--rootdir", str(tmp_path), str(tmp_path)], capture_output=True, text=True)
    assert f": {reason}\n" in run.stdout and "1 skipped" in run.stdout


def test_every_need_is_a_mark(pytestconfig: pytest.Config) -> None:
    marks = {line.split(":")[0] for line in pytestconfig.getini("markers")}
    assert marks >= {*NEEDS, "slow"}


def test_each_test_file_has_its_own_name() -> None:
    """pytest imports them by their last name alone."""
    names = sorted(path.name for path in TESTS.rglob("test_*.py"))
    assert names == sorted(set(names))
