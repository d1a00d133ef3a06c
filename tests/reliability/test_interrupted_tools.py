"""The share of `make interrupts` that runs in CI."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from places import ROOT, TESTS


@pytest.mark.slow
@pytest.mark.needs_linux
def test_interrupted_tools_end_in_order() -> None:
    tools = ("train", "score", "port_weights", "new_task")
    script = TESTS / "reliability" / "interrupts.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    shares = ("--runs", "5", "--starts", "0", "--longest", "0.3", "--seed", "17")
    command = [sys.executable, script, *tools, *shares]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == [*tools, "all"]
    ended = dict(pair.split(": ") for pair in rows[-1][2].split(", "))
    assert sum(int(ended.get(status, 0)) for status in ("130", "143")) > 5, "the signals come too late to test anything"
