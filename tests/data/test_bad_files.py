"""Kinds of bad files that `make campaign` found, or that would fill the memory: each refused, with the file named."""

from __future__ import annotations

import gzip
import json
import os
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io  # type: ignore[import-untyped]
import scipy.sparse  # type: ignore[import-untyped]
from helpers import make_net
from own_trees import write_voc
from PIL import EpsImagePlugin, Image, PngImagePlugin

from fcn_caffe import DataError, FcnCaffeError, read_net
from fcn_caffe.commands import main
from fcn_caffe.data.layers.hdf5_data import read_data_sets
from fcn_caffe.data.own.classes import read_class_file
from fcn_caffe.data.own.formats import read_source
from fcn_caffe.data.own.formats.label_files import by_value
from fcn_caffe.data.own.formats.source import Reading
from fcn_caffe.data.own.label_check import Pair, look
from fcn_caffe.data.prepare.archives import unpack
from fcn_caffe.data.readers import labels
from fcn_caffe.data.readers.frames import film_rate, read_pages
from fcn_caffe.data.readers.image_files import image_size, read_image, read_index_image
from fcn_caffe.data.readers.image_list import read_image_list
from fcn_caffe.data.readers.labels import LabelMap, read_classes, read_colors, read_label
from fcn_caffe.data.readers.mean_image import read_mean_image
from fcn_caffe.data.readers.opencv_images import read_image_bgr
from fcn_caffe.data.sets.pascalcontext_layers import read_names
from fcn_caffe.data.sets.reference_layer import read_mat
from fcn_caffe.evaluation.score import class_indices
from fcn_caffe.net.rewrite.tuned import _read_cache
from fcn_caffe.proto.wire import read_solver_state
from fcn_caffe.training.log_parser import parse_log
from fcn_caffe.training.run_record import read_record
from fcn_caffe.training.stage import COLUMNS, ScoreTable
from fcn_caffe.weights.formats import format_of
from fcn_caffe.weights.mapping import read_pairs
from fcn_caffe.weights.transfer import load_weights

DIGITS = "9" * 5000  # more than int() takes


def png(path: Path, width: int, height: int, mode: int = 0) -> Path:
    """Write a PNG file that declares a size and holds one row."""
    header = struct.pack(">IIBBBBB", width, height, 8, mode, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    packed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


@pytest.mark.parametrize("read", [read_image, read_index_image, read_image_bgr, image_size])
def test_no_program_draws_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    """EPS is a program that Ghostscript would run, whatever the file is called."""
    space = BytesIO()
    Image.new("RGB", (3, 2)).save(space, "EPS")
    path = tmp_path / "photograph.png"
    path.write_bytes(space.getvalue())
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("ran a program"))
    with pytest.raises(DataError, match=r"photograph\.png: not an image Pillow can read"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_index_image, read_image_bgr, image_size])
def test_an_image_that_would_unfold_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(
        DataError, match=r"a\.png: cannot be (read|decoded) \(declares 9000x9000 pixels in a file of \d+ bytes"
    ):
        read(png(tmp_path / "a.png", 9000, 9000))


def test_a_label_beside_an_image_of_too_many_pixels(tmp_path: Path) -> None:
    Image.new("L", (3, 2)).save(tmp_path / "label.png")
    with pytest.raises(DataError, match=r"a\.png: cannot be read \(Image size"):
        look(Pair("a", png(tmp_path / "a.png", 2**31 - 1, 1), tmp_path / "label.png"))


def test_a_data_set_that_would_unfold_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", (2**30,), "f4", chunks=(1024,), compression="gzip")
    with pytest.raises(DataError, match=r"a\.h5: data set 'data' declares 4,294,967,296 bytes, 0 of it are stored"):
        read_data_sets(tmp_path / "a.h5", ["data"])


