"""A net that keeps its weights in float16, and computes in float32: half the file, and the speed of float32.

As OpenVINO keeps them. Sums and squares of a net's blobs go beyond 65504, where float16 ends.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Runner, Step

__all__ = ["HALVED", "halve"]

HALVED = ("Convolution", "Deconvolution", "InnerProduct")  # they have nearly all of a net's weights


class HalfRunner(Runner):
    """Runs the layers of `HALVED` on their weights in float32."""

    def call_layer(self, step: Step, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
        if step.node.type not in HALVED:
            return super().call_layer(step, bottoms)
        weights = {name: blob.float() for name, blob in step.layer.named_parameters()}
        top: Tensor = torch.func.functional_call(step.layer, weights, tuple(bottoms))
        return (top,)


def halve(net: Net) -> Net:
    """Return a copy of a net with float16 weights where they count; the net keeps its own."""
    twin = copy.deepcopy(net)
    for layer in (*twin.layers_in_order, *(step.layer for step in twin.steps)):
        if layer.layer_type in HALVED:
            layer.to(torch.float16)
    twin.make_runner = HalfRunner
    return twin
