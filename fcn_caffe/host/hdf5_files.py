"""HDF5 files, opened for reading once it is known that their heaps come to an end; data sets, looked at before that.

HDF5 2.0.0 may never come to an end in a damaged heap, in C, where neither a signal nor an exception reaches it; and it
makes room for whatever a chunk unfolds to.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import h5py  # type: ignore[import-untyped]

from fcn_caffe.host.paths import refuse_endless

_GLOBAL, _LOCAL = re.compile(rb"GCOL\x01\0\0\0"), re.compile(rb"HEAP\0\0\0\0")  # name, version, three zeros
_VIRTUAL = re.compile(rb"\x04\x03")  # version and class of a layout; its heap's address and its object's number follow
_WORD = 2**32 - 1
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
    heaps = dict.fromkeys(_starts(_GLOBAL, data))
    left = len(data) // _HEAD  # heaps may overlap in a damaged file: more objects than there is room for are not met
    for heap in heaps:
        for _, part in _objects(data, heap, lengths):
            left -= 1
            if left < 0:
                raise _endless(heap, part.stop - part.start)
    _check_virtual_data_sets(data, heaps, addresses, lengths, base)
    _check_local_heaps(data, addresses, lengths, base)


def _objects(data: Bytes, heap: int, lengths: int) -> Iterator[tuple[int, slice]]:
    """Yield the number of each object of a global heap, and where its bytes lie; they follow one upon the other.

    Raises:
        OSError: One ends beyond the heap, or where it begins.
    """
    at, end = heap + _HEAD, min(len(data), heap + _number(data, heap + 8, lengths))
    while at + _HEAD <= end:
        number, size = _number(data, at, 2), _number(data, at + 8, lengths)
        step = _HEAD + size + -size % 8 if number else size  # 0: the rest of the heap, whose size has the head in it
        if not _HEAD <= step <= end - at:
            raise _endless(heap, size)
        yield number, slice(at + _HEAD, at + _HEAD + size)
        at += step


def _endless(heap: int, size: int) -> OSError:
    return OSError(f"the global heap at byte {heap:,} has an object of {size:,} bytes")


def _check_virtual_data_sets(data: Bytes, heaps: Collection[int], addresses: int, lengths: int, base: int) -> None:
    """What a virtual data set is made of lies in a global heap, with a checksum that HDF5 looks at too late."""
    wanted: defaultdict[int, set[int]] = defaultdict(set)
    for found in _VIRTUAL.finditer(data) if heaps else ():
        at = found.end()
        heap = base + _number(data, at, addresses)
        if heap in heaps:
            wanted[heap].add(_number(data, at + addresses, 4))
    for heap, numbers in wanted.items():
        for number, part in _objects(data, heap, lengths):
            if number not in numbers:
                continue
            numbers.discard(number)
            block = data[part]
            if _lookup3(block[:-4]) != _number(block, len(block) - 4, 4):
                raise OSError("a virtual data set is damaged")


def _lookup3(data: bytes) -> int:
    """Return the checksum lookup3 of some bytes, which HDF5 has for what describes data (Bob Jenkins, hashlittle)."""
    a = b = c = 0xDEADBEEF + len(data) & _WORD
    padded = data + bytes(-len(data) % 12)
    for at in range(0, len(padded), 12):
        a, b, c = (x + y & _WORD for x, y in zip((a, b, c), struct.unpack_from("<III", padded, at), strict=True))
        if at + 12 < len(padded):
            for bits in (4, 6, 8, 16, 19, 4):
                a, b, c = b, c + b & _WORD, (a - c & _WORD) ^ _turned(c, bits)
        else:
            for bits in (14, 11, 25, 16, 4, 14, 24):
                a, b, c = b, (c ^ b) - _turned(b, bits) & _WORD, a
            c = b  # the last one that was made
    return c


def _turned(number: int, bits: int) -> int:
    return (number << bits | number >> 32 - bits) & _WORD


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


def lies_elsewhere(data_set: h5py.Dataset) -> bool:
    """Say whether a data set's values are in other files, or in other data sets."""
    storage = data_set.id.get_create_plist()
    return bool(storage.get_external_count()) or storage.get_layout() == h5py.h5d.VIRTUAL


