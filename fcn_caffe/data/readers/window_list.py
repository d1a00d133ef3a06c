"""Window files, and the place of a window in the crop that a net takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import copysign, floor
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np

from fcn_caffe.data.readers.image_list import read_lines
from fcn_caffe.errors import DataError

__all__ = ["Placed", "Window", "WindowList", "place_window", "read_windows"]

T = TypeVar("T")
Box = tuple[int, int, int, int]  # x1, y1, x2, y2: the first and the last column and row


@dataclass(frozen=True)
class Window:
    """A box in an image, and its class."""

    image: int
    label: int
    box: Box


@dataclass
class WindowList:
    """What a window file holds: the images' paths by number, the foreground and the background windows."""

    channels: int = 0
    images: dict[int, str] = field(default_factory=dict)
    foreground: list[Window] = field(default_factory=list)
    background: list[Window] = field(default_factory=list)


def read_windows(path: str | os.PathLike[str], fg_threshold: float, bg_threshold: float) -> WindowList:
    """Read a window file: for each image `# NUMBER`, path, channels, height, width, count, and a line a window,
    `class overlap x1 y1 x2 y2`.

    Source: Caffe WindowDataLayer::DataLayerSetUp.

    Raises:
        DataError: naming the line that is not so.
    """
    words = _Words(Path(path))
    windows = WindowList()
    while not words.at_end:
        if words.take(str, "'#'") != "#":
            words.wrong("expected '#' and the number of an image")
        number = words.take(int, "the number of an image")
        if number in windows.images:
            words.wrong(f"image {number} is there twice: give each its own number")
        windows.images[number] = words.take(str, "the path of an image")
        channels = words.take(int, "channels")
        if channels < 1 or windows.channels not in (0, channels):
            words.wrong(
                f"image {number} has {channels} channels, the images before it {windows.channels}: all should agree"
            )
        windows.channels = channels
        for what in ("height", "width"):
            words.take(int, what)
        for _ in range(words.take(int, "the number of windows")):
            label, overlap = words.take(int, "a class"), words.take(float, "an overlap")
            x1, y1, x2, y2 = (words.take(int, name) for name in ("x1", "y1", "x2", "y2"))
            if overlap >= np.float32(fg_threshold):
                if label < 1:
                    words.wrong(f"a foreground window has class {label}; classes count from 1: correct it")
                windows.foreground.append(Window(number, label, (x1, y1, x2, y2)))
            elif overlap < np.float32(bg_threshold):
                windows.background.append(Window(number, 0, (x1, y1, x2, y2)))
    return windows


class _Words:
    """Reads the words of a file one by one, and knows the line for errors."""

    def __init__(self, path: Path) -> None:
        self.path, self.line = path, 1
        self._words: Iterator[tuple[int, str]] = (
            (number, word) for number, line in read_lines(path, "window file") for word in line.split()
        )
        self._next = next(self._words, None)

    @property
    def at_end(self) -> bool:
        return self._next is None

    def take(self, kind: Callable[[str], T], what: str) -> T:
        """Return the next word as `kind`.

        Raises:
            DataError: if there is no word, or the word is of another kind.
        """
        if self._next is None:
            self.wrong(f"the file ends where {what} should be")
        self.line, word = self._next
        self._next = next(self._words, None)
        try:
            value = kind(word)
        except ValueError:
            self.wrong(f"expected {what}, got {word!r}")
        if isinstance(value, int) and abs(value) >= 1 << 31:
            self.wrong(f"expected {what}, {word} is too large")
        return value

    def wrong(self, message: str) -> NoReturn:
        raise DataError(f"{self.path}:{self.line}: {message}.")


@dataclass(frozen=True)
class Placed:
    """The part of an image that a window covers (top and left in, bottom and right out), the size it is warped to,
    and how far from the crop's edges it lies."""

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int
    pad_left: int = 0
    pad_right: int = 0
    pad_top: int = 0


def place_window(box: Box, shape: tuple[int, ...], crop: int, context: int, square: bool, name: str) -> Placed:
    """Return where a window goes in the crop: over all of it, or with surroundings on each side.

    Shapes: the image's `shape` is (H, W, ...). With `context` or `square` the window is widened so that, warped to the
    crop, `context` pixels lie on each side of it; what is beyond the image becomes padding.

    Raises:
        DataError: beginning with `name`, where the window holds nothing of the image.
    """
    x1, y1, x2, y2 = box
    height, width = shape[:2]
    if not (context or square):
        if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
            raise DataError(f"{name} is not inside its image of {height}x{width}. Correct the window file.")
        return Placed(x1, y1, x2 + 1, y2 + 1, crop, crop)
    # In float32, as in Caffe: the rounding to pixels depends on it.
    single = np.float32
    scale = single(crop) / single(crop - 2 * context)
    half_width, half_height = single((x2 - x1 + 1) / 2), single((y2 - y1 + 1) / 2)
    center_x, center_y = single(x1) + half_width, single(y1) + half_height
    if square:
        half_width = half_height = max(half_width, half_height)
    x1, x2 = _round(center_x - half_width * scale), _round(center_x + half_width * scale)
    y1, y2 = _round(center_y - half_height * scale), _round(center_y + half_height * scale)
    scale_x, scale_y = single(crop) / single(x2 - x1 + 1), single(crop) / single(y2 - y1 + 1)
    left, top, right, bottom = max(0, -x1), max(0, -y1), max(0, x2 - width + 1), max(0, y2 - height + 1)
    x1, y1, x2, y2 = x1 + left, y1 + top, x2 - right, y2 - bottom
    warped_width, warped_height = _round(single(x2 - x1 + 1) * scale_x), _round(single(y2 - y1 + 1) * scale_y)
    pad_left, pad_right, pad_top = (
        _round(single(size) * along) for size, along in ((left, scale_x), (right, scale_x), (top, scale_y))
    )
    inside = x1 <= x2 and y1 <= y2 and x1 < width and y1 < height and x2 >= 0 and y2 >= 0
    if not inside or min(warped_width, warped_height, crop - max(pad_left, pad_right), crop - pad_top) < 1:
        raise DataError(f"{name} holds nothing of its image of {height}x{width}. Correct the window file.")
    return Placed(x1, y1, x2 + 1, y2 + 1, warped_width, warped_height, pad_left, pad_right, pad_top)


def _round(value: float) -> int:
    """C's round: halves go away from zero."""
    return int(copysign(floor(abs(value) + 0.5), value))
