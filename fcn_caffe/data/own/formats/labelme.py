"""labelme: a JSON file for each image, of polygons, rectangles, circles and masks.

Pixels are labelme's own: Pillow draws the shape and its outline, and a circle by its radius. Later shapes lie over
earlier ones. Lines and points have no area: they are left out, and counted. Source: labelme 5.5.0, utils/shape.py.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import UnidentifiedImageError

from fcn_caffe.data.own.formats.shapes import Mask, fill, most_pixels, paint
from fcn_caffe.data.own.formats.source import (
    VOID,
    ClassName,
    Label,
    Reading,
    Sample,
    Source,
    counted,
    files_below,
    get,
    path_inside,
    points,
    read_json,
)
from fcn_caffe.data.readers.image_files import DAMAGE, identify
from fcn_caffe.errors import DataError

__all__ = ["read"]

_WITHOUT_AREA = ("line", "linestrip", "point", "points")
_CORNERS = {"polygon": 3, "rectangle": 2, "circle": 2, "mask": 2}
# Label, kind, points, the picture of its mask, and where it is.
Shape = tuple[str, str, list[tuple[float, float]], str, str]

_IGNORED = ("__ignore__", "_ignore_")


def read(place: Path, reading: Reading) -> Source:
    """Read a folder of labelme's files, or one of them.

    Raises:
        DataError: Naming the file and the shape.
    """
    folder = place if place.is_dir() else place.parent
    files = files_below(place, ".json") if place.is_dir() else [place]
    if not files:
        raise DataError(f"{place}: has no .json of labelme. Give the folder that labelme saved into.")
    skipped: Counter[str] = Counter()
    shapes = {}
    samples = []
    for path in files:
        table = read_json(path)
        shapes[path] = _shapes(path, table, skipped)
        size = _size(path, table)
        image = _image(path, table, folder, reading)
        if image is None:
            skipped["image that is not there"] += 1
            continue
        samples.append((path, image, size))
    names = sorted({name for each in shapes.values() for name, *_ in each if name not in _IGNORED})
    classes = reading.with_background([ClassName(name) for name in names])
    index = {each.name: number for number, each in enumerate(classes)} | dict.fromkeys(_IGNORED, VOID)
    source = Source("labelme", classes, [], declared=False)
    for path, image, size in samples:
        draw = partial(_draw, shapes[path], size, index, reading.overlap, reading.ground)
        name = path.relative_to(folder).with_suffix("").as_posix()
        source.samples.append(Sample(name, image, path, draw, size=size))
    if skipped:
        source.notes.append(f"left out, as they have no area or no image: {counted(skipped)}")
    return source


def _size(path: Path, table: dict[str, Any]) -> tuple[int, int]:
    height, width = (get(table, key, int, str(path)) for key in ("imageHeight", "imageWidth"))
    return most_pixels(height, width, str(path))


def _shapes(path: Path, table: dict[str, Any], skipped: Counter[str]) -> list[Shape]:
    """Return each shape of a file: its label, see Shape."""
    shapes: list[Shape] = []
    for number, entry in enumerate(get(table, "shapes", list, str(path))):
        where = f"{path}: shapes[{number}]"
        name = get(entry, "label", str, where).strip()
        kind = str(entry.get("shape_type") or "polygon")
        if kind in _WITHOUT_AREA:
            skipped[kind] += 1
            continue
        if kind not in _CORNERS:
            raise DataError(f"{where}: is a {kind!r:.30}; read are {', '.join(_CORNERS)}. Draw it as a polygon.")
        corners = points(entry.get("points"), where, _CORNERS[kind])
        if kind != "polygon" and len(corners) != 2:
            raise DataError(f"{where}: a {kind} should have 2 points, has {len(corners)}.")
        mask = get(entry, "mask", str, where) if kind == "mask" else ""
        shapes.append((name, kind, corners, mask, where))
    return shapes


def _image(path: Path, table: dict[str, Any], folder: Path, reading: Reading) -> Path | bytes | None:
    """Return the image of a file: the one it names, else the one that it holds."""
    name, held = get(table, "imagePath", str, str(path)), bool(table.get("imageData"))
    base = reading.images or folder
    try:
        image = path_inside(base, name, path, base=reading.images or path.parent)
    except DataError:
        if not held:
            raise
    else:
        if os.path.isfile(image):  # Path's own raises for a name that is too long
            return image
    if held:
        return _decoded(get(table, "imageData", str, str(path)), f"{path}: imageData")
    if reading.skip_missing:
        return None
    raise DataError(
        f"{path}: there is no image {name!r} (looked in {base}), and the file holds none. "
        "Say where the images are with --images, or leave such files out with --skip-missing."
    )


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: is no base64 ({error}). The file is damaged: save it again.") from error


def _draw(shapes: list[Shape], size: tuple[int, int], index: dict[str, int], overlap: str, ground: int) -> Label:
    masks = (
        (index[name], _pasted(size, corners, mask, where) if kind == "mask" else fill(size, kind, corners))
        for name, kind, corners, mask, where in shapes
    )
    return paint(size, masks, overlap, ground)


def _pasted(size: tuple[int, int], corners: list[tuple[float, float]], text: str, where: str) -> Mask:
    """Return a mask that a file holds as a picture of its box."""
    try:
        picture = identify(io.BytesIO(_decoded(text, where)))
        if picture.height > size[0] or picture.width > size[1]:
            raise DataError(
                f"{where}: its mask is {picture.width}x{picture.height}, the image {size[1]}x{size[0]}. Draw it again."
            )
        box = np.asarray(picture.convert("L")) > 0
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: its mask is no picture. The file is damaged: save it again.") from error
    except DAMAGE as error:
        raise DataError(f"{where}: its mask cannot be read ({error}). The file is damaged: save it again.") from error
    left, top = (int(side) for side in corners[0])
    mask = np.zeros(size, np.bool_)
    height, width = min(box.shape[0], size[0] - top), min(box.shape[1], size[1] - left)
    if min(left, top) < 0 or height < 1 or width < 1:
        raise DataError(f"{where}: its mask lies outside of its image. Draw it again.")
    mask[top : top + height, left : left + width] = box[:height, :width]
    return mask