@pytest.mark.parametrize("way", ["unwritten", "virtual", "storage"])
def test_a_data_set_of_which_little_is_stored(tmp_path: Path, way: str) -> None:
    """5 million numbers of which there are none, or four, and as many zeros that are there, packed."""
    count = 5_000_000
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("zeros", (count,), "f4", data=np.zeros(count, "f4"), compression="gzip")
        if way == "virtual":
            layout = h5py.VirtualLayout((2**31,), "f4")
            layout[:4] = h5py.VirtualSource(".", "zeros", shape=(count,))[:4]
            file.create_virtual_dataset("data", layout)
        elif way == "storage":
            np.arange(4, dtype="<f4").tofile(tmp_path / "a.bin")
            file.create_dataset("data", (count,), "f4", external=[(str(tmp_path / "a.bin"), 0, 4 * count)])
        else:
            file.create_dataset("data", (count,), "f4")
    assert not read_data_sets(tmp_path / "a.h5", ["zeros"])[0].any()
    with pytest.raises(DataError, match=r"a\.h5: data set 'data' declares [\d,]+ bytes, [\d,]+ of it are stored"):
        read_data_sets(tmp_path / "a.h5", ["data"])


@pytest.mark.parametrize("way", ["link", "linked group", "storage", "virtual"])
def test_data_sets_lie_in_their_folder(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (tmp_path, folder):
        with h5py.File(place / "other.h5", "w") as file:
            file["g/data"] = np.arange(4, dtype="f4")
        np.arange(4, dtype="<f4").tofile(place / "other.bin")
    for name, inside in (("a.h5", True), ("b.h5", False)):
        up = folder if inside else tmp_path
        with h5py.File(folder / name, "w") as file:
            if way == "link":
                file["g/data"] = h5py.ExternalLink(str(up / "other.h5"), "/g/data")
            elif way == "linked group":
                file["g"] = h5py.ExternalLink(str(up / "other.h5"), "/g")
            elif way == "storage":
                file.create_dataset("g/data", (4,), "f4", external=[(str(up / "other.bin"), 0, 16)])
            else:
                layout = h5py.VirtualLayout((4,), "f4")
                layout[:] = h5py.VirtualSource(str(up / "other.h5"), "g/data", shape=(4,))
                file.create_virtual_dataset("g/data", layout)
    assert read_data_sets(folder / "a.h5", ["g/data"])[0].tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"b\.h5: data set 'g/data' lies in .*other.* outside of .*Copy"):
        read_data_sets(folder / "b.h5", ["g/data"])


@pytest.mark.parametrize("way", ["virtual", "link", "storage", "soft link"])
def test_data_sets_of_parts_that_lie_elsewhere(tmp_path: Path, way: str) -> None:
    """What a data set is made of is followed one step, in its folder; soft links as far as they lead."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["plain"] = np.arange(4, dtype="f4")
        if way == "storage":
            file.create_dataset("data", (4,), "u1", external=[("/etc/hostname", 0, 4)])
        elif way == "virtual":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(".", "plain", shape=(4,))
            file.create_virtual_dataset("data", layout)
        else:
            file["data"] = h5py.ExternalLink(str(tmp_path.parent / "up.h5"), "/data")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if way == "soft link":
            file["up"], file["data"] = h5py.ExternalLink("../up.h5", "/"), h5py.SoftLink("/g/../up/data")
            file["g/data"] = h5py.SoftLink("/up/data")
        else:
            for name in ("data", "plain"):
                layout = h5py.VirtualLayout((4,), "f4")
                layout[:] = h5py.VirtualSource("other.h5", name, shape=(4,))
                file.create_virtual_dataset(f"g/{name}", layout)
    if way != "soft link":
        assert read_data_sets(tmp_path / "a.h5", ["g/plain"])[0].tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"\.h5: data set '.*data' lies in .*(and is a part of another one|outside of)"):
        read_data_sets(tmp_path / "a.h5", ["g/data"])


def test_a_data_set_in_parts_that_are_missing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "data", shape=(4,))
        file.create_virtual_dataset("data", layout)
        file["loop"] = h5py.SoftLink("/loop")
    with pytest.raises(DataError, match=r"a\.h5: data set 'data' lies in 'other.h5', which is missing\. Write"):
        read_data_sets(tmp_path / "a.h5", ["data"])
    with pytest.raises(DataError, match=r"a\.h5: cannot be read as HDF5 \(the links of 'loop' have no end\)"):
        read_data_sets(tmp_path / "a.h5", ["loop"])


def test_a_chunk_far_larger_than_its_data_set(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", data=np.ones(6, "f4"), chunks=(2**23,), maxshape=(None,), compression="gzip")
    with pytest.raises(DataError, match=r"'data' declares 24 bytes, [\d,]+ of it are stored, in chunks of 33,554,432"):
        read_data_sets(tmp_path / "a.h5", ["data"])


def test_an_archive_that_would_unfold_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.bin")
    info.size = 2**40
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(DataError, match=r"a\.tar: unfolds to more than 1100 times its size, with 'a\.bin'"):
        unpack(tmp_path / "a.tar", tmp_path / "target", "/".join)
    assert not (tmp_path / "target").exists()


def mat_element(kind: int, body: bytes) -> bytes:
    """Write an element of a .mat file of version 5."""
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def mat_matrix(kind: int, height: int, width: int, content: bytes, name_type: int = 1) -> bytes:
    """Write the variable S of a .mat file: a matrix of MATLAB's class `kind`, with flags in its higher bits."""
    flags, sizes = struct.pack("<II", kind, 0), struct.pack("<II", height, width)
    return mat_element(14, mat_element(6, flags) + mat_element(5, sizes) + mat_element(name_type, b"S") + content)