def chunk_bytes(data_set: h5py.Dataset) -> int:
    """Return how many bytes one chunk unfolds to: it is read whole, however few of its values are the data set's."""
    if data_set.chunks is None:
        return 0
    return prod(int(size) for size in data_set.chunks) * int(data_set.id.get_type().get_size())


# Filters that make chunks smaller, by their numbers, and the one that adds a checksum.
_DEFLATE, _SZIP, _NBIT, _SCALEOFFSET, _LZF = 1, 4, 5, 6, 32000
_PACKING, _CHECKSUM = (_DEFLATE, _SZIP, _NBIT, _SCALEOFFSET, _LZF), 3
_TIMES = {_DEFLATE: 1032, _LZF: 88}  # what they pack to one at most
_SMALL_BYTES = 1 << 24  # what a chunk may unfold to, whatever it is for


def check_chunks(data_set: h5py.Dataset) -> None:
    """Refuse a data set with a chunk that unfolds to more than it has values for.

    Raises:
        OSError: It has one, or packs its chunks twice.
    """
    most = chunk_bytes(data_set) + 4  # a checksum
    storage = data_set.id.get_create_plist()
    filters = [storage.get_filter(place) for place in range(storage.get_nfilters())] if data_set.chunks else []
    packing = [place for place, (code, *_) in enumerate(filters) if code in _PACKING]
    if not packing:
        return
    code, _, options, _ = filters[packing[0]]
    if len(packing) > 1 or any(other != _CHECKSUM for other, *_ in filters[packing[0] + 1 :]):
        raise OSError("its chunks are packed more than once")
    if code in (_NBIT, _SCALEOFFSET):
        if len(options) < 3 or options[2] != prod(data_set.chunks):
            raise OSError("its filter is for chunks of another size")
        return
    for offset, mask, size in _stored_chunks(data_set):
        if mask >> packing[0] & 1 or _TIMES.get(code, _SMALL_BYTES) * size <= _SMALL_BYTES:
            continue
        if _unfolded(data_set.id.read_direct_chunk(offset)[1], code, most) > most:
            raise OSError(f"a chunk of {size:,} bytes unfolds to more than {most - 4:,}")


def _stored_chunks(data_set: h5py.Dataset) -> list[tuple[tuple[int, ...], int, int]]:
    """Return each chunk's place, which filters it went without, and its bytes."""
    found: list[Any] = []
    if hasattr(data_set.id, "chunk_iter"):  # since h5py 3.8; one by one takes ever longer
        data_set.id.chunk_iter(found.append)
    else:
        found = [data_set.id.get_chunk_info(index) for index in range(data_set.id.get_num_chunks())]
    return [(chunk.chunk_offset, chunk.filter_mask, chunk.size) for chunk in found]


def _unfolded(chunk: bytes, code: int, most: int) -> int:
    """Return how many bytes a chunk unfolds to; beyond `most`, any number that is larger."""
    if code == _SZIP:
        return int.from_bytes(chunk[:4], "little")
    if code == _DEFLATE:
        try:
            return len(zlib.decompressobj().decompress(chunk, most + 1))
        except zlib.error as error:
            raise OSError(str(error)) from None
    at = count = 0
    while at + 1 < len(chunk):
        head = chunk[at]
        if head < 32:  # that many bytes and one, as they are
            count, at = count + head + 1, at + head + 2
        else:  # a repetition, whose length may go on in the next byte
            is_long = head >> 5 == 7
            count, at = count + 2 + (head >> 5) + (chunk[at + 1] if is_long else 0), at + 2 + is_long
    return count
