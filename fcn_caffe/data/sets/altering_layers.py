"""Python layers between a data layer and the net: sample the loss, change images at random, mask them.

Each may work in place, on the data layer's tops. Random numbers depend on the seed and the pass only, so a resumed run
draws those of an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from fcn_caffe.data.augmentation import Augmentation
from fcn_caffe.data.sets.options import is_whole, read_mean, read_options
from fcn_caffe.errors import DataError
from fcn_caffe.host.ranks import Share
from fcn_caffe.host.text import show
from fcn_caffe.layers.python import Blob, PythonLayer
from fcn_caffe.proto.phases import TEST

__all__ = ["Augment", "LossSampling", "MaskedInput", "MirrorJitter", "ignore_cells", "mirror_and_shift"]

Array = npt.NDArray[Any]
VOID = 255


def ignore_cells(label: Array, kept: Array, cell: int, offset: int = 0, ignore: float = VOID) -> Array:
    """Return the labels with `ignore` in all cells that are not kept.

    Shapes: label (N, ..., H, W), kept (N, rows, columns) bool, at least as many cells as cover the label -> as label.
    """
    down, along = (_cell_of(extent, cell, offset) for extent in label.shape[-2:])
    pixels = kept[:, down][:, :, along]
    shape = (pixels.shape[0], *(1,) * (label.ndim - 3), *pixels.shape[1:])
    return np.where(pixels.reshape(shape), label, np.asarray(ignore, label.dtype))


def _cell_of(extent: int, cell: int, offset: int) -> Array:
    """Return the cell of each pixel along an axis. `offset` is a border of cells; it may cut the first cell."""
    border = offset % cell
    return (np.arange(extent) - border) // cell + (border > 0)


def mirror_and_shift(array: Array, mirror: bool, down: int, along: int, fill: float) -> Array:
    """Mirror an image or label (..., H, W) left to right if `mirror`, then move it; `fill` fills the gap."""
    height, width = array.shape[-2:]
    moved = np.full_like(array, fill)
    source = array[..., ::-1] if mirror else array
    to, at = (slice(max(down, 0), height + min(down, 0)), slice(max(along, 0), width + min(along, 0)))
    rows, columns = (slice(max(-down, 0), height - max(down, 0)), slice(max(-along, 0), width - max(along, 0)))
    moved[..., to, at] = source[..., rows, columns]
    return moved


class _Change(PythonLayer):
    """Base of these layers: options by name, and tops of their bottoms' shapes."""

    required: ClassVar[Sequence[str]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}

    @property
    def who(self) -> str:
        return type(self).__name__

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.options = read_options(self.param_str, self.who, required=self.required, defaults=self.defaults)
        self.check(bottom, top)

    def check(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Check the options and the numbers of blobs."""

    def count(self, bottom: list[Blob], top: list[Blob], bottoms: str, tops: str, right: bool) -> None:
        """Raise DataError for a wrong number of blobs, unless `right`."""
        if not right:
            raise DataError(
                f"{self.who}: takes {bottoms} and gives {tops}; the net has {len(bottom)} bottoms, {len(top)} tops."
            )

    def whole(self, key: str, least: int) -> int:
        """Return an option that is a whole number."""
        value = self.options[key]
        if not is_whole(value, least):
            raise DataError(f"{self.who}: {key} should be a whole number of at least {least}, got {value!r}.")
        return int(value)

    def number(self, key: str) -> float:
        """Return an option that is a number."""
        value = self.options[key]
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise DataError(f"{self.who}: {key} should be a number, got {value!r}.")
        return float(value)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        for source, target in zip(bottom, top, strict=False):
            target.reshape(*source.data.shape)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Data has no gradient."""


class _RandomChange(_Change):
    """Base of changes that are drawn in each pass, from a seed and the pass's number, which counts all processes'."""

    share = Share()

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().setup(bottom, top)
        seed = self.options["seed"]
        if seed is not None and not is_whole(seed, 0):
            raise DataError(f"{self.who}: seed should be a whole number from 0, or None for torch's, got {seed!r}.")
        self.seed = int(torch.randint(2**31 - 1, (1,), device="cpu")) if seed is None else int(seed)
        self.passes = 0

    def drawing(self) -> np.random.Generator:
        """Return this pass's random numbers; the next call is for the next pass."""
        number = self.passes + 1 + self.share.rank
        self.passes += self.share.count
        return np.random.default_rng([self.seed, number])

    def take_share(self, share: Share) -> None:
        self.share = share

    def skip(self, passes: int) -> None:
        """Go on; a test draws nothing."""
        self.passes += passes if self.phase != TEST else 0

    def get_state(self) -> dict[str, int]:
        return {"seed": self.seed, "pass": self.passes}

    def set_state(self, state: dict[str, int]) -> None:
        self.seed, self.passes = int(state["seed"]), int(state["pass"])


class LossSampling(_RandomChange):
    """Keep a random sample of the loss: each cell of the labels stays with probability `keep`, or gets the void label.

    Bottom: label (N, 1, H, W) or (N, H, W); top: the sampled label. In TEST labels pass as they are.
    param_str: `keep`, above 0 and up to 1; `cell` (32), pixels a side of what is kept or ignored together, the stride
    of the net's coarsest scores; `offset` (0), a pixel where a cell begins; `seed` (None: drawn from torch when the net
    is built); `ignore` (255), the void label.
    Raises: DataError for wrong options.
    Source: Long et al., sections 3.4 and 4.3.
    """

    required = ("keep",)
    defaults: ClassVar[Mapping[str, Any]] = {"cell": 32, "offset": 0, "seed": None, "ignore": VOID}

    def check(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.count(bottom, top, "the label", "the sampled label", len(bottom) == len(top) == 1)
        self.keep, self.cell = self.number("keep"), self.whole("cell", 1)
        self.offset, self.ignore = self.whole("offset", -(2**31)), self.number("ignore")
        if not 0 < self.keep <= 1:
            raise DataError(f"{self.who}: keep should be a share above 0 and up to 1, got {self.keep:g}.")
        if len(bottom[0].data.shape) < 3:
            raise DataError(
                f"{self.who}: the label is {show(bottom[0].data.shape)}, expected (N, 1, H, W) or (N, H, W)."
            )

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        label = bottom[0].data
        if self.phase != TEST:
            cells = [int(_cell_of(extent, self.cell, self.offset)[-1]) + 1 for extent in label.shape[-2:]]
            kept = self.drawing().random((label.shape[0], *cells)) < self.keep
            label = ignore_cells(label, kept, self.cell, self.offset, self.ignore)
        top[0].data[...] = label


class MirrorJitter(_RandomChange):
    """Mirror each image at random and move it by random numbers of pixels, and its label with it.

    Bottoms: one or several images (N, C, H, W), then the label (N, 1, H, W); tops: the same, altered. In TEST all pass
    as they are.
    param_str: `mirror` (True), half of the images; `jitter` (0), pixels at most, up or down and left or right; `seed`
    (None: drawn from torch when the net is built); `fill` (0, the mean once it is subtracted), what comes in at the
    image's border, and `ignore` (255), at the label's.
    Raises: DataError for wrong options, or a jitter as large as the image.
    Source: Long et al., section 4.3.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"mirror": True, "jitter": 0, "seed": None, "fill": 0, "ignore": VOID}

    def check(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.count(bottom, top, "images and their label", "as many tops", len(bottom) == len(top) >= 2)
        self.mirror, self.jitter = self.options["mirror"], self.whole("jitter", 0)
        self.fill, self.ignore = self.number("fill"), self.number("ignore")
        if not isinstance(self.mirror, bool):
            raise DataError(f"{self.who}: mirror should be True or False, got {self.mirror!r}.")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        shapes = {(blob.data.shape[0], *blob.data.shape[-2:]) for blob in bottom}
        if len(shapes) > 1 or any(blob.data.ndim < 3 for blob in bottom):
            listed = ", ".join(str(blob.data.shape) for blob in bottom)
            raise DataError(f"{self.who}: images and label should be of one height and width, got {listed}.")
        least = min(bottom[0].data.shape[-2:])
        if self.jitter >= least:
            raise DataError(f"{self.who}: a jitter of {self.jitter} may leave nothing of images {least} pixels wide.")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        arrays = [blob.data for blob in bottom]
        if self.phase != TEST:
            draw, images = self.drawing(), len(arrays[0])
            mirrored = draw.random(images) < (0.5 if self.mirror else 0)
            moves = draw.integers(-self.jitter, self.jitter + 1, (images, 2))
            fills = [self.fill] * (len(arrays) - 1) + [self.ignore]
            arrays = [
                np.stack(
                    [
                        mirror_and_shift(image, bool(turn), int(move[0]), int(move[1]), fill)
                        for image, turn, move in zip(array, mirrored, moves, strict=True)
                    ]
                )
                for array, fill in zip(arrays, fills, strict=True)
            ]
        for blob, array in zip(top, arrays, strict=True):
            blob.data[...] = array


class Augment(_RandomChange):
    """Mirror, move, scale, rotate, recolour and crop each image at random, and its label with it.

    Bottoms: one or several images (N, C, H, W), then the label (N, 1, H, W); tops: the same, altered, of the height and
    width of `crop`, by default those of the bottoms. In TEST all pass as they are.
    param_str: the options of data.augmentation, all off by default; `seed` (None: drawn from torch when the net is
    built); `ignore` (255), the void label; `mean` (None), blue, green, red, what was subtracted from the first image,
    which `colour` needs.
    Raises: DataError for wrong options, images of several sizes, or a crop where a top is a bottom.
    """

    defaults: ClassVar[Mapping[str, Any]] = {**asdict(Augmentation()), "seed": None, "ignore": VOID, "mean": None}

    def check(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.count(bottom, top, "images and their label", "as many tops", len(bottom) == len(top) >= 2)
        names = asdict(Augmentation())
        self.augmentation = Augmentation.read({name: self.options[name] for name in names}, self.who)
        self.ignore, self.mean = self.number("ignore"), None
        if self.options["mean"] is not None:
            self.mean = np.array(read_mean(self.options["mean"], self.who))
        elif self.augmentation.colour:
            raise DataError(f"{self.who}: colour needs 'mean': what was subtracted from blue, green and red.")
        if self.augmentation.crop and any(one is other for one, other in zip(top, bottom, strict=True)):
            raise DataError(f"{self.who}: with crop the tops are of another size: give them names of their own.")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shapes = [blob.data.shape for blob in bottom]
        if any(len(shape) != 4 for shape in shapes) or len({(shape[0], *shape[2:]) for shape in shapes}) > 1:
            listed = ", ".join(map(show, shapes))
            raise DataError(f"{self.who}: images and label should be (N, C, H, W) of one N, H and W, got {listed}.")
        if self.augmentation.colour and shapes[0][1] != 3:
            raise DataError(
                f"{self.who}: colour is for images of 3 channels, the first has {shapes[0][1]}. Take colour out."
            )
        for shape, target in zip(shapes, top, strict=True):
            target.reshape(*shape[:2], *(self.window(shape[2:]) if self.phase != TEST else shape[2:]))

    def window(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Return height and width of the tops for bottoms of a size."""
        return self.augmentation.crop or (size[0], size[1])

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        arrays = [blob.data for blob in bottom]
        if self.phase != TEST:
            draw = self.drawing()
            augmentation = replace(self.augmentation, crop=self.window(arrays[0].shape[2:]))
            changed = []
            for scene in zip(*arrays, strict=True):
                images, labels = augmentation.change(scene[:-1], scene[-1:], draw, [self.ignore], self.mean)
                changed.append([*images, *labels])
            arrays = [np.stack(parts) for parts in zip(*changed, strict=True)]
        for blob, array in zip(top, arrays, strict=True):
            blob.data[...] = array


class MaskedInput(_Change):
    """Hide the background or the foreground of images, as the labels have it, behind one colour.

    Bottoms: data (N, C, H, W), label (N, 1, H, W); top: the masked data. Void pixels are hidden too.
    param_str: `keep`, "foreground" or "background"; `background` (0), its class; `fill` (0, the mean once it is
    subtracted); `ignore` (255), the void label.
    Raises: DataError for wrong options.
    Source: Shelhamer, Long, Darrell, PAMI 2016, on masking.
    """

    required = ("keep",)
    defaults: ClassVar[Mapping[str, Any]] = {"background": 0, "fill": 0, "ignore": VOID}

    def check(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.count(bottom, top, "data and label", "the masked data", (len(bottom), len(top)) == (2, 1))
        self.background, self.ignore = self.number("background"), self.number("ignore")
        self.fill = self.number("fill")
        if self.options["keep"] not in ("foreground", "background"):
            raise DataError(f"{self.who}: keep should be 'foreground' or 'background', got {self.options['keep']!r}.")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        data, label = bottom[0].data, bottom[1].data
        if label.shape != (data.shape[0], 1, *data.shape[2:]):
            raise DataError(
                f"{self.who}: data is {show(data.shape)} and label {show(label.shape)}: give one label per pixel."
            )
        behind = label == self.background
        shown = behind if self.options["keep"] == "background" else ~behind
        top[0].data[...] = np.where(shown & (label != self.ignore), data, np.float32(self.fill))
