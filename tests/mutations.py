"""Ways to spoil a file of any bytes, and prototxt text; those of binary files are in binary_mutations.py.

A mutation is a function of (random, data, other) to new data, `other` being another file of the same kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

from fcn_caffe import known_types
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.schema import Field, Message, describe

Mutation = Callable[[Random, bytes, bytes], bytes]

NUMBERS = (
    b"0 0 1 1 2 2 3 3 4 5 7 9 16 100 1000 65536 2147483647 -1 0.25 2147483648 4294967295 "
    b"4294967296 9223372036854775807 9223372036854775808 "
    b"18446744073709551616 -2147483648 -9223372036854775809 1e38 1e39 -1e38 1e-45 1e400 0.5 -0.5 nan inf -inf 08 0x7f "
    b"1e999999999 1.5e 00 - 1f 340282350000000000000000000000000000000"
).split()
STRINGS = (
    b'""',
    b'"\xff\xfe"',
    b'"\\377\\376"',
    b'"\\0"',
    b'"a/b"',
    b'"../../etc/passwd"',
    b'"/dev/zero"',
    b'"/"',
    b'"."',
    b'"%s%n{0}"',
    b'"\\u00e9"',
    b'"\\ud800"',
    b'"\\Uffffffff"',
    b'"data"',
    b'"label"',
    b"'x'",
    b'"' + b"long" * 4000 + b'"',
    b'"unclosed',
    b'"os"',
    b'"antigravity"',
    b'"setup"',
    b'"a..b"',
    b"\"__import__('os')\"",
    b"\"{'size': 99999999999}\"",
)
TOKEN = re.compile(rb'"[^"\n]*"|#[^\n]*|[\w.+-]+|[{}:\[\],;<>]|\s+|.', re.DOTALL)
NUMBER = re.compile(rb"[-+]?(?:\d|\.\d|inf|nan)")


def tokens(data: bytes) -> list[bytes]:
    return TOKEN.findall(data)


def _places(words: list[bytes], wanted: Callable[[bytes], Any]) -> list[int]:
    return [index for index, word in enumerate(words) if wanted(word)]


def _name(word: bytes) -> bool:
    return word[:1].isalpha() or word[:1] == b"_"


# -- any bytes -----------------------------------------------------------------------------------------------------


def flip_bits(random: Random, data: bytes, other: bytes) -> bytes:
    spoilt = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        if spoilt:
            spoilt[random.randrange(len(spoilt))] ^= 1 << random.randrange(8)
    return bytes(spoilt)


def set_byte(random: Random, data: bytes, other: bytes) -> bytes:
    spoilt = bytearray(data)
    if spoilt:
        # Heads hold the tags, lengths and superblocks that readers trust.
        end = len(spoilt) if random.random() < 0.5 else min(64, len(spoilt))
        spoilt[random.randrange(end)] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    return bytes(spoilt)


def truncate(random: Random, data: bytes, other: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def behead(random: Random, data: bytes, other: bytes) -> bytes:
    return data[random.randrange(len(data) + 1) :]


def cut_out(random: Random, data: bytes, other: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + data[start + random.randrange(1, 33) :]


def insert(random: Random, data: bytes, other: bytes) -> bytes:
    start, size = random.randrange(len(data) + 1), random.choice((1, 2, 8, 300))
    return data[:start] + random.choice((random.randbytes(size), b"\0" * size, b"\xff" * size)) + data[start:]


def repeat(random: Random, data: bytes, other: bytes) -> bytes:
    start = random.randrange(len(data) + 1)
    piece = data[start : start + random.randrange(1, 65)]
    return data[:start] + piece * random.choice((2, 3, 1000)) + data[start:]


def splice(random: Random, data: bytes, other: bytes) -> bytes:
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def overwrite(random: Random, data: bytes, other: bytes) -> bytes:
    start, first = random.randrange(len(data) + 1), random.randrange(len(other) + 1)
    piece = other[first : first + random.randrange(1, 257)]
    return data[:start] + piece + data[start + len(piece) :]


def append(random: Random, data: bytes, other: bytes) -> bytes:
    return data + other[:65536]


BYTES: tuple[Mutation, ...] = (
    *(flip_bits, set_byte, truncate, behead, cut_out, insert, repeat, splice, overwrite, append),
)

# -- prototxt ------------------------------------------------------------------------------------------------------


def line_removed(random: Random, data: bytes, other: bytes) -> bytes:
    lines = data.split(b"\n")
    del lines[random.randrange(len(lines))]
    return b"\n".join(lines)


def line_doubled(random: Random, data: bytes, other: bytes) -> bytes:
    lines = data.split(b"\n")
    lines.insert(random.randrange(len(lines) + 1), random.choice(lines))
    return b"\n".join(lines)


def lines_swapped(random: Random, data: bytes, other: bytes) -> bytes:
    lines = data.split(b"\n")
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def line_of_another(random: Random, data: bytes, other: bytes) -> bytes:
    lines = data.split(b"\n")
    lines.insert(random.randrange(len(lines) + 1), random.choice(other.split(b"\n")))
    return b"\n".join(lines)


def _on_word(wanted: Callable[[bytes], Any], change: Callable[[Random, list[bytes], int], bytes]) -> Mutation:
    """A mutation of one word of those `wanted`, which `change` gives a new text for."""

    def mutation(random: Random, data: bytes, other: bytes) -> bytes:
        words = tokens(data)
        places = _places(words, wanted)
        if places:
            place = random.choice(places)
            words[place] = change(random, words, place)
        return b"".join(words)

    return mutation


def _misspelt(random: Random, words: list[bytes], place: int) -> bytes:
    word = words[place]
    at = random.randrange(len(word))
    return random.choice((word[:at] + word[at + 1 :], word[:at] + b"x" + word[at:], word.upper(), word[::-1]))


def _nudged(random: Random, words: list[bytes], place: int) -> bytes:
    """A number not far from what it was: these are what gets through the checks."""
    try:
        value = int(words[place])
    except ValueError:
        return b"0"
    half = value + 0.5 if abs(value) < 10**300 else value
    return str(random.choice((value + 1, value - 1, value * 2, value // 2, -value, half))).encode()


def _alike(wanted: Callable[[bytes], Any]) -> Mutation:
    """A word takes the text of another of its kind: blobs rewired, types and names exchanged, enums changed."""

    def change(random: Random, words: list[bytes], place: int) -> bytes:
        return random.choice([words[index] for index in _places(words, wanted)])

    return _on_word(wanted, change)


def _word_moved(random: Random, data: bytes, other: bytes) -> bytes:
    words = tokens(data)
    if words:
        word = words.pop(random.randrange(len(words)))
        words.insert(random.randrange(len(words) + 1), word)
    return b"".join(words)


def _word_removed(random: Random, data: bytes, other: bytes) -> bytes:
    words = tokens(data)
    places = _places(words, lambda word: not word.isspace())
    if places:
        del words[random.choice(places)]
    return b"".join(words)


def _word_doubled(random: Random, data: bytes, other: bytes) -> bytes:
    words = tokens(data)
    if words:
        place = random.randrange(len(words))
        words.insert(place, words[place] + b" ")
    return b"".join(words)


def _field_added(random: Random, data: bytes, other: bytes) -> bytes:
    """A `name: value` of another file goes in behind an opening brace."""
    fields: list[bytes] = re.findall(rb'\w+\s*:\s*(?:"[^"\n]*"|[\w.+-]+)', other) or [b"name: 'x'"]
    opened = [match.end() for match in re.finditer(rb"\{", data)] or [0]
    at = random.choice(opened)
    return data[:at] + b" " + random.choice(fields) + b" " + data[at:]


def _message_added(random: Random, data: bytes, other: bytes) -> bytes:
    """Options of another file, `name { … }`, go in behind an opening brace."""
    found: list[bytes] = re.findall(rb"\w+\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}", other) or [b"layer {}"]
    opened = [match.end() for match in re.finditer(rb"\{", data)] or [0]
    at = random.choice([0, *opened])
    return data[:at] + b" " + random.choice(found) + b" " + data[at:]


def _messages(top: Message) -> dict[str, Message]:
    """The messages below one, by the name of their field; of several of one name the first."""
    found: dict[str, Message] = {}
    for field in top.fields.values():
        if field.message is not None:
            found = {field.name: field.message, **_messages(field.message), **found}
    return found


def _value_of(random: Random, field: Field, data: bytes) -> bytes:
    """A value the parser takes for this field, rarely a sensible one."""
    if field.values is not None:
        return random.choice(list(field.values)).encode()
    if field.kind == "bool":
        return random.choice((b"true", b"false"))
    if field.kind in ("float", "double"):
        return random.choice(b"0 1 -1 0.5 2 10 1e38 -1e38 1e-40 nan inf -inf".split())
    if field.kind in ("string", "bytes"):
        strings: list[bytes] = [*re.findall(rb'"[^"\n]*"', data), *STRINGS[:16]]
        return random.choice(strings)
    sizes = (field.lowest, field.highest, 0, 1, 1, 2, 2, 3, 4, 5, 8, -1, -2, 33, 1000, 2**31 - 1)
    return str(random.choice([size for size in sizes if field.lowest <= size <= field.highest])).encode()


def _option_of(top: Message) -> Mutation:
    """An option that the message has is set, in a message of the text or at its end, whatever it was before."""
    known = _messages(top)

    def mutation(random: Random, data: bytes, other: bytes) -> bytes:
        opened = [match for match in re.finditer(rb"(\w+)\s*\{", data) if match[1].decode() in known]
        match = random.choice(opened) if opened and random.random() < 0.9 else None
        message, at = (known[match[1].decode()], match.end()) if match else (top, len(data))
        # Options of a layer's own type are seldom there: name the message, then the option.
        wrapped = [field for field in message.fields.values() if field.message is not None]
        plain = [field for field in message.fields.values() if field.message is None]
        head, tail = b"", b""
        if not plain or (wrapped and random.random() < 0.5):
            field = random.choice(wrapped)
            assert field.message is not None
            head, tail = field.name.encode() + b" { ", b" }"
            plain = [inner for inner in field.message.fields.values() if inner.message is None]
        if not plain:
            return data
        field = random.choice(plain)
        name = field.name.encode()
        lines = [name + b": " + _value_of(random, field, data) for _ in range(random.choice((1, 1, 1, 2, 3)))]
        end = data.find(b"}", at) if match else len(data)
        if not field.repeated and not head:
            rest = re.sub(rb"\b" + name + rb"\s*:\s*(\"[^\"\n]*\"|[\w.+-]+)", b"", data[at:end])
            return data[:at] + b" " + lines[0] + b" " + rest + data[end:]
        body = b" ".join(lines if field.repeated else lines[:1])
        return data[:at] + b" " + head + body + tail + b" " + data[at:]

    return mutation


def retyped(random: Random, data: bytes, other: bytes) -> bytes:
    """A layer becomes one of another type, its blobs as they are."""
    found = list(re.finditer(rb'\btype\s*:\s*"(\w*)"', data))
    if not found:
        return data
    match = random.choice(found)
    return data[: match.start(1)] + random.choice(known_types()).encode() + data[match.end(1) :]


def _nested(random: Random, data: bytes, other: bytes) -> bytes:
    opening, depth = random.choice((b"layer {", b"{", b"[", b"layers { layer {", b"<", b"name:", b'{"a":')), 3000
    at = random.randrange(len(data) + 1)
    return data[:at] + opening * depth + random.choice((b"", b"}" * depth)) + data[at:]


def _many(random: Random, data: bytes, other: bytes) -> bytes:
    return (
        data + random.choice((b"layer{}", b"#", b"input:''", b"\n", b"layer{name:'a'}", b"dim: 1 ", b";", b"-")) * 4000
    )


_is_number = NUMBER.match
_is_string = re.compile(rb'"').match

NET, SOLVER = (describe(getattr(caffe_pb2, f"{name}Parameter").DESCRIPTOR) for name in ("Net", "Solver"))
_to_extreme = _on_word(_is_number, lambda random, words, place: random.choice(NUMBERS))
_to_string = _on_word(_is_string, lambda random, words, place: random.choice(STRINGS))

LINES: tuple[Mutation, ...] = (
    *(line_removed, line_doubled, lines_swapped, line_of_another, _word_moved, _word_removed, _word_doubled),
)
_TEXT: tuple[Mutation, ...] = (
    *BYTES,
    *LINES,
    *(_nested, _many, _to_string, _on_word(_name, _misspelt)),
    # What keeps the text well formed comes oftener: it reaches the layers.
    *[_on_word(_is_number, _nudged), _to_extreme, _alike(_is_number), _alike(_is_string)] * 8,
    *[_alike(_name), _field_added, _message_added] * 2,
)
JSON: tuple[Mutation, ...] = (*BYTES, *[_nested, _word_removed, _to_extreme, _alike(_is_number), _to_string] * 3)
NETS: tuple[Mutation, ...] = (*_TEXT, *[_option_of(NET)] * 20, *[retyped] * 6)
SOLVERS: tuple[Mutation, ...] = (*_TEXT, *[_option_of(SOLVER)] * 20)


def mutate(data: bytes, other: bytes, steps: list[tuple[Mutation, int]]) -> bytes:
    """`data` after each mutation in turn, which draws from its own seed; never more than 64 KiB over the longer."""
    most = max(len(data), len(other)) + 65536
    for mutation, seed in steps:
        data = mutation(Random(seed), data, other)[:most]
    return data
