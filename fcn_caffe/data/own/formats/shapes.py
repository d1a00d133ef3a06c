"""Draws objects into label images: polygons by two rules, circles, rectangles, run lengths, and who lies on top."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fcn_caffe.data.own.formats.source import VOID, Label, is_identifier
from fcn_caffe.errors import DataError

__all__ = ["Mask", "coco_polygons", "compressed_counts", "fill", "most_pixels", "paint", "run_lengths"]

Mask = npt.NDArray[np.bool_]
Points = Sequence[tuple[float, float]]

MOST_PIXELS = 1 << 28  # of one image: annotation files that say more are damaged


def most_pixels(height: int, width: int, where: str) -> tuple[int, int]:
    """Return a size that annotations say. Raises: DataError where no image has it."""
    if height < 1 or width < 1 or height * width > MOST_PIXELS:
        raise DataError(f"{where}: the image is said to be {width}x{height}. Correct its width and height.")
    return height, width


def paint(size: tuple[int, int], objects: Iterable[tuple[int, Mask]], overlap: str, ground: int) -> Label:
    """Lay the masks of objects over each other.

    Args:
        size: Height and width.
        objects: The class and the mask of each, in drawing order.
        overlap: Which object a pixel of several classes belongs to: the "last", the "smallest" (the last of equals),
            or none: "void".
        ground: The class of pixels without an object, or VOID.
    """
    label: Label = np.full(size, ground, np.int32)
    if overlap == "smallest":
        objects = sorted(objects, key=lambda each: -int(each[1].sum()))
    taken = np.zeros(size, np.bool_)
    torn = np.zeros(size, np.bool_)
    for index, mask in objects:
        if overlap == "void":
            torn |= mask & taken & (label != index)
            taken |= mask
        label[mask] = index
    label[torn] = VOID
    return label


def fill(size: tuple[int, int], kind: str, points: Points) -> Mask:
    """Return the pixels of one shape by Pillow's rule: centres inside, and the outline.

    Args:
        size: Height and width.
        kind: "polygon"; "rectangle", of two corners; "circle", of its centre and a point on it; "ellipse", of the
            corners of its box.
        points: Its points, (x, y).
    """
    image = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(image)
    if kind == "polygon":
        draw.polygon(list(points), outline=1, fill=1)
    elif kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = float(np.hypot(edge_x - x, edge_y - y))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    else:
        (left, top), (right, bottom) = points
        box = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
        (draw.rectangle if kind == "rectangle" else draw.ellipse)(box, outline=1, fill=1)
    return np.array(image, np.bool_)


def coco_polygons(size: tuple[int, int], parts: Sequence[Points]) -> Mask:
    """Return the union of polygons in COCO's own pixels, which only pycocotools gives.

    Raises:
        DataError: pycocotools is not installed.
    """
    try:
        from pycocotools import mask as coco  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            'polygons become COCO\'s pixels by pycocotools, which is not installed. Run: pip install "fcn-caffe[coco]"'
        ) from error
    flat = [[number for point in part for number in point] for part in parts]
    union = coco.merge(coco.frPyObjects(flat, *size))
    # Not by its own decode, which NumPy 2 warns of.
    return run_lengths(size, compressed_counts(union["counts"].decode(), "pycocotools"), "pycocotools")


def run_lengths(size: tuple[int, int], counts: object, where: str, order: Any = "F") -> Mask:  # noqa: ANN401 - "F" or "C"
    """Return the mask of run lengths: so many zeros, so many ones, …, down the columns ("F") or along rows ("C").

    Raises:
        DataError: They are no whole numbers, or do not fill the image.
    """
    runs = [run for run in counts if is_identifier(run)] if isinstance(counts, list) else []
    if not isinstance(counts, list) or len(runs) < len(counts):
        raise DataError(f"{where}: run lengths should be whole numbers from 0, got {counts!r:.60}.")
    total = sum(runs)
    if total != size[0] * size[1]:
        raise DataError(
            f"{where}: its run lengths fill {total} pixels, an image of {size[1]}x{size[0]} has {size[0] * size[1]}. "
            "The annotation is of another image or size: export it again."
        )
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.asarray(flat.reshape(size, order=order), np.bool_)


def compressed_counts(text: str, where: str) -> list[int]:
    """Read run lengths that are packed as COCO does, 5 bits a character from the lowest, as differences.

    From the fourth run on, each is the difference to the run two before it. Source: rleFrString of cocoapi's maskApi.c.

    Raises:
        DataError: The text has another character, or ends within a number.
    """
    runs: list[int] = []
    place, number, shift = 0, 0, 0
    for place, character in enumerate(text):
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise DataError(f"{where}: run lengths hold {character!r} at place {place}: not COCO's packed form.")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number, shift = 0, 0
    if shift:
        raise DataError(f"{where}: run lengths end within a number. The file was cut short.")
    return runs
