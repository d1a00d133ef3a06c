"""The forms that weights come in, and which one a file is: by its first bytes, as in Caffe, else by its ending."""

from __future__ import annotations

import importlib
import os
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

from fcn_caffe.errors import WeightsError
from fcn_caffe.weights.formats.arrays import ABSENT, LEGACY_TORCH_MAGIC, Array, PathLike, Weights, as_float32, reading

__all__ = ["ABSENT", "FORMATS", "Array", "Format", "Weights", "as_float32", "format_of", "format_to_write"]


@dataclass(frozen=True)
class Format:
    """One form of weight files: its name, the endings it goes by, the module that has it, imported when it is used."""

    name: str
    endings: tuple[str, ...]
    module: str
    kind: str = "weights"

    def read(self, path: PathLike) -> Weights:
        """Return the arrays of a file of this form. Raises: WeightsError."""
        found: Weights = getattr(self._module(), f"read_{self.kind}")(path)
        return found

    def write(
        self, path: PathLike, weights: Mapping[str, list[Array]], net_name: str, types: Mapping[str, str]
    ) -> None:
        """Write a file of this form, whole or not at all. Raises: OSError, WeightsError."""
        getattr(self._module(), f"write_{self.kind}")(path, weights, net_name, types)

    def names(self, path: PathLike) -> tuple[str, dict[str, str]]:
        """Return the net's name and its layers' types, as far as a file of this form keeps them.

        Raises: WeightsError.
        """
        function = getattr(self._module(), f"read_{self.kind}_names", None)
        found: tuple[str, dict[str, str]] = function(path) if function else ("", {})
        return found

    def _module(self) -> object:
        return importlib.import_module(f"{__name__}.{self.module}")


CAFFEMODEL = Format("caffemodel", (".caffemodel",), "caffemodel")
HDF5 = Format("HDF5", (".caffemodel.h5", ".h5", ".hdf5"), "hdf5")
SAFETENSORS = Format("safetensors", (".safetensors",), "tensors", "safetensors")
TORCH = Format("torch", (".pth", ".pt"), "tensors", "pth")
NPZ = Format("npz", (".npz",), "npz")
FORMATS = (HDF5, CAFFEMODEL, SAFETENSORS, TORCH, NPZ)  # longer endings first: .caffemodel.h5 is no .caffemodel

_TEXT = (".prototxt", ".pbtxt")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"


def format_of(path: PathLike) -> Format:
    """Return the form of a weight file: what its bytes say, else what its ending says, else a .caffemodel.

    Raises: WeightsError for a file that cannot be read, and for prototxt files.
    """
    name = os.fspath(path)
    if name.lower().endswith(_TEXT):
        raise WeightsError(
            f"{name}: is a net or a solver in text, not weights. Give a file of weights: {_endings()}; "
            "a net goes where a net is asked for."
        )
    with reading(path, "weights"):
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            head = file.read(len(LEGACY_TORCH_MAGIC))
    if head.startswith(_HDF5_MAGIC):
        return HDF5
    if head.startswith(LEGACY_TORCH_MAGIC):
        return TORCH
    if head.startswith(_ZIP_MAGIC):
        return _zipped(path)
    if head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= size - 8:
        return SAFETENSORS
    return _by_ending(name) or CAFFEMODEL


def format_to_write(path: PathLike) -> Format:
    """Return the form that the ending of a path asks for. Raises: WeightsError for an ending of none."""
    found = _by_ending(os.fspath(path))
    if found is None:
        raise WeightsError(f"{os.fspath(path)}: the ending names no weight format. Known: {_endings()}.")
    return found


def _zipped(path: PathLike) -> Format:
    """A zip file is torch's if it holds a pickle, else NumPy's, whatever its ending."""
    with reading(path, "a zip file"), zipfile.ZipFile(path) as archive:
        return TORCH if any(name.endswith("data.pkl") for name in archive.namelist()) else NPZ


def _by_ending(name: str) -> Format | None:
    lower = name.lower()
    return next((form for form in FORMATS if lower.endswith(form.endings)), None)


def _endings() -> str:
    return ", ".join(form.endings[0] for form in FORMATS)
