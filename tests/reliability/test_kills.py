"""The share of `make kills` that runs in CI, and tools on full and read-only disks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT, TESTS


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.needs_linux
def test_killed_runs_leave_all_whole_and_the_next_run_ends_as_if_none_was_killed() -> None:
    tools = ("train", "solve", "score", "infer", "port_weights", "get_data", "new_task")
    done = run(sys.executable, TESTS / "reliability" / "kills.py", "--kills", "42", "--seed", "17", "--tools", *tools)
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*tools] and last.endswith("kills, 0 failures")
    left = [int(re.findall(r"(\d+) left something beside", line)[0]) for line in lines]
    assert sum(left) > 5, "the kills come too late or too early to test anything"


@pytest.mark.slow
@pytest.mark.needs_own_mounts
def test_full_and_read_only_disks(tmp_path: Path) -> None:
    script = TESTS / "reliability" / "disks.py"
    done = run("unshare", "--map-root-user", "--mount", sys.executable, script, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 12
