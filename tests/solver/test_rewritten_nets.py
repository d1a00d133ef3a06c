"""A solver whose nets compute constant borders once learns as the plain one does, and each resumes the other."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from fcn_caffe import TEST, Net
from fcn_caffe.commands._options import add_speed_options, make_faster
from fcn_caffe.errors import SolverError
from fcn_caffe.layers.conv import Convolution
from fcn_caffe.layers.convolution_ways import ConvolveBy, has_pointwise
from fcn_caffe.net.rewrite import frozen, tuned
from fcn_caffe.net.rewrite.ready import ready_net
from fcn_caffe.net.rewrite.tuned import Choice
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
    return Solver(param, rewrite=ready_net) if faster else Solver(param)


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


def test_fast_chooses_ways_once_and_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gemm, calls = "im2col and GEMM", list[Net]()

    def choose(net: Net, *more: object) -> list[Choice]:
        calls.append(net)
        return [Choice("conv"), Choice("next", gemm, gemm, gemm), Choice("score")]

    monkeypatch.setattr(tuned, "_choose", choose)
    param = parse_text(TEXT.replace("PREFIX", str(tmp_path / "s")), caffe_pb2.SolverParameter)
    whole = Solver(param, rewrite=ready_net, fast=True)
    assert not calls  # the weights to choose for are not in yet
    with caplog.at_level("INFO"):
        whole.step(4)
    assert [net.training for net in calls] == [True, False]
    assert caplog.text.count("fast: 1 of 3 convolutions") == 2 and "gradients differ by" in caplog.text
    for net in (whole.net, *whole.test_nets):
        (way,) = [step.layer.convolve.forward for step in net.steps if isinstance(step.layer, Convolution)
                  and isinstance(step.layer.convolve, ConvolveBy)]  # fmt: skip
        assert way.name == gemm
    first = Solver(param, rewrite=ready_net, fast=True)
    first.step(2)
    first.snapshot()
    second = Solver(param, rewrite=ready_net, fast=True)
    second.restore(tmp_path / "s_iter_2.solverstate")
    second.step(2)
    plain = Solver(param, rewrite=ready_net)
    plain.step(4)  # choosing draws no random numbers of those that train
    for name, blobs in whole.net.params.items():
        for blob, resumed, other in zip(blobs, second.net.params[name], plain.net.params[name], strict=True):
            assert torch.equal(resumed, blob)
            torch.testing.assert_close(other, blob, rtol=1e-4, atol=1e-6)
    assert len(calls) == 2  # found in the cache


def test_fast_is_for_float32(tmp_path: Path) -> None:
    param = parse_text(TEXT.replace("PREFIX", str(tmp_path / "s")), caffe_pb2.SolverParameter)
    with pytest.raises(SolverError, match="leave out amp, or fast"):
        Solver(param, fast=True, amp="bf16")


def test_test_nets_follow_the_weights_that_are_trained_and_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "packs_to_the_bit", has_pointwise)  # packed weights are made anew when they change
    solver = make_solver(tmp_path, True)
    inputs = {"data": torch.randn(1, 1, 12, 13), "label": torch.ones(1, 1, 9, 9)}

    def assert_followed() -> float:
        plain = Net(solver.param.net_param, phase=TEST)
        plain.share_with(solver.net)
        with torch.no_grad():
            ours, wanted = (float(net(inputs)["loss"]) for net in (solver.test_nets[0], plain))
        assert ours == pytest.approx(wanted, rel=1e-5)
        return ours

    start = assert_followed()
    solver.snapshot()
    solver.step(2)
    assert assert_followed() != pytest.approx(start, rel=1e-3)
    solver.restore(tmp_path / "s_iter_0.solverstate")
    assert assert_followed() == pytest.approx(start, rel=1e-6)


def test_parts_that_run_again_learn_the_same(tmp_path: Path) -> None:
    param = parse_text(TEXT.replace("PREFIX", str(tmp_path / "s")), caffe_pb2.SolverParameter)
    solvers = []
    for checkpoint in (False, True):
        solvers.append(Solver(param, rewrite=ready_net, checkpoint=checkpoint))
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
