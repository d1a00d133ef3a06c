"""Label images: mapping their values or colours to class indices, checking them, and the card of class names.

A mapping file has one rule on each line, `VALUE: CLASS` for grey and palette images or `RED GREEN BLUE: CLASS` for
colour-coded ones; text after `#` is a comment. A class card has one class on each line, `INDEX: NAME`, or
`INDEX: NAME  # RED GREEN BLUE` with the colour that the class has in pictures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import numpy as np

from fcn_caffe.data.readers.image_files import Integers, opened_image, read_index_image
from fcn_caffe.data.readers.text_file import read_lines
from fcn_caffe.errors import DataError

__all__ = [
    "LabelMap",
    "check_labels",
    "noted_color",
    "read_classes",
    "read_colors",
    "read_label",
    "read_palette",
    "read_rules",
    "strips",
]

_STRIP = 1 << 20  # pixels
_WITHOUT_RULE = "has no rule in the label mapping. Add one, to a class or to the void."


def read_rules(path: str | os.PathLike[str], what: str) -> list[tuple[int, str, str]]:
    """Return the lines of a text file that are more than a comment: number from 1, text before `#`, whole line.

    Raises:
        DataError: where the file cannot be read; `what` names its kind there.
    """
    lines = enumerate(map(str.strip, read_lines(path, what, "utf-8-sig")), 1)
    rules = ((number, line.partition("#")[0].rstrip(), line) for number, line in lines)
    return [(number, rule, line) for number, rule, line in rules if rule]


def noted_color(line: str) -> tuple[int, int, int] | None:
    """Return the three numbers that a line of a class card has behind `#`; None where something else is there."""
    match = re.fullmatch(r"[^#]*#\s*(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})\s*", line)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def strips(label: Integers) -> Iterator[slice]:
    """Yield the rows of a label image, some at a time, so that what is made of them meanwhile stays small."""
    count = max(1, _STRIP // max(1, label.shape[1]))
    for top in range(0, label.shape[0], count):
        yield slice(top, top + count)


class LabelMap:
    """Rules that turn label values, or colours, into class indices."""

    def __init__(self, values: dict[int, int] | None = None, colours: dict[tuple[int, int, int], int] | None = None):
        self.values = dict(values or {})
        self.colours = dict(colours or {})
        if bool(self.values) == bool(self.colours):
            raise DataError("a label mapping needs rules of one kind: `VALUE: CLASS`, or `RED GREEN BLUE: CLASS`.")
        sources = self.values or {(r << 16) | (g << 8) | b: to for (r, g, b), to in self.colours.items()}
        self._from = np.array(sorted(sources), dtype=np.int64)
        self._to = np.array([sources[int(code)] for code in self._from], dtype=np.int32)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LabelMap:
        """Read a mapping file.

        Raises:
            DataError: naming file and line.
        """
        values: dict[int, int] = {}
        colours: dict[tuple[int, int, int], int] = {}
        for number, rule, line in read_rules(path, "label mapping"):
            source, colon, target = rule.partition(":")
            try:
                parts = [int(part) for part in source.replace(",", " ").split()]
                index = int(target)
            except ValueError:
                parts, index = [], -1
            if not colon or len(parts) not in (1, 3) or min(*parts, index) < 0 or max(*parts, index) > 65535:
                raise DataError(f"{path}:{number}: expected `VALUE: CLASS` or `RED GREEN BLUE: CLASS`, got {line!r}.")
            if len(parts) == 1:
                values[parts[0]] = index
            else:
                colours[(parts[0], parts[1], parts[2])] = index
        try:
            return cls(values, colours)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def then(self, other: LabelMap) -> LabelMap:
        """Return the rules that do what these do, and to their classes what other rules do."""
        after = other.values
        values = {value: after.get(index, index) for value, index in self.values.items()}
        return LabelMap(values, {colour: after.get(index, index) for colour, index in self.colours.items()})

    def write(self) -> str:
        """Return the rules as the text of a mapping file."""
        rules = [f"{value}: {index}" for value, index in sorted(self.values.items())]
        by_class = sorted(self.colours.items(), key=lambda rule: rule[1])
        rules += [f"{red} {green} {blue}: {index}" for (red, green, blue), index in by_class]
        return "\n".join(rules) + "\n"

    def apply(self, label: Integers, path: str | os.PathLike[str], unknown_is: str = _WITHOUT_RULE) -> Integers:
        """Map (H, W) values or (H, W, 3) colours to (H, W) class indices.

        Args:
            label: The label image.
            path: Its file, for errors.
            unknown_is: What a value or colour without a rule is, and the cure.

        Raises:
            DataError: for a value or colour without a rule.
        """
        if label.ndim == 3 and not self.colours:
            raise DataError(f"{path}: is colour-coded, and the mapping has rules for grey values only.")
        mapped = np.empty(label.shape[:2], np.int32)
        worst, pixels = 0, 0  # the first value without a rule, and how many pixels have none
        for rows in strips(label):
            code = self._codes(label[rows])
            place = np.searchsorted(self._from, code).clip(max=len(self._from) - 1)
            unknown = self._from[place] != code
            if unknown.any():
                worst = worst if pixels else int(code[unknown][0])
                pixels += int(unknown.sum())
            mapped[rows] = self._to[place]
        if pixels:
            shown = f"colour {worst >> 16} {(worst >> 8) & 255} {worst & 255}" if self.colours else f"value {worst}"
            raise DataError(f"{path}: {shown} ({pixels} pixels) {unknown_is}")
        return mapped

    def _codes(self, label: Integers) -> Integers:
        """Return values or 24-bit colours, (H, W)."""
        code = label.astype(np.int64)
        if label.ndim == 3:
            return (code[:, :, 0] << 16) | (code[:, :, 1] << 8) | code[:, :, 2]
        return code * 0x010101 if self.colours else code  # a grey image among colour-coded ones


def read_label(path: str | os.PathLike[str], mapping: LabelMap | None = None) -> Integers:
    """Read a label image as class indices, (H, W).

    Raises:
        DataError: naming the file, for a colour-coded image without a mapping too.
    """
    label = read_index_image(path, colours=bool(mapping and mapping.colours), mapped=mapping is not None)
    if mapping is not None:
        return mapping.apply(label, path)
    if label.ndim != 2:
        raise DataError(
            f"{path}: is colour-coded (3 channels). Give a mapping file with lines `RED GREEN BLUE: CLASS`, "
            "or save labels as PNG of class indices."
        )
    return label


def read_palette(path: str | os.PathLike[str]) -> list[tuple[int, int, int]]:
    """Read the colours of a label image's palette, by index; none where it has no palette or cannot be read."""
    try:
        with opened_image(path) as image:
            values = image.getpalette("RGB") or [] if image.mode == "P" else []
    except DataError:
        return []
    return list(zip(values[::3], values[1::3], values[2::3], strict=True))


