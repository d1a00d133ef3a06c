"""Ways to spoil what has a structure: JSON, XML, lists of words, chunks of images, objects of HDF5, archives.

See ../mutations.py for what a mutation is, and for those of bytes and prototxt; ../binary_mutations.py has the wire
format and zip files. Each here keeps the file's form right (lengths, checksums, brackets), so that what is wrong
reaches the code behind the parser. Data that is not of the form gets its bits flipped.
"""

from __future__ import annotations

import json
import re
import struct
import tarfile
import zlib
from copy import deepcopy
from io import BytesIO
from random import Random
from typing import Any, Literal

import h5py  # type: ignore[import-untyped]
import numpy as np
import scipy.io  # type: ignore[import-untyped]
from binary_mutations import EXTREMES
from mutations import BYTES, LINES, NUMBERS, Mutation, flip_bits, set_byte

from campaign.apart import apart

# Words that a line of a list does not expect: digits that int() does not take, numbers of more digits than it takes,
# names that lead elsewhere, and letters that no encoding has.
WORDS = (
    *NUMBERS,
    *("² ١٢ ½ ٣".encode().split()),
    *(b"9" * 5000, b"-" + b"9" * 5000, b"1e5000", b"0" * 5000 + b"1", b"x" * 9000, b"NaN", b"-0", b"1_0"),
    *(b"../../x", b"/etc/passwd", b"/dev/zero", b".", b"..", b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"#", b":", b"=", b",", b"\x85", b"\xe2\x80\xa8", b"\x0c", b"\x1c", b"\r", b'"', b"void", b"background"),
)


def word_replaced(random: Random, data: bytes, other: bytes) -> bytes:
    """A word of a text becomes an odd one, or one of another file."""
    found = list(re.finditer(rb"[^\s,:=#\"]+", data))
    if not found:
        return random.choice(WORDS)
    match = random.choice(found)
    words = re.findall(rb"[^\s,:=#\"]+", other) or [b""]
    word = random.choice(WORDS) if random.random() < 0.7 else random.choice(words)
    return data[: match.start()] + word + data[match.end() :]


def separator_replaced(random: Random, data: bytes, other: bytes) -> bytes:
    """What stands between words becomes something else, or nothing."""
    found = list(re.finditer(rb"[\s,:=#\"]+", data))
    if not found:
        return data
    match = random.choice(found)
    new = random.choice((b"", b" ", b"\t", b"\n", b"\r\n", b"::", b",", b"=", b"#", b'"', b"\0", b"  ", b"\xc2\xa0"))
    return data[: match.start()] + new + data[match.end() :]


def many_lines(random: Random, data: bytes, other: bytes) -> bytes:
    """A line comes thousands of times."""
    lines = data.split(b"\n")
    return data + b"\n" + b"\n".join([random.choice(lines)[:20]] * 3000)


LISTS: tuple[Mutation, ...] = (*BYTES, *LINES, many_lines, *[word_replaced] * 8, *[separator_replaced] * 4)

# -- JSON ----------------------------------------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 255, 256, 1000, 2**31 - 1, 2**31, 2**32, 2**53, 2**63, 2**64, 10**400),
    *(0.5, -0.5, 1e-300, 1e6, 1e38, 1e300, -1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "0", "-1", "1e9", "../../x", "/etc/passwd", "/dev/zero", "a\0b", "\ud800", "x" * 9000, "\n", "\u2028"),
    *([], {}, [[]], [{}], {"": None}, [0], [1, 2], [[0, 0], [1, 1], [1, 0]], [None] * 5, {"a": {"b": []}}),
    *("cat", "polygon", "rectangle", "circle", "mask", "car", "AAAA", "2022-01-01T00:00:00+00:00"),
)


