"""The learning rate against how the loss is normalised."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from fcn_caffe.doctor.findings import ERROR, NOTE, WARNING, Finding
from fcn_caffe.layers.loss import LossLayer
from fcn_caffe.net.graph import Node
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2

__all__ = ["rates"]

# The step that a mean gradient of 1 a position causes: base_lr / (1 - momentum) times the summed positions. The
# released nets, from FCN-32s to FCN-8s, run from 2.5e-3 down to 2.5e-7; CVPR's from 1e-2 down to 1e-7.
HIGHEST, HIGH = 10.0, 1.0
LOW_OF_MEANS, LOWEST_OF_MEANS = 9e-8, 5e-8  # no recipe drops a rate this low for a loss that is a mean
LOWEST_OF_SUMS = 1e-9
LOWEST_OF_ADAPTIVE, HIGHEST_OF_ADAPTIVE = 1e-8, 1.0
_FOLLOWS_LOSS = ("SGD", "Nesterov")
_OWN_SCALE = ("Adam", "RMSProp", "AdaGrad")


def rates(net: Net, solver: caffe_pb2.SolverParameter, place: str) -> Iterator[Finding]:
    """Check base_lr against the losses of the net. place: the solver's file, for messages."""
    lr, momentum = float(solver.base_lr), float(solver.momentum)
    if lr <= 0:
        yield Finding(ERROR, "rate", place, f"base_lr is {lr:g}: nothing is learned.", "Set it above 0.")
        return
    if not any(item.lr_mult for item in net.learnable_params):
        yield Finding(ERROR, "rate", place, "every parameter of the net has lr_mult 0.", "Let some layers learn.")
    if momentum >= 1:
        yield Finding(ERROR, "rate", place, f"momentum is {momentum:g}: steps grow for ever.", "Set it below 1.")
        return
    if solver.type in _OWN_SCALE:
        if not LOWEST_OF_ADAPTIVE <= lr <= HIGHEST_OF_ADAPTIVE:
            yield Finding(
                ERROR,
                "rate",
                place,
                f"base_lr {lr:g} with {solver.type}, whose steps are about base_lr whatever the size of the loss.",
                "Try 1e-4; rates like 1e-10 belong to SGD with a summed loss.",
            )
        return
    if solver.type not in _FOLLOWS_LOSS:
        return
    for node in net.graph.nodes:
        layer = net.layer(node)
        if isinstance(layer, LossLayer) and node.tops[0] in net.loss_weights:
            yield from _of_loss(net, node, layer, lr, momentum, place)


def _of_loss(net: Net, node: Node, layer: LossLayer, lr: float, momentum: float, place: str) -> Iterator[Finding]:
    shape, dim = net.blob_shapes[node.bottoms[0]], getattr(layer, "dim", 1)
    outer, inner = prod(shape[:dim]), prod(shape[dim + 1 :])
    softmax = hasattr(layer, "dim")
    # Without a softmax each class has a loss of its own, which no other class's adds to.
    losses = 1 if softmax else prod(shape[1:2])
    summed = outer * inner / float(layer.normalizer(outer * inner * losses, outer, inner * losses))
    equivalent = lr * summed * abs(net.loss_weights[node.tops[0]])
    step = equivalent / (1 - momentum)
    positions = f"{shape[2]}x{shape[3]} pixels" if len(shape) == 4 and dim == 1 else f"{inner} positions"
    kind = f"a loss summed over {positions}" if summed > 1 else "a loss that is a mean over its positions"
    who = f"{place}, {node}"
    rate = f"base_lr {lr:g} with momentum {momentum:g} and {kind}"
    if step > HIGHEST or (step > HIGH and summed > 1 and softmax):
        fit = lr * 1e-2 / step
        advice = f"Use about {fit:.0e} here" + (", or normalize: true with this rate." if summed > 1 else ".")
        level = ERROR if step > HIGHEST else WARNING
        yield Finding(level, "rate", who, f"{rate} acts as {equivalent:g} a pixel: it diverges to NaN.", advice)
    elif (summed <= 1 and step < LOW_OF_MEANS) or step < LOWEST_OF_SUMS:
        level = ERROR if step < (LOWEST_OF_MEANS if summed <= 1 else LOWEST_OF_SUMS) else WARNING
        advice = (
            "Such rates go with loss_param { normalize: false } (and momentum 0.99); with this loss use 1e-4 to 1e-2."
            if summed <= 1
            else "Use a higher rate: 1e-10 for FCN-32s."
        )
        yield Finding(level, "rate", who, f"{rate} is far too low: nothing will move.", advice)
    elif summed > 1:
        yield Finding(
            NOTE,
            "rate",
            who,
            f"{rate} acts as {equivalent:g} with a loss normalised over pixels.",
            "The loss that is shown is a sum: divide it by the pixels to compare.",
        )
