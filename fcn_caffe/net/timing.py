"""How long each layer of a net takes, forward and backward."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Blob, Runner, Shape, Step, label_blobs

Version = tuple[str, int]  # a blob as one layer left it: its name and that layer's index


@dataclass
class LayerTime:
    """One layer's mean times in milliseconds. backward is 0 where no gradient arrives.

    tops: the shapes of its tops. parameters: how many numbers its blobs hold.
    """

    name: str
    type: str
    tops: tuple[Shape, ...]
    parameters: int
    forward: float = 0.0
    backward: float = 0.0


@dataclass
class NetTimes:
    """The layers' times in file order; forward and backward are the mean times of whole passes, in milliseconds."""

    layers: list[LayerTime]
    iterations: int
    forward: float = 0.0
    backward: float = 0.0


@dataclass
class _Run:
    """One run of a layer: the leaves it read, each with the version it is of, and the tops it made."""

    step: Step
    leaves: list[tuple[Version, Tensor]]
    tops: Sequence[Tensor]


@dataclass
class _Clock:
    """Adds up milliseconds by name. On CUDA it waits for what was queued before and within."""

    device: torch.device
    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.spent[name] = self.spent.get(name, 0.0) + (time.perf_counter() - start) * 1e3

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _TimedRunner(Runner):
    """Runs each layer on leaves of its own, measures it, and remembers it for backward."""

    def __init__(self, net: Net, clock: _Clock) -> None:
        super().__init__(net)
        self.clock = clock
        self.runs: list[_Run] = []
        self.makers: dict[str, int] = {}  # blob -> the layer that made its present version

    def run_step(self, step: Step, bottoms: list[Tensor]) -> Sequence[Tensor]:
        leaves: list[tuple[Version, Tensor]] = []
        copies: list[Tensor] = []
        for position, (name, blob) in enumerate(zip(step.bottoms, bottoms, strict=True)):
            leaf = blob.detach()
            if blob.requires_grad and position not in step.blocked:
                leaf.requires_grad_()
            leaves.append(((name, self.makers[name]), leaf))
            # A leaf may not be overwritten; a copy of it may, and its backward hands the gradient through.
            copies.append(leaf.clone() if step.layer.inplace else leaf)
        with self.clock(step.node.name):
            tops = self.call_layer(step, copies) if copies else self.source(step)
        self.runs.append(_Run(step, leaves, tops))
        self.makers.update(dict.fromkeys(step.tops, step.node.index))
        return tops


def random_inputs(net: Net) -> dict[str, Tensor]:
    """Make a blob for every Input top: random in [0, 1), but zero where a layer reads it as labels or indices.

    Raises:
        LayerError: an Input layer has no shape.
    """
    inputs: dict[str, Tensor] = {}
    labels = label_blobs(net.steps)
    for step in net.steps:
        if step.node.type != "Input":
            continue
        for name in step.tops:
            shape = net.blob_shapes[name]
            if not shape:
                raise step.layer.error(f"top '{name}' has no shape to make a blob of. Give input_param a shape.")
            blob = torch.zeros(shape) if name in labels else torch.rand(shape)
            inputs[name] = blob.to(net.device)
    return inputs


def time_net(net: Net, iterations: int = 50, *, warm_up: int = 1, inputs: Mapping[str, Blob] | None = None) -> NetTimes:
    """Run forward and backward layer by layer; return the mean times of the passes after `warm_up`.

    Each layer reads detached leaves, so that its backward runs and is timed alone. The gradient that arrives at a top
    is the sum of what the top's readers gave their leaves, as in the whole net. Backward starts at the losses, with
    their weights. A net without losses starts with ones at its outputs, and at blobs that only layers without a
    gradient read. The parameters' gradients are those of the last pass afterwards. A layer that overwrites its bottom
    gets a copy, which is made outside the measured time. debug_info's lines are said of the first pass only.

    Args:
        inputs: blobs for the Input layers; by default those of `random_inputs`.

    Raises:
        FcnCaffeError: what the layers raise.

    Source: Caffe's `time` command, which also runs the layers one by one.
    """
    inputs = dict(random_inputs(net) if inputs is None else inputs)
    with torch.no_grad():  # a whole pass without gradients first, which takes the least memory: errors show early
        net(inputs)
    for _ in range(warm_up):
        _time_pass(net, inputs, _Clock(net.device), _Clock(net.device), _Clock(net.device))
    forward, backward, whole = _Clock(net.device), _Clock(net.device), _Clock(net.device)
    for _ in range(iterations):
        shapes = _time_pass(net, inputs, forward, backward, whole)
    layers = [
        LayerTime(
            step.node.name,
            step.node.type,
            shapes[step.node.name],
            sum(blob.numel() for blob in step.layer.blobs),
            forward.spent[step.node.name] / iterations,
            backward.spent.get(step.node.name, 0.0) / iterations,
        )
        for step in net.steps
    ]
    return NetTimes(layers, iterations, whole.spent["forward"] / iterations, whole.spent["backward"] / iterations)


def _time_pass(
    net: Net, inputs: Mapping[str, Blob], forward: _Clock, backward: _Clock, whole: _Clock
) -> dict[str, tuple[Shape, ...]]:
    """Run one forward and one backward pass; return the shapes of each layer's tops."""
    net.zero_grad(set_to_none=True)
    runner = _TimedRunner(net, forward)
    with whole("forward"):
        runner.run(inputs)
    shapes = {run.step.node.name: tuple(tuple(top.shape) for top in run.tops) for run in runner.runs}
    with whole("backward"):
        _backward(net, runner.runs, backward)
    return shapes


def _backward(net: Net, runs: list[_Run], clock: _Clock) -> None:
    arriving: dict[Version, Tensor] = {}
    while runs:
        run = runs.pop()  # what its graph has saved is freed with it
        tops, gradients = _start_gradients(net, run, arriving)
        if not tops:
            continue
        with clock(run.step.node.name):
            torch.autograd.backward(tops, gradients)
        for version, leaf in run.leaves:
            if leaf.grad is not None:
                arriving[version] = arriving[version] + leaf.grad if version in arriving else leaf.grad
                leaf.grad = None


def _start_gradients(net: Net, run: _Run, arriving: dict[Version, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The tops that a layer's backward starts at, and their gradients; those used leave `arriving`."""
    step, tops, gradients = run.step, [], []
    for name, top in zip(step.tops, run.tops, strict=False):
        gradient = arriving.pop((name, step.node.index), None)
        weight = net.loss_weights.get(name)
        if weight and _last_maker(net, name) == step.node.index:
            loss_gradient = torch.full_like(top, weight)
            gradient = loss_gradient if gradient is None else gradient + loss_gradient
        elif gradient is None and not net.loss_weights and top.requires_grad:
            gradient = torch.ones_like(top)
        # A layer may hand its bottom or its blob through as it is: then the top is a leaf with a gradient.
        if gradient is not None and top.requires_grad:
            tops.append(top)
            gradients.append(gradient)
    return tops, gradients


def _last_maker(net: Net, blob: str) -> int:
    return max(node.index for node in net.graph.nodes if blob in node.tops)
