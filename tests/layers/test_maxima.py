"""Maxima by shifted views against max_pool2d: values and gradients to the bit, and where which is used."""

from __future__ import annotations

import random

import pytest
import torch
from helpers import input_layer, layer, make_net
from torch import Tensor
from torch.nn import functional

from fcn_caffe import Net
from fcn_caffe.layers import maxima


def pool_net(height: int, width: int, options: str, channels: int = 3) -> Net:
    return make_net(
        input_layer("x", 2, channels, height, width), layer("l", "Pooling", "x", "y", f"pooling_param {{ {options} }}")
    )


def pass_through(net: Net, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The top without a gradient, the top with one, and the gradient."""
    with torch.no_grad():
        plain = net(x=x)["y"]
    x = x.clone().requires_grad_()
    top = net(x=x)["y"]
    generator = torch.Generator().manual_seed(1)
    (gradient,) = torch.autograd.grad(top, x, torch.randn(top.shape, generator=generator))
    return plain, top.detach(), gradient


@pytest.mark.parametrize("seed", range(60))
def test_they_equal_max_pool2d_to_the_bit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    k, s = [draw.randint(1, 3), draw.randint(1, 3)], [draw.randint(1, 3), draw.randint(1, 3)]
    p = [draw.randint(0, size // 2) for size in k]
    height, width = (draw.randint(k[axis], 13) for axis in (0, 1))
    net = pool_net(
        *(height, width),
        f"kernel_h: {k[0]} kernel_w: {k[1]} stride_h: {s[0]} stride_w: {s[1]} pad_h: {p[0]} pad_w: {p[1]} "
        f"round_mode: {draw.choice(('CEIL', 'FLOOR'))}",
    )
    # Few values, so that there are ties; no zero, whose sign may differ.
    x = torch.randint(1, 4, (2, 3, height, width), generator=torch.Generator().manual_seed(seed)).float()
    wanted = pass_through(net, x)
    monkeypatch.setattr(maxima, "SMALLEST", 0)
    monkeypatch.setattr(maxima, "_BLOCK", draw.choice((1, 2 * height * width, 1 << 20)))
    for found, expected in zip(pass_through(net, x), wanted, strict=True):
        assert torch.equal(found, expected)


def test_numbers_that_are_not_finite_follow_caffe(monkeypatch: pytest.MonkeyPatch) -> None:
    net = pool_net(4, 6, "kernel_size: 2 stride: 2", channels=1)
    x = torch.arange(48.0).reshape(2, 1, 4, 6)
    x[0, 0, 0, 1], x[0, 0, :2, 4:], x[1, 0, 3, 3] = torch.nan, -torch.inf, torch.inf
    wanted = pass_through(net, x)
    monkeypatch.setattr(maxima, "SMALLEST", 0)
    for found, expected in zip(pass_through(net, x), wanted, strict=True):
        assert torch.equal(found, expected)
    assert wanted[0][0, 0, 0].tolist() == [7, 9, -torch.finfo(torch.float32).max]


def test_the_gradient_has_a_gradient() -> None:
    windows = maxima.Windows((3, 2), (2, 2), (1, 0), (4, 3))
    x = torch.randperm(2 * 2 * 7 * 6, generator=torch.Generator().manual_seed(0)).double().reshape(2, 2, 7, 6)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: maxima.maxima(x, windows), x)
    assert torch.autograd.gradgradcheck(lambda x: maxima.maxima(x, windows).square(), x)


def test_only_large_contiguous_bottoms_outside_of_exported_graphs_are_shifted() -> None:
    large = torch.zeros(1, 16, 64, 64)
    windows = maxima.Windows((2, 2), (2, 2), (0, 0), (32, 32))
    assert windows.suit(large)
    assert not windows.suit(large[:, :15])
    assert not windows.suit(large.contiguous(memory_format=torch.channels_last))
    assert not windows.suit(large.to("meta"))
    assert not maxima.Windows((4, 4), (2, 2), (0, 0), (31, 31)).suit(large)


def test_an_exported_net_keeps_its_pooling() -> None:
    net = pool_net(200, 200, "kernel_size: 2 stride: 2")
    x = torch.randn(2, 3, 200, 200)
    assert maxima.Windows((2, 2), (2, 2), (0, 0), (100, 100)).suit(x)
    program = torch.export.export(net, (), {"x": x})
    assert "max_pool2d" in str(program.graph)
    assert torch.equal(program.module()(x=x)["y"], functional.max_pool2d(x, 2))
