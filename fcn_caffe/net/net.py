"""A net: layers built from a NetParameter, run in file order, as an ordinary torch module."""

from __future__ import annotations

import copy
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcn_caffe.errors import FcnCaffeError, GraphError, LayerError
from fcn_caffe.host.devices import torch_device
from fcn_caffe.host.paths import PathLike, Paths, Surroundings
from fcn_caffe.host.ranks import Share
from fcn_caffe.host.text import did_you_mean, show
from fcn_caffe.layers.base import REGISTRY, Layer, create_layer, refuse_foreign_layers
from fcn_caffe.net.coord_map import crop_offset
from fcn_caffe.net.debug_info import DebugInfo, DebugRunner
from fcn_caffe.net.fork_choice import with_fork
from fcn_caffe.net.graph import AUTOMATIC, Graph, Node, filter_net, read_net
from fcn_caffe.net.module import NetModule, make_module
from fcn_caffe.net.needs import check_gradients
from fcn_caffe.net.parameters import LearnableParam, create_params, fill_params
from fcn_caffe.net.rewrite.splits import insert_splits
from fcn_caffe.net.runner import FAILURES, Blob, Runner, Shape, Step, free_early, infer_tops, make_steps, name_failure
from fcn_caffe.net.turns import Turn
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.dialect import dialect
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.proto.upgrade import upgrade_net

_log = logging.getLogger("fcn_caffe.net")
_MOST_UNDERSCORES = 9  # behind a layer's name in `Net.layers`
_MOST_WALKS = 5000  # from layer to layer, to find a crop's offset


