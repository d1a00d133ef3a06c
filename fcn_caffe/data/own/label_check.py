"""Check a folder of images and labels before training: what the labels hold, and what is wrong with them.

Each file is read on its own (`look`), in threads: decoding releases Python's lock.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.readers.image_files import Integers, image_size, read_image, read_index_image
from fcn_caffe.data.readers.labels import LabelMap, strips
from fcn_caffe.errors import DataError
from fcn_caffe.host.pictures import VOID_COLOUR, palette

__all__ = ["FileReport", "LabelReport", "Pair", "bgr_mean", "check_folder", "look", "suggest_mapping"]

MOST_COLOURS = 256  # an image with more colours is no label image: JPEG, or smoothed edges


@dataclass(frozen=True)
class Pair:
    """An image and its label file."""

    name: str
    image: Path
    label: Path


@dataclass
class FileReport:
    """What one label file holds: pixels by value, or by 24-bit colour where `coloured`; its (H, W)."""

    label: Path
    counts: dict[int, int]
    coloured: bool
    size: tuple[int, int]


@dataclass
class LabelReport:
    """What all label files hold: pixels by value in `counts`, files by value in `files`; `sizes` are (H, W).

    `shown_in` has all pixels of the files that show a value, by value: what SegNet takes frequencies of.
    """

    counts: dict[int, int] = field(default_factory=dict)
    files: dict[int, list[str]] = field(default_factory=dict)
    coloured: list[Path] = field(default_factory=list)
    grey: list[Path] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    shown_in: dict[int, int] = field(default_factory=dict)

    @property
    def file_count(self) -> int:
        """How many label files were read."""
        return len(self.coloured) + len(self.grey)

    def add(self, file: FileReport) -> None:
        """Add what one file holds."""
        (self.coloured if file.coloured else self.grey).append(file.label)
        self.sizes.add(file.size)
        total = sum(file.counts.values())
        for value, count in file.counts.items():
            self.counts[value] = self.counts.get(value, 0) + count
            self.shown_in[value] = self.shown_in.get(value, 0) + total
            self.files.setdefault(value, []).append(str(file.label))

    def moved(self, moves: Mapping[int, int]) -> LabelReport:
        """Return what the labels hold once values have become others."""
        report = LabelReport({}, {}, self.coloured, self.grey, self.sizes, {})
        for value, count in self.counts.items():
            new = moves.get(value, value)
            report.counts[new] = report.counts.get(new, 0) + count
            report.files[new] = list(dict.fromkeys([*report.files.get(new, []), *self.files[value]]))
        return report

    def mapped(self, mapping: LabelMap | None) -> LabelReport:
        """Return what the labels hold after a mapping of values."""
        return self if mapping is None else self.moved(mapping.values)

    def histogram(self, names: Sequence[str] = ()) -> str:
        """Return a line for each value: value or its name, share of the pixels, number of files."""
        total = sum(self.counts.values()) or 1
        lines = []
        for value in sorted(self.counts):
            count, files = self.counts[value], len(self.files[value])
            shown = names[value] if value < len(names) else show_value(value, bool(self.coloured))
            lines.append(f"  {shown:>12} {count / total:8.3%} of pixels, in {files} files")
        return "\n".join(lines)


def show_value(value: int, coloured: bool) -> str:
    """Return a label value as text; a colour as `RED GREEN BLUE`."""
    return f"{value >> 16} {(value >> 8) & 255} {value & 255}" if coloured else str(value)


def look(pair: Pair, mapping: LabelMap | None = None) -> FileReport:
    """Count the values of one label file.

    Raises:
        DataError: naming the file, also for a size that differs.
    """
    label = read_index_image(pair.label, colours=bool(mapping and mapping.colours), mapped=mapping is not None)
    if mapping is not None:
        label = mapping.apply(label, pair.label)
    coloured = label.ndim == 3
    counts = _count_values(label, pair.label)
    height, width = image_size(pair.image)
    if label.shape[:2] != (height, width):
        raise DataError(
            f"{pair.label}: the label is {label.shape[1]}x{label.shape[0]}, "
            f"its image {pair.image} is {width}x{height} (after EXIF orientation). "
            "They should be of one size."
        )
    return FileReport(pair.label, counts, coloured, (height, width))


def _count_values(label: Integers, path: Path) -> dict[int, int]:
    """Count the pixels of each value, or 24-bit colour.

    Raises:
        DataError: it has too many of them for a label image.
    """
    found: Counter[int] = Counter()
    coloured = label.ndim == 3
    for rows in strips(label):
        code = label[rows].astype(np.int32)
        if coloured:
            code = (code[:, :, 0] << 16) | (code[:, :, 1] << 8) | code[:, :, 2]
        values, counts = np.unique(code, return_counts=True)
        if len(values) <= 4 * MOST_COLOURS:
            found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        if max(len(values), len(found)) > 4 * MOST_COLOURS:
            raise DataError(
                f"{path}: has more than {4 * MOST_COLOURS} different {'colours' if coloured else 'values'}: no label "
                "image. Was it saved as JPEG, or is it a photograph? Labels must be lossless, one value per class."
            )
    return dict(sorted(found.items()))


def check_folder(pairs: Sequence[Pair], mapping: LabelMap | None = None) -> LabelReport:
    """Look at all label files, and add up what they hold.

    Raises:
        DataError: when some are colour-coded and some are not, or one cannot be read.
    """
    report = LabelReport()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file in pool.map(lambda pair: look(pair, mapping), pairs):
            report.add(file)
    if report.coloured and report.grey:
        raise DataError(
            f"{len(report.coloured)} labels are colour-coded (such as {report.coloured[0]}) and {len(report.grey)} are "
            f"not (such as {report.grey[0]}). Save them all in one way, or give a mapping file of colours."
        )
    return report


def suggest_mapping(report: LabelReport) -> LabelMap | None:
    """Return a mapping to class indices for labels that need one: colours and 0/255 masks; None for others.

    Colours of the PASCAL VOC palette get their VOC index; pure greys their value; otherwise black is 0 and the rest
    are numbered by how many pixels they have. VOC's void colour becomes 255.
    """
    values = set(report.counts)
    if not report.coloured:
        return LabelMap({0: 0, 255: 1}) if values == {0, 255} else None
    if len(values) > MOST_COLOURS:
        return None
    colours = {value: (value >> 16, (value >> 8) & 255, value & 255) for value in values}
    table = {tuple(colour): index for index, colour in enumerate(palette(256)[:255].tolist())}
    table[VOID_COLOUR] = 255
    order = sorted(values, key=lambda value: (value != 0, -report.counts[value]))
    grey = all(red == green == blue for red, green, blue in colours.values())
    if grey and values != {0, 0xFFFFFF}:
        return LabelMap(colours={colours[value]: value & 255 for value in order})
    if all(colour in table for colour in colours.values()):
        return LabelMap(colours={colours[value]: table[colours[value]] for value in order})
    named = [value for value in order if colours[value] != VOID_COLOUR]
    rules = {colours[value]: index for index, value in enumerate(named)}
    if len(named) < len(order):
        rules[VOID_COLOUR] = 255
    return LabelMap(colours=rules)


def _channel_sums(path: Path) -> tuple[npt.NDArray[np.float64], int]:
    rgb = read_image(path)
    return rgb.reshape(-1, 3).sum(0, dtype=np.float64)[::-1], rgb.shape[0] * rgb.shape[1]


def bgr_mean(images: Iterable[Path]) -> tuple[float, float, float]:
    """Return the mean blue, green and red over all pixels of the images, to 3 decimals.

    Raises:
        DataError: naming the file.
    """
    total, pixels = np.zeros(3), 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for sums, count in pool.map(_channel_sums, images):
            total, pixels = total + sums, pixels + count
    blue, green, red = (round(float(value), 3) for value in total / max(pixels, 1))
    return blue, green, red
