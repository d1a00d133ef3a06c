"""A net in arithmetic that every engine computes alike, and which layers no file can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from fcn_caffe.errors import LayerError
from fcn_caffe.export.portable_layers import (
    PortableArgMax,
    PortableBatchNorm,
    PortableMVN,
    PortablePooling,
    PortablePriorBox,
    PortableSegNetBN,
    PortableSPP,
    deconvolve,
)
from fcn_caffe.layers.base import Layer, of_shape
from fcn_caffe.layers.conv import Deconvolution
from fcn_caffe.layers.forks.batch_norm import SegNetBN
from fcn_caffe.layers.forks.neuron import SamplingDropout
from fcn_caffe.layers.forks.ssd import PriorBox
from fcn_caffe.layers.norm import MVN, BatchNorm
from fcn_caffe.layers.pooling import SPP, Pooling
from fcn_caffe.layers.reduce import ArgMax
from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Step, infer_tops

__all__ = ["make_portable", "refuse_unexportable"]


def make_portable(net: Net) -> Net:
    """Return a net over the same blobs whose layers do what every engine does alike.

    ONNX Runtime, OpenVINO and OpenCV part from Caffe, and from each other, in padded pools and deconvolutions. This
    net pads first and cuts off afterwards. Its numbers differ from those of `net` by rounding, 1e-6 of the largest.
    """
    steps, shapes = [], dict(net.blob_shapes)
    for step in net.steps:
        bottoms = [of_shape(*shapes[name]) for name in step.bottoms]
        if not shapes.keys() >= {*step.tops}:  # blobs of a rewrite, such as borders computed once
            tops = infer_tops(step.layer, bottoms)
            shapes.update((name, tuple(top.shape)) for name, top in zip(step.tops, tops, strict=False))
        steps.append(_portable_step(step, bottoms))
    return net.with_steps(steps)


def refuse_unexportable(net: Net, format: str) -> None:
    """Refuse a net with layers that a file of this format cannot hold, all of them in one message.

    Args:
        net: the net that is to be exported.
        format: "onnx", "pt2" or "openvino", which the message names.

    Raises:
        LayerError: there are such layers; it says of each why.
    """
    found = [(step.node, why) for step in net.steps if (why := why_not(step.layer))]
    if found:
        listed = "; ".join(f"{node}: {why}" for node, why in found)
        raise LayerError(
            f"net '{net.name}' cannot be exported as {format}: {listed}. Export the net up to there: end it at a blob "
            "before, or begin it with an Input layer."
        )


def why_not(layer: Layer) -> str:
    """Return why no file can hold a layer; empty where one can: what no program holds, none of the formats does."""
    if isinstance(layer, SamplingDropout) and layer.samples:
        return "sample_weights_test draws random numbers, and each engine others"
    return layer.untraced


def _portable_step(step: Step, bottoms: Sequence[Tensor]) -> Step:
    for kind, rewrite in _REWRITES.items():
        if type(step.layer) is kind:
            return replace(step, layer=rewrite(step.layer, bottoms).train(step.layer.training))
    return step


def _rebuild(kind: type[Layer], layer: Layer, bottoms: Sequence[Tensor]) -> Layer:
    """Make a layer without blobs of another class."""
    return kind(layer.param, *bottoms)


def _share_norm(layer: Any, bottoms: Sequence[Tensor]) -> Layer:  # noqa: ANN401 (of the kind that _REWRITES says)
    twin = PortableSegNetBN(layer.param, *bottoms)
    twin.scale, twin.shift = layer.scale, layer.shift
    return twin


def _normalise_batch(layer: Any, bottoms: Sequence[Tensor]) -> Layer:  # noqa: ANN401 (of the kind that _REWRITES says)
    twin: Layer = layer if layer.is_repeatable() else PortableBatchNorm(layer.param, *bottoms)  # else by the batch
    return twin


def _deconvolve(layer: Any, bottoms: Sequence[Tensor]) -> Layer:  # noqa: ANN401 (of the kind that _REWRITES says)
    twin: Layer = layer if layer.by_taps else layer.with_convolve(deconvolve)
    return twin


_REWRITES: Mapping[type[Layer], Callable[[Any, Sequence[Tensor]], Layer]] = {
    ArgMax: partial(_rebuild, PortableArgMax),
    BatchNorm: _normalise_batch,
    MVN: partial(_rebuild, PortableMVN),
    Pooling: partial(_rebuild, PortablePooling),
    PriorBox: partial(_rebuild, PortablePriorBox),
    SegNetBN: _share_norm,
    SPP: partial(_rebuild, PortableSPP),
    Deconvolution: _deconvolve,
}
