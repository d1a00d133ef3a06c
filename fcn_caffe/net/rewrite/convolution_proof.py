"""Proves that a fully convolutional net gives its classifier's numbers; says what it answers on larger images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fcn_caffe.errors import GraphError, WeightsError
from fcn_caffe.host.text import show
from fcn_caffe.layers.conv import Convolution
from fcn_caffe.layers.pooling import Pooling
from fcn_caffe.net.coord_map import coord_map_from_to, receptive_field
from fcn_caffe.net.graph import Node
from fcn_caffe.net.net import Net
from fcn_caffe.net.rewrite.convolutionalize import Conversion
from fcn_caffe.net.rewrite.proof import SPREADS, Difference, compare, random_inputs

__all__ = ["Answers", "answers_on", "fill_at_random", "image_input", "prove", "prove_places"]

# A sum of 25,088 products in float32 is good to 1e-6 of the largest; a wrong order of the numbers is off by 1.
TOLERANCE = 1e-4

# Layers whose answer at a place depends on a window around it, or the place alone.
_LOCAL = {
    *("AbsVal", "ArgMax", "BatchNorm", "Bias", "BN", "BNLL", "Clip", "Concat", "Convolution", "ConvolutionDepthwise"),
    *("DepthwiseConvolution", "Dropout", "Eltwise", "ELU", "ReLU6", "ShuffleChannel"),
    *("Exp", "Input", "Log", "LRN", "Pooling", "Power", "PReLU", "ReLU", "Scale", "Sigmoid", "Silence", "Slice"),
    *("Softmax", "Split", "Swish", "TanH", "Threshold"),
}
_STATISTICS = ("mean", "variance", "scale_factor")  # of a batch normalisation; the last divides the others


@dataclass(frozen=True)
class Answers:
    """An output on an image: its size, the pixels between two places, and each place's receptive field.

    stride, field: None if not known.
    """

    blob: str
    size: tuple[int, ...]
    stride: Fraction | None
    field: int | None


def image_input(net: Net) -> str:
    """Return the name of the one image that a net takes.

    Raises:
        GraphError: it takes none, several, or other inputs too.
    """
    images = [name for name in net.graph.inputs if len(net.blob_shapes[name]) > 2]
    if len(images) != 1 or len(net.graph.inputs) != 1:
        raise GraphError(
            f"net '{net.name}': one image input is expected, it has {', '.join(net.graph.inputs) or 'none'}."
        )
    return images[0]


def fill_at_random(net: Net, seed: int = 0) -> None:
    """Fill a net with random weights that keep its blobs of one size, to try its form without trained weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, blobs in net.params.items():
            for kind, blob in zip(net.layer(name).blob_names, blobs, strict=True):
                if kind in _STATISTICS:
                    values = torch.rand(blob.shape, generator=generator) + (-0.5 if kind == "mean" else 0.5)
                else:
                    fan_in = blob.numel() // blob.shape[0] if blob.ndim > 1 else 1
                    values = torch.randn(blob.shape, generator=generator) * (2 / fan_in) ** 0.5
                blob.copy_(values)


def prove(conversion: Conversion, classifier: Net, net: Net, seed: int = 0) -> list[Difference]:
    """Compare both nets on random images of the classifier's size: every converted layer and every output.

    Raises:
        WeightsError: a blob is off by more than 1e-4 of its largest value; a number is not finite; or an inner
            product gives only zeros, which would prove nothing.
    """
    blobs = dict.fromkeys(node.tops[0] for node in classifier.graph.nodes if node.name in conversion.layers)
    # A ReLU in place may leave nothing of a small layer.
    bare = blobs.keys() - {node.tops[0] for node in classifier.graph.nodes if node.in_place}
    blobs.update(dict.fromkeys(classifier.graph.outputs))
    worst: dict[str, Difference] = {}
    for spread in SPREADS:
        images = random_inputs(classifier, classifier.blob_shapes, seed, spread)
        with torch.no_grad():
            answers = classifier(images, keep=blobs)
            converted = net(images, keep=[conversion.blobs[name] for name in blobs])
        for name in blobs:
            difference = _compare(conversion.blobs[name], answers[name], converted[conversion.blobs[name]])
            known = worst.get(name)
            if known is None or (difference.relative, difference.largest) > (known.relative, known.largest):
                worst[name] = difference
    dead = [name for name in blobs if name in bare and not worst[name].largest]
    if dead:
        raise WeightsError(
            f"the proof says nothing: '{dead[0]}' is zero on random images. Load trained weights of this classifier."
        )
    return list(worst.values())


