"""How many multiply-adds a net takes, on the sizes that it was built with."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from fcn_caffe.layers.conv import Convolution, Deconvolution
from fcn_caffe.layers.linear import InnerProduct

if TYPE_CHECKING:
    from fcn_caffe.net.graph import Node
    from fcn_caffe.net.net import Net

__all__ = ["layer_multiply_adds", "multiply_adds"]


def multiply_adds(net: Net) -> int:
    """Count the multiply-adds of a net's convolutions and inner products."""
    return sum(layer_multiply_adds(net, node) for node in net.graph.nodes)


def layer_multiply_adds(net: Net, node: Node) -> int:
    """Count the multiply-adds of one layer; 0 for types that only pool, add, crop or work element by element."""
    layer = net.layer(node)
    if not isinstance(layer, (Convolution, Deconvolution, InnerProduct)):
        return 0
    weight = layer.blobs[0]
    # Each weight is used once a place: of the top, or of the bottom where the layer upsamples.
    shape = net.blob_shapes[node.bottoms[0] if isinstance(layer, Deconvolution) else node.tops[0]]
    places = prod(shape[: layer.first]) if isinstance(layer, InnerProduct) else prod(shape) // len(weight)
    return places * weight.numel()
