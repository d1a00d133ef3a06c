"""Layers whose blobs are overwritten: Caffe's backward over memory as it then is, wrong gradients included.

Caffe's backward of many layers reads the numbers of the bottom (x) or the top (y) in memory. In place they are one
memory, and so are their diffs: what backward writes first, it reads later. A layer in place further on changes y, and x
through the memories of `sharing`. `Overwritten` computes such a layer forward and backward in Caffe's order of
operations; where nothing is overwritten autograd finds the same numbers, and the executor uses that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.combine import Eltwise
from fcn_caffe.layers.loss import Softmax
from fcn_caffe.layers.neuron import BNLL, ELU, Clip, Exp, Log, Power, ReLU, Sigmoid, Swish, TanH
from fcn_caffe.layers.norm import LRN, MVN
from fcn_caffe.net.graph import Node
from fcn_caffe.net.sharing import Sharing
from fcn_caffe.proto import caffe_pb2

Forward = Callable[[Sequence[Tensor]], Sequence[Tensor]]

_LINEAR = ("Convolution", "Deconvolution", "Embed", "InnerProduct")
# Their backward in Caffe reads the bottom as it then is, besides those that this module computes. Every other layer
# keeps from forward what its backward needs.
_READ_BOTTOM_LATE = frozenset((*_LINEAR, "AbsVal", "MultinomialLogisticLoss", "PReLU", "Reduction", "Scale"))
_LEAST = torch.finfo(torch.float32).min
_BNLL_THRESHOLD = 50.0


@dataclass
class State:
    """What backward of one bottom reads.

    x, y: the data of bottom and top as they are now. dy: the top's diff. kept: what the layer kept in forward.
    shares_diff: whether the bottom's diff is the top's.
    """

    x: Tensor
    y: Tensor
    dy: Tensor
    kept: Tensor | None
    shares_diff: bool

    def times_dy(self, dx: Tensor) -> Tensor:
        """Return dy * dx, for a dx that is in the bottom's diff by now."""
        return dx * dx if self.shares_diff else self.dy * dx


def _scaled(blob: Tensor, factor: float) -> Tensor:
    """Multiply as BLAS does: by 0 everything becomes 0, infinity and NaN too."""
    return blob * factor if factor else torch.zeros_like(blob)


def _relu(layer: ReLU, at: State) -> Tensor:
    return at.dy * ((at.x > 0).float() + layer.negative_slope * (at.x <= 0).float())


def _sigmoid(layer: Sigmoid, at: State) -> Tensor:
    return at.dy * at.y * (1 - at.y)


def _tanh(layer: TanH, at: State) -> Tensor:
    return at.dy * (1 - at.y * at.y)


def _elu(layer: ELU, at: State) -> Tensor:
    return at.dy * ((at.x > 0).float() + (layer.alpha + at.y) * (at.x <= 0).float())


def _bnll(layer: BNLL, at: State) -> Tensor:
    exponential = at.x.clamp(max=_BNLL_THRESHOLD).exp()
    return at.dy * exponential / (exponential + 1)


def _clip(layer: Clip, at: State) -> Tensor:
    return at.dy * ((at.x >= layer.least) & (at.x <= layer.most)).float()


def _exp(layer: Exp, at: State) -> Tensor:
    return _scaled(at.y * at.dy, layer.scale)


def _log(layer: Log, at: State) -> Tensor:
    inner = _scaled(at.x, layer.scale) + layer.shift
    return at.times_dy(_scaled(inner.reciprocal(), layer.scale * layer.factor))


def _power(layer: Power, at: State) -> Tensor:
    return _power_slope(at, layer.power, layer.scale, layer.shift)


def _power_slope(at: State, power: float, scale: float, shift: float) -> Tensor:
    slope = power * scale
    if slope == 0 or power == 1:
        dx = torch.full_like(at.x, slope)
    elif power == 2:
        dx = at.x * (slope * scale) + slope * shift
    elif shift == 0:
        dx = at.y / at.x * power
    else:
        dx = at.y / (at.x * scale + shift) * slope
    return at.times_dy(dx) if slope else dx


