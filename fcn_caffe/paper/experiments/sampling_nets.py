"""Nets with a layer more between their data and the rest: a sampled loss, altered or masked images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from fcn_caffe.data.sets.options import parse_param_str
from fcn_caffe.errors import GraphError
from fcn_caffe.net.coord_map import coord_map_from_to
from fcn_caffe.net.graph import Graph, filter_net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TRAIN

__all__ = ["cell_of", "sample_loss", "with_change", "with_data_options"]

_MODULE = "altering_layers"


def with_change(
    net: Any,
    layer: str,
    bottoms: Sequence[str],
    tops: Sequence[str],
    options: Mapping[str, Any],
    *,
    train_only: bool = True,
) -> Any:
    """A copy of a net in which a layer of data_changes works in place on what the data layers give.

    layer: LossSampling, MirrorJitter or MaskedInput. It comes right after the last data layer that gives one of
    `bottoms`, and other such changes of it. train_only: not in testing; never in deploy, where there is no label.
    Raises: GraphError where no layer without bottoms gives them all.
    """
    given = [set(one.top) if not one.bottom or one.python_param.module == _MODULE else set() for one in net.layer]
    if lacking := set(bottoms) - set().union(*given):
        raise GraphError(f"net '{net.name}': no data layer gives {', '.join(sorted(lacking))}, which {layer} reads.")
    made = caffe_pb2.NetParameter()
    made.CopyFrom(net)
    del made.layer[:]
    last = max(place for place, blobs in enumerate(given) if blobs & set(bottoms))
    made.layer.extend(net.layer[: last + 1])
    added = made.layer.add(name=_free_name(net, layer), type="Python", bottom=bottoms, top=tops)
    rule = added.include.add(not_stage=["deploy"])
    if train_only:
        rule.phase = caffe_pb2.TRAIN
    added.python_param.module, added.python_param.layer = _MODULE, layer
    added.python_param.param_str = str(dict(options))
    made.layer.extend(net.layer[last + 1 :])
    return made


def _free_name(net: Any, layer: str) -> str:
    names, words = {one.name for one in net.layer}, "".join(f"_{c.lower()}" if c.isupper() else c for c in layer)[1:]
    return next(name for name in (words, *(f"{words}{number}" for number in range(2, 1000))) if name not in names)


def cell_of(net: Any, coarse: str, score: str = "score") -> tuple[int, int]:
    """The pixels a side that one place of the coarse scores answers for, and the pixel where such a square begins.

    coarse, score: the blobs of the scores before and after upsampling. Raises: GraphError as coord_map_from_to does.
    """
    found = coord_map_from_to(Graph.from_param(filter_net(net, TRAIN)), coarse, score)
    stride, centre = found.scale[0], found.offset[0]
    return int(stride), ceil(centre - stride / 2) % int(stride)


def sample_loss(
    net: Any, keep: float, coarse: str = "score_fr", score: str = "score", label: str = "label", seed: int | None = None
) -> Any:
    """A copy of a net that trains on a random share of its loss: each place of `coarse` counts with probability `keep`.

    The pixels nearest to a place that is left out get the void label, in training only. Give a pass 1 / keep times the
    images, and as much of the loss is left.
    Raises: GraphError for blobs that are not there, or without a coordinate map between them.
    """
    cell, offset = cell_of(net, coarse, score)
    options = {"keep": keep, "cell": cell, "offset": offset, "seed": seed}
    return with_change(net, "LossSampling", [label], [label], options)


def with_data_options(net: Any, phase: int = TRAIN, **options: Any) -> Any:
    """A copy of a net whose Python data layer of a phase has these options besides, or instead of, its own.

    Raises: GraphError where there is none.
    """
    made = caffe_pb2.NetParameter()
    made.CopyFrom(net)
    found = [
        layer
        for layer in made.layer
        if layer.type == "Python" and not layer.bottom and any(rule.phase == phase for rule in layer.include)
    ]
    if not found:
        raise GraphError(f"net '{net.name}': has no Python data layer of that phase.")
    for layer in found:
        own = parse_param_str(layer.python_param.param_str, layer.name)
        layer.python_param.param_str = str({**own, **options})
    return made
