"""Every data layer, as several processes read it: rank r takes every count-th sample, from the r-th on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datum_fixtures import data_net, equal, images, pull, write_database, write_images
from helpers import make_net
from needs import needs_package
from PIL import Image

from fcn_caffe import TEST, TRAIN
from fcn_caffe.host.ranks import Ranks, Share
from fcn_caffe.net.own_passes import own_passes

JITTER = """
layer { name: "jitter" type: "Python" bottom: "data" bottom: "label" top: "moved" top: "moved_label"
  python_param { module: "altering_layers" layer: "MirrorJitter" param_str: "{'jitter': 2, 'seed': 4}" } }
"""


def python_net(module, layer, options, more="", phase=TRAIN):
    text = f"""layer {{ name: "l" type: "Python" top: "data" top: "label"
      python_param {{ module: "{module}" layer: "{layer}" param_str: "{options}" }} }} {more}"""
    return make_net(text, phase=phase)


def folder_net(folder, split, phase, more=""):
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    for index in range(7):
        Image.fromarray(generator.integers(0, 9, (8, 9, 3)).astype(np.uint8)).save(folder / f"images/{index}.png")
        Image.fromarray(np.full((8, 9), index, np.uint8)).save(folder / f"labels/{index}.png")
    (folder / f"{split}.txt").write_text("".join(f"{index}\n" for index in range(7)))
    places = f"'images': '{folder}/images', 'labels': '{folder}/labels', 'split': '{folder}/{split}.txt'"
    return python_net("folder_layers", "FolderSegData", f"{{{places}, 'seed': 3}}", more, phase)


def image_net(folder, phase, size=1):
    write_images(folder, images(7))
    options = f'source: "{folder}/list.txt" root_folder: "{folder}/" batch_size: {size} shuffle: true rand_skip: 3'
    return data_net("ImageData", options, "transform_param { mirror: true crop_size: 3 }", phase)


def database_net(folder, phase):
    needs_package("lmdb")
    if not (folder / "base").exists():
        write_database(folder / "base", images(7))
    options = f'source: "{folder}/base" batch_size: 1 backend: LMDB rand_skip: 3'
    return data_net("Data", options, "transform_param { mirror: true }", phase)


def row_net(folder, phase):
    import h5py

    for index in range(2):
        with h5py.File(folder / f"{index}.h5", "w") as file:
            file["data"] = np.arange(index * 5, index * 5 + 5, dtype=np.float32).reshape(5, 1)
            file["label"] = np.zeros(5, np.float32)
    (folder / "files.txt").write_text(f"{folder}/0.h5 {folder}/1.h5")
    return data_net("HDF5Data", f'source: "{folder}/files.txt" batch_size: 1 shuffle: true', "", phase)


def window_net(folder, phase):
    write_images(folder, images(1, 20, 20))
    (folder / "windows.txt").write_text(
        f"# 0\n{folder}/0.png\n3\n20\n20\n3\n1 0.9 0 0 9 9\n2 0.8 5 5 19 19\n0 0.1 3 2 18 12\n"
    )
    options = f'source: "{folder}/windows.txt" batch_size: 2 fg_fraction: 0.5'
    return data_net("WindowData", options, "transform_param { crop_size: 4 mirror: true }", phase)


NETS = {
    "images": image_net,
    "database": database_net,
    "rows": row_net,
    "windows": window_net,
    "folder, drawn": lambda folder, phase: folder_net(folder, "train", phase, JITTER if phase == TRAIN else ""),
    "folder, in order": lambda folder, phase: folder_net(folder, "val", phase),
    "shapes": lambda folder, phase: python_net(
        "shapes_layers", "ShapesSegData", "{'split': 'train', 'size': 16}", phase=phase
    ),
}


def make(name, folder, phase=TRAIN):
    torch.manual_seed(2)
    return NETS[name](folder, phase)


@pytest.mark.parametrize("name", NETS)
def test_ranks_take_turns(name, tmp_path):
    """Of 4 processes, then 2, then 1: the samples of one process, and its state."""
    alone = make(name, tmp_path)
    expected = pull(alone, 9)
    nets = [make(name, tmp_path) for _ in range(4)]
    for count, first, passes in ((4, 0, 1), (2, 4, 2), (1, 8, 1)):
        state = nets[0].data_state()
        for rank, net in enumerate(nets[:count]):
            assert net.data_state() == state
            net.load_data_state(state)
            net.take_share(Share(rank, count))
            places = [first + rank + count * index for index in range(passes)]
            assert equal(pull(net, passes), [expected[place] for place in places]), (count, rank)
    assert nets[0].data_state() == alone.data_state()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("passes", [1, 5, 6])
def test_passes_are_shared_whole(name, passes, tmp_path):
    """A test of any number of passes on 3 processes; the next begins behind it."""
    alone = make(name, tmp_path, TEST)
    expected, after = pull(alone, passes), pull(alone)
    for rank in range(3):
        net = make(name, tmp_path, TEST)
        found = {index: pull(net)[0] for index in own_passes(net, passes, Ranks(rank, 3))}
        assert list(found) == list(range(rank, passes, 3))
        assert all(equal([found[index]], [expected[index]]) for index in found)
        assert equal(pull(net), after)


def test_batches_are_made_of_every_second_sample(tmp_path):
    """As Caffe's: with batches of 2, rank 1 of 2 has samples 1 and 3; each image once in a round."""
    write_images(tmp_path, images(7))
    options = f'source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/" batch_size: 2 shuffle: true'
    torch.manual_seed(0)
    alone = data_net("ImageData", options)
    order = [int(label) for batch in pull(alone, 7) for label in batch["label"]]
    found = []
    for rank in range(2):
        torch.manual_seed(0)
        net = data_net("ImageData", options)
        net.take_share(Share(rank, 2))
        found.append([int(label) for batch in pull(net, 3) for label in batch["label"]])
    assert found == [order[0:12:2], order[1:12:2]]
    assert sorted(order[:7]) == list(range(0, 70, 10))


def test_share_places():
    assert list(Share(1, 3).places(2)) == [1, 4] and list(Share(1, 3, whole=True).places(2)) == [2, 3]


def test_python_layers_that_know_of_no_ranks_run_for_all(tmp_path, monkeypatch):
    (tmp_path / "counting.py").write_text(
        "class Counting(object):\n"
        "    count = 0\n"
        "    def setup(self, bottom, top): pass\n"
        "    def reshape(self, bottom, top):\n"
        "        top[0].reshape(1, 1 + self.count % 2)\n"
        "        top[1].reshape(1)\n"
        "    def forward(self, bottom, top):\n"
        "        top[0].data[...] = self.count\n"
        "        self.count += 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for rank in range(2):
        net = python_net("counting", "Counting", "")
        net.take_share(Share(rank, 2))
        found.append([batch["data"] for batch in pull(net, 2)])
    assert [[array.ravel()[0] for array in one] for one in found] == [[0, 2], [1, 3]]
    assert [[array.size for array in one] for one in found] == [[1, 1], [2, 2]]
    net = python_net("counting", "Counting", "")
    net.skip(3)
    assert pull(net)[0]["data"].ravel()[0] == 3
