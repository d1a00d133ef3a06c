"""In what order a data layer visits its images."""

from __future__ import annotations

import random
from typing import Any

from fcn_caffe.errors import DataError

__all__ = ["Sampler"]


class Sampler:
    """A stream of indices below `count`: in order, or random with replacement from a seed.

    The random stream is the reference layers' own: `random.seed(seed)` and Python 2's `random.randint(0, count - 1)`,
    which is int(random() * count); Python 3's randint draws differently. It is private to the sampler, so nothing
    else that uses `random` can shift it.
    `index` is the current image; `advance()` moves on. `get_state()` is JSON-able.
    """

    def __init__(self, count: int, *, shuffle: bool, seed: int | None) -> None:
        self.count = count
        self.shuffle = shuffle
        self._random = random.Random(seed)
        self.index = self._draw() if shuffle else 0

    def _draw(self) -> int:
        return int(self._random.random() * self.count)

    def advance(self) -> None:
        """Move to the next index; in order, the first follows the last."""
        self.index = self._draw() if self.shuffle else (self.index + 1) % self.count

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"index": self.index, "count": self.count}
        if self.shuffle:
            version, words, gauss = self._random.getstate()
            state["random"] = [version, list(words), gauss]
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from `get_state()`. Raises: DataError when the split has changed since."""
        if state.get("count") != self.count or ("random" in state) != self.shuffle:
            raise DataError(
                f"the snapshot's data order is for a split of {state.get('count')} images, this one has {self.count}. "
                "Resume with the split it was trained on."
            )
        self.index = int(state["index"])
        if self.shuffle:
            version, words, gauss = state["random"]
            self._random.setstate((version, tuple(words), gauss))
