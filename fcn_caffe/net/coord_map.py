"""Coordinate maps: where a pixel of one blob lies in another; crop offsets and receptive fields follow.

A layer's map takes a coordinate x of its bottom to scale * x + offset of its top, on each spatial axis. Maps compose
along the net and are exact fractions. Source: Caffe's coord_map; Long et al., section 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import NamedTuple, TypeVar

from fcn_caffe.errors import GraphError
from fcn_caffe.layers.neuron import NEURON_TYPES
from fcn_caffe.net.graph import Graph, Node, filter_net
from fcn_caffe.net.net_spec import Top, layers, named_net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.wire import MOST_AXES

__all__ = [
    *("CoordMap", "Derivation", "ReceptiveField", "Step"),
    *("coord_map_from_to", "crop", "crop_offset", "derive_crop", "receptive_field"),
]

# Layers that leave every pixel in its place.
_IN_PLACE = NEURON_TYPES | {
    *("BatchNorm", "Bias", "Concat", "Eltwise", "LRN", "MVN", "Scale", "Slice", "Softmax", "Split"),
    *("BN", "Normalize", "ReLU6", "ShuffleChannel"),
}
_CROPS = ("AutoCrop", "Crop")
_CONVOLUTIONS = ("Convolution", "ConvolutionDepthwise", "Deconvolution", "DepthwiseConvolution", "Im2col")
FIRST_SPATIAL_AXIS = 2

Value = TypeVar("Value")


@dataclass(frozen=True)
class CoordMap:
    """x -> scale * x + offset, one pair for each spatial axis; a single pair stands for all axes."""

    scale: tuple[Fraction, ...] = (Fraction(1),)
    offset: tuple[Fraction, ...] = (Fraction(0),)

    def after(self, first: CoordMap) -> CoordMap:
        """Return the map that applies `first`, then this one."""
        pairs = list(_zip(self.scale, self.offset, first.scale, first.offset))
        return CoordMap(tuple(a * c for a, _, c, _ in pairs), tuple(a * d + b for a, b, _, d in pairs))

    def inverse(self) -> CoordMap:
        """Return the map back."""
        pairs = list(_zip(self.scale, self.offset))
        return CoordMap(tuple(1 / a for a, _ in pairs), tuple(-b / a for a, b in pairs))


@dataclass(frozen=True)
class ReceptiveField:
    """How many input pixels a unit sees along an axis, and how many lie between the centres of two neighbours.

    centre: the input pixel that the first unit's field is centred on; below 0 it lies in the padding.
    """

    size: int
    stride: Fraction
    centre: Fraction = Fraction(0)


@dataclass(frozen=True)
class Step:
    """A layer on the way from a blob up to its source: the map of its bottom to its top, and of that to the blob."""

    node: Node
    map: CoordMap
    to_blob: CoordMap


@dataclass(frozen=True)
class Derivation:
    """How a crop's offset follows: the layers from each blob up to the layer that both are computed from.

    result: the map of coordinates of the second blob to those of the first.
    """

    common: Node
    from_steps: list[Step]
    to_steps: list[Step]
    result: CoordMap


@dataclass(frozen=True)
class _Window:
    """Kernel (dilation counted), stride and pad of a layer, one for each spatial axis or one for all."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]


def crop(top_from: Top, top_to: Top) -> Top:
    """Make a Crop layer that cuts `top_from` to the place and size of `top_to`; the offset follows from their maps.

    Raises:
        GraphError: as `crop_offset`.
    """
    net, (blob_from, blob_to) = named_net(top_from, top_to)
    offset = crop_offset(Graph.from_param(net), blob_from, blob_to)
    layer: Top = layers.Crop(top_from, top_to, crop_param={"axis": FIRST_SPATIAL_AXIS, "offset": offset})
    return layer


def crop_offset(net: caffe_pb2.NetParameter | Graph, blob_from: str, blob_to: str) -> list[int]:
    """Return where in `blob_from` the first pixel of `blob_to` lies: one number, or one for each axis if they differ.

    Raises:
        GraphError: the scales differ, the offset is negative or no whole number, the blobs have no common ancestor,
            or a layer between has no coordinate map. The error names both blobs.
    """
    map_to_from = coord_map_from_to(net, blob_to, blob_from)
    who = f"crop of '{blob_from}' to '{blob_to}'"
    if any(scale != 1 for scale in map_to_from.scale):
        raise GraphError(
            f"{who}: a pixel of '{blob_to}' is {_show(map_to_from.scale)} pixels of '{blob_from}'. "
            "Upsample or pool until both have the same stride."
        )
    if any(offset.denominator != 1 for offset in map_to_from.offset):
        raise GraphError(
            f"{who}: the offset would be {_show(map_to_from.offset)}, no whole number. "
            "Make the kernel of the upsampling one larger or smaller."
        )
    if any(offset < 0 for offset in map_to_from.offset):
        raise GraphError(
            f"{who}: the offset would be {_show(map_to_from.offset)}; "
            "there is nothing before the first pixel. Pad the first convolution more."
        )
    offsets = [int(offset) for offset in map_to_from.offset]
    return offsets[:1] if len(set(offsets)) == 1 else offsets


