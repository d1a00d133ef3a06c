"""A confusion matrix as a picture: a row for each true class, a column for each predicted one, darker for more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fcn_caffe.errors import DataError
from fcn_caffe.host.text import show

__all__ = ["draw_confusion"]

UInt8 = npt.NDArray[np.uint8]

WITH_NUMBERS = 25  # classes, up to which the cells have room for their per cent
GAP = 6
COLUMNS = "predicted, per cent of the true class"
WHITE, LEAST, MOST, ABSENT = (255, 255, 255), (247, 250, 252), (8, 48, 107), (232, 232, 232)
_FONT = ImageFont.load_default()


def draw_confusion(counts: npt.NDArray[np.integer], names: Sequence[str] | None = None, title: str = "") -> UInt8:
    """Draw a confusion matrix: each row shows the shares of its class's pixels.

    Rows of classes without pixels are grey. With up to 25 classes the cells have per cent written in them.

    Shapes: (C, C) -> (H, W, 3) RGB.

    Args:
        counts: counts[i, j] pixels of class i were predicted as j.
        names: the classes' names; their indices by default.
        title: what stands above.
    Raises:
        DataError: the counts are not square, or not as many as the names.
    """
    counts = np.asarray(counts)
    classes = len(counts)
    names = [str(index) for index in range(classes)] if names is None else list(names)
    if counts.shape != (classes, classes) or len(names) != classes or not classes:
        raise DataError(
            f"a confusion matrix of shape {show(counts.shape)} with {len(names)} names: expected (C, C) and C."
        )
    side = 30 if classes <= WITH_NUMBERS else 16
    label = int(max(_FONT.getlength(name) for name in names)) + GAP
    left, top = label + 2 * GAP + _height(), label + 3 * GAP + 2 * _height()
    written = max(GAP + _FONT.getlength(title), left + _FONT.getlength(COLUMNS))
    width = max(left + classes * side, int(written)) + GAP
    canvas = Image.new("RGB", (width, top + classes * side + GAP), WHITE)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), title, "black", _FONT)
    draw.text((left, GAP + _height() + GAP // 2), COLUMNS, (90, 90, 90), _FONT)
    _write_up(canvas, (GAP, top), "true class", (90, 90, 90))
    totals = counts.sum(1)
    for row, name in enumerate(names):
        middle = row * side + side // 2
        draw.text((left - GAP, top + middle), name, "black", _FONT, anchor="rm")
        _write_up(canvas, (left + middle - _height() // 2, top - GAP // 2), name, (0, 0, 0), above=True)
        for column in range(classes):
            share = float(counts[row, column] / totals[row]) if totals[row] else None
            box = (left + column * side, top + row * side, left + (column + 1) * side - 2, top + (row + 1) * side - 2)
            draw.rectangle(box, fill=ABSENT if share is None else _shade(share))
            if share is not None and classes <= WITH_NUMBERS and counts[row, column]:
                text = f"{share * 100:.0f}" if share >= 0.005 else "<1"
                centre = (box[0] + side // 2 - 1, box[1] + side // 2 - 1)
                draw.text(centre, text, "white" if share > 0.45 else (40, 40, 40), _FONT, anchor="mm")
    return np.asarray(canvas)


def _shade(share: float) -> tuple[int, int, int]:
    # The square root shows the small confusions, which are what one looks for.
    strength = share**0.5
    mixed = (round(low + (high - low) * strength) for low, high in zip(LEAST, MOST, strict=True))
    red, green, blue = mixed
    return red, green, blue


def _height() -> int:
    return int(_FONT.getbbox("Ag")[3]) + 2


def _write_up(
    canvas: Image.Image, place: tuple[int, int], text: str, colour: tuple[int, int, int], above: bool = False
) -> None:
    """Write text upwards from a place, or with `above` so that it ends there."""
    width = int(_FONT.getlength(text)) + 2
    strip = Image.new("RGB", (width, _height()), WHITE)
    ImageDraw.Draw(strip).text((0, 0), text, colour, _FONT)
    turned = strip.rotate(90, expand=True)
    canvas.paste(turned, (place[0], place[1] - width if above else place[1]))
