"""How much memory a net takes: estimated from shapes, before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.conv import Convolution, Deconvolution
from fcn_caffe.layers.convolution_ways import ConvolveBy, Gemm
from fcn_caffe.layers.pooling import Pooling
from fcn_caffe.net.runner import Shape, Step, infer_tops

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net
    from fcn_caffe.net.training_runner import Segment

__all__ = [
    "forward_bytes",
    "infer_shapes",
    "kept_bytes",
    "shape_bytes",
    "solver_bytes",
    "training_bytes",
    "working_bytes",
]

FLOAT = 4  # bytes
MAPPED = 32 << 20  # bytes; glibc keeps smaller blocks when they are freed
TWO_HISTORIES = ("Adam", "AdaDelta")

_VIEWS = {"Crop", "Flatten", "Reshape", "Slice", "Split"}  # their tops are in the memory of their first bottom


def infer_shapes(steps: Iterable[Step], sources: Mapping[str, Shape]) -> list[list[Shape]]:
    """Return the shapes of each step's tops, for these shapes of the blobs that come from no layer's bottoms.

    Args:
        steps: the steps of a net, from the first on.
        sources: the shapes of the tops of layers without bottoms.
    Raises:
        LayerError: a layer cannot take such a shape.
    """
    blobs: dict[str, Tensor] = {}
    shapes = []
    for step in steps:
        if step.bottoms:
            tops = infer_tops(step.layer, [blobs[name] for name in step.bottoms])
        else:
            tops = [torch.empty(sources[name], device="meta") for name in step.tops]
        blobs.update(zip(step.tops, tops, strict=False))
        shapes.append([tuple(top.shape) for top in tops])
    return shapes


def forward_bytes(net: Net, sources: Mapping[str, Shape] | None = None) -> int:
    """Return about how many bytes one forward takes at its most, besides the parameters.

    Args:
        net: the net; what its steps free early is counted as free.
        sources: shapes of the tops of layers without bottoms, where they are not those that the net was built for.
    """
    shapes = infer_shapes(net.steps, {**net.blob_shapes, **(sources or {})})
    ledger, most = _Ledger(), 0
    for step, tops in zip(net.steps, shapes, strict=True):
        working = working_bytes(step.layer, [ledger.sizes.get(name, 0) for name in step.bottoms], tops)
        ledger.make(step, tops)
        most = max(most, ledger.total + working)
        ledger.free(step.frees)
    return most


def training_bytes(net: Net, segments: Sequence[Segment] = (), sources: Mapping[str, Shape] | None = None) -> int:
    """Return about how many bytes a training step takes at its most, besides parameters, their gradients and histories.

    Args:
        net: a train net.
        segments: how it is cut for `--checkpoint`; none for a plain step.
        sources: as in `forward_bytes`.
    """
    shapes = infer_shapes(net.steps, {**net.blob_shapes, **(sources or {})})
    sizes = {
        name: shape_bytes(shape)
        for step, tops in zip(net.steps, shapes, strict=True)
        for name, shape in zip(step.tops, tops, strict=False)
    }
    tops_of = {id(step): tops for step, tops in zip(net.steps, shapes, strict=True)}
    runs = [(segment.steps, segment.tops if segment.repeats else None) for segment in segments] or [(net.steps, None)]
    left = [
        sum(kept_bytes(step, tops_of[id(step)]) for step in steps)
        if tops is None
        else sum(sizes[name] for name in tops)
        for steps, tops in runs
    ]
    to_find = sum(_learned_bytes(step) for step in net.steps)
    most = 0
    for index in reversed(range(len(runs))):
        steps, before = runs[index][0], sum(left[:index])
        held = sum(kept_bytes(step, tops_of[id(step)]) for step in steps)
        for step in reversed(steps):
            tops, bottoms = tops_of[id(step)], [sizes[name] for name in step.bottoms]
            to_find -= _learned_bytes(step)
            gradients = sum(map(shape_bytes, tops)) + sum(bottoms)
            now = before + held + gradients + _backward_bytes(step.layer, bottoms, tops)
            most = max(most, now - to_find)
            freed = kept_bytes(step, tops)
            if segments or freed >= MAPPED:  # between segments freed memory is given back
                held -= freed
    return most


def solver_bytes(net: Net, solver_type: str) -> int:
    """Return the bytes of the gradients and of the histories of what a net learns."""
    learned = {id(item.blob): item.blob.numel() for item in net.learnable_params if item.lr_mult}
    return sum(learned.values()) * FLOAT * (3 if solver_type in TWO_HISTORIES else 2)


def _learned_bytes(step: Step) -> int:
    return sum(shape_bytes(blob.shape) for blob in step.layer.blobs)


def _backward_bytes(layer: Layer, bottoms: Sequence[int], tops: Sequence[Shape]) -> int:
    """Return about how many bytes a layer's backward takes besides its blobs and the gradients of all that it has."""
    way = layer.convolve if isinstance(layer, Convolution) else None
    if isinstance(layer, Convolution) and isinstance(way, ConvolveBy) and isinstance(way.weight, Gemm):
        return shape_bytes((*layer.weight.shape[1:], *tops[0][2:]))  # the columns
    # oneDNN copies the weights, and finds their gradient in an array of its own.
    weights = sum(shape_bytes(blob.shape) for blob in layer.blobs)
    return weights + working_bytes(layer, bottoms, tops)