def _keep_sigmoid(layer: Swish, bottom: Tensor) -> Tensor:
    return torch.sigmoid(bottom * layer.beta)


def _swish(layer: Swish, at: State) -> Tensor:
    assert at.kept is not None
    scaled = layer.beta * at.y
    return at.dy * (scaled + at.kept * (1 - scaled))


def _softmax(layer: Softmax, at: State) -> Tensor:
    return (at.dy - (at.dy * at.y).sum(layer.dim, keepdim=True)) * at.y


def _rows(layer: MVN, blob: Tensor) -> Tensor:
    """Return a blob as a matrix with a row for each mean; in place the blob has become 4-D."""
    return blob.reshape(prod(blob.shape[: layer.kept_axes]), -1)


def _keep_deviation(layer: MVN, bottom: Tensor) -> Tensor:
    return _rows(layer, bottom).var(-1, correction=0, keepdim=True).sqrt() + layer.eps


def _mvn(layer: MVN, at: State) -> Tensor:
    dy = _rows(layer, at.dy)
    if not layer.variance:
        return (dy - dy.mean(-1, keepdim=True)).reshape(at.x.shape)
    assert at.kept is not None
    y, size = at.y.reshape(dy.shape), dy.shape[-1]
    dx = y * (y * dy).sum(-1, keepdim=True)
    dy = dx if at.shares_diff else dy
    dx = -(dx + dy.sum(-1, keepdim=True)) / size
    dx = dx + (dx if at.shares_diff else dy)
    return (dx / at.kept).reshape(at.x.shape)


def _window_sum(layer: LRN, blob: Tensor) -> Tensor:
    """Return the sums over the neighbouring channels."""
    channels, reach = blob.shape[1], layer.size // 2
    padded = F.pad(blob, (0, 0, 0, 0, reach, reach))
    return torch.stack([padded[:, shift : shift + channels] for shift in range(layer.size)]).sum(0)


