"""Lines of text that a message's schema has no field for, kept with the message.

They are an unknown field of it, which protobuf carries along through copies and merges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.schema import FORKS, Message, describe

__all__ = ["has_forks", "keep_line", "kept_lines", "unknown_fields"]

_NUMBER = 2**29 - 1  # the highest that a field may have; no Caffe uses it
_LENGTH_DELIMITED = 2


class UnknownField(Protocol):
    """A field by its number; `data` is an int, or bytes where it has a length. Each runtime has a class of its own."""

    field_number: int
    wire_type: int
    data: bytes | int


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def keep_line(message: caffe_pb2.Message, line: str) -> None:
    """Keep a line of text with a message, behind those that it has."""
    data = line.encode("utf-8", "surrogateescape")
    message.MergeFromString(_varint(_NUMBER << 3 | _LENGTH_DELIMITED) + _varint(len(data)) + data)


def kept_lines(message: caffe_pb2.Message) -> list[str]:
    """Return the lines that were kept with a message, in their order."""
    return [
        field.data.decode("utf-8", "surrogateescape")
        for field in unknown_fields(message)
        if field.field_number == _NUMBER and isinstance(field.data, bytes)
    ]


def has_forks(message: caffe_pb2.Message) -> bool:
    """Whether a message, or one inside it, has fields or words of Caffe's forks, read or kept as lines."""
    return any(_kept_below(message, describe(message.DESCRIPTOR)))


def _kept_below(message: caffe_pb2.Message, about: Message) -> Iterator[bool]:
    yield bool(kept_lines(message))
    for descriptor, value in message.ListFields():
        field = about.field(descriptor.name)
        yield descriptor.number >= FORKS or (not field.repeated and value in field.fork_values.values())
        if field.message is not None:
            for item in value if field.repeated else [value]:
                yield from _kept_below(item, field.message)


def unknown_fields(message: caffe_pb2.Message) -> Iterable[UnknownField]:
    """Return the fields that came in a binary message and that its schema has not."""
    try:
        from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]
    except ImportError:  # protobuf 4.21
        fields: Iterable[UnknownField] = getattr(message, "UnknownFields")()  # noqa: B009
    else:
        fields = UnknownFieldSet(message)
    return fields
