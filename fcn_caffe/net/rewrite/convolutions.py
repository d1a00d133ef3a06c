"""Which way a net's convolutions are computed: how one is told, and the way of those that are mostly weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.conv import Convolution
from fcn_caffe.layers.convolution_ways import ConvolveBy, Gemm
from fcn_caffe.net.memory import infer_shapes

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net

LARGE = 1 << 20  # elements of a weight; to copy a smaller one takes no time


def can_choose(layer: Layer) -> bool:
    """Whether a layer is a 2-D convolution whose arithmetic can be chosen."""
    return isinstance(layer, Convolution) and layer.spatial_axes == 2 and not layer.by_taps


def is_mostly_weight(layer: Layer, top: Sequence[int]) -> bool:
    """Whether a convolution's weight is larger than the columns that it multiplies, as fc6's of VGG; top: its shape.

    oneDNN lays such a weight out anew in every pass, and its gradient too; a product of matrices does not.
    """
    return (
        isinstance(layer, Convolution)
        and can_choose(layer)
        and layer.group == 1
        and max(layer.kernel) > 1
        and layer.weight.numel() >= LARGE
        and len(top) == 4
        and len(layer.weight) > prod(top[2:])
    )


def multiply_large_weights(net: Net) -> Net:
    """Return a net that learns over the same blobs, whose convolutions that are mostly weight are products of matrices.

    Equal up to rounding, forward and gradients: less time, and no copies of the weights. The net itself where there is
    none.
    """
    gemm, steps = ConvolveBy(Gemm(), bottom=Gemm(), weight=Gemm()), []
    for step, tops in zip(net.steps, infer_shapes(net.steps, net.blob_shapes), strict=True):
        layer = step.layer
        if isinstance(layer, Convolution) and is_mostly_weight(layer, tops[0]):
            step = replace(step, layer=layer.with_convolve(gemm))
        steps.append(step)
    return net.with_steps(steps) if any(a is not b for a, b in zip(steps, net.steps, strict=True)) else net
