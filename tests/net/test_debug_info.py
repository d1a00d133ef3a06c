"""debug_info: Caffe's lines, and the Split layers they show."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from helpers import input_layer, layer, make_net, net_param, randomise

from fcn_caffe import TRAIN
from fcn_caffe.net.graph import filter_net
from fcn_caffe.net.rewrite.splits import insert_splits
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver

CONVOLUTION = "convolution_param { num_output: 2 kernel_size: 1 }"
NET = (
    input_layer("data", 1, 2, 3, 3),
    layer("conv", "Convolution", "data", more=CONVOLUTION + ' param { name: "w" } param { lr_mult: 0 }'),
    layer("relu", "ReLU", "conv", "conv"),
    layer("left", "Power", "conv", more="power_param { scale: 2 }"),
    layer("loss", "EuclideanLoss", "left conv"),
)


def test_splits_are_named_as_caffes() -> None:
    split = insert_splits(filter_net(net_param(*NET), TRAIN))
    assert [(item.name, list(item.bottom), list(item.top)) for item in split.layer] == [
        ("data", [], ["data"]),
        ("conv", ["data"], ["conv"]),
        ("relu", ["conv"], ["conv"]),
        ("conv_relu_0_split", ["conv"], ["conv_relu_0_split_0", "conv_relu_0_split_1"]),
        ("left", ["conv_relu_0_split_0"], ["left"]),
        ("loss", ["left", "conv_relu_0_split_1"], ["loss"]),
    ]


def test_a_loss_counts_as_a_reader_and_moves_to_the_first_copy() -> None:
    text = [input_layer("x", 2, 3), layer("a", "Power", "x", more="loss_weight: 0.5"), layer("b", "Power", "a")]
    split = insert_splits(filter_net(net_param(*text), TRAIN)).layer
    assert [item.name for item in split] == ["x", "a", "a_a_0_split", "b"]
    assert list(split[2].loss_weight) == [0.5, 0]
    assert list(split[3].bottom) == ["a_a_0_split_1"]
    plain, debug = make_net(*text), make_net(*text, debug_info=True)
    given = {"x": torch.randn(2, 3)}
    assert plain.forward_loss(given)[0] == debug.forward_loss(given)[0]


def solver(more: str) -> Solver:
    text = f"net_param {{ {' '.join(NET)} }} base_lr: 0.1 lr_policy: 'fixed' snapshot_after_train: false {more}"
    made = Solver(parse_text(text, caffe_pb2.SolverParameter))
    randomise(made.net)
    made.net.inputs["data"] = torch.arange(18.0).reshape(1, 2, 3, 3) - 6
    return made


def debug_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if re.match(r" {4}\[(Forward|Backward)\]", record.getMessage())]


def test_every_blob_and_gradient_at_iterations_that_display(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trained = solver("debug_info: true display: 2")
    weight, bias = (blob.detach().clone() for blob in trained.net.layer("conv").blobs)
    data = trained.net.inputs["data"]
    trained.step(1)
    conv = torch.nn.functional.conv2d(data, weight, bias).relu()
    lines = debug_lines(caplog)
    sizes = {record.getMessage().split(": ", 1)[0].strip(): record.getMessage() for record in lines}
    assert list(sizes) == [
        "[Forward] Layer data, top blob data data",
        "[Forward] Layer conv, top blob conv data",
        "[Forward] Layer conv, param blob w data",
        "[Forward] Layer conv, param blob 1 data",
        "[Forward] Layer relu, top blob conv data",
        "[Forward] Layer conv_relu_0_split, top blob conv_relu_0_split_0 data",
        "[Forward] Layer conv_relu_0_split, top blob conv_relu_0_split_1 data",
        "[Forward] Layer left, top blob left data",
        "[Forward] Layer loss, top blob loss data",
        "[Backward] Layer loss, bottom blob left diff",
        "[Backward] Layer loss, bottom blob conv_relu_0_split_1 diff",
        "[Backward] Layer left, bottom blob conv_relu_0_split_0 diff",
        "[Backward] Layer conv_relu_0_split, bottom blob conv diff",
        "[Backward] Layer relu, bottom blob conv diff",
        "[Backward] Layer conv, param blob 0 diff",
        "[Backward] All net params (data, diff)",
    ]
    assert lines[-1].getMessage().startswith("    [Backward] All net params (data, diff): L1 norm = (")
    assert lines[-1].levelno == logging.ERROR, "as Caffe does"

    def value(key: str) -> float:
        return float(sizes[key].rsplit(": ", 1)[1])

    # loss = sum (2 c - c)² / 2: slopes c by left, -c by conv; left's bottom 2 c; together c.
    size = conv.abs().mean().item()
    assert value("[Forward] Layer relu, top blob conv data") == pytest.approx(size, rel=1e-5)
    assert value("[Backward] Layer loss, bottom blob conv_relu_0_split_1 diff") == pytest.approx(size, rel=1e-5)
    assert value("[Backward] Layer left, bottom blob conv_relu_0_split_0 diff") == pytest.approx(2 * size, rel=1e-5)
    assert value("[Backward] Layer conv_relu_0_split, bottom blob conv diff") == pytest.approx(size, rel=1e-5)
    caplog.clear()
    trained.step(1)
    assert not debug_lines(caplog), "iteration 1 is not displayed"
    trained.step(1)
    assert len(debug_lines(caplog)) == 16


def test_debug_info_changes_no_number() -> None:
    plain, watched = solver("display: 1"), solver("display: 1 debug_info: true")
    for made in (plain, watched):
        made.step(3)
    for one, other in zip(plain.net.layer("conv").blobs, watched.net.layer("conv").blobs, strict=True):
        assert torch.equal(one, other)


def test_a_net_files_own_debug_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    net = make_net("debug_info: true", *NET)
    net(data=torch.ones(1, 2, 3, 3))
    assert len(debug_lines(caplog)) == 9
    assert net.debug is not None
    net.debug.enabled = False
    net(data=torch.ones(1, 2, 3, 3))
    assert len(debug_lines(caplog)) == 9
