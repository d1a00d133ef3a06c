"""snapshot_diff: each blob's diff beside it, which after an update is what the update took away, as in Caffe."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver
from fcn_caffe.weights import load_weights

SOLVER = """
base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" solver_mode: CPU snapshot_diff: true %s
net_param {
  layer { name: "data" type: "DummyData" top: "x" top: "t" dummy_data_param {
    shape { dim: 1 dim: 2 } data_filler { value: 1 } data_filler { value: 3 } } }
  layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" param { } param { lr_mult: 0 }
          inner_product_param { num_output: 2 } }
  layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" }
}"""


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_snapshots_hold_the_last_update(tmp_path: Path, form: str) -> None:
    options = f'snapshot_prefix: "{tmp_path}/s" snapshot_format: {form}'
    solver = Solver(parse_text(SOLVER % options, caffe_pb2.SolverParameter))
    solver.step(2)
    before = solver.net.params["ip"][0].detach().clone()
    solver.step(1)
    update = (before - solver.net.params["ip"][0].detach()).numpy()
    assert np.abs(update).max() > 0.1
    solver.snapshot()
    if form == "HDF5":
        with h5py.File(tmp_path / "s_iter_3.caffemodel.h5") as file:
            weight, bias = file["diff/ip/0"][()], file["diff/ip/1"][()]
        weights = load_weights(tmp_path / "s_iter_3.caffemodel.h5")
    else:
        net = caffe_pb2.NetParameter.FromString((tmp_path / "s_iter_3.caffemodel").read_bytes())
        (layer,) = net.layer
        weight, bias = np.array(layer.blobs[0].diff).reshape(2, 2), np.array(layer.blobs[1].diff)
        weights = load_weights(tmp_path / "s_iter_3.caffemodel")
    np.testing.assert_allclose(weight, update, rtol=1e-5)
    assert bias.tolist() == [0, 0]
    np.testing.assert_array_equal(weights["ip"][0], solver.net.params["ip"][0].detach().numpy())


def test_the_diff_before_any_update_is_zero(tmp_path: Path) -> None:
    solver = Solver(parse_text(SOLVER % f'snapshot_prefix: "{tmp_path}/s"', caffe_pb2.SolverParameter))
    solver.net.params["ip"][0].data.fill_(torch.pi)
    solver.snapshot()
    net = caffe_pb2.NetParameter.FromString((tmp_path / "s_iter_0.caffemodel").read_bytes())
    assert list(net.layer[0].blobs[0].diff) == [0] * 4
