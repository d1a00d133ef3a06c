"""Ways to spoil binary files: protobuf's wire format, HDF5, zip files of arrays, safetensors. See mutations.py."""

from __future__ import annotations

import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from random import Random
from typing import Any

from mutations import BYTES, Mutation, flip_bits, set_byte

# -- the wire format -----------------------------------------------------------------------------------------------

Node = list[Any]  # [field number, wire type, value]: a number, bytes, or a list of nodes


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _write_varint(value: int) -> bytes:
    out = bytearray()
    value &= 2**70 - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def parse(data: bytes, depth: int = 0) -> list[Node]:
    """The fields of a message; bytes that read as a message are taken for one. ValueError or IndexError if not."""
    nodes: list[Node] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if number == 0 or number > 2**29 or wire not in (0, 1, 2, 5):
            raise ValueError
        value: Any
        if wire == 0:
            value, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire, 0)
            if wire == 2:
                size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError
            if wire == 2 and depth < 4 and size > 1:
                with suppress(ValueError, IndexError):
                    value = parse(value, depth + 1)
        nodes.append([number, wire, value])
    return nodes


def build(nodes: list[Node]) -> bytes:
    """The bytes of these fields, lengths right."""
    parts = []
    for number, wire, value in nodes:
        parts.append(_write_varint(number << 3 | wire))
        if wire == 0:
            parts.append(_write_varint(value))
        else:
            body = build(value) if isinstance(value, list) else value
            parts.append(_write_varint(len(body)) + body if wire == 2 else body)
    return b"".join(parts)


def _everywhere(nodes: list[Node]) -> list[tuple[list[Node], int]]:
    found = []
    for index, node in enumerate(nodes):
        found.append((nodes, index))
        if isinstance(node[2], list):
            found += _everywhere(node[2])
    return found


EXTREMES = (0, 1, 2, 3, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1, 2**70 - 1)


def _of_tree(change: Callable[[Random, list[Node], int], None]) -> Mutation:
    """A mutation of one field of the message, anywhere in it; bytes that are no message get their bits flipped."""

    def mutation(random: Random, data: bytes, other: bytes) -> bytes:
        try:
            nodes = parse(data)
        except (ValueError, IndexError):
            return flip_bits(random, data, other)
        places = _everywhere(nodes)
        if places:
            change(random, *random.choice(places))
        return build(nodes)

    return mutation


def _field_number(random: Random, nodes: list[Node], index: int) -> None:
    nodes[index][0] = random.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 50, 100, 536870911, random.randrange(1, 150)))


def _value(random: Random, nodes: list[Node], index: int) -> None:
    node = nodes[index]
    if node[1] == 0:
        node[2] = random.choice((*EXTREMES, node[2] + 1, max(node[2] - 1, 0), node[2] * 2))
    elif node[1] == 2 and not isinstance(node[2], list):
        node[2] = random.choice((b"", node[2][:-1], node[2] + b"\xff", node[2] * 2, bytes(len(node[2])), b"\xff" * 8))
    elif node[1] != 2:
        node[2] = struct.pack("<f" if node[1] == 5 else "<d", random.choice((0.0, float("nan"), float("inf"), -1e38)))
    else:
        node[2] = random.choice(([], node[2] * 2, node[2][:-1]))


def _to_number(random: Random, nodes: list[Node], index: int) -> None:
    nodes[index][1:] = [0, random.choice(EXTREMES)]


def _removed(random: Random, nodes: list[Node], index: int) -> None:
    del nodes[index]


def _doubled(random: Random, nodes: list[Node], index: int) -> None:
    nodes[index:index] = [nodes[index]] * (random.choice((1, 2, 50)) if len(build([nodes[index]])) < 1000 else 1)


def _swapped(random: Random, nodes: list[Node], index: int) -> None:
    with_ = random.randrange(len(nodes))
    nodes[index], nodes[with_] = nodes[with_], nodes[index]


def _wrapped(random: Random, nodes: list[Node], index: int) -> None:
    node = nodes[index]
    for _ in range(random.choice((1, 2, 500))):
        node = [node[0], 2, [node]] if random.random() < 0.5 else [random.choice((1, 2, 7, 100)), 2, [node]]
    nodes[index] = [node[0], 2, build([node])]


