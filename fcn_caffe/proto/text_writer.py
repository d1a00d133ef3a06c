"""Protobuf text format, written as Caffe's own tools print it: two spaces a level, fields in number order."""

from __future__ import annotations

import math
import re
import struct

from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.kept import kept_lines
from fcn_caffe.proto.schema import Field, Message, Scalar, describe

_QUOTED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def write_text(message: caffe_pb2.Message) -> str:
    """Write a message as text that parse_text reads back to an equal message.

    Fields of other Caffes that were kept when it was read come last in their message.
    Floats have the fewest digits (6 to 9) that give the same float32. Text stays readable: UTF-8 is not escaped.
    """
    lines: list[str] = []
    _write(message, describe(message.DESCRIPTOR), "", lines)
    return "".join(f"{line}\n" for line in lines)


def _write(message: caffe_pb2.Message, about: Message, indent: str, lines: list[str]) -> None:
    for descriptor, value in message.ListFields():
        field = about.field(descriptor.name)
        for item in value if field.repeated else [value]:
            if field.message is not None:
                lines.append(f"{indent}{field.name} {{")
                _write(item, field.message, indent + "  ", lines)
                lines.append(f"{indent}}}")
            else:
                lines.append(f"{indent}{field.name}: {_scalar(item, field)}")
    lines += [indent + line for line in kept_lines(message)]


def _scalar(value: Scalar, field: Field) -> str:
    if field.kind == "bool":
        return "true" if value else "false"
    if field.values is not None:
        return next(name for name, number in (field.values | field.fork_values).items() if number == value)
    if isinstance(value, float):
        return shortest_float(value) if field.kind == "float" else repr(value).removesuffix(".0")
    if isinstance(value, str):
        return '"' + re.sub(r'[\\"\x00-\x1f\x7f]', lambda m: _QUOTED.get(m[0], f"\\{ord(m[0]):03o}"), value) + '"'
    if isinstance(value, bytes):
        return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in value) + '"'
    return str(value)


def shortest_float(value: float) -> str:
    """Write the shortest decimal that reads back as the same float32.

    >>> shortest_float(1e-5), shortest_float(0.0078125)
    ('1e-05', '0.0078125')
    """
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    exact = struct.pack("<f", value)
    for digits in (6, 7, 8):
        text = f"{value:.{digits}g}"
        if _packs_to(text, exact):
            return text
    return f"{value:.9g}"


def _packs_to(text: str, exact: bytes) -> bool:
    try:
        return struct.pack("<f", float(text)) == exact
    except OverflowError:  # rounded up past the largest float32
        return False