def _everywhere(value: Any) -> list[tuple[Any, Any]]:
    """Each place in a JSON value: its list or object, and its index or key."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        found += [(inner, key) for key in keys]
        waiting += [inner[key] for key in keys]
    return found


def _change_place(random: Random, holder: Any, key: Any, others: list[Any]) -> None:
    value, kind = holder[key], random.randrange(10)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder[key:key] = [value] * random.choice((1, 2, 2 if isinstance(value, (list, dict)) else 100))
    elif kind == 1:
        holder[random.choice(("", "x", *[str(other)[:50] for other in holder]))] = value
    elif kind == 2:
        holder[key] = [value]
    elif kind == 3 and isinstance(value, list):
        random.shuffle(value)
    elif kind == 4 and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = random.choice(
            (-value, value * 2, value + 1, value - 1, value * 1000, value * 0.3 if abs(value) < 1e300 else 0)
        )
    elif kind == 5 and others:
        holder[key] = deepcopy(random.choice(others))  # one that is in the tree already might come to hold itself
    elif kind == 6 and isinstance(value, str):
        holder[key] = random.choice((value[:-1], value + "x", value * 2, value.upper(), f" {value}", f"../{value}"))
    else:
        holder[key] = deepcopy(random.choice(_VALUES))


def json_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """One to three values of a JSON text are removed, doubled, wrapped, or become others."""
    try:
        value, second = json.loads(data), json.loads(other)
    except (ValueError, RecursionError):
        return flip_bits(random, data, other)
    others = [holder[key] for holder, key in _everywhere(second)[:200]]
    for _ in range(random.choice((1, 1, 2, 3))):
        places = _everywhere(value)
        if not places:
            value = deepcopy(random.choice(_VALUES))
            continue
        _change_place(random, *random.choice(places), others)
    try:
        text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    except (ValueError, RecursionError, MemoryError):  # too many digits or copies
        return flip_bits(random, data, other)
    return text.encode("utf-8", "surrogatepass")


def json_name_doubled(random: Random, data: bytes, other: bytes) -> bytes:
    """A name and its value come once more in their object."""
    found = list(re.finditer(rb'"\w+":\s*(?:"[^"]*"|[\w.+-]+)', data))
    if not found:
        return data
    match = random.choice(found)
    return data[: match.end()] + b", " + match[0] + data[match.end() :]


def deep(random: Random, data: bytes, other: bytes) -> bytes:
    """Thousands of brackets, in one another."""
    opening, closing = random.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'[{"objects":', b"}]"), (b"<a>", b"</a>")))
    at, depth = random.randrange(len(data) + 1), random.choice((100, 900, 5000))
    return data[:at] + opening * depth + b"0" + closing * depth + data[at:]


JSON_TREE: tuple[Mutation, ...] = (*BYTES, *[json_changed] * 30, json_name_doubled, deep, word_replaced)


def json_line_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """A mutation of one line, which is JSON by itself."""
    lines, others = data.split(b"\n"), other.split(b"\n")
    at = random.randrange(len(lines))
    lines[at] = json_changed(random, lines[at], random.choice(others))
    return b"\n".join(lines)


JSON_LINES: tuple[Mutation, ...] = (*BYTES, *LINES, *[json_line_changed] * 25, deep, many_lines)

# -- XML -----------------------------------------------------------------------------------------------------------


def xml_value_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """The value of an attribute, or the text of an element, becomes another."""
    found = list(re.finditer(rb'"[^"<>]*"|>[^<>]+<', data))
    if not found:
        return data
    match = random.choice(found)
    values = [piece[1:-1] for piece in re.findall(rb'"[^"<>]*"|>[^<>]+<', other)] or [b""]
    value = random.choice((*WORDS, *values, b"1,1;2,2", b"1,1", b";", b"1;1", b"&amp;", b"&x;", b"&#0;", b"&#55296;"))
    return b"".join((data[: match.start() + 1], value, data[match.end() - 1 :]))


def xml_element_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """An element is removed, doubled, or put somewhere else."""
    found = list(re.finditer(rb"<(\w+)[^<>]*>[^<>]*</\1>|<\w+[^<>]*/>", data))
    if not found:
        return data
    match = random.choice(found)
    without = data[: match.start()] + data[match.end() :]
    tags = [tag.end() for tag in re.finditer(rb">", without)] or [0]
    at = random.choice(tags)
    count = random.choice((0, 1, 1, 3))
    return without[:at] + match[0] * count + without[at:]


def xml_name_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """A tag or an attribute gets another name of the file, at both ends of an element."""
    names = sorted(set(re.findall(rb"[<\s](\w+)[=\s>]", data)))
    if not names:
        return data
    old, new = random.choice(names), random.choice((*names, b"x", b"annotations", b"image"))
    return re.sub(rb"(?<=[</\s])" + old + rb"(?=[=\s>])", new, data, count=random.choice((1, 2, 0)))


def xml_declared(random: Random, data: bytes, other: bytes) -> bytes:
    """A document type with entities that unfold or name files, at the beginning or behind a long comment."""
    entity = random.choice(
        (
            b'<!ENTITY x SYSTEM "file:///etc/passwd">',
            b'<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY x "&b;&b;&b;&b;&b;&b;&b;&b;">',
            b'<!ENTITY x "' + b"y" * 20000 + b'">',
        )
    )
    head = re.match(rb"\s*<\?xml[^>]*\?>", data)
    at = head.end() if head else 0
    padding = random.choice((b"", b"<!--" + b" " * 5000 + b"-->"))
    body = re.sub(rb'="[^"<>]*"', b'="&x;&x;"', data[at:], count=random.choice((0, 1, 3)))
    return data[:at] + padding + b"<!DOCTYPE annotations [" + entity + b"]>" + body


XML: tuple[Mutation, ...] = (
    *BYTES,
    *[xml_value_changed] * 20,
    *[xml_element_changed, xml_name_changed] * 5,
    *(xml_declared, deep),
)

# -- numbers in heads of binary files ------------------------------------------------------------------------------


def number_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """A number of one to eight bytes in either order becomes an extreme, oftener in the first 512 bytes."""
    size = random.choice((1, 2, 2, 4, 4, 4, 8))
    end = min(len(data), 512) if random.random() < 0.7 else len(data)
    at = random.randrange(max(1, end))
    old = int.from_bytes(data[at : at + size], "little")
    value = random.choice((*EXTREMES, old + 1, max(0, old - 1), old * 2, len(data), 65535, 16384, 60000))
    order: Literal["little", "big"] = random.choice(("little", "big"))
    return data[:at] + int(value % 256**size).to_bytes(size, order) + data[at + size :]


IMAGE: tuple[Mutation, ...] = (*BYTES, *[set_byte, flip_bits] * 2, *[number_changed] * 8)


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        if at + 12 + size > len(data):
            break
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The bytes of these chunks, lengths and checksums right."""
    packed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"".join((b"\x89PNG\r\n\x1a\n", *packed))


