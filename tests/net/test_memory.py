"""The memory that a net takes, estimated from shapes."""

import pytest
import torch

from fcn_caffe import TRAIN, Net
from fcn_caffe.host.free_memory import show_bytes
from fcn_caffe.models.nets import make_net as paper_net
from fcn_caffe.net.demand import forward_demand, training_demand
from fcn_caffe.net.memory import CODE, GAPS, forward_bytes, solver_bytes, training_bytes, update_bytes
from fcn_caffe.net.rewrite.ready import ready_net
from fcn_caffe.net.training_runner import cut_segments
from tests.helpers import input_layer, layer, make_net


def test_blobs_are_counted_while_they_are_alive_and_views_once():
    net = make_net(
        input_layer("data", 1, 1, 1000, 1000),
        layer("a", "AbsVal", "data"),
        layer("flat", "Flatten", "a"),
        layer("b", "AbsVal", "flat"),
        layer("c", "AbsVal", "b"),
    )
    assert forward_bytes(net) == round(2 * 4_000_000 * GAPS)
    assert forward_bytes(net, {"data": (3, 1, 1000, 1000)}) == round(3 * 2 * 4_000_000 * GAPS)


def test_working_memory_counts():
    pool = "pooling_param { kernel_size: 5 stride: 2 }"
    net = make_net(input_layer("data", 1, 1, 1003, 1003), layer("pool", "Pooling", "data", more=pool))
    top = 4 * 500 * 500
    assert forward_bytes(net) == round((4 * 1003 * 1003 + top + 2 * top) * GAPS)


def test_a_layer_that_needs_no_gradient_keeps_nothing():
    fixed = "param { lr_mult: 0 } param { lr_mult: 0 }"
    steps = [input_layer("data", 1, 3, 200, 200)]
    for name, bottom in (("a", "data"), ("b", "a"), ("c", "b"), ("d", "c")):
        more = "convolution_param { num_output: 8 kernel_size: 1 }"
        steps.append(layer(name, "Convolution", bottom, more=fixed + more))
    learns = [text.replace(fixed, "") for text in steps]
    loss = layer("loss", "Reduction", "d", more="loss_weight: 1")
    assert training_bytes(make_net(*steps, loss, phase=TRAIN)) < training_bytes(make_net(*learns, loss, phase=TRAIN))


def test_a_layer_that_makes_its_blob_anew_keeps_the_old_one_for_backward():
    def bytes_of(middle: str) -> int:
        return training_bytes(
            make_net(
                input_layer("data", 1, 3, 200, 200),
                layer("one", "Convolution", "data", more="convolution_param { num_output: 8 kernel_size: 1 }"),
                layer("slope", "PReLU", "one", middle),
                layer("loss", "Reduction", middle, more="loss_weight: 1"),
                phase=TRAIN,
            )
        )

    assert bytes_of("one") == bytes_of("two") > 3 * 4 * 8 * 200 * 200


def test_what_is_compiled_for_alike_convolutions_counts_once():
    more = "convolution_param { num_output: 3 kernel_size: 3 pad: 1 }"
    steps = [layer(f"c{place}", "Convolution", f"c{place - 1}", more=more) for place in range(1, 9)]
    net = make_net(input_layer("c0", 1, 3, 8, 8), *steps)
    assert CODE * GAPS < forward_bytes(net) < 2 * CODE * GAPS


def test_what_update_rules_take_besides():
    net = make_net(
        input_layer("data", 1, 10),
        layer("one", "InnerProduct", "data", more="inner_product_param { num_output: 7 bias_term: false }"),
    )
    sizes = [update_bytes(net, solver_type) for solver_type in ("SGD", "Nesterov", "RMSProp", "AdaDelta")]
    assert sizes == [0, 0, 280, 560]


def test_a_demand_has_parts():
    net = make_net(
        input_layer("data", 1, 3, 10, 10),
        layer("one", "Convolution", "data", more="convolution_param { num_output: 4 kernel_size: 1 }"),
        layer("loss", "Reduction", "one", more="loss_weight: 1"),
        phase=TRAIN,
    )
    demand = training_demand(net, "Adam", elsewhere=10)
    assert (demand.weights, demand.gradients, demand.history) == (64, 64, 118)
    assert demand.loading == demand.workers == 0 and demand.process == demand.total
    assert demand.to_come(torch.device("meta")) == 64 + 118 + demand.blobs
    assert str(demand).endswith(
        f"weights 64 bytes, gradients 64 bytes, history 118 bytes, blobs {show_bytes(demand.blobs)}"
    )
    forward = forward_demand(net)
    assert forward.gradients == forward.history == 0 < forward.blobs < demand.blobs


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
