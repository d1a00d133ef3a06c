"""The passes of a test or a score, shared by the processes of a run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from fcn_caffe.host.ranks import Ranks, Share
from fcn_caffe.net.net import Net

__all__ = ["in_order", "own_passes"]


def own_passes(net: Net, count: int, ranks: Ranks) -> Iterator[int]:
    """Yield the numbers of the passes, of `count`, that this process is to run; run the net once for each.

    Process r runs the r-th pass and every ranks.count-th from there on. Each sees what that pass would see in one
    process. After the last number all processes' data layers are behind pass `count`.
    """
    if ranks.count == 1:
        yield from range(count)
        return
    left = count % ranks.count
    net.take_share(Share(ranks.rank, ranks.count, whole=True))
    yield from range(ranks.rank, count - left, ranks.count)
    if ranks.rank < left:
        net.take_share(Share(ranks.rank, left, whole=True))
        yield count - left + ranks.rank
    else:
        net.skip(left)
    net.take_share(Share())


def in_order(values: list[Any], ranks: Ranks) -> list[Any]:
    """Return the value of every pass in the order of the passes, of those that each process has of its own passes.

    values: what JSON holds, and not None.
    """
    if ranks.count == 1:
        return values
    rounds = zip_longest(*ranks.gather(values))
    return [value for one in rounds for value in one if value is not None]
