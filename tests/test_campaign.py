"""The campaign's share of a test run: every reader, seeded, in its own process; `make campaign` runs a million."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT, TESTS

pytestmark = pytest.mark.needs_linux  # the limits that each file runs under


def run_module(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the tests in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(TESTS)))}
    return subprocess.run([sys.executable, "-m", *command], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_no_spoilt_file_does_what_it_must_not(tmp_path: Path) -> None:
    run = run_module("campaign.run", "--inputs", "1500", "--out", str(tmp_path))
    words = run.stdout + run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    # Whether a sentence says what to do is told by its words: the campaign lists those that a person should look at.
    assert set(report["failures"]) <= {"no cure"}, words
    assert report["inputs"] >= 1400
    # It reaches what is behind the parsers, and no reader refuses all or takes all.
    assert report["lines_reached"] > 1500, words
    outcomes = {name: (each["accepted"], each["refused"]) for name, each in report["readers"].items()}
    assert sum(accepted for accepted, _ in outcomes.values()) > 150, outcomes
    assert sum(refused for _, refused in outcomes.values()) > 500, outcomes


@pytest.mark.slow
def test_the_watch_sees_each_misdeed(tmp_path: Path) -> None:
    """A reader that misbehaves in each way is reported for it, with the file that it read."""
    run_module("campaign.misdeeds", str(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    found = {name: [failure["kind"] for failure in each["failures"]] for name, each in report["readers"].items()}
    assert len(found) == 11
    found["writes"].remove("PermissionError")  # nothing is written: the watch refuses
    assert found == {name: [name] for name in found}
    assert len(list((tmp_path / "out" / "failures").iterdir())) == len(found) + 1