def check_labels(label: Integers, classes: int, ignore: int | None, path: str | os.PathLike[str]) -> None:
    """Check that every label is in [0, classes) or is `ignore`.

    Raises:
        DataError: naming the image and the labels.
    """
    bad = (label >= classes) | (label < 0)
    if ignore is not None:
        bad &= label != ignore
    if bad.any():
        values = np.unique(label[bad])
        shown = ", ".join(map(str, values[:8])) + (", …" if len(values) > 8 else "")
        void = "" if ignore is None else f" or {ignore} (void)"
        raise DataError(
            f"{path}: labels {shown} ({int(bad.sum())} pixels) are out of range: expected 0 to {classes - 1}{void}. "
            "Correct the image, map the values, or raise the number of classes."
        )


def read_classes(path: str | os.PathLike[str]) -> list[str]:
    """Read a class card, lines of `INDEX: NAME`, and return the names by index.

    Raises:
        DataError: naming file and line.
    """
    names: dict[int, str] = {}
    for number, rule, line in read_rules(path, "class card"):
        index, colon, name = rule.partition(":")
        if not colon or not re.fullmatch("[0-9]{1,9}", index.strip()) or not name.strip():
            raise DataError(f"{path}:{number}: expected `INDEX: NAME`, got {line!r}.")
        names[int(index)] = name.strip()
    if not names:
        raise DataError(f"{path}: names no class. Write lines of `INDEX: NAME`, or remove it.")
    if sorted(names) != list(range(len(names))):
        raise DataError(f"{path}: class indices should run from 0 to {len(names) - 1} without gaps.")
    return [names[index] for index in range(len(names))]


def read_colors(path: str | os.PathLike[str]) -> list[tuple[int, int, int]] | None:
    """Read the colours of a class card, by index; None unless each class has one.

    Raises:
        DataError: naming file and line.
    """
    count = len(read_classes(path))
    noted = {int(rule.partition(":")[0]): noted_color(line) for _, rule, line in read_rules(path, "class card")}
    colors = [color for index in range(count) if (color := noted[index]) is not None and max(color) <= 255]
    return colors if len(colors) == count else None
