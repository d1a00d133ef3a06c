"""`--deterministic`: what is asked of PyTorch, and the layer that it cannot do so for."""

from __future__ import annotations

import pytest
import torch
import training_run

from fcn_caffe.commands import _options, infer, score, solve, train
from fcn_caffe.errors import FcnCaffeError, LayerError
from fcn_caffe.layers.neuron import ReLU
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver

NET = """
base_lr: 1 lr_policy: "fixed" net_param { name: "n"
  layer { name: "data" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 3 } } }
  layer { name: "first" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 2
    weight_filler { type: "xavier" } } }
  layer { name: "odd" type: "ReLU" bottom: "a" top: "b" }
  layer { name: "last" type: "InnerProduct" bottom: "b" top: "c" inner_product_param { num_output: 2
    weight_filler { type: "xavier" } } }
  layer { name: "loss" type: "Reduction" bottom: "c" top: "loss" loss_weight: 1 } }
"""


class Refused(torch.autograd.Function):
    """What PyTorch does on a GPU for some operations."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("odd_backward_cuda does not have a deterministic implementation, but you set it. You can …")


def test_the_layer_is_named(monkeypatch):
    monkeypatch.setattr(ReLU, "forward", lambda self, x: Refused.apply(x))
    solver = Solver(parse_text(NET, caffe_pb2.SolverParameter), device="cpu")
    with pytest.raises(LayerError, match=r"layer 'odd' \(ReLU\): --deterministic .* odd_backward_cuda does not have"):
        solver.step(1)


@pytest.mark.usefixtures("allow_python")
def test_other_errors_stay(monkeypatch, tmp_path):
    def fail(self, *arguments):
        raise RuntimeError("other")

    monkeypatch.setattr(torch.Tensor, "backward", fail)
    with pytest.raises(RuntimeError, match=r"^other$"):
        training_run.solver(tmp_path).step(1)


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        (infer, ["--net", "n", "--weights", "w", "--out", "o", "i"]),
        (score, ["n", "--weights", "w"]),
        (solve, []),
        (train, ["--solver", "s"]),
    ],
)
def test_the_option(tool, words, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    _options.use_deterministic(tool.parser().parse_args(words))
    with pytest.raises(FcnCaffeError, match="Put CUBLAS_WORKSPACE_CONFIG=:4096:8 before the command"):
        _options.use_deterministic(tool.parser().parse_args([*words, "--deterministic"]))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _options.use_deterministic(tool.parser().parse_args([*words, "--deterministic"]))
    assert asked == [True]
    with pytest.raises(FcnCaffeError, match="Leave out --fast, or --deterministic"):
        _options.use_deterministic(tool.parser().parse_args([*words, "--deterministic", "--fast"]))
