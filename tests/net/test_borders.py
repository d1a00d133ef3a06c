"""Constant borders computed once: the same answers and gradients for every net and size, on less."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from helpers import input_layer, layer, make_net, randomise
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fcn_caffe import TEST, TRAIN, GraphError, LayerError, Net
from fcn_caffe.host.paths import shipped
from fcn_caffe.layers.norm import BatchNorm
from fcn_caffe.net import read_net
from fcn_caffe.net.draw import draw_net
from fcn_caffe.net.rewrite import borders
from fcn_caffe.net.rewrite.border_zones import Border, Window, Zones
from fcn_caffe.net.rewrite.borders import borders_once, compute_borders_once
from fcn_caffe.proto import caffe_pb2, parse_text, write_text

DECLARED = (20, 23)


def convolution(name: str, bottom: str, more: str, channels: int = 2) -> str:
    return layer(name, "Convolution", bottom, name, f"convolution_param {{ num_output: {channels} {more} }}")


def pooling(name: str, bottom: str, more: str) -> str:
    return layer(name, "Pooling", bottom, name, f"pooling_param {{ {more} }}")


def small_fcn(*, phase: int = TRAIN) -> Net:
    """Two stages over a pad of 24, a skip and an upsampled head that is cropped to the image, all with a loss."""
    net = make_net(
        input_layer("data", 1, 1, *DECLARED),
        input_layer("label", 1, 1, *DECLARED),
        convolution("conv1", "data", "kernel_size: 3 pad: 24", 4),
        layer("relu1", "ReLU", "conv1", "conv1"),
        convolution("conv2", "conv1", "kernel_size: 3 pad: 1", 4),
        layer("relu2", "ReLU", "conv2", "conv2"),
        pooling("pool1", "conv2", "kernel_size: 2 stride: 2"),
        convolution("conv3", "pool1", "kernel_size: 3 pad: 1", 4),
        layer("relu3", "ReLU", "conv3", "conv3"),
        pooling("pool2", "conv3", "kernel_size: 2 stride: 2"),
        convolution("fc", "pool2", "kernel_size: 5", 3),
        layer("drop", "Dropout", "fc", "fc"),
        layer("up", "Deconvolution", "fc", "up", "convolution_param { num_output: 3 kernel_size: 8 stride: 4 }"),
        layer("score", "Crop", "up data", "score", "crop_param { axis: 2 offset: 9 }"),
        layer("loss", "SoftmaxWithLoss", "score label", "loss"),
        phase=phase,
    )
    randomise(net)
    return net


def always_rewritten(monkeypatch: pytest.MonkeyPatch, copy_cost: int = 0) -> None:
    """Let every net be rewritten, and copy as often as it can."""
    monkeypatch.setattr(borders, "LEAST_GAIN", float("-inf"))
    monkeypatch.setattr(borders, "_COPY", copy_cost)


# -- random nets ---------------------------------------------------------------------------------------------------


@st.composite
def windows(draw: st.DrawFn, name: str, bottom: str, most_pad: int = 3) -> str:
    """A Convolution or a Pooling, of each its options."""
    h, w = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride = f"stride_h: {draw(st.integers(1, 3))} stride_w: {draw(st.integers(1, 3))}"
    kernel = f"kernel_h: {h} kernel_w: {w} {stride}"
    if draw(st.booleans()):
        pads = f"pad_h: {draw(st.integers(0, most_pad))} pad_w: {draw(st.integers(0, most_pad))}"
        extra = f"dilation: {draw(st.integers(1, 2))} group: {draw(st.integers(1, 2))}"
        return convolution(name, bottom, f"{kernel} {pads} {extra}")
    pads = f"pad_h: {draw(st.integers(0, h - 1))} pad_w: {draw(st.integers(0, w - 1))}"
    kind = f"pool: {draw(st.sampled_from(['MAX', 'AVE']))} round_mode: {draw(st.sampled_from(['CEIL', 'FLOOR']))}"
    return pooling(name, bottom, f"{kernel} {pads} {kind}")


PLACEWISE = [
    ("ReLU", ""),
    ("LRN", "lrn_param { local_size: 3 alpha: 0.5 }"),
    ("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }"),
    ("PReLU", ""),
    ("Scale", "scale_param { bias_term: true }"),
    ("BatchNorm", "batch_norm_param { use_global_stats: true }"),
    ("Power", "power_param { shift: 1 }"),
    ("Softmax", ""),
    ("Dropout", ""),
]


@st.composite
def nets(draw: st.DrawFn) -> list[str]:
    """A net over wide padding: stages, layers in place and not, branches that join again, blobs that nobody reads."""
    first = f"kernel_size: {draw(st.integers(1, 5))} stride: {draw(st.integers(1, 2))}"
    pads = f"pad_h: {draw(st.integers(6, 26))} pad_w: {draw(st.integers(6, 26))}"
    lines = [input_layer("data", 1, 2, *DECLARED), convolution("l0", "data", f"{first} {pads}")]
    blob = "l0"
    for index in range(1, draw(st.integers(2, 7))):
        name = f"l{index}"
        way = draw(st.sampled_from(["window", "window", "window", "place", "place", "join", "head"]))
        if way == "window":
            lines.append(draw(windows(name, blob, most_pad=draw(st.sampled_from([2, 2, 12])))))
        elif way == "place":
            kind, options = draw(st.sampled_from(PLACEWISE))
            top = blob if draw(st.booleans()) else name
            lines.append(layer(name, kind, blob, top, options))
            name = top
        elif way == "join":
            lines += [
                convolution(f"{name}a", blob, "kernel_size: 3 pad: 1"),
                convolution(f"{name}b", blob, "kernel_size: 5 pad: 2"),
                layer(name, draw(st.sampled_from(["Eltwise", "Concat"])), f"{name}a {name}b", name),
            ]
        else:
            lines.append(convolution(f"{name}head", blob, "kernel_size: 1"))
            name = blob
        blob = name
    return lines


def run(net: Net, data: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return every blob, and the gradients of data and weights for outputs that are all weighed differently."""
    data = data.clone().requires_grad_()
    blobs = net(data=data, keep=net.blob_shapes)
    draw = torch.Generator().manual_seed(1)
    total = sum(
        (blobs[name] * torch.randn(blobs[name].shape, generator=draw, dtype=data.dtype)).sum()
        for name in net.graph.outputs
    )
    leaves = [data, *(item.blob for item in net.learnable_params if item.blob.requires_grad)]
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return blobs, [torch.zeros(()) if gradient is None else gradient for gradient in gradients]


