"""Creates, fills and shares the parameter blobs of a net, in Caffe's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from fcn_caffe.errors import LayerError
from fcn_caffe.host.free_memory import free_bytes, show_bytes
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.fillers import check_filler, fill
from fcn_caffe.net.graph import Node
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.blob_file import array_of_blob
from fcn_caffe.weights.blobs import Fit, fit
from fcn_caffe.weights.formats import Array


@dataclass(frozen=True)
class LearnableParam:
    """A parameter blob: its owner layer, by name and by number, its position there, and Caffe's multipliers."""

    layer: str
    node: int
    index: int
    blob: nn.Parameter
    lr_mult: float
    decay_mult: float


def create_params(nodes: Sequence[Node], layers: Sequence[Layer], device: torch.device) -> list[LearnableParam]:
    """Create every layer's blobs on `device`, zeros until `fill_params`; blobs of one param.name are shared.

    Where a layer's `blobs { … }` stand in the net itself, they are its values, and its fillers do nothing.

    Returns:
        The owned blobs in file order, as Caffe's learnable_params: with those whose lr_mult is 0, without sharers.

    Raises:
        LayerError: a filler, the number of param entries, the `blobs` in the net, or a sharer's shape or multipliers
            do not fit; or the memory of `device` is too small.

    Source: Caffe Net::AppendParam, Layer::Layer.
    """
    learnable: list[LearnableParam] = []
    owners: dict[str, int] = {}  # param name -> position in learnable
    room, used = free_bytes(device), 0
    for node in nodes:
        layer, specs = layers[node.index], node.param.param
        if len(specs) > len(layer.blob_names):
            raise layer.error(f"has {len(specs)} param entries for {len(layer.blob_names)} blobs. Drop the extra ones.")
        written = _written_blobs(layer)
        for index, blob_name in enumerate(layer.blob_names):
            spec = specs[index] if index < len(specs) else caffe_pb2.ParamSpec()
            if spec.name in owners:
                position = owners[spec.name]
                owner = learnable[position]
                _share(layer, index, spec, layers[owner.node], owner.index)
                learnable[position] = _agree(layer, spec, owner, layers[owner.node].param.param[owner.index])
                continue
            used += _bytes(layer.blobs[index])
            if room is not None and used > room:
                raise _too_large(layer, index, f"{show_bytes(used)} with the blobs before it, {device} has ", room)
            blob = _create(layer, index, spec, device, written[index] if written else None)
            setattr(layer, blob_name, blob)
            if spec.name:
                owners[spec.name] = len(learnable)
            learnable.append(LearnableParam(node.name, node.index, index, blob, spec.lr_mult, spec.decay_mult))
    return learnable


def fill_params(params: Sequence[LearnableParam], layers: Sequence[Layer]) -> None:
    """Fill the blobs that `create_params` has made by their fillers, from torch's random state.

    Raises:
        LayerError: a filler does not fit its blob.
    """
    for item in params:
        layer = layers[item.node]
        filler = layer.blob_fillers[item.index]
        is_zeros = filler is None or (filler.type == "constant" and filler.value == 0)
        if is_zeros or len(layer.param.blobs) or item.blob.is_meta:
            continue
        try:
            fill(item.blob.detach(), filler)
        except LayerError as error:
            raise error.named(f"layer '{layer.name}' ({layer.layer_type})") from None


def _written_blobs(layer: Layer) -> list[Array]:
    """Return the values of a layer's blobs that stand in the net; none where it has no `blobs`."""
    count = len(layer.param.blobs)
    if count and count != len(layer.blob_names):
        raise layer.error(f"has {count} `blobs {{ … }}` in the net, its type wants {len(layer.blob_names)} or none.")
    arrays: list[Array] = []
    for proto, name, blob in zip(layer.param.blobs, layer.blob_names, layer.blobs, strict=False):
        what = f"layer '{layer.name}' ({layer.layer_type}): its blob {len(arrays)} ({name}) in the net"
        array = array_of_blob(proto, what)
        if fit(array, blob) < Fit.LEGACY:
            raise layer.error(
                f"blob {len(arrays)} ({name}) in the net is {show(array.shape)}, the layer wants {show(blob.shape)}."
            )
        arrays.append(array)
    return arrays


