"""transform_param: numbers, what is random, refusals; and mean files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datum_fixtures import images
from places import GOLDEN

from fcn_caffe import TEST, TRAIN
from fcn_caffe.data.readers.mean_image import read_mean_image
from fcn_caffe.data.transformer import Transformer
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import Surroundings
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.proto.blob_file import array_of_blob, blob_of_array, read_blob, write_blob

FORMATS = GOLDEN / "formats"
IMAGE = images(1, 8, 9)[0].transpose(2, 0, 1)


def transformer(text: str, phase: int = TEST, folder: Path | None = None) -> Transformer:
    return Transformer(parse_text(text, caffe_pb2.TransformationParameter), phase, Surroundings(folder=folder))


def transform(text: str, image: np.ndarray = IMAGE, seed: int = 0, **options: object) -> np.ndarray:
    return transformer(text, **options)(image, np.random.default_rng(seed))


def test_nothing_asked_for_is_a_copy_in_float() -> None:
    result = transform("")
    assert result.dtype == np.float32 and np.array_equal(result, IMAGE)
    assert result is not IMAGE


def test_mean_comes_before_scale() -> None:
    image = IMAGE.astype(np.float32)
    scale = np.float32(0.0078125)
    assert np.array_equal(transform("scale: 0.0078125 mean_value: 12.5"), (image - 12.5) * scale)
    mean = np.array([1, 2.5, 3], np.float32)[:, None, None]
    result = transform("mean_value: 1 mean_value: 2.5 mean_value: 3")
    assert np.array_equal(result, image - mean)


def test_float_data_is_transformed_too() -> None:
    image = IMAGE.astype(np.float32) / 3
    assert np.array_equal(transform("scale: 2 mean_value: 1", image), (image - 1) * 2)


@pytest.mark.parametrize(
    ("height", "width", "crop", "top", "left"), [(8, 9, 3, 2, 3), (8, 9, 8, 0, 0), (5, 6, 2, 1, 2)]
)
def test_the_crop_of_the_test_phase_is_the_centre(height: int, width: int, crop: int, top: int, left: int) -> None:
    image = images(1, height, width)[0].transpose(2, 0, 1)
    result = transform(f"crop_size: {crop}", image)
    assert np.array_equal(result, image[:, top : top + crop, left : left + crop])


def test_crop_and_mirror_are_drawn_evenly_and_the_mean_goes_with_the_crop(tmp_path: Path) -> None:
    mean = np.random.RandomState(1).rand(3, 8, 9).astype(np.float32)
    write_blob(tmp_path / "mean.binaryproto", mean)
    plain = IMAGE - mean
    text = f'crop_size: 7 mirror: true mean_file: "{tmp_path / "mean.binaryproto"}"'
    train, random = transformer(text, TRAIN), np.random.default_rng(5)
    windows = {}
    for top in range(2):
        for left in range(3):
            window = plain[:, top : top + 7, left : left + 7]
            windows[window.tobytes()] = (top, left, False)
            windows[window[:, :, ::-1].tobytes()] = (top, left, True)
    counts = dict.fromkeys(windows.values(), 0)
    for _ in range(600):
        counts[windows[train(IMAGE, random).tobytes()]] += 1
    assert min(counts.values()) > 25 and max(counts.values()) < 80, counts


def test_the_mirror_is_random_in_the_test_phase_too() -> None:
    test, random = transformer("mirror: true"), np.random.default_rng(0)
    result = [np.array_equal(test(IMAGE, random), IMAGE) for _ in range(40)]
    assert 8 < sum(result) < 32


@pytest.mark.parametrize(
    ("text", "phase", "random"),
    [("", TRAIN, False), ("crop_size: 3", TRAIN, True), ("crop_size: 3", TEST, False), ("mirror: true", TEST, True)],
)
def test_it_says_whether_it_draws(text: str, phase: int, random: bool) -> None:
    assert transformer(text, phase).is_random is random


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop_size: 9", r"image: the image is 3x8x9, smaller than crop_size 9\. Resize the images or crop less\."),
        (
            'mean_file: "mean.binaryproto"',
            r"the image is 3x8x9, the mean_file 3x8x8\. Make the mean of the same images",
        ),
        (
            "mean_value: 1 mean_value: 2",
            "the image is 3x8x9, but mean_value is given 2 times. Give it once, or",
        ),
        ('mean_value: 1 mean_file: "mean.binaryproto"', "has mean_file and mean_value: keep one of them"),
        ('mean_file: "none"', "none: no such BlobProto file. Looked from .*beside the net"),
        ('mean_file: ""', "no BlobProto file is named"),
    ],
)
def test_refusals(tmp_path: Path, text: str, message: str) -> None:
    write_blob(tmp_path / "mean.binaryproto", np.zeros((3, 8, 8), np.float32))
    with pytest.raises(DataError, match=message):
        transform(text, folder=tmp_path)


def test_force_color_with_force_gray_is_refused_for_encoded_images_only() -> None:
    both = transformer("force_color: true force_gray: true")
    assert both.colour(False) == "native"
    with pytest.raises(DataError, match=r"force_color and force_gray: keep one of them"):
        both.colour(True)


def test_pixels_beyond_float_are_infinite_without_a_warning() -> None:
    assert np.isinf(transform("scale: 3e38 mean_value: -1e38")).all()


# -- mean files ------------------------------------------------------------------------------------------------------


def test_caffes_mean_file_is_read() -> None:
    with np.load(FORMATS / "expected.npz") as expected:
        wanted = expected["mean"]
    result = read_mean_image(FORMATS / "mean.binaryproto")
    assert result.dtype == np.float32 and np.array_equal(result, wanted)


def test_a_mean_file_is_written_as_caffe_does(tmp_path: Path) -> None:
    write_blob(tmp_path / "mean.binaryproto", read_mean_image(FORMATS / "mean.binaryproto"))
    assert (tmp_path / "mean.binaryproto").read_bytes() == (FORMATS / "mean.binaryproto").read_bytes()


def test_blobs_keep_their_shape(tmp_path: Path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_blob(tmp_path / "matrix", matrix, legacy=False)
    assert np.array_equal(read_blob(tmp_path / "matrix"), matrix)
    assert read_blob("matrix", Surroundings(folder=tmp_path)).shape == (2, 3), "looked for beside the net"
    assert array_of_blob(blob_of_array(matrix, legacy=True)).shape == (1, 1, 2, 3)
    double = caffe_pb2.BlobProto(double_data=[1, 2, 3])
    double.shape.dim.append(3)
    assert array_of_blob(double).tolist() == [1, 2, 3]


def test_broken_mean_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match=r"mean.binaryproto: not a binary BlobProto"):
        read_blob(path)
    path.write_bytes(caffe_pb2.BlobProto(num=1, channels=3, height=2, width=2, data=[1]).SerializeToString())
    with pytest.raises(DataError, match=r"the blob's shape is 1x3x2x2, but it holds 1 numbers"):
        read_blob(path)
    path.write_bytes(caffe_pb2.BlobProto(num=-1, channels=-1, height=1, width=1, data=[1]).SerializeToString())
    with pytest.raises(DataError, match=r"the blob's shape is -1x-1x1x1"):
        read_blob(path)
    huge = caffe_pb2.BlobProto()
    huge.shape.dim.extend([0, 1 << 62, 1 << 62])
    with pytest.raises(DataError, match=r"the blob's shape is one no array can have"):
        array_of_blob(huge)
    write_blob(path, np.zeros((2, 3, 1, 1), np.float32))
    with pytest.raises(DataError, match=r"holds a blob of 2x3x1x1, expected one image"):
        read_mean_image(path)
    with pytest.raises(DataError, match=r"cannot be read"):
        read_blob(tmp_path)
    with pytest.raises(DataError, match=r"cannot be written"):
        write_blob(tmp_path / "none" / "mean", np.zeros((1, 1, 1), np.float32))
    with pytest.raises(DataError, match=r"at most 4 axes, this array has 5"):
        write_blob(path, np.zeros((1, 1, 1, 1, 1), np.float32))
