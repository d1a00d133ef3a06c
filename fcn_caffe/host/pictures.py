"""Pictures: class colours, label images in colour, overlays, and panels of images side by side."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.text import show

__all__ = [
    "VOID_COLOUR",
    "add_legend",
    "colour",
    "colour_of_shares",
    "colour_table",
    "grey_of_shares",
    "image_format",
    "label_picture",
    "overlay",
    "palette",
    "panel",
    "save_grey16",
    "save_image",
    "save_labels",
]

UInt8 = npt.NDArray[np.uint8]

VOID_COLOUR = (224, 224, 192)  # what PASCAL VOC paints 255 with
OVERLAY_ROWS = 256  # painted at once

# From 0 to 1, dark to light for eyes of every kind and in print: dark blue, violet, red, orange, light yellow.
_RAMP = ((8, 12, 60), (92, 22, 122), (196, 58, 92), (250, 152, 44), (252, 250, 170))


def palette(count: int = 256) -> UInt8:
    """Return the first `count` colours of the PASCAL VOC palette. Shape: (count, 3), RGB.

    Bits 0, 3, 6 … of a class index become the red channel's bits from the highest down, 1, 4, 7 … green's and
    2, 5, 8 … blue's. Source: the PASCAL VOC development kit's colour map, whose entry 255 is (224, 224, 192).
    """
    index = np.arange(count)
    colours = np.zeros((count, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colours


def colour_table(colours: UInt8 | None) -> UInt8:
    """Return the colours of classes 0 to 255: the given ones for the first, the palette's for the others."""
    table = palette()
    if colours is not None:
        table[: len(colours)] = colours
    return table


def colour(label: npt.NDArray[Any], colours: UInt8 | None = None) -> UInt8:
    """Paint a label image in its classes' colours. Shapes: (H, W) of 0 to 255 -> (H, W, 3) RGB.

    Raises:
        DataError: A label is outside 0 to 255.
    """
    index = np.asarray(label).astype(np.int64)
    if index.size and (index.min() < 0 or index.max() > 255):
        raise DataError(f"labels run from {index.min()} to {index.max()}: a picture shows 0 to 255.")
    return np.asarray(colour_table(colours)[index])


def overlay(image: UInt8, label: npt.NDArray[Any], opacity: float = 0.55, colours: UInt8 | None = None) -> UInt8:
    """Lay class colours over an image: class 0 stays as it is, edges between classes are white.

    Shapes: (H, W, 3) RGB, (H, W) -> (H, W, 3).

    Raises:
        DataError: The sizes differ.
    """
    label = np.asarray(label)
    if image.shape[:2] != label.shape:
        raise DataError(
            f"the image is {show(image.shape[:2])}, the labels are {show(label.shape)}: they should be of one size."
        )
    result: UInt8 = np.empty_like(image)
    for start in range(0, len(label), OVERLAY_ROWS):  # as numbers, a large image would take ten times its memory
        rows = slice(start, start + OVERLAY_ROWS)
        classes = colour(label[rows], colours).astype(np.float32)
        painted = image[rows].astype(np.float32) * (1 - opacity) + classes * opacity
        result[rows] = np.where((label[rows] == 0)[:, :, None], image[rows], painted.astype(np.uint8))
    edge = np.zeros(label.shape, dtype=np.bool_)
    edge[1:] |= label[1:] != label[:-1]
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    result[edge] = 255
    return result


def grey_of_shares(values: npt.NDArray[np.floating[Any]]) -> UInt8:
    """Return shares of 1 as greys: 0 is black, 1 is white. Shapes: (H, W) -> (H, W)."""
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255), np.uint8)


def colour_of_shares(values: npt.NDArray[np.floating[Any]]) -> UInt8:
    """Return shares of 1 as colours, from dark blue by red to light yellow. Shapes: (H, W) -> (H, W, 3) RGB."""
    places = np.linspace(0, 255, len(_RAMP))
    table = [np.interp(np.arange(256), places, channel) for channel in zip(*_RAMP, strict=True)]
    return np.rint(np.stack(table, 1)).astype(np.uint8)[grey_of_shares(values)]