CELL, STRUCT, CHARACTERS, BYTES, COMPLEX = 1, 2, 4, 9, 1 << 11


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        (lambda: mat_matrix(BYTES, 9000, 9000, mat_element(2, bytes(9000 * 9000))), r"unfolds to more than 67,108,864"),
        (lambda: mat_matrix(CHARACTERS, 50000, 50000, b""), r"declares 2,500,000,000 elements in \d+ bytes"),
        (lambda: mat_matrix(CELL, 1, 1, b"")[:56] * 1001, r"holds more than 1,000 cells and structs"),
        # Each empty matrix is an array, each character of 64 bits with copies, each complex byte 16.
        (lambda: mat_matrix(CELL, 1000, 1000, mat_element(14, b"") * 1_000_000), r"unfolds to more than 67,108,864"),
        (lambda: mat_matrix(CHARACTERS, 3000, 3000, mat_element(16, bytes(9_000_000))), r"unfolds to more than"),
        (
            lambda: mat_matrix(BYTES | COMPLEX, 3000, 3000, mat_element(2, bytes(9_000_000)) * 2),
            r"unfolds to more than",
        ),
        (lambda: mat_matrix(BYTES, 2, 2, b"", name_type=19), r"no element of numbers is of type 19"),
        (lambda: mat_matrix(BYTES, 2, 2, struct.pack("<II", 2 | 5 << 16, 0)), r"a short element has 5 bytes"),
        (lambda: mat_matrix(BYTES, 2, 2, b"")[:-8], r"ends before its last element"),
        (lambda: mat_matrix(BYTES, 2, 2, struct.pack("<II", 2, 64)), r"ends before its last element"),
        (lambda: mat_matrix(19, 2, 2, b""), r"no class of matrices is 19"),
        (lambda: mat_matrix(CELL, 1, 1, mat_element(2, b"a")), r"expected a matrix, got an element of type 2"),
        (
            lambda: mat_matrix(STRUCT, 1, 1, mat_element(5, bytes(4)) + mat_element(1, b"a")),
            r"a struct's names of fields have no length",
        ),
        (lambda: mat_element(14, mat_element(6, bytes(8)) + mat_element(5, bytes(33 * 4))), r"a matrix has 33 axes"),
        (lambda: mat_element(14, mat_element(6, bytes(8)) + mat_element(5, bytes(2))), r"a matrix has 0 axes"),
    ],
)
def test_a_mat_file_is_looked_through_before_scipy_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: Callable[[], bytes], words: str
) -> None:
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_: pytest.fail("scipy was let read it"))
    packed = zlib.compress(variable())
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(DataError, match=rf"a\.mat: cannot be read as a MATLAB file \({words}"):
        read_mat(path, "S")


