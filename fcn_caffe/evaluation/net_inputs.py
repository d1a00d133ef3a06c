"""How images become numbers before a net sees them: as a record beside weights says, and as a net's data layer does.

`x.caffemodel` has its record in `x.caffemodel.preprocessing.json`: channel_order ("BGR" or "RGB"), mean (one number a
channel, in that order), mean_file, scale (of what is left after the mean), classes (their names, by index), and where
the weights come from: source, its sha256 and format. What is not known is null.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from fcn_caffe.data.readers.labels import read_classes
from fcn_caffe.data.readers.mean_image import read_mean_image
from fcn_caffe.data.sets.options import parse_param_str, read_mean
from fcn_caffe.errors import DataError, WeightsError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.layers.python import find_module
from fcn_caffe.models.published import PUBLISHED
from fcn_caffe.net.graph import TEST, TRAIN, read_net

__all__ = [
    "Preprocessing",
    "check_preprocessing",
    "differences",
    "known_preprocessing",
    "net_preprocessing",
    "photograph_mean",
    "read_preprocessing",
    "record_path",
    "sha256_of",
    "write_preprocessing",
]

PathLike = str | os.PathLike[str]
ORDERS = ("BGR", "RGB")
# Means that differ by less than half a step of an 8-bit pixel are one mean, rounded: 104 and 104.00699.
_SAME_MEAN = 0.5
# What training starts from may have had another data set's mean, as VGG's 104 117 123 is not NYUDv2's 116 97 92; means
# of photographs that are further apart than this are of another scale, or none.
_NEAR_MEAN = 50.0
_REVERSED_MEAN = 2.0  # two means of ImageNet are in use, 104.0 116.7 122.7 and 103.9 116.8 123.7
_SAME_SCALE = 0.01  # of the scale: 1/256 and 0.0039
_CAFFE_IMAGES = ("ImageData", "WindowData")  # read as BGR; databases hold what was put there
_PHOTOGRAPHS = ("data", "color")  # what Python data layers call the top that is one
_DATA = (*_CAFFE_IMAGES, "Data", "MemoryData")


@dataclass(frozen=True)
class Preprocessing:
    """What is known of how the inputs of a net are made; None is not known.

    channel_order: "BGR" or "RGB". mean: subtracted, one number a channel in that order, in the units of 8-bit pixels;
    empty for none. mean_file: the file it is the average of. scale: multiplied after that. classes: names by index.
    source, sha256, format: the file the weights were made from.
    """

    channel_order: str | None = None
    mean: tuple[float, ...] | None = None
    mean_file: str | None = None
    scale: float | None = None
    classes: tuple[str, ...] | None = None
    source: str | None = None
    sha256: str | None = None
    format: str | None = None

    def __str__(self) -> str:
        mean = "not known" if self.mean is None else " ".join(f"{value:g}" for value in self.mean) or "none"
        names = "not known" if self.classes is None else f"{len(self.classes)} ({', '.join(self.classes[:3])} …)"
        mean += f" ({self.mean_file})" if self.mean_file else ""
        return (
            f"channels {self.channel_order or 'not known'}, mean {mean}, "
            f"scale {'not known' if self.scale is None else f'{self.scale:g}'}, classes {names}"
        )

    def updated(self, other: Preprocessing) -> Preprocessing:
        """This record with what `other` knows put in its place."""
        return replace(self, **{key: value for key, value in vars(other).items() if value is not None})

    def without_mean_file(self) -> Preprocessing:
        """This record for a mean in numbers."""
        return replace(self, mean_file=None)


def record_path(weights: PathLike) -> Path:
    """Where the record of a weight file is: beside it."""
    return Path(f"{os.fspath(weights)}.preprocessing.json")


def read_preprocessing(weights: PathLike) -> Preprocessing | None:
    """Return the record of a weight file, None if it has none.

    Raises: WeightsError for a record that cannot be read, naming the field that is wrong.
    """
    path = record_path(weights)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is no record of preprocessing ({error}). Write it again, or remove it.") from None
    known = {field.name for field in fields(Preprocessing)}
    wrong = [key for key in found if key not in known] if isinstance(found, dict) else ["it"]
    for key in ("source", "sha256", "format", "mean_file"):
        wrong += [key] if not wrong and not isinstance(found.get(key), (str, type(None))) else []
    if not wrong:
        made = _checked(found)
        if isinstance(made, Preprocessing):
            return made
        wrong = [made]
    raise WeightsError(
        f"{path}: {wrong[0]!r} is not what a record of preprocessing holds. Write it again, or remove it."
    )


def _checked(found: dict[str, Any]) -> Preprocessing | str:
    """The record, or the name of the field that is wrong."""
    order, mean, scale, classes = (found.get(key) for key in ("channel_order", "mean", "scale", "classes"))
    if order is not None and order not in ORDERS:
        return "channel_order"
    if mean is not None and not (isinstance(mean, list) and all(map(_is_number, mean))):
        return "mean"
    if scale is not None and not _is_number(scale):
        return "scale"
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        return "classes"
    lists = {key: tuple(value) for key, value in (("mean", mean), ("classes", classes)) if value is not None}
    return Preprocessing(**{**found, **lists})


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def write_preprocessing(weights: PathLike, record: Preprocessing) -> Path:
    """Write the record of a weight file beside it and return its path. Raises: WeightsError where that fails."""
    path = record_path(weights)
    try:
        with atomic_write(path, "w") as file:
            json.dump(asdict(record), file, indent=2, ensure_ascii=False)
            file.write("\n")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written: {error.strerror}. Nothing was replaced.") from None
    return path


def sha256_of(path: PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises: WeightsError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    except OSError as error:
        raise WeightsError(f"{os.fspath(path)}: cannot be read: {error.strerror}.") from None
    return digest.hexdigest()


def known_preprocessing(weights: PathLike, sha256: str = "") -> Preprocessing:
    """What is known of a file that others published, by its checksum or name, as weights/MANIFEST.toml lists them."""
    name = os.path.basename(os.fspath(weights))
    for file in PUBLISHED.values():
        named = name in (file.file, os.path.basename(file.source))
        if sha256 == file.sha256 if sha256 and file.sha256 else named:
            return _from_words(file.preprocessing)
    return Preprocessing()


def _from_words(words: str) -> Preprocessing:
    """The manifest's words: `BGR, mean 104 117 123, no scaling`. Inputs of several kinds are not told."""
    match = re.fullmatch(r"(BGR|RGB), mean ([\d.]+(?: [\d.]+)*)(, no scaling)?", words)
    if match is None:
        return Preprocessing()
    return Preprocessing(match[1], tuple(float(value) for value in match[2].split()), scale=1.0)


