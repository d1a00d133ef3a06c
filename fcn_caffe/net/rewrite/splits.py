"""Caffe's Split layers: Caffe copies a blob that several layers read, and its logs show the copies."""

from __future__ import annotations

from collections import Counter

from fcn_caffe.proto import caffe_pb2

Place = tuple[int, int]  # a layer's index, and a top's or bottom's in it


def insert_splits(param: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """Copy an upgraded, filtered NetParameter, with a Split layer after each top that is read more than once.

    The loss counts as a reader of a top with a loss_weight, which goes to the first copy. For top T, the k-th of
    layer L, the Split is named T_L_k_split and its tops T_L_k_split_0, T_L_k_split_1 …
    A bottom that no layer makes stays: `Graph.from_param` refuses it. Source: Caffe InsertSplits.
    """
    maker: dict[str, Place] = {}
    source: dict[Place, Place] = {}  # bottom -> the top it reads
    readers: Counter[Place] = Counter()
    losses: dict[Place, float] = {}
    for index, layer in enumerate(param.layer):
        for position, name in enumerate(layer.bottom):
            if name in maker:
                source[index, position] = maker[name]
                readers[maker[name]] += 1
        for position, name in enumerate(layer.top):
            maker[name] = index, position
            weight = layer.loss_weight[position] if position < len(layer.loss_weight) else 0.0
            if weight:
                losses[index, position] = weight
                readers[index, position] += 1
    split = caffe_pb2.NetParameter()
    split.CopyFrom(param)
    del split.layer[:]
    used: Counter[Place] = Counter()
    for index, layer in enumerate(param.layer):
        copy = split.layer.add()
        copy.CopyFrom(layer)
        for position, name in enumerate(layer.bottom):
            top = source.get((index, position))
            if top is not None and readers[top] > 1:
                copy.bottom[position] = f"{split_name(param.layer[top[0]].name, name, top[1])}_{used[top]}"
                used[top] += 1
        for position, name in enumerate(layer.top):
            top = index, position
            if readers[top] > 1:
                _add_split(split, layer, name, top, readers[top], losses.get(top, 0.0))
                if top in losses:
                    copy.loss_weight[position] = 0  # not removed: a loss layer would fall back to 1
                    used[top] += 1
    return split


def _add_split(
    split: caffe_pb2.NetParameter,
    maker: caffe_pb2.LayerParameter,
    blob: str,
    top: Place,
    count: int,
    loss_weight: float,
) -> None:
    name = split_name(maker.name, blob, top[1])
    tops = [f"{name}_{number}" for number in range(count)]
    added = split.layer.add(name=name, type="Split", bottom=[blob], top=tops, phase=maker.phase)
    if loss_weight:
        added.loss_weight.extend([loss_weight] + [0.0] * (count - 1))


def split_name(layer: str, blob: str, position: int) -> str:
    """Return the name of the Split after a layer's top. Source: Caffe SplitLayerName."""
    return f"{blob}_{layer}_{position}_split"
