"""How values are written in messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST_NAME = 100  # of a name as long as a file the matcher would make a table many times as large


def show(shape: Iterable[int]) -> str:
    """Write a shape as Caffe does.

    >>> show((1, 3, 500, 500)), show(())
    ('1x3x500x500', '(scalar)')
    """
    return "x".join(str(size) for size in shape) or "(scalar)"


def nearest_names(name: str, known: Iterable[str], count: int = 1, alike: float = 0.6) -> list[str]:
    """Return the known names that are most like a name, the best first.

    Args:
        count: how many at most.
        alike: how much of a name has to agree, from 0 to 1.
    """
    return get_close_matches(name[:_LONGEST_NAME], list(known), count, alike)


def did_you_mean(name: str, known: Iterable[str], quote: str = "'") -> str:
    """Return the hint that ends a message about an unknown name; empty where no known name is near.

    >>> did_you_mean("kernl_size", ["kernel_size", "pad"])
    " Did you mean 'kernel_size'?"
    """
    near = nearest_names(name, known)
    return f" Did you mean {quote}{near[0]}{quote}?" if near else ""
