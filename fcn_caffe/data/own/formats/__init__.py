"""The formats that people have labelled images in. Each is a file here, which says where the format is described."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fcn_caffe.data.own.formats import ade20k, cityscapes, coco, cvat, labelme, mapillary, voc
from fcn_caffe.data.own.formats.source import Reading, Source, files_below, refuse_pipe, refuse_repeated
from fcn_caffe.errors import DataError

__all__ = ["FORMATS", "detect_format", "read_source"]

FORMATS: dict[str, Callable[[Path, Reading], Source]] = {
    "coco": coco.read,
    "labelme": labelme.read,
    "cvat": cvat.read,
    "cvat-masks": voc.read,
    "cityscapes": cityscapes.read,
    "ade20k": ade20k.read,
    "mapillary": mapillary.read,
    "voc": voc.read,
}
_HEAD = 1 << 16


def _format_of_file(path: Path) -> str | None:
    if path.suffix.lower() == ".xml":
        return "cvat"
    refuse_pipe(path)
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Give a file that can be read.") from error
    if b'"shapes"' in head or b'"imagePath"' in head:
        return "labelme"
    is_coco = any(key in head for key in (b'"images"', b'"annotations"', b'"categories"'))
    return "coco" if is_coco else None


def _format_of_folder(folder: Path) -> str | None:
    def has(*names: str) -> bool:
        return all((folder / name).is_dir() for name in names)

    if has("leftImg8bit"):
        return "cityscapes"
    if mapillary.config_of(folder) is not None:
        return "mapillary"
    if has(voc.LABEL_FOLDER):
        return "cvat-masks" if (folder / "labelmap.txt").is_file() else "voc"
    if (folder / "annotations.xml").is_file():
        return "cvat"
    found = coco.annotation_files(folder)
    if found and _format_of_file(found[0]) == "coco":
        return "coco"
    if has("images", "annotations"):
        return "ade20k"
    formats = (_format_of_file(path) for path in files_below(folder, ".json"))
    return next((name for name in formats if name is not None), None)  # the first file may be the damaged one


def detect_format(place: Path) -> str:
    """Tell a format by a folder's names, or by the first bytes of a file.

    Raises:
        DataError: There is no such file or folder, or it is of no known format.
    """
    if not place.exists():
        raise DataError(f"{place}: no such file or folder of annotations. Correct the path.")
    name = _format_of_folder(place) if place.is_dir() else _format_of_file(place)
    if name is None:
        raise DataError(
            f"{place}: is of no format that is known: {', '.join(FORMATS)}. Say which with --format, or give "
            "photographs and label pictures of the same names with --images and --labels."
        )
    return name


def read_source(place: Path, name: str | None, reading: Reading) -> Source:
    """Read a data set. name: its format; None to tell it by its files.

    Raises:
        DataError: Naming the file and the entry that is wrong.
    """
    if not place.exists():
        raise DataError(f"{place}: no such file or folder of annotations. Correct the path.")
    source = FORMATS[name or detect_format(place)](place, reading)
    if not source.samples:
        raise DataError(f"{place}: {source.format} has no image with a label there. {' '.join(source.notes)}".rstrip())
    for sample in source.samples:
        _check_name(sample.name, sample.origin)
    refuse_repeated((sample.name for sample in source.samples), "the image name", place)
    return source


def _check_name(name: str, origin: Path) -> None:
    """Refuse a name that a list of names cannot hold, or that a folder's index passes over."""
    if name != name.strip() or not name.isprintable() or any(part.startswith(".") for part in name.split("/")):
        raise DataError(f"{origin}: the image name {name!r} begins with a dot, or has blanks at an end or line breaks.")
