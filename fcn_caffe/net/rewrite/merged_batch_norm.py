"""A net without its batch normalisations: their scale and shift go into the convolutions before or behind them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from fcn_caffe.errors import GraphError, WeightsError
from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.conv import Convolution, Deconvolution
from fcn_caffe.layers.forks.batch_norm import IntelBatchNorm, NvidiaBatchNorm, PSPNetBN, SegNetBN
from fcn_caffe.layers.linear import Bias, InnerProduct, Scale
from fcn_caffe.layers.norm import BatchNorm
from fcn_caffe.net.graph import AUTOMATIC, Node
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.weights.transfer import Weights

__all__ = ["Merger", "merge_batch_norm"]

_NORMALISERS = (SegNetBN, PSPNetBN, BatchNorm, NvidiaBatchNorm)


@dataclass
class Merger:
    """What `merge_batch_norm` made.

    net: the net without the layers that were merged. weights: its weights, by layer name.
    merged: a line for each convolution that took something in. kept: a line for each batch normalisation that stays,
    with the reason. changed: the tops of the layers whose weights are new.
    """

    net: caffe_pb2.NetParameter
    weights: Weights
    merged: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


@dataclass
class _Affine:
    """top = scale * bottom + shift, by channel (axis 1), then perhaps a ReLU: layers that follow each other alone."""

    nodes: list[Node]
    scale: Tensor
    shift: Tensor
    rectified: bool = False

    def __str__(self) -> str:
        return ", ".join(f"{node.name} ({node.type})" for node in self.nodes)


def merge_batch_norm(net: Net) -> Merger:
    """Merge every batch normalisation of a filled net of the phase TEST that has a convolution to take it in.

    That is a Convolution, Deconvolution or InnerProduct whose top nothing else reads; or the one reader behind, where
    no padding sees the shift. Scale and Bias layers between go with it.

    Args:
        net: The net, in eval(). It stays as it is.

    Raises:
        GraphError: No batch normalisation can be merged, or layers with blobs share one name.
        WeightsError: A merged weight is not finite.
    """
    _refuse_repeated_names(net)
    merging = _Merging(net)
    for run in merging.runs():
        merging.merge(run)
    if not merging.merged:
        why = "has no BatchNorm, no BN."
        if merging.kept:
            why = f"no batch normalisation can be merged: {merging.kept[0]}"
        raise GraphError(f"net '{net.name}': {why} Use the net as it is.")
    return merging.result()


class _Merging:
    """Goes through a net's batch normalisations; collects the new weights and what becomes of each layer."""

    def __init__(self, net: Net) -> None:
        self.net, self.nodes = net, net.graph.nodes
        self.readers: defaultdict[tuple[int, str], list[Node]] = defaultdict(list)  # (maker, blob) -> readers
        for node in self.nodes:
            for position, bottom in enumerate(node.bottoms):
                self.readers[net.graph.producers[node.index, position], bottom].append(node)
        self.shared = Counter(
            spec.name for node in self.nodes for spec in node.param.param if spec.name
        )  # how many layers have a param of a name
        self.blobs: dict[int, list[Tensor]] = {}  # by node, the blobs that are new
        self.layers = {node.index: _plain_copy(node.param) for node in self.nodes}
        self.merged: list[str] = []
        self.kept: list[str] = []
        self.changed: list[str] = []

    def runs(self) -> list[_Affine]:
        """Return the runs of layers that scale and shift by channel and have a batch normalisation in them."""
        runs: list[_Affine] = []
        seen: set[int] = set()
        for node in self.nodes:
            if node.index in seen or not isinstance(self.net.layer(node), _NORMALISERS):
                continue
            run = self._affine(node)
            if isinstance(run, str):
                self.kept.append(f"{node.name} ({node.type}) stays: {run}.")
                continue
            while not run.rectified and (after := self._only_reader(run.nodes[-1])) is not None:
                step = self._affine(after)
                if isinstance(step, str):
                    break
                run = _Affine(
                    [*run.nodes, after], run.scale * step.scale, run.shift * step.scale + step.shift, step.rectified
                )
            seen.update(member.index for member in run.nodes)
            runs.append(run)
        return runs

    def _affine(self, node: Node) -> _Affine | str:
        """Return what a layer does to each channel; or why it is no scale and shift."""
        layer = self.net.layer(node)
        numbers = _affine_of(layer)
        if isinstance(numbers, str):
            return numbers
        if len(node.tops) > 1:
            return f"it has {len(node.tops)} tops"
        if node.param.loss_weight:
            return "it has a loss_weight"
        return _Affine([node], *numbers, isinstance(layer, IntelBatchNorm) and layer.rectified)

    def _only_reader(self, node: Node) -> Node | None:
        readers = self.readers[node.index, node.tops[0]]
        return readers[0] if len(readers) == 1 and len(node.tops) == 1 else None

    def merge(self, run: _Affine) -> None:
        """Merge a run into the layer before it, or into the one behind; or say why not."""
        before = self.nodes[self.net.graph.producers[run.nodes[0].index, 0]]
        why_not_before = self._problem(before, run.nodes[0]) or _why_not_after(self.net.layer(before))
        after = self._only_reader(run.nodes[-1])
        if not why_not_before:
            self._merge_before(run, before)
            return
        why_not = "several layers read its top" if after is None else self._problem(after)
        if not self.readers[run.nodes[-1].index, run.nodes[-1].tops[0]]:
            why_not = "no layer reads its top"
        if not why_not and after is not None:
            why_not = "its ReLU comes between" if run.rectified else _why_not_before(self.net.layer(after), run.shift)
        if why_not or after is None:
            self.kept.append(f"{run} stays: before it, {why_not_before}; behind it, {why_not}.")
            return
        self._merge_behind(run, after)

    def _problem(self, node: Node, reader: Node | None = None) -> str:
        """Return why a layer can take nothing in, be it before or behind; reader: the one layer that may read it."""
        layer = self.net.layer(node)
        if not isinstance(layer, (Convolution, Deconvolution, InnerProduct)):
            return f"{node} is no Convolution, Deconvolution or InnerProduct"
        if len(node.tops) > 1:
            return f"{node} convolves {len(node.tops)} blobs with one weight"
        shared = [spec.name for spec in node.param.param if self.shared[spec.name] > 1]
        if shared:
            return f"{node} shares param '{shared[0]}' with another layer"
        if node.param.loss_weight:
            return f"{node} has a loss_weight"
        others = [other for other in self.readers[node.index, node.tops[0]] if reader is not None and other != reader]
        return f"{others[0]} reads the top of {node}, too" if others else ""

    def _merge_before(self, run: _Affine, before: Node) -> None:
        layer = self.net.layer(before)
        weight, bias = self._weights(before)
        self.blobs[before.index] = [_scaled_outputs(layer, weight, run.scale), run.scale * bias + run.shift]
        target = self.layers[before.index]
        _add_bias(target)
        last = run.nodes[-1]
        for node in run.nodes:
            del self.layers[node.index]
        if run.rectified:
            self.layers[last.index] = caffe_pb2.LayerParameter(
                name=last.name, type="ReLU", bottom=before.tops, top=last.tops
            )
        else:
            target.top[:] = last.tops
        self.merged.append(f"{run} into {before.name} ({before.type}) before it")
        self.changed.append(last.tops[0])

    def _merge_behind(self, run: _Affine, after: Node) -> None:
        layer = self.net.layer(after)
        weight, bias = self._weights(after)
        scale, shift = (_spread_inputs(layer, weight, numbers) for numbers in (run.scale, run.shift))
        axes = tuple(range(1, weight.ndim))
        if isinstance(layer, Deconvolution):  # by group: (inputs, outputs), over all taps, of which there is one
            terms = (weight * shift).reshape(layer.group, -1, weight.shape[1]).sum(1).reshape(-1)
        elif isinstance(layer, InnerProduct) and layer.transpose:
            terms = (weight * shift).sum(0)
        else:
            terms = (weight * shift).sum(axes)
        self.blobs[after.index] = [weight * scale, bias + terms]
        target = self.layers[after.index]
        _add_bias(target)
        target.bottom[0] = run.nodes[0].bottoms[0]
        for node in run.nodes:
            del self.layers[node.index]
        self.merged.append(f"{run} into {after.name} ({after.type}) behind it")
        self.changed.append(after.tops[0])

    def _weights(self, node: Node) -> tuple[Tensor, Tensor]:
        """Return weight and bias (zeros, where there is none) as they are by now, in float64."""
        blobs = self.blobs.get(node.index) or [blob.detach().double() for blob in self.net.layer(node).blobs]
        if len(blobs) > 1:
            return blobs[0], blobs[1]
        return blobs[0], blobs[0].new_zeros(_outputs(self.net.layer(node)))

    def result(self) -> Merger:
        """Return the net without the merged layers, and its weights."""
        param = caffe_pb2.NetParameter()
        param.CopyFrom(self.net.param)
        for cleared in ("layer", "state"):
            param.ClearField(cleared)
        param.layer.extend(self.layers[index] for index in sorted(self.layers))
        weights: Weights = {}
        for node in self.nodes:
            blobs = self.blobs.get(node.index, self.net.layer(node).blobs) if node.index in self.layers else []
            if self.layers.get(node.index, node.param).type != node.type:
                blobs = []
            if blobs:
                weights[node.name] = [blob.detach().float().cpu().numpy() for blob in blobs]
            if node.index in self.blobs and not all(bool(blob.isfinite().all()) for blob in blobs):
                raise WeightsError(f"{node}: a merged weight is not finite. Is a variance below 0, or a blob of a run?")
        return Merger(param, weights, self.merged, self.kept, self.changed)