@pytest.mark.parametrize("packed", [False, True])
def test_what_matlab_writes_is_no_bad_file(tmp_path: Path, packed: bool) -> None:
    """Labels beside and within all that the walk through a file knows."""
    inner = {
        "S": np.eye(3, dtype="u1"),
        "text": "cat",
        "edges": scipy.sparse.eye(900).tocsc(),
        "z": np.array([[1 + 2j]]),
    }
    others = {"cells": np.array([[1, "x"]], object), "edges": inner["edges"] * 1j, "empty": np.zeros((0, 0))}
    scipy.io.savemat(tmp_path / "a.mat", {**others, "GT": inner}, do_compression=packed)
    assert read_mat(tmp_path / "a.mat", "GT", "S").tolist() == np.eye(3).tolist()


def test_an_archive_member_without_its_bytes_is_still_damaged(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.bin")
    info.size = 4096
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(DataError, match=r"a\.tar: cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path / "target", "/".join)


def _labelmap(path: Path) -> object:
    (path.parent / "SegmentationClass").mkdir()
    (path.parent / "JPEGImages").mkdir()
    return read_source(path.parent, "cvat-masks", Reading())


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (_labelmap, "cat:²,0,0::"),
        (_labelmap, "cat:\x1f50,0,300::"),
        (_labelmap, f"cat:{DIGITS},0,0::"),
        (lambda path: read_names(path, numbered=True), "²: cat"),
        (lambda path: read_names(path, numbered=True), f"{DIGITS}: cat"),
        (read_class_file, f"{DIGITS}: cat"),
        (read_classes, f"{DIGITS}: cat"),
        (read_image_list, f"a.png {2**31}"),
        (read_image_list, "a.png -99999999999999999999"),
    ],
)
def test_numbers_that_are_none_here(tmp_path: Path, read: Callable[[Path], object], text: str) -> None:
    path = tmp_path / "labelmap.txt"
    path.write_text(text + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"labelmap\.txt:1: "):
        read(path)


def test_a_colour_of_an_index_without_end_is_none(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(f"0: cat\n# {DIGITS}: dog # 1 2 3\n")
    assert read_colors(path) is None


def test_a_chosen_class_without_end(tmp_path: Path) -> None:
    net = make_net('layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 1 dim: 3 dim: 2 dim: 2 } } }')
    with pytest.raises(DataError, match="is no class of 's'"):
        class_indices(net, "s", [DIGITS])


def test_names_of_classes_with_colours(tmp_path: Path) -> None:
    """Blanks and commas without end between a name and its colour take no time."""
    path = tmp_path / "classes.txt"
    path.write_text("a, b 1 2 3\nc,4,5,6\n 2 : d # 7, 8,9\n" + "f" + ", " * 200_000 + "g\n1 2 3\n")
    names = [(each.name[:9], each.colour) for each in read_class_file(path)]
    assert names == [
        ("a, b", (1, 2, 3)),
        ("c", (4, 5, 6)),
        ("d", (7, 8, 9)),
        ("f, , , , ", None),
        ("1 2 3", None),
    ]


def tiff(width: int, height: int, entries: list[tuple[int, int, int]]) -> bytes:
    """A grey TIFF of a byte a pixel, not packed; 200 zeros from byte 8 on are there for the entries' values."""
    sizes = [(256, 1, width), (257, 1, height), (258, 1, 8), (259, 1, 1), (262, 1, 1), (277, 1, 1)]
    directory = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag, count, value in sorted(sizes + entries))
    return b"II*\0" + struct.pack("<I", 208) + bytes(200) + struct.pack("<H", 6 + len(entries)) + directory + bytes(4)


def test_a_tile_far_larger_than_its_picture(tmp_path: Path) -> None:
    tiles = [(322, 1, 16), (323, 1, 16), (324, 1, 8), (325, 1, 256)]
    (tmp_path / "a.tif").write_bytes(tiff(16, 8, tiles) + bytes(256))
    assert read_image(tmp_path / "a.tif").shape == (8, 16, 3)
    tiles[:2] = [(322, 1, 2**14), (323, 1, 2**14)]
    for more in (0, 2**19):  # a tile may be packed a thousand to one, one that is larger than its picture may not
        (tmp_path / "a.tif").write_bytes(tiff(16, 8, tiles) + bytes(more))
        with pytest.raises(DataError, match=r"a\.tif: cannot be read \(declares 16x8 pixels in a file of [\d,]+ bytes"):
            read_image(tmp_path / "a.tif")


