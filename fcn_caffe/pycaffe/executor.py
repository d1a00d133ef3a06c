"""Runs a net layer by layer over Blobs, as Caffe does: any stretch of layers, forward or backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fcn_caffe.data.layers.dummy_data import DummyData
from fcn_caffe.errors import FcnCaffeError, GraphError, LayerError
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.python import Python
from fcn_caffe.net.graph import AUTOMATIC, Graph, Node
from fcn_caffe.net.net import Net as CoreNet
from fcn_caffe.net.rewrite.splits import insert_splits
from fcn_caffe.net.runner import FAILURES
from fcn_caffe.pycaffe.blob import Blob, BlobVec
from fcn_caffe.pycaffe.memory import Memory, ParamData, ParamDiff, owner_of
from fcn_caffe.pycaffe.needs import needs_of

# Layers of ours that draw random numbers or count what they see while training: to run them again is not the same.
_ONCE_IN_TRAINING = ("Dropout", "BatchNorm", "Pooling")
_ONCE = ("LSTM", "RNN")  # and these go on from where they were

# Tops of these share their bottom's memory in Caffe too.
_SHARES = ("Reshape", "Flatten", "Split")


@dataclass
class _Record:
    """One run of a layer with gradients: the leaves it read, the tensors of the blobs then, the tops it made."""

    leaves: list[Tensor]
    read: list[Tensor | None]
    tops: tuple[Tensor, ...]
    versions: list[int]


@dataclass
class Step:
    """One layer in its place, the face's view of it."""

    node: Node
    layer: Layer | None  # None for a Split that the face put in
    bottoms: BlobVec
    tops: BlobVec
    blobs: BlobVec
    needed: bool
    down: list[bool]
    weights: list[float]
    in_place: bool
    repeatable: bool
    record: _Record | None = None
    before: list[Tensor] = field(default_factory=list)  # an in-place layer's bottoms of its last run without gradients


