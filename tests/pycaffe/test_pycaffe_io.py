"""caffe.io: messages, images from files, resizing, crops and the Transformer, by numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import fcn_caffe.pycaffe as caffe
from fcn_caffe import DataError
from fcn_caffe.pycaffe.proto import caffe_pb2

io = caffe.io


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_blobs_of_either_shape():
    blob = caffe_pb2.BlobProto(data=range(6), diff=range(6, 12), num=1, channels=2, height=1, width=3)
    array = io.blobproto_to_array(blob)
    assert array.shape == (1, 2, 1, 3) and array.dtype == np.float64 and array.ravel().tolist() == [0, 1, 2, 3, 4, 5]
    assert io.blobproto_to_array(blob, return_diff=True).ravel().tolist() == [6, 7, 8, 9, 10, 11]
    new = caffe_pb2.BlobProto(data=range(6), shape={"dim": [2, 3]})
    assert io.blobproto_to_array(new).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert io.blobproto_to_array(caffe_pb2.BlobProto(data=[123.0])) == 123
    assert io.blobproto_to_array(caffe_pb2.BlobProto(double_data=[0.1], shape={"dim": [1]})).tolist() == [0.1]
    with pytest.raises(ValueError, match=r"BlobProto says \(scalar\), but holds 2 numbers"):
        io.blobproto_to_array(caffe_pb2.BlobProto(data=[1, 2]))


def test_arrays_as_blobs():
    blob = io.array_to_blobproto(numbers(2, 3), diff=-numbers(2, 3))
    assert list(blob.shape.dim) == [2, 3] and list(blob.data) == [0, 1, 2, 3, 4, 5]
    assert list(blob.diff) == [0, -1, -2, -3, -4, -5] and not io.array_to_blobproto(numbers(1)).diff
    arrays = [numbers(2, 3), numbers(1, 1, 4)]
    back = io.blobprotovector_str_to_arraylist(io.arraylist_to_blobprotovector_str(arrays))
    assert [array.tolist() for array in back] == [array.tolist() for array in arrays]


def test_datums():
    image = numbers(3, 2, 2).astype(np.uint8)
    datum = io.array_to_datum(image, label=7)
    assert (datum.channels, datum.height, datum.width, datum.label) == (3, 2, 2, 7) and datum.data == bytes(range(12))
    back = io.datum_to_array(datum)
    assert back.dtype == np.uint8 and np.array_equal(back, image)
    back[:] = 0
    floats = io.array_to_datum(numbers(1, 2, 2) / 2)
    assert not floats.HasField("label") and not floats.data and list(floats.float_data) == [0, 0.5, 1, 1.5]
    assert io.datum_to_array(floats).dtype == np.float64
    assert len(datum.SerializeToString()) > len(io.array_to_datum(image).SerializeToString())
    with pytest.raises(ValueError, match="Incorrect array shape"):
        io.array_to_datum(numbers(2, 2))
    with pytest.raises(ValueError, match="Datum says 1x2x2, but holds 3 numbers"):
        io.datum_to_array(caffe_pb2.Datum(channels=1, height=2, width=2, data=b"abc"))


IMAGES = {
    "RGB": (Image.new("RGB", (3, 2), (255, 51, 0)), [1, 0.2, 0], 0.2125 + 0.2 * 0.7154),
    "grey": (Image.new("L", (3, 2), 51), [0.2, 0.2, 0.2], 0.2),
    "alpha": (Image.new("RGBA", (3, 2), (255, 51, 0, 9)), [1, 0.2, 0], 0.2125 + 0.2 * 0.7154),
    "grey alpha": (Image.new("LA", (3, 2), (51, 9)), [0.2, 0.2, 0.2], 0.2),
    "bits": (Image.new("1", (3, 2), 1), [1, 1, 1], 1),
    "palette": (Image.new("RGB", (3, 2), (0, 255, 51)).quantize(4), [0, 1, 0.2], 0.7154 + 0.2 * 0.0721),
    "16 bits": (Image.fromarray(np.full((2, 3), 13107, np.uint16)), [0.2, 0.2, 0.2], 0.2),
}


@pytest.mark.parametrize("case", IMAGES)
def test_load_image(case, tmp_path):
    image, colour, grey = IMAGES[case]
    image.save(tmp_path / "image.png")
    found = io.load_image(str(tmp_path / "image.png"))
    assert found.shape == (2, 3, 3) and found.dtype == np.float32
    assert found == pytest.approx(np.broadcast_to(np.float32(colour), (2, 3, 3)), abs=1e-7)
    found = io.load_image(str(tmp_path / "image.png"), color=False)
    assert found.shape == (2, 3, 1) and found.dtype == np.float32
    assert found == pytest.approx(np.full((2, 3, 1), grey), abs=1e-6)


def test_images_that_cannot_be_loaded(tmp_path):
    with pytest.raises(OSError, match="no such file") as caught:
        io.load_image(str(tmp_path / "none.png"))
    assert isinstance(caught.value, DataError)
    Image.fromarray(np.full((2, 2), 2.0, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(OSError, match="between -1 and 1"):
        io.load_image(tmp_path / "float.tif")


def rows(*values):
    return np.float32(values)[:, None, None]


def test_resizing_lays_pixel_centres_on_pixel_centres():
    # Twice as long: centres at -1/4, 1/4, 3/4, 5/4 of the old; beyond the edge lies the minimum, 1.
    assert io.resize_image(rows(1, 5), (4, 1)).ravel().tolist() == [1, 2, 4, 4]
    assert io.resize_image(rows(5, 1), (4, 1)).ravel().tolist() == [4, 4, 2, 1]
    # A third as long: the middle pixels, unsmoothed.
    assert io.resize_image(rows(0, 10, 0, 0, 4, 0), (2, 1)).ravel().tolist() == [10, 4]
    # Half as long: halfway between two.
    assert io.resize_image(rows(0, 2, 10, 20), (2, 1)).ravel().tolist() == [1, 15]


def test_resizing_both_axes_and_channels():
    image = np.stack([numbers(4, 6), 100 - numbers(4, 6), np.zeros((4, 6))], axis=2)
    found = io.resize_image(image, np.array([2, 3]))
    assert found.shape == (2, 3, 3) and found.dtype == np.float32
    assert found[:, :, 0] == pytest.approx(np.array([[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]), abs=1e-5)
    assert found[:, :, 1] == pytest.approx(100 - found[:, :, 0], abs=1e-4) and found[:, :, 2] == pytest.approx(0)
    assert io.resize_image(image, (4, 6)) == pytest.approx(image, abs=1e-5)
    assert io.resize_image(numbers(4, 6, 1).astype(np.uint8), (2, 3))[:, :, 0] == pytest.approx(found[:, :, 0])


def test_resizing_of_constants_other_orders_and_other_channels():
    flat = io.resize_image(np.full((2, 2, 3), 7.0), (5, 4))
    assert flat.shape == (5, 4, 3) and flat.dtype == np.float32 and (flat == 7).all()
    assert io.resize_image(rows(1, 5), (4, 1), interp_order=0).ravel().tolist() == [1, 1, 5, 5]
    step = io.resize_image(rows(0, 0, 0, 1, 1, 1), (12, 1), interp_order=3).ravel()
    assert step.min() == 0 and step.max() == 1 and step[5] == pytest.approx(1 - step[6], abs=0.05)
    # Two channels go corner on corner.
    found = io.resize_image(np.float32([[[0, 4]], [[3, 1]]]), (4, 1))
    assert found.shape == (4, 1, 2) and found.dtype == np.float32
    assert found[:, 0, 0] == pytest.approx([0, 1, 2, 3]) and found[:, 0, 1] == pytest.approx([4, 3, 2, 1])


def test_oversample():
    image = numbers(4, 5, 1)
    crops = io.oversample([image, image + 100], (2, 3))
    assert crops.shape == (20, 2, 3, 1) and crops.dtype == np.float32
    assert crops[:5, 0, 0, 0].tolist() == [0, 2, 10, 12, 6]  # corners by rows, then the centre
    assert crops[5:10, 0, :, 0].tolist() == [[2, 1, 0], [4, 3, 2], [12, 11, 10], [14, 13, 12], [8, 7, 6]]
    assert np.array_equal(crops[10:], crops[:10] + 100)
    with pytest.raises(ValueError, match="crops of 5 x 3 do not fit in images of 4 x 5"):
        io.oversample([image], (5, 3))


@pytest.fixture
def transformer():
    return io.Transformer({"data": (1, 3, 2, 2)})


def test_preprocess_in_order(transformer):
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", np.array([1.0, 2.0, 3.0]))
    transformer.set_input_scale("data", 0.5)
    image = np.zeros((2, 2, 3), np.float32)
    image[0, 1] = (1, 0.2, 0)  # red, green, blue
    found = transformer.preprocess("data", image)
    assert found.dtype == np.float32 and found.shape == (3, 2, 2)
    assert found[:, 0, 1].tolist() == [-0.5, 24.5, 126] and found[:, 0, 0].tolist() == [-0.5, -1, -1.5]
    assert transformer.deprocess("data", found[np.newaxis]) == pytest.approx(image, abs=1e-6)
    assert image.max() == 1  # the caller's own is left alone


def test_preprocess_leaves_the_image_alone_whatever_is_set(transformer):
    transformer.set_raw_scale("data", 2)
    image = np.ones((2, 2, 3), np.float32)
    assert transformer.preprocess("data", image).max() == 2 and image.max() == 1


def test_preprocess_resizes(transformer):
    found = transformer.preprocess("data", numbers(4, 4, 3))
    assert np.array_equal(found, io.resize_image(numbers(4, 4, 3), (2, 2)))


def test_means(transformer):
    transformer.set_mean("data", numbers(3))
    assert transformer.mean["data"].shape == (3, 1, 1)
    transformer.set_mean("data", numbers(3, 2, 2))
    assert np.array_equal(transformer.mean["data"], numbers(3, 2, 2))
    transformer.set_mean("data", numbers(3, 4, 4))
    assert transformer.mean["data"] == pytest.approx(numbers(3, 4, 4).reshape(3, 2, 2, 2, 2).mean(axis=(2, 4)))
    grey = io.Transformer({"data": (1, 1, 2, 2)})
    grey.set_mean("data", numbers(2, 2))
    assert grey.preprocess("data", np.zeros((2, 2))).tolist() == [[0, -1], [-2, -3]]


MISTAKES = {
    "blob": (lambda t: t.preprocess("image", numbers(2, 2, 3)), "image is not one of the net inputs: data"),
    "deprocess": (lambda t: t.deprocess("image", numbers(3, 2, 2)), "not one of the net inputs"),
    "scale": (lambda t: t.set_raw_scale("image", 1), "not one of the net inputs"),
    "input scale": (lambda t: t.set_input_scale("image", 1), "not one of the net inputs"),
    "transpose": (lambda t: t.set_transpose("data", (0, 1)), "Transpose order needs to have the same number"),
    "swap": (lambda t: t.set_channel_swap("data", (0, 1)), "Channel swap needs to have the same number"),
    "mean channels": (lambda t: t.set_mean("data", numbers(2)), "Mean channels incompatible with input"),
    "mean axes": (lambda t: t.set_mean("data", numbers(1, 3, 2, 2)), "Mean shape invalid"),
    "mean shape": (lambda t: t.set_mean("data", numbers(1, 2, 2)), "Mean shape incompatible with input shape"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case, transformer):
    act, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message) as caught:
        act(transformer)
    assert isinstance(caught.value, DataError)
