"""The generated data set: reproducible, in range, with every class, void only at edges, and quick to draw."""

import json

import numpy as np
import pytest
from data_layers import start, step

from fcn_caffe.data.sets import shapes_scenes as shapes
from fcn_caffe.data.sets.shapes_layers import ShapesClassData, ShapesSegData
from fcn_caffe.errors import DataError


def test_same_seed_same_picture_and_others_differ():
    image, label = shapes.draw_scene(3, "train", 5)
    again, label_again = shapes.draw_scene(3, "train", 5)
    assert np.array_equal(image, again) and np.array_equal(label, label_again)
    for other in ((3, "train", 6), (3, "val", 5), (4, "train", 5)):
        assert not np.array_equal(image, shapes.draw_scene(*other)[0])


def test_labels_hold_every_class_and_void_touches_an_edge():
    labels = set()
    for index in range(30):
        image, label = shapes.draw_scene(0, "val", index, 96)
        assert image.shape == (96, 96, 3) and image.dtype == label.dtype == np.uint8
        labels |= set(np.unique(label).tolist())
    assert labels == {0, 1, 2, 3, 4, 5, 255}


def test_colour_does_not_tell_the_class():
    means = {kind: [] for kind in range(1, 6)}
    for index in range(600):
        image, kind = shapes.draw_crop(0, "train", index, 32)
        if kind:
            means[kind].append(image[10:22, 10:22].mean((0, 1)))
    centres = np.array([np.mean(values, 0) for values in means.values()])
    spread = np.mean([np.std(values, 0) for values in means.values()])
    assert np.ptp(centres, axis=0).max() < spread


def test_layer_gives_batches_in_order_and_resumes():
    options = {"split": "train", "batch": 2, "size": 64, "seed": 1}
    layer, blobs = start(ShapesSegData, **options)
    data, label = step(layer, blobs)
    assert data.shape == (2, 3, 64, 64) and label.shape == (2, 1, 64, 64)
    image, truth = shapes.draw_scene(1, "train", 1, 64)
    assert np.array_equal(label[1, 0], truth)
    assert np.array_equal(data[1].transpose(1, 2, 0)[:, :, ::-1] + 120, image)
    state = json.loads(json.dumps(layer.get_state()))
    expected = step(layer, blobs)[0]
    resumed, blobs = start(ShapesSegData, **options)
    resumed.set_state(state)
    assert np.array_equal(step(resumed, blobs)[0], expected)


def test_count_starts_over():
    layer, blobs = start(ShapesSegData, split="val", count=2, size=32)
    first, second, third = (step(layer, blobs)[0] for _ in range(3))
    assert np.array_equal(first, third) and not np.array_equal(first, second)
    assert len(layer) == 2


def test_crops_are_labelled_in_turn():
    layer, blobs = start(ShapesClassData, split="train", batch=8, size=48)
    data, label = step(layer, blobs)
    assert data.shape == (8, 3, 48, 48) and label.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "ShapesSegData: split 'trian' is unknown. Known: train, val, test."),
        ({"split": "val", "size": 8}, "ShapesSegData: size should be a whole number of at least 16, got 8."),
        ({"split": "val", "batch": 0}, "ShapesSegData: batch should be a whole number of at least 1, got 0."),
        ({"split": "val", "cuont": 5}, 'ShapesSegData: param_str has an unknown option "cuont". Did you mean "count"?'),
        ({}, 'ShapesSegData: param_str needs "split". It has: nothing.'),
    ],
)
def test_errors(options, message):
    with pytest.raises(DataError) as error:
        start(ShapesSegData, **options)
    assert str(error.value) == message
