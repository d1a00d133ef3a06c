"""ADE20K as the scene parsing benchmark has it: images/ and annotations/, each with training and validation.

A label is 0 for all other things, which is void, and 1 to 150 for the classes, whose names objectInfo150.txt has.
Source: ADEChallengeData2016, and sceneparsing's objectInfo150.txt.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fcn_caffe.data.own.formats.label_files import add_pairs, by_value
from fcn_caffe.data.own.formats.source import VOID, ClassName, Reading, Source, files_below, split_of
from fcn_caffe.data.readers.text_file import read_lines
from fcn_caffe.errors import DataError

__all__ = ["read"]

_CLASSES = 150


def read(place: Path, reading: Reading) -> Source:
    """Read the folder that holds images and annotations.

    Raises:
        DataError: Naming the file.
    """
    photographs, labels = reading.images or place / "images", place / "annotations"
    if not photographs.is_dir() or not labels.is_dir():
        raise DataError(f"{place}: ADE20K's benchmark has folders images and annotations there. Unpack it again.")
    names = [each.name for each in reading.class_names] or _names(place / "objectInfo150.txt")
    table = {0: VOID, **{value: value - 1 for value in range(1, len(names) + 1)}}
    source = Source("ade20k", [ClassName(name) for name in names], [])
    images = [(image, split_of(image.relative_to(photographs).parts[0])) for image in files_below(photographs, ".jpg")]

    def label_of(image: Path) -> Path:
        return labels / image.relative_to(photographs).with_suffix(".png")

    add_pairs(source, photographs, images, label_of, partial(by_value, table=table), reading)
    return source


def _names(path: Path) -> list[str]:
    """Return the names of objectInfo150.txt, the first of each; numbers where there is no such file."""
    if not path.is_file():
        return [f"class {value}" for value in range(1, _CLASSES + 1)]
    names: list[str] = []
    for number, line in enumerate(read_lines(path)[1:], 2):
        cells = line.split("\t")
        if not line.strip():
            continue
        if cells[0].strip() != str(len(names) + 1) or not cells[-1].strip():
            raise DataError(f"{path}:{number}: expected `Idx … Name` with Idx {len(names) + 1}, got {line!r:.60}.")
        name = cells[-1].split(",")[0].strip()
        names.append(name if name not in names else f"{name} {len(names) + 1}")
    return names