def _create(
    layer: Layer, index: int, spec: caffe_pb2.ParamSpec, device: torch.device, written: Array | None
) -> nn.Parameter:
    blob, filler = layer.blobs[index], layer.blob_fillers[index]
    learns = spec.lr_mult != 0
    try:
        if written is not None and device.type != "meta":
            data = torch.from_numpy(written.reshape(tuple(blob.shape))).to(device, blob.dtype)
            return nn.Parameter(data, requires_grad=learns)
        check_filler(filler)
        if not blob.is_meta:  # a Python layer filled it in setup
            return nn.Parameter(blob.data.to(device), requires_grad=learns)
        if device.type == "meta":
            return nn.Parameter(blob.data, requires_grad=learns)
        # zeros takes fresh pages from the system: filling with the default costs nothing until they are written
        return nn.Parameter(torch.zeros(blob.shape, dtype=blob.dtype, device=device), requires_grad=learns)
    except LayerError as error:
        raise error.named(f"layer '{layer.name}' ({layer.layer_type})") from None
    except (RuntimeError, MemoryError) as error:  # torch's allocator refused; it has no class of its own for that
        raise _too_large(layer, index, f"{device} refused it: {error}") from error


def _bytes(blob: torch.Tensor) -> int:
    return blob.numel() * blob.element_size()


def _too_large(layer: Layer, index: int, why: str, room: int | None = None) -> LayerError:
    blob = layer.blobs[index]
    free = "" if room is None else f"{show_bytes(room)} free"
    return layer.error(
        f"blob {index} ({layer.blob_names[index]}) of {show(blob.shape)} takes {show_bytes(_bytes(blob))}, "
        f"{why}{free}. Check the layer's sizes, or use a device with more memory."
    )


def _share(layer: Layer, index: int, spec: caffe_pb2.ParamSpec, owner_layer: Layer, owner_index: int) -> None:
    name, owner_name = layer.blob_names[index], owner_layer.blob_names[owner_index]
    owner, blob = getattr(owner_layer, owner_name), getattr(layer, name)
    permissive = spec.share_mode == caffe_pb2.ParamSpec.PERMISSIVE
    how = fit(owner, blob)
    if not permissive and how is not Fit.SHAPE:
        raise layer.error(
            f"shares param '{spec.name}' of shape {show(owner.shape)} owned by layer '{owner_layer.name}', "
            f"but wants {show(blob.shape)}. Make the shapes equal, or set share_mode: PERMISSIVE for equal counts."
        )
    if how is Fit.NONE:
        raise layer.error(
            f"shares param '{spec.name}' of {owner.numel()} values owned by layer '{owner_layer.name}', "
            f"but wants {blob.numel()}. Make the counts equal."
        )
    if how is Fit.SHAPE:
        setattr(layer, name, owner)
    else:
        layer.view_blob(name, owner_layer, owner_name, tuple(blob.shape))


def _agree(
    layer: Layer, spec: caffe_pb2.ParamSpec, owner: LearnableParam, owner_spec: caffe_pb2.ParamSpec
) -> LearnableParam:
    """Return the owner with the sharer's multipliers; where both give one they must be equal."""
    merged = owner
    for multiplier in ("lr_mult", "decay_mult"):
        if spec.HasField(multiplier):
            mine, owners = getattr(spec, multiplier), getattr(owner, multiplier)
            if owner_spec.HasField(multiplier) and mine != owners:
                raise layer.error(
                    f"shares param '{spec.name}' with {multiplier} {mine:g}, layer '{owner.layer}' says "
                    f"{owners:g}. Give the same, or give it once."
                )
            merged = replace(merged, **{multiplier: mine})
    owner.blob.requires_grad_(merged.lr_mult != 0)
    return merged
