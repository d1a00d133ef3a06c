"""Dense answers of a net that strides: shift-and-stitch, and filter rarefaction (the trous algorithm) as a net.

Both answer at every pixel, not at every `stride`-th. Shift-and-stitch runs the net for each shift of its input and
interlaces the answers. Rarefaction takes the stride away and puts zeros between the taps of all later kernels.
Source: Long et al., section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fcn_caffe.errors import GraphError, LayerError
from fcn_caffe.layers.neuron import NEURON_TYPES
from fcn_caffe.net.graph import Graph, Node
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2

__all__ = ["Rarefaction", "rarefy", "shift_and_stitch"]

# Layers that treat every place of a map alone, so that it does not matter how far apart its neighbours are.
_PLACEWISE = NEURON_TYPES | {"BatchNorm", "Bias", "Concat", "Eltwise", "LRN", "Scale", "Slice", "Softmax", "Split"}
_MODES = caffe_pb2.PoolingParameter
Pair = tuple[int, int]


@dataclass
class Rarefaction:
    """The result of `rarefy`.

    net: the net that answers at every pixel. rates[blob]: the old stride of the blob, in pixels of the dense net.
    pads[blob]: how many pixels are padded before it on a side. steps: a line for each layer that was changed.
    inexact: why answers near the border differ from shift-and-stitch's; if empty, all are equal.
    """

    net: caffe_pb2.NetParameter
    rates: dict[str, int] = field(default_factory=dict)
    pads: dict[str, int] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    inexact: list[str] = field(default_factory=list)


def rarefy(param: caffe_pb2.NetParameter, until: str | None = None, layers: Iterable[str] | None = None) -> Rarefaction:
    """Take the stride from layers of a net and put it, as dilation, into all later kernels.

    Convolutions keep their names and weights. Caffe's Pooling has no dilation: MAX becomes the largest of shifted
    crops (Crop, Eltwise), AVE a convolution of each channel with a fixed kernel. Windows that CEIL rounding lets hang
    over the border are left out.

    Args:
        param: a net of one state, such as a deploy form from `filter_net`.
        until: the last blob; layers that it does not need are left out, as the upsampling of an FCN must be.
        layers: the layers that lose their stride, by default all Convolutions and Poolings.

    Raises:
        GraphError: a blob or layer is unknown, or a layer's bottoms have different rates.
        LayerError: a layer has no such form; the error says why.
    """
    graph = Graph.from_param(param)
    nodes = graph.nodes if until is None else _nodes_below(graph, until)
    known = [node.name for node in nodes if node.type in ("Convolution", "Pooling")]
    chosen = set(known if layers is None else layers)
    if unknown := sorted(chosen - set(known)):
        raise GraphError(
            f"net '{graph.name}' has no Convolution or Pooling '{unknown[0]}' to take a stride from. "
            f"It has {', '.join(known) or 'none'}."
        )
    writer = _Writer(param, chosen)
    for node in nodes:
        writer.add(node)
    for layer in writer.result.net.layer:  # the net is the same in every state
        for rule in ("include", "exclude", "phase"):
            layer.ClearField(rule)
    return writer.result


def shift_and_stitch(net: Net, image: Tensor, blobs: Mapping[str, int], name: str = "data") -> dict[str, Tensor]:
    """Run a net on all shifts of its image and interlace its answers.

    A shift by s is the image without its first s rows or columns, so that place i of the shifted answer is place
    i * stride + s of the whole.

    Args:
        image: (N, C, H, W), for the input `name`.
        blobs: the blobs to return, with their stride in pixels of the image.

    Shapes: a blob of (N, C, h, w) for each shift -> (N, C, about h * stride, about w * stride).
    """
    answers: dict[str, dict[Pair, Tensor]] = {blob: {} for blob in blobs}
    largest = max(blobs.values())
    for down in range(largest):
        for right in range(largest):
            reached = [blob for blob, stride in blobs.items() if down < stride and right < stride]
            with torch.no_grad():
                tops = net({name: image[:, :, down:, right:]}, keep=reached)
            for blob in reached:
                answers[blob][down, right] = tops[blob]
    return {blob: _interlace(answers[blob], stride) for blob, stride in blobs.items()}


def _interlace(parts: Mapping[Pair, Tensor], stride: int) -> Tensor:
    """Join the answers of all shifts, up to the first place that a shift lacks."""
    rows = min(part.shape[2] * stride + down for (down, _), part in parts.items())
    columns = min(part.shape[3] * stride + right for (_, right), part in parts.items())
    first = parts[0, 0]
    whole = first.new_empty((*first.shape[:2], rows, columns))
    for (down, right), part in parts.items():
        target = whole[:, :, down::stride, right::stride]
        target.copy_(part[:, :, : target.shape[2], : target.shape[3]])
    return whole


def _nodes_below(graph: Graph, blob: str) -> list[Node]:
    if not any(blob in node.tops for node in graph.nodes):
        raise GraphError(f"net '{graph.name}' has no blob '{blob}' to end with.")
    needed, nodes = {blob}, []
    # Layers in place on the last blob count: they are part of it.
    for node in reversed(graph.nodes):
        if needed & set(node.tops):
            nodes.append(node)
            needed |= set(node.bottoms)
    return nodes[::-1]


class _Writer:
    """Writes the dense net, layer by layer, and knows the rate of each blob."""

    def __init__(self, net: caffe_pb2.NetParameter, chosen: set[str]) -> None:
        self.chosen = chosen
        self.result = Rarefaction(caffe_pb2.NetParameter())
        self.result.net.CopyFrom(net)
        for cleared in ("layer", "state"):
            self.result.net.ClearField(cleared)
        self.hanging: set[str] = set()  # blobs whose last row came from a window over the border
        self.padded: dict[str, str] = {}  # blob -> the layer that pads it, or a blob that it depends on

    def add(self, node: Node) -> None:
        rates = {bottom: self.result.rates[bottom] for bottom in node.bottoms}
        if len(set(rates.values())) > 1:
            listed = ", ".join(f"'{blob}' {rate}" for blob, rate in rates.items())
            raise GraphError(
                f"{node} joins blobs that were strided differently: {listed}. "
                "Take the stride from layers on all its branches, or end with `until` before it."
            )
        rate = next(iter(rates.values()), 1)
        self.result.pads.update(dict.fromkeys(node.tops, max((self.result.pads[it] for it in node.bottoms), default=0)))
        layers = self.result.net.layer
        if node.type in ("Convolution", "Pooling"):
            top_rate = self._window(node, rate)
        elif rate == 1 or (node.type in _PLACEWISE and not _reads_neighbours(node)):
            layers.add().CopyFrom(node.param)
            top_rate = rate
        else:
            raise _refusal(node, "has no form with zeros between its taps; end the net before it with `until`")
        if any(bottom in self.hanging for bottom in node.bottoms):
            self.hanging.update(node.tops)
        for bottom in node.bottoms:
            if bottom in self.padded:
                self.padded.update(dict.fromkeys(node.tops, self.padded[bottom]))
        self.result.rates.update(dict.fromkeys(node.tops, top_rate))

    def _window(self, node: Node, rate: int) -> int:
        convolution = node.type == "Convolution"
        if not convolution and node.param.pooling_param.global_pooling:
            if rate > 1:
                raise _refusal(node, "pools the whole map, which has other pixels now; give it a kernel")
            self.result.net.layer.add().CopyFrom(node.param)
            return 1
        options = node.param.convolution_param if convolution else node.param.pooling_param
        kernel = _pair(node, options, "kernel", options.kernel_size)
        stride = _pair(node, options, "stride", options.stride)
        pad = _pair(node, options, "pad", options.pad)
        removed = stride[0] if node.name in self.chosen else 1
        if node.name in self.chosen and stride[0] != stride[1]:
            raise _refusal(node, f"strides by {stride[0]} and {stride[1]}: one number is needed for both axes")
        if node.name not in self.chosen and rate > 1 and stride != (1, 1):
            raise _refusal(node, f"strides by {stride[0]} over a map that is dense already; choose it too")
        self._border(node, removed, max(pad) > 0)
        for top in node.tops:
            self.result.pads[top] += rate * max(pad)
        if not convolution and removed > 1 and node.param.pooling_param.round_mode == _MODES.CEIL:
            self.hanging.update(node.tops)
        if convolution:
            self._convolution(node, rate, removed, pad)
        else:
            self._pooling(node, rate, removed, kernel, pad)
        if removed > 1 or rate > 1:
            gone = f"stride {removed} removed" if removed > 1 else ""
            spread = f"dilated by {rate}" if rate > 1 and max(kernel) > 1 else ""
            if step := ", ".join(filter(None, (gone, spread))):
                self.result.steps.append(f"{node.name}: {step}")
        return rate * removed

    def _border(self, node: Node, removed: int, pads: bool) -> None:
        """Note where a shift sees padding and the whole image does not."""
        if pads:
            self.padded.update(dict.fromkeys(node.tops, node.name))
            if any(bottom in self.hanging for bottom in node.bottoms):
                self._inexact(f"{node.name} pads where a window of CEIL rounding hung over the border")
        padding = node.name if pads else next((self.padded[it] for it in node.bottoms if it in self.padded), None)
        if removed > 1 and padding:
            self._inexact(f"{padding} pads, and a shifted image is cut where the whole one goes on")

    def _inexact(self, reason: str) -> None:
        if reason not in self.result.inexact:
            self.result.inexact.append(reason)

    def _convolution(self, node: Node, rate: int, removed: int, pad: Pair) -> None:
        layer = self.result.net.layer.add()
        layer.CopyFrom(node.param)
        options = layer.convolution_param
        if removed > 1:
            for name in ("stride", "stride_h", "stride_w"):
                options.ClearField(name)
        if rate > 1:
            dilation = list(options.dilation) or [1]
            del options.dilation[:]
            options.dilation.extend(rate * value for value in dilation)
            for name in ("pad", "pad_h", "pad_w"):
                options.ClearField(name)
            options.pad.extend([rate * pad[0]] if pad[0] == pad[1] else [rate * size for size in pad])

    def _pooling(self, node: Node, rate: int, removed: int, kernel: Pair, pad: Pair) -> None:
        if rate == 1:
            layer = self.result.net.layer.add()
            layer.CopyFrom(node.param)
            if removed > 1:
                for name in ("stride", "stride_h", "stride_w"):
                    layer.pooling_param.ClearField(name)
            return
        options = node.param.pooling_param
        if len(node.tops) > 1:
            raise _refusal(node, "gives a mask, whose positions are those of the old map")
        if options.pool == _MODES.MAX:
            if max(pad):
                raise _refusal(node, "is a padded MAX: Caffe has no layer that pads with less than every number")
            self._largest(node, rate, kernel)
        elif options.pool == _MODES.AVE:
            self._average(node, rate, kernel, pad)
        else:
            raise _refusal(node, "draws at random from its windows")

    def _largest(self, node: Node, rate: int, kernel: Pair) -> None:
        """Add the largest of all shifts of the bottom, each cropped to the size that is left."""
        (bottom,), (top,) = node.bottoms, node.tops
        layers, size = self.result.net.layer, f"{node.name}_size"
        pool = layers.add(name=size, type="Pooling", bottom=[bottom], top=[size])
        pool.pooling_param.kernel_h, pool.pooling_param.kernel_w = (rate * (k - 1) + 1 for k in kernel)
        shifts = []
        for down in range(kernel[0]):
            for right in range(kernel[1]):
                name = f"{node.name}_shift{down}_{right}"
                crop = layers.add(name=name, type="Crop", bottom=[bottom, size], top=[name])
                crop.crop_param.axis = 2
                crop.crop_param.offset.extend([rate * down, rate * right])
                shifts.append(name)
        if len(shifts) == 1:
            raise _refusal(node, "has a kernel of one pixel; leave it out")
        largest = layers.add(name=node.name, type="Eltwise", bottom=shifts, top=[top])
        largest.eltwise_param.operation = caffe_pb2.EltwiseParameter.MAX

    def _average(self, node: Node, rate: int, kernel: Pair, pad: Pair) -> None:
        channels = self._channels(node)
        layer = self.result.net.layer.add(name=node.name, type="Convolution", bottom=node.bottoms, top=node.tops)
        layer.param.add(lr_mult=0, decay_mult=0)
        options = layer.convolution_param
        options.num_output = options.group = channels
        options.bias_term = False
        options.kernel_h, options.kernel_w = kernel
        options.pad_h, options.pad_w = (rate * size for size in pad)
        options.dilation.append(rate)
        options.weight_filler.type, options.weight_filler.value = "constant", 1 / (kernel[0] * kernel[1])

    def _channels(self, node: Node) -> int:
        return Net(self.result.net, device="meta").blob_shapes[node.bottoms[0]][1]


def _pair(
    node: Node,
    options: caffe_pb2.ConvolutionParameter | caffe_pb2.PoolingParameter,
    name: str,
    value: int | Iterable[int],
) -> Pair:
    """Return an option's sizes along both axes; value: a list for Convolution, a number for Pooling."""
    height, width = f"{name}_h", f"{name}_w"
    if options.HasField(height) or options.HasField(width):
        return int(getattr(options, height)), int(getattr(options, width))
    values = [value] if isinstance(value, int) else list(value) or [0 if name == "pad" else 1]
    if len(values) > 2:
        raise _refusal(node, f"has {len(values)} spatial axes: only maps of two are known here")
    return int(values[0]), int(values[-1])


def _reads_neighbours(node: Node) -> bool:
    return bool(
        (node.type == "LRN" and node.param.lrn_param.norm_region == caffe_pb2.LRNParameter.WITHIN_CHANNEL)
        or (node.type == "Softmax" and node.param.softmax_param.axis != 1)
        or (node.type == "Slice" and node.param.slice_param.axis != 1)
        or (node.type == "Concat" and node.param.concat_param.axis != 1)
    )


def _refusal(node: Node, reason: str) -> LayerError:
    return LayerError(f"{reason}.", node.name, node.type)
