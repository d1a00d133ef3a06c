"""Images as OpenCV 4.8.1 (and 3.4.18, the same numbers) decoded and resized them: golden/opencv.npz."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from oracle import load
from PIL import Image
from places import SHARED

from fcn_caffe.data.readers.datum import datum_of_image
from fcn_caffe.data.readers.image_list import read_image_list
from fcn_caffe.data.readers.opencv_images import decode_image, encode_image, read_image_bgr
from fcn_caffe.data.readers.resize import resize
from fcn_caffe.errors import DataError

GOLDEN = load("opencv")
REAL = SHARED / "data" / "caffe" / "lmdb"


@pytest.mark.parametrize("case", sorted(key.removesuffix("/in") for key in GOLDEN if key.endswith("/in")))
def test_resize_is_opencvs_to_the_bit(case: str) -> None:
    wanted = GOLDEN[f"{case}/out"]
    assert np.array_equal(resize(GOLDEN[f"{case}/in"], *wanted.shape[:2]), wanted)


def test_resize_to_the_same_size_is_a_copy() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    pixels = resize(image, 3, 4)
    assert np.array_equal(pixels, image) and pixels is not image and pixels.base is not image


@pytest.mark.parametrize(
    "case", sorted(key for key in GOLDEN if key.startswith("decode/") and not key.endswith("/file"))
)
def test_files_are_decoded_as_opencv_does(case: str) -> None:
    file, colour = case.removeprefix("decode/").split("/")
    pixels = decode_image(GOLDEN[f"decode/{file}/file"].tobytes(), file, colour)
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, GOLDEN[case])


@pytest.mark.parametrize(
    ("data", "colour", "message"),
    [
        (b"", "color", "x: not an image Pillow can read"),
        (b"GIF89a nonsense", "color", "x: (not an image|cannot be decoded)"),
        (GOLDEN["decode/rgb.png/file"].tobytes()[:200], "color", "x: cannot be decoded .*looks damaged"),
        (GOLDEN["decode/deep.png/file"].tobytes(), "native", "x: holds more than 8 bits"),
        (GOLDEN["decode/deep_rgb.png/file"].tobytes(), "native", "x: holds more than 8 bits"),
    ],
)
def test_what_cannot_be_decoded_is_named(data: bytes, colour: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_image(data, "x", colour)


def test_floating_point_pixels_are_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.ones((3, 3), np.float32)).save(buffer, "TIFF")
    with pytest.raises(DataError, match=r"x: holds float32 pixels. Convert it to 8 bits"):
        decode_image(buffer.getvalue(), "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png: cannot be read \(No such file"):
        read_image_bgr(tmp_path / "none.png")


def test_encoding_keeps_png_exact_and_refuses_the_unknown() -> None:
    image = np.random.RandomState(0).randint(0, 256, (5, 6, 3)).astype(np.uint8)
    assert np.array_equal(decode_image(encode_image(image, "png", "x"), "x"), image)
    assert decode_image(encode_image(image[:, :, :1], "jpg", "x"), "x", "native").shape == (5, 6, 1)
    with pytest.raises(DataError, match=r"x: images cannot be encoded as 'doc'. Use png or jpg"):
        encode_image(image, "doc", "x")


def test_lists_are_a_path_and_a_label_a_line(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("a b.png 3\r\n\n  é.png\t-1  \n".encode() + b"\xff.png 2\n")
    assert read_image_list(path) == [("a b.png", 3), ("é.png", -1), ("\udcff.png", 2)]
    for text, message in (
        ("a.png 1\nb.png", r'list.txt:2: expected "PATH LABEL" with an integer label, got \'b.png\''),
        ("a.png one", "list.txt:1: expected"),
        ("7", "list.txt:1: expected"),
        (" \n", "the list of images is empty"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_image_list(path)
    with pytest.raises(DataError, match=r"none: the list of images cannot be read"):
        read_image_list(tmp_path / "none")


@pytest.mark.needs_data("data/caffe/lmdb")
def test_datums_of_caffes_own_database_are_made_again_to_the_byte() -> None:
    from fcn_caffe.data.readers.databases import read_records

    records = dict(read_records(REAL / "test_lmdb", "lmdb"))
    assert len(records) == 8
    for number, (name, label) in enumerate(read_image_list(REAL / "test_files.txt")):
        image = read_image_bgr(REAL / "test_raw_img" / name, "color", 256, 256)
        assert datum_of_image(image, label).SerializeToString() == records[f"{number:08d}_{name}".encode()], name
