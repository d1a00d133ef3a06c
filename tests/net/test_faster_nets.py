"""Net.frozen and Net.tuned: the plain net's blobs, faster; what is chosen, checked, taken back and remembered."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import input_layer, layer, make_net, randomise
from torch import Tensor

from fcn_caffe import TRAIN, GraphError, Net
from fcn_caffe.layers import convolution_ways
from fcn_caffe.layers.conv import Convolution
from fcn_caffe.layers.convolution_ways import PLAIN, WAYS, ConvolveBy, DeconvolveDiagonal, Prepacked, Way, Window
from fcn_caffe.net.rewrite import convolutions, frozen, tuned
from fcn_caffe.net.rewrite.convolutions import multiply_large_weights
from fcn_caffe.net.rewrite.ready import ready_net
from fcn_caffe.net.rewrite.tuned import Choice, tune


def convolution(name: str, bottom: str, outputs: int, kernel: int, more: str = "") -> str:
    options = f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} }}"
    return layer(name, "Convolution", bottom, more=options)


DECONVOLUTION = "convolution_param { num_output: 3 kernel_size: 4 stride: 2 bias_term: false }"
NET = (
    input_layer("data", 1, 3, 20, 22),
    convolution("conv1", "data", 8, 3, "pad: 5"),
    layer("relu1", "ReLU", "conv1", "conv1"),
    convolution("conv2", "conv1", 8, 3, "stride: 2 dilation: 1"),
    layer("relu2", "ReLU", "conv2", "conv2"),
    convolution("fc6", "conv2", 64, 7),
    layer("relu6", "ReLU", "fc6", "fc6"),
    layer("drop6", "Dropout", "fc6", "fc6"),
    convolution("score", "fc6", 3, 1),
    layer("up", "Deconvolution", "score", more=DECONVOLUTION),
)
LOSS = (input_layer("label", 1, 1, 16, 18), layer("loss", "SoftmaxWithLoss", "up label", "loss"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fcn_caffe" / "ways"


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small weights are treated as fc6's of VGG."""
    monkeypatch.setattr(convolutions, "LARGE", 1)


def make(*more: str, phase: int = 1) -> Net:
    net = make_net(*NET, *more, phase=phase)
    randomise(net)
    with torch.no_grad():
        weight = net.params["up"][0]
        weight.mul_(torch.eye(3)[:, :, None, None])
    return net


def assert_close(ours: Tensor, plain: Tensor, within: float = 1e-5) -> None:
    assert tuned.largest_difference(ours, plain) <= within


@pytest.mark.parametrize("packs", [False, True])
def test_a_frozen_net_gives_the_same_blobs(packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "packs_to_the_bit", lambda: packs)
    net = make()
    fast = net.frozen()
    assert [step.node.name for step in net.steps if step.node.type == "Dropout"] == ["drop6"]
    assert "drop6" not in [step.node.name for step in fast.steps]
    assert ("relu1" in [step.node.name for step in fast.steps]) is not packs
    for size in ((20, 22), (33, 31)):
        data = torch.randn(2, 3, *size)
        with torch.no_grad():
            ours, plain = (each(data=data, keep=["conv1", "fc6"]) for each in (fast, net))
        assert ours.keys() == plain.keys()
        for name, blob in plain.items():
            assert_close(ours[name], blob, 2e-6)


@pytest.mark.parametrize("packs", [False, True])
def test_a_frozen_net_follows_weights_that_change(packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "packs_to_the_bit", lambda: packs)
    net, data = make(), torch.randn(1, 3, 20, 22)
    fast = net.frozen()
    with torch.no_grad():
        fast(data=data)
        randomise(net, 1)  # `up` is not diagonal any more
        assert_close(fast(data=data)["up"], net(data=data)["up"])
        assert_close(copy.deepcopy(fast)(data=data)["up"], net(data=data)["up"])


