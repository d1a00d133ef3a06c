"""The memory that a net takes, estimated from shapes."""

import pytest

from fcn_caffe import TRAIN, Net
from fcn_caffe.models.nets import make_net as paper_net
from fcn_caffe.net.memory import forward_bytes, solver_bytes, training_bytes
from fcn_caffe.net.rewrite.ready import ready_net
from fcn_caffe.net.training_runner import cut_segments
from tests.helpers import input_layer, layer, make_net

POOL = "pooling_param { kernel_size: 2 stride: 2 }"


def test_blobs_are_counted_while_they_are_alive_and_views_once():
    net = make_net(
        input_layer("data", 1, 1, 10, 10),
        layer("a", "AbsVal", "data"),
        layer("flat", "Flatten", "a"),
        layer("b", "AbsVal", "flat"),
        layer("c", "AbsVal", "b"),
    )
    assert forward_bytes(net) == 2 * 400
    assert forward_bytes(net, {"data": (3, 1, 10, 10)}) == 3 * 2 * 400


def test_working_memory_counts():
    net = make_net(input_layer("data", 1, 1, 10, 10), layer("pool", "Pooling", "data", more=POOL))
    assert forward_bytes(net) == 400 + 100 + 200


def test_a_training_step_needs_more_and_with_checkpoint_less():
    shapes = {"data": (1, 3, 500, 500), "label": (1, 1, 500, 500)}
    net = Net(paper_net("voc-fcn32s"), TRAIN, device="meta", input_shapes=shapes)
    plain, less = training_bytes(net), training_bytes(net, cut_segments(net))
    assert forward_bytes(net) < less < 0.8 * plain
    learned = sum(item.blob.numel() for item in net.learnable_params if item.lr_mult)
    assert solver_bytes(net, "SGD") == 8 * learned and solver_bytes(net, "Adam") == 12 * learned


def test_a_training_step_takes_what_is_measured():
    """MiB above weights, gradients and history: torch 2.13 and glibc, by what a process holds at its most."""
    shapes = {"data": (1, 3, 500, 500), "label": (1, 1, 500, 500)}
    net = ready_net(Net(paper_net("voc-fcn8s"), TRAIN, device="meta", input_shapes=shapes))
    assert training_bytes(net) == pytest.approx(701 * 2**20, rel=0.15)
    assert training_bytes(net, cut_segments(net)) == pytest.approx(377 * 2**20, rel=0.15)
