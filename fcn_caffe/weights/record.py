"""The record of preprocessing beside weights: how the images that they were trained on became numbers.

`x.caffemodel` has its record in `x.caffemodel.preprocessing.json`: channel_order ("BGR" or "RGB"), mean (one number a
channel, in that order), mean_file, scale (of what is left after the mean), classes (their names, by index), colors
([red, green, blue] of each class, by index; null is the PASCAL VOC palette), and where the weights come from: source,
its sha256 and format. What is not known is null.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.atomic import atomic_files, atomic_write, unwritten
from fcn_caffe.host.paths import refuse_endless
from fcn_caffe.host.text import did_you_mean

PathLike = str | os.PathLike[str]

ORDERS = ("BGR", "RGB")

# Means that differ by less than half a step of an 8-bit pixel are one mean, rounded: 104 and 104.00699.
_SAME_MEAN = 0.5

# What training starts from may have had another data set's mean, as VGG's 104 117 123 is not NYUDv2's 116 97 92; means
# of photographs that are further apart than this are of another scale, or none.
_NEAR_MEAN = 50.0

_REVERSED_MEAN = 2.0  # two means of ImageNet are in use, 104.0 116.7 122.7 and 103.9 116.8 123.7

_WANTED = {  # by field, what it holds if not null
    "channel_order": '"BGR" or "RGB"',
    "mean": "a list of numbers",
    "mean_file": "the name of a file",
    "scale": "a number",
    "classes": "a list of names",
    "source": "the name of a file",
    "sha256": "a checksum in hexadecimal",
    "format": "the name of a format",
    "colors": "a list of [red, green, blue], each from 0 to 255",
}
_MEND = "Correct it, or remove the file."

_SAME_SCALE = 0.01  # of the scale: 1/256 and 0.0039


@dataclass(frozen=True)
class Preprocessing:
    """What is known of how the inputs of a net are made; None is not known.

    Args:
        channel_order: "BGR" or "RGB".
        mean: What is subtracted, one number a channel in that order, in the units of 8-bit pixels; empty for nothing.
        mean_file: The file whose average the mean is.
        scale: What the rest is multiplied by.
        classes: The names of the classes, by index.
        source: The file that the weights were made from.
        sha256: Its SHA-256.
        format: Its format.
        colors: The colours that the classes have in pictures, RGB from 0 to 255, by index; None for the VOC palette.
    """

    channel_order: str | None = None
    mean: tuple[float, ...] | None = None
    mean_file: str | None = None
    scale: float | None = None
    classes: tuple[str, ...] | None = None
    source: str | None = None
    sha256: str | None = None
    format: str | None = None
    colors: tuple[tuple[int, int, int], ...] | None = None

    def __str__(self) -> str:
        mean = "not known" if self.mean is None else " ".join(f"{value:g}" for value in self.mean) or "none"
        names = "not known" if self.classes is None else f"{len(self.classes)} ({', '.join(self.classes[:3])} …)"
        mean += f" ({self.mean_file})" if self.mean_file else ""
        return (
            f"channels {self.channel_order or 'not known'}, mean {mean}, "
            f"scale {'not known' if self.scale is None else f'{self.scale:g}'}, classes {names}"
        )

    def with_facts_of(self, other: Preprocessing) -> Preprocessing:
        """Return this record with what `other` knows in place of its own."""
        return replace(self, **{key: value for key, value in vars(other).items() if value is not None})

    def without_mean_file(self) -> Preprocessing:
        """Return this record for a mean in numbers."""
        return replace(self, mean_file=None)


def record_path(weights: PathLike) -> Path:
    """Return where the record of a weight file is: beside it."""
    return Path(f"{os.fspath(weights)}.preprocessing.json")


def read_preprocessing(weights: PathLike) -> Preprocessing | None:
    """Read the record of a weight file, None if it has none.

    Raises:
        WeightsError: The record cannot be read; names the field that is wrong.
    """
    path = record_path(weights)
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text("utf-8-sig"))  # as some editors leave it
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is no record of preprocessing ({error}). {_MEND}") from None
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: is no record of preprocessing but {_shown_value(values)}. {_MEND}")
    for key in values:
        if key not in _WANTED:
            near = did_you_mean(key, _WANTED)
            raise WeightsError(f"{path}: {_shown_value(key)} is no field of a record of preprocessing.{near} {_MEND}")
    record = _record_of(values)
    if isinstance(record, Preprocessing):
        return record
    raise WeightsError(
        f"{path}: {record} should be {_WANTED[record]}, or null; it is {_shown_value(values[record])}. {_MEND}"
    )


def _shown_value(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}…"


def preprocessing_of_facts(facts: Mapping[str, str]) -> Preprocessing:
    """Return what a file of `fcn-caffe export` says of its inputs and classes; another's words count for nothing.

    >>> facts = {"net": "fcn", "weights_sha256": "…", "channel_order": "BGR", "mean": "[104, 117, 123]"}
    >>> str(preprocessing_of_facts(facts))
    'channels BGR, mean 104 117 123, scale not known, classes not known'
    """
    if "weights_sha256" not in facts:
        return Preprocessing()
    values: dict[str, Any] = {"channel_order": facts.get("channel_order")}
    try:
        values |= {key: json.loads(facts[key]) for key in ("mean", "scale", "classes", "colors") if key in facts}
    except (TypeError, ValueError, RecursionError):
        return Preprocessing()
    record = _record_of(values)
    return record if isinstance(record, Preprocessing) else Preprocessing()


def _record_of(values: dict[str, Any]) -> Preprocessing | str:
    """The record, or the name of the field that is wrong."""
    order, mean, scale, classes = (values.get(key) for key in ("channel_order", "mean", "scale", "classes"))
    if order is not None and order not in ORDERS:
        return "channel_order"
    if mean is not None and not (isinstance(mean, list) and all(map(_is_number, mean))):
        return "mean"
    if scale is not None and not _is_number(scale):
        return "scale"
    if classes is not None and not (isinstance(classes, list) and all(map(_is_text, classes))):
        return "classes"
    colors = values.get("colors")
    if colors is not None and not (isinstance(colors, list) and all(map(_is_color, colors))):
        return "colors"
    for key in ("source", "sha256", "format", "mean_file"):
        if values.get(key) is not None and not _is_text(values[key]):
            return key
    lists = {key: tuple(value) for key, value in (("mean", mean), ("classes", classes)) if value is not None}
    lists |= {} if colors is None else {"colors": tuple(map(tuple, colors))}
    return Preprocessing(**{**values, **lists})


def _is_color(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value)


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # an integer may be larger


def _is_text(value: object) -> bool:
    """Whether it is a text that can be printed: JSON has halves of letters, too."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def write_preprocessing(weights: PathLike, record: Preprocessing) -> Path:
    """Write the record of a weight file beside it.

    Returns:
        Its path.

    Raises:
        WeightsError: It cannot be written.
    """
    path = record_path(weights)
    try:
        with atomic_write(path, "w") as file:
            json.dump(asdict(record), file, indent=2, ensure_ascii=False)
            file.write("\n")
    except OSError as error:
        raise WeightsError(f"{path}: {unwritten(error)}") from None
    return path