class _Handle(torch.autograd.Function):
    """A leaf as a tensor that may be overwritten."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor) -> Tensor:
        return leaf.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Executor:
    """The layers of a core net with Caffe's Split layers among them, and a Blob for every name.

    device: asked before each run; the net moves there.
    """

    def __init__(self, core: CoreNet, device: Callable[[], torch.device]) -> None:
        self.core, self._wanted_device = core, device
        try:
            self.graph = Graph.from_param(insert_splits(core.param))
        except GraphError as error:  # the net as it is written has been wired, so it is this
            raise error.hinted(
                " It works in place on a blob that another layer reads too, of which Caffe makes copies."
            ) from error
        layers = core.layers_by_name
        self.forced = bool(core.param.force_backward)
        needs = needs_of(self.graph, layers, self.forced)
        self.blobs: dict[str, Blob] = {}
        self.steps: list[Step] = []
        # Graphs are kept where somebody is going to call backward: a net without is not slowed down.
        self.recording = core.training or self.forced
        for node in self.graph.nodes:
            layer = layers.get(node.name)
            weights = needs.weights[node.index]
            self._make_blobs(node, weights)
            params = BlobVec()
            if layer is not None:
                params.extend(
                    Blob(ParamData(layer, name), ParamDiff(layer, name), self._wanted_device)
                    for name in layer.blob_names
                )
            step = Step(
                node,
                layer,
                BlobVec(self.blobs[name] for name in node.bottoms),
                BlobVec(self.blobs[name] for name in node.tops),
                params,
                needs.layers[node.index],
                needs.bottoms[node.index],
                weights,
                bool(set(node.tops) & set(node.bottoms)),
                _repeatable(layer),
            )
            if isinstance(layer, Python):
                layer.user.blobs = params
            for top, constant in zip(step.tops, _constants(layer), strict=False):
                if constant is not None:
                    top._data.adopt(constant.data)
            self.steps.append(step)
        self.outputs = [name for name in self.graph.outputs if not name.startswith(AUTOMATIC)]

    def _make_blobs(self, node: Node, weights: Sequence[float]) -> None:
        for name, weight in zip(node.tops, weights, strict=True):
            if name in self.blobs:
                continue
            if node.type == "Split" and name not in self.core.blob_shapes:
                data = self.blobs[node.bottoms[0]]._data
            else:
                data = Memory(self.core.blob_shapes[name])
            self.blobs[name] = Blob(data, Memory(data.shape, weight), self._wanted_device)

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
        layer = step.layer
        if step.node.type == "Input":
            for top in step.tops:
                top._data.uploaded()
        elif step.node.type == "Split" and (layer is None or self.core.debug is None):
            _share(step)
        elif isinstance(layer, DummyData):
            for index, (top, constant) in enumerate(zip(step.tops, _constants(layer), strict=True)):
                if constant is None:  # the others are filled once: what people write to them stays
                    top._data.adopt(layer.make_top(index).to(device))
        elif isinstance(layer, Python):
            with _named(step):
                self._python(step, "reshape", step.bottoms, step.tops)
                self._python(step, "forward", step.bottoms, step.tops)
        else:
            assert layer is not None
            for blob in step.blobs:
                blob._data.flush()
            with _named(step):
                self._forward(step, layer, device)

    def _forward(self, step: Step, layer: Layer, device: torch.device) -> None:
        step.record = None
        bottoms = [blob._data.tensor(device) for blob in step.bottoms]
        if step.in_place and any(top._data.watched for top in step.tops):
            bottoms = [bottom.clone() for bottom in bottoms]  # what people watch is about to be overwritten
        for top in step.tops:
            if top not in step.bottoms:
                top._data.release()
        if step.needed and (self.recording or not step.repeatable):
            step.record = self._recorded(step, layer, bottoms)
            made, step.before = step.record.tops, []
        else:
            with torch.no_grad():
                made = _tuple(layer(*bottoms))
            step.before = bottoms if step.in_place else []
        if not step.bottoms:
            made = tuple(top.to(device) for top in made)
        lent = set() if step.node.type in _SHARES or step.in_place else {_storage(bottom) for bottom in bottoms}
        for top, tensor in zip(step.tops, made, strict=False):
            # `data` has a count of changes of its own: people write while graphs remember.
            top._data.adopt(tensor.data, _storage(tensor) in lent)
            top._fitting_diff()
        if step.record is not None:
            step.record.read = [blob._data.held() for blob in step.bottoms]

    def _recorded(self, step: Step, layer: Layer, bottoms: list[Tensor]) -> _Record:
        """Run with gradients, over leaves that see what is written to the blobs later."""
        leaves = [bottom.data for bottom in bottoms]
        for position, leaf in enumerate(leaves):
            if step.down[position] and position not in layer.undifferentiable and leaf.is_floating_point():
                leaf.requires_grad_()
        handle: Any = _Handle.apply
        given = [handle(leaf) if layer.inplace and leaf.requires_grad else leaf for leaf in leaves]
        with torch.enable_grad(), self._demanded(layer):
            made = _tuple(layer(*given))
        return _Record(leaves, [], made, [blob._version for blob in layer.parameters()])

    @contextmanager
    def _demanded(self, layer: Layer) -> Iterator[list[nn.Parameter]]:
        """The parameters to be differentiated by; with force_backward also those that do not learn."""
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

    def _python(self, step: Step, method: str, *arguments: Any) -> None:
        """One method of a Python layer over the face's own blobs."""
        layer = step.layer
        assert isinstance(layer, Python)
        layer.user.blobs = step.blobs
        layer._call(getattr(layer.user, method), *arguments)
        if method != "backward":
            for top in step.tops:
                top._fitting_diff()

    def loss(self, steps: Sequence[Step], device: torch.device) -> float:
        """The sum over these layers' tops of loss weight times numbers."""
        total = 0.0
        for step in steps:
            for weight, top in zip(step.weights, step.tops, strict=True):
                if weight:
                    total += weight * float(top._data.tensor(device).sum())
        return total

    # -- backward -------------------------------------------------------------------------------------------------

    def backward(self, step: Step, device: torch.device) -> None:
        """Run one layer backward: its bottoms' diffs follow from its tops' diffs; parameters' diffs add up."""
        layer = step.layer
        if not step.needed or (not step.bottoms and not step.blobs):
            return
        for blob in step.blobs:
            blob._data.flush()
        with _named(step):
            if isinstance(layer, Python):
                self._python(step, "backward", step.tops, list(step.down), step.bottoms)
            elif step.node.type == "Split" and (layer is None or self.core.debug is None):
                if step.down[0]:
                    diffs = [top._fitting_diff().tensor(device) for top in step.tops]
                    _adopt_diff(step.bottoms[0], sum(diffs[1:], diffs[0]), {_storage(diffs[0]): step.tops[0]._diff})
            elif layer is not None:
                self._backward(step, layer, device)

    def _backward(self, step: Step, layer: Layer, device: torch.device) -> None:
        self.recording = True  # it will be called again
        wanted = [position for position, down in enumerate(step.down) if down]
        wanted = [position for position in wanted if position not in layer.undifferentiable]
        arriving = [top._fitting_diff() for top in step.tops]
        record = self._record(step, layer, device)
        pairs = [
            (top, diff.tensor(device))
            for top, diff in zip(record.tops, arriving, strict=False)
            if top.requires_grad and diff.written | bool(diff.rest)
        ]
        with self._demanded(layer) as owners:
            inputs = [record.leaves[position] for position in wanted] + owners
            found: Sequence[Tensor | None] = [None] * len(inputs)
            if pairs and inputs:
                tops, diffs = zip(*pairs, strict=True)
                found = torch.autograd.grad(tops, inputs, diffs, retain_graph=True, allow_unused=True)
        known = {_storage(diff.tensor(device)): diff for diff in arriving if diff.written}
        for position, gradient in zip(wanted, found, strict=False):
            _adopt_diff(step.bottoms[position], gradient, known)
        for owner, gradient in zip(owners, found[len(wanted) :], strict=True):
            if gradient is not None:
                blob = next(blob for blob in step.blobs if blob._diff.owner() is owner)
                blob._diff.add(gradient.clone() if _storage(gradient) in known else gradient)

    def _record(self, step: Step, layer: Layer, device: torch.device) -> _Record:
        """The last run with gradients, or the layer run again where there was none or its blobs have changed."""
        record = step.record
        if record is not None:
            fresh = record.versions == [blob._version for blob in layer.parameters()]
            fresh &= all(leaf.device == device for leaf in record.leaves)
            if not step.in_place:
                for blob, tensor in zip(step.bottoms, record.read, strict=True):
                    fresh &= blob._data.held() is tensor or isinstance(blob._data, ParamData)
                    blob._data.tensor(device)  # on a GPU: what people wrote
            if fresh or not step.repeatable:
                return record
        bottoms = step.before or [blob._data.tensor(device) for blob in step.bottoms]
        debug, was = self.core.debug, layer.inplace
        enabled = debug is not None and debug.enabled
        if debug is not None:
            debug.enabled = False
        # An overwritten bottom is its own top by now, which these layers take for the same.
        layer.inplace = False
        try:
            record = self._recorded(step, layer, [bottom.to(device) for bottom in bottoms])
        finally:
            layer.inplace = was
            if debug is not None:
                debug.enabled = enabled
        record.read = [blob._data.held() for blob in step.bottoms]
        step.record = record
        return record

    # -- shapes ---------------------------------------------------------------------------------------------------

    def reshape(self) -> None:
        """Give every blob the shape that follows from its layer's bottoms."""
        for step in self.steps:
            layer = step.layer
            if step.node.type == "Split":
                _share(step)
            elif isinstance(layer, Python):
                with _named(step):
                    self._python(step, "reshape", step.bottoms, step.tops)
            elif step.bottoms:
                assert layer is not None
                with _named(step), torch.no_grad():
                    made = _tuple(layer.infer(*(torch.empty(blob._data.shape, device="meta") for blob in step.bottoms)))
                for top, tensor in zip(step.tops, made, strict=False):
                    top.reshape(*tensor.shape)


