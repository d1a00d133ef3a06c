"""`caffe.draw`: nets as graphs, with pycaffe's labels. Graphviz's `dot` draws them; pydot is not needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fcn_caffe.errors import FcnCaffeError, GraphError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.net.draw import RANKDIRS, layer_color, render
from fcn_caffe.proto import caffe_pb2

__all__ = [
    *("BLOB_STYLE", "LAYER_STYLE_DEFAULT", "NEURON_LAYER_STYLE", "Edge", "Graph", "Node", "RuleError"),
    *("choose_color_by_layertype", "draw_net", "draw_net_to_file", "get_edge_label", "get_layer_label"),
    *("get_layer_lr_mult", "get_pooling_types_dict", "get_pydot_graph"),
]

LAYER_STYLE_DEFAULT = {"shape": "record", "fillcolor": "#6495ED", "style": "filled"}
NEURON_LAYER_STYLE = {"shape": "record", "fillcolor": "#90EE90", "style": "filled"}
BLOB_STYLE = {"shape": "octagon", "fillcolor": "#E0E0E0", "style": "filled"}

_LEARNING = ("Convolution", "Deconvolution", "InnerProduct")


class RuleError(GraphError, ValueError):
    """A layer with both include and exclude rules, or one that has no multipliers."""


def get_pooling_types_dict() -> dict[int, str]:
    """Return the names of the pooling methods, by number."""
    return {value.number: value.name for value in caffe_pb2.PoolingParameter.PoolMethod.DESCRIPTOR.values}


def get_edge_label(layer: caffe_pb2.LayerParameter) -> str:
    """Return the text at the edges out of a layer: its batch size, its number of outputs, or two quotes for none."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    if layer.type in ("Convolution", "Deconvolution"):
        return str(layer.convolution_param.num_output)
    if layer.type == "InnerProduct":
        return str(layer.inner_product_param.num_output)
    return '""'


def get_layer_lr_mult(layer: caffe_pb2.LayerParameter) -> list[float]:
    """Return the learning rate multipliers of a layer that learns; 1 where none is given.

    Raises:
        RuleError: the type does not learn.
    """
    if layer.type not in _LEARNING:
        raise RuleError(f"layer '{layer.name}': {layer.type} layers have no learning rate multiplier.")
    return [spec.lr_mult for spec in layer.param] or [1.0]


def get_layer_label(layer: caffe_pb2.LayerParameter, rankdir: str, display_lrm: bool = False) -> str:
    """Return the text of a layer's box, in quotes: name, type, and a window's first kernel size, stride and pad.

    rankdir: TB and BT, which draw downwards, put blanks between the parts, the others line ends (a backslash and n).
    """
    kind = layer.type
    if kind == "Pooling":
        kind = f"{get_pooling_types_dict()[layer.pooling_param.pool]} {kind}"
    parts = [layer.name, f"({kind})"]
    if layer.type in ("Convolution", "Deconvolution"):
        options = layer.convolution_param
        parts += _window(options.kernel_size, options.stride, options.pad)
    elif layer.type == "Pooling":
        pooling = layer.pooling_param
        parts += _window([pooling.kernel_size], [pooling.stride], [pooling.pad])
    if display_lrm and layer.type in _LEARNING:
        parts.append("lr mult: " + ", ".join(f"{rate:.1f}" for rate in get_layer_lr_mult(layer)))
    return '"' + (" " if rankdir in ("TB", "BT") else "\\n").join(parts) + '"'


def _window(kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int]) -> list[str]:
    return [f"kernel size: {(kernel or [1])[0]}", f"stride: {(stride or [1])[0]}", f"pad: {(pad or [0])[0]}"]


def choose_color_by_layertype(layertype: str) -> str:
    """Return the colour of a layer type's box."""
    return layer_color(layertype)