def test_what_pillow_warns_of_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning is two lines on a terminal, with a place in Pillow; pytest makes an error of one."""
    (tmp_path / "a.tif").write_bytes(tiff(8, 4, [(273, 1, 8), (278, 1, 4), (279, 1, 32), (284, 9, 8)]) + bytes(2000))
    (tmp_path / "list.txt").write_text("a.tif 1\n")
    assert main(["convert_imageset", f"{tmp_path}/", str(tmp_path / "list.txt"), str(tmp_path / "db")]) == 0
    assert "Processed 1 files." in "".join(capsys.readouterr())


def test_strips_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(8, 4, [(273, 50, 8), (278, 1, 1), (279, 50, 8)]) + bytes(2000))
    with pytest.raises(DataError, match=r"a\.tif: cannot be read \(has 50 strips or tiles for 8x4 pixels\)"):
        read_image(tmp_path / "a.tif")


def test_scans_without_end(tmp_path: Path) -> None:
    space = BytesIO()
    Image.new("L", (16, 16)).save(space, "JPEG", progressive=True)
    data = space.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(data[:-2] + last * 50 + data[-2:])
    assert read_image(tmp_path / "a.jpg").shape == (16, 16, 3)
    (tmp_path / "a.jpg").write_bytes(data[:-2] + last * 500 + data[-2:])
    for read in (read_image, read_image_bgr):
        with pytest.raises(DataError, match=r"a\.jpg: cannot be (read|decoded) \(has more than 500 scans\)"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["ICO", "ICNS"])
def test_pictures_that_hold_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What they say of their size is not that of what they hold, which is unpacked at once."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png", kind)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: pytest.fail("unpacked"))
    with pytest.raises(DataError, match=r"a\.png: not an image Pillow can read\. Convert it"):
        read_image(tmp_path / "a.png")


def test_a_table_of_scores_with_an_endless_field(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text(",".join(COLUMNS) + "\n1," + "x" * 200_000 + ",0\n")
    with pytest.raises(FcnCaffeError, match=r"scores\.csv: not a table of scores"):
        ScoreTable.read(tmp_path / "scores.csv")


def test_a_record_of_brackets(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text(json.dumps({"event": "start", "iteration": 0}) + "\n" + "[" * 100_000 + "\n")
    with pytest.raises(DataError, match=r"run\.jsonl:2: no event of a run"):
        read_record(tmp_path / "run.jsonl")


def test_a_log_of_no_calendar(tmp_path: Path) -> None:
    line = "{} 10:00:00.000000  1 solver.cpp:1] Iteration {}, loss = 0.5\n"
    path = tmp_path / "train.log"
    path.write_text("".join(line.format(time, 1) for time in ("I99991231", "I0229", "I99991231")))
    with pytest.raises(DataError, match=r"train\.log: its times are those of no calendar"):
        parse_log(path)
    path.write_text(line.format("I1231", DIGITS) + line.format("I1231", 7))
    assert [row.iteration for row in parse_log(path).train] == [7]


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_an_archive_of_long_notes(tmp_path: Path, kind: bytes) -> None:
    """Names and notes of a tar's members are read whole, and its packed form may hold them in a thousandth."""
    note = tarfile.TarInfo("note")
    note.type, note.size = kind, 2**24
    (tmp_path / "a.tgz").write_bytes(gzip.compress(note.tobuf() + bytes(2**24) + tarfile.TarInfo("a").tobuf(), 1))
    with pytest.raises(DataError, match=r"a\.tgz: cannot be unpacked \(a note of 16,777,216 bytes\)"):
        unpack(tmp_path / "a.tgz", tmp_path / "target", "/".join)


