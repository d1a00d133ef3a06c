"""A net in numbers: what each layer makes, how far it sees, what it holds and costs, and its line in the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.net.coord_map import receptive_field
from fcn_caffe.net.graph import Graph, Node, filter_net
from fcn_caffe.net.multiply_adds import layer_multiply_adds
from fcn_caffe.net.net import Net
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.proto.phases import TEST
from fcn_caffe.proto.upgrade import upgrade_net

__all__ = ["layer_lines", "net_table", "net_tables", "paper_nets"]

DEPLOY = ("deploy",)
# The nets that the paper's tables are about, in its order; each pattern may match none, one or several files.
_PATTERNS = (
    "voc-fcn-alexnet",
    "voc-fcn-googlenet",
    "voc-fcn32s*",
    "voc-fcn16s*",
    "voc-fcn8s",
    "voc-fcn8s-*",
    "nyud-fcn32s-*-*",
    "nyud-fcn16s-*-*",
    "siftflow-fcn8s",
)
_DATA_SETS = {"voc": "PASCAL VOC", "nyud": "NYUDv2", "siftflow": "SIFT Flow", "pascalcontext": "PASCAL-Context"}
_FORMS = {
    "atonce": "all at once",
    "color-d": "early fusion of colour and depth",
    "color-hha": "late fusion of colour and HHA",
    "rgb-hha": "late fusion of colour and HHA",
    "fixed": "upsampling alone",
}
_WINDOWED = {"Convolution": "convolution_param", "Deconvolution": "convolution_param", "Pooling": "pooling_param"}


def paper_nets(audited: AuditedFiles) -> list[str]:
    """List the nets under the root that the paper's tables are about, in the paper's order."""
    names = (
        path.stem
        for pattern in _PATTERNS
        for path in sorted(audited.net_path(pattern).parent.glob(f"{pattern}.prototxt"))
    )
    return list(dict.fromkeys(names))


def net_tables(audited: AuditedFiles) -> list[dict[str, Any]]:
    """Make the tables of those nets. A net that cannot be built has `error`, and neither layers nor totals."""
    tables = []
    for name in paper_nets(audited):
        try:
            tables.append(net_table(audited, name))
        except FcnCaffeError as error:
            table = {"name": name, "file": _file(name), "title": _title(name), "size": [], "error": str(error)}
            tables.append({**table, "layers": [], "totals": {}})
    return tables


def net_table(audited: AuditedFiles, name: str) -> dict[str, Any]:
    """Make the table of a net in its deploy form, on the size that it names.

    A net without that form is built as the audit builds it.

    Returns: its layers and their totals. Shapes are (N, C, H, W) of the first top; stride and receptive field are
        pixels of the image along an axis, None where a layer has no coordinate map; lr_mult has a number a blob.
    Raises: FcnCaffeError for a broken net.
    """
    path = audited.net_path(name)
    stages = DEPLOY if _has_inputs(audited.net(name, TEST, DEPLOY)) else ()
    net = Net(path, TEST, stages=stages, device="meta", paths=audited.paths) if stages else audited.build(name).net
    lines = layer_lines(path, TEST, stages)
    layers = [_layer(net, node, lines.get(node.name)) for node in net.graph.nodes]
    image = next((net.blob_shapes[node.tops[0]] for node in net.graph.nodes if not node.bottoms), ())
    table = {"name": name, "file": _file(name), "title": _title(name), "size": list(image[2:])}
    return {**table, "layers": layers, "totals": _totals(net.graph, layers)}


def layer_lines(path: Path, phase: int = TEST, stages: tuple[str, ...] = ()) -> dict[str, int]:
    """Find the line where each layer of one phase and set of stages begins, by its name."""
    lines: dict[str, int] = {}
    for line, text in _blocks(path.read_text(encoding="utf-8-sig", errors="surrogateescape")):
        net = upgrade_net(parse_text(text, caffe_pb2.NetParameter, path), path)
        for layer in filter_net(net, phase, stages).layer:
            lines.setdefault(layer.name, line)
    return lines


_MARKS = re.compile(
    r"""#[^\n]*|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*'|\blayers?\s*:?\s*(?=[{<])|[{}<>]"""
)


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """The layer messages at the top of a net file, each with its line."""
    depth, start = 0, None
    for mark in _MARKS.finditer(text):
        if mark[0][0] in "{<":
            depth += 1
        elif mark[0][0] in "}>":
            depth -= 1
            if depth == 0 and start is not None:
                yield text.count("\n", 0, start) + 1, text[start : mark.end()]
                start = None
        elif mark[0][0] == "l" and depth == 0:
            start = mark.start()


