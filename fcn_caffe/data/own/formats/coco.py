"""COCO: a JSON file of images, annotations and categories, by polygons and run lengths.

One annotation's polygons are a union. Pixels are COCO's own. Later annotations lie over earlier ones unless `overlap`
says otherwise, and crowds (iscrowd: 1) below all objects. Source: cocodataset.org, data format; pycocotools 2.0.11.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fcn_caffe.data.own.formats.shapes import (
    Mask,
    coco_polygons,
    compressed_counts,
    most_pixels,
    paint,
    run_lengths,
)
from fcn_caffe.data.own.formats.source import (
    ClassName,
    Label,
    Reading,
    Sample,
    Source,
    get,
    is_identifier,
    path_inside,
    points,
    read_json,
    refuse_repeated,
    split_of,
)
from fcn_caffe.errors import DataError

__all__ = ["read"]


@dataclass
class _Picture:
    """An image of the file, with its annotations: class, whether a crowd, and what draws its mask."""

    name: str
    path: Path
    size: tuple[int, int]
    objects: list[tuple[int, bool, Callable[[], Mask]]] = field(default_factory=list)


def annotation_files(folder: Path) -> list[Path]:
    """List the annotation files of a data set's folder; those of instances where there are others, too."""
    files = [
        *sorted((folder / "annotations").glob("*.json")),
        *sorted(folder.glob("*/_annotations.coco.json")),
        *sorted(folder.glob("*.json")),
    ]
    return [path for path in files if path.name.startswith("instances_")] or files


def read(place: Path, reading: Reading) -> Source:
    """Read a COCO file, or all of a data set's folder, whose names say the split.

    Raises:
        DataError: Naming the file and the entry.
    """
    files = annotation_files(place) if place.is_dir() else [place]
    if not files:
        raise DataError(f"{place}: has no annotations/*.json. Give the annotation file itself.")
    tables = {path: read_json(path) for path in files}
    names = dict.fromkeys(name for path, table in tables.items() for name in _categories(table, path).values())
    classes = reading.with_background([ClassName(name) for name in names])
    index = {each.name: number for number, each in enumerate(classes)}
    source = Source("coco", classes, [])
    for path, table in tables.items():
        root = reading.images or (place if place.is_dir() else _data_set(path))
        split = split_of(path.name) or split_of(path.parent.name) if len(files) > 1 else ""
        _add(source, path, table, root, split, index, reading)
    return source


def _data_set(path: Path) -> Path:
    """Return the folder of the data set that a file belongs to: above annotations/, or the file's own."""
    return path.parent.parent if path.parent.name == "annotations" else path.parent


def _categories(table: dict[str, Any], path: Path) -> dict[int, str]:
    """Return the names of the categories by their ids."""
    entries = get(table, "categories", list, str(path))
    names = {}
    for number, entry in enumerate(entries):
        where = f"{path}: categories[{number}]"
        names[_identifier(entry, "id", where)] = str(get(entry, "name", str, where)).strip()
    refuse_repeated((entry["id"] for entry in entries), "the category id", path)
    refuse_repeated((entry["name"].strip() for entry in entries), "the category", path)
    return names


def _identifier(entry: object, key: str, where: str) -> int:
    value = get(entry, key, int, where)
    if not is_identifier(value):
        raise DataError(f"{where}: {key} should be a whole number from 0, got {value}. Number the entries again.")
    return int(value)


def _add(
    source: Source,
    path: Path,
    table: dict[str, Any],
    root: Path,
    split: str,
    index: dict[str, int],
    reading: Reading,
) -> None:
    """Add the images of one file."""
    pictures, missing = _pictures(path, table, root, reading)
    categories = _categories(table, path)
    seen: set[int] = set()
    for number, entry in enumerate(get(table, "annotations", list, str(path))):
        where = f"{path}: annotations[{number}]"
        identifier = _identifier(entry, "id", where)
        where = f"{path}: annotation {identifier}"
        if identifier in seen:
            raise DataError(f"{where}: the id comes twice. Give each annotation its own.")
        seen.add(identifier)
        image, category = _identifier(entry, "image_id", where), _identifier(entry, "category_id", where)
        if category not in categories:
            known = ", ".join(f"{key} {name}" for key, name in list(categories.items())[:5])
            raise DataError(f"{where}: category_id {category} is in no category ({known} …). Add it, or correct it.")
        if image in missing:
            continue
        if image not in pictures:
            raise DataError(f"{where}: image_id {image} is of no image. Add the image, or take the annotation out.")
        picture = pictures[image]
        mask = _mask(entry, picture.size, where)
        crowd = entry.get("iscrowd", 0)
        if not isinstance(crowd, int) or crowd not in (0, 1):
            raise DataError(f'{where}: "iscrowd" should be 0 or 1, got {crowd!r:.30}.')
        picture.objects.append((index[categories[category]], bool(crowd), mask))
    for picture in pictures.values():
        draw = partial(_draw, picture, reading.overlap, reading.ground)
        source.samples.append(Sample(picture.name, picture.path, path, draw, split, picture.size))
    if missing:
        source.notes.append(f"left out: {len(missing)} images of {path} that are not there")


