"""caffe.Classifier and caffe.Detector on nets whose answers can be worked out."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import input_layer, layer
from PIL import Image

import fcn_caffe.pycaffe as caffe
from fcn_caffe import FcnCaffeError

CONV = "convolution_param { num_output: 3 kernel_size: 1 bias_term: false }"


@pytest.fixture
def files(tmp_path):
    """A net that gives the sum of each channel, red, green and blue in the image's order, and its weights."""
    net = tmp_path / "net.prototxt"
    net.write_text(
        input_layer("data", 2, 3, 2, 2)
        + layer("copy", "Convolution", "data", more=CONV)
        + layer("sums", "Reduction", "copy", more="reduction_param { axis: 2 }")
    )
    made = caffe.Net(str(net), caffe.TEST)
    made.params["copy"][0].data[...] = np.eye(3)[:, :, None, None]
    made.save(str(tmp_path / "net.caffemodel"))
    return str(net), str(tmp_path / "net.caffemodel")


def image(height=4, width=4):
    """Pixels that are their row, column and product."""
    down, across = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([down, across, down * across], axis=2)


def test_the_centre_crop(files):
    net = caffe.Classifier(*files, image_dims=[4, 4])
    found = net.predict([image(), image() + 1, image() + 2], oversample=False)  # more than a batch
    assert found[:, 0] == pytest.approx([6, 10, 14]) and found[0] == pytest.approx([6, 6, 9])
    assert isinstance(net, caffe.Net) and net.crop_dims.tolist() == [2, 2] and list(net.image_dims) == [4, 4]


def test_ten_crops_are_averaged(files):
    net = caffe.Classifier(*files, image_dims=(4, 4))
    found = net.predict([image(), image() + 1])
    # Over the crops rows sum to 2, 2, 10, 10, 6; products, the product of two sums: 1, 5, 5, 25, 9.
    assert found.shape == (2, 3) and found[0] == pytest.approx([6, 6, 9]) and found[1] == pytest.approx([10, 10, 13])


def test_images_are_resized_to_the_input_by_default(files):
    net = caffe.Classifier(*files)
    assert net.predict([image()], oversample=False)[0] == pytest.approx([6, 6, 9])
    assert net.image_dims.tolist() == [2, 2]


def test_preprocessing(files):
    net = caffe.Classifier(*files, mean=np.array([1.0, 2, 3]), raw_scale=2, input_scale=10, channel_swap=(2, 1, 0))
    found = net.predict([image(2, 2)], oversample=False)[0]
    assert found == pytest.approx([10 * (2 * 1 - 4), 10 * (2 * 2 - 8), 10 * (2 * 2 - 12)])
    with pytest.raises(ValueError, match="Channel swap"):
        caffe.Classifier(*files, channel_swap=(0, 1))
    with pytest.raises(ValueError, match="no images"):
        net.predict([])


@pytest.fixture
def photograph(tmp_path):
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[2:4, 3:5] = (51, 102, 255)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    return str(tmp_path / "photograph.png")


def test_windows(files, photograph):
    net = caffe.Detector(*files)
    windows = [np.array([2, 3, 4, 5]), np.array([0, 0, 2, 2]), np.array([2, 2, 4, 4])]
    found = net.detect_windows([(photograph, windows), (photograph, windows[:1])])
    assert [detection["filename"] for detection in found] == [photograph] * 4
    assert found[1]["window"] is windows[1]
    assert found[0]["prediction"] == pytest.approx([0.8, 1.6, 4]) == found[3]["prediction"]
    assert found[1]["prediction"] == pytest.approx([0, 0, 0]) and found[2]["prediction"] == pytest.approx([0.4, 0.8, 2])
    assert np.array_equal(net.crop(image(), [1, 0, 3, 4]), image()[1:3])


@pytest.fixture
def wide_files(tmp_path):
    """A net of an 8 x 8 input that gives it back."""
    (tmp_path / "wide.prototxt").write_text(
        input_layer("data", 1, 3, 8, 8) + layer("copy", "Convolution", "data", more=CONV)
    )
    caffe.Net(str(tmp_path / "wide.prototxt"), caffe.TEST).save(str(tmp_path / "wide.caffemodel"))
    return str(tmp_path / "wide.prototxt"), str(tmp_path / "wide.caffemodel")


def test_windows_with_context(wide_files):
    mean = np.array([10.0, 20, 30])
    net = caffe.Detector(*wide_files, mean=mean, raw_scale=10, channel_swap=(2, 1, 0), context_pad=2)
    assert net.crop_dims.tolist() == [8, 8, 3]
    assert net.crop_mean.ravel() == pytest.approx([3, 2, 1])  # RGB again, before the scale
    # A window of 3 x 3 pixels, counted as 4 x 4 as R-CNN does, is half of the input: 8 x 8 pixels around its centre.
    big = np.full((20, 20, 3), 7.0, np.float32)
    assert net.crop(big, np.array([8, 8, 11, 11])) == pytest.approx(np.full((8, 8, 3), 7))
    # At the corner, what lies outside the image is the mean.
    corner = net.crop(big, np.array([0, 0, 3, 3]))
    assert corner.shape == (8, 8, 3) and (corner[-1, -1] == 7).all() and corner[0, 0] == pytest.approx([3, 2, 1])
    # The box is -2 to 6, nine pixels with its end; two of them outside are round(2 * 8 / 9) rows of the input.
    assert (corner[:, -1, 0] == 3).sum() == 2
    with pytest.raises(ValueError, match="has no pixel in an image of 20 x 20"):
        net.crop(big, np.array([40, 40, 44, 44]))
    net.configure_crop(None)
    assert net.crop(big, np.array([0, 0, 3, 3])).shape == (3, 3, 3)


def test_context_without_a_mean_is_black(wide_files):
    net = caffe.Detector(*wide_files, context_pad=2)
    assert not net.crop_mean.any() and net.context_pad == 2


def test_what_the_detector_refuses(files):
    net = caffe.Detector(*files)
    with pytest.raises(NotImplementedError, match="MATLAB") as caught:
        net.detect_selective_search(["a.jpg"])
    assert isinstance(caught.value, FcnCaffeError)
    with pytest.raises(ValueError, match="no windows"):
        net.detect_windows([])
    with pytest.raises(ValueError, match="has no pixel"):
        net.crop(image(), [2, 2, 2, 2])


@pytest.mark.parametrize(
    ("images", "what"), [(image(), "4x3"), ([image()[:, :, 0]], "4x4"), (["photo.jpg"], "str"), ([image(0)], "0x4x3")]
)
def test_what_is_no_image_is_told(files, images, what):
    with pytest.raises(FcnCaffeError, match=f"an image is an array of height x width x channels, not {what}"):
        caffe.Classifier(*files).predict(images)


def test_crops_of_nothing_are_told():
    for images in ([], [image()[:, :, 0]]):
        with pytest.raises(FcnCaffeError, match="oversample takes a list of images"):
            caffe.io.oversample(images, (2, 2))


def test_context_that_leaves_no_pixel_is_told(wide_files):
    with pytest.raises(FcnCaffeError, match="context_pad 9 leaves no pixel of inputs of"):
        caffe.Detector(*wide_files, context_pad=9)