def prove_places(conversion: Conversion, classifier: Net, net: Net, seed: int = 0) -> list[Difference] | str:
    """Compare the corners of the answer on an image that is a stride larger with the classifier's on those crops.

    Returns:
        The differences; or the reason why the numbers need not agree, such as a layer that pads: a crop is padded
        where the larger image goes on.

    Raises:
        WeightsError: as `prove`.
    """
    reason = next((why for node in net.graph.nodes if (why := _why_not_local(net, node))), None)
    if reason:
        return reason
    image = image_input(net)
    size = net.blob_shapes[image][2:]
    outputs = [name for name in classifier.graph.outputs if set(net.blob_shapes[conversion.blobs[name]][2:]) == {1}]
    if not outputs:
        return "no output has one place on the classifier's image"
    worst = []
    for name in outputs:
        blob = conversion.blobs[name]
        try:
            scale = coord_map_from_to(net.graph, blob, image).scale
        except GraphError as error:  # a layer between has no coordinate map
            return str(error)
        strides = [int(step) for step in scale] * (len(size) if len(scale) == 1 else 1)
        generator = torch.Generator().manual_seed(seed)
        larger = [extent + step for extent, step in zip(size, strides, strict=True)]
        picture = torch.randn((1, net.blob_shapes[image][1], *larger), generator=generator) * SPREADS[1]
        with torch.no_grad():
            answer = net({image: picture}, keep=[blob])[blob]
        for place in product((0, 1), repeat=len(size)):
            window: Any = (
                ...,
                *(slice(at * step, at * step + n) for at, step, n in zip(place, strides, size, strict=True)),
            )
            there: Any = (..., *place)
            with torch.no_grad():
                expected = classifier({image: picture[window]}, keep=[name])[name]
            worst.append(_compare(blob, expected, answer[there]))
    return worst


def answers_on(conversion: Conversion, size: Sequence[int]) -> list[Answers]:
    """Return the net's outputs on an image of a size (H, W).

    Raises:
        LayerError: the image is too small.
    """
    image = image_input(conversion.classifier)
    shape = (1, conversion.classifier.blob_shapes[image][1], *size)
    net = Net(conversion.net, device="meta", input_shapes={image: shape})
    answers = []
    for output in net.graph.outputs:
        stride: Fraction | None = None
        sees: int | None = None
        try:
            field = receptive_field(net.graph, output, image)
            stride, sees = field.stride, field.size
        except GraphError:  # a layer between has no coordinate map
            pass
        answers.append(Answers(output, net.blob_shapes[output][2:], stride, sees))
    return answers


def _compare(blob: str, expected: Tensor, actual: Tensor) -> Difference:
    return compare(blob, expected, actual, TOLERANCE, "the classifier's")


def _why_not_local(net: Net, node: Node) -> str | None:
    """Return why a place of the layer's top differs between a crop and the larger image; None if it does not."""
    if node.type not in _LOCAL:
        return f"{node} looks beyond a window of its bottom"
    layer: Any = net.layer(node)
    if isinstance(layer, Convolution | Pooling) and any(layer.pad):
        return f"{node} pads: at the edge of a crop it sees zeros, inside a larger image it sees the image"
    if getattr(layer, "learns", False):
        return f"{node} normalises by the statistics of all places"
    if node.type == "Pooling":
        sizes = net.blob_shapes[node.bottoms[0]][2:]
        partial = [
            (extent - kernel) % step for extent, kernel, step in zip(sizes, layer.kernel, layer.stride, strict=True)
        ]
        if any(partial) and layer.ceil:
            return f"{node} cuts its last window off at the edge of {show(sizes)}, and not inside a larger image"
    if node.type == "LRN" and node.param.lrn_param.norm_region == node.param.lrn_param.WITHIN_CHANNEL:
        return f"{node} sees zeros at the edge of a crop and the image inside a larger one"
    if node.type == "Softmax" and node.param.softmax_param.axis not in (1, -3):
        return f"{node} compares places with each other"
    return None
