"""Protobuf text format, read: a small exact parser whose errors say file:line:column and the nearest known name.

Accepts what protobuf's own C++ parser (and so Caffe) accepts, and refuses what it refuses: a field that is not
repeated may be given once, enums go by name or number, a leading 0 or 0x makes an integer octal or hex.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from fcn_caffe.errors import PrototxtError
from fcn_caffe.host.text import did_you_mean
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.schema import Field, Message, Scalar, describe

M = TypeVar("M", bound=caffe_pb2.Message)

# The last alternative takes any character, so a token is always found and the scanner never backtracks far. Nothing is
# repeated a character at a time: the scanner would remember each.
_TOKEN = re.compile(
    r"""\s*
    (?: ([A-Za-z_]\w*)
      | (-?\s*(?:0[xX][0-9a-fA-F]+ | (?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?[fF]?)(?![\w.])
        | -\s*(?:inf(?:inity)?|nan)\b)
      | ("[^"\\\n]*(?:\\.[^"\\\n]*)*" | '[^'\\\n]*(?:\\.[^'\\\n]*)*')
      | ([{}<>\[\]:,;])
      | (\Z)
      | (\#[^\n]*)
      | (.)
    )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_NAME, _NUMBER, _STRING, _PUNCTUATION, _END, _COMMENT = 1, 2, 3, 4, 5, 6
_SEPARATORS, _OPENINGS = frozenset(",;"), {"{": "}", "<": ">"}

_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.)|$)", re.DOTALL)
_PLAIN_ESCAPES = dict(zip("abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))
_BOOLS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_INTEGER = re.compile(r"-?\s*(?:0[xX][0-9a-fA-F]+|\d+)\Z")


def read_text(path: str | os.PathLike[str], message_class: type[M]) -> M:
    """Read the message in a text file, which is UTF-8.

    Args:
        path: The file.
        message_class: What the message is: `caffe_pb2.NetParameter`.

    Raises:
        PrototxtError: The file cannot be read, is empty or binary, or is not such a message.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise PrototxtError(f"cannot be read: {error.strerror}.", path) from None
    title = describe(message_class.DESCRIPTOR).title
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PrototxtError("is UTF-16 text. Save it as UTF-8.", path)
    if b"\0" in data:
        raise PrototxtError(f"is a binary file; expected a {title} as text. Weights are read by load_weights.", path)
    if not data.strip():
        raise PrototxtError(f"is empty; expected a {title} as text.", path)
    # Bytes that are not UTF-8 are harmless in a comment and become an error where they are read.
    return parse_text(data.decode("utf-8-sig", "surrogateescape"), message_class, path)


def parse_text(text: str, message_class: type[M], path: str | os.PathLike[str] = "<string>") -> M:
    """Read the message that a text spells.

    Args:
        text: The text.
        message_class: What the message is: `caffe_pb2.NetParameter`.
        path: What errors call the text.

    Raises:
        PrototxtError: Says line and column, what was expected, what came, and the nearest known name.

    Source: the text format specification of protobuf; Caffe reads its nets with the C++ parser.
    """
    message = message_class()
    _Parser(text, path).read_message(message, describe(message.DESCRIPTOR), [])
    return message


class _Opened(NamedTuple):
    """A message being read: the message above it, its field there, the mark that closes it, where it opened."""

    parent: Message
    field: str
    mark: str
    start: int


class _Parser:
    """The current token is (kind, value, start); `take` goes to the next one.

    Only punctuation equals a mark, since strings keep their quotes, and only the end of the text has value "".
    """

    def __init__(self, text: str, path: str | os.PathLike[str]) -> None:
        self.text, self.path = text, path
        self.tokens = _TOKEN.finditer(text)
        self.take()

    def take(self) -> None:
        match = next(self.tokens)
        while match.lastindex == _COMMENT:
            match = next(self.tokens)
        self.kind: int = match.lastindex  # type: ignore[assignment]
        self.value, self.start = match[self.kind], match.start(self.kind)

    # -- messages ------------------------------------------------------------------------------------------------

    def read_message(self, message: caffe_pb2.Message, about: Message, outer: list[_Opened]) -> None:
        """Read fields into `message` up to the closing mark of the last of `outer`."""
        names: set[str] = set()  # of the fields so far
        mark = outer[-1].mark if outer else ""
        while self.kind == _NAME:
            name, start = self.value, self.start
            field = about.fields.get(name)
            if field is None:
                self.unknown_type(name, message)
                self.unknown_field(name, about, outer)
            if not field.repeated and name in names:
                self.fail(f"{name} is given twice; {about.title} takes one.", start)
            names.add(name)
            self.take()
            colon = self.value == ":"
            if colon:
                self.take()
            if field.message is not None:
                self.read_messages(message, about, field, outer)
            elif not colon:
                self.fail(f'expected ":" after {name}, got {self.shown()}.')
            else:
                self.read_scalars(message, field)
            if self.value in _SEPARATORS:
                self.take()
        if self.value != mark:
            self.unclosed(about, outer)
        if about.required - names:
            missing = ", ".join(sorted(about.required - names))
            self.fail(f"{about.title} needs {missing}.", outer[-1].start if outer else None)
        if mark:
            self.take()

    def read_messages(self, message: caffe_pb2.Message, about: Message, field: Field, outer: list[_Opened]) -> None:
        """Read `{ … }`, `< … >` or, where the field is repeated, a list of them."""
        assert field.message is not None
        listed = self.value == "["
        if listed:
            self.open_list(field)
        while not (listed and self.value == "]"):
            if self.value not in _OPENINGS:
                self.fail(f'{field.name} is a message: expected "{{", got {self.shown()}.')
            inner = getattr(message, field.name)
            if field.repeated:
                inner = inner.add()
            else:
                inner.SetInParent()
            opened = _Opened(about, field.name, _OPENINGS[self.value], self.start)
            self.take()
            self.read_message(inner, field.message, [*outer, opened])
            if not listed:
                return
            self.next_in_list(field)
        self.take()

    def open_list(self, field: Field) -> None:
        if not field.repeated:
            self.fail(f"{field.name} takes one value, not a list.")
        self.take()

    def next_in_list(self, field: Field) -> None:
        if self.value == ",":
            self.take()
            if self.value == "]":
                self.fail(f'expected a value of {field.name} after ",", got "]".')
        elif self.value != "]":
            self.fail(f'expected "," or "]" in the list of {field.name}, got {self.shown()}.')

    # -- scalars -------------------------------------------------------------------------------------------------

    def read_scalars(self, message: caffe_pb2.Message, field: Field) -> None:
        """Read one value or, where the field is repeated, also `[a, b]`."""
        if self.value == "[":
            self.open_list(field)
            values = []
            while self.value != "]":
                values.append(self.read_scalar(field))
                self.next_in_list(field)
            self.take()
            getattr(message, field.name).extend(values)
        elif field.repeated:
            getattr(message, field.name).append(self.read_scalar(field))
        else:
            setattr(message, field.name, self.read_scalar(field))

    def read_scalar(self, field: Field) -> Scalar:
        if field.kind in ("string", "bytes"):
            return self.read_string(field)
        if field.kind in ("float", "double"):
            value: Scalar = self.read_float(field)
        elif field.kind == "bool":
            value = self.read_bool(field)
        elif field.kind == "enum":
            value = self.read_enum(field)
        else:
            value = self.read_integer(field, field.lowest, field.highest, f"a whole number ({field.kind})")
        self.take()
        return value

    def read_integer(self, field: Field, lowest: int, highest: int, expected: str) -> int:
        if self.kind != _NUMBER or not _INTEGER.match(self.value):
            self.fail(f"{field.name} is {expected}, got {self.shown()}.")
        value = _integer("".join(self.value.split()))
        if value is None:
            self.fail(f"{field.name} is {expected}; {self.shown()} starts with 0, so it is octal, and 8 and 9 are not.")
        if not lowest <= value <= highest:
            self.fail(f"{field.name} is {expected} from {lowest} to {highest}, got {self.shown()}.")
        return value

    def read_float(self, field: Field) -> float:
        word = "".join(self.value.split()).lower()
        if self.kind == _NAME and word in ("inf", "infinity", "nan"):
            return float(word)
        if self.kind != _NUMBER or word.lstrip("-").startswith("0x"):
            self.fail(f"{field.name} is a number ({field.kind}), got {self.shown()}.")
        if re.match(r"-?0\d+\Z", word):
            self.fail(f"{field.name} is a decimal number, got the octal {self.value}. Drop the leading 0.")
        return float(word if "in" in word else word.rstrip("f"))

    def read_bool(self, field: Field) -> bool:
        if self.kind == _NAME and self.value in _BOOLS:
            return _BOOLS[self.value]
        if self.kind == _NUMBER:
            return bool(self.read_integer(field, 0, 1, "true or false (or 1 or 0)"))
        self.fail(f"{field.name} is true or false, got {self.shown()}.{self.unquoted(_BOOLS)}")

    def read_enum(self, field: Field) -> int:
        assert field.values is not None
        if self.kind == _NAME and self.value in field.values:
            return field.values[self.value]
        if self.kind == _NUMBER and _INTEGER.match(self.value):
            number = self.read_integer(field, -(2**31), 2**31 - 1, "an enum")
            if number in field.values.values():
                return number
        known = f"one of {', '.join(field.values)}" if len(field.values) <= 10 else "a known name"
        hint = self.unquoted(field.values) or did_you_mean(self.value.strip("\"'").upper(), field.values, '"')
        self.fail(f"{field.name} is {known}, got {self.shown()}.{hint}")

    def read_string(self, field: Field) -> str | bytes:
        if self.kind != _STRING:
            hint = f' Put it in quotes: "{self.value}".' if self.kind in (_NAME, _NUMBER) else ""
            if self.value in ("'", '"'):
                hint = " Its closing quote is missing on this line."
            self.fail(f"{field.name} is a quoted string, got {self.shown()}.{hint}")
        start, parts = self.start, list[bytes]()
        if "\\" not in self.value and self.value.isascii():
            plain = self.value[1:-1]
            self.take()
            if self.kind != _STRING and field.kind == "string":
                return plain
            parts.append(plain.encode())
        try:
            while self.kind == _STRING:
                parts.append(self.unescape())
                self.take()
            joined = b"".join(parts)
            return joined.decode() if field.kind == "string" else joined
        except UnicodeError:
            self.fail(f"{field.name} is not UTF-8 text. Save the file as UTF-8.", start)

    def unescape(self) -> bytes:
        """Return the bytes of the current string token; its escapes may spell any byte."""
        start, body = self.start + 1, self.value[1:-1]
        parts, done = [], 0
        for match in _ESCAPE.finditer(body):
            parts.append(body[done : match.start()].encode("utf-8", "surrogateescape"))
            done = match.end()
            octal, digits, short, long, plain = match.groups()
            try:
                if plain is not None:
                    parts.append(bytes([_PLAIN_ESCAPES[plain]]))
                elif short or long:
                    parts.append(chr(int(short or long, 16)).encode())
                else:
                    parts.append(bytes([int(octal, 8) if octal else int(digits, 16)]))
            except (KeyError, ValueError, OverflowError):
                self.fail(f"{match[0]} is no escape. Write a backslash as \\\\.", start + match.start())
        parts.append(body[done:].encode("utf-8", "surrogateescape"))
        return b"".join(parts)

    # -- errors --------------------------------------------------------------------------------------------------

    def fail(self, message: str, start: int | None = None) -> NoReturn:
        line, column = self.place(self.start if start is None else start)
        raise PrototxtError(message, self.path, line, column)

    def place(self, start: int) -> tuple[int, int]:
        """Return line and column of a position, both from 1."""
        before = self.text[:start]
        return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1

    def shown(self) -> str:
        """Quote the current token for an error."""
        if self.kind == _END:
            return "the end of the file"
        if self.kind == _STRING:
            return self.value if len(self.value) < 60 else f"{self.value[:50]}…"
        word = self.value
        if self.kind > _END:  # a character that begins no token: show the word it starts
            word = re.split(r"[\s{}<>\[\]:,;]", self.text[self.start : self.start + 60], maxsplit=1)[0] or word
        return '"' + "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in word[:60]) + '"'

    def unquoted(self, known: Container[str]) -> str:
        """Return the hint for a name that came in quotes."""
        word = self.value[1:-1]
        return f" Write {word} without quotes." if self.kind == _STRING and word in known else ""

    def unknown_type(self, name: str, message: caffe_pb2.Message) -> None:
        """Refuse options that are named as their layer's type and that no message of ours has: another Caffe's type."""
        if not isinstance(message, caffe_pb2.LayerParameter):
            return
        kind = message.type
        if kind and name == f"{re.sub('(?<=[a-z0-9])(?=[A-Z])', '_', kind).lower()}_param":
            self.fail(
                f"layer {message.name!r} is of type {kind!r}, which is not Caffe's: there are no {name}. "
                "Nets of other Caffes run where their extra layers can be left out."
            )

    def unknown_field(self, name: str, about: Message, outer: list[_Opened]) -> NoReturn:
        hint = did_you_mean(name, about.fields, '"')
        for depth in range(len(outer) - 1, -1, -1):
            parent, field, mark, start = outer[depth]
            if name in parent.fields:
                line, column = self.place(start)
                hint = f' {parent.title} has: is the "{mark}" of {field} at line {line}, column {column} missing?'
                break
        if not hint and len(about.fields) <= 12:
            hint = f" Known: {', '.join(about.fields)}."
        self.fail(f'{about.title} has no field "{name}".{hint}')

    def unclosed(self, about: Message, outer: list[_Opened]) -> NoReturn:
        if not outer:
            closing = self.kind == _PUNCTUATION and self.value in "}>"
            hint = " Nothing is open here." if closing else ""
            self.fail(f"expected a field of {about.title}, got {self.shown()}.{hint}")
        _, field, mark, start = outer[-1]
        line, column = self.place(start)
        opened = f"{field}, opened at line {line}, column {column}"
        if self.kind == _END:
            self.fail(f'the file ends before the "{mark}" of {opened}.')
        self.fail(f'expected a field of {about.title} or the "{mark}" of {opened}, got {self.shown()}.')


def _integer(digits: str) -> int | None:
    """Return the integer, or None if it is octal with an 8 or 9 in it."""
    sign, digits = (-1, digits[1:]) if digits.startswith("-") else (1, digits)
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits.startswith("0") else 10
    if base == 8 and ("8" in digits or "9" in digits):
        return None
    # No field holds more than 64 bits; Python refuses to read thousands of digits.
    return sign * (int(digits, base) if len(digits) < 100 else 2**64)
