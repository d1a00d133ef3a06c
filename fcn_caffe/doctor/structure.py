"""Crop offsets against the coordinate map, and the memory a net takes at a size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from fcn_caffe.doctor.findings import ERROR, NOTE, WARNING, Finding
from fcn_caffe.errors import GraphError
from fcn_caffe.host.free_memory import free_bytes, show_bytes
from fcn_caffe.host.text import show
from fcn_caffe.net.coord_map import FIRST_SPATIAL_AXIS, crop_offset
from fcn_caffe.net.demand import forward_demand, training_demand
from fcn_caffe.net.graph import Graph
from fcn_caffe.net.net import Net
from fcn_caffe.net.rewrite.ready import ready_net
from fcn_caffe.proto import caffe_pb2

__all__ = [
    "CROP_OFFSET",
    "batch_statistics",
    "crop_offsets",
    "crop_text",
    "memory_needed",
    "pooling_masks",
    "wrong_crops",
]

CROP_OFFSET = "crop offset"  # the check's name

LEARN = caffe_pb2.BNParameter.LEARN


def crop_offsets(param: caffe_pb2.NetParameter) -> Iterator[Finding]:
    """Find crops whose offset is not that of the coordinate map. param: the net of one phase.

    A wrong crop is corrected for the crops above it, so that each mistake is reported once.
    """
    return (finding for finding, _, _ in wrong_crops(param))


def wrong_crops(param: caffe_pb2.NetParameter) -> Iterator[tuple[Finding, int, list[int]]]:
    """Find what `crop_offsets` finds; with each finding its layer's index and the right offset, empty if there is none.

    param: the net of one phase.
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
                finding = Finding(WARNING, CROP_OFFSET, str(node), "no offset is exactly right.", str(error))
                yield finding, node.index, []
            continue
        if list(dict.fromkeys(right)) != offset:
            given = f"offset {_show(offset)}" if len(node.param.crop_param.offset) else "no offset, which is 0,"
            old = (
                " A net for HED's Caffe or the first FCN release's, whose Crop has no options, means it: --fork hed."
                if not node.param.HasField("crop_param")
                else ""
            )
            node.param.crop_param.offset[:] = right
            finding = Finding(
                ERROR,
                CROP_OFFSET,
                str(node),
                f"{given} puts '{node.bottoms[0]}' beside '{node.bottoms[1]}', the coordinate map gives "
                f"{_show(right)}.",
                f"Set {crop_text(right)}, or let `doctor --fix OUT` write the net with it.{old}",
            )
            yield finding, node.index, right


def crop_text(offsets: list[int]) -> str:
    """Return the options of a Crop of the spatial axes.

    >>> crop_text([5, 6])
    'crop_param { axis: 2 offset: 5 offset: 6 }'
    """
    return f"crop_param {{ axis: 2 offset: {_show(offsets, ' offset: ')} }}"


def batch_statistics(param: caffe_pb2.NetParameter) -> Iterator[Finding]:
    """Find normalisations that take the statistics of the batch where nothing is trained. param: a net in TEST."""
    learning = [
        layer for layer in param.layer if (layer.type, layer.fork, layer.bn_param.bn_mode) == ("BN", "segnet", LEARN)
    ]
    if learning:
        is_trained = any(layer.type.endswith("Loss") for layer in param.layer)  # SegNet's own way, up to deploy
        yield Finding(
            NOTE if is_trained else WARNING,
            "batch statistics",
            ", ".join(f"layer '{layer.name}' ({layer.type})" for layer in learning[:3])
            + (f" and {len(learning) - 3} more" if len(learning) > 3 else ""),
            "SegNet's BN in LEARN normalises by the batch in TEST, too: an answer depends on the other images of its "
            "batch, and on a single image on itself alone.",
            "For the deploy net write the statistics of the training set into scale and shift, and bn_mode: INFERENCE.",
        )
    for layer in param.layer:
        options = layer.batch_norm_param
        if layer.type == "BatchNorm" and options.HasField("use_global_stats") and not options.use_global_stats:
            yield Finding(
                WARNING,
                "batch statistics",
                f"layer '{layer.name}' ({layer.type})",
                "use_global_stats: false is in force in TEST and in deploy: an answer then depends on the other "
                "images of its batch, and on a single image on itself alone.",
                "Leave use_global_stats out, which is right in both phases, or write true here.",
            )


def pooling_masks(net: Net) -> Iterator[Finding]:
    """Find an Upsample or Unpooling whose mask is that of a pooling which has pooled a blob of another size."""
    nodes = net.graph.nodes
    for node in nodes:
        if node.type not in ("Unpooling", "Upsample") or len(node.bottoms) < 2:
            continue
        pooling = nodes[net.graph.producers[node.index, 1]]
        mask, place = node.bottoms[1], str(node)
        if pooling.type != "Pooling" or pooling.tops.index(mask) != 1:
            yield Finding(
                WARNING,
                "pooling masks",
                place,
                f"its mask '{mask}' is the top of {pooling}, no mask of a Pooling.",
                "Give it the second top of the MAX Pooling whose size is to come back.",
            )
            continue
        pooled, top = (net.blob_shapes[blob][2:] for blob in (pooling.bottoms[0], node.tops[0]))
        if pooled != top:
            yield Finding(
                ERROR,
                "pooling masks",
                place,
                f"makes {show(top)} by the mask of {pooling}, which has pooled {show(pooled)}: values come to lie at "
                "other places than they were found at.",
                f"Give the mask of the pooling of {show(top)}, or upsample to {show(pooled)}.",
            )


def memory_needed(net: Net, training: bool, solver_type: str = "SGD", tests: Sequence[Net] = ()) -> Iterator[Finding]:
    """Estimate the memory of a forward pass, or of training, with its parts."""
    ready = ready_net(net)
    demand = training_demand(ready, solver_type, tests=tests) if training else forward_demand(ready)
    shape = next((net.blob_shapes[node.tops[0]] for node in net.graph.nodes if node.tops), ())
    what = f"{'training' if training else 'one forward pass'} on {show(shape)}"
    place = net.name or "net"
    yield Finding(
        NOTE,
        "memory",
        place,
        f"{what} takes about {show_bytes(demand.total)} ({demand}).",
        "An estimate: other libraries than torch's own take other working memory.",
    )
    free = free_bytes(torch.device("cpu"))
    if free is not None and demand.total > free:
        yield Finding(
            WARNING,
            "memory",
            place,
            f"{what} takes about {show_bytes(demand.total)}, {show_bytes(free)} are free here.",
            "Use smaller images or batches, a narrower net, or a machine with more memory; solve and train have "
            "--checkpoint, infer and score have --tile.",
        )


def _show(offsets: list[int], between: str = ", ") -> str:
    return between.join(map(str, offsets))
