"""Layers that are zero and stay so. Zeros are followed forward through the net, gradients backward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fcn_caffe.doctor.findings import ERROR, NOTE, WARNING, Finding
from fcn_caffe.doctor.start import LINEAR, StartState
from fcn_caffe.layers.conv import Deconvolution
from fcn_caffe.layers.fillers import bilinear_kernel, is_zero_filler
from fcn_caffe.net.graph import Node
from fcn_caffe.net.net import Net
from fcn_caffe.proto.phases import TRAIN
from fcn_caffe.weights.surgery import upsampling_layers
from fcn_caffe.weights.transfer import ABSENT, Array

__all__ = ["dead_layers", "interpolation", "zero_weights"]

# Layers whose top is zero where their first bottom is.
_KEEPS_ZERO = {
    *("ReLU", "PReLU", "ELU", "AbsVal", "TanH", "Pooling", "Dropout", "LRN", "Crop", "Slice", "Split", "Reshape"),
    *("Flatten", "Tile", "MVN", "Swish"),
}
_RANDOM = ("gaussian", "uniform", "xavier", "msra", "positive_unitball")


@dataclass
class _Blob:
    """One parameter blob: whether it is zero, and whether it learns."""

    zero: bool
    learns: bool


def _set_by_solve(net: Net, start: StartState) -> set[str]:
    """Return the layers that solve sets to interpolation: all upsampling that does not learn from a file's weights."""
    learned = {item.layer for item in net.learnable_params if item.lr_mult}
    return {name for name in upsampling_layers(net) if name not in learned or name not in start.arrays}


def _parameters(net: Net, start: StartState, trusted: bool, ups: set[str]) -> dict[str, list[_Blob]]:
    """Return the parameter blobs of the linear layers before the first step.

    Args:
        net: the net.
        start: what weight files give.
        trusted: layers without fillers come from weights that are not examined.
        ups: deconvolutions that are interpolation by then.
    """
    parameters: dict[str, list[_Blob]] = {}
    shared: dict[str, _Blob] = {}  # by their name; the first layer fills them
    for node in net.graph.nodes:
        layer = net.layer(node)
        if node.type not in LINEAR or not layer.blob_names:
            continue
        specs = list(node.param.param)
        blobs = []
        for index in range(len(layer.blob_names)):
            learns = index >= len(specs) or specs[index].lr_mult != 0
            arrays = start.arrays.get(node.name)
            name = specs[index].name if index < len(specs) else ""
            if node.name in ups:
                zero = False
            elif arrays is not None:
                zero = arrays[index] is not ABSENT and not _any(arrays[index])
            else:
                zero = is_zero_filler(layer.blob_fillers[index])
                zero = zero and not (trusted and node.type != "Deconvolution")
            blob = _Blob(zero, learns)
            if name:
                blob = shared.setdefault(name, blob)
                if not zero and (node.name in ups or arrays is not None):
                    blob.zero = False
            blobs.append(blob)
        parameters[node.name] = blobs
    return parameters


def dead_layers(net: Net, start: StartState, trusted: bool) -> Iterator[Finding]:
    """Find zero weights that no gradient will ever reach, and zero or random weights that are frozen.

    Args:
        net: the net.
        start: its parameters before the first step.
        trusted: layers without fillers come from weights that are not examined.
    """
    ups = _set_by_solve(net, start)
    blobs = _parameters(net, start, trusted, ups)
    if net.loss_weights:
        # A blob that learns is no longer zero, and what it feeds may learn in the next round.
        while _learn(net, blobs):
            pass
    for node in net.graph.nodes:
        if node.name not in blobs or not net.layer(node).blob_fillers:  # a name may be several layers'
            continue
        yield from _diverged(node, start.arrays.get(node.name, []))
        weight, where = blobs[node.name][0], str(node)
        filler = net.layer(node).blob_fillers[0]
        from_file = node.name in start.arrays
        if weight.zero and not weight.learns:
            yield Finding(
                ERROR, "dead layers", where, "its weights are zero and lr_mult is 0: they stay zero.", _advice(node)
            )
        elif weight.zero and net.loss_weights:
            why = _why(net, node, blobs)
            yield Finding(
                ERROR, "dead layers", where, f"its weights are zero and get no gradient: {why}.", _advice(node)
            )
        elif not weight.learns and not from_file and filler is not None and filler.type in _RANDOM:
            elsewhere = node.name in ups if node.type == "Deconvolution" else trusted
            if node.type == "Scale" or elsewhere:
                continue
            how = " or surgery.interp." if node.type == "Deconvolution" else "."
            problem = f"is frozen (lr_mult 0) at random numbers ({filler.type} filler)."
            yield Finding(WARNING, "dead layers", where, problem, f"Set lr_mult, or fill it from weights{how}")


