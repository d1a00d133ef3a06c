"""Binary NetParameters: .caffemodel, modern, V1 and V0."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.proto import caffe_pb2, wire, wire_writer
from fcn_caffe.proto.upgrade import modern_type
from fcn_caffe.weights.formats.arrays import ABSENT, Array, PathLike, Weights


def read_weights(path: PathLike) -> Weights:
    """Read the arrays of a .caffemodel, as views of the mapped file.

    Raises:
        WeightsError: The file is truncated or corrupt; says at which byte.
    """
    return {layer.name: layer.blobs for layer in wire.read_net(path).layers if layer.blobs}


def read_weights_names(path: PathLike) -> tuple[str, dict[str, str]]:
    """Read the net's name and the modern types of its layers, without V0 types.

    Raises:
        WeightsError: The file is truncated or corrupt; says at which byte.
    """
    net, types = wire.read_net(path), {}
    for layer in net.layers:
        if isinstance(layer.type, str):
            kind = layer.type if layer.type[:1].isupper() else ""
        else:
            known = layer.type in caffe_pb2.V1LayerParameter.LayerType.values()
            kind = modern_type(layer.type) if known else ""
        if kind:
            types[layer.name] = kind
    return net.name, types


def write_weights(
    path: PathLike, weights: Mapping[str, list[Array]], net_name: str = "", types: Mapping[str, str] | None = None
) -> None:
    """Write weights as a binary NetParameter.

    Raises:
        OSError: The file cannot be written.
        WeightsError: A blob is ABSENT; this format holds every blob.
    """
    for layer, blobs in weights.items():
        for index, blob in enumerate(blobs):
            if blob is ABSENT:
                raise WeightsError(
                    f"{os.fspath(path)}: layer '{layer}' blob {index} was left out where it comes from, being shared; "
                    "a .caffemodel has every blob. Copy the weights into the net first, or say which net it is."
                )
    kinds = types or {}
    write_layers(path, net_name, ((name, kinds.get(name, ""), blobs, ()) for name, blobs in weights.items()))


def write_layers(
    path: PathLike, net_name: str, layers: Iterable[tuple[str, str, Sequence[Array], Sequence[Array]]]
) -> None:
    """Write name, type, blobs and gradients of each layer as a binary NetParameter, where names may be repeated.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_write(path) as file:
        wire_writer.write_net(file, net_name, layers)
