"""What a task starts from: which trunk a weight file is of, and the widths of the layers that it has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path

from fcn_caffe.errors import DataError
from fcn_caffe.models.own_nets import OWN_NETS
from fcn_caffe.models.trunks import VGG16, Vgg
from fcn_caffe.weights.transfer import Array, Weights, load_weights

__all__ = ["TRUNKS", "StartWeights", "choose_start"]

TRUNKS = {
    "vgg16": VGG16,
    "vgg19": Vgg((2, 2, 4, 4, 4)),
    "narrow": Vgg((2, 2, 2, 2, 2), (16, 32, 64, 96, 128), 256, 3),
}

# The nets on other classifiers' trunks, and layers by which their weight files are known.
_NETS = {
    "fcn-alexnet": ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"),
    "fcn-googlenet": ("conv1/7x7_s2", "conv2/3x3", "inception_3a/1x1", "inception_5b/1x1"),
}


@dataclass(frozen=True)
class StartWeights:
    """What a weight file is good for.

    Attributes:
        net: "fcn", or the net that has its trunk.
        trunk: One of TRUNKS, where it is of VGG's form.
        fc: The outputs of fc6 and the side of its kernel, where it has fc6; else None.
        learned: The layers of the trunk, with fc6 and fc7, that it lacks, so that they must be learned.
    """

    net: str = "fcn"
    trunk: str = "vgg16"
    fc: tuple[int, int] | None = None
    learned: frozenset[str] = frozenset()


def _tell_start(path: Path, weights: Weights) -> StartWeights:
    """Tell which classifier's trunk the weights of a file are of, by their layers.

    Raises:
        DataError: It has layers of none.
    """
    for net, layers in _NETS.items():
        if all(layer in weights for layer in layers):
            return StartWeights(net)
    if not weights.keys() & set(TRUNKS["vgg19"].convolution_names):
        raise DataError(
            f"{path}: has no layer of VGG-16's, VGG-19's, CaffeNet's or GoogLeNet's trunk (it has "
            f"{', '.join(list(weights)[:5])} …). Give weights of one of these classifiers."
        )
    is_narrow = "conv1_1" in weights and weights["conv1_1"][0].shape[0] == TRUNKS["narrow"].widths[0]
    trunk = "narrow" if is_narrow else "vgg19" if "conv3_4" in weights else "vgg16"
    return StartWeights(trunk=trunk, fc=_fc(weights, trunk))


def _fc(weights: Weights, trunk: str) -> tuple[int, int] | None:
    """Return the outputs and the kernel of fc6, which may be an inner product."""
    if "fc6" not in weights:
        return None
    array: Array = weights["fc6"][0]
    outputs = array.shape[0] if array.ndim == 2 or array.shape[0] > 1 else array.shape[2]
    side = isqrt(array.size // outputs // TRUNKS[trunk].widths[-1])
    return int(outputs), side


def _learned_layers(trunk: str, path: Path | None, weights: Weights) -> frozenset[str]:
    """Return the layers of a trunk, with fc6 and fc7, that the weights of a file lack, so that they must be learned.

    Raises:
        DataError: the file has no layer of the trunk.
    """
    layers = TRUNKS[trunk].convolution_names
    if path is not None and not weights.keys() & set(layers):
        raise DataError(f"{path}: has no layer of the {trunk} trunk (it has {', '.join(list(weights)[:5])} …).")
    return frozenset(name for name in [*layers, "fc6", "fc7"] if name not in weights)


def choose_start(weights: Path | None, net: str, trunk: str | None) -> StartWeights:
    """Return the net and the trunk that a task takes, as the weights that it starts from ask for.

    Args:
        weights: The file; None for none.
        net: The net that is asked for: weights of another classifier turn "fcn" into the net on its trunk.
        trunk: The trunk that is asked for; None for that of the weights, else VGG-16's.

    Raises:
        WeightsError: The file cannot be read.
        DataError: The weights are of no trunk that the net has, or the net cannot start from nothing.
    """
    own = OWN_NETS.get(net)
    if own is not None and not own.classifier and not own.trunk:
        return StartWeights(net, trunk or StartWeights.trunk)
    known = {} if weights is None else load_weights(weights)
    if own is not None and own.classifier:
        if weights is None or _tell_start(weights, known).net != net:
            raise DataError(f"--net {net} starts from {own.classifier}'s weights: give them with --weights.")
        return StartWeights(net)
    start = StartWeights()
    if weights is not None and trunk is None:
        start = _tell_start(weights, known)
        if start.net != "fcn":
            if own is None:
                return start
            raise DataError(f"{weights}: of the classifier of {start.net}; --net {net} starts from VGG-16's.")
    trunk = trunk or start.trunk
    return replace(start, net=net, trunk=trunk, learned=_learned_layers(trunk, weights, known))
