"""Net surgery: weights of one net into another of other shape, bilinear upsampling, more classes, more channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.text import show
from fcn_caffe.layers.fillers import bilinear_kernel
from fcn_caffe.weights.transfer import Array, CopyReport, Weights, net_weights

__all__ = ["expand_score", "interp", "interpolated", "transplant", "upsample_filter", "widen"]


def upsample_filter(size: int) -> Array:
    """Return the bilinear kernel that upsamples by (size + 1) // 2: float32, (size, size)."""
    return bilinear_kernel(size).to(torch.float32).numpy()


def transplant(net: Any, source: Mapping[str, list[Array]] | Any, suffix: str = "") -> CopyReport:
    """Copy a net's weights into layers of the same name plus `suffix`, reinterpreting shapes of equal count.

    An inner product of O x (C h w) becomes a convolution of O x C x h x w: its numbers lie in the same order.
    source: Weights, or a Net. Blobs the net's layer does not have (a bias) are left behind. The report lists as coerced
    what changed its shape or was left behind, as ignored the source's layers that the net lacks. Nothing is changed
    when it raises. Source: the reference's surgery.transplant.
    Raises: WeightsError naming the layer, the blob and both shapes where the counts differ, or for a net without
    memory.
    """
    weights: Weights = dict(source) if isinstance(source, Mapping) else net_weights(source)
    report, pairs, params = CopyReport(), [], net.params
    reached: set[int] = set()
    for layer, arrays in weights.items():
        name = layer + suffix
        targets: list[Tensor] | None = params.get(name)
        if targets is None:
            report.ignored.append(layer)
            continue
        if len(arrays) < len(targets):
            raise WeightsError(
                f"layer '{name}': the source has {len(arrays)} blob(s), the net wants {len(targets)}. "
                "Is bias_term the same? Rename the layer to learn it from scratch."
            )
        report.copied.append(name)
        for index, (array, target) in enumerate(zip(arrays, targets, strict=False)):
            if array.size != target.numel():
                raise WeightsError(
                    f"layer '{name}' blob {index}: the source has {show(array.shape)}, the net wants "
                    f"{show(target.shape)}: {array.size} numbers for {target.numel()}. "
                    "Rename the layer to learn it from scratch, or use expand_score or widen."
                )
            if array.shape != tuple(target.shape):
                report.coerced.append(f"{name} blob {index} {show(array.shape)} to {show(target.shape)}")
            pairs.append((target, array))
            reached.add(id(target))
        dropped = range(len(targets), len(arrays))
        report.coerced += [f"{name} blob {index} {show(arrays[index].shape)} dropped" for index in dropped]
    report.missing = [
        layer
        for layer, blobs in params.items()
        if layer not in report.copied and any(id(blob) not in reached for blob in blobs)
    ]
    _check_memory(target for target, _ in pairs)
    for target, array in pairs:
        _set(target, array.reshape(tuple(target.shape)))
    return report


def interp(net: Any, layer_names: Iterable[str] | None = None) -> list[str]:
    """Set deconvolutions to bilinear upsampling, each channel onto itself; returns their names.

    layer_names: which layers; by default every Deconvolution with `up` in its name. A weight of C x C x k x k gets the
    kernel on its diagonal and zero elsewhere, a grouped one of C x 1 x k x k gets it everywhere.
    Source: the reference's surgery.interp.
    Raises: WeightsError for kernels that are not square, or unequal numbers of input and output channels.
    """
    known = {node.name: node for node in net.graph.nodes if node.type == "Deconvolution"}
    names = interpolated(net) if layer_names is None else list(layer_names)
    fills = []
    for name in names:
        if name not in known:
            raise WeightsError(
                f"layer '{name}' is not a Deconvolution of the net. It has {', '.join(known) or 'none'}."
            )
        weight = net.params[name][0]
        inputs, outputs, height, width = weight.shape
        grouped = outputs == 1 and known[name].param.convolution_param.group == inputs
        if not grouped and inputs != outputs:
            raise WeightsError(
                f"layer '{name}': weight {show(weight.shape)} maps {inputs} channels to {outputs} in a group; "
                "interpolation needs as many. Set num_output to the channels of its bottom."
            )
        if height != width:
            raise WeightsError(f"layer '{name}': the kernel is {height}x{width}; interpolation needs a square one.")
        fills.append((weight, bool(grouped)))
    _check_memory(weight for weight, _ in fills)
    for weight, grouped in fills:
        value = np.zeros(tuple(weight.shape), np.float32)
        diagonal = np.arange(len(value))
        value[diagonal, 0 if grouped else diagonal] = upsample_filter(weight.shape[2])
        _set(weight, value)
    return names


