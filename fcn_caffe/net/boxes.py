"""Makes the boxes of a net's picture, a layer each with what only changes its values, and the stages they stand in.

>>> from fcn_caffe.host.paths import shipped
>>> from fcn_caffe.net.graph import read_net
>>> layers = list(read_net(shipped("nets/voc-fcn8s.prototxt"), stages=["deploy"]).layer)
>>> boxes = make_boxes(layers)
>>> len(layers), len(boxes), [layers[index].name for index in boxes[1].layers]
(47, 32, ['conv1_1', 'relu1_1'])
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import log

from fcn_caffe.host.text import show
from fcn_caffe.layers.neuron import NEURON_TYPES
from fcn_caffe.proto import caffe_pb2

__all__ = ["Box", "box_label", "box_reads", "kind", "make_boxes", "make_stages", "stage_titles"]

Layers = Sequence[caffe_pb2.LayerParameter]
Shapes = Mapping[str, Sequence[int]]

_CHANGES_VALUES = NEURON_TYPES | {"BN", "BatchNorm", "Bias", "ReLU6", "Scale"}
_CROPS = ("AutoCrop", "Crop")
_KINDS = {
    "conv": ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "InnerProduct", "Embed", "LSTM", "RNN"),
    "up": ("Deconvolution", "Interp", "Unpooling", "Upsample"),
    "pool": ("Pooling", "SPP", "ROIPooling", "PSROIPooling"),
    "join": ("Axpy", "Concat", "Eltwise"),
    "crop": (*_CROPS, "Slice", "Padding"),
    "copy": ("BorderCopy",),  # ours alone
}
_KIND = {type: kind for kind, types in _KINDS.items() for type in types}
_OTHER_SIZE = log(1.42)  # images whose sides differ by more are of another stage
MOST = 20  # boxes of a stage
MODULE = 4  # so many layers whose names begin alike, NAME/…, are a stage of their own


@dataclass
class Box:
    """One layer, and those that change its top's values and nothing else reads.

    Attributes:
        layers: by index in the net.
        reads: the boxes that it reads.
        references: the boxes of which only the sizes are read: a Crop's second bottom.
    """

    layers: list[int]
    reads: list[int] = field(default_factory=list)
    references: list[int] = field(default_factory=list)


# -- boxes -------------------------------------------------------------------------------------------------------------


def make_boxes(layers: Layers) -> list[Box]:
    """Make the boxes of a net's layers, in file order. The layers of several phases may be there."""
    boxes: list[Box] = []
    makers: dict[str, list[int]] = {}  # blob -> the boxes that make it: one, but for nets of several phases
    counts = Counter(bottom for layer in layers for bottom in set(layer.bottom) - set(layer.top))
    for index, layer in enumerate(layers):
        below = makers.get(layer.bottom[0], []) if len(layer.bottom) == 1 else []
        if len(below) == 1 and _is_part(layer, layers[boxes[below[0]].layers[-1]], counts):
            box = below[0]
            boxes[box].layers.append(index)
        else:
            box = len(boxes)
            boxes.append(Box([index]))
            for position, bottom in enumerate(layer.bottom):
                is_reference = layer.type in _CROPS and position > 0
                (boxes[box].references if is_reference else boxes[box].reads).extend(makers.get(bottom, []))
        for top in layer.top:
            if top in layer.bottom or top not in makers:
                makers[top] = [box]
            elif box not in makers[top]:
                makers[top].append(box)
    return boxes


def _is_part(layer: caffe_pb2.LayerParameter, maker: caffe_pb2.LayerParameter, counts: Mapping[str, int]) -> bool:
    """Whether a layer of one bottom only changes the values of what its maker makes, and no other layer reads that."""
    is_only_reader = len(layer.top) == 1 and (layer.top[0] == layer.bottom[0] or counts[layer.bottom[0]] == 1)
    return layer.type in _CHANGES_VALUES and is_only_reader and len(maker.top) == 1


