"""Training in less memory: gradients to the bit, statistics and random numbers once, what runs in bfloat16."""

import pytest
import torch

from fcn_caffe import TRAIN, Net
from fcn_caffe.models.nets import make_net as paper_net
from fcn_caffe.net.training_runner import Thrift, cut_segments
from tests.helpers import input_layer, layer, make_net, randomise


def conv(name, bottom, more="num_output: 4 kernel_size: 3 pad: 1"):
    return layer(name, "Convolution", bottom, more=f"convolution_param {{ {more} }}")


def deep(*more):
    """Return a net of four stages with all that a second run could do twice."""
    text = [input_layer("data", 2, 3, 24, 24), input_layer("label", 2, 1, 3, 3)]
    bottom = "data"
    for stage in "abc":
        text += [conv(f"conv_{stage}", bottom), layer(f"norm_{stage}", "BatchNorm", f"conv_{stage}")]
        text += [layer(f"relu_{stage}", "ReLU", f"norm_{stage}", f"norm_{stage}")]
        text += [layer(f"drop_{stage}", "Dropout", f"norm_{stage}", f"norm_{stage}")]
        pool = "pooling_param { kernel_size: 2 stride: 2 pool: " + ("STOCHASTIC" if stage == "b" else "MAX") + " }"
        text += [layer(f"pool_{stage}", "Pooling", f"norm_{stage}", more=pool)]
        bottom = f"pool_{stage}"
    text += [conv("score", bottom), layer("loss", "SoftmaxWithLoss", "score label"), *more]
    return make_net(*text, phase=TRAIN)


def train_once(net, make_runner=None):
    """Return loss, gradients and blobs after one pass of the same numbers."""
    torch.manual_seed(1)
    randomise(net)
    net.zero_grad()
    if make_runner is not None:
        net.make_runner = make_runner
    torch.manual_seed(2)
    inputs = {name: torch.rand(net.blob_shapes[name]) for name in net.graph.inputs}
    inputs["label"] = (inputs["label"] * 4).floor()
    loss, _ = net.forward_loss(inputs)
    loss.backward()
    params = [item.blob for item in net.learnable_params]
    return (
        loss.detach(),
        [param.grad for param in params],
        [blob.clone() for _, _, blobs in net.all_params() for blob in blobs],
    )


def test_gradients_and_statistics_are_those_of_a_plain_run_to_the_bit():
    plain, again = train_once(deep()), train_once(deep(), Thrift(checkpoint=True))
    assert torch.equal(plain[0], again[0])
    for one, other in zip(plain[1], again[1], strict=True):
        assert (one is None) == (other is None) and (one is None or torch.equal(one, other))
    for one, other in zip(plain[2], again[2], strict=True):
        assert torch.equal(one, other)
    norm = deep()
    before = train_once(norm)[2]
    assert any(blob.numel() == 1 and blob.item() > 0 for blob in before), "the statistics move"


def test_random_numbers_go_on_as_after_a_plain_run():
    states = []
    for thrift in (None, Thrift(checkpoint=True)):
        train_once(deep(), thrift)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_less_is_kept_for_backward():
    kept = []
    for thrift in (None, Thrift(checkpoint=True)):
        net, sizes = deep(), {}

        def keep(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            if thrift is not None:
                net.make_runner = thrift
            net.forward_loss({name: torch.zeros(net.blob_shapes[name]) for name in net.graph.inputs})
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.6 * kept[0]


def test_the_paper_net_is_cut_at_its_pools():
    shapes = {"data": (1, 3, 500, 500), "label": (1, 1, 500, 500)}
    segments = cut_segments(Net(paper_net("voc-fcn8s"), TRAIN, device="meta", input_shapes=shapes))
    ends = [segment.steps[-1].node.name for segment in segments if segment.repeats]
    assert len(ends) >= 2 and all(name.startswith(("pool", "relu")) for name in ends)
    assert not segments[-1].repeats and not segments[0].steps[0].bottoms


def test_every_step_is_in_one_segment_and_reads_what_is_not_overwritten():
    net = deep()
    segments = cut_segments(net)
    assert [step for segment in segments for step in segment.steps] == list(net.steps)
    for position, segment in enumerate(segments):
        if segment.repeats:
            later = {name for other in segments[position:] for step in other.steps for name in step.tops}
            assert not later.intersection(segment.bottoms)


def test_layers_with_state_run_once():
    net = deep(layer("quiet", "Silence", "pool_a", top=""))
    assert all(step.tops for segment in cut_segments(net) if segment.repeats for step in segment.steps)
    assert torch.equal(train_once(net)[0], train_once(net, Thrift(checkpoint=True))[0])


def test_without_gradients_nothing_changes():
    net = deep().eval()
    blob = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        plain = net(data=blob, label=torch.zeros(2, 1, 3, 3), keep=["score"])
        net.make_runner = Thrift(checkpoint=True)
        assert torch.equal(net(data=blob, label=torch.zeros(2, 1, 3, 3), keep=["score"])["score"], plain["score"])


@pytest.mark.parametrize("checkpoint", [False, True])
def test_bf16_is_for_convolutions_and_losses_are_float32(checkpoint):
    text = (input_layer("data", 2, 3, 8, 8), input_layer("label", 2, 1, 8, 8), conv("score", "data"))
    net = make_net(*text, layer("loss", "SoftmaxWithLoss", "score label"), phase=TRAIN)
    full = train_once(net)
    seen = {}
    kernel = torch.nn.functional.conv2d
    net.layer("score").convolve = lambda *arguments: seen.setdefault("top", kernel(*arguments))
    half = train_once(net, Thrift(checkpoint, half=True))
    assert seen["top"].dtype == torch.bfloat16
    assert half[0].dtype == torch.float32 and all(grad.dtype == torch.float32 for grad in half[1])
    assert half[0] != full[0] and half[0].item() == pytest.approx(full[0].item(), rel=0.02)
    rounded = seen["top"].detach().float()
    torch.manual_seed(2)
    torch.rand(net.blob_shapes["data"])
    label = (torch.rand(net.blob_shapes["label"]) * 4).floor()
    assert torch.equal(half[0], net.layer("loss")(rounded, label).detach()), "the loss is computed in float32"
