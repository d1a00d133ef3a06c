"""Makes a net ready to run: what makes it faster by default, or nothing of it, or all that a bound allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fcn_caffe.net.rewrite.borders import borders_once
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
    """Return a net over the same blobs that runs faster.

    Args:
        net: the net.
        report: takes a line that says what was done, and with `fast` what it costs in exactness.
        plain: leave the net as it is.
        fast: let each convolution run in the quickest way that keeps the net within 1e-4.
        shape: that of the first input, to choose the ways for.

    Raises:
        GraphError: `shape` does not fit the net.
    """
    if plain:
        return net
    net = borders_once(net, report)
    if not fast:
        return freeze(net)
    tuning = tune(net, shape)
    if report is not None:
        report(str(tuning))
    return tuning.net
