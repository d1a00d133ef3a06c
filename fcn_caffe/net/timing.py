"""How long each layer of a net takes, forward and backward."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fcn_caffe.net.net import Net, Shape, _Step

Version = tuple[str, int]  # a blob as one layer left it: its name and that layer's index


@dataclass
class LayerTime:
    """One layer's times in milliseconds, means over the iterations. backward is 0 where no gradient arrives.

    tops: the shapes of what it makes. parameters: how many numbers its blobs hold.
    """

    name: str
    type: str
    tops: tuple[Shape, ...]
    parameters: int
    forward: float = 0.0
    backward: float = 0.0


@dataclass
class NetTimes:
    """The layers' times in file order; forward and backward are those of whole passes, in milliseconds."""

    layers: list[LayerTime]
    iterations: int
    forward: float = 0.0
    backward: float = 0.0


@dataclass
class _Ran:
    """A layer that ran: the leaves it read, each with the version it is of, and the tops it made."""

    step: _Step
    leaves: list[tuple[Version, Tensor]]
    tops: tuple[Tensor, ...] = ()


@dataclass
class _Clock:
    """Adds up milliseconds; on CUDA all that was queued before and within is waited for."""

    device: torch.device
    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.spent[name] = self.spent.get(name, 0.0) + (time.perf_counter() - started) * 1e3

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def made_inputs(net: Net) -> dict[str, Tensor]:
    """A blob for every Input top: random in [0, 1), but zero where a layer reads it as labels or indices.

    Raises: LayerError for an Input layer without a shape.
    """
    inputs: dict[str, Tensor] = {}
    labels = {
        step.bottoms[place] for step in net._steps for place in step.layer.undifferentiable if step.bottoms[place:]
    }
    for step in net._steps:
        if step.node.type != "Input":
            continue
        for name in step.tops:
            shape = net.blob_shapes[name]
            if not shape:
                raise step.layer.error(f"top '{name}' has no shape to make a blob of. Give input_param a shape.")
            made = torch.zeros(shape) if name in labels else torch.rand(shape)
            inputs[name] = made.to(net.device)
    return inputs


def time_net(
    net: Net, iterations: int = 50, *, warm_up: int = 1, inputs: Mapping[str, Tensor] | None = None
) -> NetTimes:
    """Run forward and backward, layer by layer, and take the mean times after `warm_up` passes.

    Each layer reads detached leaves, so that its backward can be run and timed alone; what arrives at its tops is the
    sum of what its readers gave their leaves, as in the whole net. It starts at the losses, with their weights; a net
    without any starts with ones at its outputs, and at what only layers without a gradient read. Parameters'
    gradients end as those of the last pass. Layers that write over their bottom get a copy that is made outside the
    measured time.
    inputs: for Input layers; `made_inputs` if not given.
    Raises: what the layers raise. Source: Caffe's `time` command, which runs the layers one by one as well.
    """
    given = dict(made_inputs(net) if inputs is None else inputs)
    # One pass as a whole first: what does not fit is then told with layer and shapes.
    with torch.no_grad():
        net(given)
    for _ in range(warm_up):
        _pass(net, given, _Clock(net.device), _Clock(net.device), _Clock(net.device))
    forward, backward, whole = _Clock(net.device), _Clock(net.device), _Clock(net.device)
    for _ in range(iterations):
        shapes = _pass(net, given, forward, backward, whole)
    layers = [
        LayerTime(
            step.node.name,
            step.node.type,
            shapes[step.node.name],
            sum(blob.numel() for blob in step.layer.blobs),
            forward.spent[step.node.name] / iterations,
            backward.spent.get(step.node.name, 0.0) / iterations,
        )
        for step in net._steps
    ]
    return NetTimes(layers, iterations, whole.spent["forward"] / iterations, whole.spent["backward"] / iterations)


def _pass(
    net: Net, given: dict[str, Tensor], forward: _Clock, backward: _Clock, whole: _Clock
) -> dict[str, tuple[Shape, ...]]:
    """One forward and one backward pass; returns the shapes of each layer's tops."""
    net.zero_grad(set_to_none=True)
    with whole("forward"):
        ran = _forward(net, given, forward)
    shapes = {each.step.node.name: tuple(tuple(top.shape) for top in each.tops) for each in ran}
    with whole("backward"):
        _backward(net, ran, backward)
    return shapes


def _forward(net: Net, given: dict[str, Tensor], clock: _Clock) -> list[_Ran]:
    blobs: dict[str, Tensor] = {}
    ran: list[_Ran] = []
    for step in net._steps:
        leaves, bottoms = [], []
        for position, name in enumerate(step.bottoms):
            blob = blobs[name]
            leaf = blob.detach()
            if blob.requires_grad and position not in step.blocked:
                leaf.requires_grad_()
            leaves.append(((name, net.graph.producers[step.node.index, position]), leaf))
            # A leaf may not be written over; a copy of it may, and its backward hands the gradient through.
            bottoms.append(leaf.clone() if step.layer.inplace else leaf)
        with clock(step.node.name):
            if bottoms:
                made = step.layer(*bottoms)
                tops = (made,) if isinstance(made, Tensor) else tuple(made)
            else:
                named = net._source(step, given, net.device)
                tops = tuple(named[name] for name in step.tops)
        blobs.update(zip(step.tops, tops, strict=False))
        ran.append(_Ran(step, leaves, tops))
    return ran


def _backward(net: Net, ran: list[_Ran], clock: _Clock) -> None:
    arriving: dict[Version, Tensor] = {}
    for each in reversed(ran):
        step, tops, gradients = each.step, [], []
        for name, top in zip(step.tops, each.tops, strict=False):
            gradient = arriving.pop((name, step.node.index), None)
            weight = net.loss_weights.get(name)
            if weight and _last_maker(net, name) == step.node.index:
                seed = torch.full_like(top, weight)
                gradient = seed if gradient is None else gradient + seed
            elif gradient is None and not net.loss_weights and top.requires_grad:
                gradient = torch.ones_like(top)
            # A layer may hand its bottom or its blob through as it is: then the top is a leaf with a gradient.
            if gradient is not None and top.requires_grad:
                tops.append(top)
                gradients.append(gradient)
        if not tops:
            continue
        with clock(step.node.name):
            torch.autograd.backward(tops, gradients)
        for version, leaf in each.leaves:
            if leaf.grad is not None:
                arriving[version] = arriving[version] + leaf.grad if version in arriving else leaf.grad
                leaf.grad = None
        each.tops, each.leaves = (), []  # what was saved for this backward is free


def _last_maker(net: Net, blob: str) -> int:
    return max(node.index for node in net.graph.nodes if blob in node.tops)