def coord_map_from_to(net: caffe_pb2.NetParameter | Graph, blob_from: str, blob_to: str) -> CoordMap:
    """Return the map from coordinates of one blob to those of another, through a blob that both are computed from.

    Raises:
        GraphError: there is no such blob, or a layer without a coordinate map is on every way there.
    """
    return _meet(_graph(net), blob_from, blob_to).result


def receptive_field(net: caffe_pb2.NetParameter | Graph, blob: str, input_blob: str | None = None) -> ReceptiveField:
    """Return the receptive field of a unit of `blob` along the first spatial axis; the widest of all paths counts.

    Args:
        input_blob: where the field is measured; by default the top of the first layer without bottoms.

    Raises:
        GraphError: a layer between has no coordinate map, or `blob` does not depend on the input.
    """
    graph = _graph(net)
    start = _maker(graph, blob)
    sizes = {start: 1}
    maps, stops, _ = _maps_below(graph, start)
    for index in sorted(maps, reverse=True):  # readers before makers
        node = graph.nodes[index]
        for below in _makers_below(graph, node) if index not in stops else ():
            sizes[below] = max(sizes.get(below, 0), _input_size(node, sizes[index]))
    source = None if input_blob is None else _maker(graph, input_blob)
    ends = [index for index in sorted(maps) if index == source or (source is None and not graph.nodes[index].bottoms)]
    if not ends or (stops and source is None):
        names = ", ".join(str(graph.nodes[index]) for index in sorted(stops)) or "nothing leads there"
        raise GraphError(f"blob '{blob}': its receptive field in the input is not known ({names}).")
    back = maps[ends[0]].inverse()
    return ReceptiveField(sizes[ends[0]], back.scale[0], back.offset[0])


def derive_crop(net: caffe_pb2.NetParameter | Graph, blob_from: str, blob_to: str) -> Derivation:
    """Return the steps by which the offset of a crop of `blob_from` to `blob_to` follows.

    Raises:
        GraphError: as `coord_map_from_to`.
    """
    graph = _graph(net)
    met = _meet(graph, blob_to, blob_from)
    from_steps = _way(graph, met.below_to, met.common)
    to_steps = _way(graph, met.below_from, met.common)
    return Derivation(graph.nodes[met.common], from_steps, to_steps, met.result)


def _graph(net: caffe_pb2.NetParameter | Graph) -> Graph:
    if isinstance(net, Graph):
        return net
    # A file of all phases is seen as it is tested.
    return Graph.from_param(filter_net(net))


def _maker(graph: Graph, blob: str) -> int:
    makers = [node.index for node in graph.nodes if blob in node.tops]
    if not makers:
        raise GraphError(f"net '{graph.name}' has no blob '{blob}'. Correct the name.")
    return makers[-1]


def _makers_below(graph: Graph, node: Node) -> list[int]:
    # The second bottom of a Crop only says how much is left.
    count = 1 if node.type in _CROPS else len(node.bottoms)
    return list(dict.fromkeys(graph.producers[node.index, position] for position in range(count)))


class _Below(NamedTuple):
    """The layers below one, by index.

    maps: of their coordinates to that one's, nearest first. stops: the layers without a map. readers: the layer through
    which each was reached.
    """

    maps: dict[int, CoordMap]
    stops: set[int]
    readers: dict[int, int]


class _Meeting(NamedTuple):
    """Where the ways down from two blobs meet: the nearest layer below both, and the map from the one to the other."""

    common: int
    below_from: _Below
    below_to: _Below
    result: CoordMap


def _meet(graph: Graph, blob_from: str, blob_to: str) -> _Meeting:
    """Find where two blobs' ways down meet; raise as `coord_map_from_to`."""
    below_from, below_to = (_maps_below(graph, _maker(graph, blob)) for blob in (blob_from, blob_to))
    common = next((index for index in below_to.maps if index in below_from.maps), None)
    if common is None:
        stops = sorted(below_from.stops | below_to.stops)
        met = f" The way is blocked by {', '.join(str(graph.nodes[index]) for index in stops)}." if stops else ""
        raise GraphError(
            f"blobs '{blob_from}' and '{blob_to}' have no common ancestor that coordinate maps reach.{met} "
            "Name blobs of one image."
        )
    # Both are maps of the common layer's coordinates.
    result = below_to.maps[common].after(below_from.maps[common].inverse())
    return _Meeting(common, below_from, below_to, result)


def _way(graph: Graph, below: _Below, index: int) -> list[Step]:
    """Return the steps from a blob up to a layer below it."""
    way: list[Step] = []
    while index in below.readers:
        to_blob, index = below.maps[index], below.readers[index]
        step = _layer_map(graph.nodes[index])
        assert step is not None  # _maps_below came through it
        way.append(Step(graph.nodes[index], step, to_blob))
    return way[::-1]


