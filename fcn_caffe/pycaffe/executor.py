"""Runs a net layer by layer over Blobs, as Caffe does: any stretch of layers, forward or backward.

Layers compute in the blobs' memory, whose states `memory` lists. Backward needs a layer's graph: the `Record` of a run
with gradients. What a `Step` remembers of its layer's last forward:

| state      | flag     | set by                               | meaning                                         |
|------------|----------|--------------------------------------|-------------------------------------------------|
| recorded   | `record` | forward, where the executor is       | backward uses this graph while it is fresh: the |
|            |          | `recording` or the layer is not      | blobs and parameters that it read are the same  |
|            |          | repeatable; backward, when it runs   | tensors, unchanged                              |
|            |          | the layer again                      |                                                 |
| overwrote  | `before` | forward of an in-place layer without | its bottoms as they were: backward runs the     |
|            |          | gradients                            | layer again on them                             |
| unrecorded | neither  | forward without gradients            | backward runs the layer again on its bottoms    |

A layer that is not repeatable is never run again: its record counts as fresh; so does that of a layer that `keeps`
what it read. A layer whose own blobs are overwritten has its arithmetic in `overwritten`, and no record. A layer whose
top is its bottom's memory (`sharing`) computes nothing. `Executor.recording` is set from the start in a net that trains
or has force_backward, and by the first backward in any other. `needed`, `down`: what Caffe computes gradients of at
all, see `needs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fcn_caffe.data.layers.dummy_data import DummyData
from fcn_caffe.layers.base import Layer, of_shape
from fcn_caffe.layers.class_loss import HingeLoss
from fcn_caffe.layers.linear import Scale
from fcn_caffe.layers.python import Python
from fcn_caffe.net.debug_info import mean_size
from fcn_caffe.net.graph import AUTOMATIC, Graph, Node
from fcn_caffe.net.needs import gives_unasked, in_split_graph, needs_of, refused_gradients
from fcn_caffe.net.net import Net as CoreNet
from fcn_caffe.net.rewrite.splits import insert_splits
from fcn_caffe.net.runner import Runner, Shape, infer_tops, naming
from fcn_caffe.net.runner import Step as CoreStep
from fcn_caffe.net.sharing import Sharing, shares_bottom, shares_data
from fcn_caffe.pycaffe.blob import Blob, BlobVec
from fcn_caffe.pycaffe.errors import raise_as_raised
from fcn_caffe.pycaffe.memory import Memory, ParamData, ParamDiff, owner_of
from fcn_caffe.pycaffe.overwritten import Overwritten, keeps_forward, overwritten
from fcn_caffe.pycaffe.scratch import hinge_gradient, hinge_margins, overwrites_gradient, scale_product


@dataclass
class Record:
    """One run of a layer with gradients.

    leaves: what it read. bottoms: the tensors of the bottoms' blobs after it. tops: what it made.
    versions: how often each parameter had been changed.
    """

    leaves: list[Tensor]
    bottoms: list[Tensor | None]
    tops: Sequence[Tensor]
    versions: list[int]


@dataclass
class Step:
    """One layer in its place, as the face sees it.

    core: the core net's step; None for a Split layer that only the face has. blobs: the parameters.
    needed: whether backward runs. asked: the bottoms whose diff is wanted. down: those whose diff it gives.
    weights: the tops' loss weights. overwritten: the arithmetic of a layer whose blobs are overwritten.
    keeps: whether bottoms are overwritten later that backward needs as they were. shares: whether tops are the bottom's
    memory.
    in_place: whether a top has a bottom's name. shared_shapes: of a bottom, and of the top that is its memory.
    """

    node: Node
    core: CoreStep | None
    bottoms: BlobVec
    tops: BlobVec
    blobs: BlobVec
    needed: bool
    asked: list[bool]
    down: list[bool]
    weights: list[float]
    in_place: bool
    overwritten: Overwritten | None = None
    keeps: bool = False
    shares: bool = False
    shared_shapes: tuple[Shape, Shape] | None = None
    record: Record | None = None
    before: list[Tensor] = field(default_factory=list)

    @property
    def layer(self) -> Layer | None:
        """The core net's layer, if there is one."""
        return None if self.core is None else self.core.layer