def box_reads(boxes: Sequence[Box]) -> list[list[int]]:
    """List the boxes that each box reads or refers to, once each."""
    return [list(dict.fromkeys([*box.reads, *box.references])) for box in boxes]


# -- words -------------------------------------------------------------------------------------------------------------


def kind(layer: caffe_pb2.LayerParameter) -> str:
    """Return what sort of layer it is, for its colour: conv, up, pool, join, crop, copy, data, loss or other."""
    if not layer.bottom:
        return "data"
    if layer.type.endswith("Loss") or layer.type == "Accuracy":
        return "loss"
    return _KIND.get(layer.type, "other")


def box_label(box: Box, layers: Layers) -> str:
    """Return the second line of a box: what it does."""
    first, *others = (layers[index] for index in box.layers)
    words = [_does(first), *dict.fromkeys(layer.type for layer in others)]
    return " + ".join(words)


def _does(layer: caffe_pb2.LayerParameter) -> str:
    if layer.type in ("Convolution", "ConvolutionDepthwise", "DepthwiseConvolution", "Deconvolution", "Im2col"):
        return _window(layer, "up" if layer.type == "Deconvolution" else "conv", layer.convolution_param)
    if layer.type == "Pooling":
        pooling = layer.pooling_param
        word = f"{pooling.PoolMethod.Name(pooling.pool).lower()} pool"
        return f"global {word}" if pooling.global_pooling else _window(layer, word, pooling)
    if layer.type == "InnerProduct":
        return f"inner product {layer.inner_product_param.num_output}"
    if layer.type in _CROPS:
        return f"crop at {show(layer.crop_param.offset) if layer.crop_param.offset else 0}"
    if layer.type == "Eltwise":
        return {0: "product", 1: "sum", 2: "maximum"}[layer.eltwise_param.operation]
    if layer.type == "BorderCopy":
        return f"copies {show(layer.border_copy_param.copies)}"
    if layer.type == "Python":
        return f"Python {layer.python_param.layer}"
    return layer.type


def _window(
    layer: caffe_pb2.LayerParameter,
    word: str,
    options: caffe_pb2.ConvolutionParameter | caffe_pb2.PoolingParameter,
) -> str:
    kernel, stride, dilation = _sides(options, "kernel", "kernel_size"), _sides(options, "stride", "stride"), "1"
    outputs = ""
    if isinstance(options, caffe_pb2.ConvolutionParameter):
        dilation = show(options.dilation) if options.dilation else "1"
        outputs = f" {options.num_output}" if options.num_output else ""
    return f"{word} {kernel}{outputs}" + f" /{stride}" * (stride != "1") + f" dilated {dilation}" * (dilation != "1")


def _sides(options: caffe_pb2.ConvolutionParameter | caffe_pb2.PoolingParameter, short: str, long: str) -> str:
    if options.HasField(f"{short}_h") or options.HasField(f"{short}_w"):
        return f"{getattr(options, f'{short}_h')}×{getattr(options, f'{short}_w')}"
    value = getattr(options, long)
    sizes = [value] if isinstance(value, int) else list(value) or [1]
    if short == "kernel":
        return "×".join(map(str, sizes * 2 if len(sizes) == 1 else sizes))
    return str(sizes[0]) if len(set(sizes)) == 1 else "×".join(map(str, sizes))


# -- stages ------------------------------------------------------------------------------------------------------------


def make_stages(boxes: Sequence[Box], layers: Layers, shapes: Shapes | None = None) -> list[int]:
    """Give each box a stage: runs of boxes, in file order, whose images are of about one size, or that are a module.

    Args:
        boxes: those of `make_boxes`.
        layers: the layers that they were made of.
        shapes: of the blobs; without them the sizes follow from strides, where they can.
    """
    if not boxes:
        return []
    sizes = _sizes(boxes, layers, shapes or {})
    modules = _modules(boxes, layers)
    runs: list[list[int]] = []
    for box in range(len(boxes)):
        start = runs[-1][0] if runs else 0
        fits = runs and modules[start] == modules[box] and abs(sizes[start] - sizes[box]) < _OTHER_SIZE
        if fits or (runs and modules[box] and modules[start] == modules[box]):
            runs[-1].append(box)
        else:
            runs.append([box])
    joined: list[list[int]] = []
    short: list[int] = []  # runs of one box wait for the next run
    for run in runs:
        short += run
        if len(run) > 1:
            joined.append(short)
            short = []
    if short:
        joined = [*joined[:-1], [*joined[-1], *short]] if len(short) == 1 and joined else [*joined, short]
    parts = [part for run in joined for part in _split(run, boxes, layers)]
    return [stage for stage, part in enumerate(parts) for _ in part]


