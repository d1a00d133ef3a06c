"""caffe.NCCL, as BVLC's python/train.py uses it: a process for each solver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rank_runs
from google.protobuf import text_format

import fcn_caffe.pycaffe as caffe
from fcn_caffe.weights.transfer import load_weights

# What train.py does, with the CPU in place of GPUs.
SCRIPT = """
import sys
from multiprocessing import Process

import torch._dynamo  # which optimizers import: once, for both processes

import fcn_caffe.pycaffe as caffe


def solve(proto, count, uid, rank):
    caffe.set_mode_cpu()
    caffe.set_solver_count(count)
    caffe.set_solver_rank(rank)
    caffe.set_multiprocess(True)
    solver = caffe.SGDSolver(proto)
    nccl = caffe.NCCL(solver, uid)
    nccl.bcast()
    solver.add_callback(nccl)
    if solver.param.layer_wise_reduce:
        solver.net.after_backward(nccl)
    solver.step(solver.param.max_iter)


if __name__ == "__main__":
    uid = caffe.NCCL.new_uid()
    processes = [Process(target=solve, args=(sys.argv[1], 2, uid, rank)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(process.exitcode for process in processes))
"""


def test_train_py(tmp_path):
    """Two solvers end where one with iter_size 2 does, and write one snapshot."""
    rank_runs.write_rows(tmp_path)
    param = rank_runs.solver_of(tmp_path, more="max_iter: 6 snapshot: 6 layer_wise_reduce: true")
    (tmp_path / "solver.prototxt").write_text(text_format.MessageToString(param))
    (tmp_path / "train.py").write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, "train.py", "solver.prototxt"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    weights, _, _ = rank_runs.train_alone(rank_runs.solver_of(tmp_path, more="iter_size: 2"), 6)
    written = load_weights(tmp_path / "run_iter_6.caffemodel")
    for name in ("c1", "score"):
        for ours, theirs in zip(written[name], weights[name], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert run.stderr.count("Snapshotting to") == 2  # each says it, one writes


def test_add_callback_wants_two_functions_or_an_nccl(tmp_path):
    rank_runs.write_rows(tmp_path)
    Path(tmp_path / "solver.prototxt").write_text(text_format.MessageToString(rank_runs.solver_of(tmp_path)))
    with pytest.raises(TypeError, match="two functions"):
        caffe.SGDSolver(str(tmp_path / "solver.prototxt")).add_callback(lambda: None)
