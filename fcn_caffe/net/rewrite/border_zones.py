"""Where the places of a blob's border are all equal: what padding wider than a kernel leaves, followed through a net.

Along an axis, counted from either end, a blob has `edge` places that inner padding has touched, then equal ones up to
`inner`, then those that the image reaches. Every number holds for all sizes of the image: where a stride makes it
depend on the size, the worst case counts. H and W are independent.
"""

from __future__ import annotations

from typing import NamedTuple

from fcn_caffe.layers.base import Layer
from fcn_caffe.layers.combine import Concat, Eltwise
from fcn_caffe.layers.conv import Convolution
from fcn_caffe.layers.linear import Bias, Scale
from fcn_caffe.layers.neuron import NEURONS, Dropout
from fcn_caffe.layers.norm import LRN, BatchNorm
from fcn_caffe.layers.pooling import Pooling
from fcn_caffe.net.graph import Node

_KNOWN: set[type[Layer]] = {*NEURONS, BatchNorm, Bias, Concat, Convolution, Eltwise, LRN, Pooling, Scale} - {Dropout}


class Window(NamedTuple):
    """A layer along an axis: it reads `extent` places at every `stride`-th, from `pad` before the first on.

    least_end, most_end: how far the last window reaches beyond the end, for any size of the bottom.
    """

    extent: int
    stride: int
    pad: int
    least_end: int
    most_end: int


IDENTITY = Window(1, 1, 0, 0, 0)


class Border(NamedTuple):
    """One end of an axis: places `edge` to `inner - 1`, counted from the end, are equal."""

    edge: int
    inner: int

    @property
    def run(self) -> int:
        """The number of equal places."""
        return self.inner - self.edge

    def through(self, window: Window, least: int, most: int) -> Border:
        """Return the border of a layer's top; least and most: how far windows reach beyond this end.

        Without equal places the zeros that the layer pads with are the equal ones of the bottom.
        """
        edge = max(0, -(-(self.edge + most) // window.stride)) if self.run else 0
        return Border(edge, (self.inner + least - window.extent) // window.stride + 1)


class Zones(NamedTuple):
    """Both ends of an axis of a blob; `NO_ZONES` where there are no equal places at one of them."""

    start: Border
    end: Border

    @property
    def run(self) -> int:
        """The number of equal places at each end."""
        return min(self.start.run, self.end.run)

    def through(self, window: Window) -> Zones:
        """Return the zones of a layer's top."""
        start = self.start.through(window, window.pad, window.pad)
        return Zones(start, self.end.through(window, window.least_end, window.most_end)).checked()

    def joined(self, other: Zones) -> Zones:
        """Return the zones of a blob that is computed, place by place, from two."""
        pairs = zip(self, other, strict=True)
        borders = [Border(max(one.edge, two.edge), min(one.inner, two.inner)) for one, two in pairs]
        return Zones(*borders).checked()

    def checked(self) -> Zones:
        """Return the zones, or `NO_ZONES` where an end has no equal places."""
        return self if self.run > 0 else NO_ZONES


NO_ZONES = Zones(Border(0, 0), Border(0, 0))


def find_windows(node: Node, layer: Layer) -> tuple[Window, Window] | None:
    """Return a layer's windows along H and W; None where its places are not computed alike, or that is not known.

    Dropout draws for every place, and batch statistics weigh all of them: they are not alike.
    """
    if type(layer) not in _KNOWN or any(node.param.loss_weight) or len(node.tops) != 1:
        return None
    if isinstance(layer, Convolution):
        return _convolution(layer) if len(node.bottoms) == 1 else None
    if isinstance(layer, Pooling):
        return _pooling(layer)
    alike = len(node.bottoms) == 1
    if isinstance(layer, Eltwise):
        alike = True
    elif isinstance(layer, Concat):
        alike = layer.dim == 1
    elif isinstance(layer, LRN):
        alike = not layer.within
    elif isinstance(layer, BatchNorm):
        alike = layer.fixed is True
    elif isinstance(layer, (Scale, Bias)):
        alike &= layer.first + len(layer.shape) <= 2
    return (IDENTITY, IDENTITY) if alike else None


def _convolution(layer: Convolution) -> tuple[Window, Window] | None:
    if layer.spatial_axes != 2 or layer.channel_axis != 1:
        return None
    windows = []
    for kernel, stride, pad, dilation in zip(layer.kernel, layer.stride, layer.pad, layer.dilation, strict=True):
        windows.append(Window(dilation * (kernel - 1) + 1, stride, pad, pad - stride + 1, pad))
    return windows[0], windows[1]


def _pooling(layer: Pooling) -> tuple[Window, Window] | None:
    if layer.whole or layer.stochastic:
        return None
    windows = []
    for kernel, stride, pad in zip(layer.kernel, layer.stride, layer.pad, strict=True):
        least, most = (pad, pad + stride - 1) if layer.ceil else (pad - stride + 1, pad)
        if any(layer.pad) and most >= kernel:  # a window that would start past the image and its pad is left out
            least, most = min(least, kernel - stride), kernel - 1
        windows.append(Window(kernel, stride, pad, least, most))
    return windows[0], windows[1]
