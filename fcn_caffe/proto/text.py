"""Protobuf text format: read with file:line:column, written with Caffe's look."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from google.protobuf import text_format  # type: ignore[import-untyped]

from ..errors import PrototxtError

M = TypeVar("M")


def parse_text(text: str, message_class: type[M], path: str | os.PathLike[str] = "<string>") -> M:
    """Return the message that `text` spells. Raises PrototxtError with path, line and column."""
    message: Any = message_class()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise PrototxtError(str(error), path, error.GetLine(), error.GetColumn()) from None
    made: M = message
    return made


def read_text(path: str | os.PathLike[str], message_class: type[M]) -> M:
    """Return the message in the text file at `path`. Raises PrototxtError with path, line and column."""
    with open(path, encoding="utf-8") as file:
        return parse_text(file.read(), message_class, path)


def write_text(message: Any) -> str:
    """Return `message` as text."""
    return str(text_format.MessageToString(message))
