"""Layers whose gradient is wrong in Caffe itself: it keeps blobs in memory that later layers overwrite.

The rules are those of Caffe's CPU code. `import caffe` has the same numbers here; `fcn_caffe.Net` has right gradients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod

from fcn_caffe.doctor.findings import WARNING, Finding
from fcn_caffe.net.graph import Graph, Node
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TRAIN

__all__ = ["overwritten_blobs", "scale_gradients"]

_CHECK = "gradient"
_OWN_TOP = "Give its top a name of its own. fcn_caffe.Net has the right gradient, `import caffe` has Caffe's."
_Layer = caffe_pb2.LayerParameter


@dataclass
class _Memory:
    """The blobs that lie in one piece of Caffe's memory, who changes it in place, who else reads it."""

    maker: Node
    names: list[str] = field(default_factory=list)
    writers: list[Node] = field(default_factory=list)
    readers: list[tuple[Node, str]] = field(default_factory=list)


def overwritten_blobs(param: caffe_pb2.NetParameter) -> Iterator[Finding]:
    """Find layers that work on a blob which Caffe has overwritten. param: the net of one phase."""
    graph = Graph.from_param(param)
    for memory in _memories(graph):
        for node in memory.writers:
            problem = _own_fault(node)
            if problem:
                yield Finding(WARNING, _CHECK, str(node), f"in place it goes wrong in Caffe: {problem}", _OWN_TOP)
        yield from _overwritten(memory)
        yield from _shared(memory)
    yield from _ended(graph)


def _memories(graph: Graph) -> list[_Memory]:
    """Follow the blobs of a net into Caffe's memory. A blob made anew under an old name is another memory."""
    memories: list[_Memory] = []
    present: dict[str, _Memory] = {}
    for node in graph.nodes:
        in_place = set(node.bottoms) & set(node.tops)
        for bottom in node.bottoms:
            if bottom not in in_place:
                present[bottom].readers.append((node, bottom))
        for top in node.tops:
            if top in in_place:
                present[top].writers.append(node)
            elif _shares(node):
                present[top] = present[node.bottoms[0]]
                present[top].names.append(top)
            else:
                present[top] = _Memory(node, [top])
                memories.append(present[top])
    return memories


def _shares(node: Node) -> bool:
    """Whether a layer's tops are its bottom's memory."""
    if node.type in ("Reshape", "Flatten", "Split"):
        return True
    return (node.type == "Concat" and len(node.bottoms) == 1) or (node.type == "Slice" and len(node.tops) == 1)


# -- in place on its own bottom ----------------------------------------------------------------------------------------


def _power(layer: _Layer) -> str:
    options = layer.power_param
    if options.power * options.scale == 0:
        return ""
    return "it writes its own factor over the gradient from above before it reads that."


def _mvn(layer: _Layer) -> str:
    if not layer.mvn_param.normalize_variance:
        return ""
    return "it writes a product over the gradient from above, which it needs again."


def _eltwise(layer: _Layer) -> str:
    options = layer.eltwise_param
    if options.operation == caffe_pb2.EltwiseParameter.PROD:
        return "it writes the first bottom's gradient over the one from above, which the others need."
    name = "sum" if options.operation == caffe_pb2.EltwiseParameter.SUM else "maximum"
    return f"it clears its top before it reads the bottom that lies there, so that already the {name} is another."


def _relu(layer: _Layer) -> str:
    return (
        "a negative slope turns signs, and it reads the sign of its top." if layer.relu_param.negative_slope < 0 else ""
    )


def _elu(layer: _Layer) -> str:
    return "a negative alpha turns signs, and it reads the sign of its top." if layer.elu_param.alpha < 0 else ""


def _always(problem: str) -> Callable[[_Layer], str]:
    return lambda layer: problem


_OWN_FAULTS = {
    "Power": _power,
    "Log": _always("it takes its top, the logarithm, for its bottom, and loses the gradient from above."),
    "LRN": _always("it takes its top for its bottom, in forward too."),
    "MVN": _mvn,
    "Eltwise": _eltwise,
    "ReLU": _relu,
    "ELU": _elu,
    "Clip": _always("it looks at its top, which is always within the bounds, so nothing is held back."),
    "BNLL": _always("it takes its top for its bottom."),
}


def _own_fault(node: Node) -> str:
    rule = _OWN_FAULTS.get(node.type)
    return "" if rule is None else rule(node.param)


# -- overwritten by a layer behind -------------------------------------------------------------------------------------


def _overwritten(memory: _Memory) -> Iterator[Finding]:
    """Find the layers that read their top, or in place their bottom, which a layer behind has changed."""
    for position, node in enumerate([memory.maker, *memory.writers]):
        what = "top" if _reads_top(node.param) else ""
        if position and not _own_fault(node) and node.type in ("ReLU", "ELU"):
            what = what or "bottom"  # which is its top's memory
        behind = memory.writers[position:]
        writer = next((writer for writer in behind if _harms(node, writer)), None) if what else None
        if writer is not None:
            yield Finding(
                WARNING,
                _CHECK,
                str(node),
                f"its gradient is wrong in Caffe: backward reads its {what}, which {writer} overwrites in place.",
                f"Give the top of '{writer.name}' a name of its own. fcn_caffe.Net has the right gradient, "
                "`import caffe` has Caffe's.",
            )


def _reads_top(layer: _Layer) -> bool:
    if layer.type == "Power":
        return layer.power_param.power not in (1, 2) and layer.power_param.power * layer.power_param.scale != 0
    if layer.type == "MVN":
        return bool(layer.mvn_param.normalize_variance)
    return layer.type in ("Sigmoid", "TanH", "Softmax", "Exp", "ELU", "LRN", "Swish")