def add_legend(image: UInt8, entries: Sequence[tuple[UInt8 | None, str]]) -> UInt8:
    """Put a legend under an image: swatches of colours with texts, in as many columns as fit.

    The image keeps its pixels; it is widened with white where a text is wider than it. Letters grow with the image.
    Shapes: (H, W, 3) RGB -> (H', W', 3).

    Args:
        image: The image.
        entries: Colour and text of each; a colour that is None gives an empty swatch.
    """
    if not entries:
        return image
    size = max(12, min(image.shape[:2]) // 36)
    font = _font(size)
    texts = [_drawable(text, font) for _, text in entries]
    pad, row = size // 2, size + size // 2
    cell = row + pad + int(max(font.getlength(text) for text in texts)) + pad
    width = max(image.shape[1], cell + pad)
    columns = max(1, (width - pad) // cell)
    rows = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, image.shape[0] + rows * row + pad), "white")
    canvas.paste(Image.fromarray(image), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for place, ((swatch, _), text) in enumerate(zip(entries, texts, strict=True)):
        left = pad + place // rows * cell  # down a column, then the next
        top = image.shape[0] + pad + place % rows * row
        fill = None if swatch is None else tuple(int(value) for value in swatch)
        draw.rectangle((left, top, left + row - 1, top + size - 1), fill, "black")
        draw.text((left + row + pad, top + size // 2), text, "black", font, anchor="lm" if _has_anchors(font) else None)
    return np.asarray(canvas)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _font(size: int) -> Font:
    """Return Pillow's own font; before Pillow 10.1, or without FreeType, it has one size."""
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):
        return ImageFont.load_default()


def _has_anchors(font: Font) -> bool:
    return isinstance(font, ImageFont.FreeTypeFont)


def _drawable(text: str, font: Font) -> str:
    """Take accents off letters that a font has not, and replace others by question marks."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return text.encode("latin-1", "replace").decode("latin-1")
    missing = bytes(font.getmask("\uffff"))
    drawn = ""
    for letter in text:
        choices = (letter, unicodedata.normalize("NFKD", letter)[0], "?")
        drawn += next(choice for choice in choices if choice == "?" or bytes(font.getmask(choice)) != missing)
    return drawn


def panel(rows: Sequence[Sequence[UInt8]], titles: Sequence[str] = (), *, scale: int = 1, gap: int = 4) -> UInt8:
    """Put images side by side, row under row, with a title over each column.

    A column is as wide as its widest image. Shapes: RGB images of any sizes -> one (H, W, 3).

    Args:
        rows: The images.
        titles: A title for each column, or none.
        scale: How often a pixel is repeated, so that small pictures are large and stay sharp.
        gap: The space between images, in pixels.

    Raises:
        DataError: There are no images, or fewer titles than columns.
    """
    rows = [[np.asarray(image).repeat(scale, 0).repeat(scale, 1) for image in row] for row in rows]
    columns = max((len(row) for row in rows), default=0)
    if not columns or (titles and len(titles) < columns):
        raise DataError(f"a panel needs images, and a title for each of its {columns} columns; got {len(titles)}.")
    font = ImageFont.load_default()
    widths = [max(row[place].shape[1] for row in rows if place < len(row)) for place in range(columns)]
    if titles:
        widths = [max(width, int(font.getlength(title)) + 2) for width, title in zip(widths, titles, strict=False)]
    heights = [max(image.shape[0] for image in row) for row in rows]
    head = 16 if titles else 0
    canvas = Image.new("RGB", (sum(widths) + gap * (columns + 1), head + sum(heights) + gap * (len(rows) + 1)), "white")
    draw = ImageDraw.Draw(canvas)
    left = gap
    for place in range(columns):
        if titles:
            draw.text((left + widths[place] // 2, gap // 2 + head // 2), titles[place], "black", font, anchor="mm")
        top = head + gap
        for row, height in zip(rows, heights, strict=True):
            if place < len(row):
                canvas.paste(Image.fromarray(row[place]), (left, top))
            top += height + gap
        left += widths[place] + gap
    return np.asarray(canvas)


def save_image(path: str | os.PathLike[str], image: UInt8) -> None:
    """Write an RGB image, whole or not at all; the suffix says the format.

    Raises:
        DataError: No image format has this suffix.
    """
    kind = image_format(path)
    with atomic_write(path) as file:
        Image.fromarray(image).save(file, format=kind)


def image_format(path: str | os.PathLike[str]) -> str:
    """Return the format, in Pillow's words, that an image's suffix says. Raises: DataError where no format has it."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    kind = Image.registered_extensions().get(suffix)
    if kind is None:
        raise DataError(f"{path}: no image format has the suffix {suffix!r}. Use .png or .jpg.")
    return kind


def save_grey16(path: str | os.PathLike[str], shares: npt.NDArray[np.floating[Any]]) -> None:
    """Write shares of 1 as a grey PNG of 16 bits, whole or not at all: 0 is 0, 1 is 65535. Shape: (H, W)."""
    grey = np.rint(np.clip(shares, 0, 1) * np.float32(65535)).astype(np.uint16)
    with atomic_write(path) as file:
        Image.fromarray(grey).save(file, format="PNG")


def label_picture(label: UInt8, colours: UInt8 | None = None) -> Image.Image:
    """Return labels as a palette picture: pixels are class indices, shown in the classes' colours."""
    picture = Image.fromarray(label)
    picture.putpalette(colour_table(colours).tobytes())
    return picture


def save_labels(path: str | os.PathLike[str], label: npt.NDArray[Any], colours: UInt8 | None = None) -> None:
    """Write labels as a palette PNG: pixels are class indices, shown in the classes' colours.

    Raises:
        DataError: A label is outside 0 to 255.
    """
    index = np.asarray(label)
    if index.size and (index.min() < 0 or index.max() > 255):
        raise DataError(f"{path}: labels run from {index.min()} to {index.max()}: a palette PNG holds 0 to 255.")
    picture = label_picture(index.astype(np.uint8), colours)
    with atomic_write(path) as file:
        picture.save(file, format="PNG")
