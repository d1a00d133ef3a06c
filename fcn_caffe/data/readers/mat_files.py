"""MATLAB's .mat files up to version 7, which scipy reads once it is known that they fill neither memory nor stack."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import scipy.io  # type: ignore[import-untyped]

from fcn_caffe.errors import DataError
from fcn_caffe.host.unfolding import FREE_BYTES

_HEAD = 128  # bytes before the first element
_MATRIX, _PACKED = 14, 15  # types of elements
_CONTAINERS, _SPARSE, _OPAQUE = (1, 2, 3, 16, 17), 5, 17  # classes of matrices: cells, structs, objects, functions
_MOST_CONTAINERS = 1000  # scipy reads one within the other without a look at the stack


def read_variables(path: Path) -> dict[str, Any]:
    """Read a MATLAB file's variables, by name.

    Raises:
        DataError: it cannot be read, or would fill the memory.
    """
    try:
        _refuse_unfolding(path.read_bytes())
        variables: dict[str, Any] = scipy.io.loadmat(path)
    except NotImplementedError as error:
        raise DataError(f"{path}: is a MATLAB 7.3 file. Save it with -v7.") from error
    except Exception as error:  # scipy raises a dozen kinds for damaged files
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error}). Copy or download it again.") from error
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def _refuse_unfolding(data: bytes) -> None:
    """Refuse a file that unfolds far, declares more elements than it has bytes, or nests without end.

    Labels take a byte or two a pixel and deflate packs them 1032 to 1, so what counts is how much they unfold to.

    Raises:
        ValueError: it does.
    """
    if 0 in data[:4]:  # MATLAB 4, which packs nothing
        return
    order = "<" if data[_HEAD - 2 : _HEAD] == b"IM" else ">"
    left, containers = max(FREE_BYTES, 3 * len(data)), 0
    for content in _contents(data, order, left):
        left -= len(content)
        if left < 0:
            raise ValueError(f"unfolds to more than {max(FREE_BYTES, 3 * len(data)):,} bytes")
        declared = 0
        for kind, elements in _matrices(content, order):
            declared += elements
            containers += kind in _CONTAINERS
            if declared > len(content) + 1024:  # of empty structs
                raise ValueError(f"declares {declared:,} elements in {len(content):,} bytes")
            if containers > _MOST_CONTAINERS:
                raise ValueError(f"holds more than {_MOST_CONTAINERS:,} cells and structs")


def _contents(data: bytes, order: str, most: int) -> Iterator[bytes]:
    """Yield what the file holds, unpacked up to `most` bytes and one more."""
    at = _HEAD
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind != _PACKED:
            yield data[at:]
            return
        content = zlib.decompressobj().decompress(data[at + 8 : at + 8 + size], most + 1)
        most -= len(content)
        yield content
        at += 8 + size


def _matrices(content: bytes, order: str) -> Iterator[tuple[int, int]]:
    """Yield class and number of elements of each matrix, the inner ones too, in the order in which scipy meets them.

    What a matrix says of its length does not count, for scipy looks at the elements in it.
    """
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind == _MATRIX and size:
            if at + 32 > len(content):
                return
            kind = content[at + 16 if order == "<" else at + 19]
            at += 24  # to the sizes of the axes
            yield kind, 1 if kind in (_SPARSE, _OPAQUE) else _count(content, order, at)
        elif kind >> 16:
            at += 8
        else:
            at += 8 + size + -size % 8


def _count(content: bytes, order: str, at: int) -> int:
    """Return how many elements a matrix has whose axes' sizes are the element at `at`."""
    kind, size = struct.unpack_from(f"{order}II", content, at)
    start, size = (at + 4, kind >> 16) if kind >> 16 else (at + 8, size)
    count = min(size, len(content) - start) // 4
    return prod(struct.unpack_from(f"{order}{count}I", content, start)) if count <= 32 else 0