def _maps_below(graph: Graph, start: int) -> _Below:
    """Find the layers below one, as far as maps reach."""
    maps, stops, readers = {start: CoordMap()}, set[int](), dict[int, int]()
    waiting = [start]
    for index in waiting:
        node = graph.nodes[index]
        if not node.bottoms:
            continue
        step = _layer_map(node)
        if step is None:
            stops.add(index)
            continue
        for below in _makers_below(graph, node):
            if below not in maps:
                maps[below] = maps[index].after(step)
                waiting.append(below)
                readers[below] = index
    return _Below(maps, stops, readers)


def _layer_map(node: Node) -> CoordMap | None:
    """The map of a layer's bottom coordinates to its top's; None where a top pixel has no place in the bottom."""
    if node.type in _IN_PLACE:
        field = {"Concat": "concat_param", "Slice": "slice_param"}.get(node.type)
        spatial = field is not None and getattr(node.param, field).axis not in (0, 1)
        return None if spatial else CoordMap()
    if node.type in _CROPS:
        options = node.param.crop_param
        offsets = [Fraction(-offset) for offset in options.offset] or [Fraction(0)]
        # One for each axis from `axis` on, or one for all of them. Only spatial ones count here.
        skipped = (options.axis if options.axis >= 0 else options.axis + 4) - FIRST_SPATIAL_AXIS
        if skipped > MOST_AXES:
            return None
        if len(offsets) > 1:
            offsets = offsets[max(0, -skipped) :]
        return CoordMap(offset=(Fraction(0),) * skipped + tuple(offsets))
    window = _window(node)
    if window is None:
        return None
    sizes = list(_zip(window.kernel, window.stride, window.pad))
    if node.type == "Deconvolution":
        return CoordMap(
            tuple(Fraction(stride) for _, stride, _ in sizes),
            tuple(Fraction(kernel - 1, 2) - pad for kernel, _, pad in sizes),
        )
    return CoordMap(
        tuple(Fraction(1, stride) for _, stride, _ in sizes),
        tuple((pad - Fraction(kernel - 1, 2)) / stride for kernel, stride, pad in sizes),
    )


def _window(node: Node) -> _Window | None:
    if node.type == "Pooling":
        pooling = node.param.pooling_param
        if pooling.global_pooling:
            return None
        kernel = _pair(pooling, "kernel", [pooling.kernel_size])
        return _make_window(
            node, kernel, _pair(pooling, "stride", [pooling.stride]), _pair(pooling, "pad", [pooling.pad])
        )
    if node.type not in _CONVOLUTIONS:
        return None
    options = node.param.convolution_param
    kernel = _pair(options, "kernel", options.kernel_size)
    stride = _pair(options, "stride", options.stride or [1])
    pad = _pair(options, "pad", options.pad or [0])
    dilation = tuple(options.dilation) or (1,)
    return _make_window(node, kernel, stride, pad, dilation)


def _make_window(
    node: Node, kernel: tuple[int, ...], stride: tuple[int, ...], pad: tuple[int, ...], dilation: tuple[int, ...] = (1,)
) -> _Window:
    """Return the window of these sizes, which no layer has checked: a graph's net may never have been built.

    Raises:
        GraphError: they have no coordinate map.
    """
    counts = {len(values) for values in (kernel, stride, pad, dilation)} - {1}
    if len(counts) > 1 or 0 in counts or min(*kernel, *stride) < 1:
        sizes = " x ".join(map(str, kernel)) or "nothing", " x ".join(map(str, stride)), " x ".join(map(str, pad))
        raise GraphError(
            f"{node}: kernel {sizes[0]}, stride {sizes[1]} and pad {sizes[2]} have no coordinate map. Kernel and "
            "stride should be 1 or more, and each one number or one for each axis."
        )
    return _Window(tuple(d * (k - 1) + 1 for k, d in _zip(kernel, dilation)), stride, pad)


def _pair(
    options: caffe_pb2.PoolingParameter | caffe_pb2.ConvolutionParameter, short: str, both: Sequence[int]
) -> tuple[int, ...]:
    """`kernel_h` and `kernel_w` where they are set, the given sizes otherwise."""
    height, width = f"{short}_h", f"{short}_w"
    if options.HasField(height) or options.HasField(width):
        return getattr(options, height), getattr(options, width)
    return tuple(both)


def _input_size(node: Node, size: int) -> int:
    """How many bottom pixels `size` neighbouring top pixels see."""
    window = _window(node)
    if window is None:
        return size
    kernel, stride = window.kernel[0], window.stride[0]
    if node.type == "Deconvolution":
        return ceil((size + kernel - 1) / stride)
    return (size - 1) * stride + kernel


def _zip(*values: Sequence[Value]) -> Iterator[tuple[Value, ...]]:
    """Zip sequences; one of a single value has it for all axes."""
    longest = max(len(value) for value in values)
    return zip(*(list(value) * longest if len(value) == 1 else value for value in values), strict=True)


def _show(values: Sequence[Fraction]) -> str:
    return " x ".join(dict.fromkeys(f"{value}" for value in values))
