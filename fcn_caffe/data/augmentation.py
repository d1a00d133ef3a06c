"""Random changes of training images, and of their labels with them.

One affine map does mirroring, scaling, rotation and the choice of a window, so that an image is interpolated once.
Where it shrinks, it is first reduced with all its pixels counted, then turned. Labels take the nearest pixel. Images
are (C, H, W) float32 minus mean, so what lies outside of one is 0; labels get their void value there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fcn_caffe.errors import DataError
from fcn_caffe.host.text import did_you_mean

__all__ = ["PAPER", "Augmentation", "change_colours", "fit_batch", "parse_augmentation"]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

TRIES = 10  # windows that are drawn for one with enough labelled pixels; then the best of them is taken
CHUNK = 16384  # pixels whose colours are changed at once
LUMA = np.array((0.114, 0.587, 0.299))  # of blue, green, red
LONGEST = 2**16  # pixels of a window, or of a shift
PAPER = "mirror,jitter=32"  # Long et al., section 4.3


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image. Each number is drawn anew for each image; the defaults change nothing.

    Attributes:
        mirror: half of the images are mirrored left to right.
        jitter: the window moves by up to so many pixels, up or down and left or right.
        scale: least and greatest factor of height and width, drawn so that halving is as likely as doubling.
        rotate: degrees at most, either way, about the centre.
        colour: brightness, contrast and saturation each change by a factor from 1 - colour to 1 + colour.
        crop: height and width of the window; None for that of the scaled image. Where the image is smaller, it lies
            anywhere within the window.
        least: the share of labelled pixels that a window should have.
    """

    mirror: bool = False
    jitter: int = 0
    scale: tuple[float, float] = (1.0, 1.0)
    rotate: float = 0.0
    colour: float = 0.0
    crop: tuple[int, int] | None = None
    least: float = 0.0

    @classmethod
    def read(cls, value: object, who: str) -> Augmentation:
        """Check options as a param_str has them.

        Raises:
            DataError: for an unknown option, or a value that makes no sense.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"{who}: augment should be a dict, such as {{'mirror': True}}, got {value!r}.")
        for key, given in value.items():
            check = _CHECKS.get(key)
            if check is None:
                hint = did_you_mean(str(key), list(_CHECKS), '"') or f" Known: {', '.join(_CHECKS)}."
                raise DataError(f'{who}: augment has an unknown option "{key}".{hint}')
            if not check[0](given):
                raise DataError(f"{who}: augment's {key} should be {check[1]}, got {given!r}.")
        options: dict[str, Any] = {
            key: tuple(given) if isinstance(given, (list, tuple)) else given for key, given in value.items()
        }
        return cls(**options)

    def options(self) -> dict[str, Any]:
        """Return what differs from the defaults, for a param_str."""
        values = asdict(self)
        return {field.name: values[field.name] for field in fields(self) if values[field.name] != field.default}

    def largest(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the largest window of an image."""
        return self.crop or (round(height * self.scale[1]), round(width * self.scale[1]))

    def change(
        self,
        images: Sequence[Array],
        labels: Sequence[Array],
        random: np.random.Generator,
        voids: Sequence[float],
        mean: Array | None = None,
    ) -> tuple[list[Array], list[Array]]:
        """Change the images of one scene and its labels alike.

        Shapes: images (C, H, W), labels (1, H, W), all of one H and W -> the same, of the window's height and width.

        Args:
            images: what the nets see.
            labels: class indices; the first decides whether a window has enough labelled pixels.
            random: always the same number of draws comes first, so that one option does not change another's draws.
            voids: the void value of each label.
            mean: what was subtracted from the first image, blue, green, red; needed for `colour`, which changes it
                alone.
        """
        drawn = random.random(8)
        height, width = (labels or images)[0].shape[-2:]
        least, most = self.scale
        factor = least * (most / least) ** float(drawn[1])
        mirrored = self.mirror and drawn[0] < 0.5
        view = _View.of(height, width, mirrored, factor, self.rotate * (2 * float(drawn[2]) - 1))
        window = self.crop or (view.height, view.width)
        moved = [int((2 * self.jitter + 1) * float(part)) - self.jitter for part in drawn[6:8]]
        view = self._placed(view, window, moved, random, list(zip(labels[:1], voids, strict=False)))
        if self.colour and mean is not None:
            factors = 1 + self.colour * (2 * drawn[3:6] - 1)
            images = [*(change_colours(image, mean, factors) for image in images[:1]), *images[1:]]
        return (
            [view.image(image, window) for image in images],
            [view.label(label, window, void) for label, void in zip(labels, voids, strict=True)],
        )

    def _placed(
        self,
        view: _View,
        window: tuple[int, int],
        moved: Sequence[int],
        random: np.random.Generator,
        labels: Sequence[tuple[Array, float]],
    ) -> _View:
        """Choose where the window lies: of a few random places the first, or the best, with enough labelled pixels."""
        best, share = view, -1.0
        for _ in range(TRIES if self.least and self.crop else 1):
            free = (view.height - window[0], view.width - window[1])  # below 0 the image lies within the window
            places = [
                int(part * (abs(size) + 1)) * (1 if size >= 0 else -1)
                for part, size in zip(random.random(2), free, strict=True)
            ]
            tried = view.at(places[0] - moved[0], places[1] - moved[1])
            if not self.least or not labels:
                return tried
            label, void = labels[0]
            found = float(np.mean(tried.label(label, window, void) != void))
            if found > share:
                best, share = tried, found
            if share >= self.least:
                break
        return best


