"""A net that is not to learn any more, which runs faster: weights packed, ReLUs fused, dead work dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.conv import Convolution, Deconvolution
from fcn_caffe.layers.convolution_ways import ConvolveBy, DeconvolveDiagonal, Gemm, Prepacked, packs_to_the_bit
from fcn_caffe.layers.neuron import ReLU
from fcn_caffe.net.rewrite.convolutions import can_choose, is_mostly_weight
from fcn_caffe.net.runner import Step

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net


def freeze(net: Net) -> Net:
    """Return a net for inference over the same blobs; see `Net.frozen`."""
    if net.debug is not None or net.training:
        return net
    steps = [
        _freeze_step(step, net.blob_shapes.get(step.tops[0], ()) if step.tops else ())
        for step in _without_dead_work(net.steps)
    ]
    return net.with_steps(fuse_relus(steps))


def _without_dead_work(steps: Sequence[Step]) -> list[Step]:
    """Drop what changes nothing: a Dropout in place that drops nothing."""
    return [step for step in steps if not (step.node.type == "Dropout" and step.node.in_place and not step.changes)]


def _freeze_step(step: Step, shape: Sequence[int]) -> Step:
    """The step with its weight packed, or grouped where it is diagonal; shape: its top's."""
    layer = step.layer
    if isinstance(getattr(layer, "convolve", None), (ConvolveBy, DeconvolveDiagonal)):
        return step  # it is frozen
    if isinstance(layer, Convolution) and can_choose(layer) and max(layer.kernel) > 1:
        if packs_to_the_bit():
            return replace(step, layer=layer.with_convolve(ConvolveBy(Prepacked())))
        if is_mostly_weight(layer, shape):
            return replace(step, layer=layer.with_convolve(ConvolveBy(Gemm())))
    if isinstance(layer, Deconvolution) and layer.spatial_axes == 2 and not layer.by_taps and layer.group == 1:
        return replace(step, layer=layer.with_convolve(DeconvolveDiagonal()))
    return step


def fuse_relus(steps: Sequence[Step]) -> list[Step]:
    """Make each ReLU in place a part of the convolution right before it, whose top no other layer sees without it."""
    fused: list[Step] = []
    makers = Counter(name for step in steps for name in step.tops)
    for step in steps:
        before = fused[-1] if fused else None
        if before is not None and makers[step.tops[0] if step.tops else ""] == 2 and _fits(before, step):
            fused[-1] = replace(before, layer=_with_relu(before.layer))
        else:
            fused.append(step)
    return fused


def _with_relu(layer: Layer) -> Layer:
    assert isinstance(layer, Convolution) and isinstance(layer.convolve, ConvolveBy)
    return layer.with_convolve(replace(layer.convolve, relu=True))


def _fits(before: Step, step: Step) -> bool:
    """Whether a step is a plain ReLU in place on the one top of the convolution before it."""
    return (
        isinstance(step.layer, ReLU)
        and not step.layer.negative_slope
        and step.node.in_place
        and not step.blocked
        and not step.changes
        and before.tops == step.tops
        and isinstance(before.layer, Convolution)
        and isinstance(before.layer.convolve, ConvolveBy)
        and isinstance(before.layer.convolve.forward, Prepacked)  # of which alone a ReLU can be a part
    )
