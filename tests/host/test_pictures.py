"""Colours, overlays, panels and the files they are written to."""

import numpy as np
import pytest
from PIL import Image

from fcn_caffe.errors import DataError
from fcn_caffe.host import pictures


def test_palette_is_vocs():
    colours = pictures.palette(256)
    expected = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {index: tuple(colours[index].tolist()) for index in expected} == expected
    assert tuple(colours[255].tolist()) == pictures.VOID_COLOUR == (224, 224, 192)
    assert len(np.unique(colours, axis=0)) == 256


def test_label_png_keeps_indices_and_shows_colours(tmp_path):
    label = np.array([[0, 1, 255], [20, 2, 0]])
    pictures.save_labels(tmp_path / "label.png", label)
    with Image.open(tmp_path / "label.png") as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), label)
        assert np.array_equal(np.asarray(image.convert("RGB")), pictures.colour(label))
    assert [file.name for file in tmp_path.iterdir()] == ["label.png"]


def test_own_colours():
    assert pictures.colour(np.array([[1]]), np.array([[9, 9, 9], [1, 2, 3]], np.uint8)).tolist() == [[[1, 2, 3]]]


def test_overlay_leaves_background_and_draws_edges():
    image = np.full((6, 6, 3), 100, np.uint8)
    label = np.zeros((6, 6), np.uint8)
    label[2:, 2:] = 1
    painted = pictures.overlay(image, label, opacity=0.5)
    assert (painted[:2, :2] == 100).all()
    assert painted[4, 4].tolist() == [114, 50, 50]
    assert (painted[2, 2:] == 255).all() and (painted[2:, 2] == 255).all()


def test_panel_size_and_place():
    red = np.zeros((10, 40, 3), np.uint8)
    red[:] = (255, 0, 0)
    canvas = pictures.panel([[red, red], [red]], ["one", "two"], gap=4)
    assert canvas.shape == (16 + 2 * 10 + 3 * 4, 2 * 40 + 3 * 4, 3)
    assert (canvas == (255, 0, 0)).all(-1).sum() == 3 * 400
    assert pictures.panel([[red]], scale=3, gap=0).shape == (30, 120, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pictures.overlay(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3))), "they should be of one size"),
        (lambda: pictures.colour(np.array([256])), "labels run from 256 to 256"),
        (lambda: pictures.save_labels("x.png", np.array([[-1]])), "x.png: labels run from -1 to -1"),
        (lambda: pictures.save_image("x.xyz", np.zeros((1, 1, 3), np.uint8)), "no image format has the suffix '.xyz'"),
        (
            lambda: pictures.panel([[np.zeros((1, 1, 3), np.uint8)] * 2], ["one"]),
            "a title for each of its 2 columns; got 1",
        ),
        (lambda: pictures.panel([]), "a panel needs images"),
    ],
)
def test_errors(call, message):
    with pytest.raises(DataError) as error:
        call()
    assert message in str(error.value)


def test_overlay_of_many_rows_is_the_overlay_of_its_parts(monkeypatch):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (11, 6, 3)).astype(np.uint8)
    label = generator.integers(0, 3, (11, 6)).astype(np.uint8)
    whole = pictures.overlay(image, label)
    monkeypatch.setattr(pictures, "OVERLAY_ROWS", 4)
    assert (pictures.overlay(image, label) == whole).all()
