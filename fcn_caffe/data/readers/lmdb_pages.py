"""LMDB databases, read page by page.

LMDB's library trusts what a file says of itself: a damaged one, or one that is cut off, ends the process.

Source: LMDB 0.9, mdb.c; databases of version 1, of machines with 64 bits.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

__all__ = ["read_pages"]

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_PAGE = struct.Struct("<QHHHH")  # its number, unused, flags, where the list of nodes ends, where the nodes begin
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8  # flags of a page
_NODE = struct.Struct("<HHHH")  # lower and upper half of a size or of a page's number, flags, the key's length
_ELSEWHERE, _SEVERAL = 1, 4  # flags of a node: its value is on pages of its own, or several values
_STATE = struct.Struct("<II16xI50xH32xQQQ")  # magic, version, page size, depth, root, last page, transaction
_NOTHING = 2**64 - 1  # the root of an empty database
_DEEPEST = 32


def read_pages(path: str | os.PathLike[str], after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) in the order of the keys, from the first one beyond `after`.

    Raises:
        OSError: The file is no such database, or is damaged.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < _PAGE.size + _STATE.size:
            raise OSError("the file ends in its head")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from _Database(data).records(after)


class _Database:
    """The newest state of a database, of which a file holds two.

    Args:
        data: The file.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.size = data, _PAGE.size + _STATE.size
        self.size = self._state(0)[0]
        if not 256 <= self.size <= 65536 or self.size & (self.size - 1):
            raise OSError(f"pages of {self.size:,} bytes")
        _, self.depth, self.root, last, _ = max((self._state(page) for page in range(2)), key=lambda state: state[-1])
        if (last + 1) * self.size > len(data):
            raise OSError(f"the file has {len(data):,} bytes, its pages take {(last + 1) * self.size:,}")
        self.pages, self.bytes = last + 1, len(data)  # that are not met yet: none is met twice

    def _state(self, number: int) -> tuple[int, int, int, int, int]:
        flags, start, _ = self._page(number, _META)
        magic, version, size, depth, root, last, transaction = _STATE.unpack_from(self.data, start + _PAGE.size)
        if flags != _META or magic != _MAGIC:
            raise OSError("it does not begin as a database")
        if version != _VERSION:
            raise OSError(f"it is of version {version}, wanted {_VERSION}")
        return size, depth, root, last, transaction

    def _page(self, number: int, kinds: int) -> tuple[int, int, int]:
        """Return a page's kind, where it begins, and how many nodes it has."""
        start = number * self.size
        if start + self.size > len(self.data):
            raise OSError(f"page {number:,} is not there")
        found, _, flags, lower, upper = _PAGE.unpack_from(self.data, start)
        kind = flags & kinds
        if found != number or kind not in (_BRANCH, _LEAF, _OVERFLOW, _META):
            raise OSError(f"page {number:,} is damaged")
        if kind in (_BRANCH, _LEAF) and not _PAGE.size <= lower <= upper <= self.size:
            raise OSError(f"page {number:,} has its nodes from {lower} to {upper}")
        return kind, start, (lower - _PAGE.size) // 2

    def records(self, after: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records beyond a key."""
        return iter(()) if self.root == _NOTHING else self._below(self.root, min(self.depth, _DEEPEST), after)

    def _below(self, number: int, depth: int, after: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records beyond a key on a page, and on those that it leads to."""
        kind, start, count = self._page(number, _BRANCH | _LEAF)
        self.pages -= 1
        if self.pages < 0 or depth < 1:
            raise OSError("its pages lead to one another without end")
        nodes = [self._node(start, place) for place in range(count)]
        if kind == _LEAF:
            for key, at, low, high, flags in nodes:
                if after is None or key > after:
                    yield key, self._value(start, at, low | high << 16, flags)
            return
        for place, (_, _, low, high, flags) in enumerate(nodes):
            if after is None or place + 1 == count or nodes[place + 1][0] > after:
                yield from self._below(low | high << 16 | flags << 32, depth - 1, after)

    def _node(self, page: int, place: int) -> tuple[bytes, int, int, int, int]:
        """Return a node's key, where in the page its value begins, both halves of a number, and its flags."""
        (at,) = struct.unpack_from("<H", self.data, page + _PAGE.size + 2 * place)
        if not _PAGE.size <= at <= self.size - _NODE.size:
            raise OSError(f"a node at byte {page + at:,}")
        low, high, flags, length = _NODE.unpack_from(self.data, page + at)
        at += _NODE.size
        if at + length > self.size:
            raise OSError(f"a key of {length:,} bytes at byte {page + at:,}")
        return self.data[page + at : page + at + length], at + length, low, high, flags

    def _value(self, page: int, at: int, length: int, flags: int) -> bytes:
        """Return a node's value."""
        if flags & _SEVERAL:
            raise OSError("it has several values under one key, as Caffe's have not")
        start, end = page + at, page + self.size
        if flags & _ELSEWHERE:
            number = int.from_bytes(self.data[start : min(start + 8, end)], "little")
            start, end = self._page(number, _OVERFLOW)[1] + _PAGE.size, len(self.data)
        self.bytes -= length
        if start + length > end or self.bytes < 0:
            raise OSError(f"a value of {length:,} bytes at byte {start:,}")
        return self.data[start : start + length]
