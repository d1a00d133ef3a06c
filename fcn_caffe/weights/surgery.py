"""Net surgery: weights of one net into another of other shape, bilinear upsampling, more classes, more channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.text import show
from fcn_caffe.layers.fillers import bilinear_kernel, is_zero_filler
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.weights.blobs import Fit, HasParams, Shaped, fit, missing_layers, refuse_meta, set_values
from fcn_caffe.weights.transfer import Array, CopyReport, net_weights

__all__ = ["expand_score", "interp", "transplant", "upsample_filter", "upsampling_layers", "widen"]


class _Node(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def param(self) -> caffe_pb2.LayerParameter: ...


class _Graph(Protocol):
    @property
    def nodes(self) -> Sequence[_Node]: ...


class SurgeryNet(HasParams, Protocol):
    """A net, as far as surgery knows it: its blobs and its layers."""

    @property
    def graph(self) -> _Graph: ...


_Blob = TypeVar("_Blob", Array, Tensor)

Source = Mapping[str, list[Array]] | HasParams


def upsample_filter(size: int) -> Array:
    """Return the bilinear kernel that upsamples by (size + 1) // 2: float32, (size, size).

    >>> upsample_filter(3)
    array([[0.25, 0.5 , 0.25],
           [0.5 , 1.  , 0.5 ],
           [0.25, 0.5 , 0.25]], dtype=float32)
    """
    return bilinear_kernel(size).to(torch.float32).numpy()


def transplant(net: HasParams, source: Source, suffix: str = "") -> CopyReport:
    """Copy weights into layers of the same name plus `suffix`; a blob of as many numbers takes them in its own shape.

    An inner product of O x (C h w) becomes a convolution of O x C x h x w: its numbers lie in the same order.

    Args:
        net: The net that is changed; not at all where this raises.
        source: Weights, or a net. Blobs that the net's layer does not have (a bias) are left behind.
        suffix: What the net's layer names have behind the source's.

    Returns:
        What was copied. `coerced` has the blobs that changed their shape or were left behind, `ignored` the source's
        layers that the net lacks.

    Raises:
        WeightsError: The counts differ; names the layer, the blob and both shapes. Or the net is on the meta device.

    Source: the reference's surgery.transplant.
    """
    params, report = net.params, CopyReport()
    pairs: list[tuple[Tensor, Array]] = []
    for layer, arrays in _weights(source).items():
        name = layer + suffix
        if name not in params:
            report.ignored.append(layer)
            continue
        _check_transplant(name, arrays, params[name])
        report.copied.append(name)
        for index, (array, target) in enumerate(zip(arrays, params[name], strict=False)):
            if fit(array, target) is not Fit.SHAPE:
                report.coerced.append(f"{name} blob {index} {show(array.shape)} to {show(target.shape)}")
            pairs.append((target, array))
        left = range(len(params[name]), len(arrays))
        report.coerced += [f"{name} blob {index} {show(arrays[index].shape)} dropped" for index in left]
    report.missing = missing_layers(params, report.copied, (target for target, _ in pairs))
    refuse_meta(target for target, _ in pairs)
    for target, array in pairs:
        set_values(target, array)
    return report


def _check_transplant(layer: str, arrays: Sequence[Array], targets: Sequence[Tensor]) -> None:
    if len(arrays) < len(targets):
        raise WeightsError(
            f"layer '{layer}': the source has {len(arrays)} blob(s), the net wants {len(targets)}. "
            "Is bias_term the same? Rename the layer to learn it from scratch."
        )
    for index, (array, target) in enumerate(zip(arrays, targets, strict=False)):
        if fit(array, target) is Fit.NONE:
            raise WeightsError(
                f"layer '{layer}' blob {index}: the source has {show(array.shape)}, the net wants "
                f"{show(target.shape)}: {array.size} numbers for {target.numel()}. "
                "Rename the layer to learn it from scratch, or use expand_score or widen."
            )


def interp(net: SurgeryNet, layer_names: str | Iterable[str] | None = None) -> list[str]:
    """Set deconvolutions to bilinear upsampling of each channel onto itself.

    A weight of C x C x k x k gets the kernel on its diagonal and zero elsewhere, a grouped one of C x 1 x k x k gets
    it everywhere.

    Args:
        net: The net that is changed.
        layer_names: Which layers, or the name of one; None for every Deconvolution with `up` in its name.

    Returns:
        The names of the layers that were set.

    Raises:
        WeightsError: A kernel is not square, or has unequal numbers of input and output channels.

    Source: the reference's surgery.interp.
    """
    known = {node.name: node for node in net.graph.nodes if node.type == "Deconvolution"}
    if isinstance(layer_names, str):
        layer_names = [layer_names]
    names = upsampling_layers(net) if layer_names is None else list(layer_names)
    weights: list[tuple[Tensor, bool]] = []
    for name in names:
        if name not in known:
            raise WeightsError(
                f"layer '{name}' is not a Deconvolution of the net. It has {', '.join(known) or 'none'}."
            )
        weight = net.params[name][0]
        inputs, outputs, height, width = weight.shape
        is_grouped = outputs == 1 and known[name].param.convolution_param.group == inputs
        if not is_grouped and inputs != outputs:
            raise WeightsError(
                f"layer '{name}': weight {show(weight.shape)} maps {inputs} channels to {outputs} in a group; "
                "interpolation needs as many. Set num_output to the channels of its bottom."
            )
        if height != width:
            raise WeightsError(f"layer '{name}': the kernel is {height}x{width}; interpolation needs a square one.")
        weights.append((weight, is_grouped))
    refuse_meta(weight for weight, _ in weights)
    for weight, is_grouped in weights:
        value = np.zeros(tuple(weight.shape), np.float32)
        diagonal = np.arange(len(value))
        value[diagonal, 0 if is_grouped else diagonal] = upsample_filter(weight.shape[2])
        set_values(weight, value)
    return names


def upsampling_layers(net: SurgeryNet) -> list[str]:
    """Return the layers that `interp` sets by default: every Deconvolution with `up` in its name.

    One that changes the number of channels and has a filler of its own is learned, as U-Net's are: it is not set.
    """
    return [
        node.name
        for node in net.graph.nodes
        if node.type == "Deconvolution" and "up" in node.name and not _is_learned_otherwise(net, node.name)
    ]


def _is_learned_otherwise(net: SurgeryNet, name: str) -> bool:
    options = next(node.param.convolution_param for node in net.graph.nodes if node.name == name)
    inputs, outputs = net.params[name][0].shape[:2]
    return inputs != outputs * options.group and not is_zero_filler(options.weight_filler)


def expand_score(net: HasParams, layer: str, source: Source, source_layer: str) -> None:
    """Copy a score layer into one of more classes: the old channels come first, the rest keep their values.

    Args:
        net: The net that is changed.
        layer: Its score layer.
        source: Weights, or a net.
        source_layer: The score layer there.

    Raises:
        WeightsError: A layer is missing, or the new one is not the old one with more channels.

    Source: the reference's surgery.expand_score.
    """
    arrays, targets = _blobs(_weights(source), source_layer, "the source"), _blobs(net.params, layer, "the net")
    for index, (array, target) in enumerate(zip(arrays, targets, strict=False)):
        new, old = tuple(target.shape), tuple(array.shape)
        if len(new) != len(old) or new[1:] != old[1:] or new[0] < old[0]:
            raise WeightsError(
                f"layer '{layer}' blob {index}: {show(old)} of '{source_layer}' does not expand to {show(new)}. "
                "Only the first dimension may grow."
            )
    refuse_meta(targets)
    for array, target in zip(arrays, targets, strict=False):
        set_values(target[: len(array)], array)


def widen(
    net: SurgeryNet,
    layer: str,
    source: Source,
    source_layer: str,
    added: str | Array = "zero",
    scale: float = 1,
) -> CopyReport:
    """Copy a first convolution into one that sees more input channels: the old channels come first.

    Args:
        net: The net that is changed.
        layer: Its convolution.
        source: Weights, or a net.
        source_layer: The convolution there.
        added: The filters of each new channel. "zero": the net's answer is the old one until they are learned. "mean":
            the mean over the old channels, as the reference has for depth beside colour. Or an array of
            outputs x new channels x kernel.
        scale: What the new filters are multiplied by.

    Returns:
        What was copied and coerced.

    Raises:
        WeightsError: A layer is missing or has groups, the new one is not the old one with more input channels, or
            the new channels cannot be filled so.
    """
    arrays, targets = _blobs(_weights(source), source_layer, "the source"), _blobs(net.params, layer, "the net")
    old, new = tuple(arrays[0].shape), tuple(targets[0].shape)
    _check_widen(net, layer, source_layer, arrays, targets)
    if not np.isfinite(scale):
        raise WeightsError(f"layer '{layer}': new channels cannot be scaled by {scale:g}. Give a finite number.")
    filters, words = _new_filters(layer, arrays[0], (new[0], new[1] - old[1], *new[2:]), added)
    refuse_meta(targets)
    value = np.concatenate([arrays[0], filters * np.float32(scale)], 1)
    for target, array in zip(targets, [value, *arrays[1:]], strict=False):
        set_values(target, array)
    scaled = "" if scale == 1 else f" times {scale:g}"
    change = f"{layer} blob 0 {show(old)} to {show(new)}, {new[1] - old[1]} channel(s) of {words}{scaled} added"
    return CopyReport(copied=[layer], coerced=[change] if old != new else [])


def _check_widen(
    net: SurgeryNet, layer: str, source_layer: str, arrays: Sequence[Array], targets: Sequence[Tensor]
) -> None:
    (old, *old_rest), (new, *new_rest) = _shapes(arrays), _shapes(targets)
    only_grows = len(new) == len(old) > 1 and new[0] == old[0] and new[1] >= old[1] and new[2:] == old[2:]
    if not only_grows or old_rest[: len(new_rest)] != new_rest:
        raise WeightsError(
            f"layer '{layer}': {show(old)} of '{source_layer}' does not widen to {show(new)}. "
            "Only the number of input channels may grow, and the bias must be the same."
        )
    node = next(node for node in net.graph.nodes if node.name == layer)
    if node.type not in ("Convolution", "InnerProduct") or node.param.convolution_param.group > 1:
        raise WeightsError(f"{node} has groups, or outputs before inputs. Only a plain convolution can be widened.")


def _shapes(blobs: Sequence[Shaped]) -> list[tuple[int, ...]]:
    return [tuple(blob.shape) for blob in blobs]


def _new_filters(layer: str, old: Array, shape: tuple[int, ...], added: str | Array) -> tuple[Array, str]:
    """The filters of new channels, and what they are in words."""
    if not isinstance(added, str):
        filters = np.asarray(added, np.float32)
        if filters.shape != shape:
            raise WeightsError(
                f"layer '{layer}': the new channels' filters are {show(filters.shape)}, {show(shape)} is wanted: "
                "outputs x new channels x kernel."
            )
        return filters, "given filters"
    if added == "zero":
        return np.zeros(shape, np.float32), "zero"
    if added == "mean":
        mean = old.mean(1, np.float32, keepdims=True)
        return np.repeat(mean, shape[1], 1), f"the mean of the {old.shape[1]} old ones"
    raise WeightsError(f"layer '{layer}': new channels cannot be {added!r}. Give 'zero', 'mean' or their filters.")


def _weights(source: Source) -> Mapping[str, list[Array]]:
    return source if isinstance(source, Mapping) else net_weights(source)


def _blobs(layers: Mapping[str, Sequence[_Blob]], name: str, owner: str) -> Sequence[_Blob]:
    if not layers.get(name):
        raise WeightsError(f"layer '{name}': {owner} has no blobs of it. It has {', '.join(layers) or 'none'}.")
    return layers[name]
