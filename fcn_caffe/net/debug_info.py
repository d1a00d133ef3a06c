"""debug_info: the lines that Caffe prints of every blob and gradient."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fcn_caffe.host.glog import number, say, show_log
from fcn_caffe.layers.base import Layer
from fcn_caffe.net.graph import Node
from fcn_caffe.net.runner import Runner, Step

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net

_PLACES = {"Forward": "net.cpp:601", "Backward": "net.cpp:634"}


def mean_size(blob: Tensor) -> float:
    """Return the mean absolute value, which Caffe's debug lines show of a blob; NaN if it is empty."""
    return float(blob.detach().abs().mean(dtype=torch.float64)) if blob.numel() else math.nan


class DebugInfo:
    """Says the mean sizes of a net's blobs, parameters and gradients, as Caffe does with debug_info.

    `DebugRunner` says the forward lines as layers run. The backward lines come when `backward_done` is called, last
    layer first. While `enabled` is false nothing is said.

    Source: Caffe Net::ForwardDebugInfo, BackwardDebugInfo, Backward.
    """

    def __init__(self, nodes: Sequence[Node], layers: Sequence[Layer]) -> None:
        show_log()
        self.enabled = True
        self._layers = list(zip(nodes, layers, strict=True))
        self._gradients: dict[tuple[int, int], float] = {}  # by (node, bottom position)
        for _, layer in self._layers:
            layer.inplace = False  # a bottom that is overwritten loses its hook

    def watch_bottoms(self, node: Node, bottoms: Sequence[Tensor]) -> list[Tensor]:
        """Return the bottoms to give the layer; the sizes of the gradients that reach them are noted."""
        watched = list(bottoms)
        for position, bottom in enumerate(bottoms):
            if bottom.requires_grad:
                # A tensor of this reader alone: the other readers' gradients are theirs.
                watched[position] = bottom.view_as(bottom)
                watched[position].register_hook(partial(self._note_gradient, node.index, position))  # type: ignore[no-untyped-call]
        return watched

    def _note_gradient(self, index: int, position: int, gradient: Tensor) -> None:
        self._gradients[index, position] = mean_size(gradient)

    def show_tops(self, node: Node, layer: Layer, tops: Iterable[Tensor]) -> None:
        """Say the tops and the parameters of a layer that has run."""
        for name, top in zip(node.tops, tops, strict=False):
            self._say("Forward", node, f"top blob {name} data", mean_size(top))
        for index, blob in enumerate(layer.blobs):
            self._say("Forward", node, f"param blob {_display_name(node, index)} data", mean_size(blob))

    def backward_done(self) -> None:
        """Say the gradients of the backward pass that has just ended, and the norms over all parameters."""
        if not self.enabled:
            return
        for node, layer in reversed(self._layers):
            positions = range(len(node.bottoms))
            noted = {position: self._gradients.get((node.index, position)) for position in positions}
            self.show_gradients(
                node,
                {position: size for position, size in noted.items() if size is not None},
                {index: blob.grad for index, blob in enumerate(layer.blobs) if blob.requires_grad},
            )
        self._gradients.clear()
        self.show_norms()

    def show_gradients(self, node: Node, bottoms: Mapping[int, float], params: Mapping[int, Tensor | None]) -> None:
        """Say the gradients of a layer that has run backward.

        Args:
            node: the layer.
            bottoms: the mean sizes of its bottoms' gradients, by position.
            params: its parameters' gradients, by position; None is zero.
        """
        for position, size in bottoms.items():
            self._say("Backward", node, f"bottom blob {node.bottoms[position]} diff", size)
        for index, gradient in params.items():
            size = 0.0 if gradient is None else mean_size(gradient)
            self._say("Backward", node, f"param blob {index} diff", size)

    def show_norms(self) -> None:
        """Say the norms over all parameters, which end a backward pass."""
        blobs = list({id(blob): blob for _, layer in self._layers for blob in layer.blobs}.values())
        data = _norms(blobs)
        diff = _norms([blob.grad for blob in blobs if blob.grad is not None])
        say(
            "net.cpp:572",
            f"    [Backward] All net params (data, diff): L1 norm = ({number(data[0])}, {number(diff[0])}); "
            f"L2 norm = ({number(data[1])}, {number(diff[1])})",
            logging.ERROR,  # Caffe's level for this one line
        )

    def _say(self, way: str, node: Node, what: str, size: float) -> None:
        say(_PLACES[way], f"    [{way}] Layer {node.name}, {what}: {number(size)}")


class DebugRunner(Runner):
    """Runs a net and says its forward lines; see `DebugInfo`."""

    def __init__(self, net: Net, debug: DebugInfo) -> None:
        super().__init__(net)
        self.debug = debug

    def call_layer(self, step: Step, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
        if not bottoms or not self.debug.enabled:
            return super().call_layer(step, bottoms)
        tops = super().call_layer(step, self.debug.watch_bottoms(step.node, bottoms))
        self.debug.show_tops(step.node, step.layer, tops)
        return tops

    def source(self, step: Step) -> Sequence[Tensor]:
        tops = super().source(step)
        if self.debug.enabled:
            self.debug.show_tops(step.node, step.layer, tops)
        return tops


def _display_name(node: Node, index: int) -> str:
    """The name that `param` gives a parameter, else its number. Source: Caffe Net::AppendParam."""
    specs = node.param.param
    return (specs[index].name if index < len(specs) else "") or str(index)


def _norms(blobs: Sequence[Tensor]) -> tuple[float, float]:
    """The L1 norm and the L2 norm over all blobs."""
    absolute = sum(float(blob.detach().abs().sum(dtype=torch.float64)) for blob in blobs)
    squares = sum(float(blob.detach().square().sum(dtype=torch.float64)) for blob in blobs)
    return absolute, math.sqrt(squares)
