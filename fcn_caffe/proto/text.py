"""Protobuf text format, read: a small exact parser whose errors say file:line:column and the nearest known name.

Accepts what protobuf's own C++ parser (and so Caffe) accepts, and refuses what it refuses: a field that is not
repeated may be given once, enums go by name or number, a leading 0 or 0x makes an integer octal or hex.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from fcn_caffe.errors import PrototxtError
from fcn_caffe.host.paths import ENDLESS, is_endless
from fcn_caffe.host.text import decode_text, did_you_mean
from fcn_caffe.host.wrong_file import HEAD, wrong_file
from fcn_caffe.proto import caffe_pb2, foreign, hints
from fcn_caffe.proto.dialect import dialect
from fcn_caffe.proto.foreign import ForeignPart
from fcn_caffe.proto.fork_fields import foreign_field, foreign_value
from fcn_caffe.proto.forks import LAYERS, RUNS, V1_CROP, V1_WORDS, Foreign
from fcn_caffe.proto.kept import keep_line
from fcn_caffe.proto.layer_types import OPTIONS
from fcn_caffe.proto.schema import Field, Message, Scalar, describe

M = TypeVar("M", bound=caffe_pb2.Message)
_log = logging.getLogger("fcn_caffe.proto")

# The last alternative takes any character, so a token is always found and the scanner never backtracks far. Nothing is
# repeated a character at a time: the scanner would remember each.
_TOKEN = re.compile(
    r"""\s*
    (?: ([A-Za-z_]\w*)
      | ((?:-(?:\s|\#[^\n]*\n)*)?(?:0[xX][0-9a-fA-F]+ | (?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?[fF]?)(?![\w.])
        | -(?:\s|\#[^\n]*\n)*(?i:inf(?:inity)?|nan)\b)
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
_QUOTES = "\"'"
_DEEPEST = 100  # messages within a field that is read past
_MOST_LAYERS = 1 << 16  # no net has so many; an empty one has 8 bytes, and takes 3 kB
_CEIL_MODE = ("PoolingParameter", "ceil_mode")
_PLAIN_ESCAPES = dict(zip("abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))
_BOOLS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)\Z")
_BETWEEN = re.compile(r"\s|#[^\n]*")  # what may stand between a minus and its number


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Read a file that may hold a message.

    Raises:
        PrototxtError: It is a device or a pipe, or cannot be read.
    """
    if is_endless(path):
        raise PrototxtError(f"is {ENDLESS}", path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PrototxtError(f"cannot be read: {error.strerror}. Give a file that can be read.", path) from None


def read_text(
    path: str | os.PathLike[str], message_class: type[M], *, keep_foreign: bool = False, strict: bool | None = None
) -> M:
    """Read the message in a text file, which is UTF-8.

    Args:
        path: The file.
        message_class: What the message is: `caffe_pb2.NetParameter`.
        keep_foreign: As in `parse_text`.
        strict: As in `parse_text`.

    Raises:
        PrototxtError: The file cannot be read, is empty or binary, or is not such a message.
    """
    data = read_bytes(path)
    title = describe(message_class.DESCRIPTOR).title
    if problem := wrong_file(data[:HEAD]):
        raise PrototxtError(problem, path)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PrototxtError("is UTF-16 text. Save it as UTF-8.", path)
    if b"\0" in data:
        raise PrototxtError(f"is a binary file; expected a {title} as text. Weights are read by load_weights.", path)
    if not data.strip():
        raise PrototxtError(f"is empty; expected a {title} as text.", path)
    # Bytes that are not UTF-8 may stand in comments and strings.
    return parse_text(
        data.decode("utf-8-sig", "surrogateescape"), message_class, path, keep_foreign=keep_foreign, strict=strict
    )


def parse_text(
    text: str,
    message_class: type[M],
    path: str | os.PathLike[str] = "<string>",
    *,
    keep_foreign: bool = False,
    strict: bool | None = None,
) -> M:
    """Read the message that a text spells.

    Args:
        text: The text.
        message_class: What the message is: `caffe_pb2.NetParameter`.
        path: What errors call the text.
        keep_foreign: Whether fields of other Caffes that do not run here stay as lines of text, which `write_text`
            writes again. Otherwise those that change no number are left out, which is said once in the log, and the
            rest is an error, all of it one.
        strict: Whether every field of another Caffe than BVLC's 1.0 is an error; None for what the command says.

    Raises:
        PrototxtError: Says line and column, what was expected, what came, and the nearest known name.

    Source: the text format specification of protobuf; Caffe reads its nets with the C++ parser.
    """
    message = message_class()
    parser = _Parser(text, path, keep_foreign, dialect().strict if strict is None else strict)
    about = describe(message.DESCRIPTOR)
    (parser.read_layer if about.name in hints.LAYERS else parser.read_message)(message, about, [])
    parser.check_foreign()
    parser.say_ignored()
    return message


def tokens(text: str) -> Iterator[tuple[str, int, bool]]:
    """Yield the tokens of a text without its comments: what is written, where it starts, whether it is a name."""
    for match in _TOKEN.finditer(text):
        kind = match.lastindex
        if kind not in (None, _COMMENT, _END):
            yield match[kind], match.start(kind), kind == _NAME


class _Opened(NamedTuple):
    """A message being read: the message above it, its field there, the mark that closes it, where it opened."""

    parent: Message
    field: str
    mark: str
    start: int


class _ForkField(NamedTuple):
    """A field that Caffe 1.0 has not: its name with its messages', whose it is, where it stands."""

    name: str
    foreign: Foreign | None
    start: int


class _Parser:
    """The current token is (kind, value, start); `take` goes to the next one.

    Only punctuation equals a mark, since strings keep their quotes, and only the end of the text has value "".
    """

    def __init__(self, text: str, path: str | os.PathLike[str], keep_foreign: bool, strict: bool) -> None:
        self.text, self.path, self.keep_foreign, self.strict = text, path, keep_foreign, strict
        self.layer: caffe_pb2.Message | None = None  # the one that is being read
        self.first_layers: dict[str, int] = {}  # `layer` or `layers` -> where the first opens
        self.layers = 0
        self.fork_type = ""  # the layer's, where the schema has no number for it
        self.fork_fields: list[_ForkField] = []  # of the layer, or outside of layers
        self.fork_parts: list[ForeignPart] = []
        self.fork_start: int | None = None  # the first that the schema has no place for
        self.ignored: dict[str, Foreign] = {}  # the harmless ones that are left out
        self.left_out: caffe_pb2.Message | None = None  # the last layer of a harmless type
        self.tokens = _TOKEN.finditer(text)
        self.take()

    def take(self) -> None:
        match = next(self.tokens)
        while match.lastindex == _COMMENT:
            match = next(self.tokens)
        self.kind: int = match.lastindex  # type: ignore[assignment]
        self.value, self.start = match[self.kind], match.start(self.kind)
        if self.kind == _NUMBER and self.value.startswith("-"):
            self.value = _BETWEEN.sub("", self.value)

    # -- messages ------------------------------------------------------------------------------------------------

    def read_message(self, message: caffe_pb2.Message, about: Message, outer: list[_Opened]) -> None:
        """Read fields into `message` up to the closing mark of the last of `outer`."""
        names: set[str] = set()  # of the fields so far
        mark = outer[-1].mark if outer else ""
        while self.kind == _NAME:
            name, start = self.value, self.start
            field = about.fields.get(name)
            if field is None and not self.strict:
                field = about.forks.get(name)
            if field is not None:
                if not field.repeated and name in names:
                    self.fail(f"{name} is given twice; {about.title} takes one.", start)
                names.add(name)
                self.take()
                self.read_field(message, about, field, outer)
            elif (about.name, name) == _CEIL_MODE:
                self.read_ceil_mode(message, names)
            else:
                self.read_foreign(message, about, outer)
            if self.value in _SEPARATORS:
                self.take()
                if self.kind in (_NUMBER, _STRING):
                    self.fail(hints.one_value(name, self.shown(), field is not None and field.repeated))
        if self.value != mark:
            self.unclosed(about, outer)
        if about.required - names:
            missing = ", ".join(sorted(about.required - names))
            self.fail(f"{about.title} needs {missing}.", outer[-1].start if outer else None)
        if mark:
            self.take()

    def read_field(self, message: caffe_pb2.Message, about: Message, field: Field, outer: list[_Opened]) -> None:
        """Read what follows a field's name."""
        colon = self.value == ":"
        if colon:
            self.take()
        if about.name == "V1LayerParameter" and field.name == "param" and self.value in _OPENINGS:
            self.fail(f"param is a quoted string, got {self.shown()}.{hints.param_hint()}")
        if field.message is None and not colon:
            self.fail(f'expected ":" after {field.name}, got {self.shown()}.')
        if field.message is None:
            self.read_scalars(message, about, field, outer)
        else:
            self.read_messages(message, about, field, outer)

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
            read = self.read_layer if field.message.name in hints.LAYERS else self.read_message
            read(inner, field.message, [*outer, opened])
            if inner is self.left_out:
                del getattr(message, field.name)[-1]
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

    def read_scalars(self, message: caffe_pb2.Message, about: Message, field: Field, outer: list[_Opened]) -> None:
        """Read one value or, where the field is repeated, also `[a, b]`."""
        if field.kind == "enum" and self.read_foreign_value(message, about, field, outer):
            return
        if field.name == "type" and self.kind == _NAME and about.name == "LayerParameter":
            self.fail(f"type is a quoted string, got {self.shown()}.{hints.modern_type_hint(self.value)}")
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
        value = _integer(self.value)
        if value is None:
            self.fail(f"{field.name} is {expected}; {self.shown()} starts with 0, so it is octal, and 8 and 9 are not.")
        if not lowest <= value <= highest:
            self.fail(f"{field.name} is {expected} from {lowest} to {highest}, got {self.shown()}.")
        return value

    def read_float(self, field: Field) -> float:
        word = self.value.lower()
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
        if self.kind == _NAME and self.value in field.fork_values and not self.strict:
            return field.fork_values[self.value]
        if self.kind == _NUMBER and _INTEGER.match(self.value):
            number = self.read_integer(field, -(2**31), 2**31 - 1, "an enum")
            if number in field.values.values():
                return number
        known = f"one of {', '.join(field.values)}" if len(field.values) <= 10 else "a known name"
        if "CONVOLUTION" in field.values:
            self.fail(f"{field.name} is {known}, got {self.shown()}.{hints.v1_type_hint(self.value.strip(_QUOTES))}")
        hint = self.unquoted(field.values) or did_you_mean(self.value.strip(_QUOTES).upper(), field.values, '"')
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
            return decode_text(joined) if field.kind == "string" else joined
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

    def read_ceil_mode(self, message: caffe_pb2.Message, names: set[str]) -> None:
        """Read `ceil_mode`, which several Caffes have for round_mode: true is CEIL, false is FLOOR."""
        start = self.start
        if "round_mode" in names:
            self.fail("has both round_mode and ceil_mode, which say the same. Keep round_mode.", start)
        names.add("round_mode")
        self.take()
        if self.value != ":":
            self.fail(f'expected ":" after ceil_mode, got {self.shown()}.')
        self.take()
        is_ceil = self.read_bool(Field("ceil_mode", 0, "bool", False, False))
        self.take()
        mode = caffe_pb2.PoolingParameter.CEIL if is_ceil else caffe_pb2.PoolingParameter.FLOOR
        message.MergeFrom(caffe_pb2.PoolingParameter(round_mode=mode))

    # -- what is of other Caffes -----------------------------------------------------------------------------------

    def read_layer(self, layer: caffe_pb2.Message, about: Message, outer: list[_Opened]) -> None:
        """Read a layer of a net and note what it has of other Caffes."""
        start = outer[-1].start if outer else self.start
        form = outer[-1].field if outer else ""
        first = self.first_layers.setdefault(form, start)
        for other, place in self.first_layers.items():
            if other != form:
                self.fail(hints.both_forms(form, other, self.place(place)[0]), first)
        self.layers += 1
        if self.layers > _MOST_LAYERS:
            self.fail(f"the file has more than {_MOST_LAYERS:,} layers, as no net has. Take some out.", start)
        outside, self.layer, self.fork_fields, self.fork_type = self.fork_fields, layer, [], ""
        fork_start = self.fork_start
        self.read_message(layer, about, outer)
        type = self.fork_type or hints.layer_type(layer)
        for name, owner, field_start in self.fork_fields:
            if owner is None and (not type or type in OPTIONS):  # the type came behind the field
                self.fail_unknown(name, about, outer[:-1], field_start)
        owner = LAYERS.get(type)
        if owner is not None and owner.harmless and not (self.strict or self.keep_foreign):
            self.left_out, self.fork_start = layer, fork_start
            self.ignored[f"layers of type {type}"] = owner
        elif self.fork_fields or foreign.is_foreign(type, self.strict):
            fields = tuple((name, owner) for name, owner, _ in self.fork_fields)
            self.fork_parts.append(ForeignPart(getattr(layer, "name"), type, fields, self.place(start)[0]))  # noqa: B009
        self.layer, self.fork_fields = None, outside

    def read_foreign(self, message: caffe_pb2.Message, about: Message, outer: list[_Opened]) -> None:
        """Read past a field that is of another Caffe; fail for one that is of none."""
        name, start = self.value, self.start
        owner = foreign_field(about.name, name)
        type = self.fork_type or hints.layer_type(self.layer)
        if owner is None and not (about.name in hints.LAYERS and name.endswith("_param") and type not in OPTIONS):
            self.fail_unknown(name, about, outer)
        for line in self.read_past():
            if self.keep_foreign:
                keep_line(message, line)
        self.note_foreign(
            name if about.name in hints.LAYERS or not outer else f"{outer[-1].field}.{name}", owner, start
        )

    def note_foreign(self, name: str, owner: Foreign | None, start: int) -> None:
        if owner is not None and owner.harmless and not self.strict:
            self.ignored[name] = owner
            return
        self.fork_fields.append(_ForkField(name, owner, start))
        if self.fork_start is None:
            self.fork_start = start

    def read_foreign_value(
        self, message: caffe_pb2.Message, about: Message, field: Field, outer: list[_Opened]
    ) -> bool:
        """Read a word of an enum that is of another Caffe. Returns whether there was one."""
        word, start = self.value.strip(_QUOTES), self.start
        is_type = about.name == "V1LayerParameter" and field.name == "type"
        owner = None if is_type else foreign_value(field.name, word)
        if is_type and (word == V1_CROP or (V1_WORDS.get(word) in RUNS and not self.strict)):
            keep_line(message, f"{field.name}: {word}")
            self.fork_type = V1_WORDS.get(word, "")
            self.take()
            return True
        known = word in (field.values or ()) or (word in field.fork_values and not self.strict)
        if known or not (owner or (is_type and word in V1_WORDS)):
            return False
        if is_type:
            self.fork_type = V1_WORDS[word]
            self.fork_start = start if self.fork_start is None else self.fork_start
        else:
            self.note_foreign(f"{outer[-1].field if outer else about.title}.{field.name}: {word}", owner, start)
        if self.keep_foreign:
            keep_line(message, f"{field.name}: {word}")
        self.take()
        return True

    def read_past(self) -> list[str]:
        """Read past a field of any form; return it as lines of text, indented by two blanks a level."""
        lines: list[str] = []
        depth = 0
        while True:
            if self.kind != _NAME:
                self.fail(f"expected a field, got {self.shown()}.")
            head = "  " * depth + self.value
            self.take()
            if self.value == ":":
                self.take()
            if self.value in _OPENINGS:
                lines.append(f"{head} {{")
                depth += 1
                if depth > _DEEPEST:  # each line is indented by its depth
                    self.fail(f"is {_DEEPEST} messages deep, which no net is. Take the inner ones out.")
                self.take()
            else:
                lines.append(f"{head}: {self.read_any_values()}")
            while depth:
                if self.value in _SEPARATORS:
                    self.take()
                if self.value not in ("}", ">"):
                    break
                depth -= 1
                lines.append("  " * depth + "}")
                self.take()
            if not depth:
                return lines

    def read_any_values(self) -> str:
        """Read past a scalar, strings side by side, or a list; return it as it is written."""
        start = self.start
        if self.value == "[":
            depth = 0
            while True:
                depth += (self.value == "[") - (self.value == "]")
                if self.kind == _END:
                    self.fail('the file ends before the "]" of a list.', start)
                end = self.start + len(self.value)
                self.take()
                if not depth:
                    return " ".join(self.text[start:end].split())
        if self.kind not in (_NAME, _NUMBER, _STRING):
            self.fail(f"expected a value, got {self.shown()}.")
        is_string, words = self.kind == _STRING, [self.value]
        self.take()
        while is_string and self.kind == _STRING:
            words.append(self.value)
            self.take()
        return " ".join(words)

    def check_foreign(self) -> None:
        """Fail where the text has what Caffe 1.0 has not, unless that is kept."""
        if self.keep_foreign or self.fork_start is None:
            return
        outside = [
            ForeignPart("", "", ((name, owner),), self.place(start)[0]) for name, owner, start in self.fork_fields
        ]
        self.fail(foreign.describe([*outside, *self.fork_parts]), self.fork_start)

    def say_ignored(self) -> None:
        """Say in the log which harmless fields were left out."""
        if self.ignored and not self.keep_foreign:
            _log.warning(
                "%s: ignored, as it changes no number here: %s.",
                os.fspath(self.path),
                ", ".join(f"{name} ({owner.owners})" for name, owner in self.ignored.items()),
            )

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
        placeholder = re.match(r"\$\{\w+\}", self.text[self.start : self.start + 60])  # of DeepLab's net files
        if placeholder:
            return f'"{placeholder[0]}": fill it in, as the script does that this net comes with'
        if self.kind > _END:  # a character that begins no token: show the word it starts
            word = re.split(r"[\s{}<>\[\]:,;]", self.text[self.start : self.start + 60], maxsplit=1)[0] or word
        return '"' + "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in word[:60]) + '"'

    def unquoted(self, known: Container[str]) -> str:
        """Return the hint for a name that came in quotes."""
        word = self.value[1:-1]
        return f" Write {word} without quotes." if self.kind == _STRING and word in known else ""

    def fail_unknown(self, name: str, about: Message, outer: list[_Opened], at: int | None = None) -> NoReturn:
        hint = hints.field_hint(name, about, hints.layer_type(self.layer), list(about.fields))
        for depth in range(len(outer) - 1, -1, -1):
            parent, field, mark, start = outer[depth]
            if name in parent.fields:
                line, column = self.place(start)
                hint = f' {parent.title} has: is the "{mark}" of {field} at line {line}, column {column} missing?'
                break
        if not hint and len(about.fields) <= 12:
            hint = f" Known: {', '.join(about.fields)}."
        hint = hint or " Remove it, or move it to the message that it belongs to."
        self.fail(f'{about.title} has no field "{name}".{hint}', at)

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