def test_an_archive_with_notes_on_all_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", pax_headers={"comment": "x" * 70_000}) as archive:
        archive.addfile(tarfile.TarInfo("a"))
    with pytest.raises(DataError, match=r"a\.tar: cannot be unpacked \(a note of 70,\d+ bytes\)"):
        unpack(tmp_path / "a.tar", tmp_path / "target", "/".join)
    with tarfile.open(tmp_path / "a.tar", "w", pax_headers={"comment": "x" * 7000}) as archive:
        for name in ("a", "b" * 150, "é" * 90):
            archive.addfile(tarfile.TarInfo(name))
    assert unpack(tmp_path / "a.tar", tmp_path / "target", "/".join) == 3


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("./",)])
def test_a_member_that_is_a_file_and_a_folder(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, BytesIO(b"one"))
    with pytest.raises(DataError, match=r"archive\.tar: '.*' is a file and a folder\. .* download it again"):
        unpack(path, tmp_path / "target", "/".join)
    assert {place.name for place in tmp_path.iterdir()} <= {"archive.tar", "target"}


def test_a_member_of_too_long_a_name(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x" * 300))
    with pytest.raises(DataError, match=r"archive\.tar: cannot be unpacked \(.*too long"):
        unpack(path, tmp_path / "target", "/".join)


def test_a_later_page_that_would_fill_the_memory(tmp_path: Path) -> None:
    """Each page of a TIFF file has a size of its own."""
    path = tmp_path / "pages.tif"
    Image.new("L", (3, 2)).save(path, save_all=True, append_images=[Image.new("L", (4, 9))])
    short, long = 3, 4  # types of numbers; 257 is the height
    data = path.read_bytes()
    for kind in (short, long):
        data = data.replace(struct.pack("<HHII", 257, kind, 1, 9), struct.pack("<HHII", 257, long, 1, 1 << 25))
    path.write_bytes(data)
    found = read_pages(path)
    assert next(found).shape == (2, 3, 3)
    with pytest.raises(DataError, match=r"pages\.tif: cannot be read \(declares 4x33554432 pixels"):
        next(found)


def test_a_class_beyond_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    path.write_text(f"0: {1 << 64}\n")
    with pytest.raises(DataError, match=r"map\.txt:1: expected `VALUE: CLASS`"):
        LabelMap.read(path)


def flat(path: Path, width: int, height: int, **options: Any) -> Path:
    """Write an image of one colour."""
    Image.new(options.pop("mode", "L"), (width, height)).save(path, **options)
    return path


def test_what_a_picture_may_declare_depends_on_how_it_is_read(tmp_path: Path) -> None:
    """A label of a byte takes three a pixel while it is read, a photograph up to fourteen."""
    label = flat(tmp_path / "a.tif", 7000, 6000, mode="1", compression="group4")
    assert read_index_image(label).shape == (6000, 7000)
    mapped = partial(read_label, mapping=LabelMap({0: 1})), partial(by_value, table={0: 1})
    for read in (read_image, read_image_bgr, lambda path: next(read_pages(path)), *mapped):
        with pytest.raises(DataError, match=r"a\.tif: .*declares 7000x6000 pixels in a file of 1,\d+ bytes"):
            read(label)


def test_a_format_that_packs_little_declares_little(tmp_path: Path) -> None:
    """Where deflate packs 1032 to 1, TGA packs 102 to 1."""
    path = flat(tmp_path / "a.tga", 9, 7)
    data = path.read_bytes()
    path.write_bytes(data[:12] + struct.pack("<HH", 9000, 9000) + data[16:] + bytes(200_000))
    with pytest.raises(DataError, match=r"a\.tga: cannot be read \(declares 9000x9000 pixels in a file of 200,"):
        read_index_image(path)


def test_what_deflate_packs_is_read(tmp_path: Path) -> None:
    """The largest flat pictures there are in files of their size."""
    path = flat(tmp_path / "a.png", 4500, 3000)
    assert path.stat().st_size < 20_000
    assert read_image(path).shape == (3000, 4500, 3)


def test_a_label_takes_no_copies_of_64_bits(tmp_path: Path) -> None:
    path = flat(tmp_path / "a.png", 4000, 2000)
    tracemalloc.start()
    try:
        report = look(Pair("a", path, path))
        LabelMap({0: 1}).apply(np.zeros((2000, 4000), np.uint8), path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.counts == {0: 8_000_000}
    assert most < 12 * 8_000_000


def test_values_are_counted_and_mapped_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.random.default_rng(0).integers(0, 5, (31, 7), np.uint8)
    Image.fromarray(label).save(tmp_path / "a.png")
    monkeypatch.setattr(labels, "_STRIP", 20)
    counts = look(Pair("a", tmp_path / "a.png", tmp_path / "a.png")).counts
    assert list(counts.items()) == list(enumerate(np.bincount(label.ravel()).tolist()))
    assert (LabelMap({value: 9 - value for value in range(5)}).apply(label, "a.png") == 9 - label.astype(int)).all()
    with pytest.raises(DataError, match=rf"a\.png: value 4 \({counts[4]} pixels\) has no rule"):
        LabelMap({value: value for value in range(4)}).apply(label, "a.png")


def test_a_label_of_two_thousand_million(tmp_path: Path) -> None:
    """No table is made as long as the largest value in a picture."""
    Image.fromarray(np.array([[0, 2**31 - 1]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: value 2147483647 \(1 pixels\) is none of the data set's"):
        by_value(tmp_path / "a.tif", {0: 0, 255: -1})
    Image.fromarray(np.array([[0, -1]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: value -1 \(1 pixels\) is none of the data set's"):
        by_value(tmp_path / "a.tif", {0: 0, 255: -1})


def test_a_palette_of_more_transparency_than_colours(tmp_path: Path) -> None:
    """Pillow notices when it converts the image, long after it opened it."""
    image = Image.new("P", (3, 2))
    image.putpalette([1, 2, 3])
    image.save(tmp_path / "a.png", transparency=bytes(4))
    path = tmp_path / "a.png"
    data = path.read_bytes()
    chunk = b"tRNS" + bytes(600)
    at = data.index(b"tRNS") - 4
    end = at + 12 + struct.unpack(">I", data[at : at + 4])[0]
    path.write_bytes(data[:at] + struct.pack(">I", 600) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[end:])
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded \(palette index out of range\)"):
        read_image_bgr(path, "native")


@pytest.mark.parametrize("orientation", [3, 9])
def test_an_orientation_that_is_none(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    flat(tmp_path / "a.jpg", 3, 2, exif=exif)
    assert image_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").shape[:2] == (2, 3)


def test_a_list_that_names_a_device(tmp_path: Path) -> None:
    write_voc(tmp_path)
    path = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    path.write_text(path.read_text() + "\n/dev/zero\n")
    with pytest.raises(DataError, match=rf"train\.txt:{len(path.read_text().splitlines())}: /dev/zero: no image of"):
        read_source(tmp_path, "voc", Reading())
    path.write_text("x" * 300 + ".png\n")
    with pytest.raises(DataError, match=r"train\.txt:1: .*: no image of that name"):
        read_source(tmp_path, "voc", Reading())


@pytest.mark.parametrize(
    "read",
    [
        *(read_image, read_image_bgr, read_index_image, image_size, read_image_list, LabelMap.read, read_class_file),
        *(format_of, load_weights, read_solver_state, film_rate, read_mean_image),
        *(lambda path: read_data_sets(path, ["data"]), lambda path: read_mat(path, "S"), lambda path: read_net(path)),
        lambda path: read_pairs(path, []),
    ],
)
def test_a_named_pipe_is_not_waited_for(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FcnCaffeError, match="pipe"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("dim: 5 dim: 1", r"does not hold the 6 values of 2x3\. Correct a size"),
        ("dim: -1 dim: -1", r"has more than one -1\. Keep one"),
        ("dim: -2", r"a size below -1\. Correct it"),
    ],
)
def test_a_shape_that_does_not_fit_says_what_to_do(shape: str, words: str) -> None:
    layers = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 2 dim: 3 } } }'
    reshape = f'layer {{ name: "r" type: "Reshape" bottom: "d" top: "r" reshape_param {{ shape {{ {shape} }} }} }}'
    with pytest.raises(FcnCaffeError, match=rf"layer 'r' \(Reshape\): .*{words}"):
        make_net(layers + reshape)


def test_a_cache_of_numbers_beyond_float_is_none(tmp_path: Path) -> None:
    known = {"for": {}, "choices": [], "checks": {"a": [10**400, 1.0, None, None]}}
    (tmp_path / "ways.json").write_text(json.dumps(known))
    assert _read_cache(tmp_path / "ways.json", {}) == (None, {})
