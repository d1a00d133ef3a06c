"""Which layers and bottoms Caffe runs backward for, and with what weight each top counts in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fcn_caffe.errors import LayerError
from fcn_caffe.layers.base import Layer
from fcn_caffe.net.graph import Graph, Node
from fcn_caffe.net.rewrite.splits import insert_splits
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
            layer = layers.get(node.index)
            shut = layer.never_forced if layer is not None else ()
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


def gives_unasked(node: Node) -> Sequence[int]:
    """Return the bottoms whose diffs a layer's backward writes whether it is asked for them or not, as Caffe's does."""
    if node.type in ("BatchNorm", "Im2col", "MVN", "Softmax"):
        return range(len(node.bottoms))
    if node.type in ("LSTM", "RNN"):
        exposed = len(node.tops) - 1  # each exposed state is a top, and a bottom behind a static input
        return (0, 2) if len(node.bottoms) == 3 + exposed else (0,)
    across = node.param.lrn_param.norm_region == caffe_pb2.LRNParameter.ACROSS_CHANNELS
    return (0,) if node.type == "LRN" and across else ()


# Types whose backward Caffe has not written at all, whatever it is asked for.
_WITHOUT_BACKWARD = ("ArgMax", "Threshold")


def refused_gradients(
    graph: Graph, layers: Mapping[int, Layer], needs: Needs, force_backward: bool
) -> dict[int, LayerError]:
    """Return, by node index, the error of each layer whose backward Caffe aborts; layers: by node index.

    It does where a gradient is asked of labels or indices, or of a layer that has none.
    """
    errors: dict[int, LayerError] = {}
    for node in graph.nodes:
        layer = layers.get(node.index)
        if layer is None or not layer.refused_gradients or not needs.layers[node.index]:
            continue
        for position, words in layer.refused_gradients.items():
            if position >= len(node.bottoms):
                continue
            if needs.bottoms[node.index][position] or node.type in _WITHOUT_BACKWARD:
                cure, bottom = _cure(node, position, force_backward), node.bottoms[position]
                errors[node.index] = layer.error(
                    f"a gradient is asked of its bottom '{bottom}', where Caffe aborts: {words!r}. {cure}"
                )
                break
    return errors


def _cure(node: Node, position: int, force_backward: bool) -> str:
    if force_backward:
        return "Drop force_backward, or run backward from a layer below this one."
    if node.type in _WITHOUT_BACKWARD:
        return f"Write `propagate_down: false` for '{node.tops[0]}' in the layers that read it."
    downs = list(node.param.propagate_down) or [True] * len(node.bottoms)
    downs[position] = False
    return f"Write `{' '.join(f'propagate_down: {str(down).lower()}' for down in downs)}` in it."


def check_gradients(param: caffe_pb2.NetParameter, graph: Graph, layers: Sequence[Layer]) -> None:
    """Refuse a net whose backward would abort in Caffe.

    Args:
        param: the net's upgraded, filtered NetParameter.
        graph: its graph.
        layers: its layers, in file order.

    Raises:
        LayerError: a gradient is asked of labels, indices or a layer that has none; says how to ask for none.
    """
    forced = bool(param.force_backward)
    if not any(layer.refused_gradients for layer in layers) or not _may_be_asked(graph, layers, forced):
        return
    split = Graph.from_param(insert_splits(param))
    by_node = {index: layers[own] for index, own in in_split_graph(graph.nodes, split.nodes).items()}
    for error in refused_gradients(split, by_node, needs_of(split, by_node, forced), forced).values():
        raise error


def _may_be_asked(graph: Graph, layers: Sequence[Layer], forced: bool) -> bool:
    """Whether a gradient that Caffe refuses may be asked for: a quick look, without losses and Split layers."""
    reached: dict[str, bool] = {}
    for node, layer in zip(graph.nodes, layers, strict=True):
        downs = list(node.param.propagate_down)
        for position in layer.refused_gradients:
            if position < len(node.bottoms) and (
                reached[node.bottoms[position]]
                or (position < len(downs) and downs[position])
                or (forced and position not in layer.never_forced)
            ):
                return True
        learns = layer.asks_backward or any(blob.requires_grad for blob in layer.blobs)
        reached.update(dict.fromkeys(node.tops, learns or any(reached[name] for name in node.bottoms)))
    return False


def in_split_graph(nodes: Sequence[Node], split: Sequence[Node]) -> dict[int, int]:
    """Return a net's node indices by those that they have in its graph with Split layers, which keeps their order.

    Names do not tell: a net may have several layers of one name.
    """
    left = list(reversed(nodes))
    return {
        node.index: left.pop().index
        for node in split
        if left and (node.name, node.type) == (left[-1].name, left[-1].type)
    }
