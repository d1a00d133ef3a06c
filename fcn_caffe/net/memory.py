"""How much memory a net takes: estimated from shapes, before it runs.

Blobs, gradients and what layers need besides are taken and given back in the order of a pass, from a `Heap` that
does as the C library does. What torch and oneDNN take besides was measured with torch 2.13 on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.conv import Convolution, Deconvolution
from fcn_caffe.layers.convolution_ways import ConvolveBy, Gemm, Prepacked
from fcn_caffe.layers.forks.batch_norm import PSPNetBN, SegNetBN
from fcn_caffe.layers.forks.mean_field import MultiStageMeanfield, filtering_bytes, mean_field_bytes
from fcn_caffe.layers.maxima import LARGEST_KERNEL, SMALLEST
from fcn_caffe.layers.pooling import Pooling
from fcn_caffe.net.heap import Block, Heap
from fcn_caffe.net.runner import Shape, Step, infer_tops

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net
    from fcn_caffe.net.training_runner import Segment

__all__ = [
    "forward_bytes",
    "infer_shapes",
    "kept_bytes",
    "learned_bytes",
    "shape_bytes",
    "solver_bytes",
    "training_bytes",
    "update_bytes",
]

FLOAT = 4  # bytes
CODE = 200_000  # bytes: what oneDNN compiles for one convolution, forward, for its bottom, or for its weights
CODES = range(50_000, 350_000, 50_000)  # it may be more or less, and decides what fits where: passes take the mean
GAPS = 1.15  # what the C library keeps more than a `Heap`; of two like runs one takes up to a quarter more of blobs
TWO_HISTORIES = ("Adam", "AdaDelta")

_VIEWS = {"Crop", "Flatten", "Reshape", "Slice", "Split"}  # their tops are in the memory of their first bottom
_PASSED_ON = {"Eltwise", "Flatten", "Reshape", "Split"}  # the gradient of the top is that of the bottom
# Layers that compute in steps: how many arrays of the top's size are there besides it at the most.
_STEPS = {"BN": 1, "Bias": 1, "ELU": 1, "LRN": 3, "MVN": 2, "PReLU": 1, "Scale": 1, "Upsample": 1}
_KEPT = {"LRN": 3, "MVN": 2}  # and of those, the ones that backward reads; PyTorch's own layers read their bottom
_MASKED = 14  # and a pooling that gives its mask, whose positions are of 8 bytes
_KEEP_TOP = {"ELU", "Exp", "PReLU", "ReLU", "Sigmoid", "Softmax", "TanH"}  # what their backward reads


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
    heap = Heap()
    blobs = _Blobs(heap)
    packed = sum(_weights(step.layer) for step in net.steps if _is_packed(step.layer))
    for step, tops in zip(net.steps, shapes, strict=True):
        blobs.make(step, tops)
        blobs.free(step.frees)
    return round(heap.most * GAPS) + packed


def training_bytes(net: Net, segments: Sequence[Segment] = (), sources: Mapping[str, Shape] | None = None) -> int:
    """Return about how many bytes a training step takes at its most, besides parameters, their gradients and histories.

    Args:
        net: a train net.
        segments: how it is cut for `--checkpoint`; none for a plain step.
        sources: as in `forward_bytes`.
    """
    shapes = infer_shapes(net.steps, {**net.blob_shapes, **(sources or {})})
    tops = dict(zip(map(id, net.steps), shapes, strict=True))
    learned = [item.blob.numel() * FLOAT for item in net.learnable_params if item.lr_mult]
    peaks = []
    for code in CODES:
        pass_ = _TrainingPass(net, tops, code)
        pass_.run(segments)
        for size in learned:  # the history comes to lie behind what the first pass has used; the second finds it there
            pass_.heap.take(size)
        pass_.run(segments)
        peaks.append(max(0, pass_.heap.most - 2 * sum(learned)))
    return round(fmean(peaks) * GAPS)


def solver_bytes(net: Net, solver_type: str) -> int:
    """Return the bytes of the gradients and of the histories of what a net learns."""
    return learned_bytes(net) * (3 if solver_type in TWO_HISTORIES else 2)


def learned_bytes(net: Net) -> int:
    """Return the bytes of what a net learns."""
    learned = {id(item.blob): item.blob.numel() for item in net.learnable_params if item.lr_mult}
    return sum(learned.values()) * FLOAT


def update_bytes(net: Net, solver_type: str) -> int:
    """Return about how many bytes an update takes besides parameters, gradients and histories."""
    arrays = {"AdaDelta": 2, "AdaGrad": 1, "Adam": 1, "RMSProp": 1}.get(solver_type, 0)
    return arrays * max((item.blob.numel() * FLOAT for item in net.learnable_params if item.lr_mult), default=0)


def kept_bytes(step: Step, tops: Sequence[Shape]) -> int:
    """Return about how many bytes a step's forward adds to what is kept for its backward."""
    made = sum(map(shape_bytes, tops))
    if _shares(step):
        return 0
    if step.layer.layer_type == "Dropout":
        return 2 * made  # and its mask
    return made


