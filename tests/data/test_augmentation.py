"""Random changes of images and labels: values by hand on tiny images, windows, seeds, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fcn_caffe.data.augmentation import PAPER, Augmentation, change_colours, fit_batch, parse_augmentation
from fcn_caffe.errors import DataError

MEAN = np.array((100.0, 110.0, 120.0))


def scene(height=6, width=8):
    """An image whose first channel is its label's number plus 1, so that both must move alike."""
    label = np.arange(height * width, dtype=np.float32).reshape(1, height, width)
    return np.concatenate([label + 1, 2 * label + 1, label * 0 + 7]), label


def change(options, image, label, seed=0, void=255):
    augmentation = Augmentation.read(options, "test")
    (image,), (label,) = augmentation.change([image], [label], np.random.default_rng(seed), [void], MEAN)
    return image, label


def seeds(options, count=30):
    return [change(options, *scene(), seed) for seed in range(count)]


def test_nothing_changes_by_default():
    image, label = scene()
    found = change({}, image, label)
    assert np.array_equal(found[0], image) and np.array_equal(found[1], label)


def test_mirroring_takes_half_of_the_images_and_labels_with_them():
    image, label = scene()
    mirrored = 0
    for moved, moved_label in seeds({"mirror": True}):
        turned = not np.array_equal(moved, image)
        mirrored += turned
        assert np.array_equal(moved, image[..., ::-1] if turned else image)
        assert np.array_equal(moved_label, label[..., ::-1] if turned else label)
    assert 8 < mirrored < 22


def test_jitter_fills_with_the_mean_and_void():
    shifts = set()
    for moved, moved_label in seeds({"jitter": 2}, 200):
        inside = moved_label[0] != 255
        assert np.array_equal(moved[0][inside], moved_label[0][inside] + 1) and not moved[:, ~inside].any()
        rows, columns = np.nonzero(inside)
        number = int(moved_label[0, rows[0], columns[0]])
        shift = rows[0] - number // 8, columns[0] - number % 8
        assert inside.sum() == (6 - abs(shift[0])) * (8 - abs(shift[1]))
        shifts.add(shift)
    assert shifts == {(down, along) for down in range(-2, 3) for along in range(-2, 3)}


class Fixed:
    """Draws that are all of one value: rotate turns by all of it, one way with 1, the other with 0."""

    def __init__(self, value):
        self.value = value

    def random(self, count):
        return np.full(count, self.value)


@pytest.mark.parametrize(("degrees", "value", "quarters"), [(90, 1.0, 3), (90, 0.0, 1), (180, 1.0, 2), (180, 0.5, 0)])
def test_turns_by_hand(degrees, value, quarters):
    image, label = scene(5, 5)
    (turned,), (turned_label,) = Augmentation(rotate=degrees).change([image], [label], Fixed(value), [255], MEAN)
    inner = np.s_[1:-1, 1:-1]  # the outermost pixels lie on the border to the last bit
    assert np.array_equal(turned_label[0][inner], np.rot90(label[0], quarters)[inner])
    np.testing.assert_allclose(turned[0][inner], np.rot90(image[0], quarters)[inner], rtol=1e-5)


def test_a_rotated_image_and_its_label_end_at_the_same_pixels():
    image, label = np.ones((3, 31, 47), np.float32), np.zeros((1, 31, 47), np.float32)
    void = 0
    for seed in range(20):
        for options in ({"rotate": 40}, {"rotate": 40, "scale": (0.5, 2), "mirror": True}):
            turned, turned_label = change(options, image, label, seed)
            assert np.array_equal(turned[0] == 0, turned_label[0] == 255)
            void += int((turned_label == 255).sum())
    assert void > 1000


def test_scaling_by_two_is_bilinear_and_nearest():
    image = np.array([[[0.0, 4.0]]], np.float32).repeat(3, 0)
    label = np.array([[[3.0, 5.0]]], np.float32)
    found, found_label = change({"scale": (2, 2)}, image, label)
    assert found[0].tolist() == [[0, 1, 3, 4]] * 2 and found_label[0].tolist() == [[3, 3, 5, 5]] * 2


