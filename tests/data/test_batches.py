"""Data layers with batches, epochs, buckets, augmentation and loading processes: order, resume, ranks, refusals."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter

import numpy as np
import pytest
from data_layers import start as start_layer
from data_layers import step
from datum_fixtures import equal, pull
from helpers import make_net
from PIL import Image

from fcn_caffe import TEST, TRAIN
from fcn_caffe.data import loading
from fcn_caffe.data.sets.folder_layers import FolderSegData
from fcn_caffe.data.sets.sampling import Epochs, Order
from fcn_caffe.errors import DataError
from fcn_caffe.host.ranks import Share

SIZES = [(8, 12), (12, 8), (9, 12), (8, 11), (12, 9), (30, 31), (8, 12)]
AUGMENT = {"mirror": True, "scale": (0.7, 1.5), "rotate": 20, "colour": 0.3, "crop": (10, 9), "least": 0.3, "jitter": 1}


@pytest.fixture
def folder(tmp_path):
    """Seven images of several sizes; labels are all of the image's number, with some void."""
    generator = np.random.default_rng(0)
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for number, (height, width) in enumerate(SIZES):
        image = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{number}.png")
        label = np.full((height, width), number, np.uint8)
        label[0, :3] = 255
        Image.fromarray(label).save(tmp_path / f"labels/{number}.png")
    for split in ("train", "val"):
        (tmp_path / f"{split}.txt").write_text("".join(f"{number}\n" for number in range(len(SIZES))))
    return tmp_path


def options(folder, split="train", **more):
    places = {"images": str(folder / "images"), "labels": str(folder / "labels"), "split": str(folder / f"{split}.txt")}
    return {**places, "seed": 3, **more}


def start(folder, split="train", **more):
    return start_layer(FolderSegData, 2, **options(folder, split, **more))


def steps(layer, blobs, count):
    return [step(layer, blobs) for _ in range(count)]


# -- order -----------------------------------------------------------------------------------------------------


def test_each_image_comes_once_in_an_epoch(folder):
    layer, blobs = start(folder, order="epochs")
    orders = []
    for _ in range(3):
        names = []
        for _ in SIZES:
            step(layer, blobs)
            names.append(layer.name)
        orders.append(names)
        assert sorted(names) == [str(number) for number in range(7)]
    assert orders[0] != orders[1] != orders[2]
    again, more = start(folder, order="epochs", seed=4)
    step(again, more)
    other = [again.name]
    for _ in SIZES[1:]:
        step(again, more)
        other.append(again.name)
    assert other != orders[0]


@pytest.mark.parametrize(("count", "size"), [(7, 2), (7, 3), (10, 4), (3, 5), (12, 4), (5, 1)])
def test_buckets_keep_sizes_together_and_every_image_once(count, size):
    keys = ["wide" if number % 3 else "high" for number in range(count)]
    epochs = Epochs(5, count, size, lambda: keys)
    stream = [epochs.place(position) for position in range(20 * count)]
    for epoch in range(20):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))
    whole = [stream[at : at + size] for at in range(0, len(stream) - size + 1, size)]
    mixed = sum(len({keys[place] for place in batch}) > 1 for batch in whole)
    # In an epoch the batch at either end may be mixed, and one between the two buckets.
    assert mixed <= 3 * 20 and (size > 1 or not mixed)
    if (count, size) == (12, 4):
        assert not mixed
    assert len({tuple(stream[epoch * count : (epoch + 1) * count]) for epoch in range(20)}) > 3


def test_an_order_has_a_turn_for_each_coming():
    order = Order(0, 3, None, Epochs(1, 3), 0)
    batch = order.next_batch(range(6))
    assert Counter(place for place, _ in batch) == {0: 2, 1: 2, 2: 2}
    assert [turn for _, turn in batch] == [0] * 3 + [1] * 3
    assert Order(2, 3).next_batch([0, 2]) == [(2, 0), (1, 2)]


# -- batches ---------------------------------------------------------------------------------------------------


