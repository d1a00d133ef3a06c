"""--checkpoint and --amp in train and solve: the same training, exact resume, refusals."""

import hashlib
import logging

import pytest

from fcn_caffe.commands.train import main
from fcn_caffe.errors import SolverError
from fcn_caffe.net.demand import training_demand
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver, settings

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 2 dim: 3 dim: 12 dim: 12 } shape { dim: 2 dim: 1 dim: 3 dim: 3 }
  data_filler { type: "gaussian" std: 1 } data_filler { value: 1 } } }
layer { name: "one" type: "Convolution" bottom: "data" top: "one" param { lr_mult: 1 } param { lr_mult: 1 }
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "one" top: "one" }
layer { name: "pool1" type: "Pooling" bottom: "one" top: "pool1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "two" type: "Convolution" bottom: "pool1" top: "two" param { lr_mult: 1 } param { lr_mult: 1 }
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "pool2" type: "Pooling" bottom: "two" top: "pool2" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "pool2" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 6 snapshot: 3 random_seed: 4
snapshot_prefix: "%s" solver_mode: CPU
"""


def train(place, prefix, *options):
    (place / "net.prototxt").write_text(NET)
    (place / f"{prefix}.prototxt").write_text(SOLVER % (place / prefix))
    assert main(["--solver", str(place / f"{prefix}.prototxt"), *options]) == 0
    return hashlib.sha256((place / f"{prefix}_iter_6.caffemodel").read_bytes()).hexdigest()


def test_checkpoint_trains_the_same_weights(tmp_path):
    assert train(tmp_path, "plain") == train(tmp_path, "again", "--checkpoint")


@pytest.mark.parametrize("options", [["--checkpoint"], ["--amp", "bf16"], ["--amp", "bf16", "--checkpoint"]])
def test_resume_is_exact(tmp_path, options):
    whole = train(tmp_path, "run", *options)
    (tmp_path / "run_iter_6.caffemodel").unlink()
    state = str(tmp_path / "run_iter_3.solverstate")
    assert train(tmp_path, "run", *options, "--snapshot", state) == whole


def test_bf16_trains_other_weights_and_warns_where_it_is_slow(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(settings, "has_bfloat16", lambda device: False)
    with caplog.at_level(logging.WARNING):
        assert train(tmp_path, "plain") != train(tmp_path, "half", "--amp", "bf16")
    assert "this CPU has no bfloat16 arithmetic" in caplog.text
    assert caplog.text.count("no bfloat16") == 1


def solver_param(more=""):
    param = parse_text(f'base_lr: 1 lr_policy: "fixed" {more}', caffe_pb2.SolverParameter)
    param.net_param.CopyFrom(parse_text(NET, caffe_pb2.NetParameter))
    return param


def test_refusals():
    with pytest.raises(SolverError, match=r"amp 'fp16' is unknown\. Use bf16, or leave it out\."):
        Solver(solver_param(), amp="fp16")
    with pytest.raises(SolverError, match="debug_info looks at every blob"):
        Solver(solver_param("debug_info: true"), checkpoint=True)


def test_a_net_that_cannot_fit_is_refused_before_it_starts(tmp_path, monkeypatch, capsys):
    param = solver_param()
    param.net_param.layer[4].convolution_param.num_output = 64  # the peak is where the first stage is only kept
    solver = Solver(param)
    solver.refuse_too_large()
    need = training_demand(solver.net, "SGD").to_come(solver.device)
    monkeypatch.setattr(settings, "free_bytes", lambda device: need - 1)
    with pytest.raises(SolverError, match=r"a training step on 2x3x12x12 takes about .* --checkpoint takes about"):
        solver.refuse_too_large()
    Solver(param, checkpoint=True).refuse_too_large()
    monkeypatch.setattr(settings, "free_bytes", lambda device: 1000)
    for checkpoint in (False, True):
        with pytest.raises(
            SolverError,
            match=r"gradients .*1000 bytes are free\. Use smaller images or batches \(batch_size 1 and iter_size 2 ",
        ):
            Solver(param, checkpoint=checkpoint).refuse_too_large()
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "run.prototxt").write_text(SOLVER % (tmp_path / "run"))
    assert main(["--solver", str(tmp_path / "run.prototxt")]) == 1
    assert "1000 bytes are free" in capsys.readouterr().err
    assert not list(tmp_path.glob("run_iter*"))
