"""The runner: what may be overridden, what is freed, and that it alone calls layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from helpers import input_layer, layer, make_net, randomise
from torch import Tensor

import fcn_caffe
from fcn_caffe import GraphError, LayerError
from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.net import Runner, Step

IMAGE = input_layer("data", 1, 2, 4, 4)
CONVOLUTION = layer("conv", "Convolution", "data", more="convolution_param { num_output: 2 kernel_size: 3 }")
NET = (IMAGE, CONVOLUTION, layer("relu", "ReLU", "conv", "conv"), layer("pair", "Concat", "conv conv"))


def test_a_step_may_be_watched_and_changed() -> None:
    names: list[str] = []

    class Doubled(Runner):
        def run_step(self, step: Step, bottoms: list[Tensor]) -> Sequence[Tensor]:
            names.append(step.node.name)
            tops = super().run_step(step, bottoms)
            return [2 * top for top in tops] if step.node.type == "Convolution" else tops

    net = make_net(*NET)
    randomise(net)
    data = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(Doubled(net).run({"data": data})["pair"], 2 * net(data=data)["pair"])
    assert names == ["data", "conv", "relu", "pair"]


def test_a_step_frees_what_nothing_reads_after_it() -> None:
    relus = layer("z", "ReLU", "data"), layer("a", "ReLU", "data"), layer("m", "ReLU", "z", "z")
    assert [step.frees for step in make_net(IMAGE, *relus).steps] == [(), (), ("data",), ()]


def test_a_net_with_other_steps_shares_blobs_and_has_its_own_mode() -> None:
    net = make_net(*NET, layer("drop", "Dropout", "pair"))
    randomise(net)
    twin = net.with_steps([step for step in net.steps if step.node.name != "relu"])
    data = torch.randn(1, 2, 4, 4)
    assert torch.equal(twin(data=data)["drop"].relu(), net(data=data)["drop"]) and twin(data=data)["drop"].min() < 0
    assert [step.frees for step in twin.steps] == [(), ("data",), ("conv",), ("pair",)]
    twin.train()
    assert not any(step.layer.training for step in net.steps[1:])
    assert all(step.layer.training for step in twin.steps[1:])
    with torch.no_grad():
        net.params["conv"][0].zero_()
    assert not twin.params["conv"][0].any()
    replacement = torch.nn.Parameter(torch.ones_like(net.params["conv"][0]))
    net.layer("conv").weight = replacement
    assert twin.params["conv"][0] is replacement


def test_sources_may_come_from_elsewhere() -> None:
    class Ones(Runner):
        def source(self, step: Step) -> Sequence[Tensor]:
            return [torch.ones(self.net.blob_shapes[name]) for name in step.tops]

    net = make_net(*NET)
    randomise(net)
    assert torch.equal(Ones(net).run({})["pair"], net(data=torch.ones(1, 2, 4, 4))["pair"])
    with pytest.raises(LayerError, match="input blob 'data' was not given"):
        Runner(net).run({})


def test_a_failure_may_be_told_otherwise() -> None:
    class Brief(Runner):
        def failure(self, step: Step, bottoms: Sequence[Tensor], error: Exception) -> FcnCaffeError:
            return GraphError(f"{step.node.name} after {len(bottoms)} bottoms")

    net = make_net(*NET)
    unlike_the_weights = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    with pytest.raises(GraphError, match=r"^conv after 1 bottoms$") as caught:
        Brief(net).run({"data": unlike_the_weights})
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(LayerError, match=r"layer 'conv' \(Convolution\): failed on data 1x2x4x4: "):
        Runner(net).run({"data": unlike_the_weights})


def test_a_blob_is_freed_after_its_last_reader_unless_it_is_kept() -> None:
    alive: list[list[str]] = []

    class Alive(Runner):
        def run_step(self, step: Step, bottoms: list[Tensor]) -> Sequence[Tensor]:
            alive.append(sorted(self.blobs))
            return super().run_step(step, bottoms)

    net = make_net(*NET)
    data = {"data": torch.zeros(1, 2, 4, 4)}
    assert list(Alive(net).run(data)) == ["pair"]
    assert alive == [[], ["data"], ["conv"], ["conv"]]
    alive.clear()
    assert list(Alive(net).run(data, frozenset({"data"}))) == ["data", "pair"]
    assert alive == [[], ["data"], ["conv", "data"], ["conv", "data"]]


def test_layers_are_called_in_one_file() -> None:
    package = Path(fcn_caffe.__file__).parent
    calls = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\blayer(\.infer|\.forward)?\(\*", line)
    ]
    assert calls == ["net/runner.py: tops = step.layer(*bottoms)", "net/runner.py: tops = layer.infer(*bottoms)"]
