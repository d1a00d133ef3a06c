"""convert_imageset and compute_image_mean: what they write, their flags, refusals, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from datum_fixtures import data_net, images, pull, write_database, write_images
from places import ROOT

from fcn_caffe.commands.compute_image_mean import main as compute_image_mean
from fcn_caffe.commands.convert_imageset import main as convert_imageset
from fcn_caffe.data.readers.databases import read_records, write_records
from fcn_caffe.data.readers.datum import array_of_datum, parse_datum
from fcn_caffe.data.readers.mean_image import read_mean_image
from fcn_caffe.data.readers.opencv_images import read_image_bgr
from fcn_caffe.data.readers.resize import resize
from fcn_caffe.host.atomic import clear_leftovers
from fcn_caffe.proto import caffe_pb2

REAL = ROOT.parent / "shared" / "data" / "caffe" / "lmdb"


def convert(folder: Path, *flags: str, name: str = "db") -> int:
    status: int = convert_imageset([*flags, f"{folder}/", str(folder / "list.txt"), str(folder / name)])
    return status


def datums(path: Path, backend: str = "lmdb") -> dict[str, object]:
    return {key.decode(): parse_datum(value, "x") for key, value in read_records(path, backend)}


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_a_database_of_a_list(tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = images(3)
    write_images(tmp_path, pictures)
    assert convert(tmp_path, "--backend", backend) == 0
    assert capsys.readouterr().out == "A total of 3 images.\nProcessed 3 files.\n"
    found = datums(tmp_path / "db", backend)
    assert list(found) == ["00000000_0.png", "00000001_1.png", "00000002_2.png"]
    for datum, picture, label in zip(found.values(), pictures, (0, 10, 20), strict=True):
        wanted = caffe_pb2.Datum(
            channels=3, height=4, width=5, label=label, encoded=False, data=picture.transpose(2, 0, 1).tobytes()
        )
        assert datum == wanted
    net = data_net("Data", f'source: "{tmp_path / "db"}" batch_size: 3 backend: {backend.upper()}')
    assert pull(net)[0]["label"].tolist() == [0, 10, 20]


@pytest.mark.parametrize("spelling", ["--resize_height=6 --resize_width=3", "-resize_height 6 --resize-width 3"])
def test_resized(tmp_path: Path, spelling: str) -> None:
    pictures = [images(1, 4, 5)[0], images(1, 9, 7)[0]]
    write_images(tmp_path, pictures)
    assert convert(tmp_path, *spelling.split(), "--check_size") == 0
    for datum, picture in zip(datums(tmp_path / "db").values(), pictures, strict=True):
        assert np.array_equal(array_of_datum(datum, "x"), resize(picture, 6, 3).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("flags", "channels"),
    [("--gray", 1), ("-gray", 1), ("--gray=true", 1), ("--gray=false", 3), ("--gray --nogray", 3), ("--no-gray", 3)],
)
def test_grey_in_every_spelling_of_gflags(tmp_path: Path, flags: str, channels: int) -> None:
    write_images(tmp_path, images(1))
    assert convert(tmp_path, *flags.split()) == 0
    datum = next(iter(datums(tmp_path / "db").values()))
    grey = read_image_bgr(tmp_path / "0.png", "gray" if channels == 1 else "color")
    assert datum.channels == channels and datum.data == grey.transpose(2, 0, 1).tobytes()


def test_shuffled_keys_count_in_the_new_order(tmp_path: Path) -> None:
    write_images(tmp_path, images(8))
    assert convert(tmp_path, "--shuffle", "--seed", "1") == 0
    found = datums(tmp_path / "db")
    order = [int(key.split("_")[1].removesuffix(".png")) for key in found]
    assert sorted(order) == list(range(8)) and order != sorted(order)
    assert [key.split("_")[0] for key in found] == [f"{number:08d}" for number in range(8)]
    assert [datum.label for datum in found.values()] == [10 * number for number in order]
    assert convert(tmp_path, "--shuffle", "--seed", "1", name="again") == 0
    assert list(datums(tmp_path / "again")) == list(found)


def test_encoded_images_are_the_files_unless_they_must_change(tmp_path: Path) -> None:
    pictures = images(1, 20, 20)
    write_images(tmp_path, pictures)
    file = (tmp_path / "0.png").read_bytes()
    for flags, same, start in (
        ("--encoded", True, b"\x89PNG"),
        ("--encode_type=png", True, b"\x89PNG"),
        ("--encode_type jpg", False, b"\xff\xd8"),
        ("--encoded --resize_height 9 --resize_width 8", False, b"\x89PNG"),
        ("--encoded --gray", False, b"\x89PNG"),
    ):
        name = flags.replace(" ", "")
        assert convert(tmp_path, *flags.split(), name=name) == 0
        datum = next(iter(datums(tmp_path / name).values()))
        assert datum.encoded and (datum.data == file) is same and datum.data.startswith(start), flags
        assert array_of_datum(datum, "x").shape == (datum.channels, datum.height, datum.width)


def test_images_that_cannot_be_read_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, images(3))
    (tmp_path / "1.png").write_bytes(b"no image")
    assert convert(tmp_path) == 0
    told = capsys.readouterr()
    assert "Processed 2 files. 1 could not be read and were left out." in told.out
    assert "warning: left out: " in told.err and "1.png: not an image Pillow can read" in told.err
    assert list(datums(tmp_path / "db")) == ["00000000_0.png", "00000002_2.png"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "db: exists already. Remove it, or give another name."),
        ("--check_size", "1.png: the image is 6x5x3, the first 4x5x3. Give --resize_height and _width."),
        ("--resize_height 4", "--resize_height and --resize_width go together: give both or neither."),
        ("--seed 1", "--seed is of the random order: give --shuffle too, or leave --seed out."),
        ("--encode_type doc", "error: --encode_type: images cannot be encoded as 'doc'. Use png or jpg."),
    ],
)
def test_convert_refusals_leave_nothing(
    tmp_path: Path, flags: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, [images(1, 4, 5)[0], images(1, 6, 5)[0]])
    if not flags:
        (tmp_path / "db").write_text("mine")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert convert(tmp_path, *flags.split()) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_wrong_root_folder_makes_no_empty_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, images(2))
    assert convert_imageset(["/none/", str(tmp_path / "list.txt"), str(tmp_path / "db")]) == 1
    assert "none of its images could be read. Is ROOTFOLDER right?" in capsys.readouterr().err
    assert not (tmp_path / "db").exists()


@pytest.mark.needs_linux
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    write_images(tmp_path, images(1, 200, 200))
    (tmp_path / "list.txt").write_text("0.png 0\n" * 1_000_000)
    before = sorted(path.name for path in tmp_path.iterdir())
    command = [sys.executable, ROOT / "tools" / "convert_imageset.py"]
    run = subprocess.Popen([*command, f"{tmp_path}/", tmp_path / "list.txt", tmp_path / "db"], stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while sorted(path.name for path in tmp_path.iterdir()) == before and time.monotonic() < end:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=60)[1].endswith(b"interrupted\n")
    assert run.returncode == 130
    clear_leftovers(tmp_path)  # as the next command does, where the machine was too slow for this one
    assert sorted(path.name for path in tmp_path.iterdir()) == before


# -- compute_image_mean ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_the_mean_of_a_database(tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = images(7)
    source = write_database(tmp_path / "db", pictures, backend)
    assert compute_image_mean([str(source), str(tmp_path / "mean"), "--backend", backend]) == 0
    wanted = np.mean(pictures, axis=0).transpose(2, 0, 1)
    assert np.allclose(read_mean_image(tmp_path / "mean"), wanted, rtol=1e-6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["Processed 7 files.", f"Write to {tmp_path / 'mean'}", "Number of channels: 3"]
    for channel, line in enumerate(lines[3:]):
        assert line == f"mean_value channel [{channel}]: {wanted[channel].mean():.6g}"


def test_the_mean_of_float_and_encoded_datums_without_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = caffe_pb2.Datum(channels=1, height=1, width=2, float_data=[0.5, 1])
    write_records(tmp_path / "float", "lmdb", iter([(b"0", numbers.SerializeToString())]))
    assert compute_image_mean([str(tmp_path / "float")]) == 0
    assert "mean_value channel [0]: 0.75" in capsys.readouterr().out
    write_images(tmp_path, images(2))
    assert convert(tmp_path, "--encoded") == 0
    assert compute_image_mean(["-backend=lmdb", str(tmp_path / "db")]) == 0
    assert f"channel [0]: {np.mean(images(2), axis=(0, 1, 2))[0]:.6g}" in capsys.readouterr().out


def test_mean_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_database(tmp_path / "two", [images(1, 4, 5)[0], images(1, 6, 5)[0]])
    write_records(tmp_path / "empty", "lmdb", iter([]))
    for path, message in (
        (source, "record '00000001' is 3x6x5, the first 3x4x5. Make the database with one size of images."),
        (tmp_path / "empty", "the database is empty."),
        (tmp_path / "none", "none: no such database"),
    ):
        assert compute_image_mean([str(path), str(tmp_path / "mean")]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / "mean").exists()


@pytest.mark.needs_data("data/caffe/lmdb")
def test_caffes_own_database_and_mean_are_made_again(tmp_path: Path) -> None:
    flags = ["--resize_height=256", "--resize_width=256"]
    files = [f"{REAL / 'test_raw_img'}/", str(REAL / "test_files.txt"), str(tmp_path / "db")]
    assert convert_imageset([*flags, *files]) == 0
    assert list(read_records(tmp_path / "db", "lmdb")) == list(read_records(REAL / "test_lmdb", "lmdb"))
    assert compute_image_mean([str(tmp_path / "db"), str(tmp_path / "mean")]) == 0
    assert np.abs(read_mean_image(tmp_path / "mean") - read_mean_image(REAL / "test_mean.binaryproto")).max() < 1e-5
    assert os.path.getsize(tmp_path / "mean") == os.path.getsize(REAL / "test_mean.binaryproto")
