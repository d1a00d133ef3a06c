"""Write a data set into a task's folder: labels as PNGs of class indices, images linked, copied or made smaller."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image

from fcn_caffe.data.own.classes import VOID, ClassTable
from fcn_caffe.data.own.formats.source import ClassName, Sample, Source
from fcn_caffe.data.own.label_check import FileReport, LabelReport, Pair
from fcn_caffe.data.readers.image_files import (
    DAMAGE,
    IMAGE_SUFFIXES,
    identify,
    image_size,
    opened_image,
    read_image,
)
from fcn_caffe.data.readers.labels import LabelMap, read_label
from fcn_caffe.errors import DataError
from fcn_caffe.host.pictures import UInt8, label_picture, palette

__all__ = ["class_colours", "convert", "link_or_copy", "link_pairs", "place_image", "reduce_pairs"]

Item = TypeVar("Item")
_Written = tuple[Pair, FileReport]

IMAGES, LABELS = "images", "labels"
# What brings pixels to where the EXIF orientation says.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "GIF": ".gif"}


@dataclass(frozen=True)
class _Writer:
    """What the images of one data set have in common.

    Attributes:
        out: The task's folder.
        colours: The palette of the label pictures.
        longest_side: What longer images are reduced to; None for as they are.
    """

    out: Path
    colours: UInt8
    longest_side: int | None

    def write(
        self,
        name: str,
        image: Path | bytes,
        draw: Callable[[], UInt8],
        origin: Path,
        size: tuple[int, int] | None = None,
    ) -> _Written:
        """Write one image and its label.

        Args:
            name: What lists call it.
            image: The file, or its bytes.
            draw: Makes the label.
            origin: The file of the label, for errors.
            size: The label's height and width, where they are known before it is drawn: a wrong one costs no memory.

        Returns:
            Where they are: the image's own file, which errors should name, where it is brought in as it is; and what
            the label holds.
        """
        placed = place_image(image, self.out / IMAGES, name, origin)
        photograph = placed if isinstance(image, bytes) else image
        if size is not None:
            _turn(size, photograph, origin)
        label = _turned(draw(), photograph, origin)
        scaled = _reduced_size(label.shape, self.longest_side)
        if scaled is not None:
            photograph = _reduce_image(photograph, placed, scaled)
            nearest = Image.fromarray(label).resize(scaled, Image.Resampling.NEAREST)
            label = np.asarray(nearest)
        path = self.out / LABELS / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        label_picture(label, self.colours).save(path, format="PNG")
        counts = np.bincount(label.ravel(), minlength=256)
        held = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
        return Pair(name, photograph, path), FileReport(origin, held, False, label.shape[:2])


def class_colours(classes: Sequence[ClassName]) -> UInt8:
    """Return the classes' own colours, (classes, 3); VOC's where the data set says none."""
    colours = palette(len(classes))
    for index, each in enumerate(classes):
        if each.colour is not None:
            colours[index] = each.colour
    return colours


def convert(
    source: Source, table: ClassTable, out: Path, longest_side: int | None = None
) -> tuple[list[Pair], LabelReport]:
    """Write all images of a data set, several at a time.

    Args:
        source: The data set.
        table: The class of each of its classes.
        out: The task's folder.
        longest_side: The pixels that the longest side of an image is reduced to. Labels take the nearest pixel, images
            are smoothed.

    Returns:
        Where images and labels are, and what the labels hold.

    Raises:
        DataError: Naming the file.
    """
    writer = _Writer(out, class_colours(table.classes), longest_side)
    lookup = np.array([*table.lookup, VOID], np.uint8)  # its last is that of -1, void

    def write(sample: Sample) -> _Written:
        return writer.write(sample.name, sample.image, lambda: lookup[sample.draw()], sample.origin, sample.size)

    return _write_all(write, source.samples)


def reduce_pairs(
    pairs: Sequence[Pair], out: Path, mapping: LabelMap | None, colours: UInt8, longest_side: int
) -> tuple[list[Pair], LabelReport]:
    """Write images and label pictures that are no longer than a side; labels hold class indices then.

    Args:
        pairs: The images and their labels.
        out: The task's folder.
        mapping: The class of each value or colour; None where values are classes.
        colours: The palette of the label pictures.
        longest_side: As `convert` has it.

    Returns:
        Where images and labels are, and what the labels hold.

    Raises:
        DataError: Naming the file.
    """
    writer = _Writer(out, colours, longest_side)

    def write(pair: Pair) -> _Written:
        return writer.write(pair.name, pair.image, lambda: read_label(pair.label, mapping).astype(np.uint8), pair.label)

    return _write_all(write, pairs)


def _write_all(write: Callable[[Item], _Written], items: Sequence[Item]) -> tuple[list[Pair], LabelReport]:
    """Write images and labels, several at a time, and stop at the first that fails."""
    pairs, report = [], LabelReport()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = [pool.submit(write, item) for item in items]
        try:
            for future in futures:
                pair, file = future.result()
                pairs.append(pair)
                report.add(file)
        finally:
            for future in futures:
                future.cancel()
    return pairs, report


def link_pairs(pairs: Sequence[Pair], out: Path) -> None:
    """Bring images and label pictures into the task's folder as they are."""

    def bring(pair: Pair) -> None:
        place_image(pair.image, out / IMAGES, pair.name, pair.image)
        place_image(pair.label, out / LABELS, pair.name, pair.label)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(bring, pairs))


