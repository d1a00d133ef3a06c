"""benchmarks/peers.py on narrow nets and small images: each mode agrees with the form by hand, and is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

FIELDS = {
    *("engine", "what", "mode", "processor_s", "wall_s", "ratio", "largest_difference", "classes_equal", "peak_bytes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("net", ["voc-fcn-alexnet", "small"])
def test_peers_writes_a_row_for_each_mode(net: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    options = ["--ours", "--rounds", "1", "--size", "65", "--width", "16", "--net", net, "--json", str(file)]
    command = [sys.executable, str(ROOT / "benchmarks/peers.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(file.read_text())
    assert all(row.keys() == FIELDS for row in rows)
    found = {(row["engine"], row["what"], row["mode"]) for row in rows}
    assert {("by hand", "forward", ""), ("by hand", "step", "")} <= found
    assert {("fcn_caffe", what, mode) for what in ("forward", "step") for mode in ("plain", "default")} <= found
    for row in rows:
        assert row["processor_s"] > 0 and row["ratio"] > 0
        if row["mode"] in ("", "plain", "default", "frozen", "checkpoint"):
            assert row["largest_difference"] < 1e-5, row
        if row["what"] == "forward":
            assert row["classes_equal"] > 0.999, row
    assert len(done.stdout.splitlines()) == len(rows) + 2