class Net(nn.Module):
    """A Caffe net as a torch module: `net(data=x)` returns its output blobs by name.

    >>> import torch
    >>> from fcn_caffe.proto import caffe_pb2, parse_text
    >>> text = '''
    ...     layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
    ...     layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    ...             convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
    ...     layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
    ... '''
    >>> net = Net(parse_text(text, caffe_pb2.NetParameter))
    >>> net.blob_shapes
    {'data': (1, 3, 8, 8), 'conv': (1, 4, 6, 6)}
    >>> net(data=torch.zeros(2, 3, 10, 12))["conv"].shape
    torch.Size([2, 4, 8, 10])

    The parameters are created on `device` ("meta" allocates nothing) and filled from torch's random state. The module
    starts in train() or eval(), as `phase` says.

    Args:
        source: a net file, or a NetParameter, which is copied.
        phase: TRAIN or TEST. With stages and level it is Caffe's NetState, which decides what layers are in.
        stages: names that layers' rules ask for, or one name.
        level: the number that layers' rules compare.
        device: where the parameters are.
        input_shapes: shapes of blobs that come from outside. A layer whose tops are all named here becomes an Input
            layer, so that a net can be built without its data set.
        debug_info: log the mean size of every blob and gradient, as the net file's field does; Split layers are then
            part of the net. See `debug`.
        paths: what relative paths start from, the net's own and those of its data; by default the working directory.
        fork: whose Caffe the net is of, where the file does not say and forks mean different things by one type:
            "segnet", "pspnet", "hed" …; see `fork_choice.FORKS`.
        strict: whether layers and fields of other Caffes than BVLC's 1.0 are errors; None for what the command that
            runs says, and False outside of commands.
        blob_counts: how many blobs each layer has in the weights that will fill the net; they, too, tell forks apart.
        filled: whether the parameters are filled; else they are zeros, which take no memory on a CPU, until `fill`.

    Raises:
        PrototxtError: the file is not there, or cannot be read.
        GraphError: the layers do not fit together.
        LayerError: a layer's options or bottoms are wrong; or, in TRAIN, a gradient is asked where Caffe has none.

    Source: Caffe Net::Init.
    """

    late_steps: Mapping[str, Step] = MappingProxyType({})  # see `with_steps`
    make_runner: Callable[[Net], Runner] = Runner  # what runs a pass where there is no `debug`

    def __init__(
        self,
        source: PathLike | caffe_pb2.NetParameter,
        phase: int = TEST,
        *,
        stages: str | Sequence[str] = (),
        level: int = 0,
        device: str | torch.device = "cpu",
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        debug_info: bool = False,
        paths: Paths | None = None,
        fork: str = "",
        strict: bool | None = None,
        blob_counts: Mapping[str, int] | None = None,
        filled: bool = True,
    ) -> None:
        super().__init__()
        paths = Paths() if paths is None else paths
        self.path: Path | None = None
        if isinstance(source, (str, os.PathLike)):
            self.path = paths.from_root(source)
            param = read_net(self.path, phase, stages, level, fork=fork, strict=strict, blob_counts=blob_counts)
        else:
            param = filter_net(with_fork(_upgraded_copy(source), fork, blob_counts), phase, stages, level)
        _use_inputs(param, input_shapes or {})
        refuse_foreign_layers(param.layer, dialect().strict if strict is None else strict)
        _name_automatic_tops(param)
        debug_info = debug_info or param.debug_info
        self.param = insert_splits(param) if debug_info else param
        self.name: str = param.name
        self.phase = phase
        self.graph = Graph.from_param(self.param)
        self.layers: nn.ModuleDict = Layers()
        self.layers_in_order: list[Layer] = []  # `layers` has keys that PyTorch allows
        self._layers_by_name: dict[str, Layer] = {}  # the last of each name
        self.inputs: dict[str, Tensor] = {}  # what Input layers give when forward() is not handed them
        self.blob_shapes: dict[str, Shape] = {}
        self.loss_weights: dict[str, float] = {}
        self._learnable: list[LearnableParam] = []
        self._device = _checked_device(device)
        with torch.no_grad():
            self._build(Surroundings(paths, self.path.parent if self.path else None))
            self._learnable = create_params(self.graph.nodes, self.layers_in_order, self._device)
        if filled:
            self.fill()
        if phase == TRAIN:
            check_gradients(self.param, self.graph, self.layers_in_order)
        self.steps: tuple[Step, ...] = make_steps(self.graph, self.layers_in_order, param.force_backward)
        self.debug = DebugInfo(self.graph.nodes, self.layers_in_order) if debug_info else None
        self.train(phase == TRAIN)

    def fill(self) -> None:
        """Fill the parameters by their fillers, from torch's random state.

        Raises:
            LayerError: a filler does not fit its blob.
        """
        fill_params(self.learnable_params, self.layers_in_order)

    def train(self, mode: bool = True) -> Net:
        """Switch between training and evaluation, as PyTorch does.

        A layer whose own `phase` is not the net's keeps it: a Dropout of TEST drops nothing. Source: Caffe Net::Init.
        """
        super().train(mode)
        for step in self.steps:
            own = step.node.param.phase
            step.layer.train(mode if own == self.phase else own == TRAIN)
        return self

    # -- building ---------------------------------------------------------------------------------------------

    def _build(self, surroundings: Surroundings) -> None:
        blobs: dict[str, Tensor] = {}
        self._names_with_blobs: set[str] = set()
        self._repeats: Counter[str] = Counter()  # how often a name was taken for a key of `layers`
        for node in self.graph.nodes:
            try:
                layer, tops = self._make_layer(node, [blobs[name] for name in node.bottoms], surroundings)
            except FcnCaffeError as error:
                raise self._shapeless_input(node, error) or error from error.__cause__
            if len(tops) < len(node.tops):
                raise layer.error(
                    f"makes {len(tops)} tops, {len(node.tops)} are named: {', '.join(node.tops)}. Name as many."
                )
            blobs.update(zip(node.tops, tops, strict=False))
            self.blob_shapes.update((name, tuple(blobs[name].shape)) for name in node.tops)
            self._add(node, layer)
        self.turn = Turn() if any(layer.remembers for layer in self.layers_in_order) else None
        layers = zip(self.graph.nodes, self.layers_in_order, strict=True)
        # What the person gives of these is copied: a layer may write to it.
        self.written = frozenset(name for node, layer in layers if layer.may_write for name in node.bottoms)
        _warn_of_crops(self.graph)

    def _make_layer(
        self, node: Node, bottoms: list[Tensor], surroundings: Surroundings
    ) -> tuple[Layer, Sequence[Tensor]]:
        """Make a layer and its tops on the meta device."""
        try:
            layer = create_layer(node.param, bottoms, surroundings)
            return layer, infer_tops(layer, bottoms)
        except FcnCaffeError as error:
            named = name_failure(node, (), error)
            hint = self._crop_hint(node)
            raise (named.hinted(hint) if hint else named) from error.__cause__
        except FAILURES as error:
            raise name_failure(node, [bottom.shape for bottom in bottoms], error) from error

    def _shapeless_input(self, node: Node, error: FcnCaffeError) -> LayerError | None:
        """Return the error of an Input layer without a shape from which a layer, which failed, is computed, if any."""
        waiting = [node.index]
        for index in waiting:
            source = self.graph.nodes[index]
            below = (self.graph.producers[index, position] for position in range(len(source.bottoms)))
            waiting += [maker for maker in dict.fromkeys(below) if maker not in waiting]
            if source.type == "Input" and source.tops and not source.param.input_param.shape:
                unread = [field.name for field, _ in source.param.ListFields() if field.name.endswith("data_param")]
                kept = f" Input reads no files: its {unread[0]} does nothing." if unread else ""
                return LayerError(
                    f"no shape is given, and {node} needs one ({error}). Write input_param {{ shape {{ dim: 1 dim: 3 "
                    f"dim: 224 dim: 224 }} }} with the sizes of '{source.tops[0]}'.{kept}",
                    source.name,
                    source.type,
                )
        return None

    def _crop_hint(self, node: Node) -> str:
        if node.type not in ("AutoCrop", "Crop") or len(node.bottoms) != 2:
            return ""
        try:
            offsets = crop_offset(self.graph, *node.bottoms)
        except GraphError:
            return ""
        return f" The coordinate map gives offset {', '.join(str(offset) for offset in offsets)}."

    def _add(self, node: Node, layer: Layer) -> None:
        weights = list(node.param.loss_weight)
        if layer.loss and not weights:
            weights = [1.0]
        if weights and len(weights) != len(node.tops):
            times = f"is given {len(weights)} times" if node.param.loss_weight else "is 1 by default, of one top,"
            cure = " ".join(["loss_weight: 1", *["loss_weight: 0"] * (len(node.tops) - 1)])
            raise LayerError(
                f"loss_weight {times} for {len(node.tops)} tops. Give it once a top: `{cure}`.", node.name, node.type
            )
        self.loss_weights.update((top, weight) for top, weight in zip(node.tops, weights, strict=False) if weight)
        if layer.blob_names and node.name in self._names_with_blobs:
            _log.warning(
                "net '%s': several layers named '%s' have blobs. As in Caffe, weights are copied to the first alone, "
                "and a test net shares the last with its first: give each its own name.",
                *(self.name, node.name),
            )
        if layer.blob_names:
            self._names_with_blobs.add(node.name)
        self.layers[self._free_key(node.name)] = layer
        self.layers_in_order.append(layer)
        self._layers_by_name[node.name] = layer
        if node.index in self.graph.overwritable:
            # Safe where the maker's backward does not read its top and the bottom is not handed in from outside.
            maker = self.graph.nodes[self.graph.producers[node.index, 0]]
            layer.inplace = self.layer(maker).fresh_top

    def _free_key(self, name: str) -> str:
        """Return what PyTorch is to call a layer: its name, with underscores behind where that is taken."""
        plain = name.replace(".", "_") or "_"
        count = self._repeats[plain]
        while (key := _key(plain, count)) in self.layers or hasattr(self.layers, key):
            count += 1
        self._repeats[plain] = count + 1
        return key

    # -- looking at it ----------------------------------------------------------------------------------------

    def layer(self, which: str | Node) -> Layer:
        """Return the layer of a node of `graph`, or with a Caffe name: the last one, where several have it.

        Raises:
            GraphError: there is none.

        Source: Caffe Net::layer_by_name.
        """
        if isinstance(which, Node):
            return self.layers_in_order[which.index]
        if which not in self._layers_by_name:
            near = did_you_mean(which, self._layers_by_name)
            raise GraphError(f"net '{self.name}' has no layer '{which}'.{near} Name one of its layers.")
        return self._layers_by_name[which]

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """The parameter blobs of every layer that has some, by layer name, in file order.

        Of several layers with one name it is the first, which is the one that weights are copied to, as in Caffe.
        """
        params: dict[str, list[Tensor]] = {}
        for layer in self.layers_in_order:
            if layer.blob_names and layer.name not in params:
                params[layer.name] = list(layer.blobs)
        return params

    def adapt_weights(self, weights: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """Return weights in the form of the layers that they are for; see `Layer.adapt_arrays`."""
        firsts = {layer.name: layer for layer in reversed(self.layers_in_order) if layer.blob_names}
        return {
            name: firsts[name].adapt_arrays(arrays) if name in firsts else arrays for name, arrays in weights.items()
        }

    def all_params(self) -> list[tuple[str, str, list[Tensor]]]:
        """Return name, type and blobs of every layer that has blobs, in file order: also where a name is repeated."""
        return [(layer.name, layer.layer_type, list(layer.blobs)) for layer in self.layers_in_order if layer.blob_names]

    @property
    def device(self) -> torch.device:
        """Where the parameters are. Inputs and data layers' tops are moved there."""
        if not self._learnable:
            return self._device
        first = self._learnable[0]
        return self.layers_in_order[first.node].blobs[first.index].device

    @property
    def learnable_params(self) -> list[LearnableParam]:
        """The parameter blobs in file order, each with its owner layer and multipliers; see `create_params`.

        They are those that the layers have now: PyTorch may put others in, as `load_state_dict(assign=True)` does.
        """
        return [replace(item, blob=self.layers_in_order[item.node].blobs[item.index]) for item in self._learnable]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Net:
        result: Net = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.inputs = {name: fn(blob) for name, blob in self.inputs.items()}
        self._device = fn(torch.empty(0, device=self._device)).device
        return result

    def share_with(self, other: Net) -> None:
        """Use another net's blobs in the layers of the same name, as test nets use the train net's.

        Where several layers have one name, each of the other net's goes to the first of this net's, as in Caffe.

        Raises:
            LayerError: two layers of one name have blobs of different shapes.

        Source: Caffe Net::ShareTrainedLayersWith.
        """
        firsts: dict[str, Layer] = {}
        for layer in self.layers_in_order:
            firsts.setdefault(layer.name, layer)
        for source in other.layers_in_order:
            if source.name not in firsts:
                continue
            layer = firsts[source.name]
            theirs = source.blobs
            if [blob.shape for blob in layer.blobs] != [blob.shape for blob in theirs]:
                ours = ", ".join(show(blob.shape) for blob in layer.blobs)
                raise layer.error(
                    f"cannot share blobs: this net wants {ours}, net '{other.name}' has "
                    f"{', '.join(show(blob.shape) for blob in theirs)}. Make the layers equal or rename one."
                )
            for blob_name, blob in zip(layer.blob_names, theirs, strict=True):
                if blob_name not in layer.blob_views:
                    setattr(layer, blob_name, blob)

    def with_steps(self, steps: Sequence[Step], late_steps: Mapping[str, Step] | None = None) -> Net:
        """Return a net that runs other steps over the same blobs: what a rewrite that runs faster gives.

        The two share parameters, data layers and everything that is said of the net (`param`, `graph`, `blob_shapes`);
        each has its own mode, train() or eval(), for the layers that are not data layers.

        Args:
            steps: the steps in the order that they run in. Their `frees` are worked out here. A layer of this net is
                copied, its parameters are not.
            late_steps: by blob, the step of one bottom and one top that makes it at the end of a pass, where the blob
                is asked for by `keep` and the steps do not make it; by default those that this net has.
        """
        twin = copy.copy(self)
        copies = {id(layer): copy.copy(layer) if layer.bottoms else layer for layer in self.layers_in_order}
        by_name = {name: copies[id(layer)] for name, layer in self._layers_by_name.items()}
        twin.__dict__.update(_modules=dict(self._modules), _layers_by_name=by_name)
        twin.layers = Layers({key: copies[id(layer)] for key, layer in self.layers.items()})
        twin.layers_in_order = [copies[id(layer)] for layer in self.layers_in_order]
        twin.inputs = dict(self.inputs)
        used = [replace(step, layer=copies.get(id(step.layer), step.layer)) for step in steps]
        twin.steps = free_early(used, self.graph.outputs)
        twin.late_steps = dict(self.late_steps if late_steps is None else late_steps)
        return twin

    def frozen(self) -> Net:
        """Return this net for inference, faster: weights packed, ReLUs fused, what does nothing left out.

        It shares this net's blobs and gives the same blobs by name. Scores differ by rounding (1e-6 of the largest).
        A weight that changes afterwards is followed where PyTorch counts the change: not one that is written through
        `.data` or NumPy. A pass that needs gradients computes as this net. A net in train(), or one with debug_info,
        comes back as it is.
        """
        from fcn_caffe.net.rewrite.frozen import freeze  # it makes nets

        return freeze(self)

    def tuned(self, shape: Sequence[int] | None = None, within: float = 1e-4) -> Net:
        """Return this net with each convolution in the quickest way that this machine has, within a bound.

        The ways are measured once for a machine, a net and a shape, on data, and kept in the user's cache folder. The
        whole net is compared with this one; ways are taken back until it is within the bound. In train() the gradients
        have ways too; else the net is `frozen` first. Images of other sizes run by the same ways.

        Args:
            shape: the shape of the first input to measure for; by default the one the net was built with.
            within: the largest difference allowed, as a share of the largest score.

        Raises:
            GraphError: `within` or `shape` cannot be.
        """
        from fcn_caffe.net.rewrite.tuned import tune  # it makes nets

        return tune(self, shape, within).net

    def data_state(self) -> dict[str, Any]:
        """Return the states of the data layers that have one, by layer name; JSON can hold them."""
        states = {name: layer.data_state() for name, layer in self._layers_by_name.items()}
        return {name: state for name, state in states.items() if state is not None}

    def load_data_state(self, states: Mapping[str, Any]) -> None:
        """Let the data layers go on from where they were when `data_state` was called."""
        for name, state in states.items():
            self.layer(name).load_data_state(state)

    def take_share(self, share: Share) -> None:
        """Let the data layers give only the samples that belong to one of several processes.

        Their states stay those of all processes together: each process has the same, and goes on with any other share.
        """
        for layer in self.layers_in_order:
            layer.take_share(share)

    def skip(self, passes: int) -> None:
        """Let the data layers go on behind the samples of so many passes, without giving them."""
        for layer in self.layers_in_order:
            layer.skip(passes)

    # -- running ----------------------------------------------------------------------------------------------

    def forward(
        self,
        inputs: Mapping[str, Blob] | Blob | None = None,
        *more: Blob | Iterable[str],
        keep: Iterable[str] = (),
        **blobs: Blob,
    ) -> dict[str, Tensor]:
        """Run all layers in file order; return the outputs, and the blobs named in `keep`.

        A blob is freed after its last reader. A blob that is changed in place is seen in its last state, as in Caffe.
        Several threads may run one net at once; with data or recurrent layers their passes take turns.

        Args:
            inputs: tensors or arrays by name, for Input layers, and for data layers that are not to run, of any size
                that the layers take; or the first Input layer's tensor alone. An Input layer's blob that is not given
                comes from `self.inputs`.
            more: the tensors of the other Input layers, in file order. Where `inputs` is a mapping, `keep`.
            keep: more blobs to return, or the name of one.
            blobs: as a mapping in `inputs`.

        Raises:
            GraphError: the net has no blob of a name, or fewer inputs than are given, or one is given twice.
            LayerError: a layer fails; the error names it and its bottoms' shapes.
        """
        if inputs is None or isinstance(inputs, Mapping):
            given = {**(inputs or {}), **blobs}
            if more:
                keep = self._second(more)
        else:
            given = self._by_position((inputs, *more), blobs)
        return self.runner().run(given, frozenset([keep] if isinstance(keep, str) else keep))

    def _second(self, more: Sequence[Any]) -> Iterable[str]:
        """Return the blobs to keep, the one argument after a mapping of inputs."""
        if len(more) > 1 or isinstance(more[0], (Tensor, np.ndarray)):
            raise GraphError(
                f"net '{self.name}' was given a mapping of inputs, or None, and more by position. Give all inputs in "
                "the mapping, or all by position, and the blobs to keep as keep=(…)."
            )
        keep: Iterable[str] = more[0]
        return keep

    def _by_position(self, tensors: Sequence[Any], blobs: Mapping[str, Blob]) -> dict[str, Blob]:
        """Return the blobs of a call: tensors of Input layers in file order, and those given by name."""
        names = self.graph.inputs
        if len(tensors) > len(names):
            takes = f"{len(names)} by position: {', '.join(names)}" if names else "none, it has no Input layer"
            raise GraphError(f"net '{self.name}' was given {len(tensors)} inputs by position and takes {takes}.")
        placed = dict(zip(names, tensors, strict=False))
        if twice := [name for name in placed if name in blobs]:
            raise GraphError(f"net '{self.name}' was given '{twice[0]}' twice: by position and by name.")
        return {**placed, **blobs}

    def as_module(self, outputs: str | Sequence[str] | None = None) -> NetModule:
        """Return a module that takes this net's input blobs as tensors and gives tensors, for PyTorch's tools.

        The arguments have the blobs' names, so that `torch.export.export(module, (x,), dynamic_shapes={"data": …})`
        says which is which; they go by position or by name. Layers that the outputs do not depend on are left out, and
        so are the inputs that they alone read. Parameters and their names are those of the net; train() and eval() are
        the module's own.

        Args:
            outputs: the blobs to give; one is given as a tensor, several as a tuple in this order. By default the
                net's outputs, sorted by name.

        Raises:
            GraphError: there is no such blob, or the outputs depend on no Input layer.
        """
        return make_module(self, outputs)

    def forward_loss(
        self, inputs: Mapping[str, Blob] | None = None, keep: Iterable[str] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run forward; return the net's loss (the sum of each top times its loss_weight) and the blobs.

        Args:
            inputs: as in `forward`.
            keep: as in `forward`.

        Raises:
            GraphError: no layer has a loss weight; or as in `forward`.
            LayerError: as in `forward`.
        """
        if not self.loss_weights:
            raise GraphError(f"net '{self.name}' has no loss: add a loss layer, or loss_weight to a top.")
        kept = self.runner().run(
            inputs or {}, frozenset([keep] if isinstance(keep, str) else keep) | self.loss_weights.keys()
        )
        sums = [(kept[top].sum() if kept[top].ndim else kept[top], weight) for top, weight in self.loss_weights.items()]
        parts = [total if weight == 1 else total * weight for total, weight in sums]
        loss = parts[0]
        for part in parts[1:]:
            loss = loss + part
        return loss, kept

    def runner(self) -> Runner:
        """Return a runner for one pass over this net: of `make_runner`; where the net has `debug`, one that logs."""
        return self.make_runner(self) if self.debug is None else DebugRunner(self, self.debug)


def _key(name: str, count: int) -> str:
    # A number where there are many: keys as long as the net has layers would fill the memory.
    return name + "_" * count if count < _MOST_UNDERSCORES else f"{name}_{count}"


class Layers(nn.ModuleDict):
    """The layers of a net by their keys. Which they are is settled when the net is built: its steps run those."""

    def __setitem__(self, key: str, module: nn.Module) -> None:
        if key in self:
            raise self._settled(key)
        super().__setitem__(key, module)

    def __delitem__(self, key: str) -> None:
        raise self._settled(key)

    @staticmethod
    def _settled(key: str) -> GraphError:
        return GraphError(
            f"layer '{key}' of a net cannot be replaced or taken out: the net would run the old one. Change the net's "
            "file or NetParameter and build it again; weights go over by copy_weights or share_with."
        )


def _upgraded_copy(source: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    if not isinstance(source, caffe_pb2.NetParameter):
        raise GraphError(f"a net is made from a net file or a NetParameter, not from {type(source).__name__}.")
    copied = caffe_pb2.NetParameter()
    copied.CopyFrom(source)
    upgrade_net(copied, f"net '{copied.name}'")
    return copied


def _checked_device(device: str | torch.device) -> torch.device:
    """Return a device that blobs can be on. Raises: FcnCaffeError, see `torch_device`."""
    if str(device) not in ("cpu", "meta"):
        torch_device(str(device))
    return torch.device(device)


def _warn_of_crops(graph: Graph) -> None:
    """Say where a Crop without options would have another offset in HED's, CRF-RNN's or the first FCN's Caffe."""
    crops = [
        node
        for node in graph.nodes
        if node.type == "Crop" and not node.param.HasField("crop_param") and not node.param.fork
    ]
    for node in crops[: 1 + _MOST_WALKS // (1 + len(graph.nodes))]:  # each walks through the net
        try:
            offsets = crop_offset(graph, *node.bottoms)
        except GraphError:
            continue
        if any(offsets):
            _log.warning(
                "%s has no crop_param: its offset is 0, as in Caffe 1.0. HED, CRF-RNN, DeconvNet and the first release "
                "of FCN derive it: %s here. Where the net is theirs say --fork hed, or Net(…, fork='hed').",
                *(node, ", ".join(map(str, offsets))),
            )
            return  # the other crops of the net are alike


def _use_inputs(param: caffe_pb2.NetParameter, shapes: Mapping[str, Sequence[int]]) -> None:
    """Turn the layers whose tops are all in `shapes` into Input layers of those shapes."""
    left = set(shapes)
    for layer in param.layer:
        if not layer.bottom and layer.top and all(top in shapes for top in layer.top):
            left.difference_update(layer.top)
            source = caffe_pb2.LayerParameter(name=layer.name, type="Input", top=layer.top, phase=layer.phase)
            for top in layer.top:
                source.input_param.shape.add(dim=shapes[top])
            layer.CopyFrom(source)
    if left:
        raise GraphError(f"input_shapes names {', '.join(sorted(left))}, which no layer without bottoms makes alone.")


def _name_automatic_tops(param: caffe_pb2.NetParameter) -> None:
    """Give a loss that names no top one that nothing can read. Source: Caffe Layer::AutoTopBlobs."""
    for layer in param.layer:
        if not layer.top and layer.type in REGISTRY and REGISTRY[layer.type].loss:
            layer.top.append(f"{AUTOMATIC} {layer.name}")