# Chunks that a PNG file may have beside its picture, some larger than they look.
_EXTRA = (
    (b"tEXt", b"Comment\0" + b"x" * 300),
    (b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 3_000_000)),
    (b"iCCP", b"profile\0\0" + zlib.compress(b"\0" * 3_000_000)),
    (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(b"\0" * 3_000_000)),
    (b"acTL", struct.pack(">II", 2**31 - 1, 0)),
    (b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**20, 2**20, 0, 0, 1, 1, 0, 0)),
    (b"tRNS", b"\0" * 600),
    (b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    (b"PLTE", b"\1\2\3" * 300),
    (b"gAMA", b"\0\0\0\0"),
    (b"pHYs", b"\xff" * 9),
)


def png_chunk_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """A chunk is removed, doubled, moved, spoilt, or added, with lengths and checksums right."""
    chunks = _png_chunks(data) if data.startswith(b"\x89PNG") else []
    if not chunks:
        return number_changed(random, data, other)
    at, kind = random.randrange(len(chunks)), random.randrange(7)
    name, body = chunks[at]
    if kind == 0:
        del chunks[at]
    elif kind == 1:
        chunks.insert(random.randrange(len(chunks)), chunks[at])
    elif kind == 2:
        chunks.insert(random.choice((1, len(chunks) - 1)), random.choice(_EXTRA))
    elif kind == 3 and name == b"IDAT":
        chunks[at] = name, _packed_again(random, body)
    elif kind == 4 and len(chunks[0][1]) == 13:
        chunks[0] = b"IHDR", _header_changed(random, chunks[0][1])
    else:
        ways = (*BYTES, number_changed)
        chunks[at] = name, random.choice(ways)(random, body, body)
    return png_of(chunks)


