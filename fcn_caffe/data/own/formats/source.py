"""What every format of labelled images is read as: classes, and for each image a name, a file, and its label."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from fcn_caffe.errors import DataError

__all__ = [
    *("FARTHEST", "VOID", "ClassName", "Colour", "Label", "Reading", "Sample", "Source"),
    *("files_below", "get", "is_identifier", "is_near", "path_inside", "points", "read_json"),
    *("refuse_pipe", "refuse_repeated", "split_of"),
]

VOID = -1  # a pixel that is neither learned nor scored

Colour = tuple[int, int, int]
Label = npt.NDArray[np.int32]

# In pixels. Beyond them pycocotools asks for gigabytes, and Pillow draws an ellipse for minutes.
FARTHEST = 1e5  # a point
LONGEST = 1e7  # an outline

# What data sets call the images to train on, to score on, and those for the last word.
_SPLITS = (("train", ("train", "training")), ("val", ("val", "valid", "validation")), ("test", ("test", "testing")))


@dataclass(frozen=True)
class ClassName:
    """A class by name, with the colour that its data set draws it in."""

    name: str
    colour: Colour | None = None


@dataclass(frozen=True)
class Reading:
    """How annotations are read.

    Attributes:
        images: The folder of the images, where the annotations do not lead to them.
        overlap: Which object a pixel of several belongs to: the "last" in drawing order, the "smallest", or "void".
        unlabelled: What a pixel without an object is: "background", class 0, or "void".
        all_classes: Whether classes that the data set's own benchmark leaves out count, too.
        skip_missing: Whether annotated images that are not there are left out.
        class_names: The classes in order where a file gave them; empty where it is the data set that says.
    """

    images: Path | None = None
    overlap: str = "last"
    unlabelled: str = "background"
    all_classes: bool = False
    skip_missing: bool = False
    class_names: Sequence[ClassName] = ()

    @property
    def ground(self) -> int:
        """The class of pixels without an object, or VOID."""
        return VOID if self.unlabelled == "void" else 0

    def with_background(self, classes: Sequence[ClassName]) -> list[ClassName]:
        """Return the classes of objects, behind the background where pixels without an object belong to it."""
        if self.unlabelled == "void":
            return list(classes)
        named = [each for each in classes if each.name.lower() in ("background", "_background_")]
        return [*(named or [ClassName("background", (0, 0, 0))]), *(each for each in classes if each not in named)]


@dataclass(frozen=True)
class Sample:
    """One image and its label.

    Attributes:
        name: What lists call it: a path below the data set without its ending.
        image: The file; or its bytes, where the annotation file holds them.
        origin: The file of its annotations.
        draw: Makes the label, (H, W), of indices of classes and VOID.
        split: "train", "val" or "test" where the data set says; else "".
        size: The label's height and width where the annotations say, so that a wrong one is refused before it is drawn.
    """

    name: str
    image: Path | bytes
    origin: Path
    draw: Callable[[], Label]
    split: str = ""
    size: tuple[int, int] | None = None


@dataclass
class Source:
    """A data set: its format, its classes, its images, and what the person should know.

    Attributes:
        declared: Whether the data set lists its classes; otherwise they are what its annotations use.
    """

    format: str
    classes: list[ClassName]
    samples: list[Sample]
    declared: bool = True
    notes: list[str] = field(default_factory=list)


# -- files -------------------------------------------------------------------------------------------------------------


def refuse_pipe(path: Path) -> None:
    """Refuse what is there but neither file nor folder: reading it would wait for a writer. Raises: DataError."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: is a pipe or a device, expected a file. Take it away, or give another --annotations.")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        DataError: It cannot be read, is no JSON, or holds something else.
    """
    try:
        refuse_pipe(path)
        with open(path, encoding="utf-8-sig") as file:
            value = json.load(file, object_pairs_hook=partial(_object, path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Export the annotations again.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON ({error}). Export the annotations again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object at the top, got {type(value).__name__}.")
    return value


def _object(path: Path, fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object, whose names come once. Raises: DataError."""
    made = dict(fields)
    if len(made) < len(fields):
        refuse_repeated((name for name, _ in fields), "the name", path)
    return made


