"""What a run takes is said before it starts; a run that does not fit is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fcn_caffe.commands.train import main
from fcn_caffe.host import free_memory
from fcn_caffe.net.net import Net
from tests.needs import needs_linux

ROOT = Path(__file__).resolve().parents[1]

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 4 dim: 3 dim: 32 dim: 32 } shape { dim: 4 dim: 1 dim: 32 dim: 32 } } }
layer { name: "score" type: "Convolution" bottom: "data" top: "score" convolution_param { num_output: 2 kernel_size: 1
  weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""


def test_the_peak_is_what_was_said():
    needs_linux()
    words = [sys.executable, str(ROOT / "tests/reliability/memory.py"), "--one", "shapes-fcn8s 96x96 2"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    said, had, parts = json.loads(done.stdout.splitlines()[-1])
    assert said == pytest.approx(had, rel=0.15)
    assert parts.startswith("libraries ") and "history" in parts


def test_a_run_beyond_the_containers_limit_is_refused(tmp_path, monkeypatch, capsys):
    files = {
        "proc/self/cgroup": "0::/job\n",
        "groups/job/memory.max": f"{300 << 20}\n",
        "groups/job/memory.current": f"{290 << 20}\n",
        "net.prototxt": NET,
        "run.prototxt": f'net: "{tmp_path}/net.prototxt" base_lr: 1 lr_policy: "fixed" max_iter: 1 '
        f'snapshot_prefix: "{tmp_path}/run" solver_mode: CPU',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(free_memory, "_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(free_memory, "_PROC", tmp_path / "proc")
    filled: list[Net] = []
    fill = Net.fill
    monkeypatch.setattr(Net, "fill", lambda net: (filled.append(net), fill(net)))
    assert main(["--solver", str(tmp_path / "run.prototxt")]) == 1
    said = capsys.readouterr().err
    assert "a training step on 4x3x32x32 takes about" in said and "10 MiB are free." in said
    assert "batch_size 1 and iter_size 4" in said
    assert not list(tmp_path.glob("run_*")) and not filled  # it is said before weights take time and memory
    (tmp_path / "groups/job/memory.current").write_text("0\n")
    assert main(["--solver", str(tmp_path / "run.prototxt")]) == 0 and len(filled) == 1