# -- nets ----------------------------------------------------------------------------------------------------------


def net_preprocessing(net: PathLike) -> Preprocessing:
    """What the data layer of a net file does: its TEST layers' first, else those of TRAIN; Python layers by their mean.

    Classes are those of `classes.txt` beside the net. Data itself is not looked at; all is None where the net only has
    Input layers.
    Raises: PrototxtError; DataError for options or mean files that cannot be read.
    """
    found = Preprocessing()
    for phase in (TEST, TRAIN):
        for layer in read_net(net, phase).layer:
            if not layer.bottom and found == Preprocessing():
                found = _data_layer(layer, net)
    card = Path(net).parent / "classes.txt"
    return replace(found, classes=tuple(read_classes(card))) if card.is_file() else found


def _data_layer(layer: Any, net: PathLike) -> Preprocessing:
    """A data layer of Caffe's, (image - mean) * scale, or a Python one, image - mean."""
    if layer.type == "Python":
        known = photograph_mean(layer, net)
        return Preprocessing() if known is None else Preprocessing("BGR", known, scale=1.0)
    if layer.type not in _DATA:
        return Preprocessing()
    options = layer.transform_param
    mean, mean_file = tuple(options.mean_value), None
    if options.mean_file:
        mean_file = options.mean_file
        mean = file_mean(mean_file, Path(net).parent)
    return Preprocessing("BGR" if layer.type in _CAFFE_IMAGES else None, mean, mean_file, float(options.scale))


def file_mean(path: PathLike, folder: Path | None = None) -> tuple[float, ...]:
    """The mean of each channel of a mean image (.binaryproto). Raises: DataError."""
    return tuple(float(value) for value in read_mean_image(path, folder).mean((1, 2), dtype=float))