def get(record: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:  # noqa: ANN401 - JSON is anything
    """Return a field of a JSON object.

    Raises:
        DataError: The record is no object, lacks the field, or has another kind of value there.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, got {record!r:.60}.")
    value = record.get(key)
    if key not in record or not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        got = f"{value!r:.60}" if key in record else "nothing"
        wanted = " or ".join(each.__name__ for each in kinds)
        raise DataError(f'{where}: "{key}" should be {wanted}, got {got}. Export the annotations again.')
    return value


def is_identifier(value: object) -> bool:
    """Say whether a value is one that ids of COCO have: a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def refuse_repeated(values: Iterable[object], what: str, where: str | Path) -> None:
    """Refuse a value that comes twice. Raises: DataError."""
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise DataError(f"{where}: {what} {value!r} comes twice. Give each its own, or take one of them out.")
        seen.add(value)


def path_inside(folder: Path, text: str, origin: str | Path, base: Path | None = None) -> Path:
    """Return the path that an annotation file names, which must lie in the data set's folder.

    Args:
        folder: The folder of the data set.
        text: The path, with slashes of either kind.
        origin: The annotation file, for the error.
        base: What the path starts from; by default the folder.

    Raises:
        DataError: It is absolute, or leads out of the folder.
    """
    plain = text.replace("\\", "/")
    place = Path(os.path.normpath((base or folder) / plain))
    outside = PurePosixPath(plain).is_absolute() or re.match(r"[A-Za-z]:", plain) or "\0" in plain
    if not plain or outside or not place.is_relative_to(os.path.normpath(folder)):
        raise DataError(
            f"{origin}: names the image {text!r}, which is not inside of {folder}. Only files of the data set's folder "
            "are read: give that folder with --images, or correct the path."
        )
    return place


def files_below(folder: Path, ending: str) -> list[Path]:
    """List the files of a folder and its subfolders whose names end so, in order; a linked folder once."""
    found = []
    seen = set()
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:  # a link to a folder above would lead round and round
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        found += [Path(directory, file) for file in sorted(files) if file.endswith(ending) and not file.startswith(".")]
    return found


def split_of(name: str) -> str:
    """Return the split that a file's or folder's name speaks of: "train", "val", "test", or ""."""
    words = re.findall(r"[a-z]+", name.lower())
    return next((split for split, spellings in _SPLITS for word in spellings if word in words), "")


def points(value: object, where: str, least: int = 3) -> list[tuple[float, float]]:
    """Read the corners of a polygon, [[x, y], …].

    Raises:
        DataError: There are fewer than `least`, one is no pair of numbers that lies near an image, or the outline is
            longer than any.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"{where}: expected a list of points, got {value!r:.60}.")
    read = []
    for point in value:
        pair = point if isinstance(point, Sequence) and not isinstance(point, str) else ()
        if len(pair) != 2 or not all(is_near(part) for part in pair):
            raise DataError(f"{where}: a point should be two numbers up to {FARTHEST:g}, got {point!r:.60}.")
        read.append((float(pair[0]), float(pair[1])))
    if len(read) < least:
        raise DataError(
            f"{where}: has {len(read)} point{'' if len(read) == 1 else 's'}, needs {least} at least. "
            "Draw the object again, or take it out."
        )
    length = sum(max(abs(x - u), abs(y - v)) for (x, y), (u, v) in zip(read, [*read[1:], *read[:1]], strict=True))
    if length > LONGEST:
        raise DataError(f"{where}: its outline has {length:.3g} pixels. Draw the object again, or take it out.")
    return read


def is_near(value: object) -> bool:
    """Say whether a value is a number that a point near an image has."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= FARTHEST  # no NaN is


def counted(counts: Mapping[str, int]) -> str:
    """Say how many there are of each kind: `3 line, 2 point`."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