@contextmanager
def recorded(weights: PathLike, record: Preprocessing) -> Iterator[Path]:
    """Give a path to write weights to in the block; they and their record take their places together.

    Args:
        weights: The weight file.
        record: What is known.

    Raises:
        WeightsError: They cannot be written. Those that were there stay.
    """
    target = Path(weights)
    if target.is_symlink():  # its record lies beside the link, not beside the file
        yield target
        write_preprocessing(target, record)
        return
    folder = ""
    try:
        with atomic_files(target) as place:
            folder = f"{place.parent}{os.sep}"
            yield place
            write_preprocessing(place, record)
    except OSError as error:
        raise WeightsError(f"{target}: {unwritten(error)}") from error
    except WeightsError as error:
        if not folder or not str(error).startswith(folder):
            raise
        beside = os.path.join(os.path.dirname(os.fspath(weights)), "")
        raise WeightsError(beside + str(error).removeprefix(folder)) from error


def remove_weights(weights: PathLike) -> None:
    """Delete a weight file and its record; nothing where they are not there."""
    record_path(weights).unlink(missing_ok=True)  # first: who looks for weights would not find a record that is left
    Path(weights).unlink(missing_ok=True)


def sha256_of(path: PathLike) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises: WeightsError where it cannot be read."""
    return checksum_of(path, "sha256")


def checksum_of(path: PathLike, kind: str) -> str:
    """Return a checksum of a file, in hexadecimal.

    Args:
        path: The file.
        kind: "sha256" or "sha1".

    Raises:
        WeightsError: The file cannot be read.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    try:
        refuse_endless(path)
        with open(path, "rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    except OSError as error:
        raise WeightsError(
            f"{os.fspath(path)}: cannot be read: {error.strerror}. Give a file that can be read."
        ) from None
    return digest.hexdigest()


def differences(record: Preprocessing, other: Preprocessing, starts: bool = False) -> list[str]:
    """List where two ways of making inputs contradict each other; what one does not know is no contradiction.

    Args:
        record: The record of the weights.
        other: The other way.
        starts: Whether training starts from the weights: then the classes may be others, and the mean that of the new
            data set.
    """
    contradictions = []
    orders = record.channel_order, other.channel_order
    if None not in orders and orders[0] != orders[1]:
        contradictions.append(f"channels {orders[0]}, not {orders[1]}")
    if record.mean is not None and other.mean is not None and not _fits(record.mean, other.mean, starts):
        ours, theirs = (" ".join(f"{value:g}" for value in mean) or "none" for mean in (record.mean, other.mean))
        contradictions.append(f"mean {ours}, not {theirs}")
    scales = record.scale, other.scale
    if None not in scales and not math.isclose(*scales, rel_tol=_SAME_SCALE):  # type: ignore[arg-type]
        contradictions.append(f"scale {record.scale:g}, not {other.scale:g}")
    if not starts and record.classes is not None and other.classes is not None and record.classes != other.classes:
        contradictions.append(f"{len(record.classes)} classes ({_shown(record.classes)}), not {_shown(other.classes)}")
    return contradictions


def _fits(record: Sequence[float], other: Sequence[float], starts: bool) -> bool:
    if not starts or _same_mean(record, other):
        return _same_mean(record, other)
    return _same_mean(record, other, _NEAR_MEAN) and not _same_mean(record[::-1], other, _REVERSED_MEAN)


def _same_mean(first: Sequence[float], second: Sequence[float], within: float = _SAME_MEAN) -> bool:
    """Compare means: one number stands for all channels, none for 0."""
    count = max(len(first), len(second))
    wide = [list(mean) * count if len(mean) == 1 else list(mean) or [0.0] * count for mean in (first, second)]
    return all(
        len(mean) >= count and abs(a - b) < within for mean in wide for a, b in zip(wide[0], wide[1], strict=False)
    )


def _shown(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])} …" if len(names) > 3 else ", ".join(names)