def photograph_mean(layer: Any, net: PathLike) -> tuple[float, ...] | None:
    """What a Python data layer subtracts from photographs, BGR, by its param_str, class or module; None if unknown.

    Layers that give something else first (`tops` of param_str or the layer's own: hha, depth) have none.
    Raises: DataError for options that cannot be read.
    """
    who = f"{os.fspath(net)}: layer '{layer.name}'"
    options = parse_param_str(layer.python_param.param_str, who)
    tops = list(options.get("tops") or layer.top)
    if not tops or tops[0] not in _PHOTOGRAPHS:
        return None
    mean = options.get("mean")
    if mean is None:
        module = find_module(layer.python_param.module, Path(net).parent)
        cls = getattr(module, layer.python_param.layer, None)
        mean = getattr(cls, "defaults", {}).get("mean")
        if mean is None:
            mean = getattr(module, "MEAN", None)
    return None if mean is None else read_mean(mean, who)


def differences(record: Preprocessing, other: Preprocessing, starts: bool = False) -> list[str]:
    """Say where two ways of making inputs contradict each other; what one of them does not know is no contradiction.

    starts: the record is of weights that training starts from: classes may be others, and the mean the new data set's.
    """
    found = []
    orders = record.channel_order, other.channel_order
    if None not in orders and orders[0] != orders[1]:
        found.append(f"channels {orders[0]}, not {orders[1]}")
    if record.mean is not None and other.mean is not None and not _fits(record.mean, other.mean, starts):
        ours, theirs = (" ".join(f"{value:g}" for value in mean) or "none" for mean in (record.mean, other.mean))
        found.append(f"mean {ours}, not {theirs}")
    scales = record.scale, other.scale
    if None not in scales and not math.isclose(*scales, rel_tol=_SAME_SCALE):  # type: ignore[arg-type]
        found.append(f"scale {record.scale:g}, not {other.scale:g}")
    if not starts and record.classes is not None and other.classes is not None and record.classes != other.classes:
        found.append(f"{len(record.classes)} classes ({_shown(record.classes)}), not {_shown(other.classes)}")
    return found


def _fits(record: Sequence[float], other: Sequence[float], starts: bool) -> bool:
    if not starts or _same_mean(record, other):
        return _same_mean(record, other)
    return _same_mean(record, other, _NEAR_MEAN) and not _same_mean(record[::-1], other, _REVERSED_MEAN)


def _same_mean(first: Sequence[float], second: Sequence[float], within: float = _SAME_MEAN) -> bool:
    """One number stands for all channels, none for 0."""
    count = max(len(first), len(second))
    wide = [list(mean) * count if len(mean) == 1 else list(mean) or [0.0] * count for mean in (first, second)]
    return all(
        len(mean) >= count and abs(a - b) < within for mean in wide for a, b in zip(wide[0], wide[1], strict=False)
    )


def _shown(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])} …" if len(names) > 3 else ", ".join(names)


def check_preprocessing(
    weights: PathLike, net: PathLike, mean: Sequence[float] | None = None, starts: bool = False
) -> None:
    """Refuse weights whose record contradicts what a net's data layer does, or what is given instead of its mean.

    starts: whether the weights are only what training starts from, see `differences`.
    Raises: WeightsError naming both files and each difference; nothing for weights without a record.
    """
    record = read_preprocessing(weights)
    if record is not None:
        refuse_differences(record, net, weights, mean, starts)


def refuse_differences(
    record: Preprocessing,
    net: PathLike,
    weights: PathLike,
    mean: Sequence[float] | None = None,
    starts: bool = False,
) -> None:
    """Raise a WeightsError where a record contradicts the data layer of a net."""
    try:
        theirs = net_preprocessing(net)
    except DataError:
        if mean is None:
            raise
        theirs = Preprocessing()
    if mean is not None:
        theirs = replace(theirs, mean=tuple(mean), mean_file=None)
    found = differences(record, theirs, starts)
    if found:
        raise WeightsError(
            f"{os.fspath(weights)}: was made for other inputs than {os.fspath(net)} gives: {'; '.join(found)}. "
            "Change the net's data layer or the record; --ignore-preprocessing goes on as it is."
        )
