"""What the data layers of the reference nets share: finding a data set's files and reading its MATLAB labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.io  # type: ignore[import-untyped]

from fcn_caffe.data.image_files import read_image, read_split
from fcn_caffe.data.image_layer import OneImageLayer
from fcn_caffe.data.options import DATA_ROOT_VARIABLE, find_place, read_mean
from fcn_caffe.errors import DataError

__all__ = ["ReferenceLayer", "read_mat"]


def read_mat(path: Path, *keys: str) -> npt.NDArray[Any]:
    """Read one array from a MATLAB file: variable `keys[0]`, then fields of a 1x1 struct. Shape: (H, W).

    Raises: DataError naming the file, and what it holds when the key is not there.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such label file.")
    try:
        value: Any = scipy.io.loadmat(path)
    except NotImplementedError as error:
        raise DataError(f"{path}: is a MATLAB 7.3 file. Save it with -v7.") from error
    except Exception as error:  # scipy raises a dozen kinds for damaged files
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error}). Copy it again.") from error
    for depth, key in enumerate(keys):
        known = [name for name in value if not name.startswith("__")] if depth == 0 else list(value.dtype.names or ())
        if key not in known:
            raise DataError(f"{path}: has no {'.'.join(keys)}; found {', '.join(known) or 'nothing'}.")
        value = value[key]
        if depth and value.dtype == object and value.size == 1:
            value = value.item()
        elif depth + 1 < len(keys) and value.size == 1 and value.dtype.names:
            value = value.reshape(-1)[0]
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise DataError(f"{path}: {'.'.join(keys)} is {array.dtype} of shape {array.shape}, expected labels (H, W).")
    return array


class ReferenceLayer(OneImageLayer):
    """Base of the reference nets' data layers: a data set folder with a fixed inside, a split, a fixed mean.

    `folder_option` is the name its param_str has for the folder; `origin` says where the data set comes from.
    Unlike FolderSegData, EXIF orientation is not applied and every split is taken as the data set has it.
    """

    folder_option: ClassVar[str] = ""
    origin: ClassVar[str] = ""

    def folder(self, option: str | None = None) -> Path:
        """The data set's folder. Raises: DataError that says where it looked and how to get the data set."""
        option = option or self.folder_option
        given = self.options[option]
        place = find_place(given)
        if not place.is_dir():
            raise DataError(
                f"{self.who}: the data set folder {option}={given!r} is not there (looked at {place.absolute()}"
                f"{' and under $' + DATA_ROOT_VARIABLE}). Get it: {self.origin}."
            )
        return place

    def split_names(self, path: Path) -> list[str]:
        """Names listed by a split file of the data set."""
        if not path.is_file():
            beside = sorted(file.stem for file in path.parent.glob("*.txt")) if path.parent.is_dir() else []
            raise DataError(
                f"{self.who}: split {self.options['split']!r} has no file {path}. "
                f"Splits there: {', '.join(beside) or 'none'}. Get it: {self.origin}."
            )
        return read_split(path)

    def image(self, path: Path) -> npt.NDArray[np.uint8]:
        """A photograph of the data set as RGB (H, W, 3)."""
        return read_image(path, apply_orientation=False)

    def mean_option(self, default: Sequence[float]) -> tuple[float, ...]:
        """The mean of param_str, or the data set's."""
        mean = self.options.get("mean")
        return read_mean(default if mean is None else mean, self.who)


# What the reference layers call their options; None for a mean is the data set's own.
COMMON: Mapping[str, Any] = {"mean": None}
