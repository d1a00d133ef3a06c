"""A net: layers built from a NetParameter, run in file order, as an ordinary torch module."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcn_caffe.errors import FcnCaffeError, GraphError, LayerError
from fcn_caffe.host.paths import Paths, Surroundings
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import REGISTRY, Layer, create_layer
from fcn_caffe.net.coord_map import crop_offset
from fcn_caffe.net.debug_info import DebugInfo
from fcn_caffe.net.graph import AUTOMATIC, Graph, Node, filter_net, read_net
from fcn_caffe.net.parameters import LearnableParam, create_params
from fcn_caffe.net.rewrite.splits import insert_splits
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.proto.upgrade import upgrade_net

Shape = tuple[int, ...]

# What torch, NumPy and Python raise of shapes, numbers and sizes that do not go: the net says in which layer.
_FAILURES = (RuntimeError, ValueError, IndexError, TypeError, ArithmeticError, MemoryError)


@dataclass(frozen=True)
class _Step:
    """What the executor does for one node."""

    layer: Layer
    node: Node
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    frees: tuple[str, ...]
    blocked: tuple[int, ...]  # bottoms that propagate_down or the layer type shuts off from gradient


class Net(nn.Module):
    """A Caffe net as a torch module: `net(data=x)` returns its output blobs by name.

    source: a net file or a NetParameter. phase, stages, level: which layers are in (Caffe's NetState); the
    module starts in train() or eval() to match. input_shapes: blobs to be given from outside, by shape; layers
    whose tops are all named there become Input layers, so that a net can be built without its data set.
    paths: what relative paths start from, the net's own and those of its data; the working directory by default.
    debug_info, or the net file's field: log the mean size of every blob and gradient (`debug`), Split layers shown.
    Parameters are created on `device` and filled from torch's random state ("meta" allocates nothing).

    Raises: PrototxtError, GraphError, LayerError when building. Source: Caffe Net::Init.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | caffe_pb2.NetParameter,
        phase: int = TEST,
        *,
        stages: Sequence[str] = (),
        level: int = 0,
        device: str | torch.device = "cpu",
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        debug_info: bool = False,
        paths: Paths | None = None,
    ) -> None:
        super().__init__()
        paths = Paths() if paths is None else paths
        self.path: Path | None = None
        if isinstance(source, (str, os.PathLike)):
            self.path = paths.from_root(source)
            param = read_net(self.path, phase, stages, level)
        else:
            copied = caffe_pb2.NetParameter()
            copied.CopyFrom(source)
            param = filter_net(upgrade_net(copied, f"net '{copied.name}'"), phase, stages, level)
        param = _with_automatic_tops(_with_inputs(param, input_shapes or {}))
        debug_info = debug_info or param.debug_info
        self.param = insert_splits(param) if debug_info else param
        self.name: str = param.name
        self.phase = phase
        self.graph = Graph.from_param(self.param)
        self.layers = nn.ModuleDict()
        self.inputs: dict[str, Tensor] = {}  # what Input layers give when forward() is not handed them
        self.blob_shapes: dict[str, Shape] = {}
        self.loss_weights: dict[str, float] = {}
        self.learnable_params: list[LearnableParam] = []
        self._layer_of: dict[str, Layer] = {}
        self._steps: list[_Step] = []
        self._device = torch.device(device)
        with torch.no_grad():
            self._build(Surroundings(paths, self.path.parent if self.path else None))
            self.learnable_params = create_params(self.graph.nodes, self._layer_of, self._device)
        self.debug = DebugInfo(self.graph.nodes, self._layer_of) if debug_info else None
        self.train(phase == TRAIN)

    def train(self, mode: bool = True) -> Net:
        """Switch between training and evaluation, as PyTorch does.

        A layer whose own `phase` is not the net's keeps it: a Dropout of TEST drops nothing. Source: Caffe Net::Init.
        """
        super().train(mode)
        for node in self.graph.nodes:
            if node.param.phase != self.phase:
                self._layer_of[node.name].train(node.param.phase == TRAIN)
        return self

    # -- building ---------------------------------------------------------------------------------------------

    def _build(self, surroundings: Surroundings) -> None:
        blobs: dict[str, Tensor] = {}
        for node in self.graph.nodes:
            bottoms = [blobs[name] for name in node.bottoms]
            try:
                layer = create_layer(node.param, bottoms, surroundings)
                tops = layer.infer(*bottoms)
            except FcnCaffeError as error:
                hint = self._crop_hint(node)
                if hint:
                    raise error.named(str(node)).hinted(hint) from error.__cause__
                raise error.named(str(node)) from error.__cause__
            except _FAILURES as error:
                raise _failure(node, bottoms, error) from error
            made = (tops,) if isinstance(tops, Tensor) else tops
            if len(made) < len(node.tops):
                raise layer.error(f"makes {len(made)} tops, {len(node.tops)} are named: {', '.join(node.tops)}.")
            blobs.update(zip(node.tops, made, strict=False))
            self.blob_shapes.update((name, tuple(blobs[name].shape)) for name in node.tops)
            self._add(node, layer)
        self._steps = [self._step(node) for node in self.graph.nodes]

    def _crop_hint(self, node: Node) -> str:
        if node.type != "Crop" or len(node.bottoms) != 2:
            return ""
        try:
            offsets = crop_offset(self.graph, *node.bottoms)
        except GraphError:
            return ""
        return f" The coordinate map gives offset {', '.join(str(offset) for offset in offsets)}."

    def _add(self, node: Node, layer: Layer) -> None:
        given = list(node.param.loss_weight)
        if given and len(given) != len(node.tops):
            raise LayerError(
                f"loss_weight is given {len(given)} times for {len(node.tops)} tops.", node.name, node.type
            )
        # Loss layers weigh their first top 1 unless told otherwise; any layer may carry a loss_weight.
        weights = given or ([1.0] if layer.loss else [])
        self.loss_weights.update((top, weight) for top, weight in zip(node.tops, weights, strict=False) if weight)
        key = re.sub(r"\.", "_", node.name) or "_"
        while key in self.layers or hasattr(self.layers, key):
            key += "_"
        self.layers[key] = layer
        self._layer_of[node.name] = layer
        if node.index in self.graph.overwritable:
            # Safe where the maker's backward does not read its top and the bottom is not handed in from outside.
            maker = self.graph.nodes[self.graph.producers[node.index, 0]]
            layer.inplace = self._layer_of[maker.name].fresh_top

    def _step(self, node: Node) -> _Step:
        layer = self._layer_of[node.name]
        shut = {position for position, down in enumerate(node.param.propagate_down) if not down}
        blocked = tuple(
            sorted(shut | {position for position in layer.undifferentiable if position < len(node.bottoms)})
        )
        return _Step(layer, node, node.bottoms, node.tops, self.graph.last_use[node.index], blocked)

    # -- looking at it ----------------------------------------------------------------------------------------

    def layer(self, name: str) -> Layer:
        """The layer with a Caffe name.

        Raises: GraphError if there is none.
        """
        if name not in self._layer_of:
            raise GraphError(f"net '{self.name}' has no layer '{name}'.")
        return self._layer_of[name]

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """Blobs of every layer that has some, by layer name, in file order."""
        return {name: list(layer.blobs) for name, layer in self._layer_of.items() if layer.blob_names}

    @property
    def device(self) -> torch.device:
        """Where the net's parameters are; data layers' tops and inputs are moved there."""
        return self.learnable_params[0].blob.device if self.learnable_params else self._device

    def _apply(self, fn: Any, recurse: bool = True) -> Net:
        result: Net = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.inputs = {name: fn(blob) for name, blob in self.inputs.items()}
        self._device = fn(torch.empty(0, device=self._device)).device
        return result

    def share_with(self, other: Net) -> None:
        """Use another net's blobs in the layers of the same name, as test nets do with the train net's.

        Raises: LayerError where shapes differ. Source: Caffe Net::ShareTrainedLayersWith.
        """
        for name, layer in self._layer_of.items():
            source = other._layer_of.get(name)
            if source is None or not layer.blob_names:
                continue
            theirs = source.blobs
            if [blob.shape for blob in layer.blobs] != [blob.shape for blob in theirs]:
                ours = ", ".join(show(blob.shape) for blob in layer.blobs)
                raise layer.error(
                    f"cannot share blobs: this net wants {ours}, net '{other.name}' has "
                    f"{', '.join(show(blob.shape) for blob in theirs)}. Make the layers equal or rename one."
                )
            for blob_name, blob in zip(layer.blob_names, theirs, strict=True):
                if blob_name in layer._parameters:
                    setattr(layer, blob_name, blob)
        owned = {(item.layer, item.index): item for item in self.learnable_params}
        self.learnable_params = [
            LearnableParam(name, index, self._layer_of[name].blobs[index], item.lr_mult, item.decay_mult)
            for (name, index), item in owned.items()
        ]

    def data_state(self) -> dict[str, Any]:
        """The states of the data layers that have one, JSON-able, by layer name."""
        states = {name: layer.data_state() for name, layer in self._layer_of.items()}
        return {name: state for name, state in states.items() if state is not None}

    def load_data_state(self, states: Mapping[str, Any]) -> None:
        """Let the data layers continue in the order that `data_state` saw."""
        for name, state in states.items():
            self.layer(name).load_data_state(state)

    # -- running ----------------------------------------------------------------------------------------------

    def forward(
        self, inputs: Mapping[str, Tensor] | None = None, keep: Iterable[str] = (), **blobs: Tensor
    ) -> dict[str, Tensor]:
        """Run all layers in file order; return the outputs, and the blobs named in `keep`.

        inputs, blobs: tensors (or arrays) for Input layers and for data layers that are not to run, of any size
        the layers take. Input blobs not given come from `self.inputs`. Blobs are freed after their last reader.
        A blob that is changed in place is seen in its last state, as in Caffe.
        Raises: GraphError for unknown names; LayerError that names the layer and the shapes where one fails.
        """
        return self._run({**(inputs or {}), **blobs}, frozenset(keep))

    def forward_loss(
        self, inputs: Mapping[str, Tensor] | None = None, keep: Iterable[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward, and the net's loss: the sum of loss_weight times each top that has one.

        Raises: GraphError if no layer has a loss weight.
        """
        if not self.loss_weights:
            raise GraphError(f"net '{self.name}' has no loss: add a loss layer, or loss_weight to a top.")
        kept = self._run(dict(inputs or {}), frozenset(keep) | self.loss_weights.keys())
        parts = [
            kept[top].sum() if weight == 1 else kept[top].sum() * weight for top, weight in self.loss_weights.items()
        ]
        loss = parts[0]
        for part in parts[1:]:
            loss = loss + part
        return loss, kept

    def _run(self, given: dict[str, Any], keep: frozenset[str]) -> dict[str, Tensor]:
        for name in given.keys() | keep:
            if name not in self.blob_shapes:
                raise GraphError(f"net '{self.name}' has no blob '{name}'. Its inputs: {', '.join(self.graph.inputs)}.")
        wanted = keep.union(self.graph.outputs)
        device = self.device
        blobs: dict[str, Tensor] = {}
        for step in self._steps:
            if not step.bottoms:
                blobs.update(self._source(step, given, device))
            else:
                bottoms = [blobs[name] for name in step.bottoms]
                if step.blocked:
                    for position in step.blocked:
                        bottoms[position] = bottoms[position].detach()
                try:
                    tops = step.layer(*bottoms)
                except FcnCaffeError as error:
                    raise error.named(str(step.node)) from error.__cause__
                except _FAILURES as error:
                    raise _failure(step.node, bottoms, error) from error
                if isinstance(tops, Tensor):
                    if step.tops:
                        blobs[step.tops[0]] = tops
                else:
                    blobs.update(zip(step.tops, tops, strict=False))
                del bottoms, tops
            for name in step.frees:
                if name not in keep:
                    del blobs[name]
        return {name: blob for name, blob in blobs.items() if name in wanted}

    def _source(self, step: _Step, given: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
        """Tops of a layer without bottoms: handed in, remembered, or made by the layer."""
        handed, forced = [name for name in step.tops if name in given], self.param.force_backward
        if handed and len(handed) == len(step.tops):
            tops = {name: _tensor(given[name], name, device) for name in step.tops}
        elif step.node.type == "Input":
            tops = {}
            for name in step.tops:
                value = given.get(name, self.inputs.get(name))
                if value is None:
                    raise step.layer.error(f"input blob '{name}' was not given. Call net({name}=tensor).")
                tops[name] = _tensor(value, name, device)
        elif handed:
            raise step.layer.error(
                f"makes {', '.join(step.tops)}: give all or none of them, not {', '.join(handed)} alone."
            )
        else:
            try:
                made = step.layer()
            except FcnCaffeError as error:
                raise error.named(str(step.node)) from error.__cause__
            except _FAILURES as error:
                raise _failure(step.node, (), error) from error
            listed = (made,) if isinstance(made, Tensor) else made
            tops = {name: blob.to(device) for name, blob in zip(step.tops, listed, strict=False)}
            forced = False
        if forced:
            tops = {
                name: blob if blob.requires_grad or not blob.is_floating_point() else blob.detach().requires_grad_()
                for name, blob in tops.items()
            }
        if self.debug is not None:
            self.debug.show_tops(step.node, step.layer, tops.values())
        return tops


def _with_inputs(param: Any, shapes: Mapping[str, Sequence[int]]) -> Any:
    """Turn the layers whose tops are all in `shapes` into Input layers of those shapes."""
    left = set(shapes)
    for layer in param.layer:
        if not layer.bottom and layer.top and all(top in shapes for top in layer.top):
            left.difference_update(layer.top)
            kept = caffe_pb2.LayerParameter(name=layer.name, type="Input", top=layer.top, phase=layer.phase)
            for top in layer.top:
                kept.input_param.shape.add(dim=shapes[top])
            layer.CopyFrom(kept)
    if left:
        raise GraphError(f"input_shapes names {', '.join(sorted(left))}, which no layer without bottoms makes alone.")
    return param


def _with_automatic_tops(param: Any) -> Any:
    """Give losses that name no top one that nothing can read. Source: Caffe Layer::AutoTopBlobs."""
    for layer in param.layer:
        if not layer.top and layer.type in REGISTRY and REGISTRY[layer.type].loss:
            layer.top.append(f"{AUTOMATIC} {layer.name}")
    return param


def _tensor(value: Any, name: str, device: torch.device) -> Tensor:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        raise GraphError(f"blob '{name}' was given as {type(value).__name__}, wanted a tensor or an array.")
    return value.to(device)


def _failure(node: Node, bottoms: Sequence[Tensor], error: Exception) -> LayerError:
    shapes = ", ".join(f"{name} {show(blob.shape)}" for name, blob in zip(node.bottoms, bottoms, strict=True))
    return LayerError(f"failed on {shapes or 'no bottoms'}: {error}", node.name, node.type)
