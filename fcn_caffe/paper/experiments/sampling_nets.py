"""Nets with a layer more between their data and the rest: a sampled loss, altered or masked images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from fcn_caffe.data.sets.options import parse_param_str
from fcn_caffe.errors import GraphError
from fcn_caffe.net.coord_map import coord_map_from_to
from fcn_caffe.net.graph import Graph, filter_net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TRAIN

__all__ = ["cell_of", "sample_loss", "with_change", "with_data_options"]

_MODULE = "altering_layers"


def with_change(
    net: caffe_pb2.NetParameter,
    layer: str,
    bottoms: Sequence[str],
    tops: Sequence[str],
    options: Mapping[str, object],
    *,
    train_only: bool = True,
) -> caffe_pb2.NetParameter:
    """Copy a net and add a layer of altering_layers that works in place on the tops of the data layers.

    Args:
        net: the net.
        layer: LossSampling, MirrorJitter or MaskedInput. It comes right after the last data layer that makes one of
            `bottoms`, and after other such layers.
        bottoms: what it reads.
        tops: what it makes.
        options: its param_str.
        train_only: leave it out in testing. In deploy it always is left out, as there is no label.

    Raises: GraphError where no layer without bottoms makes them all.
    """
    tops_of_data = [
        set(other.top) if not other.bottom or other.python_param.module == _MODULE else set() for other in net.layer
    ]
    if lacking := set(bottoms) - set().union(*tops_of_data):
        raise GraphError(f"net '{net.name}': no data layer gives {', '.join(sorted(lacking))}, which {layer} reads.")
    copy = caffe_pb2.NetParameter()
    copy.CopyFrom(net)
    del copy.layer[:]
    last = max(place for place, blobs in enumerate(tops_of_data) if blobs & set(bottoms))
    copy.layer.extend(net.layer[: last + 1])
    added = copy.layer.add(name=_free_name(net, layer), type="Python", bottom=bottoms, top=tops)
    rule = added.include.add(not_stage=["deploy"])
    if train_only:
        rule.phase = caffe_pb2.TRAIN
    added.python_param.module, added.python_param.layer = _MODULE, layer
    added.python_param.param_str = str(dict(options))
    copy.layer.extend(net.layer[last + 1 :])
    return copy


def _free_name(net: caffe_pb2.NetParameter, layer: str) -> str:
    names = {other.name for other in net.layer}
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in layer)[1:]
    return next(name for name in (words, *(f"{words}{number}" for number in range(2, 1000))) if name not in names)


def cell_of(net: caffe_pb2.NetParameter, coarse: str, score: str = "score") -> tuple[int, int]:
    """Work out the square of pixels that one place of the coarse scores answers for.

    Args:
        net: the net.
        coarse: the blob of the scores before upsampling.
        score: the blob of the scores after it.

    Returns: the square's side in pixels, and the pixel where such a square begins.
    Raises: GraphError as coord_map_from_to does.
    """
    coord_map = coord_map_from_to(Graph.from_param(filter_net(net, TRAIN)), coarse, score)
    stride, centre = coord_map.scale[0], coord_map.offset[0]
    return int(stride), ceil(centre - stride / 2) % int(stride)


def sample_loss(
    net: caffe_pb2.NetParameter,
    keep: float,
    coarse: str = "score_fr",
    score: str = "score",
    label: str = "label",
    seed: int | None = None,
) -> caffe_pb2.NetParameter:
    """Copy a net so that it trains on a random share of its loss.

    The pixels nearest to a place that is left out get the void label, in training only. With 1 / keep times the images
    a pass has as much loss as before.

    Args:
        net: the net.
        keep: the probability that a place of `coarse` counts.
        coarse: the blob of the scores before upsampling.
        score: the blob of the scores after it.
        label: the blob that gets the void label.
        seed: of the choice; None for the process's own.

    Raises: GraphError for blobs that are not there, or without a coordinate map between them.
    """
    cell, offset = cell_of(net, coarse, score)
    options: dict[str, object] = {"keep": keep, "cell": cell, "offset": offset, "seed": seed}
    return with_change(net, "LossSampling", [label], [label], options)


def with_data_options(net: caffe_pb2.NetParameter, phase: int = TRAIN, **options: object) -> caffe_pb2.NetParameter:
    """Copy a net and set options of its Python data layer of a phase; its other options stay.

    Raises: GraphError where there is no such layer.
    """
    copy = caffe_pb2.NetParameter()
    copy.CopyFrom(net)
    layers = [
        layer
        for layer in copy.layer
        if layer.type == "Python" and not layer.bottom and any(rule.phase == phase for rule in layer.include)
    ]
    if not layers:
        raise GraphError(f"net '{net.name}': has no Python data layer of that phase.")
    for layer in layers:
        own = parse_param_str(layer.python_param.param_str, layer.name)
        layer.python_param.param_str = str({**own, **options})
    return copy
