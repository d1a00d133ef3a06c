"""A net in arithmetic that every engine computes alike, and which layers no file can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from fcn_caffe.errors import LayerError
from fcn_caffe.export.portable_layers import PortableArgMax, PortablePooling, deconvolve
from fcn_caffe.layers.base import Layer, of_shape
from fcn_caffe.layers.conv import Deconvolution
from fcn_caffe.layers.pooling import Pooling
from fcn_caffe.layers.reduce import ArgMax
from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Step

__all__ = ["make_portable", "refuse_unexportable"]


def make_portable(net: Net) -> Net:
    """Return a net over the same blobs whose layers do what every engine does alike.

    ONNX Runtime, OpenVINO and OpenCV part from Caffe, and from each other, in padded pools and deconvolutions. This
    net pads first and cuts off afterwards. Its numbers differ from those of `net` by rounding, 1e-6 of the largest.
    """
    return net.with_steps([_portable_step(net, step) for step in net.steps])


def refuse_unexportable(net: Net, format: str) -> None:
    """Refuse a net with layers that a file of this format cannot hold, all of them in one message.

    Args:
        net: the net that is to be exported.
        format: "onnx", "pt2" or "openvino".

    Raises:
        LayerError: there are such layers; it says of each why.
    """
    found = [(step.node, why) for step in net.steps if (why := why_not(step.layer, format))]
    if found:
        listed = "; ".join(f"{node} {why}" for node, why in found)
        raise LayerError(
            f"net '{net.name}' cannot be exported as {format}: {listed}. Export the net up to there: end it at a blob "
            "before, or begin it with an Input layer."
        )


def why_not(layer: Layer, format: str) -> str:
    """Return why a file of this format cannot hold a layer; empty where it can."""
    return layer.untraced


def _portable_step(net: Net, step: Step) -> Step:
    for kind, rewrite in _REWRITES.items():
        if isinstance(step.layer, kind):
            bottoms = [of_shape(*net.blob_shapes[name]) for name in step.bottoms]
            return replace(step, layer=rewrite(step.layer, bottoms).train(step.layer.training))
    return step


def _pool(layer: Any, bottoms: Sequence[Tensor]) -> Layer:  # noqa: ANN401 (of the kind that _REWRITES says)
    return PortablePooling(layer.param, *bottoms)


def _arg_max(layer: Any, bottoms: Sequence[Tensor]) -> Layer:  # noqa: ANN401 (as above)
    return PortableArgMax(layer.param, *bottoms)


def _deconvolve(layer: Any, bottoms: Sequence[Tensor]) -> Layer:  # noqa: ANN401 (as above)
    twin: Layer = layer if layer.by_taps else layer.with_convolve(deconvolve)
    return twin


_REWRITES: Mapping[type[Layer], Callable[[Any, Sequence[Tensor]], Layer]] = {
    ArgMax: _arg_max,
    Pooling: _pool,
    Deconvolution: _deconvolve,
}