# -- what layers do to a channel ---------------------------------------------------------------------------------------


def _affine_of(layer: Layer) -> tuple[Tensor, Tensor] | str:
    """Return scale and shift of each channel, in float64; or why the layer is no such thing."""
    blobs = [blob.detach().double().reshape(-1) for blob in layer.blobs]
    if isinstance(layer, SegNetBN):
        if layer.learns:
            return (
                "it normalises by the batch in TEST, too: write the training set's statistics into its scale and "
                "shift, and bn_mode: INFERENCE"
            )
        return blobs[0], blobs[1]
    if isinstance(layer, PSPNetBN):
        return _normaliser(blobs[2], blobs[3], layer.eps, blobs[0], blobs[1])
    if isinstance(layer, NvidiaBatchNorm):
        return _normaliser(blobs[0], blobs[1], layer.eps, *blobs[3:])
    if isinstance(layer, BatchNorm):
        if layer.fixed is False:
            return "use_global_stats: false normalises by the batch in TEST, too"
        factor = 1 / blobs[2] if blobs[2] else blobs[2]
        return _normaliser(blobs[0] * factor, blobs[1] * factor, layer.eps, *blobs[3:])
    if isinstance(layer, (Scale, Bias)) and layer.learned and (layer.first, len(layer.shape)) == (1, 1):
        if isinstance(layer, Bias):
            return torch.ones_like(blobs[0]), blobs[0]
        return blobs[0], blobs[1] if len(blobs) > 1 else torch.zeros_like(blobs[0])
    return "it is no scale and shift by channel"


