"""Pooling masks: where two values of a window are the same up to rounding, file and net may choose different ones.

An unpooled value is then at the neighbouring pixel, and all that follows is another. So the net is run with the file's
choices, once it is sure that each is a largest value of its window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fcn_caffe.errors import GraphError
from fcn_caffe.host.text import show
from fcn_caffe.layers.pooling import Pooling
from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Runner, Step

__all__ = ["PlacesRunner", "mask_blobs"]


def mask_blobs(net: Net) -> tuple[str, ...]:
    """Return the blobs that hold the places of maxima."""
    return tuple(step.tops[1] for step in net.steps if isinstance(step.layer, Pooling) and len(step.tops) > 1)


class PlacesRunner(Runner):
    """Runs a net with the places of maxima that a file has chosen.

    moved: how many are not the net's own. lower: how far their values are below the largest of the window, as a share
    of the largest value of the blob; at most.
    """

    def __init__(self, net: Net, places: Mapping[str, Tensor], tolerance: float) -> None:
        super().__init__(net)
        self.places, self.tolerance = places, tolerance
        self.moved, self.lower = 0, 0.0

    def call_layer(self, step: Step, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
        tops = super().call_layer(step, bottoms)
        if not isinstance(step.layer, Pooling) or len(tops) < 2 or step.tops[1] not in self.places:
            return tops
        given = self.places[step.tops[1]].to(tops[1])
        self._check(step, step.layer, bottoms[0], (tops[0], tops[1]), given)
        return tops[0], given

    def _check(self, step: Step, layer: Pooling, bottom: Tensor, tops: tuple[Tensor, Tensor], given: Tensor) -> None:
        top, own = tops
        if given.shape != own.shape:
            raise self._error(step, f"it is {show(given.shape)}, the net's {show(own.shape)}")
        moved = given != own
        if not bool((moved <= (_inside(layer, bottom, given) & (own >= 0))).all()):
            raise self._error(step, "places are not in their windows")
        chosen = bottom.flatten(2).gather(2, given.clamp(min=0).long().flatten(2)).reshape(top.shape)
        largest = float(bottom.abs().max()) or 1.0
        lower = float((top - chosen)[moved].max()) / largest if bool(moved.any()) else 0.0
        if not lower <= self.tolerance:
            raise self._error(step, f"a place has a value that is {lower:.2g} of the largest below its window's")
        self.moved, self.lower = self.moved + int(moved.sum()), max(self.lower, lower)

    def _error(self, step: Step, what: str) -> GraphError:
        return GraphError(f"{step.node}: the file's '{step.tops[1]}' is wrong: {what}. Please report this net.")


def _inside(layer: Pooling, bottom: Tensor, places: Tensor) -> Tensor:
    """Whether each place of a mask is in its window, and in the bottom."""
    height, width = bottom.shape[2:]
    rows, columns = places // width, places % width
    inside = (rows >= 0) & (rows < height)
    kernel = (height, width) if layer.whole else layer.kernel
    for axis, found in enumerate((rows, columns)):
        first = torch.arange(found.shape[2 + axis]) * layer.stride[axis] - layer.pad[axis]
        first = first[:, None] if axis == 0 else first
        inside &= (found >= first) & (found < first + kernel[axis])
    return inside