def _within_average(layer: LRN, blob: Tensor) -> Tensor:
    return F.avg_pool2d(blob, layer.size, 1, layer.size // 2, count_include_pad=True)


def _keep_scale(layer: LRN, bottom: Tensor) -> Tensor:
    square = bottom * bottom
    if layer.within:
        return _within_average(layer, square)
    return layer.k + layer.alpha / layer.size * _window_sum(layer, square)


def _lrn(layer: LRN, at: State) -> Tensor:
    assert at.kept is not None
    if layer.within:
        return _lrn_within(layer, at, at.kept)
    dx = at.times_dy(at.kept.pow(-layer.beta))
    ratio = (dx if at.shares_diff else at.dy) * at.y / at.kept
    return dx - 2 * layer.alpha * layer.beta / layer.size * _window_sum(layer, ratio) * at.x


def _lrn_within(layer: LRN, at: State, average: Tensor) -> Tensor:
    """The layer is a net of its own: x times (1 + alpha * average of squares)^-beta; only its ends are at hand."""
    factor = (1 + layer.alpha * average).pow(-layer.beta)
    inner = State(average, factor, at.x * at.dy, None, shares_diff=False)
    to_squares = _within_average(layer, _power_slope(inner, -layer.beta, layer.alpha, 1.0))
    return factor * at.dy + 2 * at.x * to_squares


class Overwritten:
    """A layer's forward and backward as Caffe computes them in shared memory.

    shared: by bottom, whether its data is the top's memory. shared_diffs: whether its diff is the top's.
    """

    def __init__(self, shared: Sequence[bool], shared_diffs: Sequence[bool]) -> None:
        self.shared, self.shared_diffs = shared, shared_diffs

    def forward(self, bottoms: Sequence[Tensor], run: Forward) -> Sequence[Tensor]:
        """Return the tops. run: calls the layer itself."""
        raise NotImplementedError

    def backward(self, bottoms: Sequence[Tensor], top: Tensor, dy: Tensor, down: Sequence[bool]) -> list[Tensor | None]:
        """Return the bottoms' gradients where `down` asks for them; bottoms and top: their data as they are now."""
        raise NotImplementedError


class _OneBottom(Overwritten):
    """A layer of one bottom, by its rule."""

    def __init__(self, layer: Layer, shared: Sequence[bool], shared_diffs: Sequence[bool]) -> None:
        super().__init__(shared, shared_diffs)
        self._layer, self._rule = layer, _RULES[layer.layer_type]
        self._kept: Tensor | None = None

    def forward(self, bottoms: Sequence[Tensor], run: Forward) -> Sequence[Tensor]:
        if self._rule.keep is not None:
            self._kept = self._rule.keep(self._layer, bottoms[0])
        if isinstance(self._layer, LRN) and not self._layer.within and self.shared[0]:
            assert self._kept is not None
            top = self._kept.pow(-self._layer.beta)
            return (top * top,)  # the bottom has become the top's first factor
        return run(bottoms)

    def backward(self, bottoms: Sequence[Tensor], top: Tensor, dy: Tensor, down: Sequence[bool]) -> list[Tensor | None]:
        if not down[0]:
            return [None]
        if self._kept is None and self._rule.keep is not None:  # forward has not run
            self._kept = self._rule.keep(self._layer, bottoms[0])
        at = State(bottoms[0], top, dy, self._kept, self.shared_diffs[0])
        return [self._rule.backward(self._layer, at)]


class _Eltwise(Overwritten):
    """Bottoms are read one after the other, while the top is being written."""

    def __init__(self, layer: Eltwise, shared: Sequence[bool], shared_diffs: Sequence[bool]) -> None:
        super().__init__(shared, shared_diffs)
        options = layer.param.eltwise_param
        self._layer = layer
        self._operation, self._is_stable = options.operation, options.stable_prod_grad
        self._coefficients = list(options.coeff) or [1.0] * len(shared)
        self._largest: Tensor | None = None  # MAX: which bottom each number came from

    def forward(self, bottoms: Sequence[Tensor], run: Forward) -> Sequence[Tensor]:
        self._layer.infer(*bottoms)  # it checks the shapes
        first, second, *rest = bottoms
        shared = self.shared
        if self._operation == caffe_pb2.EltwiseParameter.SUM:
            top = torch.zeros_like(first)
            for bottom, is_top, coefficient in zip(bottoms, shared, self._coefficients, strict=True):
                top = top + _scaled(top if is_top else bottom, coefficient)
        elif self._operation == caffe_pb2.EltwiseParameter.PROD:
            top = first * second
            for bottom, is_top in zip(rest, shared[2:], strict=True):
                top = top * (top if is_top else bottom)
        else:
            least = torch.full_like(first, _LEAST)
            first, second = (least if is_top else bottom for bottom, is_top in zip(bottoms[:2], shared, strict=False))
            wins = first > second
            top, largest = torch.where(wins, first, second), torch.where(wins, 0, 1)
            for position, bottom in enumerate(rest, 2):
                wins = (top if shared[position] else bottom) > top
                top, largest = torch.where(wins, bottom, top), largest.masked_fill(wins, position)
            self._largest = largest
        return (top,)

    def backward(self, bottoms: Sequence[Tensor], top: Tensor, dy: Tensor, down: Sequence[bool]) -> list[Tensor | None]:
        gradients: list[Tensor | None] = []
        for position, wanted in enumerate(down):
            gradient = self._gradient(position, bottoms, top, dy) if wanted else None
            gradients.append(gradient)
            if gradient is not None and self.shared_diffs[position]:
                dy = gradient
        return gradients

    def _gradient(self, position: int, bottoms: Sequence[Tensor], top: Tensor, dy: Tensor) -> Tensor:
        if self._operation == caffe_pb2.EltwiseParameter.SUM:
            return _scaled(dy, self._coefficients[position])
        if self._operation == caffe_pb2.EltwiseParameter.MAX:
            assert self._largest is not None
            return torch.where(self._largest == position, dy, 0)
        if self._is_stable:
            others = [bottom for index, bottom in enumerate(bottoms) if index != position]
            dx = others[0]
            for other in others[1:]:
                dx = dx * other
        else:
            dx = top / bottoms[position]
        return dx * dx if self.shared_diffs[position] else dx * dy


@dataclass(frozen=True)
class _OneBottomRule:
    """How a layer of one bottom goes backward.

    backward: gives the bottom's gradient. keep: what forward keeps for it. reads_bottom, reads_top: which data it
    reads. differs_in_place: whether it is wrong in place even if nothing overwrites the blob later.
    """

    backward: Callable[..., Tensor]
    keep: Callable[..., Tensor] | None = None
    reads_bottom: bool = False
    reads_top: bool = False
    differs_in_place: bool = True


_RULES = {
    "BNLL": _OneBottomRule(_bnll, reads_bottom=True),
    "Clip": _OneBottomRule(_clip, reads_bottom=True),
    "ELU": _OneBottomRule(_elu, reads_bottom=True, reads_top=True),
    "Exp": _OneBottomRule(_exp, reads_top=True, differs_in_place=False),
    "LRN": _OneBottomRule(_lrn, _keep_scale, reads_bottom=True, reads_top=True),
    "Log": _OneBottomRule(_log, reads_bottom=True),
    "MVN": _OneBottomRule(_mvn, _keep_deviation, reads_top=True),
    "Power": _OneBottomRule(_power, reads_bottom=True, reads_top=True),
    "ReLU": _OneBottomRule(_relu, reads_bottom=True, differs_in_place=False),
    "Sigmoid": _OneBottomRule(_sigmoid, reads_top=True, differs_in_place=False),
    "Softmax": _OneBottomRule(_softmax, reads_top=True, differs_in_place=False),
    "Swish": _OneBottomRule(_swish, _keep_sigmoid, reads_top=True, differs_in_place=False),
    "TanH": _OneBottomRule(_tanh, reads_top=True, differs_in_place=False),
}


def overwritten(node: Node, layer: Layer, sharing: Sharing) -> Overwritten | None:
    """Return a layer's arithmetic in shared memory; None where autograd's numbers are Caffe's."""
    if len(node.tops) != 1 or (node.type not in _RULES and not isinstance(layer, Eltwise)):
        return None
    shared = [sharing.has_one_memory(bottom, node.tops[0]) for bottom in node.bottoms]
    shared_diffs = [bottom == node.tops[0] for bottom in node.bottoms]
    if isinstance(layer, Eltwise):
        reads = layer.operation == caffe_pb2.EltwiseParameter.PROD
        changes = reads and sharing.later_writers(node, (*node.bottoms, *node.tops))
        return _Eltwise(layer, shared, shared_diffs) if any(shared) or changes else None
    rule = _RULES[node.type]
    differs = rule.differs_in_place and any(shared)
    read = node.bottoms * rule.reads_bottom + node.tops * rule.reads_top
    writers = sharing.later_writers(node, read)
    if isinstance(layer, ReLU):
        differs |= any(shared) and layer.negative_slope < 0
        writers = [writer for writer in writers if writer.type != "Dropout"]  # its zeros have a gradient of zero
    return _OneBottom(layer, shared, shared_diffs) if differs or writers else None


def keeps_forward(node: Node, sharing: Sharing) -> bool:
    """Whether backward needs the bottoms as they were in forward, although they are overwritten since."""
    rule = _RULES.get(node.type)
    late = node.type in _READ_BOTTOM_LATE or (rule is not None and rule.reads_bottom)
    return not late and bool(sharing.later_writers(node, node.bottoms))
