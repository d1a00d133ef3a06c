"""Proves on data that a net without its batch normalisations gives the old net's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from fcn_caffe.errors import GraphError, LayerError, WeightsError
from fcn_caffe.net.net import Net
from fcn_caffe.net.rewrite.merged_batch_norm import Merger
from fcn_caffe.net.rewrite.proof import SPREADS, Difference, compare, random_inputs
from fcn_caffe.net.runner import Shape
from fcn_caffe.weights.transfer import copy_weights

__all__ = ["MergerProof", "prove_merger"]

# In float64, with weights rounded to float32: a sum of many products is good to 1e-7 of the largest.
_TOLERANCE = 1e-5
# Where a difference of 1e-7 may change a top wholly: their bottoms are compared instead.
_DISCRETE = ("Accuracy", "ArgMax", "DetectionOutput", "SegAccuracy", "Threshold")
_STEP = 32  # the stride of most nets: sizes apart by it fit a net that wants such sizes


@dataclass(frozen=True)
class MergerProof:
    """What `prove_merger` found.

    differences: the largest of each blob. sizes: the images that were run. skipped: why no second size was, if so.
    """

    differences: list[Difference]
    sizes: list[Shape]
    skipped: str = ""


def prove_merger(net: Net, merger: Merger, seed: int = 0) -> MergerProof:
    """Compare a net and its merged form on random inputs of two sizes: each changed layer and every output.

    Both run in float64, the merged weights rounded to float32, as they are stored.

    Args:
        net: The net that `merge_batch_norm` was given; it is float64 afterwards.
        merger: What it made of it.
        seed: Starts the random numbers.

    Raises:
        WeightsError: A blob is off by more than 1e-5 of its largest value, is not finite, or only zeros, which would
            prove nothing.
    """
    merged = Net(merger.net)
    copy_weights(merged, merger.weights, "the merged weights", strict=True)
    pair = net.double(), merged.double()
    blobs = _compared_blobs(net, merger.changed)
    shapes = {name: net.blob_shapes[name] for name in net.graph.inputs}
    runs = [_differences(pair, shapes, blobs, seed, SPREADS)]
    dead = [name for name in merger.changed if not any(one.largest for one in runs[0] if one.blob == name)]
    if dead:
        raise WeightsError(
            f"the proof says nothing: '{dead[0]}' is zero on random inputs. Use the trained weights of this net."
        )
    sizes, skipped = [_image(shapes)], ""
    for step in (-_STEP, _STEP):
        other = {name: _resized(shape, step) for name, shape in shapes.items()}
        if other == shapes:
            skipped = "no input is an image"
            continue
        try:
            Net(merger.net, device="meta", input_shapes=other)  # what does not fit is found before anything is computed
            runs.append(_differences(pair, other, blobs, seed, SPREADS[:1]))
        except (GraphError, LayerError) as error:
            skipped = str(error)
            continue
        sizes.append(_image(other))
        skipped = ""
        break
    worst: dict[str, Difference] = {}
    for one in chain.from_iterable(runs):
        if one.blob not in worst or one.relative > worst[one.blob].relative:
            worst[one.blob] = one
    return MergerProof(list(worst.values()), sizes, skipped)


def _compared_blobs(net: Net, changed: Sequence[str]) -> list[str]:
    """Return the blobs of changed layers and the outputs; where an output is discrete, what it is made of."""
    makers = {top: node for node in net.graph.nodes for top in node.tops}
    blobs = dict.fromkeys(changed)
    for output in net.graph.outputs:
        maker = makers[output]
        blobs.update(dict.fromkeys(maker.bottoms if maker.type in _DISCRETE else [output]))
    return list(blobs)


def _differences(
    pair: tuple[Net, Net], shapes: Mapping[str, Shape], blobs: Sequence[str], seed: int, spreads: Sequence[float]
) -> list[Difference]:
    differences = []
    for spread in spreads:
        inputs = {name: blob.double() for name, blob in random_inputs(pair[0], shapes, seed, spread).items()}
        with torch.no_grad():
            old, new = (net(inputs, keep=blobs) for net in pair)
        differences += [compare(name, old[name], new[name], _TOLERANCE, "the net's") for name in blobs]
    return differences


def _image(shapes: Mapping[str, Shape]) -> Shape:
    return max(shapes.values(), key=len, default=())


def _resized(shape: Shape, step: int) -> Shape:
    """Return the shape of an image that is larger or smaller; a small one gets larger."""
    if len(shape) != 4 or max(shape[2:]) < 2:
        return shape
    return (*shape[:2], *(size + step if size > 2 * _STEP else size + _STEP for size in shape[2:]))
