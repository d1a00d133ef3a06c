"""Rare things that each format allows, and few writers write: encodings, cycles, bombs, records that are there twice.

See ../mutations.py for what a mutation is. Where structures.py changes what a file says, these build what a reader that
was tested with other writers' files alone has never met. Data that is not of the form gets its bits flipped.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from random import Random
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
from binary_mutations import EXTREMES
from mutations import Mutation, flip_bits

from campaign import structures
from campaign.apart import apart

# -- texts ---------------------------------------------------------------------------------------------------------


def encoded_otherwise(random: Random, data: bytes, other: bytes) -> bytes:
    """A text in another encoding, with a mark of one, or with zeros within."""
    text = data.decode("utf-8", "replace")
    kind = random.randrange(8)
    if kind < 4:
        return text.encode(("utf-16", "utf-32", "utf-16-be", "utf-8-sig")[kind], "replace")
    if kind == 4:
        return random.choice((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf\xef\xbb\xbf", b"\x00")) + data
    at = random.randrange(len(data) + 1)
    if kind == 5:
        return data[:at] + b"\0" * random.choice((1, 3, 1000)) + data[at:]
    return data.replace(b"\n", (b"\r", b"\r\n\r\n", b"\x0b", b"\xe2\x80\xa8", b"\x1e")[random.randrange(5)])


def one_long_word(random: Random, data: bytes, other: bytes) -> bytes:
    """A word without end: letters, digits, blanks, brackets, or what an expression may try in many ways."""
    at = random.randrange(len(data) + 1)
    if random.random() < 0.3:  # what mutations that come after look for themselves, in the square of its length
        return data[:at] + random.choice((b"x", b"9", b"_")) * 4000 + data[at:]
    piece = random.choice((b" ", b"\t", b"a ", b"1 ", b",", b"#", b"0.", b"\\", b'"', b"(", b"-", b"a:", b"&", b"\n"))
    return data[:at] + (piece * 60_000)[:60_000] + data[at:]


TEXTS: tuple[Mutation, ...] = (encoded_otherwise, one_long_word)


def json_of_many(random: Random, data: bytes, other: bytes) -> bytes:
    """A list or an object of thousands of members, in the place of a value or beside one."""
    many = random.choice(
        (
            b"[" + b"0," * 20_000 + b"0]",
            b"{" + b",".join(b'"%d":0' % number for number in range(6000)) + b"}",
            b"[" + b"[]," * 15_000 + b"[]]",
            b"[" + b"[1,2]," * 8000 + b"[1,2]]",
            b"1" * 4000,
            b"1" * 5000,
            b"0." + b"1" * 5000,
            b"1e" + b"9" * 300,
            b'"' + b"\\ud800" * 5000 + b'"',
        )
    )
    found = list(re.finditer(rb'(?<=[:\[,])\s*(?:"[^"]*"|[\w.+-]+)(?=\s*[,\]}])', data))
    if not found:
        return many
    match = random.choice(found)
    return data[: match.start()] + many + data[match.end() :]


def xml_written_oddly(random: Random, data: bytes, other: bytes) -> bytes:
    """Another encoding than it declares, attributes without end, names of other spaces, notes and raw text."""
    body = re.sub(rb"^\s*<\?xml[^>]*\?>", b"", data)
    kind = random.randrange(5)
    if kind == 0:
        return (
            b'<?xml version="1.0" encoding="%s"?>' % random.choice((b"utf-16", b"utf-7", b"x", b"IDNA", b"zlib")) + body
        )
    if kind == 1:
        return ('<?xml version="1.0" encoding="utf-16"?>' + body.decode("utf-8", "replace")).encode("utf-16")
    tags = [match.end() for match in re.finditer(rb"<\w+", body)] or [0]
    at = random.choice(tags)
    if kind == 2:
        return body[:at] + b"".join(b' a%d="1"' % number for number in range(5000)) + body[at:]
    if kind == 3:
        return body[:at] + b' xmlns="http://x/y" xmlns:a="b"' + body[at:]
    ends = [match.end() for match in re.finditer(rb">", body)] or [0]
    at = random.choice(ends)
    return (
        body[:at]
        + random.choice((b"<![CDATA[<x>]]>", b"<!-- x -->", b"<?python x?>", b"&#0;", b"&lt;" * 9000))
        + body[at:]
    )


# -- images --------------------------------------------------------------------------------------------------------


def tiff_entry_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """An entry of a TIFF directory becomes another, or the directory comes after itself."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return flip_bits(random, data, other)
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    if at + 2 > len(data):
        return flip_bits(random, data, other)
    count = min(struct.unpack_from(f"{order}H", data, at)[0], (len(data) - at - 6) // 12)
    changed = bytearray(data)
    if count < 1 or random.random() < 0.15:
        struct.pack_into(f"{order}I", changed, min(at + 2 + 12 * max(0, count), len(data) - 4), random.choice((8, at)))
        return bytes(changed)
    place = at + 2 + 12 * random.randrange(count)
    kind = random.randrange(4)
    if kind == 0:
        struct.pack_into(f"{order}H", changed, place, random.choice((256, 257, 258, 259, 262, 273, 277, 279, 284, 330)))
    elif kind == 1:
        struct.pack_into(f"{order}H", changed, place + 2, random.randrange(20))
    elif kind == 2:
        struct.pack_into(f"{order}I", changed, place + 4, random.choice((0, 1, 2, 1000, 2**20, 2**31, 2**32 - 1)))
    else:
        value = random.choice((0, 1, 2, 3, 4, 5, 8, 16, 32, 1000, 7000, 65536, 2**20, 2**31, 2**32 - 1, at, len(data)))
        struct.pack_into(f"{order}I", changed, place + 8, value << 16 if order == ">" and value < 65536 else value)
    return bytes(changed)


def gif_of_many(random: Random, data: bytes, other: bytes) -> bytes:
    """A block of a GIF comes thousands of times, or its picture is larger than it says."""
    if data[:3] != b"GIF" or len(data) < 20:
        return flip_bits(random, data, other)
    kind = random.randrange(3)
    if kind == 0:
        comment = b"!\xfe\3abc\0" * random.choice((1, 5000))
        return data[:-1] + comment + data[-1:]
    picture = data.find(b",", 13)
    if picture < 0 or picture + 10 > len(data):
        return flip_bits(random, data, other)
    if kind == 1:
        return data[:-1] + data[picture:-1] * random.choice((1, 300)) + data[-1:]
    size = struct.pack("<HH", *(random.choice((0, 1, 9, 3000, 20000, 65535)) for _ in range(2)))
    return data[: picture + 5] + size + data[picture + 9 :]


def png_in_a_nutshell(random: Random, data: bytes, other: bytes) -> bytes:
    """A PNG whose pixels are few bytes: all there, or fewer than it declares, its stream ended in order."""
    width, height = random.choice((900, 4000, 6000, 12000, 40000)), random.choice((900, 3000, 6000, 12000))
    depth, colour, bands = random.choice(
        ((8, 0, 1), (8, 2, 3), (8, 3, 1), (16, 0, 2), (8, 6, 4), (1, 0, 1), (16, 6, 8))
    )
    there = random.choice((0, 1, 100, 9 * 2**20))
    row = 1 + (width * bands if depth > 1 else -(-width // 8))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, random.choice((0, 0, 1)))
    palette = [(b"PLTE", b"\1\2\3")] if colour == 3 else []
    chunks = [(b"IHDR", header), *palette, (b"IDAT", zlib.compress(bytes(min(there, row * height)))), (b"IEND", b"")]
    return structures.png_of(chunks) + bytes(random.choice((0, 0, 50_000)))


# -- archives ------------------------------------------------------------------------------------------------------


def tar_written_oddly(random: Random, data: bytes, other: bytes) -> bytes:
    """Headers of pax and GNU that speak of the next member, sparse files, several streams, other compressions."""
    space = BytesIO()
    kind = random.randrange(8)
    with tarfile.open(
        fileobj=space, mode="w", format=random.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    ) as archive:
        for number in range(random.choice((1, 2, 2000 if kind == 0 else 3))):
            info = tarfile.TarInfo(f"a/{number}" if kind != 1 else "a/" * random.choice((3, 40, 900)) + "x")
            if kind == 2:
                names = ("path", "size", "linkpath", "mtime", "GNU.sparse.major", "GNU.sparse.map", "hdrcharset", "x")
                values = ("../x", "99999999999", "-1", "", "x" * 5000, "0,1", "nan", "/tmp/x", "a\0b", "\ud800")
                info.pax_headers = {random.choice(names): random.choice(values) for _ in range(2)}
            if kind == 3:
                info.mode, info.uid, info.mtime = random.choice((0, 0o7777)), random.choice((0, 2**40)), 2**40
            info.size = 5
            try:
                archive.addfile(info, BytesIO(b"hello"))
            except (ValueError, UnicodeError, OverflowError):  # what tarfile does not write
                continue
    plain = space.getvalue()
    if kind == 4:  # a file with holes, which unfolds
        at = plain.find(b"hello") - 512
        head = bytearray(plain[at : at + 512])
        head[156:157] = b"S"
        head[386:410] = b"00000000000\0" + b"00000000005\0"
        head[483:495] = b"77777777777\0"
        head[148:156] = b"%06o\0 " % sum(head[:148] + b" " * 8 + head[156:])
        plain = plain[:at] + bytes(head) + plain[at + 512 :]
    packers = (gzip.compress, bz2.compress, lzma.compress, lambda raw: gzip.compress(raw) * 2)
    pack = random.choice((*packers, bytes, bytes))
    if kind == 5:
        plain += b"\0" * random.choice((1, 512, 60_000)) + plain
    packed: bytes = pack(plain)
    return packed[: random.randrange(len(packed) + 1)] if kind == 6 else packed


def zip_written_oddly(random: Random, data: bytes, other: bytes) -> bytes:
    """Members without end, twice, of odd names and packings; sizes that the two places of a member do not share."""
    space = BytesIO()
    kind = random.randrange(6)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # zipfile fails in many ways
        members = [("a/0.npy", b"x")]
    with zipfile.ZipFile(space, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of members of one name
        for name, content in members * (2 if kind == 0 else 1):
            info = zipfile.ZipInfo(
                name if random.random() < 0.8 else random.choice((f"{name}/", f"./{name}", "é" + name))
            )
            methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            info.compress_type = random.choice(methods)
            if kind == 1:
                content += bytes(random.choice((1, 3_000_000)))
            archive.writestr(info, content)
        for number in range(1500 if kind == 2 else 0):
            archive.writestr(f"{number}/0.npy" if random.random() < 0.5 else f"x/{number}", b"")
        archive.comment = random.choice((b"", b"PK\5\6" + bytes(30)))
    packed = bytearray(space.getvalue())
    if kind >= 3:  # flags, method, checksum and sizes of the directory or of a member
        heads = [match.start() for match in re.finditer(b"PK\1\2|PK\3\4", bytes(packed))] or [0]
        at = random.choice(heads)
        start = at + (8 if packed[at + 2 : at + 3] == b"\1" else 6)
        offset, size = random.choice(((0, 2), (2, 2), (8, 4), (12, 4), (16, 4), (20, 2), (22, 2), (34, 4)))
        value = random.choice((0, 1, 8, 9, 12, 14, 93, 99, 0x800, 0xFFFF, 1000, 2**31, 2**32 - 1)) % 256**size
        packed[start + offset : start + offset + size] = value.to_bytes(size, "little")
    return bytes(packed)


# -- pickles, of which only tensors may be read ---------------------------------------------------------------------

_LAUGHS = b"]\x94" + b"".join(b"]\x94(h\x00" + b"h\x00" * 30 + b"e" for _ in range(20))
_PICKLES = (
    b"\x80\x02" + b"]" * 3000 + b"a" * 2999 + b".",
    b"\x80\x02" + b"(" * 30_000 + b"t.",
    b"\x80\x02}" + b"2" * 30_000 + b".",
    b"\x80\x02\x8b\xff\xff\xff\x7f.",
    b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
    b"\x80\x04\x96" + b"\xff" * 7 + b"\x0f.",
    b"\x80\x04\x95" + b"\xff" * 8 + b"}.",
    b"\x80\x02cos\nsystem\nU\x04trueq\0\x85R.",
    b"\x80\x02cbuiltins\neval\nU\x011\x85R.",
    b"\x80\x02}q\0(U\x01aq\1h\0u.",
    b"\x80\x04" + _LAUGHS + b".",
    b"\x80\x02\x82\x01.",
    b"\x80\x02U\x01aQ.",
    b"\x80\x02}r\xff\xff\xff\x7f.",
    b"I" + b"9" * 6000 + b"\n.",
    b"L" + b"9" * 6000 + b"L\n.",
    b"V\\ud800\n.",
    *map(pickle.dumps, ({}, {"a": 1}, {"a": {"b": {"c": []}}}, [1], {1: 2}, {("a",): None}, 10**3000)),
)


def pickle_replaced(random: Random, data: bytes, other: bytes) -> bytes:
    """The pickle of a file of torch.save becomes an odd one, within its zip file or alone."""
    new = random.choice(_PICKLES)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # a file of before zip, or a spoilt one
        return data[: data.find(b".", 30) + 1] + new if random.random() < 0.5 else new
    space = BytesIO()
    with zipfile.ZipFile(space, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, new if name.endswith(".pkl") else content)
    return space.getvalue()


_NPY = (
    *("{'descr': 'O', 'fortran_order': False, 'shape': (1,)}", "{'descr': '<f4', 'fortran_order': 1, 'shape': 3}"),
    *("{'descr': '<U999999999', 'fortran_order': False, 'shape': (0,)}", "{}", "[]", "(" * 200, "{" * 90 + "}" * 90),
    *("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}", "__import__('os')", "{'descr': '<f4'" * 60),
    *("{'descr': '<f4', 'fortran_order': True, 'shape': (-1, 2)}", "{'descr': '<f4', 'shape': (1,), 'x': 2}"),
    *("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 99999999999, 99999999999)}", "1" * 6000, "-" * 3000 + "1"),
    "{'descr': '|V0', 'fortran_order': False, 'shape': (99999999999999,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 70 + ")}",
)


def npy_header_replaced(random: Random, data: bytes, other: bytes) -> bytes:
    """The head of an array becomes another, its length right."""
    head = random.choice(_NPY).encode() + b"\n"
    version = random.choice((b"\1\0", b"\2\0", b"\3\0"))
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(head))
    return b"\x93NUMPY" + version + size + head + data[128:]


# -- HDF5 ----------------------------------------------------------------------------------------------------------


def _soft_cycle(random: Random, file: Any, path: str) -> None:
    del file[path]
    file[path], file["cycle"] = h5py.SoftLink("/cycle"), h5py.SoftLink(f"/{path}")


def _unwritten(random: Random, file: Any, path: str) -> None:
    """A data set of which nothing was written: no bytes, and a fill value for each place."""
    del file[path]
    shape = random.choice(((10,), (1000, 1000), (4000, 4000), (2**23,), (2**31,)))
    file.create_dataset(path, shape, random.choice(("f4", "f8", "u1")), chunks=True, fillvalue=random.choice((0, 7)))


def _packed(random: Random, file: Any, path: str) -> None:
    del file[path]
    shape = random.choice(((300_000,), (3_000_000,), (1000, 300)))
    filters = (
        {"compression": "gzip"},
        {"compression": "lzf"},
        {"compression": "gzip", "shuffle": True},
        {"fletcher32": True},
    )
    file.create_dataset(
        path, data=np.zeros(shape, "f4"), **random.choice((*filters, {"scaleoffset": 0, "dtype": "i4"}))
    )


def _many_members(random: Random, file: Any, path: str) -> None:
    holder = file[path] if isinstance(file[path], h5py.Group) else file
    for number in range(random.choice((50, 1500))):
        holder.create_group(f"m{number}")


def _deep_groups(random: Random, file: Any, path: str) -> None:
    del file[path]
    group = file.create_group(path)
    for _ in range(random.choice((20, 400))):
        group = group.create_group("g")
    group["data"] = np.ones(3, "f4")


def _named_type(random: Random, file: Any, path: str) -> None:
    del file[path]
    file[path] = np.dtype(random.choice(("f4", "S9", "V3")))


def _strings(random: Random, file: Any, path: str) -> None:
    del file[path]
    kind = h5py.string_dtype("utf-8", random.choice((None, 5)))
    file.create_dataset(path, data=np.array([b"a\xff", b"\0", b""], object)[: random.randrange(4)], dtype=kind)


def _attributes(random: Random, file: Any, path: str) -> None:
    for number in range(random.choice((1, 300))):
        file[path].attrs[f"a{number}"] = random.choice((b"x" * 9000, 1, np.zeros(5), "é"))


_OBJECTS: tuple[Callable[[Random, Any, str], None], ...] = (
    *(_soft_cycle, _unwritten, _packed, _many_members, _deep_groups, _named_type, _strings, _attributes),
)


@apart
def hdf5_of_odd_objects(random: Random, data: bytes, other: bytes) -> bytes:
    """An object becomes one that our writers never write."""
    space = BytesIO(data)
    try:
        with h5py.File(space, "r+") as file:
            paths: list[str] = []
            file.visit(paths.append)
            random.choice(_OBJECTS)(random, file, random.choice(paths or ["data"]))
    except Exception:  # an earlier mutation broke it, in one of h5py's many ways
        return flip_bits(random, data, other)
    return space.getvalue()


# -- the wire format, MATLAB ---------------------------------------------------------------------------------------


def wire_written_oddly(random: Random, data: bytes, other: bytes) -> bytes:
    """Groups, which nobody writes any more; numbers of ten bytes; packed numbers of odd bytes; messages in messages."""
    number = random.choice((1, 2, 5, 7, 100))
    tag = bytes([number << 3 & 0x7F]) if number < 16 else b"\xa0\x06"
    piece = random.choice(
        (
            bytes([tag[0] | 3]) + b"\x08\1" + bytes([tag[0] | 4]),
            bytes([tag[0] | 3]) * random.choice((1, 99, 101, 30_000)),
            bytes([tag[0] | 4]),
            b"\x08" + b"\xff" * 9 + b"\1",
            b"\x08" + b"\x80" * 9 + b"\x02",
            b"\x2a\5abcde",
            b"\x2a\3\x80\x80\x80",
            b"\x00\x00",
            b"\xff\xff\xff\xff\x0f\0",
        )
    )
    at = random.choice((0, len(data), random.randrange(len(data) + 1)))
    return data[:at] + piece + data[at:]


def mat_element_changed(random: Random, data: bytes, other: bytes) -> bytes:
    """A number at a place where heads of elements lie becomes a type, a flag, a size or an extreme, packed or not."""
    is_packed = data[128:132] == b"\x0f\0\0\0"
    try:
        body = bytearray(zlib.decompress(data[136:]) if is_packed else data[128:])
    except zlib.error:
        return flip_bits(random, data, other)
    if len(body) < 16:
        return flip_bits(random, data, other)
    for _ in range(random.choice((1, 1, 2))):
        at = 4 * random.randrange(min(len(body), 400) // 4)
        value = random.choice((*range(41), *range(41), 255, 0x10001, 0x40005, 0x50002, 1 << 11, *EXTREMES[5:9]))
        struct.pack_into("<I", body, at, value)
    if random.random() < 0.2:
        body = body[: random.randrange(len(body))]
    if random.random() < 0.5:
        packed = zlib.compress(bytes(body))
        return data[:128] + struct.pack("<II", 15, len(packed)) + packed
    return data[:128] + bytes(body)


def another_kind(pool: tuple[bytes, ...]) -> Mutation:
    """A mutation to a whole file of another kind, under the name that this one has."""

    def mutation(random: Random, data: bytes, other: bytes) -> bytes:
        return random.choice(pool)

    return mutation