def interpolated(net: Any) -> list[str]:
    """The layers that `interp` sets when it is not told which."""
    return [node.name for node in net.graph.nodes if node.type == "Deconvolution" and "up" in node.name]


def expand_score(net: Any, layer: str, source: Mapping[str, list[Array]] | Any, source_layer: str) -> None:
    """Copy a score layer into one of more classes: the old channels come first, the rest keep their values.

    source: Weights, or a Net. Source: the reference's surgery.expand_score.
    Raises: WeightsError when a layer is missing, or the new one is not the old one with more channels.
    """
    weights = source if isinstance(source, Mapping) else net_weights(source)
    arrays, targets = _blobs(weights, source_layer, "the source"), _blobs(net.params, layer, "the net")
    for index, (array, target) in enumerate(zip(arrays, targets, strict=False)):
        new, old = tuple(target.shape), tuple(array.shape)
        if len(new) != len(old) or new[1:] != old[1:] or new[0] < old[0]:
            raise WeightsError(
                f"layer '{layer}' blob {index}: {show(old)} of '{source_layer}' does not expand to {show(new)}. "
                "Only the first dimension may grow."
            )
    _check_memory(targets)
    for array, target in zip(arrays, targets, strict=False):
        _set(target[: len(array)], array)


def widen(
    net: Any,
    layer: str,
    source: Mapping[str, list[Array]] | Any,
    source_layer: str,
    added: str | Array = "zero",
    scale: float = 1,
) -> CopyReport:
    """Copy a first convolution into one that sees more input channels; returns what was copied and coerced.

    The old channels come first. added: the filters of each new one, "zero", so that the net's answer is the old one
    until they are learned; "mean", over the old channels, as the reference does for depth beside colour; or an array
    of outputs x new channels x kernel. scale: what these are multiplied by. source: Weights, or a Net.
    Raises: WeightsError when a layer is missing or has groups, the new one is not the old one with more input channels,
    or the new channels cannot be filled so.
    """
    weights = source if isinstance(source, Mapping) else net_weights(source)
    arrays, targets = _blobs(weights, source_layer, "the source"), _blobs(net.params, layer, "the net")
    (old, *old_rest), (new, *new_rest) = ([tuple(blob.shape) for blob in blobs] for blobs in (arrays, targets))
    fits = len(new) == len(old) > 1 and new[0] == old[0] and new[1] >= old[1] and new[2:] == old[2:]
    if not fits or old_rest[: len(new_rest)] != new_rest:
        raise WeightsError(
            f"layer '{layer}': {show(old)} of '{source_layer}' does not widen to {show(new)}. "
            "Only the number of input channels may grow, and the bias must be the same."
        )
    node = next(node for node in net.graph.nodes if node.name == layer)
    if node.type not in ("Convolution", "InnerProduct") or node.param.convolution_param.group > 1:
        raise WeightsError(f"{node} has groups, or outputs before inputs. Only a plain convolution can be widened.")
    filters, words = _added(layer, arrays[0], (new[0], new[1] - old[1], *new[2:]), added)
    if not np.isfinite(scale):
        raise WeightsError(f"layer '{layer}': new channels cannot be scaled by {scale:g}. Give a finite number.")
    _check_memory(targets)
    value = np.concatenate([arrays[0], filters * np.float32(scale)], 1)
    for target, array in zip(targets, [value, *arrays[1:]], strict=False):
        _set(target, array)
    scaled = "" if scale == 1 else f" times {scale:g}"
    told = f"{layer} blob 0 {show(old)} to {show(new)}, {new[1] - old[1]} channel(s) of {words}{scaled} added"
    return CopyReport(copied=[layer], coerced=[told] if old != new else [])


def _added(layer: str, old: Array, shape: tuple[int, ...], added: str | Array) -> tuple[Array, str]:
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


def _blobs(layers: Mapping[str, Any], name: str, owner: str) -> Any:
    if not layers.get(name):
        raise WeightsError(f"layer '{name}': {owner} has no blobs of it. It has {', '.join(layers) or 'none'}.")
    return layers[name]


def _check_memory(targets: Iterable[Tensor]) -> None:
    if any(target.is_meta for target in targets):
        raise WeightsError("the net is on the meta device and holds no memory. Build it on cpu or cuda.")


def _set(target: Tensor, array: Array) -> None:
    with torch.no_grad():
        target.copy_(torch.from_numpy(np.ascontiguousarray(array, np.float32).copy()))
