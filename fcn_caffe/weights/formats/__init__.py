"""The formats of weight files. A file's first bytes say which it has, as in Caffe; otherwise its ending does.

>>> format_to_write("fcn8s.safetensors").name
'safetensors'
"""

from __future__ import annotations

import importlib
import os
import struct
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.paths import refuse_endless
from fcn_caffe.host.wrong_file import HEAD, wrong_file
from fcn_caffe.weights.formats.arrays import (
    ABSENT,
    LEGACY_TORCH_MAGIC,
    Array,
    Named,
    PathLike,
    Weights,
    as_float32,
    reading,
)

__all__ = [
    "ABSENT",
    "FORMATS",
    "ONNX",
    "PT2",
    "Array",
    "Format",
    "Named",
    "Weights",
    "as_float32",
    "format_of",
    "format_to_write",
]


@dataclass(frozen=True)
class Format:
    """A format of weight files: its name, its endings, and the module that reads and writes it, imported on use."""

    name: str
    endings: tuple[str, ...]
    module: str
    kind: str = "weights"

    def read(self, path: PathLike) -> Weights:
        """Read the arrays of a file.

        Raises:
            WeightsError: The file is not of this format, or corrupt; or it holds a whole net, of any names.
        """
        if self in PROGRAMS:
            raise WeightsError(
                f"{os.fspath(path)}: is a whole net ({self.name}), whose weights are fitted to a net of Caffe's first: "
                "run `fcn-caffe port_weights IN OUT.caffemodel --net NET`."
            )
        weights: Weights = getattr(self._module(), f"read_{self.kind}")(path)
        return weights

    @property
    def has_names(self) -> bool:
        """Whether its files hold tensors by names of any kind, which `read_named` reads."""
        return hasattr(self._module(), f"read_{self._prefix}named")

    def read_named(self, path: PathLike) -> Named:
        """Read the tensors of a file by the names that they have there.

        Raises:
            WeightsError: The file is not of this format, or corrupt.
        """
        named: Named = getattr(self._module(), f"read_{self._prefix}named")(path)
        return named

    def read_facts(self, path: PathLike) -> dict[str, str]:
        """Read what a file says of its net in words, as `fcn-caffe export` writes it; empty where it says nothing.

        Raises:
            WeightsError: The file is not of this format, or corrupt.
        """
        function = getattr(self._module(), f"read_{self._prefix}facts", None)
        facts: dict[str, str] = function(path) if function else {}
        return facts

    @property
    def _prefix(self) -> str:
        return "" if self.kind == "weights" else f"{self.kind}_"

    def write(
        self, path: PathLike, weights: Mapping[str, list[Array]], net_name: str, types: Mapping[str, str]
    ) -> None:
        """Write a file, whole or not at all.

        Raises:
            OSError: It cannot be written.
            WeightsError: The format cannot hold these weights.
        """
        getattr(self._module(), f"write_{self.kind}")(path, weights, net_name, types)

    def names(self, path: PathLike) -> tuple[str, dict[str, str]]:
        """Read the net's name and its layers' types, as far as a file of this format keeps them.

        Raises:
            WeightsError: The file is not of this format, or corrupt.
        """
        function = getattr(self._module(), f"read_{self.kind}_names", None)
        names: tuple[str, dict[str, str]] = function(path) if function else ("", {})
        return names

    def _module(self) -> object:
        return importlib.import_module(f"{__name__}.{self.module}")


CAFFEMODEL = Format("caffemodel", (".caffemodel",), "caffemodel")
HDF5 = Format("HDF5", (".caffemodel.h5", ".h5", ".hdf5"), "hdf5")
SAFETENSORS = Format("safetensors", (".safetensors",), "tensors", "safetensors")
TORCH = Format("torch", (".pth", ".pt"), "tensors", "pth")
NPZ = Format("npz", (".npz",), "npz")
FORMATS = (HDF5, CAFFEMODEL, SAFETENSORS, TORCH, NPZ)  # longer endings first: .caffemodel.h5 is no .caffemodel
ONNX = Format("ONNX", (".onnx",), "onnx_model")
PT2 = Format("torch.export", (".pt2",), "exported_program")
PROGRAMS = (ONNX, PT2)  # read, not written: they hold a whole net, which `fcn-caffe export` writes

_TEXT = (".prototxt", ".pbtxt")
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"


def format_of(path: PathLike) -> Format:
    """Return the format of a weight file: what its bytes say, else what its ending says, else .caffemodel.

    Raises:
        WeightsError: The file cannot be read, or is a prototxt, a Git LFS pointer, a web page or an archive.
    """
    name = os.fspath(path)
    if name.lower().endswith(_TEXT):
        raise WeightsError(
            f"{name}: is a net or a solver in text, not weights. Give a file of weights: {_endings()}; "
            "a net goes where a net is asked for."
        )
    with reading(path, "weights"):
        refuse_endless(path)
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            head = file.read(HEAD)
    if problem := wrong_file(head):
        raise WeightsError(f"{name}: {problem}")
    if head.startswith(_HDF5_MAGIC):
        return HDF5
    if head.startswith(LEGACY_TORCH_MAGIC):
        return TORCH
    if head.startswith(_ZIP_MAGIC):
        return _zipped(path)
    if head[:1] == b"\x08" and _is_onnx(head):
        return ONNX
    if head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= size - 8:
        return SAFETENSORS
    return _by_ending(name) or CAFFEMODEL


def format_to_write(path: PathLike) -> Format:
    """Return the format that the ending of a path asks for.

    Raises:
        WeightsError: No format has this ending.
    """
    name = os.fspath(path)
    form = _by_ending(name)
    if form is None or form in PROGRAMS:
        whole = " A whole net is written by `fcn-caffe export`." if form else ""
        raise WeightsError(f"{name}: the ending names no weight format. Known: {_endings()}.{whole}")
    return form


def _zipped(path: PathLike) -> Format:
    """A zip file is torch.export's or torch's if it holds what they write, else NumPy's, whatever its ending."""
    with reading(path, "a zip file"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.rpartition("/")[2] in ("archive_format", "serialized_exported_program.json") for name in names):
        return PT2
    return TORCH if any(name.endswith("data.pkl") for name in names) else NPZ


def _is_onnx(head: bytes) -> bool:
    """Whether a file begins as a ModelProto: fields 1 to 6, numbers and texts, then the graph, field 7.

    A NetParameter begins with a text; a SolverState begins alike, and has no field 7.
    """
    place = 0
    with suppress(IndexError):
        while (tag := head[place]) in (0x08, 0x12, 0x1A, 0x22, 0x28, 0x32):
            value, shift, place = 0, 0, place + 1
            while head[place] & 0x80:
                value, shift, place = value | (head[place] & 0x7F) << shift, shift + 7, place + 1
            value, place = value | head[place] << shift, place + 1
            place += value if tag & 7 == 2 else 0
        return tag in (0x3A, 0x42)  # or the operators' versions, field 8
    return False


def _by_ending(name: str) -> Format | None:
    lower = name.lower()
    return next((form for form in (*FORMATS, *PROGRAMS) if lower.endswith(form.endings)), None)


def _endings() -> str:
    return ", ".join(form.endings[0] for form in FORMATS)
