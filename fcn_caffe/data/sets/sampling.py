"""The random order of a data layer's images."""

from __future__ import annotations

import random
from typing import Any

__all__ = ["Draws"]


class Draws:
    """A random stream of indices, from a seed, or from the system's randomness where the seed is None.

    The stream is the reference layers' own: `random.seed(seed)` and Python 2's `random.randint(0, count - 1)`, which
    is int(random() * count); Python 3's randint draws differently. It is private, so nothing else that uses `random`
    can shift it.
    """

    def __init__(self, seed: int | float | str | bytes | bytearray | None = None) -> None:
        self._random = random.Random(seed)

    def next(self, count: int) -> int:
        """Return the next index, below `count`."""
        return int(self._random.random() * count)

    def get_state(self) -> list[Any]:
        """Return the state before the next draw, as JSON can hold it."""
        version, words, gauss = self._random.getstate()
        return [version, list(words), gauss]

    def set_state(self, state: list[Any]) -> None:
        """Continue from what `get_state` returned.

        Raises:
            TypeError, ValueError: if it is no such state.
        """
        version, words, gauss = state
        self._random.setstate((version, tuple(words), gauss))

    def copy(self) -> Draws:
        """Return another stream that draws the same from here on."""
        twin = Draws(0)
        twin._random.setstate(self._random.getstate())
        return twin