def shape_bytes(shape: Sequence[int]) -> int:
    """Return the bytes of a blob."""
    return prod(shape) * FLOAT


# -- layers --------------------------------------------------------------------------------------------------------


def _shares(step: Step) -> bool:
    """Whether a step's tops are in its first bottom's memory; of the layers that may overwrite it, ReLU alone does."""
    overwrites = step.layer.inplace and step.layer.layer_type == "ReLU"
    return bool(step.bottoms) and (step.layer.layer_type in _VIEWS or overwrites)


def _replaced(step: Step) -> list[str]:
    """Return the blobs that a step makes anew under the name of its bottom, in other memory."""
    return [] if _shares(step) else [name for name in step.tops if name in step.bottoms]


def _before(step: Step, name: str) -> str:
    """Return what a blob that a step replaces is called while backward still reads it."""
    return f"{name} before {step.node}"


def _weights(layer: Layer) -> int:
    return sum(shape_bytes(blob.shape) for blob in layer.blobs)


def _learned(step: Step) -> int:
    return sum(shape_bytes(blob.shape) for blob in step.layer.blobs if blob.requires_grad)


def _way(layer: Layer) -> object:
    convolve = layer.convolve if isinstance(layer, Convolution) else None
    return convolve.forward if isinstance(convolve, ConvolveBy) else None


def _is_packed(layer: Layer) -> bool:
    return isinstance(_way(layer), Prepacked)


def _columns(layer: Convolution, top: Shape) -> int:
    return shape_bytes((*layer.weight.shape[1:], *top[2:]))


def _working(layer: Layer, bottoms: Sequence[int], tops: Sequence[Shape]) -> tuple[list[int], list[int]]:
    """Return the bytes of arrays that a forward takes: those given back before its tops are written, and the others.

    oneDNN copies a convolution's bottom and its weights into an order of its own, and its top out of it.
    """
    made = shape_bytes(tops[0]) if tops else 0
    if isinstance(layer, Convolution):
        if isinstance(_way(layer), Gemm):
            return [], [_columns(layer, tops[0])]
        if max(layer.kernel, default=1) == 1:
            return [], []
        weights = 0 if _is_packed(layer) else _weights(layer)
        return [sum(bottoms)], [weights, sum(map(shape_bytes, tops))]
    if isinstance(layer, Deconvolution):
        return [], [_weights(layer), made, made]
    if isinstance(layer, Pooling):
        return [], [sum(bottoms), *[made] * _MASKED] if len(tops) > 1 else [_positions(layer, bottoms, tops)]
    if isinstance(layer, MultiStageMeanfield):
        return [], [max(0, mean_field_bytes(*_mean_field(tops[0])) - made)]
    if layer.loss:
        return [], [bottoms[0], bottoms[0]] if bottoms else []
    return [], [made] * _steps(layer)


def _mean_field(top: Shape) -> tuple[int, int, int]:
    """Return the pixels, points and classes of a mean field over a photograph, whose lattice has few points."""
    _, classes, height, width = top
    return height * width, height * width // 2, classes


def _steps(layer: Layer) -> int:
    if isinstance(layer, PSPNetBN):
        return 0 if layer.training else 3
    by_batch = isinstance(layer, SegNetBN) and layer.learns  # in one step
    return 0 if by_batch else _STEPS.get(layer.layer_type, 0)


def _positions(layer: Pooling, bottoms: Sequence[int], tops: Sequence[Shape]) -> int:
    """Return the bytes of the positions of maxima: 8 each; none where `maxima` finds them."""
    is_quick = max(layer.kernel) <= LARGEST_KERNEL and bottoms[0] >= SMALLEST * FLOAT and len(tops) == 1
    return 0 if is_quick or not layer.maximum else 2 * shape_bytes(tops[0])