def _tiny_fields(random: Random, nodes: list[Node], index: int) -> None:
    """Thousands of fields of two or three bytes: what costs far more as Python objects than in the file."""
    tiny = random.choice(([100, 2, b""], [2, 2, b""], [1, 0, 1], [7, 2, b""], [3, 2, b""], [5, 5, b"\0\0\0\0"]))
    if random.random() < 0.5 and isinstance(nodes[index][2], list):
        nodes[index][2].extend([tiny] * 16000)
    else:
        nodes.extend([tiny] * 16000)


def _many_dims(random: Random, nodes: list[Node], index: int) -> None:
    nodes.append([7, 2, [[1, 2, random.choice((b"\1", b"\2", b"\0", b"\xff\xff\xff\xff\x0f")) * 12000]]])


def wrong_length(random: Random, data: bytes, other: bytes) -> bytes:
    """A length that is not that of what follows, all else as it was."""
    starts = [match.start() + 1 for match in re.finditer(rb"[\x0a\x12\x1a\x22\x2a\x32\x3a\x42]", data[:4096])]
    if not starts:
        return data
    at = random.choice(starts)
    return data[:at] + _write_varint(random.choice(EXTREMES)) + data[at + 1 :]


WIRE: tuple[Mutation, ...] = (
    *BYTES,
    *[_of_tree(_value)] * 5,
    *[_of_tree(_field_number), _of_tree(_removed), _of_tree(_doubled), _of_tree(_swapped)] * 2,
    *(_of_tree(_to_number), _of_tree(_wrapped), _of_tree(_tiny_fields), _of_tree(_many_dims), wrong_length),
)


# -- other containers of weights -----------------------------------------------------------------------------------


def _of_member(ways: tuple[Mutation, ...]) -> Mutation:
    """A mutation inside one member of a zip file, with lengths and checksums made right again: .npz and .pth."""

    def mutation(random: Random, data: bytes, other: bytes) -> bytes:
        try:
            with zipfile.ZipFile(BytesIO(data)) as archive:
                members = [(info, archive.read(info)) for info in archive.infolist()]
        except Exception:  # an earlier mutation broke it in one of zipfile's many ways
            return flip_bits(random, data, other)
        place, made = random.randrange(len(members)) if members else 0, BytesIO()
        with zipfile.ZipFile(made, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of two members of one name, which is wanted
            for index, (info, content) in enumerate(members):
                new = zipfile.ZipInfo(info.filename)
                if index == place:
                    new.compress_type = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
                    new.filename = random.choice((info.filename, info.filename, info.filename[:-1], "../x", "a/9.npy"))
                    content = random.choice(ways)(random, content, content)
                archive.writestr(new, content)
        return made.getvalue()

    return mutation


def _number_in_head(random: Random, data: bytes, other: bytes) -> bytes:
    """A number spelt in the first bytes becomes another: shapes and offsets of .npy and .safetensors headers."""
    found = list(re.finditer(rb"\d+", data[:4096]))
    if not found:
        return data
    match = random.choice(found)
    text = random.choice((b"0", b"1", b"-1", b"999999999999", b"18446744073709551616", b"7", b"1e9"))
    # Of the same length where it can be, so that what counts the header's bytes still agrees.
    text = text[: len(match[0])].rjust(len(match[0])) if random.random() < 0.7 else text
    return data[: match.start()] + text + data[match.end() :]


def _address(random: Random, data: bytes, other: bytes) -> bytes:
    """Eight aligned bytes become another number: HDF5 points and counts with them, and aligns most."""
    at = 8 * random.randrange(len(data) // 8 + 1)
    value = random.choice((*EXTREMES[:-1], random.randrange(len(data) + 1), at, len(data)))
    return data[:at] + struct.pack("<Q", value) + data[at + 8 :]


HDF5: tuple[Mutation, ...] = (*BYTES, *[flip_bits, set_byte, _address] * 4)
ZIP: tuple[Mutation, ...] = (*BYTES, *[_of_member((*BYTES, _number_in_head, _number_in_head, set_byte))] * 10)
SAFETENSORS: tuple[Mutation, ...] = (*BYTES, *[_number_in_head, set_byte] * 5)