def test_a_frozen_net_has_gradients_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "packs_to_the_bit", lambda: True)
    net = make()
    data = torch.randn(1, 3, 20, 22, requires_grad=True)
    gradients = [torch.autograd.grad(each(data=data)["up"].square().sum(), data)[0] for each in (net, net.frozen())]
    assert_close(gradients[1], gradients[0])


def gradients_of(net: Net, inputs: dict[str, Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    net.zero_grad()
    net.forward_loss(inputs)[0].backward()
    return [item.blob.grad for item in net.learnable_params if item.blob.grad is not None]


def test_large_weights_are_multiplied_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make(*LOSS, phase=TRAIN)
    fast = multiply_large_weights(net)
    assert [step.node.name for step in fast.steps if isinstance(getattr(step.layer, "convolve", 0), ConvolveBy)] == [
        "fc6"
    ]
    inputs = {"data": torch.randn(1, 3, 20, 22), "label": torch.randint(3, (1, 1, 16, 18)).float()}
    found = []
    real = convolution_ways.Gemm.weight_gradient

    def note(*arguments: Any) -> Tensor:
        found.append(real(*arguments))
        return found[-1]

    plain = gradients_of(net, inputs)
    for ours, wanted in zip(gradients_of(fast, inputs), plain, strict=True):
        assert_close(ours, wanted, 1e-5)
    with monkeypatch.context() as patch:
        patch.setattr(convolution_ways, "_is_ordinary", lambda *_: True)
        for ours, wanted in zip(
            gradients_of(fast.double(), {name: blob.double() for name, blob in inputs.items()}),
            gradients_of(net.double(), {name: blob.double() for name, blob in inputs.items()}),
            strict=True,
        ):
            assert_close(ours, wanted, 1e-12)
    monkeypatch.setattr(convolution_ways.Gemm, "weight_gradient", note)
    net.float()
    gradients_of(fast, inputs)
    kept = fast.params["fc6"][0].grad
    assert kept is not None and len(found) == 1
    monkeypatch.setattr(convolutions, "LARGE", 1 << 20)
    assert multiply_large_weights(net) is net


def test_a_frozen_net_is_frozen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "packs_to_the_bit", convolution_ways.has_pointwise)
    net, data = make(), torch.randn(1, 3, 20, 22)
    gemm = "im2col and GEMM"
    monkeypatch.setattr(tuned, "_choose", lambda *_: [Choice("conv1", gemm), *map(Choice, ("conv2", "fc6", "score"))])
    tuning = tune(net.frozen())
    assert not tuning.choices[0].is_plain  # with the ReLU that is a part of conv1: else the bound takes it back
    with torch.no_grad():
        assert_close(tuning.net(data=data)["up"], net(data=data)["up"])


def test_a_net_that_learns_or_is_debugged_is_not_frozen() -> None:
    net = make(*LOSS, phase=TRAIN)
    assert net.frozen() is net
    debugged = make_net(*NET, debug_info=True)
    assert debugged.frozen() is debugged


def test_deconvolution_is_grouped_where_the_weight_is_diagonal() -> None:
    (way,) = [
        step.layer.convolve
        for step in make().frozen().steps
        if isinstance(getattr(step.layer, "convolve", None), DeconvolveDiagonal)
    ]
    weight = make().params["up"][0]
    assert way.diagonal(weight).shape == (3, 1, 4, 4)
    assert way.diagonal(torch.ones(3, 3, 4, 4)) is None
    assert way.diagonal(torch.ones(3, 2, 4, 4)) is None


GEOMETRIES = [
    (3, Window((1, 1), (1, 1), (1, 1), 1)),
    (3, Window((1, 1), (4, 3), (1, 1), 1)),
    (3, Window((2, 1), (1, 0), (1, 2), 1)),
    (3, Window((1, 1), (1, 1), (1, 1), 2)),
    (7, Window((1, 1), (0, 0), (1, 1), 1)),
    (1, Window((1, 1), (0, 0), (1, 1), 1)),
    (1, Window((2, 2), (1, 1), (1, 1), 1)),
]


@pytest.mark.parametrize(("kernel", "window"), GEOMETRIES)
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("images", [1, 2])
def test_each_way_gives_top_and_gradients(name: str, kernel: int, window: Window, images: int) -> None:
    way, generator = WAYS[name](), torch.Generator().manual_seed(0)
    bottom = torch.randn(images, 4, 15, 13, generator=generator, requires_grad=True)
    weight = torch.randn(6, 4 // window.group, kernel, kernel, generator=generator, requires_grad=True)
    bias = torch.randn(6, generator=generator, requires_grad=True)
    arguments = (window.stride, window.pad, window.dilation, window.group)
    plain = torch.nn.functional.conv2d(bottom, weight, bias, *arguments)
    within = 0.02 if name == "bfloat16" else 1e-4
    with torch.no_grad():
        assert_close(ConvolveBy(way)(bottom, weight, bias, *arguments), plain, within)
        assert_close(ConvolveBy(way, relu=True)(bottom, weight, bias, *arguments), plain.relu(), within)
    top = torch.randn(plain.shape, generator=generator)
    wanted = torch.autograd.grad(plain, (bottom, weight, bias), top)
    parts = [way if part in way.parts else Way() for part in ("bottom", "weight")]
    ours = ConvolveBy(Way(), *parts)(bottom, weight, bias, *arguments)
    for found, gradient in zip(torch.autograd.grad(ours, (bottom, weight, bias), top), wanted, strict=True):
        assert_close(found, gradient, 1e-4)


def test_a_way_that_is_not_there_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Tensor:
        raise RuntimeError("not here")

    bottom, weight, window = torch.ones(1, 4, 9, 9), torch.ones(4, 4, 3, 3), Window((1, 1), (1, 1), (1, 1), 1)
    checks = (convolution_ways.has_nnpack, convolution_ways.has_pointwise, convolution_ways.packs_to_the_bit)
    monkeypatch.setattr(torch, "_nnpack_spatial_convolution", refuse)
    monkeypatch.setattr(convolution_ways, "_convolve_pointwise", refuse)
    try:
        for check in checks:
            check.cache_clear()
            assert not check()
        names = [way.name for way in convolution_ways.ways_for(bottom, weight, window, "forward")]
        assert PLAIN in names and not {"NNPACK", Prepacked.name} & set(names)
    finally:
        for check in checks:
            check.cache_clear()


@pytest.mark.needs_cuda
def test_a_gpu_has_its_own_ways() -> None:
    net, data = make().cuda(), torch.randn(1, 3, 33, 31)
    tuning = tune(net)
    assert {choice.forward for choice in tuning.choices} <= {"oneDNN", "channels last"} and tuning.is_within
    with torch.no_grad():
        wanted = net(data=data)["up"]
        for faster in (tuning.net, net.frozen(), net.tuned()):
            assert_close(faster(data=data)["up"], wanted, 1e-4)


def test_tuned_holds_its_bound_and_is_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = make(), torch.randn(1, 3, 33, 31)
    tuning = tune(net)
    assert tuning.difference <= 1e-4 and "bound 1e-04" in str(tuning)
    assert [choice.layer for choice in tuning.choices] == ["conv1", "conv2", "fc6", "score"]
    with torch.no_grad():
        assert_close(net.tuned()(data=data)["up"], net(data=data)["up"], 1e-4)
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["for"]["inputs"] == {"data": [1, 3, 20, 22]}

    def refuse(*arguments: object) -> list[Choice]:
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(tuned, "_choose", refuse)
        assert tune(net).choices == tuning.choices
        randomise(net, 2)  # other weights: the bound is checked again, the ways are not
        tune(net)
        assert len(json.loads(file.read_text())["checks"]) == 2
        with pytest.raises(AssertionError, match="measured again"):
            tune(net, (1, 3, 24, 24))
    for broken in (
        "{",
        "[]",
        "[" * 100_000,
        '{"for": 1}',
        json.dumps({**json.loads(file.read_text()), "choices": [{"layer": 1}]}),
    ):
        file.write_text(broken)
        assert tune(net).difference <= 1e-4


def test_choices_are_taken_back_until_the_bound_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rough(Way):
        name = "rough"

        def convolve(self, bottom: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
            return super().convolve(bottom, weight, bias, window) * 1.01

    monkeypatch.setitem(WAYS, "rough", Rough)
    gemm = "im2col and GEMM"
    choices = [Choice("conv1", gemm, error=1e-6), Choice("conv2"), Choice("fc6", "rough", error=0.01), Choice("score")]
    monkeypatch.setattr(tuned, "_choose", lambda *_: choices)
    tuning = tune(make())
    assert [choice.forward for choice in tuning.choices] == [gemm, PLAIN, PLAIN, PLAIN]
    assert 0 < tuning.difference <= 1e-4


def test_a_net_that_learns_has_the_gradients_of_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make(*LOSS, phase=TRAIN)
    assert all(choice.error <= 1e-4 for choice in tune(net).choices)
    gemm = "im2col and GEMM"
    monkeypatch.setattr(
        tuned, "_choose", lambda *_: [Choice("conv1", "NNPACK", PLAIN, gemm), Choice("conv2", gemm, gemm, gemm)]
    )
    fast = tune(net, within=1e-3).net
    ways = [step.layer.convolve for step in fast.steps if isinstance(step.layer, Convolution)]
    assert [isinstance(way, ConvolveBy) for way in ways] == [True, True, False, False]
    inputs = {"data": torch.randn(1, 3, 20, 22), "label": torch.randint(3, (1, 1, 16, 18)).float()}
    gradients = []
    for each in (net, fast):
        torch.manual_seed(0)
        net.zero_grad()
        each.forward_loss(inputs)[0].backward()
        gradients.append([item.blob.grad for item in net.learnable_params])
    for ours, plain in zip(gradients[1], gradients[0], strict=True):
        assert ours is not None and plain is not None
        assert_close(ours, plain, 1e-4)


def test_without_a_cache_folder_it_is_measured_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert tune(make()).difference <= 1e-4


@pytest.mark.parametrize(
    ("shape", "within", "words"),
    [(None, 0, "bound is 0"), (None, float("nan"), "bound is nan"), ((3, 20, 20), 1e-4, "the shape to tune for has 3")],
)
def test_what_cannot_be_tuned_is_refused(shape: tuple[int, ...] | None, within: float, words: str) -> None:
    with pytest.raises(GraphError, match=words):
        make().tuned(shape, within)


def test_a_net_without_inputs_is_refused() -> None:
    with pytest.raises(GraphError, match="no input to measure it with"):
        make_net().tuned()


@pytest.mark.parametrize("fast", [False, True])
def test_borders_and_ways_compose(fast: bool) -> None:
    pool = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"
    net = make_net(
        input_layer("data", 1, 3, 40, 40),
        convolution("conv1", "data", 8, 3, "pad: 60"),
        layer("relu1", "ReLU", "conv1", "conv1"),
        convolution("conv2", "conv1", 8, 3, "pad: 1"),
        layer("relu2", "ReLU", "conv2", "conv2"),
        layer("pool", "Pooling", "conv2", more=pool),
        convolution("fc6", "pool", 16, 7),
    )
    randomise(net)
    said: list[str] = []
    ready = ready_net(net, said.append, fast=fast)
    assert ready is not net and ready_net(net, plain=True) is net
    assert len(said) == 1 + fast and ("largest difference" in said[-1]) is fast
    data = torch.randn(1, 3, 37, 50)
    with torch.no_grad():
        ours, plain = (each(data=data, keep=["conv2"]) for each in (ready, net))
    for name, blob in plain.items():
        assert_close(ours[name], blob, 1e-4 if fast else 2e-6)