def _pictures(path: Path, table: dict[str, Any], root: Path, reading: Reading) -> tuple[dict[int, _Picture], set[int]]:
    """Find the images of a file; returns those that are there by id, and the ids of the others."""
    pictures: dict[int, _Picture] = {}
    missing: set[int] = set()
    entries = get(table, "images", list, str(path))
    folder: Path | None = None
    for number, entry in enumerate(entries):
        where = f"{path}: images[{number}]"
        identifier = _identifier(entry, "id", where)
        if identifier in pictures or identifier in missing:
            raise DataError(f"{where}: the image id {identifier} comes twice. Give each image its own.")
        name = get(entry, "file_name", str, where)
        size = most_pixels(get(entry, "height", int, where), get(entry, "width", int, where), where)
        bases = [folder] if folder else _image_folders(path, root)
        base = next((each for each in bases if os.path.isfile(path_inside(each, name, where))), None)
        if base is not None:
            folder, image = base, path_inside(base, name, where)
            shown = image.relative_to(root if image.is_relative_to(root) else base)
            pictures[identifier] = _Picture(shown.with_suffix("").as_posix(), image, size)
        elif reading.skip_missing:
            missing.add(identifier)
        else:
            raise DataError(
                f"{where}: there is no image {name!r} (looked in {', '.join(str(each) for each in bases[:4])}). "
                "Say where the images are with --images, or leave such entries out with --skip-missing."
            )
    return pictures, missing


def _image_folders(path: Path, root: Path) -> list[Path]:
    """List the folders that images of a file may lie in: instances_val2017.json has them in val2017/."""
    own = path.stem.removeprefix("instances_")
    near = [path.parent] if path.parent.is_relative_to(root) else []
    return list(dict.fromkeys([*near, root, root / own, root / "images", root / "images" / own, root / split_of(own)]))


def _mask(entry: dict[str, Any], size: tuple[int, int], where: str) -> Callable[[], Mask]:
    """Check what an annotation's segmentation says, and return what draws it."""
    value = get(entry, "segmentation", (list, dict), where)
    if isinstance(value, list):
        if not value:
            raise DataError(f"{where}: has no polygon. Take it out, or draw it.")
        parts = []
        for number, part in enumerate(value):
            inside = f"{where}: segmentation[{number}]"
            if not isinstance(part, list) or len(part) % 2:
                raise DataError(f"{inside}: a polygon should be a list of x, y, x, y, …, got {part!r:.60}.")
            parts.append(points(list(zip(part[::2], part[1::2], strict=True)), inside))
        return partial(coco_polygons, size, parts)
    height, width = _size_of_run_lengths(value, where)
    if (height, width) != size:
        raise DataError(
            f"{where}: its run lengths are of {width}x{height}, its image is {size[1]}x{size[0]}. "
            "The annotation is of another image or size: export it again."
        )
    counts = get(value, "counts", (list, str), where)
    return partial(_decode, size, counts, where)


def _decode(size: tuple[int, int], counts: list[int] | str, where: str) -> Mask:
    return run_lengths(size, compressed_counts(counts, where) if isinstance(counts, str) else counts, where)


def _size_of_run_lengths(value: dict[str, Any], where: str) -> tuple[int, int]:
    size = get(value, "size", list, where)
    if len(size) != 2 or not all(is_identifier(side) for side in size):
        raise DataError(f'{where}: "size" should be height and width, got {size!r:.60}.')
    return size[0], size[1]


def _draw(picture: _Picture, overlap: str, ground: int) -> Label:
    crowds = [each for each in picture.objects if each[1]]
    things = [each for each in picture.objects if not each[1]]
    return paint(picture.size, ((index, mask()) for index, _, mask in [*crowds, *things]), overlap, ground)