def test_a_batch_is_the_images_one_by_one(folder):
    single, one = start(folder, "val")
    layer, blobs = start(folder, "val", batch_size=3)
    images = steps(single, one, 6)
    for first, (data, label) in zip((0, 3), steps(layer, blobs, 2), strict=True):
        parts = images[first : first + 3]
        assert data.shape[2:] == (max(image.shape[2] for image, _ in parts), max(image.shape[3] for image, _ in parts))
        for place, (image, truth) in enumerate(parts):
            height, width = image.shape[2:]
            assert np.array_equal(data[place, :, :height, :width], image[0])
            assert np.array_equal(label[place, :, :height, :width], truth[0])
            assert (label[place] != 255).sum() == (truth != 255).sum() and not data[place, :, height:].any()
    assert layer.name == "3, 4, 5"


LOSS = """
layer {{ name: "l" type: "Python" top: "data" top: "label"
  python_param {{ module: "folder_layers" layer: "FolderSegData" param_str: "{options}" }} }}
layer {{ name: "score" type: "Convolution" bottom: "data" top: "score"
  convolution_param {{ num_output: 7 kernel_size: 1 bias_term: false weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
  loss_param {{ ignore_label: 255 normalization: {normalization} }} }}
"""


@pytest.mark.parametrize("normalization", ["VALID", "BATCH_SIZE", "NONE"])
def test_the_loss_of_a_batch_is_that_of_its_images(folder, normalization):
    """Padding costs nothing. VALID: the mean weighted by valid pixels; BATCH_SIZE: the mean; NONE: the sum."""

    def net(size):
        text = str(options(folder, "val", batch_size=size))
        return make_net(LOSS.format(options=text, normalization=normalization), phase=TRAIN)

    alone, together = net(1), net(3)
    together.load_state_dict(alone.state_dict())
    losses, valid = [], []
    for _ in range(3):
        blobs = alone(keep=["loss", "label"])
        losses.append(float(blobs["loss"].detach()))
        valid.append(int((blobs["label"] != 255).sum()))
    weights = {"VALID": np.array(valid) / sum(valid), "BATCH_SIZE": np.full(3, 1 / 3), "NONE": np.ones(3)}
    assert float(together()["loss"].detach()) == pytest.approx(float(weights[normalization] @ losses), rel=1e-5)


# -- augmentation ----------------------------------------------------------------------------------------------


def test_augmentation_is_for_training(folder):
    plain = python_net(folder, {}, TEST)
    changed = python_net(folder, {"augment": AUGMENT}, TEST)
    assert equal(pull(changed, 7), pull(plain, 7)) and changed.data_state() == plain.data_state()
    assert not equal(pull(python_net(folder, {"augment": AUGMENT}), 1), pull(python_net(folder, {}), 1))


