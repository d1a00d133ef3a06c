"""What Caffe prints of every blob and gradient when debug_info is set."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fcn_caffe.host.glog import number, say, show_log
from fcn_caffe.layers.base import Layer
from fcn_caffe.net.graph import Node

_PLACES = {"Forward": "net.cpp:601", "Backward": "net.cpp:634"}


def mean_size(blob: Tensor) -> float:
    """The mean of absolute values, which is what Caffe's debug lines show of a blob; NaN of an empty one."""
    return float(blob.detach().abs().mean(dtype=torch.float64)) if blob.numel() else math.nan


class DebugInfo:
    """Watches the layers of a net and says the mean size of their tops, parameters and gradients.

    Forward lines come as layers run; backward lines when `backward_done` is called, last layer first. While not
    `enabled` it costs one test a layer.
    Source: Caffe Net::ForwardDebugInfo, BackwardDebugInfo, Backward.
    """

    def __init__(self, nodes: Sequence[Node], layers: Mapping[str, Layer]) -> None:
        show_log()
        self.enabled = True
        self._layers = [(node, layers[node.name]) for node in nodes]
        self._gradients: dict[tuple[int, int], float] = {}
        for node, layer in self._layers:
            layer.inplace = False  # a bottom that is overwritten loses its hook
            if node.bottoms:
                layer.register_forward_pre_hook(self._watch_bottoms(node))
                layer.register_forward_hook(self._after_layer(node))

    def _watch_bottoms(self, node: Node) -> Callable[[Any, tuple[Tensor, ...]], tuple[Tensor, ...] | None]:
        def hook(layer: Any, bottoms: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if not self.enabled:
                return None
            watched = list(bottoms)
            for position, bottom in enumerate(bottoms):
                if bottom.requires_grad:
                    # A tensor of this reader alone: the others' gradients are theirs.
                    watched[position] = bottom.view_as(bottom)
                    watched[position].register_hook(self._remember(node.index, position))  # type: ignore[no-untyped-call]
            return tuple(watched)

        return hook

    def _remember(self, index: int, position: int) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            self._gradients[index, position] = mean_size(gradient)

        return hook

    def _after_layer(self, node: Node) -> Callable[[Any, Any, Any], None]:
        def hook(layer: Any, bottoms: Any, tops: Any) -> None:
            self.show_tops(node, layer, (tops,) if isinstance(tops, Tensor) else tops)

        return hook

    def show_tops(self, node: Node, layer: Layer, tops: Iterable[Tensor]) -> None:
        """Say the tops and parameters of a layer that has run; the net calls it for layers without bottoms."""
        if not self.enabled:
            return
        for name, top in zip(node.tops, tops, strict=False):
            self._line("Forward", node, f"top blob {name} data", mean_size(top))
        for index, blob in enumerate(layer.blobs):
            self._line("Forward", node, f"param blob {_display_name(node, index)} data", mean_size(blob))

    def backward_done(self) -> None:
        """Say the gradients of the backward pass that has just ended, and the norms of all parameters."""
        if not self.enabled:
            return
        for node, layer in reversed(self._layers):
            for position, bottom in enumerate(node.bottoms):
                size = self._gradients.get((node.index, position))
                if size is not None:
                    self._line("Backward", node, f"bottom blob {bottom} diff", size)
            for index, blob in enumerate(layer.blobs):
                if blob.requires_grad:
                    size = 0.0 if blob.grad is None else mean_size(blob.grad)
                    self._line("Backward", node, f"param blob {index} diff", size)
        self._gradients.clear()
        blobs = list({id(blob): blob for _, layer in self._layers for blob in layer.blobs}.values())
        data = _norms(blobs)
        diff = _norms([blob.grad for blob in blobs if blob.grad is not None])
        say(
            "net.cpp:572",
            f"    [Backward] All net params (data, diff): L1 norm = ({number(data[0])}, {number(diff[0])}); "
            f"L2 norm = ({number(data[1])}, {number(diff[1])})",
            logging.ERROR,  # Caffe's level for this one line
        )

    def _line(self, way: str, node: Node, what: str, size: float) -> None:
        say(_PLACES[way], f"    [{way}] Layer {node.name}, {what}: {number(size)}")


def _display_name(node: Node, index: int) -> str:
    """A parameter's name where its `param` gives it one, else its number. Source: Caffe Net::AppendParam."""
    specs = node.param.param
    return (specs[index].name if index < len(specs) else "") or str(index)


def _norms(blobs: Sequence[Tensor]) -> tuple[float, float]:
    """The sums of absolute values, and the root of the sum of squares, over all blobs."""
    absolute = sum(float(blob.detach().abs().sum(dtype=torch.float64)) for blob in blobs)
    squares = sum(float(blob.detach().square().sum(dtype=torch.float64)) for blob in blobs)
    return absolute, math.sqrt(squares)
