"""A solver whose nets compute constant borders once learns as the plain one does, and each resumes the other."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from fcn_caffe.commands._options import add_speed_options, make_faster
from fcn_caffe.net.rewrite.borders import borders_once
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver

TEXT = """
base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" max_iter: 4 random_seed: 1 solver_mode: CPU snapshot_prefix: "PREFIX"
test_iter: 1 test_interval: 2
net_param {
  layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
    shape { dim: 1 dim: 1 dim: 12 dim: 13 } shape { dim: 1 dim: 1 dim: 9 dim: 9 }
    data_filler { type: "gaussian" } data_filler { value: 1 } } }
  layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {
    num_output: 16 kernel_size: 3 pad: 20 weight_filler { type: "xavier" } } }
  layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
  layer { name: "next" type: "Convolution" bottom: "conv" top: "next" convolution_param {
    num_output: 16 kernel_size: 3 weight_filler { type: "xavier" } } }
  layer { name: "pool" type: "Pooling" bottom: "next" top: "pool" pooling_param { kernel_size: 5 stride: 5 } }
  layer { name: "score" type: "Convolution" bottom: "pool" top: "score" convolution_param {
    num_output: 2 kernel_size: 2 weight_filler { type: "xavier" } } }
  layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
}
"""


def make_solver(folder: Path, faster: bool) -> Solver:
    param = parse_text(TEXT.replace("PREFIX", str(folder / "s")), caffe_pb2.SolverParameter)
    return Solver(param, rewrite=borders_once) if faster else Solver(param)


@pytest.mark.parametrize("faster", [True, False])
def test_a_snapshot_of_either_is_resumed_by_the_other(tmp_path: Path, faster: bool) -> None:
    whole = make_solver(tmp_path, faster)  # each seeds the random numbers that all draw from
    whole.step(4)
    first = make_solver(tmp_path, faster)
    first.step(2)
    first.snapshot()
    second = make_solver(tmp_path, not faster)
    second.restore(tmp_path / "s_iter_2.solverstate")
    second.step(2)
    rewritten = whole if faster else second
    assert all(len(net.steps) > len(net.graph.nodes) for net in (rewritten.net, *rewritten.test_nets))
    for name, blobs in whole.net.params.items():
        for blob, other in zip(blobs, second.net.params[name], strict=True):
            torch.testing.assert_close(other, blob, rtol=1e-4, atol=1e-6)
    shared = zip(second.net.learnable_params, second.test_nets[0].learnable_params, strict=True)
    assert all(mine.blob is theirs.blob for mine, theirs in shared)


def test_parts_that_run_again_learn_the_same(tmp_path: Path) -> None:
    param = parse_text(TEXT.replace("PREFIX", str(tmp_path / "s")), caffe_pb2.SolverParameter)
    solvers = []
    for checkpoint in (False, True):
        solvers.append(Solver(param, rewrite=borders_once, checkpoint=checkpoint))
        solvers[-1].step(2)
    for one, other in zip(*(solver.net.learnable_params for solver in solvers), strict=True):
        assert torch.equal(one.blob, other.blob)


def test_plain_turns_the_rewrite_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_speed_options(parser)
    net = make_solver(tmp_path, False).net
    capsys.readouterr()
    assert make_faster(net, parser.parse_args(["--plain"])) is net
    assert capsys.readouterr().err == ""
    assert make_faster(net, parser.parse_args([])) is not net
    assert "constant borders are computed once, with " in capsys.readouterr().err