def _sizes(boxes: Sequence[Box], layers: Layers, shapes: Shapes) -> list[float]:
    """The logarithm of the sides of each box's top, relative to any number."""
    sizes: list[float] = []
    for box in boxes:
        layer = layers[box.layers[0]]
        shape = shapes.get(layer.top[0], ()) if layer.top else ()
        before = sizes[box.reads[0]] if box.reads else (sizes[-1] if sizes else 0.0)
        if len(shape) > 2:
            sizes.append(log(max(1, max(shape[2:]))))
        elif shapes:
            sizes.append(0.0 if layer.top and layer.bottom and kind(layer) != "loss" else before)
        else:
            sizes.append(before - _halving(layer))
    return sizes


def _halving(layer: caffe_pb2.LayerParameter) -> float:
    options = layer.pooling_param if layer.type == "Pooling" else layer.convolution_param
    if layer.type not in ("Pooling", "Convolution", "Deconvolution"):
        return 0.0
    stride = _sides(options, "stride", "stride").partition("×")[0]
    return log(max(1, int(stride))) * (-1 if layer.type == "Deconvolution" else 1)


def _modules(boxes: Sequence[Box], layers: Layers) -> list[str]:
    heads = [name.partition("/")[0] if "/" in name else "" for name in (layers[box.layers[0]].name for box in boxes)]
    counts = Counter(heads)
    return [head if head and counts[head] >= MODULE and len(counts) < len(boxes) / 2 else "" for head in heads]


def _split(run: list[int], boxes: Sequence[Box], layers: Layers) -> list[list[int]]:
    """Part a run that is too long where names begin otherwise, else every so many boxes."""
    if len(run) <= MOST:
        return [run]
    names = {box: _tokens(layers[boxes[box].layers[0]].name) for box in run}
    for depth in (1, 2, 3):
        starts = {box: names[box][:depth] for box in run}
        parts = [list(group) for _, group in groupby(run, starts.__getitem__)]
        if len(parts) > 1 and max(map(len, parts)) <= MOST and len(parts) <= len(run) / 2:
            return _fill_up(parts)
    count = -(-len(run) // MOST)
    size = -(-len(run) // count)
    return [run[at : at + size] for at in range(0, len(run), size)]


def _fill_up(parts: list[list[int]]) -> list[list[int]]:
    """Join neighbours while they are together no longer than half of the most."""
    filled = [parts[0]]
    for part in parts[1:]:
        if len(filled[-1]) + len(part) <= MOST // 2:
            filled[-1] = filled[-1] + part
        else:
            filled.append(part)
    return filled


def _tokens(name: str) -> list[str]:
    return re.findall(r"[^_/.\-]+", name)


def stage_titles(boxes: Sequence[Box], layers: Layers, stages: Sequence[int]) -> list[str]:
    """Return a title for each stage: its module's name, else the names of its first and its last box."""
    members: defaultdict[int, list[str]] = defaultdict(list)
    for box, stage in zip(boxes, stages, strict=True):
        members[stage].append(layers[box.layers[0]].name)
    titles = []
    for names in members.values():
        heads = {name.partition("/")[0] for name in names}
        is_module = len(heads) == 1 and all("/" in name for name in names)
        titles.append(heads.pop() if is_module else " … ".join(dict.fromkeys([names[0], names[-1]])))
    return titles
