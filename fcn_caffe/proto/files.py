"""A message in a file, as text or binary: which it is is told by its content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from ..errors import PrototxtError
from ..host.atomic import atomic_write
from .schema import Message, describe
from .text import read_text
from .text_writer import write_text

__all__ = ["read_message", "write_message"]

M = TypeVar("M")
_TEXT = bytes(byte for byte in range(256) if byte >= 32 or byte in b"\t\n\v\f\r")


def read_message(path: str | os.PathLike[str], message_class: type[M]) -> tuple[M, bool]:
    """Return the message in a file, and whether the file is binary.

    A file with bytes that no text has is binary; any other is text, or binary where it is no such text.
    Raises: PrototxtError for a file that is neither, with the place in the text where it looks like text.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise PrototxtError(f"cannot be read: {error.strerror}.", path) from None
    if data.translate(None, _TEXT) and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _parsed(data, message_class, path), True
    try:
        return read_text(path, message_class), False
    except PrototxtError:
        try:
            message = _parsed(data, message_class, path)
        except PrototxtError:
            message = None
        # Almost any bytes are a message of unknown fields.
        if message is None or not data or not message.ListFields():  # type: ignore[attr-defined]
            raise
        return message, True


def _parsed(data: bytes, message_class: type[M], path: str | os.PathLike[str]) -> M:
    title = describe(message_class.DESCRIPTOR).name  # type: ignore[attr-defined]
    if len(data) >= 2**31:
        raise PrototxtError("is over 2 GB, which protobuf does not read. load_weights does, for its weights.", path)
    try:
        message: M = message_class.FromString(data)  # type: ignore[attr-defined]
    except Exception as error:  # each protobuf runtime has its own DecodeError
        raise PrototxtError(
            f"is not a binary {title} ({error}). It is truncated, corrupt or another file.", path
        ) from None
    field = _not_text(message, describe(message_class.DESCRIPTOR))  # type: ignore[attr-defined]
    if field:
        raise PrototxtError(f"has a {field} that is not UTF-8 text. It is corrupt, or another file.", path)
    return message


def _not_text(message: Any, about: Message) -> str:
    """The name of a string in the message that is not UTF-8, which runtimes let through until it is looked at."""
    for name, field in about.fields.items():
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


def write_message(path: str | os.PathLike[str], message: Any, binary: bool) -> None:
    """Write a message as binary or as text, whole or not at all.

    Raises: PrototxtError where it cannot be written.
    """
    data = message.SerializeToString() if binary else write_text(message).encode()
    replace(path, data)


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Put bytes into a file, whole or not at all. Raises: PrototxtError where that fails."""
    try:
        with atomic_write(path) as file:
            file.write(data)
    except OSError as error:
        raise PrototxtError(f"cannot be written: {error.strerror}. Nothing was replaced.", path) from None
