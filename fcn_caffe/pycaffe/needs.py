"""Which layers and bottoms Caffe runs backward for, and with what weight each top counts in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fcn_caffe.layers.base import Layer
from fcn_caffe.net.graph import Graph, Node
from fcn_caffe.proto import caffe_pb2


@dataclass
class Needs:
    """By layer index: whether backward runs, for which bottoms, and the tops' loss weights."""

    layers: list[bool] = field(default_factory=list)
    bottoms: list[list[bool]] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)


def needs_of(graph: Graph, layers: Mapping[int, Layer], force_backward: bool) -> Needs:
    """Follow gradients from the parameters that learn up to the losses, and down again; layers: by node index.

    Source: Caffe Net::Init.
    """
    needs = Needs()
    reached: dict[str, bool] = {}  # blob -> whether something that learns is above it
    for node in graph.nodes:
        layer = layers.get(node.index)
        down = [bool(option) for option in node.param.propagate_down] or [reached[name] for name in node.bottoms]
        learns = layer is not None and (layer.asks_backward or any(blob.requires_grad for blob in layer.blobs))
        needed = learns or any(reached[name] for name in node.bottoms)
        needs.layers.append(needed)
        needs.bottoms.append(down)
        needs.weights.append(_weights(node, layer))
        reached.update((name, needed) for name in node.tops)
    _drop_what_no_loss_sees(graph.nodes, needs)
    if force_backward:
        for node in graph.nodes:
            needs.layers[node.index] = True
            shut = _unforceable(node, layers.get(node.index))
            for position in range(len(node.bottoms)):
                needs.bottoms[node.index][position] |= position not in shut
    return needs


def _weights(node: Node, layer: Layer | None) -> list[float]:
    weights = list(node.param.loss_weight) or ([1.0] if layer is not None and layer.loss else [])
    return weights + [0.0] * (len(node.tops) - len(weights))


def _drop_what_no_loss_sees(nodes: Sequence[Node], needs: Needs) -> None:
    under_loss: set[str] = set()
    skipped: set[str] = set()
    for node in reversed(nodes):
        weights = needs.weights[node.index]
        counts = any(weight or name in under_loss for name, weight in zip(node.tops, weights, strict=True))
        skips = all(name in skipped for name in node.tops)
        down = needs.bottoms[node.index]
        if needs.layers[node.index] and skips:
            needs.layers[node.index] = False
            down[:] = [False] * len(down)
        if not counts:
            needs.layers[node.index] = False
            down[:] = [False] * len(down)
        else:
            under_loss.update(node.bottoms)
        skipped.update(name for name, needed in zip(node.bottoms, down, strict=True) if not needed)


def ignores_propagate_down(node: Node) -> bool:
    """Whether a layer's backward writes its bottoms' diffs whatever it is asked for, as Caffe's does."""
    if node.type == "LRN":
        return node.param.lrn_param.norm_region == caffe_pb2.LRNParameter.ACROSS_CHANNELS
    return node.type in ("BatchNorm", "Im2col", "MVN", "Softmax")


def _unforceable(node: Node, layer: Layer | None) -> tuple[int, ...]:
    """The bottoms that force_backward leaves alone: labels."""
    return layer.undifferentiable if layer is not None else ()
