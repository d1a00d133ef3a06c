"""How values are written in messages."""

from __future__ import annotations

from collections.abc import Iterable


def show(shape: Iterable[int]) -> str:
    """A shape as Caffe writes it: 1x3x500x500."""
    return "x".join(str(size) for size in shape) or "(scalar)"