def test_shrinking_counts_every_pixel():
    """One bright pixel of 4 x 4: a filter that takes four of them may miss it."""
    for place in range(16):
        image = np.zeros((3, 16), np.float32)
        image[:, place] = 16
        found, label = change({"scale": (0.25, 0.25)}, image.reshape(3, 4, 4), np.zeros((1, 4, 4), np.float32))
        assert found.shape == (3, 1, 1) and 0.5 < found[0, 0, 0] < 2 and label.shape == (1, 1, 1)


def test_scales_are_even_in_their_logarithm():
    sizes = [change({"scale": (0.5, 2)}, *scene(40, 60), seed)[1].shape[1:] for seed in range(200)]
    halved = np.mean([height < 40 for height, _ in sizes])
    assert 0.38 < halved < 0.62 and min(sizes) >= (20, 30) and max(sizes) <= (80, 120)


def test_windows_have_their_size_and_come_from_everywhere():
    found = [label for _, label in seeds({"crop": (3, 4)}, 300)]
    assert {label.shape for label in found} == {(1, 3, 4)}
    assert {float(label[0, 0, 0]) for label in found} == {row * 8.0 + column for row in range(4) for column in range(5)}


def test_a_window_larger_than_the_image_holds_all_of_it_anywhere():
    places = set()
    for moved, moved_label in seeds({"crop": (7, 10)}, 100):
        assert np.array_equal(np.sort(moved_label[moved_label != 255]), np.arange(48))
        assert np.array_equal(moved[0], np.where(moved_label[0] == 255, 0, moved_label[0] + 1))
        places.add(tuple(np.argwhere(moved_label[0] == 0)[0]))
    assert places == {(down, along) for down in range(2) for along in range(3)}


def test_windows_have_the_least_share_of_labelled_pixels():
    label = np.full((1, 20, 20), 255, np.float32)
    label[:, :10, :10] = 1
    image = np.zeros((3, 20, 20), np.float32)
    free, held = (
        [float((change({"crop": (8, 8), **more}, image, label, seed)[1] == 1).mean()) for seed in range(100)]
        for more in ({}, {"least": 0.5})
    )
    assert np.mean([share >= 0.5 for share in free]) < 0.4 and np.mean([share >= 0.5 for share in held]) > 0.85
    # Where there is none, the best of those that were drawn is taken.
    label[:, 2:, :] = 255
    shares = [float((change({"crop": (8, 8), "least": 0.9}, image, label, seed)[1] == 1).mean()) for seed in range(60)]
    assert np.mean([share > 0 for share in shares]) > 0.6 and max(shares) <= 0.25


def test_colours_by_hand():
    image = np.array([[[10.0, 50.0]], [[20.0, 50.0]], [[30.0, 50.0]]]) - MEAN[:, None, None]
    bright = change_colours(image, MEAN, np.array((2.0, 1.0, 1.0))) + MEAN[:, None, None]
    np.testing.assert_allclose(bright[:, 0], [[20, 100], [40, 100], [60, 100]], rtol=1e-5)
    grey = 0.114 * 10 + 0.587 * 20 + 0.299 * 30
    faded = change_colours(image, MEAN, np.array((1.0, 1.0, 0.0))) + MEAN[:, None, None]
    np.testing.assert_allclose(faded[:, 0], [[grey, 50]] * 3, rtol=1e-5)
    middle = (grey + 50) / 2
    flat = change_colours(image, MEAN, np.array((1.0, 0.5, 1.0))) + MEAN[:, None, None]
    np.testing.assert_allclose(flat[2, 0], [middle + (30 - middle) / 2, middle + (50 - middle) / 2], rtol=1e-5)
    cut = change_colours(image, MEAN, np.array((9.0, 1.0, 1.0))) + MEAN[:, None, None]
    np.testing.assert_allclose(cut[:, 0, 1], [255] * 3, rtol=1e-5)


