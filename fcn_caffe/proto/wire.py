"""Blob arrays of binary Caffe files as views of the mapped file.

protobuf would turn every weight into a Python number or a copy, and refuses files over 2 GB; this walks the wire
format itself: a net file is a few hundred tags around large runs of little-endian floats.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from typing import Any, NoReturn

import numpy as np

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.paths import refuse_endless
from fcn_caffe.host.text import decode_text, show

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# BlobProto: field numbers.
_LEGACY_SHAPE, _DATA, _SHAPE, _DOUBLE_DATA = (1, 2, 3, 4), 5, 7, 8
# NVIDIA's Caffe adds these: little-endian bytes of a type by number. Integers carry no weights.
RAW_TYPE, RAW_DATA = 10, 12
RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}
# What a layer message calls its name, its type and its blobs.
_MODERN, _V1, _V0 = (1, 2, 7), (4, 5, 6), (1, 2, 50)
MOST_AXES = 32  # Caffe's kMaxBlobAxes
_MOST_FIELDS = 1 << 18  # looked at: a ResNet of 1001 layers has 60,000
_LAYER_FIELDS = 4  # for which a layer counts: one of 2 bytes takes 3 kB as a message
_STATE_ITER, _STATE_NET = 1, 2
_NET_NAME, _NET_V1_LAYERS, _NET_LAYER, _V1_V0_LAYER = 1, 2, 100, 1


@dataclass(slots=True)
class LayerBlobs:
    """One layer of a binary net: its name, its type (a V1 enum number, or "" if not written) and its arrays."""

    name: str = ""
    type: str | int = ""
    blobs: list[np.ndarray[Any, Any]] = field(default_factory=list)


@dataclass
class BinaryNet:
    """A binary NetParameter as far as weights go."""

    name: str
    layers: list[LayerBlobs]


@dataclass
class BinaryState:
    """A binary SolverState: step, weight file, passed lr steps, and the solver's history arrays."""

    iter: int
    learned_net: str
    current_step: int
    history: list[np.ndarray[Any, Any]]


def read_net(path: str | os.PathLike[str]) -> BinaryNet:
    """Read the layers of a binary NetParameter (modern, V1 or V0), in file order.

    Arrays are float32. They are views of the file, mapped copy-on-write: writing to one changes neither the file
    nor another reader. Only unpacked, split or double data is copied.

    Raises:
        WeightsError: The file is truncated, corrupt or not a net; says at which byte.
    """
    reader = _Reader(path)
    net = BinaryNet("", [])
    for number, wire, start, end in reader.fields(0, len(reader.bytes)):
        if number == _STATE_ITER and wire == _VARINT:
            reader.refuse_state()
        if number in (_NET_NAME, _NET_V1_LAYERS, _NET_LAYER) and wire != _LENGTH:
            reader.corrupt(start, f"field {number} of a net is never a number; this is some other message")
        if number == _NET_NAME:
            net.name = reader.text(start, end)
        elif number in (_NET_LAYER, _NET_V1_LAYERS):
            layer = reader.layer(start, end, _MODERN if number == _NET_LAYER else _V1)
            if layer.name or layer.blobs:  # three bytes of the file are no reason for an object
                net.layers.append(layer)
    return net


def read_solver_state(path: str | os.PathLike[str]) -> BinaryState:
    """Read a binary SolverState; its arrays are as those of `read_net`.

    Raises:
        WeightsError: The file is truncated or corrupt; says at which byte.
    """
    reader = _Reader(path)
    state = BinaryState(0, "", 0, [])
    for number, wire, start, end in reader.fields(0, len(reader.bytes)):
        if number == _NET_LAYER or (number == _NET_NAME and wire == _LENGTH):
            raise weights_for_state(path)
        if number == _STATE_ITER and wire == _VARINT:
            state.iter = reader.varint(start)[0]
        elif number == _STATE_NET and wire == _LENGTH:
            state.learned_net = reader.text(start, end)
        elif number == 3 and wire == _LENGTH:
            state.history.append(reader.blob(start, end, f"history {len(state.history)}"))
        elif number == 4 and wire == _VARINT:
            state.current_step = reader.varint(start)[0]
    return state


def state_for_weights(path: str | os.PathLike[str], iteration: int, learned_net: str) -> WeightsError:
    """Make the error of a solver state that is given where weights are wanted; the caller raises it."""
    where = f"Its weights are in {learned_net}" if learned_net else "The weights are in a file of their own"
    return WeightsError(
        f"{os.fspath(path)}: is a solver state, of iteration {iteration}, not weights. {where}; to go on with training "
        "give the state as --snapshot, or to Solver.restore."
    )


