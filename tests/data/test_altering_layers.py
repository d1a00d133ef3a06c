"""Layers between data and net: what they draw, keep and hide, by hand; their state; what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net

from fcn_caffe import TEST, TRAIN, DataError
from fcn_caffe.data.sets.altering_layers import ignore_cells, mirror_and_shift
from fcn_caffe.data.sets.shapes_scenes import draw_scene


def python(kind, bottoms, tops, options):
    more = f'python_param {{ module: "altering_layers" layer: "{kind}" param_str: "{options}" }}'
    return layer("change", "Python", bottoms, tops, more)


def label_net(options, phase=TRAIN, shape=(2, 1, 8, 12)):
    return make_net(input_layer("label", *shape), python("LossSampling", "label", "sampled", options), phase=phase)


def pair_net(kind, options, tops, phase=TRAIN, side=6):
    inputs = input_layer("data", 3, 2, side, side), input_layer("label", 3, 1, side, side)
    return make_net(*inputs, python(kind, "data label", tops, options), phase=phase)


def images(side=6):
    data = torch.arange(1.0, 3 * 2 * side * side + 1).reshape(3, 2, side, side)
    return data, torch.randint(3, (3, 1, side, side), generator=torch.Generator().manual_seed(0)).float()


def test_cells_by_hand():
    label = np.arange(24, dtype=np.float32).reshape(1, 1, 4, 6)
    kept = np.array([[[True, False], [False, True]]])
    assert ignore_cells(label, kept, 3)[0, 0].tolist() == [
        [0, 1, 2, 255, 255, 255],
        [6, 7, 8, 255, 255, 255],
        [12, 13, 14, 255, 255, 255],
        [255, 255, 255, 21, 22, 23],
    ]
    # A cell begins at pixel 1, or, which is the same, at pixel -2: those before it are a cell of their own.
    kept = np.array([[[True, False, True], [True, True, False]]])
    wanted = [[0, 255, 255, 255, 4, 5], [6, 7, 8, 9, 255, 255], [12, 13, 14, 15, 255, 255], [18, 19, 20, 21, 255, 255]]
    for offset in (1, -2):
        assert ignore_cells(label, kept, 3, offset)[0, 0].tolist() == wanted
        assert ignore_cells(label[:, 0], kept, 3, offset)[0].tolist() == wanted


def test_the_share_that_is_kept():
    net = label_net({"keep": 0.3, "cell": 2, "seed": 1}, shape=(50, 1, 40, 40))
    label = torch.zeros(net.blob_shapes["label"])
    kept = net(label=label)["sampled"] == 0
    cells = kept.reshape(50, 20, 2, 20, 2).float()
    assert ((cells.mean((2, 4)) == 0) | (cells.mean((2, 4)) == 1)).all()  # whole cells
    # 20000 cells: five standard deviations.
    assert abs(float(kept.float().mean()) - 0.3) < 5 * (0.3 * 0.7 / 20000) ** 0.5
    # Images draw by themselves, and so do passes.
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept, net(label=label)["sampled"] == 0)


def test_all_is_kept_with_a_share_of_1_and_in_testing():
    label = images(8)[1]
    for options, phase in (({"keep": 1, "cell": 3}, TRAIN), ({"keep": 0.1, "cell": 3}, TEST)):
        net = label_net(options, phase, tuple(label.shape))
        assert torch.equal(net(label=label)["sampled"], label)


def test_a_whole_image_may_be_ignored_and_then_costs_nothing():
    net = make_net(
        input_layer("score", 1, 2, 4, 4),
        input_layer("label", 1, 1, 4, 4),
        python("LossSampling", "label", "label", {"keep": 1e-9, "cell": 4, "seed": 0}),
        layer("loss", "SoftmaxWithLoss", "score label", more="loss_param { ignore_label: 255 }"),
        phase=TRAIN,
    )
    assert float(net(score=torch.randn(1, 2, 4, 4), label=torch.ones(1, 1, 4, 4))["loss"]) == 0


def test_mirror_and_shift_by_hand():
    image = np.arange(6).reshape(1, 2, 3)
    assert mirror_and_shift(image, True, 0, 0, 9).tolist() == [[[2, 1, 0], [5, 4, 3]]]
    assert mirror_and_shift(image, False, 1, -1, 9).tolist() == [[[9, 9, 9], [1, 2, 9]]]
    assert mirror_and_shift(image, True, -1, 2, 9).tolist() == [[[9, 9, 5], [9, 9, 9]]]


@pytest.mark.parametrize("options", [{"jitter": 4}, {"mirror": False, "jitter": 4}, {"jitter": 0}])
def test_image_and_label_go_together(options):
    scenes = [draw_scene(0, "train", index, 32) for index in range(20)]
    data = torch.from_numpy(np.stack([image for image, _ in scenes]).transpose(0, 3, 1, 2).astype(np.float32) + 1)
    label = torch.from_numpy(np.stack([label for _, label in scenes]).astype(np.float32))[:, None]
    both = torch.cat([data, label], 1)
    net = make_net(
        input_layer("data", *data.shape),
        input_layer("label", *label.shape),
        python("MirrorJitter", "data label", "moved answer", {**options, "seed": 3}),
        phase=TRAIN,
    )
    tops = net(data=data, label=label)
    changes = set()
    for image, answer, whole in zip(tops["moved"], tops["answer"], both, strict=True):
        wanted = {
            (mirror, down, along): mirror_and_shift(whole.numpy(), mirror, down, along, 0)
            for mirror in (False, True)
            for down in range(-4, 5)
            for along in range(-4, 5)
        }
        at = [key for key, altered in wanted.items() if np.array_equal(altered[:3], image.numpy())]
        assert len(at) == 1
        inside = image[:1].numpy() != 0  # no pixel of a scene is 0 here
        assert (
            np.array_equal(answer.numpy()[inside], wanted[at[0]][3:][inside]) and (answer.numpy()[~inside] == 255).all()
        )
        changes.add(at[0])
    assert {mirror for mirror, _, _ in changes} == ({False} if options.get("mirror") is False else {False, True})
    reach = options["jitter"]
    assert max(abs(move) for _, *moves in changes for move in moves) == reach
    assert len(changes) > (10 if reach else 1)


def test_masks_by_hand():
    data = torch.arange(1.0, 9.0).reshape(1, 2, 2, 2)
    label = torch.tensor([0.0, 2, 255, 0]).reshape(1, 1, 2, 2)
    inputs = input_layer("data", *data.shape), input_layer("label", *label.shape)
    for keep, wanted in (("foreground", [[0, 2, 0, 0], [0, 6, 0, 0]]), ("background", [[1, 0, 0, 4], [5, 0, 0, 8]])):
        for phase in (TRAIN, TEST):
            net = make_net(*inputs, python("MaskedInput", "data label", "data", {"keep": keep}), phase=phase)
            assert net({"data": data, "label": label}, keep=["data"])["data"].reshape(2, 4).tolist() == wanted
    net = make_net(
        *inputs,
        python("MaskedInput", "data label", "m", {"keep": "foreground", "background": 2, "fill": -1, "ignore": 0}),
    )
    assert net(data=data, label=label)["m"].reshape(2, 4).tolist() == [[-1, -1, 3, -1], [-1, -1, 7, -1]]
    assert data.tolist() == torch.arange(1.0, 9.0).reshape(1, 2, 2, 2).tolist()


@pytest.mark.parametrize(
    ("kind", "options", "tops"),
    [
        ("LossSampling", {"keep": 0.5, "cell": 2}, "sampled"),
        ("MirrorJitter", {"jitter": 2}, "moved answer"),
        ("Augment", {"rotate": 9, "mirror": True}, "moved answer"),
    ],
)
def test_in_place_and_going_on_from_a_state(kind, options, tops):
    data, label = images()
    bottoms = "label" if kind == "LossSampling" else "data label"

    def run(net, blobs, times):
        keep = blobs.split()
        for _ in range(times):
            blobs = net({"data": data, "label": label}, keep=keep)
        return [blobs[name] for name in keep]

    def make(top, seed=None):
        settings = options if seed is None else {**options, "seed": seed}
        inputs = input_layer("data", *data.shape), input_layer("label", *label.shape)
        return make_net(*inputs, python(kind, bottoms, top, settings), phase=TRAIN)

    torch.manual_seed(1)
    first = make(tops)
    run(first, tops, 3)
    state = json.loads(json.dumps(first.data_state()))
    wanted = run(first, tops, 1)
    for other, names in ((make(tops), tops), (make(bottoms), bottoms)):
        other.load_data_state(state)
        assert all(map(torch.equal, wanted, run(other, names, 1)))
    # torch's seed is the net's where none is given; one that is given stands.
    torch.manual_seed(1)
    assert all(map(torch.equal, wanted, run(make(tops), tops, 4)))
    assert all(map(torch.equal, run(make(tops, 5), tops, 2), run(make(tops, 5), tops, 2)))
    assert not all(map(torch.equal, wanted, run(make(tops, 5), tops, 4)))


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("LossSampling", {}, 'needs "keep"'),
        ("LossSampling", {"keep": 0}, "above 0"),
        ("LossSampling", {"keep": 1.5}, "got 1.5"),
        ("LossSampling", {"keep": "all"}, "keep should be a number"),
        ("LossSampling", {"keep": 1, "cells": 3}, 'Did you mean "cell"'),
        ("LossSampling", {"keep": 1, "cell": 0}, "cell should be a whole number of at least 1"),
        ("LossSampling", {"keep": 1, "offset": 0.5}, "offset should be a whole number"),
        ("LossSampling", {"keep": 1, "seed": -1}, "seed should be a whole number"),
        ("MirrorJitter", {"mirror": 1}, "mirror should be True or False"),
        ("MirrorJitter", {"jitter": -1}, "jitter should be a whole number"),
        ("MirrorJitter", {"jitter": 6}, "may leave nothing of images 6 pixels wide"),
        ("Augment", {"scale": 2}, "scale should be the least and the greatest factor"),
        ("Augment", {"colour": 0.2}, "colour needs 'mean'"),
        ("Augment", {"colour": 0.2, "mean": (1, 2, 3)}, "3 channels, the first has 2"),
        ("MaskedInput", {}, 'needs "keep"'),
        ("MaskedInput", {"keep": "objects"}, "got 'objects'"),
    ],
)
def test_wrong_options_are_refused(kind, options, reason):
    with pytest.raises(DataError, match=reason):
        if kind == "LossSampling":
            label_net(options)
        else:
            pair_net(kind, options, "masked" if kind == "MaskedInput" else "moved answer")


def test_augment_changes_image_and_label_alike():
    """The image is its label's number plus 1 wherever it came from; outside 0 and the ignored label."""
    label = torch.arange(36.0).reshape(1, 1, 6, 6).repeat(3, 1, 1, 1)
    data = (label + 1).repeat(1, 2, 1, 1)
    options = {"mirror": True, "crop": (4, 5), "jitter": 1, "ignore": 99, "seed": 2}
    net = pair_net("Augment", options, "a b")
    assert net.blob_shapes == {"data": (3, 2, 6, 6), "label": (3, 1, 6, 6), "a": (3, 2, 4, 5), "b": (3, 1, 4, 5)}
    seen = set()
    for _ in range(20):
        blobs = net({"data": data, "label": label}, keep=["a", "b"])
        assert torch.equal(blobs["a"], torch.where(blobs["b"] == 99, 0, blobs["b"] + 1).repeat(1, 2, 1, 1))
        seen |= {tuple(one.ravel().tolist()) for one in blobs["b"]}
    assert len(seen) > 20
    tested = pair_net("Augment", options, "a b", phase=TEST)({"data": data, "label": label}, keep=["a", "b"])
    assert torch.equal(tested["a"], data) and torch.equal(tested["b"], label)


