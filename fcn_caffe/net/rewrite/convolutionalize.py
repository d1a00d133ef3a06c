"""Makes classifiers fully convolutional: an inner product becomes a convolution over the map that it flattened.

A classifier answers once, for an image of one size. As convolutions its layers answer at every place of an image of
any size, and on the classifier's own size they give its numbers. Source: Long et al., section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from fcn_caffe.errors import GraphError, LayerError, WeightsError
from fcn_caffe.host.text import show
from fcn_caffe.layers.neuron import NEURON_TYPES
from fcn_caffe.net.graph import Node
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.weights.blobs import Fit, fit
from fcn_caffe.weights.transfer import Array, Weights

__all__ = ["Conversion", "convolutional_weights", "convolutionalize"]

Shape = tuple[int, ...]

# Layers that treat every value alone, so that it does not matter how the values are laid out.
_ELEMENTWISE = NEURON_TYPES - {"PReLU"} | {"Eltwise", "ReLU6", "Silence", "Split"}
# Layers that tell channels apart: on a vector they do what they do on a map of 1x1. The field that holds their axis.
_CHANNELWISE = {
    "BatchNorm": "",
    "PReLU": "",
    "ArgMax": "argmax_param",
    "Bias": "bias_param",
    "Concat": "concat_param",
    "Scale": "scale_param",
    "Slice": "slice_param",
    "Softmax": "softmax_param",
}


@dataclass
class Conversion:
    """The result of `convolutionalize`.

    classifier: the net on the meta device. net: the fully convolutional net.
    blobs: the classifier's blob names -> those in `net`. layers: the converted layers' old names -> their new ones.
    steps: a line for each layer that was changed or left out.
    """

    classifier: Net
    net: caffe_pb2.NetParameter
    blobs: dict[str, str] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Blob:
    """A blob of the classifier: its shape there, and its name and shape in the fully convolutional net."""

    flat: Shape
    name: str
    shape: Shape

    @property
    def is_unrolled(self) -> bool:
        """Whether the classifier has the values in a vector and the other net has them in a map."""
        return self.flat != self.shape


def convolutionalize(param: caffe_pb2.NetParameter, suffix: str = "") -> Conversion:
    """Turn a classifier's deploy form into a fully convolutional net of the same numbers.

    Every InnerProduct becomes a Convolution with a kernel as large as the map it reads for the image of `param`.
    Global pooling gets a kernel of that size. Flatten and Reshape before an inner product are left out. An axis that
    is counted from the end is counted from the start. All other layers stay.

    Args:
        suffix: is appended to the name of each converted layer, and to its blob's where it is the same.

    Raises:
        GraphError: there is nothing to convert, or an input is no image.
        LayerError: a layer has no convolutional form; the error says why.
    """
    classifier = Net(param, device="meta")
    converter = _Converter(classifier, suffix)
    for node in classifier.graph.nodes:
        converter.add(node)
    conversion = converter.conversion
    if not conversion.steps:
        raise GraphError(
            f"net '{classifier.name}' has no InnerProduct and no global pooling: it is fully convolutional already. "
            "Use it as it is."
        )
    conversion.blobs = {name: blob.name for name, blob in converter.blobs.items()}
    return conversion


def convolutional_weights(conversion: Conversion, weights: Mapping[str, Sequence[Array]]) -> Weights:
    """Return a classifier's weights under the new names, for `transplant` into the fully convolutional net.

    Weights of `transpose: true` are turned back. Shapes stay those of inner products otherwise.

    Raises:
        WeightsError: a transposed inner product has not its shape.
    """
    renamed: Weights = {}
    for name, arrays in weights.items():
        converted = list(arrays)
        if name in conversion.layers:
            layer = conversion.classifier.layer(name)
            if layer.param.inner_product_param.transpose:
                shape = tuple(layer.blobs[0].shape)
                if fit(converted[0], layer.blobs[0]) is Fit.NONE:
                    raise WeightsError(
                        f"layer '{name}' blob 0 is {show(converted[0].shape)}, the classifier wants {show(shape)}."
                    )
                converted[0] = np.ascontiguousarray(converted[0].reshape(shape).T)
        renamed[conversion.layers.get(name, name)] = converted
    return renamed


class _Converter:
    """Writes the fully convolutional net, layer by layer, and knows each blob in both nets."""

    def __init__(self, classifier: Net, suffix: str) -> None:
        self.classifier, self.suffix = classifier, suffix
        net = caffe_pb2.NetParameter()
        net.CopyFrom(classifier.param)
        for cleared in ("layer", "state"):
            net.ClearField(cleared)
        self.conversion = Conversion(classifier, net)
        self.blobs: dict[str, _Blob] = {}
        self.owners: dict[str, tuple[str, Shape, bool]] = {}  # param name -> first layer, shape, turned
        self.readers: dict[str, int] = {}
        for node in classifier.graph.nodes:
            for bottom in node.bottoms:
                self.readers[bottom] = self.readers.get(bottom, 0) + 1

    def add(self, node: Node) -> None:
        """Add the next layer, converted if need be."""
        bottoms = [self.blobs[name] for name in node.bottoms]
        if node.type == "InnerProduct":
            self._inner_product(node, *bottoms)
        elif node.type in ("Flatten", "Reshape"):
            self._unroll(node, *bottoms)
        elif any(bottom.is_unrolled for bottom in bottoms):
            self._vector(node, bottoms)
        else:
            self._map(node, bottoms)

    # -- layers -------------------------------------------------------------------------------------------------

    def _inner_product(self, node: Node, bottom: _Blob) -> None:
        options = node.param.inner_product_param
        axis = options.axis + len(bottom.flat) if options.axis < 0 else options.axis
        if axis != 1:
            raise _refusal(
                node,
                f"axis {options.axis} multiplies the last {len(bottom.flat) - axis} of {len(bottom.flat)} axes alone; "
                "a convolution sees all channels of one image. Only axis 1 can be converted.",
            )
        if not 3 <= len(bottom.shape) <= 5:
            raise _refusal(
                node,
                f"bottom '{node.bottoms[0]}' is {show(bottom.flat)} and never was a map of C x H x W: there are no "
                "places to answer at. Give the net an input of N x C x H x W.",
            )
        if node.in_place:
            raise _refusal(node, "its top has the name of its bottom. Give the top its own name.")
        channels, kernel = bottom.shape[1], bottom.shape[2:]
        name = self._rename(node.name)
        layer = self._copy(node, name)
        layer.type = "Convolution"
        layer.ClearField("inner_product_param")
        convolution = layer.convolution_param
        convolution.num_output = options.num_output
        if options.HasField("bias_term"):
            convolution.bias_term = options.bias_term
        for filler in ("weight_filler", "bias_filler"):
            if options.HasField(filler):
                getattr(convolution, filler).CopyFrom(getattr(options, filler))
        _set_kernel(convolution, kernel)
        shape = (options.num_output, channels, *kernel)
        self._share(node, layer, [shape, shape[:1]], turned=options.transpose)
        top = node.tops[0]
        renamed = name if top == node.name else top
        layer.top[:] = [renamed]
        self.blobs[top] = _Blob(
            self.classifier.blob_shapes[top],
            renamed,
            (bottom.shape[0], options.num_output, *(1 for _ in kernel)),
        )
        self.conversion.layers[node.name] = name
        was = show(self.classifier.layer(node).blobs[0].shape)
        turned = ", transposed" if options.transpose else ""
        self.conversion.steps.append(f"{node.name}: InnerProduct {was}{turned} -> {name}: Convolution {show(shape)}")

    def _unroll(self, node: Node, bottom: _Blob) -> None:
        flat = self.classifier.blob_shapes[node.tops[0]]
        images, values = bottom.flat[0], prod(bottom.flat[1:])
        if flat[:2] != (images, values) or prod(flat[2:]) != 1:
            raise _refusal(
                node,
                f"makes {show(flat)} of {show(bottom.flat)}, which fixes the image's size and is not one row of "
                "values for an inner product. Rewrite that part by hand.",
            )
        rebound = [
            other
            for other in self.classifier.graph.nodes[node.index + 1 :]
            if other.in_place and other.tops[0] in (*node.tops, *node.bottoms)
        ]
        if rebound and self.readers[node.bottoms[0]] > 1:
            raise _refusal(
                node,
                f"'{node.bottoms[0]}' has other readers and {rebound[0]} overwrites it. Give that layer's top "
                "its own name.",
            )
        self.blobs[node.tops[0]] = _Blob(flat, bottom.name, bottom.shape)
        self.conversion.steps.append(f"{node.name}: {node.type} dropped, '{bottom.name}' stays {show(bottom.shape)}")

    def _map(self, node: Node, bottoms: Sequence[_Blob]) -> None:
        layer = self._copy(node, node.name)
        shapes = [self.classifier.blob_shapes[top] for top in node.tops]
        if node.type == "Pooling" and node.param.pooling_param.global_pooling:
            options, size = layer.pooling_param, bottoms[0].shape[2:]
            for cleared in ("global_pooling", "stride", "stride_h", "stride_w", "pad", "pad_h", "pad_w"):
                options.ClearField(cleared)
            _set_kernel(options, size)
            self.conversion.steps.append(f"{node.name}: global pooling -> a window of {show(size)}, stride 1")
        elif bottoms and any(len(shape) != len(bottoms[0].shape) for shape in shapes):
            raise _refusal(
                node,
                f"makes {show(shapes[0])} of the map {show(bottoms[0].shape)}, and so has one answer for an image of "
                "any size. Use Pooling in its place.",
            )
        self._share(node, layer, [tuple(blob.shape) for blob in self.classifier.layer(node).blobs])
        self._keep(node, shapes)

    def _vector(self, node: Node, bottoms: Sequence[_Blob]) -> None:
        """Add a layer after an inner product or a Flatten that was left out: its bottom is a map now."""
        layer = self._copy(node, node.name)
        one_place = all(prod(bottom.shape[2:]) == 1 for bottom in bottoms)
        alike = all((bottom.flat, bottom.shape) == (bottoms[0].flat, bottoms[0].shape) for bottom in bottoms)
        shapes = [bottoms[0].shape for _ in node.tops]
        if node.type in _ELEMENTWISE and alike:
            pass
        elif node.type not in _CHANNELWISE or (node.type in ("Scale", "Bias") and len(bottoms) > 1 and not alike):
            raise _refusal(
                node,
                f"reads {_list(bottoms)}, a map in the convolutional net, and has no known form for one. "
                "Take it out of the classifier's deploy form.",
            )
        elif not one_place:
            raise _refusal(
                node,
                f"reads {_list(bottoms)} and tells its values apart; only an inner product can read a map that was "
                "flattened. Put it before the flattening or behind an inner product.",
            )
        else:
            _write_axis(node, layer, bottoms)
            # Channels are counted in the classifier's tops; behind them comes one place.
            ones = bottoms[0].shape[2:]
            tops = [self.classifier.blob_shapes[top] for top in node.tops]
            shapes = [(top[0], prod(top[1:]), *ones) for top in tops]
        self._share(node, layer, [tuple(blob.shape) for blob in self.classifier.layer(node).blobs])
        self._keep(node, shapes)

    # -- what they have in common -------------------------------------------------------------------------------

    def _copy(self, node: Node, name: str) -> caffe_pb2.LayerParameter:
        layer = self.conversion.net.layer.add()
        layer.CopyFrom(node.param)
        layer.name = name
        layer.ClearField("phase")
        layer.bottom[:] = [self.blobs[bottom].name for bottom in node.bottoms]
        in_place = dict(zip(node.bottoms, layer.bottom, strict=True))
        layer.top[:] = [in_place.get(top, top) for top in node.tops]
        return layer

    def _keep(self, node: Node, shapes: Iterable[Shape]) -> None:
        """Remember the tops of a layer that keeps its name."""
        for top, shape in zip(node.tops, shapes, strict=True):
            name = self.blobs[top].name if top in node.bottoms else top
            self.blobs[top] = _Blob(self.classifier.blob_shapes[top], name, shape)

    def _rename(self, name: str) -> str:
        new = name + self.suffix
        nodes = self.classifier.graph.nodes
        if self.suffix and any(new == node.name or new in node.tops for node in nodes):
            raise GraphError(
                f"net '{self.classifier.name}' has a layer or blob '{new}' already. Choose another suffix."
            )
        return new

    def _share(
        self, node: Node, layer: caffe_pb2.LayerParameter, shapes: Sequence[Shape], turned: bool = False
    ) -> None:
        """Let parameters stay shared by name: kernels of other sizes hold as many numbers in the same order."""
        for spec, shape in zip(layer.param, shapes, strict=False):
            weight = shape is shapes[0]
            if not spec.name:
                continue
            owner, owned, owner_turned = self.owners.setdefault(spec.name, (node.name, shape, turned and weight))
            if owner_turned != (turned and weight):
                raise _refusal(
                    node,
                    f"shares param '{spec.name}' with layer '{owner}', one of them transposed: their kernels would "
                    "hold the numbers in different orders. Give each its own param.",
                )
            if owned != shape:
                spec.share_mode = caffe_pb2.ParamSpec.PERMISSIVE


def _write_axis(node: Node, layer: caffe_pb2.LayerParameter, bottoms: Sequence[_Blob]) -> None:
    """Count axes from the start, so that an axis of the vector means the channels of the map."""
    name = _CHANNELWISE[node.type]
    if not name:
        return
    options = getattr(layer, name)
    axes = len(bottoms[0].flat)
    if node.type == "ArgMax" and not options.HasField("axis"):
        if options.out_max_val:
            raise _refusal(node, "out_max_val without an axis gives pairs, not a map. Set axis: 1 in the classifier.")
        options.axis = 1
        return
    axis = options.axis + axes if options.axis < 0 else options.axis
    if axis > 1:
        raise _refusal(node, f"axis {axis} lies behind the channels and has no place in the map. Use axis 1.")
    if options.axis < 0:
        options.axis = axis
    if node.type in ("Scale", "Bias") and len(bottoms) == 1:
        if axis == 0:
            raise _refusal(node, "axis 0 has a number for each image of the batch. Use axis 1.")
        if options.num_axes == -1:
            options.num_axes = 1


def _set_kernel(options: caffe_pb2.PoolingParameter | caffe_pb2.ConvolutionParameter, size: Shape) -> None:
    if len(set(size)) > 1 and len(size) == 2:
        options.kernel_h, options.kernel_w = size
    elif isinstance(options, caffe_pb2.PoolingParameter):
        options.kernel_size = size[0]
    else:
        options.kernel_size.extend(size[:1] if len(set(size)) == 1 else size)


def _refusal(node: Node, reason: str) -> LayerError:
    return LayerError(f"cannot be made convolutional: {reason}", node.name, node.type)


def _list(bottoms: Iterable[_Blob]) -> str:
    return ", ".join(f"'{bottom.name}' ({show(bottom.flat)})" for bottom in bottoms)
