"""Crop offsets against the coordinate map, and the memory a net takes at a size."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch

from fcn_caffe.doctor.findings import ERROR, NOTE, WARNING, Finding
from fcn_caffe.errors import GraphError
from fcn_caffe.host.free_memory import free_bytes, show_bytes
from fcn_caffe.host.text import show
from fcn_caffe.net.coord_map import FIRST_SPATIAL_AXIS, crop_offset
from fcn_caffe.net.graph import Graph
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2

__all__ = ["crop_offsets", "memory_needed"]

FLOAT = 4  # bytes
_TWO_HISTORIES = ("Adam", "AdaDelta")


def crop_offsets(param: caffe_pb2.NetParameter) -> Iterator[Finding]:
    """Find crops whose offset is not that of the coordinate map. param: the net of one phase.

    A wrong crop is corrected for the crops above it, so that each mistake is reported once.
    """
    mended = caffe_pb2.NetParameter()
    mended.CopyFrom(param)
    graph = Graph.from_param(mended)
    for node in graph.nodes:
        if node.type != "Crop" or len(node.bottoms) != 2 or node.param.crop_param.axis not in (FIRST_SPATIAL_AXIS, -2):
            continue
        offset = list(dict.fromkeys(node.param.crop_param.offset)) or [0]
        try:
            right = crop_offset(graph, *node.bottoms)
        except GraphError as error:
            # Blobs of different making are no mistake: what they have in common is not in the net.
            if "no common ancestor" not in str(error):
                yield Finding(WARNING, "crop offset", str(node), "no offset is exactly right.", str(error))
            continue
        if list(dict.fromkeys(right)) != offset:
            node.param.crop_param.offset[:] = right
            yield Finding(
                ERROR,
                "crop offset",
                str(node),
                f"offset {_show(offset)} puts '{node.bottoms[0]}' beside '{node.bottoms[1]}', the coordinate map gives "
                f"{_show(right)}.",
                f"Set crop_param {{ axis: 2 offset: {_show(right, ' offset: ')} }}.",
            )


def memory_needed(net: Net, training: bool, solver_type: str = "SGD") -> Iterator[Finding]:
    """Estimate the memory of parameters and blobs; in training of gradients and histories too."""
    counted: dict[int, int] = {id(item.blob): item.blob.numel() for item in net.learnable_params}
    parameters = sum(counted.values()) * FLOAT
    learning = sum(item.blob.numel() for item in net.learnable_params if item.lr_mult) * FLOAT
    sizes = {name: prod(shape) * FLOAT for name, shape in net.blob_shapes.items()}
    if training:
        # Every blob is kept for backward; in-place layers on top of layers that need their top keep one more.
        blobs = sum(sizes.values())
        histories = 2 if solver_type in _TWO_HISTORIES else 1
        total = parameters + learning * (1 + histories) + blobs + max(sizes.values(), default=0)
        parts = (
            f"parameters {show_bytes(parameters)}, their gradients and history {show_bytes(learning * (1 + histories))}"
        )
        parts += f", blobs kept for backward {show_bytes(blobs)}"
    else:
        blobs = _peak(net, sizes)
        total, parts = (
            parameters + blobs,
            f"parameters {show_bytes(parameters)}, blobs at their most {show_bytes(blobs)}",
        )
    shape = next((net.blob_shapes[node.tops[0]] for node in net.graph.nodes if node.tops), ())
    what = f"{'training' if training else 'one forward pass'} on {show(shape)}"
    yield Finding(
        NOTE,
        "memory",
        net.name or "net",
        f"{what} takes about {show_bytes(total)} ({parts}).",
        "An estimate: convolutions take working memory besides.",
    )
    free = free_bytes(torch.device("cpu"))
    if free is not None and total > free:
        yield Finding(
            WARNING,
            "memory",
            net.name or "net",
            f"{what} takes about {show_bytes(total)}, this machine has {show_bytes(free)} free.",
            "Use smaller images, a narrower net, or a machine with more memory.",
        )


def _peak(net: Net, sizes: dict[str, int]) -> int:
    """Return the most bytes of blobs alive at once in a forward pass that frees each after its last reader."""
    alive: set[str] = set()
    most = 0
    for node in net.graph.nodes:
        alive.update(node.tops)
        most = max(most, sum(sizes[name] for name in alive))
        alive.difference_update(net.graph.last_use[node.index])
    return most


def _show(offsets: list[int], between: str = ", ") -> str:
    return between.join(map(str, offsets))