def test_colour_leaves_labels_and_other_images():
    image, label = scene()
    augmentation = Augmentation(colour=0.4)
    images, labels = augmentation.change([image, image], [label], np.random.default_rng(1), [255], MEAN)
    assert not np.array_equal(images[0], image) and np.array_equal(images[1], image) and labels[0] is not label
    assert np.array_equal(labels[0], label)


def test_one_option_does_not_change_what_another_draws():
    whole = {"mirror": True, "jitter": 1, "crop": (4, 5)}
    for seed in range(10):
        plain = change(whole, *scene(), seed)[1]
        assert np.array_equal(change({**whole, "colour": 0.3}, *scene(), seed)[1], plain)


def test_labels_keep_their_type_and_their_numbers():
    image, label = scene()
    for dtype in (np.uint8, np.float32, np.int32):
        moved = change({"rotate": 20, "scale": (1.3, 1.3)}, image, label.astype(dtype))[1]
        assert moved.dtype == dtype and set(moved.ravel().tolist()) <= {*range(48), 255}


def test_arguments_of_the_command_line():
    text = "mirror,scale=0.5:2,rotate=10,colour=0.4,crop=320x480,least=0.5,jitter=3"
    wanted = Augmentation(True, 3, (0.5, 2.0), 10.0, 0.4, (320, 480), 0.5)
    assert parse_augmentation(text) == wanted and Augmentation.read(wanted.options(), "x") == wanted
    assert parse_augmentation("paper") == parse_augmentation(PAPER) == Augmentation(True, 32)
    assert parse_augmentation("paper,scale=1.5") == Augmentation(True, 32, (1.5, 1.5))
    assert Augmentation().options() == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("miror", 'unknown option "miror". Did you mean "mirror"'),
        ("hue=0.1", 'unknown option "hue"'),
        ("mirror=yes", "mirror should be True or False, got 'yes'"),
        ("jitter=1.5", "jitter should be a whole number of pixels, at most 65536, got '1.5'"),
        ("scale=2:1", "scale should be the least and the greatest factor"),
        ("scale=0:1", "scale should be"),
        ("rotate=nan", "rotate should be degrees from 0 to 180"),
        ("colour=1", "colour should be a share from 0, below 1"),
        ("crop=320", "crop should be the height and width"),
        ("crop=0x5", "crop should be the height and width"),
        ("crop=99999x5", "at most 65536, got (99999, 5)"),
        ("jitter=1,mirror,jitter=2", 'has "jitter" twice'),
        ("least=0.5", "Give crop too, or leave least out"),
        ("least=2", "least should be a share from 0 to 1"),
        ("", "unknown option"),
    ],
)
def test_wrong_arguments(text, message):
    with pytest.raises(DataError, match="augment") as error:
        parse_augmentation(text)
    assert message in str(error.value)


def test_options_that_are_no_dict():
    with pytest.raises(DataError, match="augment should be a dict"):
        Augmentation.read("mirror", "FolderSegData")


def test_batches_are_padded_or_cropped_to_one_size():
    small, large = np.ones((3, 2, 4), np.float32), np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    labels = np.zeros((1, 2, 4), np.uint8), np.ones((1, 4, 5), np.uint8)
    samples = [(small, labels[0]), (large, labels[1])]
    data, label = fit_batch(samples, [0, 255], "pad")
    assert data.shape == (2, 3, 4, 5) and label.shape == (2, 1, 4, 5) and label.dtype == np.uint8
    assert np.array_equal(data[0, :, :2, :4], small) and not data[0, :, 2:].any() and not data[0, :, :, 4:].any()
    assert (label[0, :, 2:] == 255).all() and (label[0, :, :, 4:] == 255).all() and np.array_equal(data[1], large)
    data, label = fit_batch(samples, [0, 255], "crop")
    assert data.shape == (2, 3, 2, 4) and np.array_equal(data[1], large[:, 1:3, :4]) and not (label == 255).any()
