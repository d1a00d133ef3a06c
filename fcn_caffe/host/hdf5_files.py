"""HDF5 files, opened for reading once it is known that their heaps come to an end.

HDF5 2.0.0 may never come to an end in a damaged heap, in C, where neither a signal nor an exception reaches it.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import h5py  # type: ignore[import-untyped]

from fcn_caffe.host.paths import refuse_endless

_GLOBAL, _LOCAL = re.compile(rb"GCOL\x01\0\0\0"), re.compile(rb"HEAP\0\0\0\0")  # name, version, three zeros
_HEAD = 16  # bytes of a global heap before its first object, and of an object before its data
_END = 1  # of a local heap's list of free blocks

Bytes = bytes | mmap.mmap


@contextmanager
def open_to_read(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open an HDF5 file that others may read meanwhile.

    Raises:
        OSError: It is no HDF5 file, or is damaged where that can be seen now.
    """
    refuse_endless(path)
    with h5py.File(path, "r", locking=False) as file:
        with open(path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            properties = file.id.get_create_plist()
            addresses, lengths = properties.get_sizes()
            check_heaps(data, addresses, lengths, properties.get_userblock())
        yield file


def check_heaps(data: Bytes, addresses: int = 8, lengths: int = 8, base: int = 0) -> None:
    """Refuse a file with a heap of which HDF5 might not find the end.

    Args:
        data: The file's bytes.
        addresses: How many bytes an address has in it.
        lengths: How many bytes a length has.
        base: Where in the file addresses begin.

    Raises:
        OSError: It has one.
    """
    _check_global_heaps(data, lengths)
    _check_local_heaps(data, addresses, lengths, base)


def _check_global_heaps(data: Bytes, lengths: int) -> None:
    """Objects, of variable length, follow one upon the other."""
    left = len(data) // _HEAD  # heaps may overlap in a damaged file: more objects than there is room for are not met
    for start in _starts(_GLOBAL, data):
        end = min(len(data), start + _number(data, start + 8, lengths))
        at = start + _HEAD
        while at + _HEAD <= end:
            size = _number(data, at + 8, lengths)
            is_free = data[at : at + 2] == b"\0\0"  # the rest of the heap, whose size has the head in it
            step, left = size if is_free else _HEAD + size + -size % 8, left - 1
            if not _HEAD <= step <= end - at or left < 0:
                raise OSError(f"the global heap at byte {start:,} has an object of {size:,} bytes")
            at += step


def _check_local_heaps(data: Bytes, addresses: int, lengths: int, base: int) -> None:
    """Free blocks between a group's names lead from one to the next."""
    left = len(data) // (2 * lengths)
    for start in _starts(_LOCAL, data):
        size, free = (_number(data, start + 8 + index * lengths, lengths) for index in range(2))
        segment = base + _number(data, start + 8 + 2 * lengths, addresses)
        while free != _END and free + 2 * lengths <= size and segment + size <= len(data):  # HDF5 refuses the others
            free, left = _number(data, segment + free, lengths), left - 1
            if left < 0:
                raise OSError(f"the local heap at byte {start:,} has more free blocks than bytes")


def _starts(name: re.Pattern[bytes], data: Bytes) -> list[int]:
    return [found.start() for found in name.finditer(data)]


def _number(data: Bytes, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "little")