class _Handle(torch.autograd.Function):
    """A leaf as a tensor that may be overwritten."""

    @staticmethod
    def forward(ctx: object, leaf: Tensor) -> Tensor:
        return leaf.data

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Executor:
    """The layers of a core net with Caffe's Split layers among them, and a Blob for every name.

    device: asked before each run; the net moves there.
    """

    def __init__(self, core: CoreNet, device: Callable[[], torch.device]) -> None:
        self.core, self._wanted_device = core, device
        self.graph = Graph.from_param(insert_splits(core.param))
        self.forced = bool(core.param.force_backward)
        self.recording = core.training or self.forced
        self._runner, self._debug = Runner(core), core.debug
        self.blobs: dict[str, Blob] = {}
        self.steps = self._make_steps()
        self.outputs = [name for name in self.graph.outputs if not name.startswith(AUTOMATIC)]

    def _make_steps(self) -> list[Step]:
        indices = in_split_graph(self.core.graph.nodes, self.graph.nodes)
        core_steps = {index: self.core.steps[own] for index, own in indices.items()}
        layers = {index: step.layer for index, step in core_steps.items()}
        needs = needs_of(self.graph, layers, self.forced)
        self._refused = refused_gradients(self.graph, layers, needs, self.forced)
        sharing = Sharing(self.graph)
        steps = []
        for node in self.graph.nodes:
            weights = needs.weights[node.index]
            core = core_steps.get(node.index)
            params = BlobVec() if core is None else self._make_params(core.layer)
            self._make_blobs(node, weights, params)
            bottoms = BlobVec(self.blobs[name] for name in node.bottoms)
            tops = BlobVec(self.blobs[name] for name in node.tops)
            needed, asked = needs.layers[node.index], needs.bottoms[node.index]
            unasked = gives_unasked(node) if needed else ()
            down = [ask or position in unasked for position, ask in enumerate(asked)]
            step = Step(
                node, core, bottoms, tops, params, needed, asked, down, weights, bool({*node.tops} & {*node.bottoms})
            )
            step.shares = shares_data(node)
            if core is not None:
                core.layer.follows_caffe = True
                step.overwritten = overwritten(node, core.layer, sharing)
                step.keeps = keeps_forward(node, sharing)
            if isinstance(step.layer, Python):
                step.layer.user.blobs = params
            if isinstance(step.layer, DummyData):
                for top, constant in zip(tops, step.layer.constants(), strict=True):
                    if constant is not None:
                        top.data_memory.adopt(constant.data)
            steps.append(step)
        return steps

    def _make_blobs(self, node: Node, weights: Sequence[float], params: BlobVec) -> None:
        for name, weight in zip(node.tops, weights, strict=True):
            if name not in self.blobs:
                shape = self.core.blob_shapes.get(name)
                if shape is None:  # a copy that the face has alone
                    shape = self.blobs[node.bottoms[0]].data_memory.shape
                self.blobs[name] = Blob(Memory(shape), Memory(shape, weight), self._wanted_device)
                if shares_data(node):
                    self.blobs[name].share_data(self.blobs[node.bottoms[0]], shape)
                if shares_bottom(node):
                    self.blobs[name].share_diff(self.blobs[node.bottoms[0]])
                if node.type == "Parameter":
                    _share_all(self.blobs[name], params[0])
            if weight and self.blobs[name].diff_memory.rest != weight:  # in memory that another layer has made
                self.blobs[name].diff_memory.adopt(torch.full(self.core.blob_shapes[name], weight))

    def _make_params(self, layer: Layer) -> BlobVec:
        return BlobVec(
            Blob(ParamData(layer, name), ParamDiff(layer, name), self._wanted_device) for name in layer.blob_names
        )

    @property
    def device(self) -> torch.device:
        """Where layers run now; the core net is moved if the mode has changed."""
        wanted = self._wanted_device()
        if self.core.device != wanted:
            self.core.to(wanted)
        return wanted

    # -- forward --------------------------------------------------------------------------------------------------

    def forward(self, step: Step, device: torch.device) -> None:
        """Run one layer: its tops' data follow from its bottoms' data."""
        self._compute(step, device)
        if self._debug is not None and self._debug.enabled and step.layer is not None:
            self._debug.show_tops(step.node, step.layer, [top.data_memory.tensor(device) for top in step.tops])

    def _compute(self, step: Step, device: torch.device) -> None:
        layer = step.layer
        if step.node.type == "Input":
            for top in step.tops:
                top.data_memory.prefer_array()
        elif step.node.type == "Parameter":
            _share_all(step.tops[0], step.blobs[0])
        elif step.shares:
            _share(step)
        elif isinstance(layer, DummyData):
            for index, (top, constant) in enumerate(zip(step.tops, layer.constants(), strict=True)):
                if constant is None:  # the others are filled once: what scripts write to them stays
                    top.data_memory.adopt(layer.make_top(index).to(device))
        elif isinstance(layer, Python):
            with raise_as_raised(), _naming(step):
                self._call_user(step, "reshape", step.bottoms, step.tops)
                self._call_user(step, "forward", step.bottoms, step.tops)
        else:
            assert step.core is not None
            for blob in step.blobs:
                blob.data_memory.flush()
            with _naming(step):
                self._forward(step, step.core, device)

    def _forward(self, step: Step, core: CoreStep, device: torch.device) -> None:
        step.record = None
        bottoms = [blob.data_memory.tensor(device) for blob in step.bottoms]
        overwrites = step.in_place and step.overwritten is None
        if step.keeps or (overwrites and any(top.data_memory.is_pinned for top in step.tops)):
            bottoms = [bottom.clone() for bottom in bottoms]  # they are about to be overwritten
        for top in step.tops:
            if top not in step.bottoms:
                top.data_memory.release()
        step.before = []
        if step.overwritten is not None:
            with torch.no_grad():
                tops = step.overwritten.forward(bottoms, lambda blobs: self._runner.call_layer(core, blobs))
        elif step.needed and (self.recording or step.keeps or not core.layer.is_repeatable()):
            step.record = self._run_recorded(step, core, bottoms)
            tops = step.record.tops
        else:
            with torch.no_grad():
                tops = self._runner.call_layer(core, bottoms)
            step.before = bottoms if step.in_place else []
        if not step.bottoms:
            tops = [top.to(device) for top in tops]
        lent = set() if step.in_place else {_storage(bottom) for bottom in bottoms}
        for blob, top in zip(step.tops, tops, strict=False):
            # `data` has a count of changes of its own: scripts write while graphs remember.
            blob.data_memory.adopt(top.data, _storage(top) in lent)
            blob.fit_diff()
        if step.record is not None:
            step.record.bottoms = [blob.data_memory.current() for blob in step.bottoms]
        if step.node.type == "HingeLoss":
            step.bottoms[0].diff_memory.adopt(hinge_margins(bottoms[0], bottoms[1]))

    def _run_recorded(self, step: Step, core: CoreStep, bottoms: list[Tensor]) -> Record:
        """Run with gradients, over leaves that see what is written to the blobs later."""
        layer = core.layer
        leaves = [bottom.data for bottom in bottoms]
        for position, leaf in enumerate(leaves):
            if step.down[position] and position not in layer.undifferentiable and leaf.is_floating_point():
                leaf.requires_grad_()
        overwrite: Any = _Handle.apply
        handles = [overwrite(leaf) if layer.inplace and leaf.requires_grad else leaf for leaf in leaves]
        with torch.enable_grad(), self._learning(layer):
            tops = self._runner.call_layer(core, handles)
        return Record(leaves, [], tops, _versions(layer))

    @contextmanager
    def _learning(self, layer: Layer) -> Iterator[list[nn.Parameter]]:
        """Yield the parameters to be differentiated by; with force_backward also those that do not learn."""
        owners = {id(owner): owner for owner in (owner_of(layer, name) for name in layer.blob_names)}
        forced = self.forced and layer.layer_type != "BatchNorm"  # its blobs are counts, which have no gradient
        fixed = [owner for owner in owners.values() if not owner.requires_grad] if forced else []
        for owner in fixed:
            owner.requires_grad_()
        try:
            yield [owner for owner in owners.values() if owner.requires_grad]
        finally:
            for owner in fixed:
                owner.requires_grad_(False)

    def _call_user(self, step: Step, method: str, *arguments: object) -> None:
        """Call a method of a Python layer's class over the face's own blobs."""
        layer = step.layer
        assert isinstance(layer, Python)
        layer.user.blobs = step.blobs
        layer.call_user(layer.method(method), *arguments)
        layer.check_own_blobs()
        if method != "backward":
            for top in step.tops:
                top.fit_diff()

    def loss(self, steps: Sequence[Step], device: torch.device) -> float:
        """Return the sum over these layers' tops of loss weight times numbers; the weights are in the tops' diffs."""
        total = 0.0
        for step in steps:
            for weight, top in zip(step.weights, step.tops, strict=True):
                if weight:
                    data, diff = top.data_memory.tensor(device), top.diff_memory
                    weighted = data * diff.tensor(device) if diff.is_written else data * weight
                    total += float(weighted.sum())
        return total

    # -- backward -------------------------------------------------------------------------------------------------

    def backward(self, step: Step, device: torch.device) -> None:
        """Run one layer backward: its bottoms' diffs follow from its tops' diffs; parameters' diffs add up."""
        if not step.needed:
            return
        if not step.bottoms or shares_bottom(step.node):
            self._show_gradients(step, device)
            return
        if step.node.index in self._refused:
            raise self._refused[step.node.index]
        for blob in step.blobs:
            blob.data_memory.flush()
        with raise_as_raised(), _naming(step):
            if isinstance(step.layer, Python):
                self._call_user(step, "backward", step.tops, list(step.down), step.bottoms)
            elif step.node.type == "Flatten":
                step.bottoms[0].share_diff(step.tops[0])
            elif step.node.type == "Split":
                if step.down[0]:
                    memories = [top.diff_memory for top in step.tops]
                    diffs = [memory.tensor(device) for memory in memories]
                    _adopt_diff(step.bottoms[0], sum(diffs[1:], diffs[0]), {_storage(diffs[0]): memories[0]})
            elif step.core is not None:
                self._backward(step, step.core, device)
        self._show_gradients(step, device)

    def _show_gradients(self, step: Step, device: torch.device) -> None:
        debug, layer = self._debug, step.layer
        if debug is None or not debug.enabled or layer is None:
            return
        sizes = {
            position: mean_size(blob.diff_memory.tensor(device))
            for position, blob in enumerate(step.bottoms)
            if step.asked[position]
        }
        learned = {
            index: param.diff_memory.current()
            for index, param in enumerate(step.blobs)
            if self.forced or layer.blobs[index].requires_grad
        }
        debug.show_gradients(step.node, sizes, learned)

    def _backward(self, step: Step, core: CoreStep, device: torch.device) -> None:
        self.recording = True  # it will be called again
        layer = core.layer
        wanted = [down and position not in layer.undifferentiable for position, down in enumerate(step.down)]
        arriving = [top.diff_memory for top in step.tops]
        bottoms = [blob.data_memory.tensor(device) for blob in step.bottoms]
        known = {_storage(diff.tensor(device)): diff for diff in arriving if diff.is_written}
        if step.overwritten is not None:
            top, dy = step.tops[0].data_memory.tensor(device), arriving[0].tensor(device)
            gradients = step.overwritten.backward(bottoms, top, dy, wanted)
        elif isinstance(layer, HingeLoss):
            left, weight = step.bottoms[0].diff_memory.tensor(device), arriving[0].tensor(device)
            gradients = [hinge_gradient(layer, left, bottoms[1], weight), None]
        else:
            gradients, learned = self._differentiate(step, core, wanted, device)
            self._give_parameters(step, learned, known)
            if isinstance(layer, Scale) and not wanted[0] and not step.in_place:
                self._leave_product(step, layer, bottoms, wanted, arriving[0].tensor(device))
        for position, gradient in enumerate(gradients):
            if wanted[position]:
                _adopt_diff(step.bottoms[position], gradient, known)

    def _differentiate(
        self, step: Step, core: CoreStep, wanted: Sequence[bool], device: torch.device
    ) -> tuple[list[Tensor | None], dict[nn.Parameter, Tensor]]:
        """Return the gradients of the bottoms that are wanted, by position, and of the parameters."""
        record = self._fresh_record(step, core, device)
        pairs = [
            (top, diff.tensor(device))
            for top, diff in zip(record.tops, [top.diff_memory for top in step.tops], strict=False)
            if top.requires_grad and (diff.is_written or diff.rest)
        ]
        positions = [position for position, is_wanted in enumerate(wanted) if is_wanted]
        bottoms: list[Tensor | None] = [None] * len(wanted)
        with self._learning(core.layer) as owners:
            inputs = [record.leaves[position] for position in positions] + owners
            if not pairs or not inputs:
                return bottoms, {}
            tops, diffs = zip(*pairs, strict=True)
            gradients = torch.autograd.grad(tops, inputs, diffs, retain_graph=True, allow_unused=True)
        for position, gradient in zip(positions, gradients, strict=False):
            bottoms[position] = gradient
        learned = zip(owners, gradients[len(positions) :], strict=True)
        return bottoms, {owner: gradient for owner, gradient in learned if gradient is not None}

    def _leave_product(
        self, step: Step, layer: Scale, bottoms: Sequence[Tensor], wanted: Sequence[bool], dy: Tensor
    ) -> None:
        """Leave in the bottom's diff what Scale computes there for its operand's gradient, where it is wanted."""
        operand = layer.weight if layer.learned else bottoms[1]
        if operand.requires_grad or self.forced if layer.learned else wanted[1]:
            product = scale_product(bottoms[0], operand, dy)
            if product is not None:
                step.bottoms[0].diff_memory.adopt(product)

    def _give_parameters(
        self, step: Step, gradients: Mapping[nn.Parameter, Tensor], known: Mapping[int, Memory]
    ) -> None:
        """Add gradients to the parameters' diffs. known: the memories that they may be part of, by storage."""
        layer, shape = step.layer, step.bottoms[0].data_memory.shape
        for owner, gradient in gradients.items():
            blob = next(blob for blob in step.blobs if blob.diff_memory.owner() is owner)
            gradient = gradient.clone() if _storage(gradient) in known else gradient
            if blob is step.blobs[0] and isinstance(layer, Scale) and overwrites_gradient(layer, shape):
                blob.diff_memory.replace(gradient)
            else:
                blob.diff_memory.add(gradient)

    def _fresh_record(self, step: Step, core: CoreStep, device: torch.device) -> Record:
        """Return the last run with gradients; run the layer again where there was none or its blobs have changed."""
        layer, record = core.layer, step.record
        is_kept = step.keeps or not layer.is_repeatable()
        if record is not None and (is_kept or self._is_fresh(step, record, device)):
            return record
        bottoms = step.before or [blob.data_memory.tensor(device) for blob in step.bottoms]
        # An overwritten bottom is its own top by now, which these layers take for the same.
        inplace, layer.inplace = layer.inplace, False
        try:
            record = self._run_recorded(step, core, [bottom.to(device) for bottom in bottoms])
        finally:
            layer.inplace = inplace
        record.bottoms = [blob.data_memory.current() for blob in step.bottoms]
        step.record = record
        return record

    def _is_fresh(self, step: Step, record: Record, device: torch.device) -> bool:
        assert step.layer is not None
        fresh = record.versions == _versions(step.layer)
        fresh &= all(leaf.device == device for leaf in record.leaves)
        if not step.in_place:
            for blob, bottom in zip(step.bottoms, record.bottoms, strict=True):
                fresh &= blob.data_memory.current() is bottom
                blob.data_memory.tensor(device)  # on a GPU: what a script wrote
        return fresh

    # -- shapes ---------------------------------------------------------------------------------------------------

    def reshape(self) -> None:
        """Give every blob the shape that follows from its layer's bottoms."""
        for step in self.steps:
            layer = step.layer
            if shares_data(step.node):
                _share(step)
            elif isinstance(layer, Python):
                with raise_as_raised(), _naming(step):
                    self._call_user(step, "reshape", step.bottoms, step.tops)
            elif step.bottoms:
                assert layer is not None
                with _naming(step), torch.no_grad():
                    tops = infer_tops(layer, [of_shape(*blob.shape) for blob in step.bottoms])
                for blob, top in zip(step.tops, tops, strict=False):
                    blob.reshape(*top.shape)


