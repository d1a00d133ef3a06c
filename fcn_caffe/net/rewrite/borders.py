"""Computes constant borders once: a net with padding wider than its kernels runs on less, with the same answers.

The first layer of an FCN pads by 100, so that its maps have wide bands in which every column (or row) is the same.
Here each layer leaves out as many of these places as it can, in its pad or because the layer before did, and
BorderCopy layers put them in again where a layer needs more of them, up to all of them where none are equal any more.
A blob of which 92 places are left out on each side is called NAME_cut92.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf, prod

import torch

from fcn_caffe.errors import GraphError
from fcn_caffe.host.paths import Surroundings
from fcn_caffe.layers.base import Layer, create_layer
from fcn_caffe.layers.conv import Convolution
from fcn_caffe.net.graph import Graph, Node
from fcn_caffe.net.multiply_adds import layer_multiply_adds
from fcn_caffe.net.net import Net
from fcn_caffe.net.rewrite.border_zones import NO_ZONES, Window, Zones, find_windows
from fcn_caffe.net.runner import Step, make_steps
from fcn_caffe.net.sharing import Sharing, shares_data
from fcn_caffe.proto import caffe_pb2

__all__ = ["BordersOnce", "borders_once", "compute_borders_once"]

LEAST_GAIN = 0.02  # of the multiply-adds; with less, a net stays as it is
# What moving an element costs, in multiply-adds: a core does some tens of them while it waits for memory.
_COPY, _TOUCH = 100, 30

Version = tuple[str, int]  # a blob as one layer left it: its name and that layer's index
Pair = tuple[int, int]  # for H and W


@dataclass
class BordersOnce:
    """The result of `compute_borders_once`.

    net: the rewritten net; layers keep their names and weights. sources[i]: the index in the plain net of its layer i,
    None for a BorderCopy. late[blob]: the layer that makes a blob in full which no layer needs so. saved: the share of
    the plain net's multiply-adds that it leaves out, for the size that the net declares. gain: the same, less what the
    copies cost.
    """

    net: caffe_pb2.NetParameter
    sources: list[int | None] = field(default_factory=list)
    late: dict[str, caffe_pb2.LayerParameter] = field(default_factory=dict)
    saved: float = 0.0
    gain: float = 0.0


def borders_once(net: Net, report: Callable[[str], object] | None = None) -> Net:
    """Return a net over the same blobs that computes constant borders once; the net itself where that gains nothing.

    Everything that is said of the net, weights, snapshots and the blobs that `keep` names, are the plain net's. Answers
    are equal up to the rounding of PyTorch's kernels, which may choose another way for another size; gradients too,
    where sums are over fewer places. A net that logs `debug_info` stays plain.

    Args:
        net: the net as its file has it.
        report: called with a line that says what is saved, where something is.

    Raises:
        GraphError: the net's steps are rewritten already.
    """
    if [step.layer for step in net.steps] != net.layers_in_order:
        raise GraphError(f"net '{net.name}': its steps are rewritten already. Call borders_once first.")
    if net.debug is not None:
        return net
    made = compute_borders_once(net)
    if made.gain < LEAST_GAIN:
        return net
    graph = Graph.from_param(made.net)
    layers = [_layer_of(net, node.param, source) for node, source in zip(graph.nodes, made.sources, strict=True)]
    late = {}
    for name, param in made.late.items():
        node = Node(len(graph.nodes), param.name, param.type, tuple(param.bottom), tuple(param.top), param)
        late[name] = Step.of(node, _layer_of(net, param, None))
    if report is not None:
        report(f"net '{net.name}': constant borders are computed once, with {made.saved:.0%} fewer multiply-adds")
    return net.with_steps(make_steps(graph, layers, net.param.force_backward), late)


def _layer_of(net: Net, param: caffe_pb2.LayerParameter, source: int | None) -> Layer:
    if source is None:
        return create_layer(param, [torch.empty(0, device="meta")], Surroundings())
    layer = net.layers_in_order[source]
    if not isinstance(layer, Convolution) or param.convolution_param == layer.param.convolution_param:
        return layer
    pads = list(param.convolution_param.pad)
    twin = layer.with_pad((pads[0], pads[-1]))
    twin.param = param
    return twin


def compute_borders_once(net: Net) -> BordersOnce:
    """Write a net that computes constant borders once, of a built net (device "meta" will do).

    The result holds for every size of input; the declared one decides what is worth a copy.
    """
    plan = _Plan(net)
    writer = _Writer(net, plan)
    for node in net.graph.nodes:
        writer.add(node)
    writer.add_late()
    plain, left = plan.multiply_adds()
    made = writer.made
    if plain:
        made.saved = 1 - left / plain
        made.gain = made.saved - writer.copied * _COPY / plain
    return made


class _Plan:
    """Which places each layer leaves out, along both axes; `cuts` by node, `made` by version of a blob."""

    def __init__(self, net: Net) -> None:
        self.net = net
        sharing = Sharing(net.graph) if any(shares_data(node) for node in net.graph.nodes) else None
        windows = {}
        for node, layer in zip(net.graph.nodes, net.layers_in_order, strict=True):
            blobs = (*node.bottoms, *node.tops)
            if any(len(net.blob_shapes[name]) != 4 for name in blobs):
                continue
            if sharing is not None and any(sharing.others(name) for name in blobs):
                continue
            found = find_windows(node, layer)
            if found is not None:
                windows[node.index] = found
        self.axes = tuple(_Axis(net, axis, {index: pair[axis] for index, pair in windows.items()}) for axis in (0, 1))

    def cut(self, node: Node) -> Pair:
        """Return how many places a layer's bottoms leave out at each end of H and W."""
        return self.axes[0].cuts[node.index], self.axes[1].cuts[node.index]

    def made(self, version: Version) -> Pair:
        """Return how many places the layer leaves out that makes a version of a blob."""
        return self.axes[0].made[version], self.axes[1].made[version]

    def multiply_adds(self) -> tuple[float, float]:
        """Return the multiply-adds of the plain net, and of what is left of them."""
        plain = left = 0.0
        for node in self.net.graph.nodes:
            work = float(layer_multiply_adds(self.net, node))
            plain += work
            for top in node.tops[:1]:
                for cut, size in zip(self.made((top, node.index)), self.net.blob_shapes[top][2:], strict=False):
                    work *= _share_left(size, cut)
            left += work
        return plain, left


