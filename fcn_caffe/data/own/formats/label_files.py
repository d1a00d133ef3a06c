"""Label pictures of the data sets that have them: what their values or colours mean, by a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from fcn_caffe.data.own.formats.source import VOID, Colour, Label, Reading, Sample, Source
from fcn_caffe.data.readers.image_files import read_index_image
from fcn_caffe.data.readers.labels import LabelMap, strips
from fcn_caffe.errors import DataError

__all__ = ["add_pairs", "by_colour", "by_value"]


def by_value(path: Path, table: Mapping[int, int]) -> Label:
    """Read a label picture of values. table: the class of each value, or VOID.

    Raises:
        DataError: It has colours, or a value that the table lacks.
    """
    values = read_index_image(path, mapped=True)
    if values.ndim != 2:
        raise DataError(f"{path}: is colour-coded, expected one value a pixel. Take the files of label values.")
    beyond = max(table) + 1  # what values that are larger become, and what is negative finds from the end
    lookup = np.full(beyond + 1, VOID - 1, np.int32)
    for value, index in table.items():
        if value >= 0:
            lookup[value] = index
    label: Label = np.empty(values.shape, np.int32)
    for rows in strips(values):
        label[rows] = lookup[values[rows].astype(np.int32).clip(-1, beyond)]
    unknown = label < VOID
    if unknown.any():
        raise DataError(
            f"{path}: value {int(values[unknown][0])} ({int(unknown.sum())} pixels) is none of the data set's. "
            "Is it a label picture of this data set? Correct the picture."
        )
    return label


def by_colour(path: Path, table: Mapping[Colour, int]) -> Label:
    """Read a label picture of colours. table: the class of each colour, or VOID.

    Raises:
        DataError: A colour is not in the table.
    """
    cure = "is of no class. Add it to the data set's list of colours, or correct the picture."
    classes = LabelMap(colours=dict(table)).apply(read_index_image(path, colours=True), path, cure)
    return classes.astype(np.int32)


def add_pairs(
    source: Source,
    root: Path,
    images: Iterable[tuple[Path, str]],
    label_of: Callable[[Path], Path],
    draw: Callable[[Path], Label],
    reading: Reading,
) -> None:
    """Add images with their label pictures to a source.

    Args:
        source: The source.
        root: The folder that names start from.
        images: Each image with its split.
        label_of: Says where an image's label picture is.
        draw: Makes the label of a label picture.
        reading: Whether images without a label are left out.

    Raises:
        DataError: An image has no label picture.
    """
    missing = 0
    for image, split in images:
        label = label_of(image)
        if not label.is_file():
            if not reading.skip_missing:
                raise DataError(
                    f"{label}: there is no label picture of {image}. Add it, take the image out, "
                    "or leave such images out with --skip-missing."
                )
            missing += 1
            continue
        name = image.relative_to(root).with_suffix("").as_posix()
        source.samples.append(Sample(name, image, label, partial(draw, label), split))
    if missing:
        source.notes.append(f"left out: {missing} images without a label picture")
