"""What a solver's learning rate means: by what the loss is divided, and the same steps under another normalisation.

Caffe's SGD moves by V = m V + lr G, W = W - V. A gradient moves the weights by lr / (1 - m) in the end, and G is that
of the loss as it is normalised, averaged over iter_size passes. Hence a loss divided by D at the rate lr takes the
steps of one divided by E at the rate lr E / D. Weight decay is added to G undivided: it becomes decay D / E. So does
clip_gradients, which bounds the length of G.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from math import log, prod
from typing import Any

from fcn_caffe.doctor.findings import NOTE
from fcn_caffe.doctor.rates import rates
from fcn_caffe.doctor.subject import read_subject
from fcn_caffe.errors import SolverError
from fcn_caffe.host.text import show
from fcn_caffe.layers.loss import LossLayer
from fcn_caffe.net.graph import Node
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TRAIN

__all__ = ["Equivalent", "Explanation", "LossRate", "explain"]

_MODES = caffe_pb2.LossParameter
# What a mode divides by, in words, and how it is written.
_WORDS = {
    _MODES.VALID: ("the pixels with a label that counts", "normalization: VALID, or normalize: true"),
    _MODES.FULL: ("all pixels", "normalization: FULL"),
    _MODES.BATCH_SIZE: ("the images of a pass", "normalization: BATCH_SIZE, or normalize: false"),
    _MODES.NONE: ("nothing", "normalization: NONE"),
}
# Losses that know no loss_param: Caffe divides them by the images; what else halves a square, its gradient doubles.
_BY_IMAGES = ("EuclideanLoss", "ContrastiveLoss", "HingeLoss", "MultinomialLogisticLoss")
_FOLLOWS = ("SGD", "Nesterov")  # rules whose steps grow with the loss


@dataclass(frozen=True)
class Equivalent:
    """The settings of a solver that takes the same steps. clip_gradients: below 0 for none, as in Caffe."""

    base_lr: float
    weight_decay: float
    clip_gradients: float = -1.0

    def __str__(self) -> str:
        clip = f"  clip_gradients: {self.clip_gradients:g}" if self.clip_gradients >= 0 else ""
        return f"base_lr: {self.base_lr:<12g} weight_decay: {self.weight_decay:g}{clip}"


@dataclass
class LossRate:
    """One loss of the train net. pixels: positions an image; divisor: at most, where void labels are left out.

    at_start: the loss a position with all scores zero, in nats; None where that is not ln C. acts: base_lr for a loss
    averaged over positions. equivalents: what takes the same steps under each normalisation, by the prototxt's words.
    """

    layer: str
    type: str
    images: int
    pixels: int
    normalisation: str
    divided_by: str
    divisor: float
    weight: float
    acts: float
    at_start: float | None = None
    void: int | None = None
    equivalents: dict[str, Equivalent] = field(default_factory=dict)

    @property
    def shown(self) -> float | None:
        """The loss in the log where every score is zero and no label is void."""
        return None if self.at_start is None else self.at_start * self.images * self.pixels / self.divisor * self.weight


@dataclass
class Explanation:
    """A solver's rate in words: `str` gives them; `record` the numbers. warnings: what does not fit together."""

    solver: str
    type: str
    base_lr: float
    policy: str
    momentum: float
    iter_size: int
    size: str
    losses: list[LossRate] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    weight_decay: float = 0.0

    @property
    def scales(self) -> bool:
        """Whether the rule's steps grow with the loss, so that its normaliser matters."""
        return self.type in _FOLLOWS

    @property
    def factor(self) -> float:
        """How far a gradient moves the weights in the end, as a multiple of the rate; infinite for momentum of 1."""
        return 1 / (1 - self.momentum) if self.momentum < 1 else float("inf")

    def record(self) -> dict[str, Any]:
        """Return the numbers as JSON holds them."""
        factor = self.factor if self.momentum < 1 else None  # JSON has no infinity
        losses = [{**asdict(loss), "shown": loss.shown, "steps": factor and loss.acts * factor} for loss in self.losses]
        return {**asdict(self), "momentum_factor": factor, "losses": losses}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        images = {loss.images for loss in self.losses}
        yield f"{self.solver}: {self.type}, base_lr {self.base_lr:g} ({self.policy}), train net built for {self.size}"
        step = " or ".join(str(count * self.iter_size) for count in sorted(images)) or str(self.iter_size)
        yield (
            f"iter_size {self.iter_size}: a step averages the gradients of {self.iter_size} "
            f"pass{'' if self.iter_size == 1 else 'es'}, {step} image(s) in all"
        )
        if self.scales:
            yield (
                f"momentum {self.momentum:g}: each gradient is applied again and again, "
                f"1 / (1 - {self.momentum:g}) = {self.factor:g} times in all"
            )
        for loss in self.losses:
            yield from self._loss_lines(loss)
        yield from (f"{name}: how it is normalised is not known here" for name in self.unknown)
        yield from self.warnings

    def _loss_lines(self, loss: LossRate) -> Iterator[str]:
        yield f"layer '{loss.layer}' ({loss.type}), {loss.images} image(s) of {loss.pixels} positions a pass"
        most = "at most " if loss.void is not None and loss.normalisation.startswith("normalization: VALID") else ""
        void = "" if loss.void is None else f"; label {loss.void} is void and counts nothing"
        yield f"  normaliser: {most}{loss.divisor:g}, {loss.divided_by} ({loss.normalisation}){void}"
        if loss.weight != 1:
            yield f"  loss_weight: {loss.weight:g}"
        if loss.shown is not None and loss.at_start is not None:
            yield (
                f"  scores of zero cost {loss.at_start:.4g} nats a position; the log begins near {loss.shown:.4g}, "
                f"as it shows {loss.shown / loss.at_start:g} times the loss a position"
            )
        if not self.scales:
            yield f"  {self.type} scales each step by the gradient's own size: the normaliser hardly changes it"
            return
        yield (
            f"  acts as {loss.acts:g} would on a loss averaged over positions; "
            f"with momentum {loss.acts * self.factor:g}"
        )
        if loss.equivalents:
            yield "  the same steps with another normalisation:"
        width = max(map(len, loss.equivalents), default=0)
        for words, same in loss.equivalents.items():
            here = "  (as it is)" if words == loss.normalisation else ""
            yield f"    {words:<{width}}  {same}{here}"