def _repeatable(layer: Layer | None) -> bool:
    if layer is None:
        return True
    if not type(layer).__module__.startswith("fcn_caffe.layers."):
        return False  # somebody's own layer: nobody knows
    return layer.layer_type not in _ONCE and not (layer.training and layer.layer_type in _ONCE_IN_TRAINING)


def _constants(layer: Layer | None) -> list[Tensor | None]:
    """DummyData's tops that are filled once, None in the place of others; nothing for other layers."""
    if not isinstance(layer, DummyData):
        return []
    return layer.constants()


def _share(step: Step) -> None:
    for top in step.tops:
        top._data = step.bottoms[0]._data
        top._fitting_diff()


def _adopt_diff(blob: Blob, gradient: Tensor | None, known: dict[int, Memory]) -> None:
    """Give a blob its diff, zero if none arrives; `known` are those whose memory the gradient may be part of."""
    diff = blob._fitting_diff()
    if gradient is None:
        diff.release()
        diff.clear()
        return
    other = known.get(_storage(gradient))
    if other is None or other is diff:
        known[_storage(gradient)] = diff
        diff.adopt(gradient)
    elif other.watched:
        diff.adopt(gradient.clone())
    else:
        other.lend()
        diff.adopt(gradient, lent=True)


def _tuple(made: Any) -> tuple[Tensor, ...]:
    return (made,) if isinstance(made, Tensor) else tuple(made)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def _named(step: Step) -> Iterator[None]:
    """Errors in here say which layer they are of."""
    try:
        yield
    except FcnCaffeError as error:
        raise error.named(str(step.node)) from error.__cause__
    except FAILURES as error:
        shapes = ", ".join(
            f"{name} {show(blob._data.shape)}" for name, blob in zip(step.node.bottoms, step.bottoms, strict=True)
        )
        raise LayerError(f"failed on {shapes or 'no bottoms'}: {error}", step.node.name, step.node.type) from error
