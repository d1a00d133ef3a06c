"""transform_param: the crop, mirror, mean and scale that data layers of images apply."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.readers.mean_image import read_mean_image
from fcn_caffe.data.readers.opencv_images import Colour
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import Surroundings
from fcn_caffe.host.text import show
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TRAIN

__all__ = ["Transformer", "Window", "draw_window", "read_means"]

Float32 = npt.NDArray[np.float32]
Pixels = TypeVar("Pixels", np.uint8, np.float32)
_log = logging.getLogger("fcn_caffe.data")


def read_means(
    param: caffe_pb2.TransformationParameter, surroundings: Surroundings
) -> tuple[Float32 | None, Float32 | None]:
    """Return the mean image (C, H, W) and the mean values (C or 1, 1, 1) of a TransformationParameter: one at most.

    Raises:
        DataError: for both; what read_mean_image raises.
    """
    if param.HasField("mean_file"):
        if param.mean_value:
            raise DataError("transform_param has mean_file and mean_value: keep one of them.")
        return read_mean_image(param.mean_file, surroundings), None
    if param.mean_value:
        return None, np.array(param.mean_value, np.float32)[:, None, None]
    return None, None


@dataclass(frozen=True)
class Window:
    """What is cut out of an image (C, H, W) and of its label picture, and whether it is mirrored."""

    rows: slice
    columns: slice
    mirrored: bool

    def cut(self, image: npt.NDArray[Pixels]) -> npt.NDArray[Pixels]:
        """Return the window of an image, not mirrored: a view."""
        return image[:, self.rows, self.columns]

    def mirror(self, image: npt.NDArray[Pixels]) -> npt.NDArray[Pixels]:
        """Return an image mirrored where the window is: a view."""
        return image[:, :, ::-1] if self.mirrored else image


def draw_window(
    size: tuple[int, int], crop: tuple[int, int], random: np.random.Generator, *, is_random: bool, mirror: bool
) -> Window:
    """Draw whether an image is mirrored, then where the crop lies in it.

    Args:
        size: Height and width of the image.
        crop: Height and width of the crop; (0, 0) for the whole image.
        random: What it is drawn from.
        is_random: Whether the crop lies at random; else in the centre.
        mirror: Whether half of the images are mirrored.
    """
    mirrored = mirror and bool(random.integers(2))
    if crop == (0, 0):
        return Window(slice(None), slice(None), mirrored)
    top, left = size[0] - crop[0], size[1] - crop[1]
    if is_random:
        top, left = int(random.integers(top + 1)), int(random.integers(left + 1))
    else:
        top, left = top // 2, left // 2
    return Window(slice(top, top + crop[0]), slice(left, left + crop[1]), mirrored)


class Transformer:
    """(x - mean) * scale of an image, cropped and mirrored.

    The crop lies at random in TRAIN and in the centre in TEST; the mirror is random in both; the mean image is cropped
    with the image. `surroundings`: those of the layer that has the transform_param, for its mean_file.
    Source: Caffe DataTransformer.

    Raises:
        DataError: for mean_file with mean_value, and a mean file that cannot be read.
    """

    def __init__(
        self, param: caffe_pb2.TransformationParameter, phase: int, surroundings: Surroundings | None = None
    ) -> None:
        self.scale, self.mirror, self.crop = np.float32(param.scale), bool(param.mirror), int(param.crop_size)
        self.random_crop = phase == TRAIN
        self.force_color, self.force_gray = bool(param.force_color), bool(param.force_gray)
        self.mean_image, self.mean_values = read_means(param, surroundings or Surroundings())

    @property
    def is_random(self) -> bool:
        """Whether the transform draws random numbers."""
        return self.mirror or (self.random_crop and self.crop > 0)

    def colour(self, encoded: bool) -> Colour:
        """Return how to decode an image.

        Raises:
            DataError: for force_color with force_gray, if it is encoded.
        """
        if not encoded:
            if self.force_color or self.force_gray:
                _log.warning("force_color and force_gray are only for encoded images: this one is raw.")
            return "native"
        if self.force_color and self.force_gray:
            raise DataError("transform_param has force_color and force_gray: keep one of them.")
        return "color" if self.force_color else "gray" if self.force_gray else "native"

    def check(self, shape: tuple[int, ...], name: str) -> None:
        """Raise DataError where an image (C, H, W) is smaller than the crop, or the mean is not for it."""
        channels, height, width = shape
        shown = f"{name}: the image is {show(shape)},"
        if self.crop > min(height, width):
            raise DataError(f"{shown} smaller than crop_size {self.crop}. Resize the images or crop less.")
        if self.mean_image is not None and self.mean_image.shape != shape:
            mean = show(self.mean_image.shape)
            raise DataError(f"{shown} the mean_file {mean}. Make the mean of the same images, or use mean_value.")
        if self.mean_values is not None and len(self.mean_values) not in (1, channels):
            times = len(self.mean_values)
            raise DataError(f"{shown} but mean_value is given {times} times. Give it once, or once a channel.")

    def __call__(self, image: npt.NDArray[Any], random: np.random.Generator, name: str = "image") -> Float32:
        """Shapes: (C, H, W) of numbers -> (C, crop or H, crop or W), float32.

        Raises:
            DataError: as `check`.
        """
        self.check(image.shape, name)
        return self.at(self.draw(image.shape, random), image)

    def draw(self, shape: tuple[int, ...], random: np.random.Generator) -> Window:
        """Draw the window of an image of this shape, (C, H, W), that passes `check`."""
        size, crop = (shape[1], shape[2]), (self.crop, self.crop)
        return draw_window(size, crop, random, is_random=self.random_crop, mirror=self.mirror)

    def at(self, window: Window, image: npt.NDArray[Any]) -> Float32:
        """Return (x - mean) * scale in a window of an image that passes `check`."""
        mean = self.mean_values if self.mean_image is None else window.cut(self.mean_image)
        result: Float32 = window.cut(image).astype(np.float32)
        with np.errstate(all="ignore"):  # an absurd mean or scale gives infinite pixels, as in Caffe
            if mean is not None:
                result -= mean
            if self.scale != 1:
                result *= self.scale
        return window.mirror(result)
