"""CVAT's XML for images, version 1.1: polygons, boxes, ellipses and masks by z_order.

Polygons become COCO's own pixels, as in CVAT's export of masks. Objects of a higher z_order lie on top, of one
z_order the later; boxes and ellipses are turned by their rotation. Lines, points, cuboids and skeletons have no area:
they are left out, and counted. Source: CVAT's manual, "CVAT for image 1.1"; its RotatedBoxesToPolygons.
"""

from __future__ import annotations

import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

from fcn_caffe.data.own.formats.shapes import Mask, coco_polygons, fill, most_pixels, paint, run_lengths
from fcn_caffe.data.own.formats.source import (
    FARTHEST,
    ClassName,
    Colour,
    Label,
    Reading,
    Sample,
    Source,
    counted,
    is_near,
    path_inside,
    points,
    refuse_pipe,
    refuse_repeated,
    split_of,
)
from fcn_caffe.errors import DataError

__all__ = ["read"]

_WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton", "tag")
_FILE = "annotations.xml"
_BOX = ("xtl", "ytl", "xbr", "ybr", "rotation")
_ELLIPSE = ("cx", "cy", "rx", "ry", "rotation")

Object = tuple[str, str, dict[str, str], str]  # kind, label, attributes, where


def read(place: Path, reading: Reading) -> Source:
    """Read annotations.xml, or the folder that holds it.

    Raises:
        DataError: Naming the file and the image.
    """
    path = place / _FILE if place.is_dir() else place
    root = _parse(path)
    classes = reading.with_background(_labels(root, path))
    index = {each.name: number for number, each in enumerate(classes)}
    source = Source("cvat", classes, [])
    skipped: Counter[str] = Counter()
    for element in root.iter("image"):
        name = element.get("name", "")
        where = f"{path}: image {name!r}"
        size = most_pixels(_whole(element, "height", where), _whole(element, "width", where), where)
        objects = _objects(element, where, index, skipped)
        image = _image(path, name, where, reading)
        if image is None:
            skipped["image that is not there"] += 1
            continue
        for kind, _, attributes, inside in objects:
            _check(kind, attributes, size, inside)
        draw = partial(_draw, objects, size, index, reading.overlap, reading.ground)
        split = split_of(element.get("subset", ""))
        shown = image.relative_to(reading.images or path.parent).with_suffix("").as_posix()
        source.samples.append(Sample(shown, image, path, draw, split, size))
    if skipped:
        source.notes.append(f"left out, as they have no area or no image: {counted(skipped)}")
    return source


def _parse(path: Path) -> ElementTree.Element:
    try:
        refuse_pipe(path)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Give a file that can be read.") from error
    if re.search(rb"<!\s*(DOCTYPE|ENTITY)", data[:4096], re.IGNORECASE):
        raise DataError(f"{path}: declares a document type, which CVAT does not. Export the annotations again.")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: is no XML ({error}). Export the annotations again.") from error
    if root.tag != "annotations" or root.find("image") is None:
        raise DataError(
            f"{path}: is no file of `CVAT for image 1.1`: it has no image. Export the job in that format "
            "(the one for video has tracks, not images)."
        )
    return root


def _labels(root: ElementTree.Element, path: Path) -> list[ClassName]:
    """Return the labels of the task; those that objects use where it lists none."""
    listed = [each for each in root.findall("./meta//labels/label") if each.findtext("parent") is None]
    names = [(each.findtext("name") or "").strip() for each in listed]
    refuse_repeated(names, "the label", path)
    if "" in names:
        raise DataError(f"{path}: a label has no name. Export the annotations again.")
    if not names:
        used = {child.get("label", "") for image in root.iter("image") for child in image}
        return [ClassName(name) for name in sorted(used - {""})]
    return [ClassName(name, _colour(each.findtext("color") or "")) for name, each in zip(names, listed, strict=True)]


def _colour(text: str) -> Colour | None:
    match = re.fullmatch(r"#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", text.strip())
    return None if match is None else (int(match[1], 16), int(match[2], 16), int(match[3], 16))


def _objects(image: ElementTree.Element, where: str, index: dict[str, int], skipped: Counter[str]) -> list[Object]:
    """Return the objects of an image that have an area, in drawing order."""
    objects: list[tuple[int, Object]] = []
    for number, child in enumerate(image):
        inside = f"{where}: object {number} ({child.tag})"
        if child.tag in _WITHOUT_AREA:
            skipped[child.tag] += 1
            continue
        if child.tag not in ("polygon", "box", "ellipse", "mask"):
            raise DataError(f"{inside}: is not known; read are polygon, box, ellipse, mask. Draw it as a polygon.")
        label = child.get("label", "")
        if label not in index:
            raise DataError(f"{inside}: the label {label!r} is none of the task's. Add it, or correct the object.")
        objects.append(
            (_whole(child, "z_order", inside, "0", least=None), (child.tag, label, dict(child.attrib), inside))
        )
    return [each for _, each in sorted(objects, key=lambda pair: pair[0])]


