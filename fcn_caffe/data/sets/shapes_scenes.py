"""The generated data set `shapes`: overlapping textured objects at many scales, drawn on demand, no download.

Class 0 is background. Every object class is an outline together with a texture, and neither outlines nor textures
nor colours belong to one class alone: colours are random, each texture is worn by two classes or by background
clutter, and clutter has the objects' outlines without their own textures. Thin parts (rings, bars, the arms of stars)
are a few pixels wide, so a coarse prediction loses them. Every edge between objects has a void border, 255.

An image depends on (seed, split, index) only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["CLASSES", "MEAN", "VOID", "draw_crop", "draw_scene"]

CLASSES = ("background", "disc", "ring", "cross", "triangle", "star")
MEAN = (120.0, 120.0, 120.0)  # BGR, the middle of the range colours are drawn from
VOID = 255

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

SPLITS = {"train": 0, "val": 1, "test": 2}


# Outlines, in coordinates where the object lies within radius 1. `thin` is a part's width in the same unit.
def _disc(u: Float32, v: Float32, thin: float) -> Mask:
    return u * u + v * v < 0.85


def _ring(u: Float32, v: Float32, thin: float) -> Mask:
    radius = u * u + v * v
    return (radius < 1) & (radius > (1 - thin) ** 2)


def _cross(u: Float32, v: Float32, thin: float) -> Mask:
    across, along = np.abs(u), np.abs(v)
    return ((across < thin / 2) & (along < 0.95)) | ((along < thin / 2) & (across < 0.95))


def _triangle(u: Float32, v: Float32, thin: float) -> Mask:
    return (v < 0.5) & (1.732 * np.abs(u) - v < 1.0)


def _star(u: Float32, v: Float32, thin: float) -> Mask:
    # Six arms: three bars through the centre, each tapering towards its ends.
    inside = np.zeros(u.shape, dtype=np.bool_)
    for angle in (0.0, np.pi / 3, 2 * np.pi / 3):
        along = np.float32(np.cos(angle)) * u + np.float32(np.sin(angle)) * v
        across = np.float32(np.cos(angle)) * v - np.float32(np.sin(angle)) * u
        inside |= np.abs(across) < (thin * 0.75) * (1 - np.abs(along))
    return inside


# Textures: a mask of where the second colour goes; x and y in pixels along the object's axes, `period` in pixels.
def _stripes(x: Float32, y: Float32, period: float) -> Mask:
    return np.asarray((x * np.float32(1 / period)) % 1 < 0.5)


def _checks(x: Float32, y: Float32, period: float) -> Mask:
    mask: Mask = ((x * np.float32(1 / period)) % 1 < 0.5) ^ ((y * np.float32(1 / period)) % 1 < 0.5)
    return mask


def _dots(x: Float32, y: Float32, period: float) -> Mask:
    across = (x * np.float32(1 / period)) % 1 - np.float32(0.5)
    along = (y * np.float32(1 / period)) % 1 - np.float32(0.5)
    return np.asarray(across * across + along * along < 0.1)


def _plain(x: Float32, y: Float32, period: float) -> Mask:
    return np.zeros(x.shape, dtype=np.bool_)


_OUTLINES: tuple[Callable[[Float32, Float32, float], Mask], ...] = (_disc, _ring, _cross, _triangle, _star)
_TRIANGLE = 3
_CLASS_TEXTURES: tuple[Callable[[Float32, Float32, float], Mask], ...] = (_stripes, _checks, _stripes, _dots, _checks)


@cache
def _noise() -> Float32:
    """A fixed tile of noise, fine grain plus soft blotches, that every image takes a random window of."""
    random = np.random.default_rng(0)
    side = 512
    tile = random.standard_normal((side, side)).astype(np.float32) * 7
    for cell, strength in ((8, 8.0), (32, 14.0)):
        coarse = random.standard_normal((side // cell + 1, side // cell + 1)).astype(np.float32) * strength
        at = np.arange(side, dtype=np.float32) / cell
        low = at.astype(np.int64)
        part = (at - low)[:, None]
        rows = coarse[low] * (1 - part) + coarse[low + 1] * part
        tile += rows[:, low] * (1 - part.T) + rows[:, low + 1] * part.T
    return tile


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS[split], index])


def _colours(random: np.random.Generator) -> Float32:
    """Two colours of one object, far enough apart for its texture to show."""
    first, second = random.uniform(40, 200, (2, 3)).astype(np.float32)
    gap = second - first
    reach = max(float(np.abs(gap).max()), 1.0)
    if reach < 70:
        second = first + gap * (70 / reach)
    return np.stack([first, second])


def _paint(
    image: Float32,
    label: UInt8,
    owner: UInt8,
    random: np.random.Generator,
    kind: int,
    number: int,
    centre: tuple[float, float],
    radius: float,
    *,
    clutter: bool,
) -> None:
    """Paint object `number` of outline `kind` (0-based) over `image` (H, W, 3), `label` and `owner` (H, W)."""
    height, width = label.shape
    cy, cx = centre
    top, bottom = max(int(cy - radius), 0), min(int(cy + radius) + 2, height)
    left, right = max(int(cx - radius), 0), min(int(cx + radius) + 2, width)
    angle, period = random.uniform(0, 2 * np.pi), random.uniform(5, 8)
    # Thin parts are 5 to 8 pixels wide whatever the scale: as in photographs, where legs and poles are thin.
    thin = min(float(random.uniform(5, 8)) / radius, 0.6)
    colours = _colours(random)
    if top >= bottom or left >= right:
        return
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(cy)
    x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(cx)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = cos * x + sin * y, cos * y - sin * x
    scale = np.float32(1 / radius)
    inside = _OUTLINES[kind](along * scale, across * scale, thin)
    draw_texture = _CLASS_TEXTURES[kind]
    if clutter:
        draw_texture = _dots if period > 7 and kind != _TRIANGLE else _plain
    texture = draw_texture(along, across, float(period))
    window = (slice(top, bottom), slice(left, right))
    pixels = image[window]
    np.copyto(pixels, colours[texture.astype(np.intp)], where=inside[:, :, None])
    np.copyto(label[window], np.uint8(0 if clutter else kind + 1), where=inside)
    # Clutter is background: it has an edge where it covers an object, and none of its own.
    np.copyto(owner[window], np.uint8(0 if clutter else number), where=inside)


def _background(random: np.random.Generator, size: int) -> Float32:
    """A plain colour running into another across the image."""
    first, second = random.uniform(60, 180, (2, 3)).astype(np.float32)
    angle = random.uniform(0, 2 * np.pi)
    at = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = (np.float32(np.cos(angle)) * at[:, None] + np.float32(np.sin(angle)) * at[None, :] + np.float32(0.7)) / 1.4
    image: Float32 = first + ramp[:, :, None] * (second - first)
    return image


def _finish(image: Float32, random: np.random.Generator) -> UInt8:
    """Add a random window of noise and clip to 8 bits."""
    tile = _noise()
    size = image.shape[0]
    row, column = random.integers(0, tile.shape[0] - size + 1, 2)
    image += tile[row : row + size, column : column + size, None]
    return image.clip(0, 255).astype(np.uint8)


def _void_borders(label: UInt8, owner: UInt8) -> None:
    """Mark both sides of every edge between objects as void, so borders are 2 pixels wide."""
    down, along = owner[1:] != owner[:-1], owner[:, 1:] != owner[:, :-1]
    for part, edge in ((label[1:], down), (label[:-1], down), (label[:, 1:], along), (label[:, :-1], along)):
        part[edge] = VOID


def draw_scene(seed: int, split: str, index: int, size: int = 112) -> tuple[UInt8, UInt8]:
    """Draw image `index` of a split.

    Shapes: image (size, size, 3) uint8 RGB; label (size, size) uint8, 0 to 5 and 255 (void).
    """
    random = _generator(seed, split, index)
    image = _background(random, size)
    label = np.zeros((size, size), dtype=np.uint8)
    owner = np.zeros((size, size), dtype=np.uint8)
    objects, clutter = int(random.integers(3, 7)), int(random.integers(1, 4))
    order = random.permutation(objects + clutter)
    for number, place in enumerate(order, 1):
        # Radii from a twelfth to a third of the side, small ones as likely as large ones.
        radius = size * float(np.exp(random.uniform(np.log(1 / 12), np.log(1 / 3))))
        cy, cx = random.uniform(0.05 * size, 0.95 * size, 2)
        kind = int(random.integers(len(_OUTLINES)))
        _paint(image, label, owner, random, kind, number, (cy, cx), radius, clutter=bool(place >= objects))
    _void_borders(label, owner)
    return _finish(image, random), label


def draw_crop(seed: int, split: str, index: int, size: int = 64) -> tuple[UInt8, int]:
    """Draw picture `index` of the classifier's data: one object in view, or background with clutter only.

    Shapes: (size, size, 3) uint8 RGB, and the class, 0 to 5 in turn.
    """
    random = _generator(seed + 1, split, index)
    kind = index % len(CLASSES)
    image = _background(random, size)
    label = np.zeros((size, size), dtype=np.uint8)
    owner = np.zeros((size, size), dtype=np.uint8)
    for _ in range(int(random.integers(kind == 0, 3))):
        radius = size * float(random.uniform(0.15, 0.35))
        cy, cx = random.uniform(0, size, 2)
        _paint(image, label, owner, random, int(random.integers(len(_OUTLINES))), 1, (cy, cx), radius, clutter=True)
    if kind:
        radius = size * float(np.exp(random.uniform(np.log(0.15), np.log(0.5))))
        cy, cx = random.uniform(0.3 * size, 0.7 * size, 2)
        _paint(image, label, owner, random, kind - 1, 1, (cy, cx), radius, clutter=False)
    return _finish(image, random), kind
