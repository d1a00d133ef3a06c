"""Each example runs, as a person runs it, and shows what its docstring says one sees."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

EXAMPLES = ROOT / "examples"


def run(name: str, folder: Path) -> str:
    """Return what an example prints, run from an empty folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    del environment["FCN_CAFFE_ALLOW_PYTHON"]  # a reader has not set it
    process = subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    assert not list(folder.iterdir()), f"{name} leaves files behind"
    return process.stdout


def percents(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+) %", text)]


def test_every_example_says_what_one_sees_is_listed_and_is_run() -> None:
    readme, tests = (EXAMPLES / "README.md").read_text(), Path(__file__).read_text()
    sources = {path.name: path.read_text() for path in EXAMPLES.glob("*.py")}
    for name, source in sources.items():
        assert ast.get_docstring(ast.parse(source)), f"{name} does not say what one sees"
        assert f"({name})" in readme, f"examples/README.md does not list {name}"
        imported = any(f"from {name.removesuffix('.py')} import" in other for other in sources.values())
        assert imported or f'run("{name}"' in tests, f"no test runs {name}"


def test_ten_lines(tmp_path: Path) -> None:
    shown = run("ten_lines.py", tmp_path)
    assert 'type: "Convolution"' in shown
    assert shown.splitlines()[-2:] == ["torch.Size([1, 5, 16, 16])", "torch.Size([1, 5, 40, 60])"]


def test_own_layer(tmp_path: Path) -> None:
    shown = dict(line.split(":", 1) for line in run("own_layer.py", tmp_path).splitlines())
    assert ast.literal_eval(shown["soft"].strip()) == [-0.5, 0.0, 0.5]
    noise = ast.literal_eval(shown["noise"].strip())
    assert noise == pytest.approx([-0.5, 0, 0.5], abs=0.05) and noise != [-0.5, 0.0, 0.5]
    assert ast.literal_eval(shown["gradient"].strip()) == [0.25, 1.0, 0.25]
    assert shown["error"] == " layer 'soft' (Softsign): power_param.scale is -1; write one above 0."


def test_own_training_loop(tmp_path: Path) -> None:
    shown = run("own_training_loop.py", tmp_path)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", shown)]
    assert losses[0] == pytest.approx(1.099, abs=0.001) and losses[-1] < losses[0] / 4
    assert len(percents(shown)) == 3 and min(percents(shown)) > 70


def test_fine_tuning(tmp_path: Path) -> None:
    shown = run("fine_tuning.py", tmp_path)
    assert "coerced 2: fc2 blob 0 24x128 to 24x8x4x4; score blob 0 3x24 to 3x24x1x1" in shown
    tuned_before, tuned, scratch_before, scratch = percents(shown)
    assert tuned_before > 60 > 40 > scratch_before
    assert tuned > 70 > 50 > scratch


def test_audit(tmp_path: Path) -> None:
    shown = run("audit.py", tmp_path)
    assert "5 claims: 5 holds" in shown and "5 claims: 4 holds, 1 differs" in shown
    assert "Found voc-fcn8s, score: offset 30, wanted offset 31." in shown