def _share_left(size: int, cut: int) -> float:
    """Return which share of an axis is left without `cut` places at each end; an axis without places keeps all."""
    return (size - 2 * cut) / size if size else 1.0


class _Axis:
    """Chooses, along one axis, how many equal places each layer leaves out at each end of its bottoms.

    zones: of each version of a blob. allowed: the numbers that a layer's top and stride let it leave out.
    cuts: what is chosen for each layer. made: what each version leaves out.
    """

    def __init__(self, net: Net, axis: int, windows: dict[int, Window]) -> None:
        self.net, self.axis, self.windows = net, axis, windows
        last = _last_versions(net.graph)
        self.outputs = {last[name] for name in net.graph.outputs}
        self.zones: dict[Version, Zones] = {}
        self.allowed: dict[int, list[int]] = {}
        self.starts: set[int] = set()  # the layers that leave out places of their pad
        self.cuts: dict[int, int] = {}
        self.made: dict[Version, int] = {}
        self._most: dict[Version, int] = {}  # how many places a version may leave out
        self._costs: dict[Version, list[float]] = {}  # what comes after a version, by how many places it leaves out
        self._choices: dict[int, list[int]] = {}  # what a layer takes, by how many places its bottom leaves out
        for node in net.graph.nodes:
            self._follow(node)
        for node in reversed(net.graph.nodes):
            self._weigh(node)
        for node in net.graph.nodes:
            self._choose(node)

    def _bottoms(self, node: Node) -> list[Version]:
        return [(name, self.net.graph.producers[node.index, place]) for place, name in enumerate(node.bottoms)]

    def _follow(self, node: Node) -> None:
        """Find the zones of a layer's tops, and what it may leave out."""
        tops = [(name, node.index) for name in node.tops]
        self.zones.update(dict.fromkeys(tops, NO_ZONES))
        self._most.update(dict.fromkeys(tops, 0))
        self.allowed[node.index] = [0]
        window, bottoms = self.windows.get(node.index), self._bottoms(node)
        if window is None:
            return
        zones = self.zones[bottoms[0]]
        for bottom in bottoms[1:]:
            zones = zones.joined(self.zones[bottom])
        top = self.zones[tops[0]] = zones.through(window)
        most = min(self._most[bottom] for bottom in bottoms)
        if not zones.run and top.run:
            self.starts.add(node.index)
            most = window.pad
        # Of the top's equal places one is left.
        self.allowed[node.index] = [
            cut for cut in range(0, most + 1, window.stride) if not cut or cut // window.stride < top.run
        ]
        self._most[tops[0]] = self.allowed[node.index][-1] // window.stride

    def _weigh(self, node: Node) -> None:
        """Add what a layer and all after it cost to the costs of its bottoms; those after it are known."""
        for name in node.tops:
            if (name, node.index) in self.outputs:
                self._add_copies((name, node.index), 0)
        bottoms, window = self._bottoms(node), self.windows.get(node.index)
        if window is None:
            self._choices[node.index] = [0]
            for bottom in bottoms:
                self._add_copies(bottom, 0)
            return
        ways = {cut: self._cost_after(node, window, cut) for cut in self.allowed[node.index]}
        if len(bottoms) > 1 or node.index in self.starts:
            best = min(ways, key=lambda cut: (ways[cut], -cut))
            self._choices[node.index] = [best]
            for bottom in bottoms if node.index not in self.starts else ():
                self._add_copies(bottom, best)
            return
        costs, choices = self._costs_of(bottoms[0]), []
        for made in range(len(costs)):
            each = {
                cut: cost + (self._copy_cost(bottoms[0], cut) if cut != made else 0)
                for cut, cost in ways.items()
                if cut <= made
            }
            best = min(each, key=lambda cut: (each[cut], -cut))
            choices.append(best)
            costs[made] += each[best]
        self._choices[node.index] = choices

    def _costs_of(self, version: Version) -> list[float]:
        return self._costs.setdefault(version, [0.0] * (self._most[version] + 1))

    def _add_copies(self, version: Version, wanted: int) -> None:
        """Add the cost of a reader that takes so many places left out, whatever the version leaves out."""
        costs = self._costs_of(version)
        for made in range(len(costs)):
            if made != wanted:
                costs[made] += self._copy_cost(version, wanted) if made > wanted else inf

    def _copy_cost(self, version: Version, cut: int) -> float:
        shape = self.net.blob_shapes[version[0]]
        # Both axes count half: mostly they are copied together.
        return _COPY / 2 * prod(shape) * self._share(version[0], cut)

    def _share(self, blob: str, cut: int) -> float:
        return _share_left(self.net.blob_shapes[blob][2 + self.axis], cut)

    def _cost_after(self, node: Node, window: Window, cut: int) -> float:
        top = node.tops[0]
        work = layer_multiply_adds(self.net, node) + _TOUCH * prod(self.net.blob_shapes[top])
        left = cut // window.stride
        return work * self._share(top, left) + self._costs_of((top, node.index))[left]

    def _choose(self, node: Node) -> None:
        bottoms, choices = self._bottoms(node), self._choices[node.index]
        made = self.made[bottoms[0]] if bottoms and len(choices) > 1 else 0
        cut = self.cuts[node.index] = choices[made]
        window = self.windows.get(node.index)
        self.made.update(((name, node.index), cut // window.stride if window else 0) for name in node.tops)


def _last_versions(graph: Graph) -> dict[str, Version]:
    return {top: (top, node.index) for node in graph.nodes for top in node.tops}


class _Writer:
    """Writes the rewritten net, layer by layer."""

    def __init__(self, net: Net, plan: _Plan) -> None:
        self.net, self.plan = net, plan
        param = caffe_pb2.NetParameter()
        param.CopyFrom(net.param)
        param.ClearField("layer")
        self.made = BordersOnce(param)
        self.blobs: dict[tuple[Version, Pair], str] = {}  # what the rewritten net calls them
        self.copied = 0.0  # elements
        self.last = _last_versions(net.graph)
        self.used = {*net.blob_shapes, *(node.name for node in net.graph.nodes)}

    def add(self, node: Node) -> None:
        """Write a layer, after the copies that it needs."""
        cut = self.plan.cut(node)
        starts = [node.index in axis.starts for axis in self.plan.axes]
        wanted = (0 if starts[0] else cut[0], 0 if starts[1] else cut[1])
        bottoms = [
            self._blob((name, self.net.graph.producers[node.index, place]), wanted)
            for place, name in enumerate(node.bottoms)
        ]
        param = caffe_pb2.LayerParameter()
        param.CopyFrom(node.param)
        for rule in ("include", "exclude"):  # the net is the same in every state
            param.ClearField(rule)
        for place, top in enumerate(node.tops):
            version = (top, node.index)
            made = self.plan.made(version)
            if top in node.bottoms[place : place + 1]:
                self.blobs[version, made] = bottoms[place]
            else:
                self.blobs[version, made] = self._name(top, made)
        param.bottom[:] = bottoms
        param.top[:] = [self.blobs[(top, node.index), self.plan.made((top, node.index))] for top in node.tops]
        if any(starts) and any(cut):
            layer = self.net.layer(node)
            assert isinstance(layer, Convolution)
            pads = [pad - less if own else pad for pad, less, own in zip(layer.pad, cut, starts, strict=True)]
            _set_pads(param.convolution_param, pads)
        self._append(param, node.index)
        for top in node.tops:
            if top in self.net.graph.outputs and self.last[top] == (top, node.index):
                self._blob((top, node.index), (0, 0))

    def add_late(self) -> None:
        """Write the layers that make blobs in full which the net does not, from their last state."""
        for name, version in self.last.items():
            if (version, (0, 0)) not in self.blobs:
                self.made.late[name] = self._copy(version, (0, 0), name)

    def _append(self, param: caffe_pb2.LayerParameter, source: int | None) -> None:
        self.made.net.layer.append(param)
        self.made.sources.append(source)

    def _blob(self, version: Version, cut: Pair) -> str:
        """Return the blob that is a version with so many places left out; write the layer that makes it."""
        if (version, cut) not in self.blobs:
            name = self._name(version[0], cut)
            self._append(self._copy(version, cut, name), None)
            self.copied += prod(
                size - 2 * left for size, left in zip(self.net.blob_shapes[version[0]], (0, 0, *cut), strict=True)
            )
            self.blobs[version, cut] = name
        return self.blobs[version, cut]

    def _copy(self, version: Version, cut: Pair, top: str) -> caffe_pb2.LayerParameter:
        made = self.plan.made(version)
        bottom = self.blobs[version, made]
        param = caffe_pb2.LayerParameter(name=self._unused(f"{bottom}_to_{top}"), type="BorderCopy")
        param.bottom.append(bottom)
        param.top.append(top)
        zones = [axis.zones[version] for axis in self.plan.axes]
        options = param.border_copy_param
        options.start.extend(_once(zone.start.edge for zone in zones))
        options.end.extend(_once(zone.end.edge for zone in zones))
        options.copies.extend(_once(have - want for have, want in zip(made, cut, strict=True)))
        return param

    def _name(self, blob: str, cut: Pair) -> str:
        return self._unused(f"{blob}_cut{'x'.join(map(str, _once(cut)))}") if any(cut) else blob

    def _unused(self, name: str) -> str:
        while name in self.used:
            name += "_"
        self.used.add(name)
        return name


def _once(values: Iterable[int]) -> Sequence[int]:
    """Return the values for H and W; one of them where they are the same."""
    pair = list(values)
    return pair[:1] if pair[0] == pair[1] else pair


def _set_pads(options: caffe_pb2.ConvolutionParameter, pads: Sequence[int]) -> None:
    for name in ("pad", "pad_h", "pad_w"):
        options.ClearField(name)
    options.pad.extend(_once(pads))
