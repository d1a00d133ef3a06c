"""Binary nets and solver states, streamed: headers by hand, floats straight from the arrays' memory.

Written as Caffe writes them (fields in number order, packed float data, a shape for every blob), so that Caffe,
pycaffe and any protobuf reader read them back; protobuf itself would hold two more copies of every weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, Any]


def write_net(file: IO[bytes], name: str, layers: Iterable[tuple[str, str, Sequence[Array], Sequence[Array]]]) -> None:
    """Write a NetParameter.

    Args:
        file: Where to.
        name: The net's name.
        layers: Name, type, blobs and gradients of each layer, without gradients or one a blob; stored as float32.
    """
    file.write(_text(1, name))
    for layer, kind, arrays, gradients in layers:
        blobs = [_blob(array, gradients[index] if gradients else None) for index, array in enumerate(arrays)]
        header = _text(1, layer) + (_text(2, kind) if kind else b"")
        size = len(header) + sum(_size(7, parts) for parts in blobs)
        file.write(_key(100, 2) + _varint(size) + header)
        for parts in blobs:
            _write_message(file, 7, parts)


def write_solver_state(
    file: IO[bytes], iter: int, learned_net: str, history: Iterable[Array], current_step: int = 0
) -> None:
    """Write a SolverState. History arrays are stored as float32, in the solver's order."""
    file.write(_key(1, 0) + _varint(iter) + _text(2, learned_net))
    for array in history:
        _write_message(file, 3, _blob(array))
    file.write(_key(4, 0) + _varint(current_step))


def _blob(array: Array, gradient: Array | None = None) -> list[bytes | memoryview]:
    """The parts of a BlobProto: header of data (5), the data itself, the same of diff (6), shape (7)."""
    dims = b"".join(_varint(dim) for dim in np.shape(array))
    shape = _key(1, 2) + _varint(len(dims)) + dims if dims else b""
    parts: list[bytes | memoryview] = []
    for number, numbers in ((5, array), (6, gradient)):
        if numbers is not None:
            values = np.ascontiguousarray(numbers, dtype="<f4").reshape(-1)
            parts += [_key(number, 2) + _varint(values.nbytes), values.view(np.uint8).data]
    return [*parts, _key(7, 2) + _varint(len(shape)) + shape]


def _size(number: int, parts: Sequence[bytes | memoryview]) -> int:
    length = sum(len(part) for part in parts)
    return len(_key(number, 2)) + len(_varint(length)) + length


def _write_message(file: IO[bytes], number: int, parts: Sequence[bytes | memoryview]) -> None:
    file.write(_key(number, 2) + _varint(sum(len(part) for part in parts)))
    for part in parts:
        file.write(part)


def _text(number: int, value: str) -> bytes:
    data = value.encode()
    return _key(number, 2) + _varint(len(data)) + data


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