def _has_inputs(param: caffe_pb2.NetParameter) -> bool:
    return bool(Graph.from_param(param).inputs)


def _file(name: str) -> str:
    return f"nets/{name}.prototxt"


def _title(name: str) -> str:
    data, _, rest = name.partition("-")
    kind, _, form = rest.removeprefix("fcn").strip("-").partition("-")
    kind = {"alexnet": "AlexNet", "googlenet": "GoogLeNet"}.get(kind, kind)
    words = [f"FCN-{kind}", f"{_DATA_SETS.get(data, data)}"]
    return ", ".join([*words, _FORMS.get(form, form)] if form else words)


def _layer(net: Net, node: Node, line: int | None) -> dict[str, Any]:
    stride, size = _stride_and_field(net.graph, node)
    return {
        "name": node.name,
        "type": node.type,
        "bottoms": list(node.bottoms),
        "tops": list(node.tops),
        "shape": list(net.blob_shapes[node.tops[0]]) if node.tops else [],
        "stride": stride,
        "receptive_field": size,
        "parameters": sum(blob.numel() for blob in net.params.get(node.name, [])),
        "multiply_adds": layer_multiply_adds(net, node),
        "line": line,
        **_window(node),
        "lr_mult": _rates(net, node),
    }


def _stride_and_field(graph: Graph, node: Node) -> tuple[float | None, int | None]:
    """The pixels between the centres of two neighbours, and the pixels that a unit sees, along an axis."""
    try:
        field = receptive_field(graph, node.tops[0]) if node.tops else None
    except FcnCaffeError:
        field = None
    if field is None:
        return None, None
    return int(field.stride) if field.stride.denominator == 1 else float(field.stride), field.size


def _window(node: Node) -> dict[str, Any]:
    """Kernel, pad, the layer's own stride and groups; for a Crop its offset."""
    window: dict[str, Any] = {"kernel": None, "pad": None, "step": None}
    if node.type in _WINDOWED:
        options = getattr(node.param, _WINDOWED[node.type])
        for ours, theirs, usual in (("kernel", "kernel", None), ("pad", "pad", 0), ("step", "stride", 1)):
            both = getattr(options, f"{theirs}_size" if theirs == "kernel" else theirs)
            if options.HasField(f"{theirs}_h") or options.HasField(f"{theirs}_w"):
                pair = [getattr(options, f"{theirs}_h"), getattr(options, f"{theirs}_w")]
            else:
                pair = [both] if isinstance(both, int) else list(both) or [usual]
            window[ours] = pair[0] if len(set(pair)) == 1 else pair
        window["group"] = getattr(options, "group", 1)
    if node.type == "Crop":
        window["offset"] = list(node.param.crop_param.offset) or [0]
    return window


def _rates(net: Net, node: Node) -> list[float]:
    """The lr_mult of each blob; Caffe's is 1 where the file says none."""
    rates, count = [param.lr_mult for param in node.param.param], len(net.params.get(node.name, []))
    return (rates + [1.0] * count)[:count]


def _totals(graph: Graph, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over the layers; the deepest chain of convolutions; and the stride and sight of the coarsest map.

    What is upsampled sees as far as its neighbours together: the paper's receptive field is that of a score before it.
    """
    depth, upsampled = [0] * len(layers), [False] * len(layers)
    for node in graph.nodes:
        makers = [graph.producers[node.index, place] for place in range(len(node.bottoms))]
        depth[node.index] = (node.type == "Convolution") + max((depth[maker] for maker in makers), default=0)
        upsampled[node.index] = node.type == "Deconvolution" or any(upsampled[maker] for maker in makers)
    trunk = [layer for layer, above in zip(layers, upsampled, strict=True) if not above]
    return {
        "parameters": sum(layer["parameters"] for layer in layers),
        "multiply_adds": sum(layer["multiply_adds"] for layer in layers),
        "convolutions": sum(layer["type"] == "Convolution" for layer in layers),
        "depth": max(depth, default=0),
        "max_stride": max((layer["stride"] for layer in layers if layer["stride"]), default=None),
        "receptive_field": max((layer["receptive_field"] for layer in trunk if layer["receptive_field"]), default=None),
    }