def weights_for_state(path: str | os.PathLike[str]) -> WeightsError:
    """Make the error of weights that are given where a solver state is wanted; the caller raises it."""
    return WeightsError(
        f"{os.fspath(path)}: is weights, not a solver state. To start from weights give them as `weights:` in the "
        "solver or as --weights. The state that belongs to them ends in .solverstate or .solverstate.h5."
    )


def has_too_many_fields(data: bytes, path: str | os.PathLike[str]) -> bool:
    """Say whether a binary NetParameter has more layers and fields in them than are read; false where it is damaged."""
    reader = _Reader(path, data)
    with suppress(WeightsError):
        for number, wire, start, end in reader.fields(0, len(reader.bytes)):
            if number in (_NET_LAYER, _NET_V1_LAYERS) and wire == _LENGTH:
                reader.count += _LAYER_FIELDS
                for inner, kind, first, last in reader.fields(start, end):
                    if inner in (_MODERN[2], _V1[2]) and kind == _LENGTH:
                        sum(1 for _ in reader.fields(first, last))
    return reader.count > _MOST_FIELDS


class _Reader:
    """The bytes of one file and the rules of the wire format. Positions are byte offsets into the file.

    Args:
        path: The file.
        data: Its bytes, where they have been read.
    """

    def __init__(self, path: str | os.PathLike[str], data: bytes | None = None) -> None:
        self.path, self.count = os.fspath(path), 0
        self.bytes: bytes | mmap.mmap
        if data is not None:
            self.bytes = data
            return
        try:
            refuse_endless(path)
            with open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    raise WeightsError(f"{self.path}: the file is empty. Copy it again.")
                # A private writable mapping: torch wraps it without a copy and without a warning.
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise WeightsError(
                f"{self.path}: cannot be read: {error.strerror}. Give a file that can be read."
            ) from None

    def corrupt(self, position: int, what: str) -> NoReturn:
        head = self.bytes[:64]
        textual = all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)
        hint = " It looks like text: is it a prototxt, or a web page saved as a file?" if textual else ""
        raise WeightsError(
            f"{self.path}: byte {position}: {what}. The file is truncated or corrupt.{hint or ' Copy it again.'}"
        )

    def refuse_state(self) -> NoReturn:
        """Refuse a file that begins as a solver state where weights are wanted."""
        fields = {number: (start, end) for number, _, start, end in self.fields(0, len(self.bytes))}
        if not set(fields) <= {1, 2, 3, 4}:
            self.corrupt(0, "field 1 of a net is never a number; this is some other message")
        learned_net = self.text(*fields[_STATE_NET]) if _STATE_NET in fields else ""
        raise state_for_weights(self.path, self.varint(fields[_STATE_ITER][0])[0], learned_net)

    def varint(self, position: int) -> tuple[int, int]:
        """Return the number at a position, and the position after it."""
        value, data = 0, self.bytes
        for index in range(10):
            if position + index >= len(data):
                self.corrupt(position, "the file ends inside a number")
            byte = data[position + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, position + index + 1
        self.corrupt(position, "a number is longer than 10 bytes")

    def field(self, at: int, limit: int) -> tuple[int, int, int, int]:
        """Return (field number, wire type, start, end) of the field at a position; start and end bound its value."""
        self.count += 1
        if self.count > _MOST_FIELDS:
            self.corrupt(at, f"the file has more than {_MOST_FIELDS:,} fields, as no net has")
        tag, start = self.varint(at)
        number, wire = tag >> 3, tag & 7
        if wire == _LENGTH:
            size, start = self.varint(start)
            end = start + size
        elif wire == _VARINT:
            end = self.varint(start)[1]
        elif wire in (_FIXED32, _FIXED64):
            end = start + (4 if wire == _FIXED32 else 8)
        else:
            self.corrupt(at, f"wire type {wire} is not one that Caffe writes")
        if number == 0:
            self.corrupt(at, "field number 0")
        if end > limit:
            part = "the file" if limit == len(self.bytes) else "its message"
            self.corrupt(at, f"field {number} needs {end - start} bytes, {part} has {max(limit - start, 0)} left")
        return number, wire, start, end

    def fields(self, position: int, limit: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield every field up to `limit`, as `field` gives it."""
        while position < limit:
            field = self.field(position, limit)
            yield field
            position = field[3]

    def text(self, start: int, end: int) -> str:
        return decode_text(self.bytes[start:end])

    def layer(self, start: int, end: int, numbers: tuple[int, int, int]) -> LayerBlobs:
        """Read a layer message whose name, type and blobs have these field numbers."""
        self.count += _LAYER_FIELDS
        name, kind, blobs = numbers
        layer = LayerBlobs()
        for number, wire, first, last in self.fields(start, end):
            if numbers == _V1 and number == _V1_V0_LAYER and wire == _LENGTH:
                return self.layer(first, last, _V0)
            if number == name and wire == _LENGTH:
                layer.name = self.text(first, last)
            elif number == kind:
                layer.type = self.text(first, last) if wire == _LENGTH else self.varint(first)[0]
        # The name may come after the blobs, and errors want it: a second walk, which costs a few tags.
        for number, wire, first, last in self.fields(start, end):
            if number == blobs and wire == _LENGTH:
                layer.blobs.append(self.blob(first, last, f"layer '{layer.name}' blob {len(layer.blobs)}"))
        return layer

    def blob(self, start: int, end: int, what: str) -> np.ndarray[Any, Any]:
        """Read a BlobProto: data in its shape, or in the legacy num x channels x height x width."""
        legacy: dict[int, int] = {}
        raw, raw_type = np.zeros(0, np.uint8), -1
        shape: list[int] = []
        parts: dict[int, list[np.ndarray[Any, Any]]] = {_DATA: [], _DOUBLE_DATA: []}
        position = start
        while position < end:
            number, wire, first, last = self.field(position, end)
            if number in parts and wire == _LENGTH:
                parts[number].append(self.packed(first, last, "<f4" if number == _DATA else "<f8", what))
            elif number in parts and wire in (_FIXED32, _FIXED64):
                values, last = self.unpacked(position, last - first, end)
                parts[number].append(values)
            elif number in _LEGACY_SHAPE and wire == _VARINT:
                legacy[number] = self.varint(first)[0]
            elif number == _SHAPE and wire == _LENGTH:
                self.add_extents(shape, first, last, what)
            elif number == RAW_TYPE and wire == _VARINT:
                raw_type = self.varint(first)[0]
            elif number == RAW_DATA and wire == _LENGTH:
                raw = self.packed(first, last, "u1", what)
            position = last
        dims = tuple(legacy.get(number, 0) for number in _LEGACY_SHAPE) if legacy else tuple(shape)
        chosen = parts[_DOUBLE_DATA] or parts[_DATA]
        if not chosen and len(raw):
            chosen = [self.raw(raw, raw_type, start, what)]
        values = chosen[0] if len(chosen) == 1 else np.concatenate(chosen or [np.zeros(0, "<f4")])
        if values.size != prod(dims):
            self.corrupt(
                start, f"{what} has shape {show(dims)}, which takes {prod(dims)} values; {values.size} are stored"
            )
        try:
            return values.astype(np.float32, copy=False).reshape(dims)
        except (ValueError, OverflowError):  # too many axes, or an extent beyond memory beside a 0
            self.corrupt(start, f"{what} has shape {show(dims)}, which no array can have")

    def raw(self, raw: np.ndarray[Any, Any], raw_type: int, start: int, what: str) -> np.ndarray[Any, Any]:
        """Read the bytes that NVIDIA's Caffe stores in place of floats."""
        if raw_type not in RAW_TYPES:
            self.corrupt(
                start, f"{what} has raw data of type {raw_type}; expected double (0), float (1) or float16 (2)"
            )
        dtype = np.dtype(RAW_TYPES[raw_type])
        if len(raw) % dtype.itemsize:
            self.corrupt(start, f"the raw data of {what} is {len(raw)} bytes, not a multiple of {dtype.itemsize}")
        return raw.view(dtype)

    def packed(self, start: int, end: int, dtype: str, what: str) -> np.ndarray[Any, Any]:
        size = np.dtype(dtype).itemsize
        if (end - start) % size:
            self.corrupt(start, f"the data of {what} is {end - start} bytes, not a multiple of {size}")
        return np.frombuffer(self.bytes, dtype, (end - start) // size, start)

    def unpacked(self, position: int, size: int, limit: int) -> tuple[np.ndarray[Any, Any], int]:
        """Return the values of a run of records that each repeat the tag at `position`, and the position after it.

        The end of the run is searched in doubling windows: the work is linear however the runs are cut.
        """
        record = 1 + size  # fields below 16 have a tag of one byte
        tag, count, window = self.bytes[position], 1, 64
        most = (limit - position) // record
        raw = np.frombuffer(self.bytes, np.uint8, most * record, position).reshape(most, record)
        while count < most:
            same = raw[count : count + window, 0] == tag
            count += len(same) if same.all() else int(same.argmin())
            if not same.all():
                break
            window *= 2
        values = np.ascontiguousarray(raw[:count, 1:]).view("<f4" if size == 4 else "<f8").reshape(count)
        return values, position + count * record

    def add_extents(self, shape: list[int], start: int, end: int, what: str) -> None:
        """Read the extents of a BlobShape, packed or not; several BlobShapes of a blob are one."""
        for number, wire, first, last in self.fields(start, end):
            while number == 1 and wire in (_VARINT, _LENGTH) and first < last:
                value, first = self.varint(first)
                shape.append(value)
                if len(shape) > MOST_AXES:
                    self.corrupt(start, f"{what} has more than {MOST_AXES} axes")
