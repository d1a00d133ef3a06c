"""Messages in files, as text or binary; the content says which."""

from __future__ import annotations

import os
from typing import TypeVar

from fcn_caffe.errors import PrototxtError
from fcn_caffe.host.atomic import atomic_write, check_place, unwritten
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.kept import has_forks
from fcn_caffe.proto.schema import Message, describe
from fcn_caffe.proto.text import read_bytes, read_text
from fcn_caffe.proto.text_writer import write_text
from fcn_caffe.proto.wire import has_too_many_fields

__all__ = ["read_message", "write_message"]

M = TypeVar("M", bound=caffe_pb2.Message)
_TEXT = bytes(byte for byte in range(256) if byte >= 32 or byte in b"\t\n\v\f\r")


def read_message(path: str | os.PathLike[str], message_class: type[M], *, keep_foreign: bool = False) -> tuple[M, bool]:
    """Read the message in a file.

    A file with bytes that no text has is binary; any other is text, or binary where it is no such text.

    Args:
        path: The file.
        message_class: What the message is.
        keep_foreign: Whether fields of other Caffes in a text are kept with the message; see `parse_text`.

    Returns:
        The message, and whether the file is binary.

    Raises:
        PrototxtError: The file is neither; says the place in the text where it looks like text.
    """
    data = read_bytes(path)
    if data.translate(None, _TEXT) and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _parsed(data, message_class, path), True
    try:
        return read_text(path, message_class, keep_foreign=keep_foreign), False
    except PrototxtError:
        try:
            message: M | None = _parsed(data, message_class, path)
        except PrototxtError:
            message = None
        # Almost any bytes are a message of unknown fields.
        if message is None or not data or not message.ListFields():
            raise
        return message, True


def _parsed(data: bytes, message_class: type[M], path: str | os.PathLike[str]) -> M:
    title = describe(message_class.DESCRIPTOR).name
    if len(data) >= 2**31:
        raise PrototxtError("is over 2 GB, which protobuf does not read. load_weights does, for its weights.", path)
    if message_class is caffe_pb2.NetParameter and has_too_many_fields(data, path):
        raise PrototxtError("has more layers, or fields in them, than any net. It is corrupt. Copy it again.", path)
    try:
        message = message_class.FromString(data)
    except Exception as error:  # each protobuf runtime has its own DecodeError
        raise PrototxtError(
            f"is not a binary {title} ({error}). It is truncated, corrupt or another file.", path
        ) from None
    field = _not_text(message, describe(message_class.DESCRIPTOR))
    if field:
        raise PrototxtError(f"has a {field} that is not UTF-8 text. It is corrupt, or another file.", path)
    return message


def _not_text(message: caffe_pb2.Message, about: Message) -> str:
    """The name of a string that is not UTF-8, which a runtime lets through until it is read; empty for none."""
    for name, field in (about.fields | about.forks).items():
        if field.kind not in ("string", "message") or not (field.repeated or message.HasField(name)):
            continue
        try:
            values = getattr(message, name)
            for value in values if field.repeated else (values,):
                if field.message is None and not isinstance(value, str):
                    return name
                if field.message is not None and (inner := _not_text(value, field.message)):
                    return inner
        except UnicodeDecodeError:
            return name
    return ""


def write_message(path: str | os.PathLike[str], message: caffe_pb2.Message, binary: bool) -> None:
    """Write a message as binary or as text, whole or not at all.

    Raises:
        PrototxtError: It cannot be written; a binary message cannot hold fields of other Caffes.
    """
    if binary and has_forks(message):
        raise PrototxtError(
            "cannot be written as binary: its fields of other Caffes are known by name alone. Write text.", path
        )
    data = message.SerializeToString() if binary else write_text(message).encode()
    replace(path, data)


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes to a file, whole or not at all.

    Raises:
        PrototxtError: They cannot be written.
        DataError: No file can be written there.
    """
    check_place(path)
    try:
        with atomic_write(path) as file:
            file.write(data)
    except OSError as error:
        raise PrototxtError(unwritten(error), path) from None
