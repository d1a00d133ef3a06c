"""What a message may hold, as plain tables, the same from every protobuf runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as _TYPE  # type: ignore[import-untyped]

INTEGERS = {
    _TYPE.TYPE_INT32: ("int32", -(2**31), 2**31 - 1),
    _TYPE.TYPE_INT64: ("int64", -(2**63), 2**63 - 1),
    _TYPE.TYPE_UINT32: ("uint32", 0, 2**32 - 1),
    _TYPE.TYPE_UINT64: ("uint64", 0, 2**64 - 1),
}
OTHERS = {
    _TYPE.TYPE_FLOAT: "float",
    _TYPE.TYPE_DOUBLE: "double",
    _TYPE.TYPE_BOOL: "bool",
    _TYPE.TYPE_STRING: "string",
    _TYPE.TYPE_BYTES: "bytes",
    _TYPE.TYPE_ENUM: "enum",
    _TYPE.TYPE_MESSAGE: "message",
}


@dataclass(frozen=True)
class Field:
    """One field: `kind` is int32, uint32, float, bool, string, bytes, enum, message …"""

    name: str
    number: int
    kind: str
    repeated: bool
    required: bool
    lowest: int = 0
    highest: int = 0
    values: dict[str, int] | None = None
    message: Message | None = None


@dataclass(frozen=True)
class Message:
    """The fields of one message by name. `title` is its name as an error says it: Convolution, Layer, Net."""

    name: str
    title: str
    fields: dict[str, Field]
    required: frozenset[str]


_known: dict[Any, Message] = {}


def describe(descriptor: Any) -> Message:
    """Return the table of a message descriptor. Cached; no message of caffe.proto holds itself."""
    if descriptor in _known:
        return _known[descriptor]
    fields = {}
    for field in descriptor.fields:
        kind, lowest, highest = INTEGERS.get(field.type) or (OTHERS[field.type], 0, 0)
        fields[field.name] = Field(
            name=field.name,
            number=field.number,
            kind=kind,
            repeated=_label(field, "repeated"),
            required=_label(field, "required"),
            lowest=lowest,
            highest=highest,
            values={value.name: value.number for value in field.enum_type.values} if kind == "enum" else None,
            message=describe(field.message_type) if kind == "message" else None,
        )
    required = frozenset(field.name for field in fields.values() if field.required)
    made = Message(descriptor.name, descriptor.name.removesuffix("Parameter") or descriptor.name, fields, required)
    return _known.setdefault(descriptor, made)


def _label(field: Any, label: str) -> bool:
    """Whether a field is repeated or required: newer runtimes have a flag each and warn of `label`, older only that."""
    flag = getattr(field, f"is_{label}", None)
    return bool(field.label == getattr(_TYPE, f"LABEL_{label.upper()}") if flag is None else flag)
