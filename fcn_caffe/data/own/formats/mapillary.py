"""Mapillary Vistas: config.json beside training, validation and testing, versions 1.2 and 2.0.

A label's value is its place in config.json. Labels that the benchmark does not evaluate are void; with `all_classes`
only the unlabelled pixels are. Source: mapillary_vistas, config.json and README of versions 1.2 and 2.0.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fcn_caffe.data.own.formats.label_files import add_pairs, by_value
from fcn_caffe.data.own.formats.source import (
    VOID,
    ClassName,
    Colour,
    Reading,
    Source,
    files_below,
    get,
    is_identifier,
    read_json,
    split_of,
)
from fcn_caffe.errors import DataError

__all__ = ["config_of", "read"]

_CONFIGS = ("config_v2.0.json", "config_v1.2.json", "config.json")
_UNLABELLED = "void--unlabeled"


def config_of(place: Path) -> Path | None:
    """Return the data set's newest list of labels; None where there is none."""
    return next((place / name for name in _CONFIGS if (place / name).is_file()), None)


def read(place: Path, reading: Reading) -> Source:
    """Read the folder that holds config.json (or config_v2.0.json) and training, validation.

    Raises:
        DataError: Naming the file.
    """
    config = config_of(place)
    if config is None:
        raise DataError(f"{place}: Mapillary Vistas has config.json, or config_v2.0.json, there. Unpack it again.")
    classes, table = _labels(config, reading.all_classes)
    source = Source("mapillary", classes, [])
    version = config.stem.removeprefix("config").removeprefix("_")
    for folder in sorted(place.iterdir()):
        split = split_of(folder.name)
        labels = folder / version / "labels"
        if not split or not (folder / "images").is_dir():
            continue
        if not labels.is_dir():
            source.notes.append(f"left out: {folder.name}, which has no labels")
            continue
        images = [(image, split) for image in files_below(folder / "images", ".jpg")]

        def label_of(image: Path, folder: Path = folder, labels: Path = labels) -> Path:
            return labels / image.relative_to(folder / "images").with_suffix(".png")

        add_pairs(source, place, images, label_of, partial(by_value, table=table), reading)
    return source


def _labels(config: Path, all_classes: bool) -> tuple[list[ClassName], dict[int, int]]:
    """Return the classes, and the class of every value, or VOID."""
    classes: list[ClassName] = []
    table: dict[int, int] = {}
    for value, entry in enumerate(get(read_json(config), "labels", list, str(config))):
        where = f"{config}: labels[{value}]"
        name = get(entry, "name", str, where)
        counts = name != _UNLABELLED if all_classes else get(entry, "evaluate", bool, where)
        table[value] = len(classes) if counts else VOID
        if counts:
            shown = entry.get("readable")
            classes.append(ClassName(shown if isinstance(shown, str) and shown else name, _colour(entry, where)))
    if not classes:
        raise DataError(f"{config}: lists no label that counts. Give the data set's own file, or --all-classes.")
    names = [each.name for each in classes]
    if len(set(names)) < len(names):  # "readable" is not always one label's own
        raise DataError(f"{config}: two labels have one readable name. Give each its own.")
    return classes, table


def _colour(entry: dict[str, object], where: str) -> Colour | None:
    colour = entry.get("color")
    if colour is None:
        return None
    if not isinstance(colour, list) or len(colour) != 3 or not all(is_identifier(c) and c < 256 for c in colour):
        raise DataError(f'{where}: "color" should be red, green, blue from 0 to 255, got {colour!r:.60}.')
    return colour[0], colour[1], colour[2]