def close(ours: Tensor, theirs: Tensor, within: float) -> None:
    """Compare to a share of the largest; a pool's window past the image has Caffe's NaN, or -FLT_MAX."""
    ours, theirs = ours.detach(), theirs.detach()
    assert ours.shape == theirs.shape
    regular = theirs.abs() < 1e30
    assert torch.equal(torch.where(regular, 0, ours).isnan(), theirs.isnan())
    assert torch.equal(ours.abs() < 1e30, regular)
    largest = max([1.0, *theirs[regular].abs().tolist()])
    assert max((ours - theirs)[regular].abs().tolist(), default=0.0) <= within * largest


@settings(derandomize=True, max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(nets(), st.lists(st.tuples(st.integers(1, 33), st.integers(1, 33)), min_size=3, max_size=3))
def test_random_nets_answer_and_learn_the_same_at_every_size(lines: list[str], sizes: list[tuple[int, int]]) -> None:
    try:
        plain = make_net(*lines)
    except (GraphError, LayerError):
        assume(False)
    randomise(plain)
    plain.double()
    for net_layer in plain.layers_in_order:
        if isinstance(net_layer, BatchNorm):
            net_layer.variance.data.abs_()
            net_layer.scale_factor.data.fill_(1)
    with pytest.MonkeyPatch.context() as patch:
        always_rewritten(patch)
        once = borders_once(plain)
    for size in sizes:
        data = torch.randn(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        try:
            blobs, gradients = run(plain, data)
        except LayerError:
            continue
        ours, theirs = run(once, data)
        assert ours.keys() == blobs.keys()
        for name, blob in blobs.items():
            close(ours[name], blob, 1e-12)
        for one, other in zip(theirs, gradients, strict=True):
            close(one, other, 1e-12)


# -- one small net -------------------------------------------------------------------------------------------------


def small_data(*size: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    label = torch.randint(0, 3, (1, 1, *size), generator=draw).to(dtype)
    return {"data": torch.randn(1, 1, *size, generator=draw).to(dtype), "label": label}


def test_every_size_from_one_pixel_up_in_every_residue_of_the_stride() -> None:
    plain = small_fcn(phase=TEST).double()
    once = borders_once(plain)
    assert len(once.steps) > len(plain.steps)
    with torch.no_grad():
        for size in product((*range(1, 14), 37), (1, 2, 5, 8, 31)):
            inputs = small_data(*size, dtype=torch.float64)
            blobs, ours = (net(inputs, keep=plain.blob_shapes) for net in (plain, once))
            assert ours.keys() == blobs.keys()
            for name, blob in blobs.items():
                close(ours[name], blob, 1e-12)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_training_step_learns_the_same(dtype: torch.dtype, within: float) -> None:
    plain = small_fcn().to(dtype)
    once = borders_once(plain)
    gradients = []
    for net in (plain, once):
        torch.manual_seed(4)  # Dropout draws the same: it is after the borders
        loss, _ = net.forward_loss(small_data(19, 22, dtype=dtype))
        gradients.append([loss, *torch.autograd.grad(loss, [item.blob for item in net.learnable_params])])
    for one, other in zip(*gradients, strict=True):
        close(one, other, within)


def test_the_face_of_the_net_stays_the_plain_nets() -> None:
    plain = small_fcn()
    once = borders_once(plain)
    assert once.param == plain.param and once.graph is plain.graph and once.blob_shapes == plain.blob_shapes
    assert once.state_dict().keys() == plain.state_dict().keys()
    for name, blobs in plain.params.items():
        assert all(one is other for one, other in zip(blobs, once.params[name], strict=True))
    assert once.training and not once.eval().training and plain.training
    with pytest.raises(GraphError, match="rewritten already"):
        borders_once(once)


def test_a_rewritten_net_can_be_rewritten_on_and_keeps_its_blobs() -> None:
    plain = small_fcn(phase=TEST)
    once = borders_once(plain)
    again = once.with_steps(once.steps)
    blobs = [net(small_data(9, 9), keep=("conv2",))["conv2"] for net in (plain, again)]
    close(blobs[1], blobs[0], 1e-6)


def test_shared_blobs_reach_the_layer_whose_pad_is_another() -> None:
    once, other = borders_once(small_fcn(phase=TEST)), small_fcn(phase=TEST)
    randomise(other, seed=9)
    once.share_with(other)
    inputs = small_data(9, 9)
    close(once(inputs)["loss"], other(inputs)["loss"], 1e-6)


@pytest.mark.parametrize(
    "lines",
    [
        [convolution("conv", "data", "kernel_size: 3 pad: 1"), pooling("pool", "conv", "kernel_size: 2 stride: 2")],
        [
            layer(
                "conv",
                "Convolution",
                "data",
                "conv",
                "convolution_param { num_output: 2 kernel_size: 3 pad: 9 axis: 0 }",
            )
        ],
        [layer("dec", "Deconvolution", "data", "dec", "convolution_param { num_output: 2 kernel_size: 9 pad: 3 }")],
    ],
)
def test_a_net_that_gains_nothing_comes_back_as_it_is(lines: list[str]) -> None:
    net = make_net(input_layer("data", 1, 2, *DECLARED), *lines)
    assert borders_once(net) is net


def test_a_net_that_logs_every_blob_stays_plain() -> None:
    net = make_net(
        input_layer("data", 1, 1, 9, 9),
        convolution("conv", "data", "kernel_size: 3 pad: 20"),
        convolution("next", "conv", "kernel_size: 3"),
        debug_info=True,
    )
    assert borders_once(net) is net


# -- as a net file ---------------------------------------------------------------------------------------------------


def test_the_rewritten_net_is_a_net_file_whose_weights_fit() -> None:
    plain = small_fcn(phase=TEST)
    made = compute_borders_once(plain)
    text = write_text(made.net)
    net = Net(parse_text(text, caffe_pb2.NetParameter))
    assert net.params.keys() == plain.params.keys()
    net.share_with(plain)
    for size in ((1, 1), (8, 13)):
        inputs = small_data(*size)
        close(net(inputs)["loss"], plain(inputs)["loss"], 1e-6)
    assert "BorderCopy" in draw_net(made.net, "dot").decode()


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of its compiler
def test_the_rewritten_net_exports_for_any_size() -> None:
    class Scores(torch.nn.Module):
        def __init__(self, net: Net) -> None:
            super().__init__()
            self.net = net

        def forward(self, data: Tensor) -> Tensor:
            return self.net(data=data)["fc"]

    net = make_net(
        input_layer("data", 1, 1, 32, 32),
        convolution("conv1", "data", "kernel_size: 3 pad: 24", 16),
        layer("relu1", "ReLU", "conv1", "conv1"),
        pooling("pool1", "conv1", "kernel_size: 2 stride: 2"),
        convolution("conv2", "pool1", "kernel_size: 3 pad: 1", 16),
        convolution("fc", "conv2", "kernel_size: 7"),
    )
    randomise(net)
    once = borders_once(net)
    assert once is not net
    shapes = ({2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    exported = torch.export.export(Scores(once), (torch.randn(1, 1, 32, 40),), dynamic_shapes=shapes).module()
    for height, width in ((16, 18), (50, 32)):
        data = torch.randn(1, 1, height, width)
        close(exported(data), net(data=data)["fc"], 1e-6)


# -- the paper's nets ------------------------------------------------------------------------------------------------

SAVED = {  # the share of the multiply-adds, of every net with a pad of 100
    "voc-fcn8s": 0.2043,
    "voc-fcn-alexnet": 0.0352,
    "voc-fcn-googlenet": 0.0,
    "shapes-fcn8s": 0.0340,
}


@pytest.mark.parametrize("name", SAVED)
def test_what_the_papers_nets_save(name: str) -> None:
    path = shipped(f"nets/{name}.prototxt")
    assert path is not None
    net = Net(read_net(path, stages=["deploy"]), device="meta")
    made = compute_borders_once(net)
    assert made.saved == pytest.approx(SAVED[name], abs=1e-4)
    rewritten = Net(made.net, device="meta")
    assert {name: rewritten.blob_shapes[name] for name in net.graph.outputs} == {
        name: net.blob_shapes[name] for name in net.graph.outputs
    }


def test_stage_one_of_vgg_is_as_small_as_the_image_and_its_reach() -> None:
    path = shipped("nets/voc-fcn8s.prototxt")
    assert path is not None
    made = compute_borders_once(Net(read_net(path, stages=["deploy"]), device="meta"))
    shapes = Net(made.net, device="meta").blob_shapes
    assert [shapes[f"conv{name}"][2] for name in ("1_2_cut92", "2_2_cut40", "3_1_cut16")] == [514, 269, 143]


def test_axes_without_places() -> None:
    """A net of empty planes takes no work, and none of it is saved."""
    x = torch.ones(1, 2, 0, 5)
    net = make_net(
        input_layer("x", *x.shape), layer("a", "ReLU", "x"), layer("b", "Normalize", "a", more="norm_param { }")
    )
    assert borders_once(net)(x=x)["b"].shape == x.shape


def test_zones_of_a_stride_hold_for_every_size() -> None:
    """Against loops: the equal places of a map, as `Zones` promises them, for each residue of the size."""
    window = Window(3, 2, 1, 0, 1)
    zones = Zones(Border(1, 9), Border(2, 9)).through(window)
    for size in range(18, 24):
        bottom = torch.arange(size).unsqueeze(0).float()
        bottom[:, 1:9], bottom[:, size - 9 : size - 2] = 50, 60
        padded = torch.nn.functional.pad(bottom, (1, 1))
        top = padded.unfold(1, 3, 2).sum(-1)[0]
        count = len(top)
        assert len(set(top[zones.start.edge : zones.start.inner].tolist())) == 1
        assert len(set(top[count - zones.end.inner : count - zones.end.edge].tolist())) == 1