def test_augment_without_a_crop_keeps_the_size():
    data, label = images()
    net = pair_net("Augment", {"scale": (0.5, 2), "rotate": 30, "seed": 1}, "data label")
    blobs = net({"data": data, "label": label}, keep=["data", "label"])
    assert blobs["data"].shape == data.shape and blobs["label"].shape == label.shape
    assert not torch.equal(blobs["data"], data) and set(blobs["label"].unique().tolist()) <= {0, 1, 2, 255}


def test_wrong_blobs_are_refused():
    with pytest.raises(DataError, match="takes data and label and gives the masked data; the net has 2 bottoms, 2"):
        pair_net("MaskedInput", {"keep": "foreground"}, "a b")
    with pytest.raises(DataError, match=r"expected \(N, 1, H, W\)"):
        label_net({"keep": 1}, shape=(4, 4))
    with pytest.raises(DataError, match="with crop the tops are of another size"):
        pair_net("Augment", {"crop": (3, 3)}, "data label")
    with pytest.raises(DataError, match="of one N, H and W"):
        make_net(
            input_layer("data", 1, 3, 6, 6),
            input_layer("label", 1, 1, 5, 6),
            python("Augment", "data label", "a b", {}),
        )
    with pytest.raises(DataError, match="one height and width"):
        make_net(
            input_layer("data", 1, 3, 6, 6),
            input_layer("label", 1, 1, 5, 6),
            python("MirrorJitter", "data label", "a b", {}),
        )
    net = make_net(
        input_layer("data", 1, 3, 6, 6),
        input_layer("label", 1, 1, 5, 6),
        python("MaskedInput", "data label", "a", {"keep": "foreground"}),
    )
    with pytest.raises(DataError, match="one label per pixel"):
        net(data=torch.zeros(1, 3, 6, 6), label=torch.zeros(1, 1, 5, 6))
