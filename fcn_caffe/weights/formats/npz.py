"""NumPy's .npz: an array LAYER/INDEX for each blob."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from io import BytesIO
from math import prod
from typing import IO, Any

import numpy as np

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.weights.formats.arrays import (
    Array,
    Budget,
    Named,
    PathLike,
    Weights,
    as_float32,
    blob_names,
    from_names,
    reading,
)

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_LONGEST_HEADER = 2**16


def read_weights(path: PathLike) -> Weights:
    """Read the arrays of a .npz, compressed or not, float32, in file order. Nothing in it is unpickled.

    Raises:
        WeightsError: The file is corrupt, holds something else, or declares more than three times its size.
    """
    return from_names(read_named(path).arrays, path, ordered=True)


def read_named(path: PathLike) -> Named:
    """Read the arrays by the names that they have in the file; raise as `read_weights`."""
    name = os.fspath(path)
    with reading(path, "npz"), zipfile.ZipFile(path) as archive:
        budget, named = Budget(path, os.stat(path).st_size), {}
        for member in archive.infolist():
            if not member.filename.endswith(".npy"):
                raise WeightsError(f"{name}: holds {member.filename!r}, wanted arrays LAYER/0.npy, LAYER/1.npy …")
            blob = member.filename[: -len(".npy")]
            if blob in named:
                raise WeightsError(f"{name}: holds {blob!r} twice. The file is corrupt. Copy it again.")
            # The directory's word for the size is what zipfile reads at most.
            budget.take(member.file_size, blob)
            with archive.open(member) as file:
                named[blob] = _read_array(file, member.file_size, f"{name}: {blob}")
        return Named(named)


def _read_array(file: IO[bytes], size: int, what: str) -> Array:
    """One .npy of `size` bytes, its values read straight into the array."""
    start = BytesIO(file.read(min(size, _LONGEST_HEADER)))
    read_header = _HEADERS.get(np.lib.format.read_magic(start))
    if read_header is None:
        raise WeightsError(f"{what} is of a version of .npy that arrays of numbers never need.")
    shape, fortran, dtype = read_header(start)
    if dtype.kind not in "fiu":
        raise WeightsError(f"{what} holds {dtype}, wanted float32 or what becomes it.")
    declared = prod(shape) * dtype.itemsize
    if any(extent < 0 for extent in shape) or declared != size - start.tell():
        raise WeightsError(
            f"{what} declares {declared:,} bytes of values and has {size - start.tell():,}. The file is corrupt. "
            "Copy it again."
        )
    values = bytearray(declared)
    view, taken = memoryview(values), start.readinto(values)
    while taken < declared and (count := file.readinto(view[taken:])):  # type: ignore[attr-defined]
        taken += count
    file.read(1)  # the end, where zipfile compares the checksum
    if taken < declared:
        raise WeightsError(f"{what} ends after {taken:,} of {declared:,} bytes. The file is truncated. Copy it again.")
    array = np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C")
    return as_float32(array, what)


def write_weights(
    path: PathLike, weights: Mapping[str, list[Array]], net_name: str = "", types: Mapping[str, str] | None = None
) -> None:
    """Write weights uncompressed; a .npz has no place for the net's name and types.

    Raises:
        OSError: The file cannot be written.
    """
    arrays: dict[str, Any] = {name: np.asarray(array, "<f4") for name, array in blob_names(weights)}
    with atomic_write(path) as file:
        np.savez(file, **arrays)