def _packed_again(random: Random, body: bytes) -> bytes:
    """Spoil the pixels within their compression; or let them unfold to more."""
    try:
        raw = zlib.decompress(body)
    except zlib.error:
        return flip_bits(random, body, body)
    new = random.choice((raw[: len(raw) // 2], raw + bytes(3_000_000), set_byte(random, raw, raw), b"\xff" * len(raw)))
    return zlib.compress(new)


def _header_changed(random: Random, body: bytes) -> bytes:
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", body)
    sizes = (0, 1, width + 1, 1000, 3000, 40000, 2**31 - 1, 2**32 - 1)
    width, height = random.choice((width, random.choice(sizes))), random.choice((height, random.choice(sizes)))
    depth, colour = random.choice((depth, 1, 2, 4, 8, 16, 3)), random.choice((colour, 0, 2, 3, 4, 6, 7))
    return struct.pack(">IIBBBBB", width, height, depth, colour, *rest)


PNG: tuple[Mutation, ...] = (*IMAGE, *[png_chunk_changed] * 15)

# -- objects of HDF5 -----------------------------------------------------------------------------------------------


def _paths(file: Any) -> list[str]:
    found: list[str] = []
    file.visit(found.append)
    return found


# Datasets that are no array of a few floats: texts, no space, no size, other numbers, other things.
_DATASETS: tuple[dict[str, Any], ...] = (
    *({"data": data} for data in ("text", np.array([b"a", b"bc"]), h5py.Empty("f4"), np.float32(1), b"path")),
    *({"data": np.zeros((2, 3), kind)} for kind in ("c16", "f2", "f8", "u1", ">f4", "i8", "u8", "?", "V16", "g")),
    *({"data": np.zeros((1,) * axes, "f4")} for axes in (5, 9, 32)),
    *({"data": np.array([np.nan, np.inf, 1e38], kind)} for kind in ("f4", "f8")),
    {"data": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])},
    {"shape": (3,), "dtype": h5py.vlen_dtype(np.float32)},
    {"shape": (0,), "dtype": "f4"},
    # In another file, of which nothing may be read.
    {"shape": (4,), "dtype": "f4", "external": [("/etc/hostname", 0, 16)]},
    # Declares far more than it holds.
    *({"shape": shape, "dtype": "f4", "chunks": (8,) * len(shape)} for shape in ((2**40,), (2**20, 2**20), (2**62,))),
    # Unfolds.
    {"data": np.zeros(300_000, "f4"), "compression": "gzip"},
)


def _replace_dataset(random: Random, file: Any, path: str) -> None:
    """Another dataset, or a group, in the place of one."""
    del file[path]
    kind = random.randrange(12)
    if kind == 0:
        file.create_dataset(path, data=[file.ref, file.ref], dtype=h5py.ref_dtype)
    elif kind == 1:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("../elsewhere.h5", "data", shape=(4,))
        file.create_virtual_dataset(path, layout)
    elif kind == 2:
        file.create_group(path)["x"] = 1
    else:
        file.create_dataset(path, **random.choice(_DATASETS))


@apart
def hdf5_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """An object is removed, renamed, linked elsewhere, made to hold itself, or becomes another."""
    space = BytesIO(data)
    try:
        with h5py.File(space, "r+") as file:
            paths = _paths(file) or ["data"]
            path, second, kind = random.choice(paths), random.choice(paths), random.randrange(8)
            if kind == 0:
                del file[path]
            elif kind == 1:
                file.move(path, f"{path}{random.choice(('x', '/0', '0', '7', '-1', ' ', '99999999999', '²'))}")
            elif kind == 2:
                links = (h5py.SoftLink("/"), h5py.SoftLink("/nowhere"), h5py.ExternalLink("../elsewhere.h5", "/data"))
                file[f"{path}_" if random.random() < 0.3 else _gone(file, path)] = random.choice(links)
            elif kind == 3:
                file[f"{path}_"] = file[second]
                file[f"{second}/loop"] = file["/"]
            else:
                _replace_dataset(random, file, path)
    except Exception:  # an earlier mutation broke it, in one of h5py's many ways
        return flip_bits(random, data, other)
    return space.getvalue()


def _gone(file: Any, path: str) -> str:
    del file[path]
    return path


# -- MATLAB's files and archives -----------------------------------------------------------------------------------


@apart
def mat_rewritten(random: Random, data: bytes, other: bytes) -> bytes:
    """A file of the same variables, one of which is of another kind, packed or not."""
    try:
        variables = {name: value for name, value in scipy.io.loadmat(BytesIO(data)).items() if name[:2] != "__"}
    except Exception:  # scipy fails in many ways
        return number_changed(random, data, other)
    values: tuple[Any, ...] = (
        *(1, -1, 1e300, "text", [], np.zeros((0, 0)), np.zeros((2, 2, 2)), np.array([[1, 2], [3, 1e9]])),
        *({"a": 1}, {"Segmentation": np.eye(3)}, {"Segmentation": "x"}, {"Segmentation": {"a": 1}}),
        *(np.array([[1 + 2j]]), np.array([[True]]), scipy.sparse.eye(5).tocsc(), np.array([[1, "x"]], object)),
        *(np.zeros((2, 3), np.int64), np.full((2, 2), np.nan), np.zeros((3, 400), np.uint8), np.full((2, 2), 255)),
    )
    for name in list(variables) or ["x"]:
        if random.random() < 0.6:
            variables[name] = random.choice(values)
    if random.random() < 0.2 and variables:
        variables["x"] = variables.pop(random.choice(list(variables)))
    space = BytesIO()
    try:
        scipy.io.savemat(space, variables, do_compression=random.random() < 0.5)
    except Exception:  # of a variable that is left from a spoilt file
        return flip_bits(random, data, other)
    return space.getvalue()


MAT: tuple[Mutation, ...] = (*BYTES, *[number_changed] * 8, *[mat_rewritten] * 8)


def tar_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """A member gets another name, kind, size or aim, with the checksum right."""
    try:
        with tarfile.open(fileobj=BytesIO(data)) as archive:
            members = [(info, file.read() if (file := archive.extractfile(info)) else b"") for info in archive]
    except Exception:  # tarfile fails in many ways
        return number_changed(random, data, other)
    space = BytesIO()
    if not members:
        return data
    at = random.randrange(len(members))
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, b"S", b"9", b"x")
    try:
        with tarfile.open(fileobj=space, mode=random.choice(("w", "w", "w:gz", "w:xz"))) as archive:
            for index, (info, content) in enumerate(members):
                change = random.randrange(4) if index == at else -1
                if change == 0:
                    info.name = random.choice(("../x", "/tmp/x", f"a/../../{info.name}", "", "a\0b", f"{info.name}/b"))
                elif change == 1:
                    info.type, info.linkname = random.choice(kinds), random.choice(("/etc/passwd", "..", info.name))
                elif change == 2:
                    info.size = random.choice((0, 1, len(content) * 2, 2**33, 2**62))
                elif change == 3:
                    archive.addfile(info, BytesIO(content))
                archive.addfile(info, BytesIO(content + bytes(2048)))
    except Exception:  # a size that the content does not have
        return space.getvalue() or flip_bits(random, data, other)
    return space.getvalue()


TAR: tuple[Mutation, ...] = (*BYTES, *[number_changed] * 4, *[tar_changed] * 10)
