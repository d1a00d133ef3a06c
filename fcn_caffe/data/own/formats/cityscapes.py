"""Cityscapes: leftImg8bit/SPLIT/CITY/… and gtFine/SPLIT/CITY/… with label ids, train ids or polygons.

The classes are the 19 that the benchmark trains on; with `all_classes` the 30 objects. What is read of an image is its
_labelTrainIds.png, else its _labelIds.png, else its _polygons.json, which is drawn as the data set's own
json2labelImg draws it: by Pillow, in the objects' order. Source: cityscapesscripts 2.3, helpers/labels.py and
preparation/json2labelImg.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from fcn_caffe.data.own.formats.label_files import add_pairs, by_value
from fcn_caffe.data.own.formats.shapes import most_pixels
from fcn_caffe.data.own.formats.source import (
    VOID,
    ClassName,
    Label,
    Reading,
    Source,
    files_below,
    get,
    points,
    read_json,
)
from fcn_caffe.errors import DataError

__all__ = ["read"]

# Name, train id (255: not trained on), colour; a label's id is its place.
LABELS: tuple[tuple[str, int, tuple[int, int, int]], ...] = (
    ("unlabeled", 255, (0, 0, 0)),
    ("ego vehicle", 255, (0, 0, 0)),
    ("rectification border", 255, (0, 0, 0)),
    ("out of roi", 255, (0, 0, 0)),
    ("static", 255, (0, 0, 0)),
    ("dynamic", 255, (111, 74, 0)),
    ("ground", 255, (81, 0, 81)),
    ("road", 0, (128, 64, 128)),
    ("sidewalk", 1, (244, 35, 232)),
    ("parking", 255, (250, 170, 160)),
    ("rail track", 255, (230, 150, 140)),
    ("building", 2, (70, 70, 70)),
    ("wall", 3, (102, 102, 156)),
    ("fence", 4, (190, 153, 153)),
    ("guard rail", 255, (180, 165, 180)),
    ("bridge", 255, (150, 100, 100)),
    ("tunnel", 255, (150, 120, 90)),
    ("pole", 5, (153, 153, 153)),
    ("polegroup", 255, (153, 153, 153)),
    ("traffic light", 6, (250, 170, 30)),
    ("traffic sign", 7, (220, 220, 0)),
    ("vegetation", 8, (107, 142, 35)),
    ("terrain", 9, (152, 251, 152)),
    ("sky", 10, (70, 130, 180)),
    ("person", 11, (220, 20, 60)),
    ("rider", 12, (255, 0, 0)),
    ("car", 13, (0, 0, 142)),
    ("truck", 14, (0, 0, 70)),
    ("bus", 15, (0, 60, 100)),
    ("caravan", 255, (0, 0, 90)),
    ("trailer", 255, (0, 0, 110)),
    ("train", 16, (0, 80, 100)),
    ("motorcycle", 17, (0, 0, 230)),
    ("bicycle", 18, (119, 11, 32)),
)
_NEVER = 4  # the first labels are of no object: void in every reading
_IMAGE = "_leftImg8bit.png"
_KINDS = ("_labelTrainIds.png", "_labelIds.png", "_polygons.json")  # the first knows the 19 classes only
_PLATE = "license plate"  # its id and train id are -1: it is not drawn, and the car below it shows


def read(place: Path, reading: Reading) -> Source:
    """Read the folder that holds leftImg8bit and gtFine (or gtCoarse).

    Raises:
        DataError: Naming the file.
    """
    truth = next((place / name for name in ("gtFine", "gtCoarse") if (place / name).is_dir()), None)
    photographs = reading.images or place / "leftImg8bit"
    if truth is None or not photographs.is_dir():
        raise DataError(f"{place}: Cityscapes has folders leftImg8bit and gtFine (or gtCoarse) there. Unpack both.")
    table = _classes(reading.all_classes)
    kept = [label for label, index in table.items() if index != VOID]
    source = Source("cityscapes", [ClassName(LABELS[label][0], LABELS[label][2]) for label in kept], [])
    images, unknown = [], 0
    for image in files_below(photographs, _IMAGE):
        split = image.relative_to(photographs).parts[0]
        if split == "test":
            unknown += 1  # its public labels are void throughout
        else:
            images.append((image, split if split in ("train", "val") else "train" if split == "train_extra" else ""))
    if unknown:
        source.notes.append(f"left out: {unknown} images of test, whose labels are not public")

    def label_of(image: Path) -> Path:
        name = image.name.removesuffix(_IMAGE)
        stem = truth / image.relative_to(photographs).parent / f"{name}_{truth.name}"
        files = [stem.with_name(stem.name + kind) for kind in (_KINDS[1:] if reading.all_classes else _KINDS)]
        return next((file for file in files if file.is_file()), files[0])

    add_pairs(source, photographs, images, label_of, partial(_draw, table), reading)
    return source


def _classes(all_classes: bool) -> dict[int, int]:
    """Return the class of every label id, or VOID."""
    if not all_classes:
        return {label: VOID if train == 255 else train for label, (_, train, _) in enumerate(LABELS)}
    return {label: VOID if label < _NEVER else label - _NEVER for label in range(len(LABELS))}


def _draw(table: dict[int, int], path: Path) -> Label:
    if path.suffix == ".json":
        return _polygons(table, path)
    if path.name.endswith("_labelTrainIds.png"):
        return by_value(path, {**{index: index for index in table.values() if index != VOID}, 255: VOID})
    return by_value(path, {**table, 255: VOID})  # a license plate's -1 is 255 in a byte


def _polygons(table: dict[int, int], path: Path) -> Label:
    content = read_json(path)
    size = most_pixels(get(content, "imgHeight", int, str(path)), get(content, "imgWidth", int, str(path)), str(path))
    image = Image.new("L", (size[1], size[0]), 255)
    draw = ImageDraw.Draw(image)
    ids = {name: label for label, (name, _, _) in enumerate(LABELS)}
    for number, entry in enumerate(get(content, "objects", list, str(path))):
        where = f"{path}: objects[{number}]"
        name = get(entry, "label", str, where)
        if entry.get("deleted"):
            continue
        name = name if name in ids else name.removesuffix("group")
        if name == _PLATE:
            continue
        if name not in ids:
            raise DataError(f"{where}: {name!r} is no label of Cityscapes. Correct it.")
        index = table[ids[name]]
        draw.polygon(points(entry.get("polygon"), where), fill=255 if index == VOID else index)
    label = np.array(image, np.int32)
    return np.where(label == 255, VOID, label).astype(np.int32)
