"""Makes a net ready to run: what makes it faster by default, or nothing of it, or all that a bound allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fcn_caffe.net.rewrite.borders import borders_once
from fcn_caffe.net.rewrite.convolutions import multiply_large_weights
from fcn_caffe.net.rewrite.frozen import freeze
from fcn_caffe.net.rewrite.tuned import tune

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net


def ready_net(
    net: Net,
    report: Callable[[str], object] | None = None,
    *,
    plain: bool = False,
    fast: bool = False,
    shape: Sequence[int] | None = None,
) -> Net:
    """Return a net over the same blobs that runs faster; one in train() stays one that learns.

    Args:
        net: the net.
        report: takes a line that says what was done, and with `fast` what it costs in exactness.
        plain: leave the net as it is.
        fast: let each convolution run in the quickest way that keeps the net within 1e-4.
        shape: that of the first input, to choose the ways for.

    Raises:
        GraphError: `shape` does not fit the net.
    """
    if plain or net.debug is not None:
        return net
    net = borders_once(net, report)
    net = multiply_large_weights(net) if net.training else freeze(net)
    return tuned_net(net, report, shape) if fast else net


def tuned_net(net: Net, report: Callable[[str], object] | None = None, shape: Sequence[int] | None = None) -> Net:
    """Return a net whose convolutions run in the quickest ways within 1e-4 of the net's; say what that costs.

    Args:
        net: the net, with the weights that it will start with.
        report: as in `ready_net`.
        shape: as in `ready_net`.
    """
    tuning = tune(net, shape)
    if report is not None:
        report(str(tuning))
    return tuning.net
