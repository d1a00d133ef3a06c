"""MATLAB's .mat files up to version 7, which scipy reads once it is known that they fill neither memory nor stack.

scipy (1.17.1) may end the process at a damaged file, so every element is looked at before it is let read one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import scipy.io  # type: ignore[import-untyped]

from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import refuse_endless
from fcn_caffe.host.unfolding import FREE_BYTES

_HEAD = 128  # bytes before the first element
_MATRIX, _PACKED = 14, 15  # types of elements
_PLAIN = (*range(1, 8), 9, 12, 13, 16, 17, 18)  # those of numbers and characters
_CELL, _STRUCT, _OBJECT, _CHARACTERS, _SPARSE, _FUNCTION, _OPAQUE = 1, 2, 3, 4, 5, 16, 17  # classes of matrices
_NUMBERS = range(6, 16)
_COMPLEX = 1 << 11  # a flag of a matrix
_MOST_CONTAINERS = 1000  # nested ones fill the stack
_ARRAY_BYTES, _CHARACTER_BYTES, _COMPLEX_BYTES = 200, 12, 16  # what scipy takes beside the file's bytes


def read_variables(path: Path) -> dict[str, Any]:
    """Read a MATLAB file's variables, by name.

    Raises:
        DataError: it cannot be read, or would fill the memory.
    """
    try:
        refuse_endless(path)
        data = path.read_bytes()
        # MATLAB 4, which packs nothing and has no structure, begins with a zero; 7.3 has a 2 in its place.
        if 0 not in data[:4] and 1 in data[_HEAD - 4 : _HEAD - 2]:
            _check_structure(memoryview(data))
        variables: dict[str, Any] = scipy.io.loadmat(BytesIO(data))
    except NotImplementedError as error:
        raise DataError(f"{path}: is a MATLAB 7.3 file. Save it with -v7.") from error
    except Exception as error:  # scipy raises a dozen kinds for damaged files
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error}). Copy or download it again.") from error
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def _check_structure(data: memoryview) -> None:
    """Refuse a file that unfolds far, declares more elements than it has bytes, nests without end, or breaks scipy.

    Labels take a byte or two a pixel and deflate packs them 1032 to 1, so what counts is how much they unfold to.

    Raises:
        ValueError: it does.
    """
    order = "<" if bytes(data[_HEAD - 2 : _HEAD]) == b"IM" else ">"
    walk = _Walk(order, max(FREE_BYTES, 3 * len(data)))
    for content in _contents(data, order, walk.most):
        walk.go_through(content)


def _contents(data: memoryview, order: str, most: int) -> Iterator[memoryview]:
    """Yield what holds each variable, unpacked up to `most` bytes and one more."""
    at = _HEAD
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        end = at + 8 + size
        if kind == _PACKED:
            content = zlib.decompressobj().decompress(data[at + 8 : end], most + 1)
            most -= len(content)
            yield memoryview(content)
        else:
            yield data[at:end]
        at = end


class _Walk:
    """Goes from element to element as scipy does, and counts what it would take.

    Args:
        order: Of the bytes in a number, as struct writes it.
        most: How many bytes all variables may take.
    """

    def __init__(self, order: str, most: int) -> None:
        self.order, self.most = order, most
        self.there = self.taken = self.declared = self.containers = 0
        self.content, self.at = memoryview(b""), 0

    def go_through(self, content: memoryview) -> None:
        """Go through one variable.

        Raises:
            ValueError: scipy would not survive it, or has no memory for it.
        """
        self.content, self.at = content, 0
        self.there += len(content)
        self._take(len(content))
        left = 1  # matrices to come, the inner ones in the order in which scipy meets them
        is_inner = False
        while left:
            kind, size = self._numbers(2)
            if kind != _MATRIX:
                raise ValueError(f"expected a matrix, got an element of type {kind}")
            left -= 1
            if size or not is_inner:  # what else it says of its length does not count
                left += self._matrix()
            self._take(_ARRAY_BYTES)
            is_inner = True

    def _matrix(self) -> int:
        """Pass the head and the plain elements of a matrix; return how many matrices it has in it."""
        _, _, flags, _ = self._numbers(4)
        kind, parts = flags & 0xFF, 2 if flags & _COMPLEX else 1
        if kind == _OPAQUE:
            self._pass_elements(3)
            return self._contain(1)
        elements = self._count_elements(is_sparse=kind == _SPARSE)
        self._pass_elements(1)  # its name
        if kind in _NUMBERS:
            self._pass_elements(parts)
            self._take(_COMPLEX_BYTES * elements if parts > 1 else 0)
        elif kind == _SPARSE:
            self._pass_elements(2 + parts)
        elif kind == _CHARACTERS:
            self._take(_CHARACTER_BYTES * max(elements, self._pass_elements(1)))
        elif kind == _CELL:
            return self._contain(elements)
        elif kind in (_STRUCT, _OBJECT):
            return self._contain(elements * self._count_fields(kind == _OBJECT))
        elif kind == _FUNCTION:
            return self._contain(1)
        else:
            raise ValueError(f"no class of matrices is {kind}")
        return 0

    def _contain(self, matrices: int) -> int:
        self.containers += 1
        self._take(8 * matrices)
        if self.containers > _MOST_CONTAINERS:
            raise ValueError(f"holds more than {_MOST_CONTAINERS:,} cells and structs")
        return matrices

    def _count_elements(self, *, is_sparse: bool) -> int:
        """Pass the sizes of a matrix's axes; return how many elements they make."""
        start, size = self._element()
        count = struct.unpack_from(f"{self.order}{size // 4}I", self.content, start)
        if not 2 <= len(count) <= 32:
            raise ValueError(f"a matrix has {len(count)} axes")
        elements: int = prod(count)
        self.declared += 0 if is_sparse else elements
        if self.declared > self.there + 1024:  # of empty structs
            raise ValueError(f"declares {self.declared:,} elements in {self.there:,} bytes")
        return elements

    def _count_fields(self, has_class: bool) -> int:
        """Pass the names of a struct's fields, and of an object's class before them; return how many fields it has."""
        self._pass_elements(1 if has_class else 0)
        start, size = self._element()
        length: int = struct.unpack_from(f"{self.order}i", self.content, start)[0] if size == 4 else 0
        if length <= 0:
            raise ValueError("a struct's names of fields have no length")
        return self._pass_elements(1) // length

    def _pass_elements(self, count: int) -> int:
        """Pass some plain elements; return the bytes of the last."""
        size = 0
        for _ in range(count):
            _, size = self._element()
        return size

    def _element(self) -> tuple[int, int]:
        """Pass a plain element; return where its content lies, and how long it is."""
        kind, size = self._numbers(2)
        start = self.at
        if kind >> 16:  # a short one, which lies in its own head
            start, kind, size = self.at - 4, kind & 0xFFFF, kind >> 16
            if size > 4:
                raise ValueError(f"a short element has {size} bytes")
        else:
            self.at += size + -size % 8
        if kind not in _PLAIN:
            raise ValueError(f"no element of numbers is of type {kind}")
        if start + size > len(self.content):
            raise ValueError("ends before its last element")
        return start, size

    def _numbers(self, count: int) -> tuple[int, ...]:
        """Pass some numbers of 32 bits."""
        start, self.at = self.at, self.at + 4 * count
        if self.at > len(self.content):
            raise ValueError("ends before its last element")
        return struct.unpack_from(f"{self.order}{count}I", self.content, start)

    def _take(self, size: int) -> None:
        self.taken += size
        if self.taken > self.most:
            raise ValueError(f"unfolds to more than {self.most:,} bytes")