def _advice(node: Node) -> str:
    if node.type == "Deconvolution":
        return (
            "Set it to bilinear interpolation: surgery.interp(net, ['" + node.name + "']), or a name with 'up' in it, "
            "which solve sets; or group: num_output with a bilinear filler."
        )
    return "Fill it from weights, or give it a weight_filler (xavier, msra); lr_mult must not be 0 to learn."


def _zeros(net: Net, blobs: dict[str, list[_Blob]]) -> dict[tuple[int, str], bool]:
    """Say of each blob, by its maker and name, whether it is zero for every image."""
    zero: dict[tuple[int, str], bool] = {}
    for node in net.graph.nodes:
        below = [zero[net.graph.producers[node.index, place], name] for place, name in enumerate(node.bottoms)]
        if node.name in blobs:
            weight, *bias = blobs[node.name]
            biased = any(not blob.zero for blob in bias)
            value = (weight.zero or below[0]) and not biased
        elif node.type == "Eltwise":
            product = node.param.eltwise_param.operation == 0
            value = any(below) if product else all(below)
        elif node.type == "Concat":
            value = all(below)
        elif node.type == "BatchNorm":
            value = below[0] and net.phase == TRAIN and not node.param.batch_norm_param.use_global_stats
        else:
            value = node.type in _KEEPS_ZERO and bool(below) and below[0]
        zero.update(((node.index, top), value) for top in node.tops)
    return zero


def _gradients(net: Net, blobs: dict[str, list[_Blob]], zero: dict[tuple[int, str], bool]) -> set[tuple[int, str]]:
    """Return the blobs that a gradient reaches, by maker and name."""
    alive: set[tuple[int, str]] = set()
    for node in reversed(net.graph.nodes):
        layer = net.layer(node)
        if not any((node.index, top) in alive or _weighed(net, node, top) for top in node.tops):
            continue
        down = list(node.param.propagate_down) or [True] * len(node.bottoms)
        for place, name in enumerate(node.bottoms):
            maker = net.graph.producers[node.index, place], name
            blocked = not down[place] or place in layer.undifferentiable or (node.type == "Crop" and place > 0)
            if place == 0 and node.name in blobs and blobs[node.name][0].zero:
                blocked = True
            flat = node.type == "AbsVal" or (node.type == "ReLU" and node.param.relu_param.negative_slope == 0)
            if flat and zero[maker]:
                blocked = True  # Caffe's slope at 0 is 0
            if not blocked:
                alive.add(maker)
    return alive


def _weighed(net: Net, node: Node, top: str) -> bool:
    """Say whether a top is part of the loss, and this layer its last maker."""
    return top in net.loss_weights and not any(top in later.tops for later in net.graph.nodes[node.index + 1 :])


def _learn(net: Net, blobs: dict[str, list[_Blob]]) -> bool:
    """Let every zero blob that learns and gets a gradient become nonzero; say whether there was one."""
    zero = _zeros(net, blobs)
    alive = _gradients(net, blobs, zero)
    changed = False
    for node in net.graph.nodes:
        if node.name not in blobs or not any((node.index, top) in alive for top in node.tops):
            continue
        bottom_zero = bool(node.bottoms) and zero[net.graph.producers[node.index, 0], node.bottoms[0]]
        for index, blob in enumerate(blobs[node.name]):
            if blob.zero and blob.learns and (index > 0 or not bottom_zero):
                blob.zero, changed = False, True
    return changed


def _why(net: Net, node: Node, blobs: dict[str, list[_Blob]]) -> str:
    zero = _zeros(net, blobs)
    alive = _gradients(net, blobs, zero)
    if zero[net.graph.producers[node.index, 0], node.bottoms[0]]:
        return f"its bottom '{node.bottoms[0]}' is zero too"
    if any((node.index, top) in alive for top in node.tops):
        return "it does not learn"
    readers = _readers(net, node)
    for other in readers:
        if other.name in blobs and blobs[other.name][0].zero:
            return f"{other} above it is zero too"
        if other.type in ("ReLU", "AbsVal") and zero[net.graph.producers[other.index, 0], other.bottoms[0]]:
            return f"{other} above it lets none through at zero"
    return "no gradient comes back from the losses" if readers else "no loss reads it"


def _readers(net: Net, node: Node) -> list[Node]:
    """Return the layers above a layer, the nearest first."""
    connected = {node.index}
    above = []
    for other in net.graph.nodes[node.index + 1 :]:
        if any(net.graph.producers[other.index, place] in connected for place in range(len(other.bottoms))):
            connected.add(other.index)
            above.append(other)
    return above


# -- interpolation ---------------------------------------------------------------------------------------------------


