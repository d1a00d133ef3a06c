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

A layer that is not repeatable is never run again: its record counts as fresh. `Executor.recording` is set from the
start in a net that trains or has force_backward, and by the first backward in any other. `needed`, `down`: what Caffe
computes gradients of at all, see `needs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fcn_caffe.data.layers.dummy_data import DummyData
from fcn_caffe.layers.base import Layer, of_shape
from fcn_caffe.layers.python import Python
from fcn_caffe.net.graph import AUTOMATIC, Graph, Node
from fcn_caffe.net.net import Net as CoreNet
from fcn_caffe.net.rewrite.splits import insert_splits
from fcn_caffe.net.runner import Runner, infer_tops, naming
from fcn_caffe.net.runner import Step as CoreStep
from fcn_caffe.pycaffe.blob import Blob, BlobVec
from fcn_caffe.pycaffe.errors import raise_as_raised
from fcn_caffe.pycaffe.memory import Memory, ParamData, ParamDiff, owner_of
from fcn_caffe.pycaffe.needs import needs_of

# Tops of these share their bottom's memory in Caffe too.
_SHARES = ("Reshape", "Flatten", "Split")


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
    needed: whether backward runs. down: the bottoms whose diff is wanted. weights: the tops' loss weights.
    in_place: whether a top has a bottom's name.
    """

    node: Node
    core: CoreStep | None
    bottoms: BlobVec
    tops: BlobVec
    blobs: BlobVec
    needed: bool
    down: list[bool]
    weights: list[float]
    in_place: bool
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
        self._runner = core.runner()
        self._silent_runner = Runner(core)  # runs layers again without debug lines
        self.blobs: dict[str, Blob] = {}
        self.steps = self._make_steps()
        self.outputs = [name for name in self.graph.outputs if not name.startswith(AUTOMATIC)]

    def _make_steps(self) -> list[Step]:
        core_steps = _in_split_graph(self.core.steps, self.graph.nodes)
        needs = needs_of(self.graph, {index: step.layer for index, step in core_steps.items()}, self.forced)
        steps = []
        for node in self.graph.nodes:
            weights = needs.weights[node.index]
            self._make_blobs(node, weights)
            core = core_steps.get(node.index)
            params = BlobVec() if core is None else self._make_params(core.layer)
            bottoms = BlobVec(self.blobs[name] for name in node.bottoms)
            tops = BlobVec(self.blobs[name] for name in node.tops)
            step = Step(
                node,
                core,
                bottoms,
                tops,
                params,
                needs.layers[node.index],
                needs.bottoms[node.index],
                weights,
                bool(set(node.tops) & set(node.bottoms)),
            )
            if step.layer is not None:
                step.layer.follows_caffe = True
            if isinstance(step.layer, Python):
                step.layer.user.blobs = params
            if isinstance(step.layer, DummyData):
                for top, constant in zip(tops, step.layer.constants(), strict=True):
                    if constant is not None:
                        top.data_memory.adopt(constant.data)
            steps.append(step)
        return steps

    def _make_blobs(self, node: Node, weights: Sequence[float]) -> None:
        for name, weight in zip(node.tops, weights, strict=True):
            if name in self.blobs:
                continue
            if node.type == "Split" and name not in self.core.blob_shapes:
                data = self.blobs[node.bottoms[0]].data_memory
            else:
                data = Memory(self.core.blob_shapes[name])
            self.blobs[name] = Blob(data, Memory(data.shape, weight), self._wanted_device)

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

    def _is_plain_split(self, step: Step) -> bool:
        """Whether a step is a Split that only shares memory: with debug_info it runs as a layer, to be logged."""
        return step.node.type == "Split" and (step.core is None or self.core.debug is None)

    # -- forward --------------------------------------------------------------------------------------------------

    def forward(self, step: Step, device: torch.device) -> None:
        """Run one layer: its tops' data follow from its bottoms' data."""
        layer = step.layer
        if step.node.type == "Input":
            for top in step.tops:
                top.data_memory.prefer_array()
        elif self._is_plain_split(step):
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
        if step.in_place and any(top.data_memory.is_watched for top in step.tops):
            bottoms = [bottom.clone() for bottom in bottoms]  # what a script watches is about to be overwritten
        for top in step.tops:
            if top not in step.bottoms:
                top.data_memory.release()
        if step.needed and (self.recording or not core.layer.is_repeatable()):
            step.record = self._run_recorded(self._runner, step, core, bottoms)
            tops, step.before = step.record.tops, []
        else:
            with torch.no_grad():
                tops = self._runner.call_layer(core, bottoms)
            step.before = bottoms if step.in_place else []
        if not step.bottoms:
            tops = [top.to(device) for top in tops]
        lent = set() if step.node.type in _SHARES or step.in_place else {_storage(bottom) for bottom in bottoms}
        for blob, top in zip(step.tops, tops, strict=False):
            # `data` has a count of changes of its own: scripts write while graphs remember.
            blob.data_memory.adopt(top.data, _storage(top) in lent)
            blob.fit_diff()
        if step.record is not None:
            step.record.bottoms = [blob.data_memory.current() for blob in step.bottoms]

    def _run_recorded(self, runner: Runner, step: Step, core: CoreStep, bottoms: list[Tensor]) -> Record:
        """Run with gradients, over leaves that see what is written to the blobs later."""
        layer = core.layer
        leaves = [bottom.data for bottom in bottoms]
        for position, leaf in enumerate(leaves):
            if step.down[position] and position not in layer.undifferentiable and leaf.is_floating_point():
                leaf.requires_grad_()
        overwrite: Any = _Handle.apply
        handles = [overwrite(leaf) if layer.inplace and leaf.requires_grad else leaf for leaf in leaves]
        with torch.enable_grad(), self._learning(layer):
            tops = runner.call_layer(core, handles)
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
        layer.call_user(getattr(layer.user, method), *arguments)
        if method != "backward":
            for top in step.tops:
                top.fit_diff()

    def loss(self, steps: Sequence[Step], device: torch.device) -> float:
        """Return the sum over these layers' tops of loss weight times numbers."""
        total = 0.0
        for step in steps:
            for weight, top in zip(step.weights, step.tops, strict=True):
                if weight:
                    total += weight * float(top.data_memory.tensor(device).sum())
        return total

    # -- backward -------------------------------------------------------------------------------------------------

    def backward(self, step: Step, device: torch.device) -> None:
        """Run one layer backward: its bottoms' diffs follow from its tops' diffs; parameters' diffs add up."""
        if not step.needed or (not step.bottoms and not step.blobs):
            return
        for blob in step.blobs:
            blob.data_memory.flush()
        with raise_as_raised(), _naming(step):
            if isinstance(step.layer, Python):
                self._call_user(step, "backward", step.tops, list(step.down), step.bottoms)
            elif self._is_plain_split(step):
                if step.down[0]:
                    memories = [top.diff_memory for top in step.tops]
                    diffs = [memory.tensor(device) for memory in memories]
                    _adopt_diff(step.bottoms[0], sum(diffs[1:], diffs[0]), {_storage(diffs[0]): memories[0]})
            elif step.core is not None:
                self._backward(step, step.core, device)

    def _backward(self, step: Step, core: CoreStep, device: torch.device) -> None:
        self.recording = True  # it will be called again
        wanted = [position for position, down in enumerate(step.down) if down]
        wanted = [position for position in wanted if position not in core.layer.undifferentiable]
        arriving = [top.diff_memory for top in step.tops]
        record = self._fresh_record(step, core, device)
        pairs = [
            (top, diff.tensor(device))
            for top, diff in zip(record.tops, arriving, strict=False)
            if top.requires_grad and (diff.is_written or diff.rest)
        ]
        with self._learning(core.layer) as owners:
            inputs = [record.leaves[position] for position in wanted] + owners
            gradients: Sequence[Tensor | None] = [None] * len(inputs)
            if pairs and inputs:
                tops, diffs = zip(*pairs, strict=True)
                gradients = torch.autograd.grad(tops, inputs, diffs, retain_graph=True, allow_unused=True)
        known = {_storage(diff.tensor(device)): diff for diff in arriving if diff.is_written}
        for position, gradient in zip(wanted, gradients, strict=False):
            _adopt_diff(step.bottoms[position], gradient, known)
        for owner, gradient in zip(owners, gradients[len(wanted) :], strict=True):
            if gradient is not None:
                diff = next(blob.diff_memory for blob in step.blobs if blob.diff_memory.owner() is owner)
                diff.add(gradient.clone() if _storage(gradient) in known else gradient)

    def _fresh_record(self, step: Step, core: CoreStep, device: torch.device) -> Record:
        """Return the last run with gradients; run the layer again where there was none or its blobs have changed."""
        layer, record = core.layer, step.record
        if record is not None and (self._is_fresh(step, record, device) or not layer.is_repeatable()):
            return record
        bottoms = step.before or [blob.data_memory.tensor(device) for blob in step.bottoms]
        # An overwritten bottom is its own top by now, which these layers take for the same.
        inplace, layer.inplace = layer.inplace, False
        try:
            record = self._run_recorded(self._silent_runner, step, core, [bottom.to(device) for bottom in bottoms])
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
            if step.node.type == "Split":
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


def _in_split_graph(steps: Sequence[CoreStep], nodes: Sequence[Node]) -> dict[int, CoreStep]:
    """Return the core net's steps by the index of their node in the graph with Split layers, which keeps their order.

    Names do not tell: a net may have several layers of one name.
    """
    left = list(reversed(steps))
    return {
        node.index: left.pop()
        for node in nodes
        if left and (node.name, node.type) == (left[-1].node.name, left[-1].node.type)
    }


def _share(step: Step) -> None:
    for top in step.tops:
        top.share_data(step.bottoms[0])
        top.fit_diff()


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