def test_what_is_drawn_depends_on_image_and_epoch_alone(folder):
    """Not on batches: the labels say which image it is."""

    def by_image(size, passes):
        layer, blobs = start(folder, order="epochs", augment=AUGMENT, batch_size=size)
        samples = [sample for batch in steps(layer, blobs, passes) for sample in zip(*batch, strict=True)]
        # The number of an image that shows a labelled pixel, its epoch, its pixels.
        return [
            (int(label[label != 255].max(initial=-1)), at // 7, data.tobytes())
            for at, (data, label) in enumerate(samples)
        ]

    single = by_image(1, 14)
    assert Counter(by_image(2, 7)) == Counter(single)
    assert len({data for _, _, data in single}) == 14


def test_drawn_images_differ_each_time(folder):
    layer, blobs = start(folder, augment={"jitter": 3, "colour": 0.5})
    data = {array.tobytes() for array, _ in steps(layer, blobs, 20)}
    assert len(data) == 20


def test_the_largest_image_that_may_come(folder):
    assert start(folder)[0].largest_image() == ("5", 30, 31)
    assert start(folder, augment={"scale": (0.5, 2)})[0].largest_image() == ("5", 60, 62)
    assert start(folder, augment={"scale": (0.5, 2), "crop": (5, 6)})[0].largest_image()[1:] == (5, 6)


def test_outlines_are_nothing_outside_of_the_image(folder):
    layer, blobs = start(folder, outlines=True, augment={"crop": (40, 40)})
    assert step(layer, blobs)[1].max() == 1 and step(layer, blobs)[1].mean() < 0.1


# -- resume, ranks, processes ------------------------------------------------------------------------------------

KINDS = {
    "drawn": {},
    "drawn, changed": {"augment": AUGMENT},
    "batches": {"batch_size": 2},
    "all": {"batch_size": 2, "order": "epochs", "buckets": True, "augment": AUGMENT},
}


def python_net(folder, more, phase=TRAIN):
    text = f"""layer {{ name: "l" type: "Python" top: "data" top: "label" python_param {{ module: "folder_layers"
      layer: "FolderSegData" param_str: "{options(folder, **more)}" }} }}"""
    return make_net(text, phase=phase)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefetch", [0, 3])
def test_resumes_in_the_middle_of_an_epoch(folder, kind, prefetch):
    more = {**KINDS[kind], "prefetch": prefetch}
    expected = pull(python_net(folder, more), 12)
    net = python_net(folder, more)
    pull(net, 5)
    state = json.loads(json.dumps(net.data_state()))
    resumed = python_net(folder, {**more, "seed": 77})  # the snapshot's counts
    resumed.load_data_state(state)
    assert equal(pull(resumed, 7), expected[5:])


def test_without_a_seed_the_snapshot_has_it(folder):
    more = {"augment": AUGMENT, "order": "epochs", "seed": None}
    net = python_net(folder, more)
    pull(net, 3)
    state = net.data_state()
    other = python_net(folder, more)
    other.load_data_state(state)
    assert equal(pull(other, 7), pull(net, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_share_one_order(folder, kind):
    """Of 4 processes, then 2, then 1: every image as one process would have it, and one state."""
    alone = python_net(folder, KINDS[kind])
    size, buckets = KINDS[kind].get("batch_size", 1), "buckets" in KINDS[kind]
    single = python_net(folder, {**KINDS[kind], "prefetch": 0})
    stream = [sample for batch in pull(single, 18) for sample in zip(batch["data"], batch["label"], strict=True)]
    nets = [python_net(folder, KINDS[kind]) for _ in range(4)]
    for count, first, passes in ((4, 0, 1), (2, 4, 2), (1, 8, 1)):
        state = nets[0].data_state()
        for rank, net in enumerate(nets[:count]):
            net.load_data_state(state)
            net.take_share(Share(rank, count))
            for number, batch in enumerate(pull(net, passes)):
                places = Share(rank, count, whole=buckets).places(size)
                for place, data, label in zip(places, batch["data"], batch["label"], strict=True):
                    expected = stream[(first + number * count) * size + place]
                    height, width = (min(*pair) for pair in zip(data.shape[1:], expected[0].shape[1:], strict=True))
                    assert np.array_equal(data[:, :height, :width], expected[0][:, :height, :width])
                    assert (label != 255).sum() == (expected[1] != 255).sum()
    pull(alone, 9)
    assert nets[0].data_state() == alone.data_state()


def test_loading_processes_change_nothing(folder):
    """1 and 2 of them, from a net's file on, resumed in the middle, and as one of two ranks."""
    more = KINDS["all"]
    expected = pull(python_net(folder, more), 10)
    net = python_net(folder, {**more, "workers": 2})
    assert equal(pull(net, 4), expected[:4])
    resumed = python_net(folder, {**more, "workers": 1})
    resumed.load_data_state(net.data_state())
    assert equal(pull(resumed, 2), expected[4:6])
    ranks = [python_net(folder, {**more, "workers": workers}) for workers in (0, 1)]
    for one in ranks:
        one.load_data_state(resumed.data_state())
        one.take_share(Share(1, 2))
    assert equal(pull(ranks[1], 3), pull(ranks[0], 3))


def test_a_bad_image_is_named_in_its_turn_and_may_be_mended(folder):
    layer, blobs = start(folder, "val", workers=1)
    good = (folder / "images/3.png").read_bytes()
    (folder / "images/3.png").write_bytes(b"no image")
    steps(layer, blobs, 3)
    with pytest.raises(DataError, match=r"images/3\.png: not an image"):
        step(layer, blobs)
    (folder / "images/3.png").write_bytes(good)
    step(layer, blobs)
    assert layer.name == "3"


@pytest.fixture
def started(monkeypatch):
    """The loading processes that a test starts."""
    processes = []
    popen = loading.subprocess.Popen
    monkeypatch.setattr(loading.subprocess, "Popen", lambda *a, **k: processes.append(popen(*a, **k)) or processes[-1])
    return processes


def test_a_dead_process_names_its_image(folder, started):
    layer, blobs = start(folder, "val", workers=1, prefetch=1)
    steps(layer, blobs, 2)
    assert os.getsid(started[0].pid) != os.getsid(0)  # Ctrl-C on a terminal does not reach it
    os.kill(started[0].pid, signal.SIGKILL)
    with pytest.raises(DataError, match=r"that was to load image '\d' has ended \(killed by signal 9\)"):
        steps(layer, blobs, 9)


def test_processes_end_with_the_layer(folder, started):
    layer, blobs = start(folder, workers=1)
    steps(layer, blobs, 2)
    assert started[0].poll() is None
    del layer, blobs
    assert started[0].wait(20) is not None


def test_a_layer_of_ones_own_that_no_process_can_make(folder):
    class Mine(FolderSegData, complete=True):
        pass

    layer, blobs = start_layer(Mine, 2, **options(folder, "val", workers=1))
    step(layer, blobs)
    with pytest.raises(DataError, match="loading raised AttributeError"):
        step(layer, blobs)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size": 0}, "batch_size should be a whole number from 1, got 0"),
        ({"batch_size": True}, "batch_size should be"),
        ({"workers": -1}, "workers should be a whole number from 0"),
        ({"prefetch": 1.5}, "prefetch should be a whole number from 0"),
        ({"fit": "stretch"}, "fit should be 'pad' or 'crop', got 'stretch'"),
        ({"order": True}, "order should be 'draws' or 'epochs'"),
        ({"buckets": 1}, "buckets should be False or True, got 1"),
        ({"buckets": True}, "set 'order': 'epochs' too"),
        ({"augment": "mirror"}, "augment should be a dict"),
        ({"augment": {"mirror": 1}}, "augment's mirror should be True or False"),
        ({"augment": {}, "seed": "a"}, "the seed should be a whole number from 0, or None, got 'a'"),
        ({"augmet": {}}, 'Did you mean "augment"'),
    ],
)
def test_wrong_options(folder, more, message):
    with pytest.raises(DataError) as error:
        start(folder, **more)
    assert message in str(error.value)


def test_states_of_another_order_are_refused(folder):
    drawn, epochs, ordered = start(folder)[0], start(folder, order="epochs")[0], start(folder, "val")[0]
    for layer, other in ((epochs, drawn), (drawn, epochs)):
        with pytest.raises(DataError, match="drawn at random, the other not"):
            layer.set_state(other.get_state())
    with pytest.raises(DataError, match="these come by epochs"):
        epochs.set_state(ordered.get_state())


def test_processes_need_a_class_that_is_complete(folder):
    class Mine(FolderSegData):
        def load_image(self, idx):
            return super().load_image(idx)

    with pytest.raises(DataError, match="Set workers to 0"):
        start_layer(Mine, 2, **options(folder, workers=1))


def test_colours_need_a_mean(folder):
    class Grey(FolderSegData, complete=True):
        def colour_mean(self):
            return None

    with pytest.raises(DataError, match="take colour out of augment"):
        start_layer(Grey, 2, **options(folder, augment={"colour": 0.1}))


def test_an_image_and_its_label_of_two_sizes(folder):
    class Loose(FolderSegData, complete=True):
        def load_tops(self, idx):
            return self.load_image(idx), self.load_label(idx)[:, 1:]

    with pytest.raises(DataError, match=r"image '.' and its label are of several sizes"):
        start_layer(Loose, 2, **options(folder, augment={}))
