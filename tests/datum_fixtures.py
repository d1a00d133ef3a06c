"""Small images, lists and databases for the tests of data layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import make_net
from PIL import Image

from fcn_caffe import TRAIN, Net
from fcn_caffe.data.readers.databases import write_records
from fcn_caffe.data.readers.datum import datum_of_image

Array = np.ndarray[Any, Any]


def images(count: int, height: int = 4, width: int = 5, channels: int = 3, seed: int = 0) -> list[Array]:
    """Random images, (H, W, C) uint8, BGR."""
    random = np.random.RandomState(seed)
    return [random.randint(0, 256, (height, width, channels)).astype(np.uint8) for _ in range(count)]


def write_images(folder: Path, pictures: Sequence[Array]) -> Path:
    """Files 0.png, 1.png ... and list.txt, in which the label of image i is 10 i."""
    for index, picture in enumerate(pictures):
        Image.fromarray(picture[:, :, ::-1] if picture.shape[2] == 3 else picture[:, :, 0]).save(
            folder / f"{index}.png"
        )
    (folder / "list.txt").write_text("".join(f"{index}.png {10 * index}\n" for index in range(len(pictures))))
    return folder / "list.txt"


def write_pairs(folder: Path, pictures: Sequence[Array], labels: Sequence[Array]) -> Path:
    """Files 0.png, 1.png ..., label0.png, label1.png ... of grey labels (H, W), and list.txt, which pairs them."""
    write_images(folder, pictures)
    for index, label in enumerate(labels):
        Image.fromarray(label).save(folder / f"label{index}.png")
    (folder / "list.txt").write_text("".join(f"{index}.png label{index}.png\n" for index in range(len(pictures))))
    return folder / "list.txt"


def write_database(path: Path, pictures: Sequence[Array], backend: str = "lmdb") -> Path:
    """Raw Datums in which the label of image i is 10 i."""
    datums = [datum_of_image(picture, 10 * index) for index, picture in enumerate(pictures)]
    write_records(path, backend, ((b"%08d" % index, datum.SerializeToString()) for index, datum in enumerate(datums)))
    return path


def blobs(pictures: Sequence[Array]) -> Array:
    """The images as a net sees them without a transform: N x C x H x W."""
    return np.stack([picture.transpose(2, 0, 1) for picture in pictures]).astype(np.float32)


def data_net(
    type: str, options: str, more: str = "", phase: int = TRAIN, tops: str = "data label", **other: Any
) -> Net:
    """A net of one data layer `l`; `options` is the body of its own message, `more` what else the layer has."""
    message = {
        "Data": "data_param",
        "DenseImageData": "dense_image_data_param",
        "ImageData": "image_data_param",
        "ImageLabelmapData": "image_data_param",
        "ImageSegData": "image_data_param",
        "HDF5Data": "hdf5_data_param",
        "MemoryData": "memory_data_param",
        "WindowData": "window_data_param",
        "DummyData": "dummy_data_param",
    }[type]
    listed = " ".join(f'top: "{top}"' for top in tops.split())
    text = f'layer {{ name: "l" type: "{type}" {listed} {message} {{ {options} }} {more} }}'
    return make_net(text, phase=phase, **other)


def pull(net: Net, batches: int = 1) -> list[dict[str, Array]]:
    """The next batches of a net of one data layer."""
    with torch.no_grad():
        return [{name: top.numpy().copy() for name, top in net().items()} for _ in range(batches)]


def equal(first: list[dict[str, Array]], second: list[dict[str, Array]]) -> bool:
    """Whether two runs saw the same batches."""
    return len(first) == len(second) and all(
        batch.keys() == other.keys() and all(np.array_equal(batch[key], other[key]) for key in batch)
        for batch, other in zip(first, second, strict=True)
    )