@dataclass
class Node:
    """A box: its text, in quotes if it is a layer's, and its Graphviz attributes."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)

    def get_name(self) -> str:
        """The text."""
        return self.name

    def get_label(self) -> str:
        """The text."""
        return self.name


@dataclass
class Edge:
    """An arrow between two boxes, by their numbers in the graph, and its text."""

    source: int
    destination: int
    label: str

    def get_label(self) -> str:
        """The text."""
        return self.label


@dataclass
class Graph:
    """The part of pydot.Dot that scripts use: `to_string`, `create`, `write`, `create_FORMAT` and `write_FORMAT`."""

    name: str
    rankdir: str
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)

    def get_name(self) -> str:
        """The net's name."""
        return self.name

    def get_nodes(self) -> list[Node]:
        """The boxes."""
        return list(self.nodes)

    get_node_list = get_nodes

    def get_edges(self) -> list[Edge]:
        """The arrows."""
        return list(self.edges)

    get_edge_list = get_edges

    def get_rankdir(self) -> str:
        """The direction."""
        return self.rankdir

    def to_string(self) -> str:
        """Return the graph in the DOT language."""
        lines = [f"digraph {_quote(self.name)} {{", f"rankdir={self.rankdir};"]
        for number, node in enumerate(self.nodes):
            # Boxes, not records: braces and bars in a record's label would be its fields.
            style = {**node.attributes, "shape": node.attributes.get("shape", "ellipse").replace("record", "box")}
            attributes = ", ".join(f"{key}={_quote(value)}" for key, value in style.items())
            lines.append(f"node{number} [label={_label(node.name)}, {attributes}];")
        lines += [f"node{edge.source} -> node{edge.destination} [label={_label(edge.label)}];" for edge in self.edges]
        return "\n".join([*lines, "}", ""])

    def create(self, prog: str = "dot", format: str = "ps") -> bytes:
        """Draw the graph.

        Raises:
            FcnCaffeError: Graphviz is not installed, or does not know the format or `prog`.
        """
        if prog != "dot":
            raise FcnCaffeError(f"graphs are drawn by Graphviz's dot, not by {prog!r}.")
        text = self.to_string()
        return text.encode() if format in ("raw", "dot") else render(text, format)

    def write(self, path: str | os.PathLike[str], prog: str = "dot", format: str = "raw") -> bool:
        """Write the picture to a file, whole or not at all; the DOT text by default."""
        picture = self.create(prog, format)
        with atomic_write(path) as file:
            file.write(picture)
        return True

    def __getattr__(self, name: str) -> Callable[..., Any]:
        verb, _, format = name.partition("_")
        if verb not in ("create", "write") or not format:
            raise AttributeError(f"a graph has no {name!r}.")
        if verb == "create":
            return lambda prog="dot": self.create(prog, format)
        return lambda path, prog="dot": self.write(path, prog, format)


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _label(text: str) -> str:
    """Return a label in DOT; one in quotes is DOT already, except quotes in a layer's name."""
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        return '"' + text[1:-1].replace('"', '\\"') + '"'
    return _quote(text)


def get_pydot_graph(
    caffe_net: caffe_pb2.NetParameter,
    rankdir: str,
    label_edges: bool = True,
    phase: int | None = None,
    display_lrm: bool = False,
) -> Graph:
    """Make the graph of a NetParameter. Layers of one name and type are one box.

    phase: draw only the layers of this phase.

    Raises:
        FcnCaffeError: rankdir is unknown.
        RuleError: a layer has include and exclude rules.
    """
    if rankdir not in RANKDIRS:
        raise FcnCaffeError(f"rankdir {rankdir!r} is unknown. Known: {', '.join(RANKDIRS)}.")
    nodes: dict[str, Node] = {}
    arrows: list[tuple[str, str, str]] = []
    for layer in caffe_net.layer:
        if phase is not None and not _is_included(layer, phase):
            continue
        key = f"{layer.name}_{layer.type}"
        in_place = len(layer.bottom) == 1 and list(layer.bottom) == list(layer.top)
        style = {**LAYER_STYLE_DEFAULT, "fillcolor": choose_color_by_layertype(layer.type)}
        nodes[key] = Node(get_layer_label(layer, rankdir, display_lrm), dict(NEURON_LAYER_STYLE) if in_place else style)
        for blob in [*layer.bottom, *layer.top]:
            nodes[f"{blob}_blob"] = Node(blob, dict(BLOB_STYLE))
        arrows += [(f"{bottom}_blob", key, '""') for bottom in layer.bottom]
        arrows += [(key, f"{top}_blob", get_edge_label(layer) if label_edges else '""') for top in layer.top]
    numbers = {key: number for number, key in enumerate(nodes)}
    edges = [Edge(numbers[source], numbers[destination], label) for source, destination, label in arrows]
    return Graph(caffe_net.name or "Net", rankdir, list(nodes.values()), edges)


def _is_included(layer: caffe_pb2.LayerParameter, phase: int) -> bool:
    if layer.include and layer.exclude:
        raise RuleError(f"layer '{layer.name}' has both include and exclude rules. Keep one kind.")
    if layer.include:
        return any(rule.phase == phase for rule in layer.include)
    return not any(rule.phase == phase for rule in layer.exclude)


def draw_net(
    caffe_net: caffe_pb2.NetParameter,
    rankdir: str,
    ext: str = "png",
    phase: int | None = None,
    display_lrm: bool = False,
) -> bytes:
    """Draw a NetParameter in a format that Graphviz knows; errors as in `get_pydot_graph` and `Graph.create`."""
    return get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm).create(format=ext)


def draw_net_to_file(
    caffe_net: caffe_pb2.NetParameter,
    filename: str,
    rankdir: str = "LR",
    phase: int | None = None,
    display_lrm: bool = False,
) -> None:
    """Draw a NetParameter to a file, in the format of its ending; it is written whole or not at all."""
    ext = filename[filename.rfind(".") + 1 :]
    get_pydot_graph(caffe_net, rankdir, phase=phase, display_lrm=display_lrm).write(filename, format=ext)