def _kept_besides(layer: Layer, bottoms: Sequence[int], tops: Sequence[Shape]) -> list[int]:
    """Return the bytes of the arrays that a layer keeps for its backward, besides its bottoms and tops."""
    made = shape_bytes(tops[0]) if tops else 0
    if layer.layer_type == "Dropout":
        return [made]  # its mask
    if isinstance(layer, Pooling) and layer.maximum:
        return [_positions(layer, bottoms, tops) or made // 4]
    if layer.loss and bottoms:
        return [bottoms[0]]  # logarithms of probabilities
    if layer.layer_type in ("Unpooling", "Upsample"):
        return [2 * bottoms[0]]  # the places that its mask says, of 8 bytes
    if isinstance(layer, MultiStageMeanfield):  # probabilities, what filters make of them, what weights make of that
        return [8 * made] * layer.iterations
    return [made] * _KEPT.get(layer.layer_type, 0)


def _backward_working(layer: Layer, bottoms: Sequence[int], tops: Sequence[Shape], wants_bottom: bool) -> list[int]:
    """Return the bytes of the arrays that a layer's backward takes besides blobs and gradients."""
    if isinstance(layer, Convolution):
        if isinstance(_way(layer), Gemm):
            return [_columns(layer, tops[0])] * (2 if wants_bottom else 1)
        made = sum(map(shape_bytes, tops))
        # Copies of the weights and of their gradient; of the top's gradient, and of the bottom or its gradient.
        return [_weights(layer), _weights(layer), made, sum(bottoms)]
    if isinstance(layer, Deconvolution):
        return [_weights(layer), _weights(layer), *map(shape_bytes, tops)]
    if isinstance(layer, MultiStageMeanfield):
        return [filtering_bytes(*_mean_field(tops[0]))]
    if layer.layer_type == "PReLU":
        return [sum(bottoms)]  # the gradient of the slope, before it is added up
    return [bottoms[0]] if layer.loss and bottoms else []


class _Blobs:
    """The blobs that are alive, in a heap. Blobs of one memory are counted once."""

    def __init__(self, heap: Heap, code: int = CODE) -> None:
        self.heap, self._code = heap, code
        self.sizes: dict[str, int] = {}
        self._owners: dict[str, int] = {}  # the memory that a blob is in
        self._memories: list[tuple[Block, int]] = []  # and how many blobs are in it
        self._compiled: set[tuple[object, ...]] = set()

    def compile(self, step: Step, tops: Sequence[Shape], *parts: str) -> None:
        """Take what oneDNN compiles for the parts of a convolution, once for all that are alike; it stays."""
        layer = step.layer
        if isinstance(layer, (Convolution, Deconvolution)):
            kind = layer.layer_type, *tops[0], *layer.weight.shape, *layer.stride, *layer.dilation
            for part in parts:
                if (*kind, part) not in self._compiled:
                    self._compiled.add((*kind, part))
                    self.heap.take(self._code)

    def make(self, step: Step, tops: Sequence[Shape]) -> None:
        """Run a step: its tops are there after it; one that takes its bottom's place or memory takes none."""
        before, during = _working(step.layer, [self.sizes.get(name, 0) for name in step.bottoms], tops)
        owner = self._owners.get(step.bottoms[0]) if step.bottoms and _shares(step) else None
        made = [] if owner is not None else [self.heap.reserve(shape_bytes(shape)) for shape in tops]
        copies, others = list(map(self.heap.take, before)), list(map(self.heap.take, during))
        self.compile(step, tops, "forward")
        for block in copies:
            self.heap.give(block)
        for place, (name, shape) in enumerate(zip(step.tops, tops, strict=False)):
            memory = len(self._memories) if owner is None else owner
            if owner is None:
                self.heap.touch(made[place])
                self._memories.append((made[place], 0))
            block, count = self._memories[memory]
            self._memories[memory] = block, count + 1
            if name in self._owners:
                self.free([name])
            self._owners[name], self.sizes[name] = memory, shape_bytes(shape)
        for block in others:
            self.heap.give(block)

    def __contains__(self, name: str) -> bool:
        return name in self._owners

    def rename(self, name: str, other: str) -> None:
        """Give a blob that is there another name."""
        self._owners[other], self.sizes[other] = self._owners.pop(name), self.sizes[name]

    def free(self, names: Iterable[str]) -> None:
        """Forget blobs, those that are there."""
        for name in names:
            if name not in self._owners:
                continue
            memory = self._owners.pop(name)
            block, count = self._memories[memory]
            self._memories[memory] = block, count - 1
            if count == 1:
                self.heap.give(block)


class _TrainingPass:
    """Passes forward and backward of a net that learns, as far as memory goes.

    Args:
        net: the net.
        tops: the shapes of each step's tops, by the step's id.
        code: how many bytes are compiled for a convolution's part.
    """

    def __init__(self, net: Net, tops: Mapping[int, Sequence[Shape]], code: int) -> None:
        self.steps, self.tops, self.losses = net.steps, tops, net.loss_weights
        self.heap = Heap()
        self._blobs = _Blobs(self.heap, code)
        self.learning: set[str] = set()  # the blobs that get a gradient
        for step in net.steps:
            open_ = [name for place, name in enumerate(step.bottoms) if place not in step.blocked]
            if _learned(step) or self.learning.intersection(open_):
                self.learning.update(step.tops)
        self._gradients: list[Block] = []  # of the weights, until the next pass

    def run(self, segments: Sequence[Segment]) -> None:
        """Run once, as cut for `--checkpoint`, if it is."""
        for block in self._gradients:
            self.heap.give(block)
        self._gradients = []
        self._kept: dict[int, list[Block]] = {}
        self._flowing: dict[str, Block] = {}  # the gradients of blobs
        runs = [(segment.steps, segment.repeats) for segment in segments] or [(self.steps, False)]
        for steps, repeats in runs:
            for step in steps:
                self._forward(step, keeps=not repeats)
        for steps, repeats in reversed(runs):
            if repeats:
                self.heap.trim()
                for step in steps:
                    self._forward(step, keeps=True)
            for step in reversed(steps):
                self._backward(step)
        for step in self.steps:
            self._blobs.free(step.tops)

    def _forward(self, step: Step, keeps: bool) -> None:
        tops = self.tops[id(step)]
        is_kept = keeps and bool(self.learning.intersection(step.tops))
        if is_kept:
            for name in filter(self._blobs.__contains__, _replaced(step)):
                self._blobs.rename(name, _before(step, name))
        self._blobs.make(step, tops)
        if is_kept:
            sizes = [self._blobs.sizes[name] for name in step.bottoms]
            self._kept[id(step)] = list(map(self.heap.take, _kept_besides(step.layer, sizes, tops)))
        else:
            self._blobs.free(step.frees)

    def _backward(self, step: Step) -> None:
        tops, layer = self.tops[id(step)], step.layer
        is_reached = any(name in self._flowing or name in self.losses for name in step.tops)
        keeps_top = layer.layer_type in _KEEP_TOP
        if not keeps_top:
            self._free_made(step)
        if is_reached and self.learning.intersection(step.tops):
            sizes = [self._blobs.sizes[name] for name in step.bottoms]
            wanted = [
                name for place, name in enumerate(step.bottoms) if name in self.learning and place not in step.blocked
            ]
            self._blobs.compile(step, tops, "bottom", "weights")
            working = list(map(self.heap.take, _backward_working(layer, sizes, tops, bool(wanted))))
            self._gradients += [self.heap.take(shape_bytes(blob.shape)) for blob in layer.blobs if blob.requires_grad]
            incoming = [self._flowing.pop(name) for name in step.tops if name in self._flowing]
            for name in wanted:
                self._flow(step, name, incoming)
            for block in (*working, *incoming):
                self.heap.give(block)
        for block in self._kept.pop(id(step), ()):
            self.heap.give(block)
        if keeps_top:
            self._free_made(step)

    def _flow(self, step: Step, name: str, incoming: list[Block]) -> None:
        """Make the gradient of a bottom; one that is the top's own takes its memory. Several are added up."""
        if name in self._flowing:
            self.heap.give(self.heap.take(self._blobs.sizes[name]))
        elif step.layer.layer_type in _PASSED_ON and incoming:
            self._flowing[name] = incoming.pop()
        else:
            self._flowing[name] = self.heap.take(self._blobs.sizes[name])

    def _free_made(self, step: Step) -> None:
        """Free the blobs that a step has made, after their last reader's backward; not what it has only changed."""
        self._blobs.free(name for name in step.tops if name not in step.bottoms)
        for name in _replaced(step):
            if _before(step, name) in self._blobs:
                self._blobs.free([name])
                self._blobs.rename(_before(step, name), name)
