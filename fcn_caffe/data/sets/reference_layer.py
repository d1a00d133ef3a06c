"""The base of the reference nets' data layers: find a data set's files, read its MATLAB labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.readers.image_files import opened_image, read_image, read_split
from fcn_caffe.data.readers.mat_files import read_variables
from fcn_caffe.data.sets.one_image_layer import OneImageLayer
from fcn_caffe.data.sets.options import read_mean
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import DATA_ROOT_VARIABLE
from fcn_caffe.host.program import tool_call
from fcn_caffe.host.text import show

__all__ = ["COMMON", "ReferenceLayer", "as_label", "load_bgr", "load_channels", "read_mat", "stored_size"]


def read_mat(path: Path, *keys: str) -> npt.NDArray[Any]:
    """Read one array from a MATLAB file: variable `keys[0]`, then fields of a 1x1 struct.

    Shape: (H, W).

    Raises:
        DataError: for a file that cannot be read, or has no such key; it names what the file holds.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such label file. Put it there, or take the name out of the split.")
    value: Any = read_variables(path)
    for depth, key in enumerate(keys):
        known = list(value.dtype.names or ()) if depth else list(value)
        if key not in known:
            raise DataError(
                f"{path}: has no {'.'.join(keys)}; found {', '.join(known) or 'nothing'}. Is it another file?"
            )
        value = value[key]
        if depth and value.dtype == object and value.size == 1:
            value = value.item()
        elif depth + 1 < len(keys) and value.size == 1 and value.dtype.names:
            value = value.reshape(-1)[0]
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: {'.'.join(keys)} is {array.dtype} of shape {show(array.shape)}, expected labels (H, W)."
        )
    return array


class ReferenceLayer(OneImageLayer):
    """Base of the reference nets' data layers: a data set's folder, a split, a mean.

    Each has the reference's methods and attributes, so that its scripts and subclasses keep working:
    load_image(idx) -> (C, H, W) float32 and load_label(idx) -> (1, H, W) uint8, of a name of `indices`; `mean` in
    the order of the channels; the folder under its option's name.
    """

    folder_option: ClassVar[str] = ""
    origin: ClassVar[str] = ""
    data_set: ClassVar[str] = ""  # what tools/get_data.py calls it
    mean: npt.NDArray[Any]

    def folder(self, option: str | None = None) -> str:
        """Return the data set's folder.

        Raises:
            DataError: where it is missing; it says where to get the data set.
        """
        option = option or self.folder_option
        folder = self.options[option]
        place = self.surroundings.paths.find_data(folder)
        if not place.is_dir():
            raise DataError(
                f"{self.who}: the data set folder {option}={folder!r} is not there (looked at {place.absolute()}"
                f"{' and under $' + DATA_ROOT_VARIABLE}). Get it: {self.origin}; "
                f"`{tool_call('get_data')} {self.data_set}` then prepares it."
            )
        return str(place)

    def split_names(self, path: Path) -> list[str]:
        """Return the names in a split file; a second column, as in VOC's lists of a class, is left out."""
        if not path.is_file():
            beside = sorted(file.stem for file in path.parent.glob("*.txt")) if path.parent.is_dir() else []
            raise DataError(
                f"{self.who}: split {self.options['split']!r} has no file {path}. "
                f"Splits there: {', '.join(beside) or 'none'}. Get it: {self.origin}."
            )
        return [line.split()[0] for line in read_split(path)]

    def mean_option(self, default: Sequence[float] | npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Return the mean of param_str, in double precision, or the data set's own."""
        mean = self.options.get("mean")
        return np.array(default if mean is None else read_mean(mean, self.who))


def stored_size(path: Path) -> tuple[int, int]:
    """Return height and width of a photograph as it is stored, from the file's head.

    Raises:
        DataError: naming the file.
    """
    with opened_image(path) as image:
        return image.height, image.width


def load_bgr(path: Path, mean: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Read a photograph as (3, H, W) BGR minus mean.

    Raises:
        DataError: naming the file.
    """
    return load_channels(path, mean, reverse=True)


def load_channels(path: Path, mean: npt.NDArray[Any], *, reverse: bool = False) -> npt.NDArray[np.float32]:
    """Read an image as (3, H, W) minus mean, rounded once to float32.

    The channels are in the file's order, or with `reverse` the last is first. A mean in double precision is subtracted
    in double precision, as NumPy does it in the reference layers.
    """
    stored = read_image(path, apply_orientation=False)
    blob = np.empty((3, *stored.shape[:2]), np.float32)
    for channel in range(3):
        pixels = stored[:, :, 2 - channel if reverse else channel].astype(np.float32)
        np.subtract(pixels, mean[channel : channel + 1], out=blob[channel], casting="same_kind")
    return blob


def as_label(label: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Turn checked labels (H, W) into the reference's form, (1, H, W) uint8."""
    return np.ascontiguousarray(label, dtype=np.uint8)[None]


# The options that the reference layers share; a mean of None is the data set's own.
COMMON: Mapping[str, Any] = {"mean": None}
