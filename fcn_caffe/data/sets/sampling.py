"""The order of a data layer's images: in turn, drawn at random, or each once in an epoch."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Draws", "Epochs", "Order"]


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


class Epochs:
    """Random orders of images, another one in each epoch, in which each image comes once.

    Where images have buckets, batches are of one bucket as far as they fill, then of neighbouring buckets, and the
    batches come in random order. A batch may be begun in one epoch and filled in the next.

    Args:
        seed: of all epochs.
        count: how many images there are.
        batch: how many of them belong together.
        buckets: returns what images have to share to be put together, in the order of images. Called when the first
            order is made.
    """

    def __init__(
        self, seed: int, count: int, batch: int = 1, buckets: Callable[[], Sequence[Hashable]] | None = None
    ) -> None:
        self.seed, self.count, self.batch = seed, count, batch
        self._find, self._buckets = buckets, [[*range(count)]]
        self._epoch, self._order = -1, [0]

    def reseed(self, seed: int) -> None:
        """Take other orders."""
        self.seed, self._epoch = seed, -1

    def place(self, position: int) -> int:
        """Return the image that comes after `position` others."""
        epoch, at = divmod(position, self.count)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.order(epoch)
        return self._order[at]

    def order(self, epoch: int) -> list[int]:
        """Return the images in the order of an epoch, from 0."""
        if self._find is not None:
            groups: dict[Any, list[int]] = {}
            for place, key in enumerate(self._find()):
                groups.setdefault(key, []).append(place)
            self._buckets, self._find = [groups[key] for key in sorted(groups)], None
        stream = np.random.default_rng([self.seed, epoch])
        shuffled = [stream.permutation(group).tolist() for group in self._buckets]
        if len(shuffled) == 1:
            return list(shuffled[0])
        first = int(stream.integers(len(shuffled)))  # what is left over of the groups is put together from here on
        shuffled = shuffled[first:] + shuffled[:first]
        return self._batched(shuffled, -epoch * self.count % self.batch, stream)

    def _batched(self, groups: list[list[int]], begun: int, stream: np.random.Generator) -> list[int]:
        """Order groups by batches, behind the `begun` images that fill the last batch of the epoch before."""
        size = self.batch
        batches = [group[at : at + size] for group in groups for at in range(0, len(group) - size + 1, size)]
        rest = [place for group in groups for place in group[len(group) // size * size :]]
        while len(rest) < min(begun, self.count):
            rest += batches.pop()
        head, rest = rest[:begun], rest[begun:]
        full = len(rest) // size * size
        batches += [rest[at : at + size] for at in range(0, full, size)]
        ordered = [place for at in stream.permutation(len(batches)) for place in batches[at]]
        return [*head, *ordered, *rest[full:]]


@dataclass
class Order:
    """A place in the order of `count` images.

    Attributes:
        place: the image that comes next.
        count: how many there are.
        draws: what the next places are drawn from; None for an order in turn, or of epochs.
        epochs: the orders of epochs; None for another order.
        position: how many images came before.
    """

    place: int
    count: int
    draws: Draws | None = None
    epochs: Epochs | None = None
    position: int = 0

    @property
    def turn(self) -> int:
        """A number that is never the same for two comings of one image: the epoch, or the position."""
        return self.position // self.count if self.epochs is not None else self.position

    def go_on(self, images: int) -> None:
        """Go on behind so many images."""
        self.position += images
        if self.epochs is not None:
            self.place = self.epochs.place(self.position)
        elif self.draws is not None:
            for _ in range(images):
                self.place = self.draws.next(self.count)
        else:
            self.place = (self.place + images) % self.count

    def next_batch(self, places: Sequence[int]) -> list[tuple[int, int]]:
        """Return image and turn at some places from here on, in rising order, without going there."""
        if list(places) == [0]:
            return [(self.place, self.turn)]
        ahead = Order(self.place, self.count, self.draws and self.draws.copy(), self.epochs, self.position)
        batch = []
        for place in places:
            ahead.go_on(self.position + place - ahead.position)
            batch.append((ahead.place, ahead.turn))
        return batch
