"""ImageData: lists, order, sizes, refusals. What it shares with Data is in test_data_layer.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datum_fixtures import blobs, data_net, images, pull, write_images

from fcn_caffe.data.readers.resize import resize
from fcn_caffe.errors import DataError


def test_images_and_labels_in_the_order_of_the_list(tmp_path: Path) -> None:
    pictures = images(3)
    source = write_images(tmp_path, pictures)
    net = data_net("ImageData", f'source: "{source}" root_folder: "{tmp_path}/" batch_size: 2')
    assert net.blob_shapes == {"data": (2, 3, 4, 5), "label": (2,)}
    batches = pull(net, 3)
    assert np.array_equal(np.concatenate([batch["data"] for batch in batches]), blobs([*pictures, *pictures]))
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == [0, 10, 20] * 2


def test_images_are_looked_for_beside_the_net_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = images(2)
    write_images(tmp_path, pictures)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    net = data_net("ImageData", 'source: "list.txt"', path=tmp_path / "net.prototxt")
    assert np.array_equal(pull(net)[0]["data"], blobs(pictures[:1])), "the batch is one image unless told otherwise"


def test_shuffled_order_is_new_each_time_round_and_whole(tmp_path: Path) -> None:
    source = write_images(tmp_path, images(6))
    torch.manual_seed(0)
    net = data_net("ImageData", f'source: "{source}" root_folder: "{tmp_path}/" batch_size: 4 shuffle: true')
    labels = np.concatenate([batch["label"] for batch in pull(net, 9)]).reshape(6, 6)
    assert all(sorted(line) == [0, 10, 20, 30, 40, 50] for line in labels.tolist())
    assert len({tuple(line) for line in labels.tolist()}) == 6


def test_resized_as_opencv_does(tmp_path: Path) -> None:
    pictures = [images(1, 4, 5)[0], images(1, 9, 7)[0]]
    source = write_images(tmp_path, pictures)
    options = f'source: "{source}" root_folder: "{tmp_path}/" batch_size: 2 new_height: 6 new_width: 3'
    batches = pull(data_net("ImageData", options))[0]["data"]
    assert np.array_equal(batches, blobs([resize(picture, 6, 3) for picture in pictures]))


def test_grey_without_is_color(tmp_path: Path) -> None:
    pictures = images(1, channels=1)
    options = f'source: "{write_images(tmp_path, pictures)}" root_folder: "{tmp_path}/" is_color: false'
    assert np.array_equal(pull(data_net("ImageData", options))[0]["data"], blobs(pictures))
    colour = options.replace("is_color: false", "")
    assert np.array_equal(pull(data_net("ImageData", colour))[0]["data"], blobs([np.repeat(pictures[0], 3, 2)]))


def test_rand_skip_starts_further_on_once(tmp_path: Path) -> None:
    options = f'source: "{write_images(tmp_path, images(5))}" root_folder: "{tmp_path}/" rand_skip: 5'
    firsts = set()
    for seed in range(10):
        torch.manual_seed(seed)
        labels = [int(batch["label"][0]) for batch in pull(data_net("ImageData", options), 8)]
        firsts.add(labels[0])
        start = labels[0] // 10
        assert labels == [10 * ((start + step) % 5) for step in range(8)]
    assert len(firsts) > 2


def test_another_list_does_not_take_a_snapshots_order(tmp_path: Path) -> None:
    options = f'source: "{write_images(tmp_path, images(3))}" root_folder: "{tmp_path}/"'
    state = data_net("ImageData", options).data_state()
    write_images(tmp_path, images(2))
    message = r"layer 'l' .*order is for a list of 3 images, this one has 2\. Resume with the list it was trained on"
    with pytest.raises(DataError, match=message):
        data_net("ImageData", options).load_data_state(state)


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ('source: "{list}" batch_size: 0', "", "batch_size must be given and positive"),
        ("", "", "no list of images is named"),
        ('source: "none.txt"', "", r"none\.txt: no such list of images"),
        ('source: "/dev/zero"', "", "/dev/zero: is no list of images but a device or a pipe, which may never end"),
        (f'source: "{300 * "x"}"', "", "xxx: no such list of images"),
        ('source: "{empty}"', "", "the list of images is empty"),
        ('source: "{bad}"', "", r'bad\.txt:1: expected "PATH LABEL"'),
        ('source: "{list}" new_height: 3', "", "new_height and new_width go together: give both or neither"),
        ('source: "{list}" root_folder: "/none/"', "", r"/none/0\.png: cannot be read"),
        ('source: "{list}" root_folder: "{folder}/" rand_skip: 4000', "", "the list has 2. Make it smaller"),
        ('source: "{list}" root_folder: "{folder}/"', "transform_param { crop_size: 7 }", "smaller than crop_size 7"),
    ],
)
def test_refusals(tmp_path: Path, options: str, more: str, message: str) -> None:
    source = write_images(tmp_path, images(2))
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.txt").write_text("0.png\n")
    places = {"list": source, "folder": tmp_path, "empty": tmp_path / "empty.txt", "bad": tmp_path / "bad.txt"}
    torch.manual_seed(0)
    with pytest.raises(DataError, match=message) as caught:
        data_net("ImageData", options.format(**places), more)
    assert str(caught.value).startswith("layer 'l' (ImageData): ")


def test_an_image_that_breaks_off_is_named_when_its_batch_comes(tmp_path: Path) -> None:
    source = write_images(tmp_path, images(3, 30, 30))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:900])
    net = data_net("ImageData", f'source: "{source}" root_folder: "{tmp_path}/"')
    pull(net)
    with pytest.raises(DataError, match=r"layer 'l' \(ImageData\): .*1\.png: cannot be decoded .*looks damaged"):
        net()


def test_two_sizes_in_one_batch_are_refused(tmp_path: Path) -> None:
    source = write_images(tmp_path, [images(1, 4, 5)[0], images(1, 6, 5)[0]])
    net = data_net("ImageData", f'source: "{source}" root_folder: "{tmp_path}/" batch_size: 2')
    with pytest.raises(DataError, match=r"1\.png: the image is 3x6x5, the first of its batch 3x4x5\. Resize or crop"):
        net()