_POSITIVE = ("Sigmoid", "Softmax", "Exp")  # tops on which these change nothing:
_EQUAL_WHERE_POSITIVE = ("ReLU", "ELU", "PReLU")


def _harms(reader: Node, writer: Node) -> bool:
    """Whether what a layer leaves in place of a blob makes the gradient of the layer that reads the blob another."""
    kind, layer = writer.type, writer.param
    if kind == "Dropout":  # where it leaves 0 no gradient comes; elsewhere it scales, which keeps signs
        drops = layer.phase == TRAIN and layer.dropout_param.dropout_ratio > 0
        return drops and reader.type != "ReLU"
    if reader.type in _POSITIVE and kind in _EQUAL_WHERE_POSITIVE:
        return False
    if reader.type == "ReLU":
        return not _keeps_signs(layer, reader.param.relu_param.negative_slope)
    if kind == "ReLU":
        # Where it changes a number no gradient comes from above, so that only sums over other places notice.
        return reader.type == "MVN" or layer.relu_param.negative_slope != 0
    options = layer.power_param
    return not (kind == "Power" and options.power == options.scale == 1 and options.shift == 0)


def _keeps_signs(layer: _Layer, slope: float) -> bool:
    """Whether a layer in place behind a ReLU of this slope leaves positive what is, and nothing else."""
    if layer.type == "Power":
        options = layer.power_param
        odd = options.power in (1, 3) or (slope == 0 and options.power > 0)
        return bool(options.shift == 0 and options.scale > 0 and odd)
    if layer.type == "Clip":
        return bool(layer.clip_param.min <= 0 < layer.clip_param.max)
    if layer.type == "ReLU":
        return bool(layer.relu_param.negative_slope >= 0 or slope == 0)
    if layer.type == "ELU":
        return bool(layer.elu_param.alpha >= 0 or slope == 0)
    return layer.type in ("TanH", "Swish", "LRN") or (layer.type == "PReLU" and slope == 0)


# -- memory that several blobs share -----------------------------------------------------------------------------------


def _shared(memory: _Memory) -> Iterator[Finding]:
    """Find layers in place on a blob whose memory is another blob's too, which other layers read."""
    if memory.maker.type == "Parameter" and memory.writers:
        yield Finding(
            WARNING,
            "shared memory",
            str(memory.writers[0]),
            f"in Caffe the top of {memory.maker} is the parameter's own memory, so each pass changes what is learned.",
            "Give its top a name of its own. fcn_caffe.Net leaves the parameter alone, `import caffe` does as Caffe.",
        )
    for writer in memory.writers:
        name = writer.tops[0]
        others = [(reader, blob) for reader, blob in memory.readers if blob != name and not _shares(reader)]
        if len(memory.names) < 2 or not others:
            continue
        reader, blob = others[0]
        what = "gets what it left" if reader.index > writer.index else "has a gradient with what it left"
        yield Finding(
            WARNING,
            "shared memory",
            str(writer),
            f"'{name}' and '{blob}' lie in the same memory, as in Caffe, so it changes both, and {reader} {what}.",
            "Give its top a name of its own.",
        )


def _ended(graph: Graph) -> Iterator[Finding]:
    """Find where Caffe's gradient ends: Flatten gives its bottom another diff than the layer below has."""
    readers = Counter((maker, graph.nodes[index].bottoms[place]) for (index, place), maker in graph.producers.items())
    for node in graph.nodes:
        if node.type != "Flatten":
            continue
        maker = graph.nodes[graph.producers[node.index, 0]]
        # With several readers a Split lies between, which reads the diff where it is.
        if maker.type in ("Parameter", "Reshape") and readers[maker.index, node.bottoms[0]] == 1:
            yield Finding(
                WARNING,
                _CHECK,
                str(node),
                f"in Caffe no gradient comes past it: its backward gives '{node.bottoms[0]}' memory of its own, and "
                f"{maker} has the one before.",
                "Use a Reshape in its place. fcn_caffe.Net has the gradient, `import caffe` has none, as Caffe.",
            )


# -- Scale -------------------------------------------------------------------------------------------------------------


def scale_gradients(net: Net, iter_size: int = 1) -> Iterator[Finding]:
    """Find Scale layers whose gradients over several passes Caffe does not add up. net: the one that is trained."""
    names = [spec.name for node in net.graph.nodes for spec in node.param.param[:1] if spec.name]
    for node in net.graph.nodes:
        if node.type != "Scale" or len(node.bottoms) != 1 or not _is_written(net, node):
            continue
        shared = names.count(node.param.param[0].name) > 1 if node.param.param else False
        if iter_size > 1 or shared:
            passes = f"each of the {iter_size} passes of iter_size" if iter_size > 1 else "each layer that shares it"
            yield Finding(
                WARNING,
                _CHECK,
                str(node),
                f"in Caffe the gradient of its scale is that of the last pass: {passes} writes over the one before, as "
                "the batch is 1.",
                "Use a batch of 2 or more. fcn_caffe.Net adds them up, `import caffe` has Caffe's.",
            )


def _is_written(net: Net, node: Node) -> bool:
    """Whether Caffe writes the gradient of a scale where it should add it."""
    options = node.param.scale_param
    shape = net.blob_shapes[node.bottoms[0]]
    axis = options.axis % len(shape) if shape else 0
    end = len(shape) if options.num_axes == -1 else axis + options.num_axes
    scale = prod(shape[axis:end])
    return scale == prod(shape) or (prod(shape[:axis]) == 1 and scale > 1)