def explain(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> Explanation:
    """Explain a solver's rate by the losses of its train net, which is built without memory.

    size: (H, W) of the images, instead of the data's; where the data set is not there, the deploy form's.
    Raises: PrototxtError; SolverError for a net file, or a train net without a loss; FcnCaffeError where the net
    cannot be built.
    """
    subject = read_subject(path, size)
    if subject.settings is None:
        raise SolverError(f"{subject.path}: is a net, which has no rate. Give the solver that trains it.")
    param = subject.settings.param
    net = subject.build(TRAIN).net
    explanation = Explanation(
        str(subject.path),
        param.type,
        float(param.base_lr),
        f"lr_policy: {param.lr_policy}",
        float(param.momentum),
        int(param.iter_size),
        _size(net),
        weight_decay=float(param.weight_decay),
    )
    for node in net.graph.nodes:
        weight = sum(abs(net.loss_weights.get(top, 0)) for top in node.tops)
        if not weight:
            continue
        loss = _loss_rate(net, node, weight, param)
        if loss is None:
            explanation.unknown.append(str(node))
        else:
            explanation.losses.append(loss)
    if not explanation.losses and not explanation.unknown:
        raise SolverError(f"{subject.path}: the train net has no loss. Add a loss layer, or loss_weight to one.")
    explanation.warnings = [str(finding) for finding in rates(net, param, explanation.solver) if finding.level != NOTE]
    explanation.warnings += _batch_warnings(explanation)
    return explanation


def _size(net: Net) -> str:
    images = [shape for node in net.graph.nodes if not node.bottoms for shape in _maps(net, node.tops)]
    return show(images[0]) if images else "data without an image"


def _maps(net: Net, tops: Iterable[str]) -> list[tuple[int, ...]]:
    return [shape for top in tops if len(shape := net.blob_shapes[top]) == 4]


def _loss_rate(net: Net, node: Node, weight: float, solver: caffe_pb2.SolverParameter) -> LossRate | None:
    base_lr, decay, clip = float(solver.base_lr), float(solver.weight_decay), float(solver.clip_gradients)
    layer, shape = net.layer(node), net.blob_shapes[node.bottoms[0]]
    images = shape[0] if shape else 1
    if node.type in _BY_IMAGES:
        words = _WORDS[_MODES.BATCH_SIZE][0]
        return LossRate(node.name, node.type, images, 1, "always", words, images, weight, base_lr * weight)
    if not isinstance(layer, LossLayer):
        return None
    dim = getattr(layer, "dim", None)
    if dim is None:  # one target a score
        places, pixels, at_start = prod(shape), prod(shape[1:]), log(2)
    else:
        images, pixels = prod(shape[:dim]), prod(shape[dim + 1 :])
        places, at_start = images * pixels, log(shape[dim])
    divisor = float(layer.normalizer(places, images, pixels))
    acts = base_lr * weight * places / divisor
    sizes = {_MODES.VALID: places, _MODES.FULL: places, _MODES.BATCH_SIZE: images, _MODES.NONE: 1}
    divided_by, words = _WORDS[layer.normalization]
    return LossRate(
        node.name,
        node.type,
        images,
        pixels,
        words,
        divided_by,
        divisor,
        weight,
        acts,
        at_start if node.type != "InfogainLoss" else None,
        layer.ignore_label,
        {
            _WORDS[mode][1]: Equivalent(
                base_lr * size / divisor, decay * divisor / size, clip * divisor / size if clip >= 0 else -1.0
            )
            for mode, size in sizes.items()
        },
    )


def _batch_warnings(explanation: Explanation) -> Iterator[str]:
    """Warn of losses that grow with the size of the data, because they are not averaged over it."""
    for loss in explanation.losses:
        if explanation.type not in _FOLLOWS or loss.pixels == 1:
            continue
        if loss.divisor < loss.images * loss.pixels:
            summed = "pixels and images" if loss.divisor < loss.images else "pixels"
            yield (
                f"note: layer '{loss.layer}': the loss sums over {summed}, so an image of twice the pixels "
                "moves the weights twice as far."
            )