def _whole(element: ElementTree.Element, key: str, where: str, default: str = "", least: int | None = 0) -> int:
    return _whole_number(element.get(key, default), key, where, least)


def _whole_number(text: str, key: str, where: str, least: int | None = 0) -> int:
    if not re.fullmatch(r"-?\d{1,9}", text.strip()) or (least is not None and int(text) < least):
        raise DataError(f"{where}: {key} should be a whole number, got {text!r:.30}. Export the annotations again.")
    return int(text)


def _image(path: Path, name: str, where: str, reading: Reading) -> Path | None:
    root = reading.images or path.parent
    folders = [root] if reading.images else [root / "images", root]
    places = [path_inside(folder, name, where) for folder in folders]
    image = next((each for each in places if os.path.isfile(each)), None)
    if image is None and not reading.skip_missing:
        raise DataError(
            f"{where}: there is no such image (looked in {', '.join(map(str, folders))}). "
            "Say where the images are with --images, or leave such entries out with --skip-missing."
        )
    return image


def _numbers(attributes: dict[str, str], keys: tuple[str, ...], where: str) -> list[float]:
    numbers = []
    for key in keys:
        text = attributes.get(key, "0" if key == "rotation" else "")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not is_near(number):
            raise DataError(f"{where}: {key} should be a number up to {FARTHEST:g}, got {text!r:.40}.")
        numbers.append(number)
    return numbers


def _corners(attributes: dict[str, str], where: str) -> list[tuple[float, float]]:
    pairs = []
    for text in attributes.get("points", "").split(";"):
        try:
            pairs.append([float(part) for part in text.split(",")])
        except ValueError:
            raise DataError(f"{where}: points should be `x,y;x,y;…`, got {text!r:.40}.") from None
    return points(pairs, where)


def _check(kind: str, attributes: dict[str, str], size: tuple[int, int], where: str) -> None:
    """Refuse an object that cannot be drawn before any is."""
    if kind == "polygon":
        _corners(attributes, where)
    elif kind == "mask":
        _mask(attributes, size, where)
    else:
        _numbers(attributes, _BOX if kind == "box" else _ELLIPSE, where)


def _mask(attributes: dict[str, str], size: tuple[int, int], where: str) -> Mask:
    """Return a mask: run lengths along the rows of its box, zeros first."""
    left, top, width, height = (
        _whole_number(attributes.get(key, ""), key, where) for key in ("left", "top", "width", "height")
    )
    if left + width > size[1] or top + height > size[0]:
        raise DataError(f"{where}: the mask leaves its image of {size[1]}x{size[0]}. Draw it again.")
    runs = [_whole_number(run, "rle", where) for run in attributes.get("rle", "").split(",")]
    mask = np.zeros(size, np.bool_)
    mask[top : top + height, left : left + width] = run_lengths((height, width), runs, where, "C")
    return mask


def _object_mask(each: Object, size: tuple[int, int]) -> Mask:
    kind, _, attributes, where = each
    if kind == "polygon":
        return coco_polygons(size, [_corners(attributes, where)])
    if kind == "mask":
        return _mask(attributes, size, where)
    if kind == "box":
        left, top, right, bottom, turn = _numbers(attributes, _BOX, where)
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return coco_polygons(size, [_turned(corners, ((left + right) / 2, (top + bottom) / 2), turn)])
    x, y, across, down, turn = _numbers(attributes, _ELLIPSE, where)
    if not turn:
        return fill(size, "ellipse", [(x - across, y - down), (x + across, y + down)])
    angles = (math.radians(degree) for degree in range(360))
    outline = [(x + across * math.cos(angle), y + down * math.sin(angle)) for angle in angles]
    return fill(size, "polygon", _turned(outline, (x, y), turn))


def _turned(
    points: list[tuple[float, float]], centre: tuple[float, float], degrees: float
) -> list[tuple[float, float]]:
    """Turn points about a centre, clockwise as one sees them."""
    if not degrees:
        return points
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offsets = [(x - centre[0], y - centre[1]) for x, y in points]
    return [(centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y) for x, y in offsets]


def _draw(objects: list[Object], size: tuple[int, int], index: dict[str, int], overlap: str, ground: int) -> Label:
    return paint(size, ((index[each[1]], _object_mask(each, size)) for each in objects), overlap, ground)
