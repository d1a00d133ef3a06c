"""What layers of forks have in common that read a picture and a label picture for each sample of a list."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.layers.listed import ListOptions, ListSource
from fcn_caffe.data.layers.prefetched import PrefetchedLayer
from fcn_caffe.data.prefetch import Sample
from fcn_caffe.data.readers.opencv_images import Colour, read_image_bgr
from fcn_caffe.data.transformer import Transformer, Window
from fcn_caffe.errors import DataError
from fcn_caffe.host.text import show
from fcn_caffe.proto import caffe_pb2

__all__ = ["LabelPictureSource", "check_label_size", "cut", "without_window"]

UInt8 = npt.NDArray[np.uint8]


class LabelPictureSource(ListSource):
    """Makes samples of a picture and its label picture.

    Args:
        layer: The layer that reads the list; its options say how.
        options: Those of its options that are about the list.
        lines: The list: the words of each line with its place.
        transformer: What turns bytes of the picture into numbers.
        seed: What all random numbers come from.
        may_vary: Whether batches may differ in size; else all pictures have the first one's.
    """

    def __init__(
        self,
        layer: PrefetchedLayer,
        options: ListOptions,
        lines: list[tuple[str, list[str]]],
        transformer: Transformer,
        seed: int,
        *,
        may_vary: bool,
    ) -> None:
        super().__init__(len(lines), options, seed)
        self.lines, self.transformer, self.surroundings = lines, transformer, layer.surroundings
        self.may_vary = may_vary
        self._shape: tuple[int, ...] = ()

    @abstractmethod
    def parts(self, words: list[str], random: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        """Make the tops' parts of one line, the picture first."""

    def sample(self, index: int, random: np.random.Generator) -> tuple[Sample, str]:
        """Make the sample of a line; an error names the list and the line."""
        place, words = self.lines[index]
        try:
            parts = self.parts(words, random)
        except DataError as error:
            raise error.named(place) from error.__cause__
        name, shape = f"{place}: {words[0]}", parts[0].shape
        if self._shape and shape != self._shape:
            raise DataError(
                f"{name}: the picture is {show(shape)}, the first one of the list {show(self._shape)}, which all of "
                "them must have here. Give new_height and new_width, or crop."
            )
        return parts, name

    def first_shapes(self) -> list[tuple[int, ...]]:
        """Make the first sample, and return the shapes of the tops by it."""
        shapes = super().first_shapes()
        self._shape = () if self.may_vary else shapes[0][1:]
        return shapes

    def read(self, name: str, colour: Colour) -> UInt8:
        """Read a picture: (H, W, 3) BGR, or (H, W, 1) grey."""
        return read_image_bgr(self.surroundings.locate(self.root + name), colour)


def cut(picture: UInt8, label: UInt8, window: Window) -> tuple[UInt8, UInt8]:
    """Cut the same window out of a picture and its label, and mirror both or neither. Both are (C, H, W)."""
    return window.mirror(window.cut(picture)), window.mirror(window.cut(label))


def check_label_size(picture: UInt8, label: UInt8, words: list[str], factor: int = 1) -> None:
    """Raise DataError where a label is not of its picture's size; a `factor` divides that. Both are (H, W, C)."""
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    if label.shape[:2] != (height, width):
        divided = f" and label_divide_factor {factor}" if factor > 1 else ""
        raise DataError(
            f"label {words[1]} is {show(label.shape[:2])}; picture {words[0]} is {show(picture.shape[:2])}{divided}, "
            f"so the label must be {height}x{width}. Make them of one size."
        )


def without_window(param: caffe_pb2.TransformationParameter) -> caffe_pb2.TransformationParameter:
    """Return the mean and the scale of a transform_param, without what crops and mirrors."""
    numbers = caffe_pb2.TransformationParameter()
    numbers.CopyFrom(param)
    for name in ("crop_size", "mirror", "scale_factors", "crop_height", "crop_width"):
        numbers.ClearField(name)
    return numbers
