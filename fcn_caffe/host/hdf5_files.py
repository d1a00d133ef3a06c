"""HDF5 files, opened for reading once it is known that their global heaps are whole.

HDF5 2.0.0 may never come to an end in a damaged one, in C, where neither a signal nor an exception reaches it.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import h5py  # type: ignore[import-untyped]

_HEAP = re.compile(rb"GCOL\x01\0\0\0")  # a global heap's signature, its version, three bytes that are zero
_HEAD = 16  # bytes of a heap before its first object, and of an object before its data


@contextmanager
def open_to_read(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open an HDF5 file that others may read meanwhile.

    Raises:
        OSError: It is no HDF5 file, or is damaged where that can be seen now.
    """
    with h5py.File(path, "r", locking=False) as file:
        with open(path, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            check_heaps(data, file.id.get_create_plist().get_sizes()[1])
        yield file


def check_heaps(data: bytes | mmap.mmap, width: int) -> None:
    """Refuse a file with a global heap whose objects do not follow one upon the other.

    Args:
        data: The file's bytes.
        width: How many bytes a length has in it.

    Raises:
        OSError: It has one.
    """
    left = len(data) // _HEAD  # heaps may overlap in a damaged file: more objects than there is room for are not met
    for start in [found.start() for found in _HEAP.finditer(data)]:
        end = min(len(data), start + int.from_bytes(data[start + 8 : start + 8 + width], "little"))
        at = start + _HEAD
        while at + _HEAD <= end:
            size = int.from_bytes(data[at + 8 : at + 8 + width], "little")
            is_free = data[at : at + 2] == b"\0\0"  # the rest of the heap, whose size has the head in it
            step, left = size if is_free else _HEAD + size + -size % 8, left - 1
            if not _HEAD <= step <= end - at or left < 0:
                raise OSError(f"the global heap at byte {start:,} has an object of {size:,} bytes")
            at += step
