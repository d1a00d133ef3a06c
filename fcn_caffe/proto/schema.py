"""What a message may hold, as plain tables, the same from every protobuf runtime."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from google.protobuf.descriptor import FieldDescriptor as _TYPE  # type: ignore[import-untyped]

from fcn_caffe.proto import caffe_pb2

FORKS = 400_000_000  # fields and words of Caffe's forks have numbers from here on: see caffe.proto
Scalar = bool | int | float | str | bytes  # what a field that is no message holds; an enum is an int

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
    fork_values: dict[str, int] = dataclasses.field(default_factory=dict)
    message: Message | None = None


@dataclass(frozen=True)
class Message:
    """The fields of one message by name. `title` is its name as an error says it: Convolution, Layer, Net.

    fields: those of Caffe 1.0; `forks`: those that Caffe's forks added to its message. All fields of a message that
    is itself of a fork are `fields`.
    """

    name: str
    title: str
    fields: dict[str, Field]
    forks: dict[str, Field]
    required: frozenset[str]

    def field(self, name: str) -> Field:
        """Return a field, of Caffe 1.0 or of a fork."""
        return self.fields.get(name) or self.forks[name]


_known: dict[caffe_pb2.Descriptor, Message] = {}


def describe(descriptor: caffe_pb2.Descriptor) -> Message:
    """Return the table of a message. Cached; no message of caffe.proto holds itself."""
    if descriptor in _known:
        return _known[descriptor]
    fields: dict[str, Field] = {}
    forks: dict[str, Field] = {}
    for field in descriptor.fields:
        kind, lowest, highest = INTEGERS.get(field.type) or (OTHERS[field.type], 0, 0)
        words = [] if field.enum_type is None else field.enum_type.values
        (forks if field.number >= FORKS else fields)[field.name] = Field(
            name=field.name,
            number=field.number,
            kind=kind,
            repeated=_label(field, "repeated"),
            required=_label(field, "required"),
            lowest=lowest,
            highest=highest,
            values=None
            if field.enum_type is None
            else {item.name: item.number for item in words if item.number < FORKS},
            fork_values={item.name: item.number for item in words if item.number >= FORKS},
            message=None if field.message_type is None else describe(field.message_type),
        )
    required = frozenset(field.name for field in fields.values() if field.required)
    title = descriptor.name.removesuffix("Parameter") or descriptor.name
    return _known.setdefault(descriptor, Message(descriptor.name, title, fields, forks, required))


def _label(field: caffe_pb2.FieldDescriptor, label: str) -> bool:
    """Whether a field is repeated or required. Newer runtimes have a flag for each, older ones a `label`."""
    flag = getattr(field, f"is_{label}", None)
    if flag is None:
        number, wanted = getattr(field, "label"), getattr(_TYPE, f"LABEL_{label.upper()}")  # noqa: B009
        return bool(number == wanted)
    return bool(flag)