def _normaliser(
    mean: Tensor, variance: Tensor, eps: float, scale: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    slope = 1 / (variance + eps).sqrt()
    slope = slope if scale is None else slope * scale
    return slope, -mean * slope if bias is None else bias - mean * slope


# -- what convolutions take in -----------------------------------------------------------------------------------------


def _why_not_after(layer: Layer) -> str:
    """Return why the channels of a batch normalisation behind a layer are not the layer's outputs."""
    if isinstance(layer, InnerProduct):
        return (
            "" if layer.first == 1 else f"'{layer.name}' multiplies along axis {layer.first}, the channels are axis 1"
        )
    channel_axis = getattr(layer, "channel_axis", 1)
    return "" if channel_axis == 1 else f"'{layer.name}' has its channels on axis {channel_axis}, not 1"


def _why_not_before(layer: Layer, shift: Tensor) -> str:
    """Return why a scale and shift before a layer cannot be a part of its weights."""
    why_not = _why_not_after(layer)
    if why_not or not shift.any() or isinstance(layer, InnerProduct):
        return why_not
    assert isinstance(layer, (Convolution, Deconvolution))
    if any(layer.pad):
        return f"'{layer.name}' pads with zeros, which the shift would have to reach"
    if isinstance(layer, Deconvolution) and prod((*layer.kernel, *layer.stride)) > 1:
        return f"'{layer.name}' sums other numbers of taps at other places, the shift with them"
    return ""


def _outputs(layer: Layer) -> int:
    options = layer.param.inner_product_param if isinstance(layer, InnerProduct) else layer.param.convolution_param
    return int(options.num_output)


def _scaled_outputs(layer: Layer, weight: Tensor, scale: Tensor) -> Tensor:
    """Return a weight whose outputs are scaled."""
    if isinstance(layer, Deconvolution):  # (inputs, outputs of one group, taps)
        grouped = weight.reshape(layer.group, -1, *weight.shape[1:])
        return (grouped * scale.reshape(layer.group, 1, -1, *(1,) * (weight.ndim - 2))).reshape(weight.shape)
    if isinstance(layer, InnerProduct) and layer.transpose:
        return weight * scale
    return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))


def _spread_inputs(layer: Layer, weight: Tensor, numbers: Tensor) -> Tensor:
    """Return a number for each input channel so that it broadcasts against a weight."""
    if isinstance(layer, InnerProduct):
        places = numbers.repeat_interleave(layer.size // numbers.numel())
        return places[:, None] if layer.transpose else places
    taps = (1,) * (weight.ndim - 2)
    if isinstance(layer, Deconvolution):
        return numbers.reshape(-1, 1, *taps)
    assert isinstance(layer, Convolution)
    per_group = numbers.reshape(layer.group, -1).repeat_interleave(weight.shape[0] // layer.group, 0)
    return per_group.reshape(*per_group.shape, *taps)


# -- the net's text ----------------------------------------------------------------------------------------------------


def _plain_copy(layer: caffe_pb2.LayerParameter) -> caffe_pb2.LayerParameter:
    """Copy a layer for a net of one phase, without the rules that have been met."""
    copy = caffe_pb2.LayerParameter()
    copy.CopyFrom(layer)
    for cleared in ("include", "exclude", "phase"):
        copy.ClearField(cleared)
    copy.top[:] = [top for top in copy.top if not top.startswith(AUTOMATIC)]
    return copy


def _add_bias(layer: caffe_pb2.LayerParameter) -> None:
    for field_name in ("convolution_param", "inner_product_param"):
        if layer.HasField(field_name):
            getattr(layer, field_name).ClearField("bias_term")  # the default is true


def _refuse_repeated_names(net: Net) -> None:
    names = Counter(layer.name for layer in net.layers_in_order if layer.blob_names)
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise GraphError(
            f"net '{net.name}' has several layers named '{repeated[0]}' with blobs; weights go to the first of them "
            "alone. Give each its own name."
        )