def _share_all(top: Blob, source: Blob) -> None:
    top.share_data(source, source.data_memory.shape)
    top.share_diff(source)


def _share(step: Step) -> None:
    """Let tops be their bottom, in the shape that follows from the bottom's."""
    bottom, layer = step.bottoms[0], step.layer
    shape = bottom.data_memory.shape
    if step.node.type == "Split":
        step.shared_shapes = shape, shape
    elif step.shared_shapes is None or step.shared_shapes[0] != shape:
        assert layer is not None
        with _naming(step), torch.no_grad():
            step.shared_shapes = shape, tuple(infer_tops(layer, [of_shape(*shape)])[0].shape)
    for top in step.tops:
        top.share_data(bottom, step.shared_shapes[1])
        if shares_bottom(step.node):
            top.share_diff(bottom)


def _adopt_diff(blob: Blob, gradient: Tensor | None, known: dict[int, Memory]) -> None:
    """Give a blob its diff, zero if none arrives. known: the memories that the gradient may be part of, by storage."""
    diff = blob.diff_memory
    if gradient is None:
        diff.release()
        diff.clear()
        return
    other = known.get(_storage(gradient))
    if other is None or other is diff:
        known[_storage(gradient)] = diff
        diff.adopt(gradient)
    elif other.is_watched:
        diff.adopt(gradient.clone())
    else:
        other.lend()
        diff.adopt(gradient, lent=True)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _versions(layer: Layer) -> list[int]:
    return [blob._version for blob in layer.parameters()]  # noqa: SLF001 (there is no public name)


def _naming(step: Step) -> AbstractContextManager[None]:
    """Let errors raised in the block name the layer."""
    return naming(step.node, lambda: [blob.data_memory.shape for blob in step.bottoms])
