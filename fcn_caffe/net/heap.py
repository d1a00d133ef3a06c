"""Where the C library would put blocks of memory, so that the gaps it keeps between them are counted too."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Block", "Heap"]

_LEAST, _MOST = 128 << 10, 32 << 20  # bytes: the bounds of the size from which on a block is mapped
_SLACK = 128  # bytes: to align a block, more is asked for; a freed one of the same size does not do


class Block(NamedTuple):
    """A block: where it starts, below 0 where it is mapped; and its bytes."""

    start: int
    size: int


class Heap:
    """Blocks as glibc's malloc hands them out.

    A block takes the freed one that fits best, else room at the end. There a large one is mapped, and is given back to
    the system as soon as it is freed; large is what is larger than the largest mapped block that was freed, at most 32
    MiB. What else is freed stays with the process, unless there is much of it at the end.

    >>> heap = Heap()
    >>> first, second = heap.take(1000), heap.take(500)
    >>> heap.give(first)
    >>> _ = heap.take(2000)
    >>> heap.bytes, heap.most
    (3500, 3500)

    Attributes:
        most: the most bytes that the process has had.
    """

    def __init__(self) -> None:
        self.most = 0
        self._end = self._mapped = self._maps = self._absent = self._reserved = 0
        self._large = _LEAST
        self._free: dict[int, int] = {}  # the bytes of what is free, by its start
        self._untouched: dict[Block, int] = {}

    @property
    def bytes(self) -> int:
        """What the process has now, free or not."""
        return self._end + self._mapped - self._absent - self._reserved

    def take(self, size: int) -> Block:
        """Return a block of so many bytes."""
        fitting = [
            (free, start) for start, free in self._free.items() if free >= size + _SLACK and start + free < self._end
        ]
        tail = next((start for start, free in self._free.items() if start + free == self._end), self._end)
        if fitting:
            free, start = min(fitting)
            del self._free[start]
            if free > size:
                self._free[start + size] = free - size
        elif size > self._large and self._end - tail < size:
            self._maps += 1
            self._mapped += size
            start = -self._maps
        else:
            start, end = tail, self._end
            self._free.pop(tail, None)
            self._end = max(end, start + size)
            if start + size < end:
                self._free[start + size] = end - start - size
        if start >= 0:
            self._absent = max(0, self._absent - size)
        self.most = max(self.most, self.bytes)
        return Block(start, size)

    def reserve(self, size: int) -> Block:
        """Return a block which is not written to before `touch`: until then the system has not given it."""
        before, most = self.bytes, self.most
        block = self.take(size)
        self.most = most
        self._untouched[block] = max(0, self.bytes - before)
        self._reserved += self._untouched[block]
        return block

    def touch(self, block: Block) -> None:
        """Write to a block that was reserved."""
        self._reserved -= self._untouched.pop(block)
        self.most = max(self.most, self.bytes)

    def give(self, block: Block) -> None:
        """Free a block."""
        start, size = block
        if start < 0:
            self._mapped -= size
            if size <= _MOST:
                self._large = max(self._large, size)
            return
        size += self._free.pop(start + size, 0)
        before = next((first for first, free in self._free.items() if first + free == start), start)
        size += self._free.pop(before, 0)
        # The end is cut where much of it is free: twice what is large, once that has grown.
        if before + size == self._end and size > (_LEAST if self._large == _LEAST else 2 * self._large):
            self._end = before
        elif size:
            self._free[before] = size

    def trim(self) -> None:
        """Give all that is free back to the system, as `give_back_freed` does."""
        self._absent = sum(self._free.values())