@dataclass(frozen=True)
class _View:
    """How a window looks at an image: mirrored, scaled to height x width, rotated about its centre, from a place on."""

    source: tuple[int, int]
    height: int
    width: int
    mirrored: bool
    angle: float  # radians
    top: int = 0
    left: int = 0

    @classmethod
    def of(cls, height: int, width: int, mirrored: bool, factor: float, degrees: float) -> _View:
        scaled = (max(1, round(height * factor)), max(1, round(width * factor)))
        return cls((height, width), *scaled, mirrored, math.radians(degrees))

    def at(self, top: int, left: int) -> _View:
        return _View(self.source, self.height, self.width, self.mirrored, self.angle, top, left)

    @property
    def is_scaled(self) -> bool:
        return (self.height, self.width) != self.source

    def image(self, image: Array, window: tuple[int, int]) -> Float32:
        """Return what the window shows of an image, 0 outside."""
        if not self.angle and not self.is_scaled:
            return self._cut(np.asarray(image, np.float32), window, 0)
        planes = [Image.fromarray(plane) for plane in np.asarray(image, np.float32)]
        if not self.angle:
            return self._resized(planes, window)
        sizes = self.source
        if self.height < sizes[0] or self.width < sizes[1]:
            sizes = (self.height, self.width)
            planes = [plane.resize(sizes[::-1], Image.Resampling.BILINEAR) for plane in planes]
        return self._mapped(planes, window, sizes, Image.Resampling.BILINEAR, 0)

    def label(self, label: Array, window: tuple[int, int], void: float) -> Array:
        """Return what the window shows of a label, `void` outside."""
        if not self.angle and not self.is_scaled:
            return self._cut(label, window, void)
        planes = [Image.fromarray(plane) for plane in np.asarray(label, np.float32)]
        found = self._mapped(planes, window, self.source, Image.Resampling.NEAREST, void)
        return found.astype(label.dtype, copy=False)

    def _shown(self, window: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the rows and columns of the scaled image that an unrotated window shows, and where they lie in it."""
        rows, columns = (
            slice(max(first, 0), max(max(first, 0), min(first + size, extent)))
            for first, size, extent in zip((self.top, self.left), window, (self.height, self.width), strict=True)
        )
        inside = tuple(
            slice(part.start - first, part.stop - first)
            for part, first in zip((rows, columns), (self.top, self.left), strict=True)
        )
        return (rows, columns), (inside[0], inside[1])

    def _cut(self, array: Array, window: tuple[int, int], fill: float) -> Array:
        """Mirror, and cut the window out."""
        cut = np.full((len(array), *window), fill, array.dtype)
        array = array[..., ::-1] if self.mirrored else array
        (rows, columns), (down, along) = self._shown(window)
        cut[:, down, along] = array[:, rows, columns]
        return cut

    def _resized(self, planes: Sequence[Image.Image], window: tuple[int, int]) -> Float32:
        """Scale as much of planes as the window shows.

        Pillow's bilinear filter grows with the reduction, so that no pixel is left out.
        """
        found = np.zeros((len(planes), *window), np.float32)
        (rows, columns), (down, along) = self._shown(window)
        if rows.start == rows.stop or columns.start == columns.stop:
            return found
        first, last = columns.start, columns.stop
        if self.mirrored:
            first, last = self.width - last, self.width - first
        height, width = self.source
        across, up = width / self.width, height / self.height
        box = (first * across, rows.start * up, min(last * across, width), min(rows.stop * up, height))
        size = (last - first, rows.stop - rows.start)
        for target, plane in zip(found[:, down, along], planes, strict=True):
            scaled = np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box))
            target[...] = scaled[:, ::-1] if self.mirrored else scaled
        return found

    def _mapped(
        self,
        planes: Sequence[Image.Image],
        window: tuple[int, int],
        sizes: tuple[int, int],
        resampling: Image.Resampling,
        fill: float,
    ) -> Float32:
        """Interpolate planes of the given height and width at the window's pixels."""
        height, width = sizes
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        turn = -1 if self.mirrored else 1
        down, along = height / self.height, width / self.width
        # From the centre of a window's pixel: to the centre of the scaled image, turned, mirrored, to the plane.
        x, y = self.left - self.width / 2, self.top - self.height / 2
        row: tuple[float, ...] = (
            *(turn * along * cosine, turn * along * sine, along * (turn * (cosine * x + sine * y) + self.width / 2)),
            *(-down * sine, down * cosine, down * (cosine * y - sine * x + self.height / 2)),
        )
        # Pillow's affine maps of labels are in fixed point; its perspective ones are in double precision, as affine
        # ones of images: so image and label end at the same pixel.
        exact = resampling == Image.Resampling.NEAREST
        way: Any = Image.Transform.PERSPECTIVE if exact else Image.Transform.AFFINE
        row = (*row, 0.0, 0.0) if exact else row
        found = [plane.transform(window[::-1], way, row, resampling, fillcolor=float(fill)) for plane in planes]
        return np.stack([np.asarray(plane) for plane in found])


def change_colours(image: Array, mean: Array, factors: Array) -> Float32:
    """Multiply brightness, contrast and saturation of an image by factors.

    Contrast is the distance from the image's mean grey, saturation that from a pixel's own grey. All three are one
    linear map of a pixel's colour; the result is cut to 0 to 255.

    Shapes: image (3, H, W), blue, green, red minus mean; factors (3) -> (3, H, W).
    """
    brightness, contrast, saturation = (float(factor) for factor in factors)
    centre = np.asarray(mean, np.float64).reshape(3)
    pixels = np.asarray(image, np.float32).reshape(3, -1)
    grey = LUMA @ (pixels.mean(axis=1) + centre)
    mixed = saturation * np.eye(3) + (1 - saturation) * LUMA
    whole = brightness * contrast * mixed
    shift = whole @ centre + brightness * (1 - contrast) * grey - centre
    factor, shift, least = (one.astype(np.float32) for one in (whole, shift[:, None], -centre[:, None]))
    most = least + np.float32(255)
    changed = np.empty_like(pixels)
    for start in range(0, pixels.shape[1], CHUNK):  # a product of this form is six times as quick in the cache
        part = changed[:, start : start + CHUNK]
        np.matmul(factor, pixels[:, start : start + CHUNK], out=part)
        part += shift
        np.maximum(part, least, out=part)
        np.minimum(part, most, out=part)
    return changed.reshape(np.shape(image))


def parse_augmentation(text: str) -> Augmentation:
    """Read an argument such as `mirror,scale=0.5:2,rotate=10,colour=0.4,crop=320x320,least=0.5`, or `paper`.

    Raises:
        DataError: it says what a part should be.
    """
    options: dict[str, Any] = {}
    said: set[str] = set()
    for part in text.split(","):
        if part.strip() == "paper":
            options |= parse_augmentation(PAPER).options()
            continue
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key in said:
            raise DataError(f'--augment: has "{key}" twice. Say it once.')
        said.add(key)
        options[key] = _value(key, value)
    wanted = Augmentation.read(options, "--augment")
    if wanted.least and not wanted.crop:
        raise DataError("--augment: least is of the window that crop cuts out. Give crop too, or leave least out.")
    return wanted


def _value(key: str, text: str) -> object:
    """Return a value as a param_str has it; a text that is none stays a text, for `read` to refuse."""
    try:
        if key == "mirror" and not text:
            return True
        if key == "scale":
            least, colon, most = text.partition(":")
            return float(least), float(most if colon else least)
        if key == "crop":
            height, _, width = text.partition("x")
            return int(height), int(width)
        return int(text) if key == "jitter" else float(text)
    except ValueError:
        return text


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_pair(value: object, kind: Callable[[Any], bool]) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(kind(part) for part in value)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LONGEST


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "mirror": (lambda value: isinstance(value, bool), "True or False"),
    "jitter": (lambda value: _is_whole(value, 0), f"a whole number of pixels, at most {LONGEST}"),
    "scale": (
        lambda value: _is_pair(value, _is_number) and 0 < value[0] <= value[1] <= 16,
        "the least and the greatest factor, such as (0.5, 2)",
    ),
    "rotate": (lambda value: _is_number(value) and 0 <= value <= 180, "degrees from 0 to 180"),
    "colour": (lambda value: _is_number(value) and 0 <= value < 1, "a share from 0, below 1"),
    "crop": (
        lambda value: value is None or _is_pair(value, lambda part: _is_whole(part, 1)),
        f"the height and width of the window, such as (320, 320), at most {LONGEST}",
    ),
    "least": (lambda value: _is_number(value) and 0 <= value <= 1, "a share from 0 to 1"),
}


def fit_batch(samples: Sequence[Sequence[Array]], fills: Sequence[float], fit: str) -> list[Array]:
    """Make a batch of each part of samples, whose heights and widths may differ.

    With fit "pad" a part is filled up to the largest, at the right and below, with its value of `fills`; with "crop"
    the middle of it is cut to the smallest.

    Shapes: parts (C, H, W) of each sample -> (N, C, H', W').
    """
    heights, widths = ([parts[0].shape[axis] for parts in samples] for axis in (1, 2))
    choose = max if fit == "pad" else min
    size = choose(heights), choose(widths)
    batch = [
        np.full((len(samples), len(part), *size), fill, part.dtype)
        for part, fill in zip(samples[0], fills, strict=True)
    ]
    for place, parts in enumerate(samples):
        for array, part in zip(batch, parts, strict=True):
            height, width = min(size[0], part.shape[1]), min(size[1], part.shape[2])
            top, left = (part.shape[1] - height) // 2, (part.shape[2] - width) // 2
            array[place, :, :height, :width] = part[:, top : top + height, left : left + width]
    return batch