def working_bytes(layer: Layer, bottoms: Sequence[int], tops: Sequence[Shape]) -> int:
    """Return about how many bytes a layer's forward takes besides its bottoms and tops.

    Measured with torch 2.13 on a CPU: oneDNN copies a convolution's bottom, then its top, and its weights into an order
    of its own; a maximum is found with its position, of 8 bytes.
    """
    made = sum(map(shape_bytes, tops))
    if layer.layer_type in ("Convolution", "Deconvolution"):
        weights = sum(shape_bytes(blob.shape) for blob in layer.blobs)
        return weights + (2 * made if isinstance(layer, Deconvolution) else max(made, sum(bottoms)))
    if isinstance(layer, Pooling):
        return 2 * made
    return made if layer.layer_type in ("LRN", "Softmax", "SoftmaxWithLoss") else 0


class _Ledger:
    """The blobs that are alive. Blobs of one memory are counted once."""

    def __init__(self) -> None:
        self.total = 0
        self.sizes: dict[str, int] = {}
        self._owners: dict[str, int] = {}  # the memory that a blob is in
        self._memories: list[tuple[int, int]] = []  # bytes, and how many blobs are in it

    def make(self, step: Step, tops: Sequence[Shape]) -> None:
        """Count a step's tops; one that takes its bottom's place or memory counts nothing."""
        owner = self._owners.get(step.bottoms[0]) if step.bottoms else None
        for name, shape in zip(step.tops, tops, strict=False):
            shares = owner is not None and (step.layer.layer_type in _VIEWS or step.layer.inplace)
            if not shares:
                self._memories.append((shape_bytes(shape), 0))
                self.total += shape_bytes(shape)
            memory = owner if shares and owner is not None else len(self._memories) - 1
            size, count = self._memories[memory]
            self._memories[memory] = size, count + 1
            if name in self._owners:
                self.free([name])
            self._owners[name], self.sizes[name] = memory, shape_bytes(shape)

    def free(self, names: Iterable[str]) -> None:
        """Count blobs no longer."""
        for name in names:
            memory = self._owners.pop(name)
            size, count = self._memories[memory]
            self._memories[memory] = size, count - 1
            if count == 1:
                self.total -= size


def kept_bytes(step: Step, tops: Sequence[Shape]) -> int:
    """Return about how many bytes a step's forward adds to what is kept for its backward."""
    made = sum(map(shape_bytes, tops))
    if step.layer.layer_type in _VIEWS or step.layer.inplace:
        return 0
    if step.layer.layer_type == "Dropout":
        return 2 * made  # and its mask
    return made


def shape_bytes(shape: Sequence[int]) -> int:
    """Return the bytes of a blob."""
    return prod(shape) * FLOAT
