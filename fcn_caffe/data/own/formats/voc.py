"""PASCAL VOC folders, and CVAT's export of masks, which has the same folders and labelmap.txt.

JPEGImages, SegmentationClass, and the lists of ImageSets/Segmentation. Without labelmap.txt a label's value is its
class, VOC's own 21 unless names are given, and 255 is void. Source: the VOC development kit; CVAT's manual,
"Segmentation mask 1.1".
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from fcn_caffe.data.own.formats.label_files import add_pairs, by_colour, by_value
from fcn_caffe.data.own.formats.source import VOID, ClassName, Colour, Label, Reading, Source, split_of
from fcn_caffe.data.readers.image_files import IMAGE_SUFFIXES, FolderIndex, read_split
from fcn_caffe.data.readers.text_file import read_lines
from fcn_caffe.data.sets.voc_layers import CLASSES
from fcn_caffe.errors import DataError
from fcn_caffe.host.pictures import palette

__all__ = ["LABEL_FOLDER", "read"]

LABEL_FOLDER = "SegmentationClass"
_NO_OBJECT = ("void", "ignore", "__ignore__")


def read(place: Path, reading: Reading) -> Source:
    """Read the folder that holds JPEGImages and SegmentationClass.

    Raises:
        DataError: Naming the file.
    """
    labels, photographs = place / LABEL_FOLDER, reading.images or place / "JPEGImages"
    if not labels.is_dir():
        raise DataError(f"{place}: has no folder {LABEL_FOLDER}. Export the masks, or give --format.")
    if not photographs.is_dir():
        raise DataError(
            f"{place}: has no folder JPEGImages. Export the images with the masks, or say where they are with --images."
        )
    if (place / "labelmap.txt").is_file():
        source, table = _by_labelmap(place / "labelmap.txt")

        def draw(path: Path) -> Label:
            return by_colour(path, table)

    else:
        shown = palette(256).tolist()
        names = list(reading.class_names) or [
            ClassName(name, (red, green, blue)) for name, (red, green, blue) in zip(CLASSES, shown, strict=False)
        ]
        source = Source("voc", names, [])
        draw = partial(by_value, table={**{index: index for index in range(len(names))}, 255: VOID})
    index = FolderIndex(photographs, IMAGE_SUFFIXES)
    images = [(_photograph(index, name, place), split) for name, split in _lists(place, labels).items()]
    add_pairs(
        source,
        photographs,
        images,
        lambda image: labels / image.relative_to(photographs).with_suffix(".png"),
        draw,
        reading,
    )
    return source


def _photograph(index: FolderIndex, name: str, place: Path) -> Path:
    """Return the image of a name; an error says which list has the name, and where."""
    try:
        return index.path(name)
    except DataError as error:
        for path in sorted((place / "ImageSets" / "Segmentation").glob("*.txt")):
            names = [line.strip() for line in read_lines(path)]
            if name in names:
                raise error.named(f"{path}:{names.index(name) + 1}") from None
        raise


def _lists(place: Path, labels: Path) -> dict[str, str]:
    """Return the names of the lists with their splits; those of all labels where there is no list."""
    names: dict[str, str] = {}
    for path in sorted((place / "ImageSets" / "Segmentation").glob("*.txt")):
        if path.stem in ("trainval",):
            continue
        for name in read_split(path):
            if split_of(path.stem) and names.get(name):
                raise DataError(f"{path}: {name} is in the list of {names[name]}, too. Take it out of one.")
            names[name] = split_of(path.stem) or names.get(name, "")
    return names or dict.fromkeys(sorted(FolderIndex(labels, (".png",), "label").files), "")


def _by_labelmap(path: Path) -> tuple[Source, dict[Colour, int]]:
    """Read labelmap.txt, `NAME:R,G,B:PARTS:ACTIONS` a line, as classes and the class of each colour."""
    classes: list[ClassName] = []
    table: dict[Colour, int] = {}
    for number, line in enumerate(read_lines(path, encoding="utf-8-sig"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        parts = [part.strip() for part in rest.split(":")[0].split(",")]
        if (
            not name.strip()
            or len(parts) != 3
            or not all(re.fullmatch("[0-9]{1,3}", part) and int(part) < 256 for part in parts)
        ):
            raise DataError(f"{path}:{number}: expected `NAME:R,G,B::`, got {line!r:.60}.")
        colour = (int(parts[0]), int(parts[1]), int(parts[2]))
        if colour in table:
            raise DataError(f"{path}:{number}: the colour {colour} comes twice. Give each class its own.")
        if name.strip().lower() in _NO_OBJECT:
            table[colour] = VOID
            continue
        table[colour] = len(classes)
        classes.append(ClassName(name.strip(), colour))
    if not classes:
        raise DataError(f"{path}: lists no class. Add a line for each.")
    return Source("cvat-masks", classes, []), table