def place_image(image: Path | bytes, folder: Path, name: str, origin: Path) -> Path:
    """Put an image into a folder: as another name of the same file where the disk can, else as a copy.

    Raises:
        DataError: The bytes of an image are none.
    """
    if isinstance(image, bytes):
        target = folder / f"{name}{_suffix(image, origin)}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image)
        return target
    target = folder / f"{name}{image.suffix if image.suffix.lower() in IMAGE_SUFFIXES else '.png'}"
    link_or_copy(image, target)
    return target


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file that is another name of a file where the disk can, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()  # not a symbolic link, which may lead nowhere from there
    try:
        os.link(real, target)
    except OSError:  # another disk, or one without such links
        shutil.copyfile(real, target)


def _suffix(data: bytes, origin: Path) -> str:
    try:
        picture = identify(io.BytesIO(data))
        picture.load()
    except DAMAGE as error:
        raise DataError(f"{origin}: the image that it holds cannot be read ({error}). Save the file again.") from error
    if picture.format not in _SUFFIXES:
        raise DataError(f"{origin}: the image that it holds is a {picture.format}. Save it as PNG or JPEG.")
    return _SUFFIXES[picture.format]


def _turned(label: UInt8, image: Path, origin: Path) -> UInt8:
    """Return the label as viewers show its image. Where it has the size of the pixels as stored, it is turned, too."""
    turn = _turn(label.shape, image, origin)
    return label if turn is None else np.asarray(Image.fromarray(label).transpose(turn))


def _turn(shape: tuple[int, ...], image: Path, origin: Path) -> Image.Transpose | None:
    """Return how a label of this height and width is turned to lie on its image; None for not at all.

    Raises:
        DataError: It is of another size.
    """
    size = image_size(image)
    if shape == size:
        return None
    if shape == size[::-1]:
        with opened_image(image) as picture:
            turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
        if turn is not None:
            return turn
    raise DataError(
        f"{origin}: the label is {shape[1]}x{shape[0]}, its image {image.name} is {size[1]}x{size[0]} "
        "(after EXIF orientation). They should be of one size: annotate that image, or correct the size in the file."
    )


def _reduced_size(size: tuple[int, ...], longest_side: int | None) -> tuple[int, int] | None:
    """Return the width and height of a smaller image; None where it is small enough."""
    height, width = size
    longest = max(height, width)
    if longest_side is None or longest <= longest_side:
        return None
    return max(1, round(width * longest_side / longest)), max(1, round(height * longest_side / longest))


def _reduce_image(image: Path, placed: Path, size: tuple[int, int]) -> Path:
    """Put a smaller image in place of one, smoothed by Lanczos's kernel, as PNG: no second loss by JPEG."""
    picture = Image.fromarray(read_image(image)).resize(size, Image.Resampling.LANCZOS)
    placed.unlink()  # another name of the original: never written to
    target = placed.with_suffix(".png")
    picture.save(target, format="PNG")
    return target