def interpolation(net: Net, start: StartState, trained: bool) -> Iterator[Finding]:
    """Check deconvolutions: are they set, do they mix classes, can surgery.interp set them?

    Args:
        net: the net.
        start: its parameters before the first step.
        trained: the weights are what the net was trained to, not what it starts from.
    """
    unset, ups = [], upsampling_layers(net)
    for node in net.graph.nodes:
        layer = net.layer(node)
        if not isinstance(layer, Deconvolution) or not layer.blob_names:
            continue
        yield from _summed_classes(node, layer)
        if node.name in ups and not trained:
            yield from _unfit_for_interpolation(node, layer)
        array = start.arrays.get(node.name, [None])[0]
        if array is not None and array is not ABSENT and array.ndim == 4 and trained:
            yield from _mixed(node, array)
        elif node.name in ups and array is None and is_zero_filler(layer.blob_fillers[0]):
            unset.append(node.name)
    if unset:
        yield Finding(
            NOTE,
            "interpolation",
            ", ".join(unset),
            "zero until they are set to bilinear interpolation.",
            "solve does that; before train or pycaffe call surgery.interp(net).",
        )


def _summed_classes(node: Node, layer: Deconvolution) -> Iterator[Finding]:
    """Report a bilinear filler that gives its kernel to every pair of channels."""
    filler, group = layer.blob_fillers[0], node.param.convolution_param.group
    inputs, outputs = layer.blobs[0].shape[:2]
    if filler is not None and filler.type == "bilinear" and outputs > 1:
        yield Finding(
            WARNING,
            "interpolation",
            str(node),
            f"a bilinear filler with group {group} gives every pair of channels the kernel: it sums the classes.",
            f"Give group: {inputs}, or leave the filler out: surgery.interp sets the diagonal, as solve does.",
        )


def _unfit_for_interpolation(node: Node, layer: Deconvolution) -> Iterator[Finding]:
    """Report a deconvolution that surgery.interp cannot set, or whose kernel does not go with its stride."""
    group = node.param.convolution_param.group
    inputs, outputs, height, width = (*layer.blobs[0].shape, 1, 1)[:4]
    if height != width or (outputs != inputs and (outputs, group) != (1, inputs)):
        yield Finding(
            ERROR,
            "interpolation",
            str(node),
            f"cannot be interpolation: {inputs} channels to {outputs * group}, kernel {height}x{width}.",
            "Set num_output to the channels of its bottom and a square kernel.",
        )
    stride = layer.stride[0]
    if height == width and (height + 1) // 2 != stride:
        yield Finding(
            WARNING,
            "interpolation",
            str(node),
            f"a bilinear kernel of {height} upsamples by {(height + 1) // 2}, its stride is {stride}.",
            f"Set kernel_size: {2 * stride - stride % 2}, or the other stride: crop and loss say which is right.",
        )


def _mixed(node: Node, array: Array) -> Iterator[Finding]:
    _, outputs, size, width = array.shape
    if outputs > 1 and size == width and np.allclose(array, bilinear_kernel(size).numpy(), atol=1e-4):
        yield Finding(
            ERROR,
            "interpolation",
            str(node),
            "the weights give every pair of channels the bilinear kernel: it sums the classes.",
            "Set it with surgery.interp and train what follows again.",
        )


def zero_weights(net: Net, start: StartState) -> Iterator[Finding]:
    """Find layers that a file of trained weights holds as zeros: their answer does not depend on the image."""
    for node in net.graph.nodes:
        arrays = start.arrays.get(node.name)
        if arrays is None or node.type not in LINEAR or arrays[0] is ABSENT:
            continue
        if not _any(arrays[0]):
            yield Finding(ERROR, "dead layers", str(node), "the weights hold nothing but zeros for it.", _advice(node))
        else:
            yield from _diverged(node, arrays)


def _diverged(node: Node, arrays: list[Array]) -> Iterator[Finding]:
    if not all(_finite(array) for array in arrays if array is not ABSENT):
        yield Finding(
            ERROR,
            "dead layers",
            str(node),
            "the weights hold NaN or infinity for it.",
            "The training diverged: take an earlier snapshot, lower base_lr.",
        )


def _any(array: Array) -> bool:
    """Say whether any number is not zero; the first piece decides for most arrays."""
    return any(bool(piece.any()) for piece in _pieces(array))


def _finite(array: Array) -> bool:
    return all(bool(np.isfinite(piece).all()) for piece in _pieces(array))


def _pieces(array: Array) -> Iterator[Array]:
    """Give an array in pieces, so that no second array of its size is needed."""
    flat = array.reshape(-1)
    return (flat[begin : begin + (1 << 20)] for begin in range(0, flat.size, 1 << 20))
