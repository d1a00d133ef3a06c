"""The oracle's nets frozen and with their convolutions in other ways: what rounding and the bound allow, no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import cases, draw_all, load
from torch import Tensor

from fcn_caffe import TRAIN, Net
from fcn_caffe.layers.conv import Convolution
from fcn_caffe.layers.convolution_ways import PLAIN, Window, ways_for
from fcn_caffe.net.rewrite import convolutions, tuned
from fcn_caffe.net.rewrite.ready import ready_net
from fcn_caffe.net.rewrite.tuned import Choice, largest_difference
from fcn_caffe.proto import caffe_pb2, parse_text

OTHERS = ("NNPACK", "1x1 as GEMM", "im2col and GEMM")
FROZEN = 1e-6  # of the largest value of a blob


def golden_net(case: str) -> tuple[Net, dict[str, Tensor]]:
    data = {key.removeprefix(f"{case}/"): value for key, value in load("nets").items() if key.startswith(f"{case}/")}
    net = Net(parse_text(str(data["prototxt"]), caffe_pb2.NetParameter), TRAIN)
    draw_all(net)
    return net, {key[6:]: torch.from_numpy(value) for key, value in data.items() if key.startswith("input/")}


@pytest.mark.parametrize("case", cases("nets"))
def test_a_frozen_net_differs_by_rounding(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "LARGE", 1)
    net, inputs = golden_net(case)
    net.eval()
    scores = {step.bottoms[0] for step in net.steps if step.layer.loss}
    with torch.no_grad():
        ours, plain = (each(inputs, keep=scores) for each in (ready_net(net), net))
        exact = net.double()({name: blob.double() for name, blob in inputs.items()}, keep=scores)
    for name in scores:
        rounding = largest_difference(plain[name], exact[name])  # which is above 1e-6 for some nets
        assert largest_difference(ours[name], plain[name]) <= max(FROZEN, 2 * rounding), (name, rounding)


def other_ways(net: Net, *more: object) -> list[Choice]:
    """For each part of each convolution a way that is not PyTorch's own, where there is one."""
    choices = []
    for step in net.steps:
        if not isinstance(step.layer, Convolution):
            continue
        layer, choice = step.layer, Choice(step.node.name, error=1e-6)
        window = Window(layer.stride, layer.pad, layer.dilation, layer.group)
        bottom = torch.empty(1, layer.channels, 64, 64)
        for part in ("forward", "bottom", "weight") if net.training else ("forward",):
            names = {way.name for way in ways_for(bottom, layer.weight, window, part)}
            setattr(choice, part, next((name for name in OTHERS if name in names), PLAIN))
        choices.append(choice)
    return choices


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", cases("nets"))
def test_other_ways_are_within_the_bound(
    case: str, training: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tuned, "_choose", other_ways)
    net, inputs = golden_net(case)
    net.train(training)
    tuning = tuned.tune(net)
    assert tuning.is_within and tuning.choices == other_ways(net)  # none is taken back
    assert (tuning.gradient is not None) is training
    scores = {step.bottoms[0] for step in net.steps if step.layer.loss}
    with torch.no_grad():
        found = []
        for each in (tuning.net, net):
            torch.manual_seed(0)
            found.append(each(inputs, keep=scores))
    for name in scores:
        assert largest_difference(found[0][name], found[1][name]) <= 1e-4, name
