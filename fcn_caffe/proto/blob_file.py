"""BlobProtos to and from arrays, and in binary files, as Caffe keeps mean images and infogain matrices."""

from __future__ import annotations

import os
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.paths import Surroundings
from fcn_caffe.host.text import show
from fcn_caffe.host.wrong_file import HEAD, wrong_file
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.kept import unknown_fields
from fcn_caffe.proto.wire import MOST_AXES, RAW_DATA, RAW_TYPE, RAW_TYPES

Float32 = npt.NDArray[np.float32]


def array_of_blob(blob: caffe_pb2.BlobProto, name: str | os.PathLike[str] = "<blob>") -> Float32:
    """Return the numbers of a BlobProto, in its shape or its old num x channels x height x width.

    Args:
        blob: The BlobProto.
        name: What errors call it.

    Raises:
        DataError: The shape does not take as many numbers as there are.
    """
    values = np.array(blob.double_data or blob.data, np.float32)
    if not values.size:
        values = _raw_values(blob, name)
    old = ("num", "channels", "height", "width")
    legacy = any(blob.HasField(axis) for axis in old)
    shape = tuple(getattr(blob, axis) for axis in old) if legacy else tuple(blob.shape.dim)
    if len(shape) > MOST_AXES:
        raise DataError(
            f"{os.fspath(name)}: the blob has {len(shape):,} axes, Caffe has {MOST_AXES} at most. Correct it."
        )
    if any(size < 0 for size in shape) or prod(shape) != values.size:
        raise DataError(
            f"{os.fspath(name)}: the blob's shape is {show(shape)}, but it holds {values.size} numbers. "
            "Write the file again."
        )
    try:
        return values.reshape(shape)
    except ValueError as error:  # an extent beyond memory beside a 0
        raise DataError(
            f"{os.fspath(name)}: the blob's shape is one no array can have ({error}). Write the file again."
        ) from error


def _raw_values(blob: caffe_pb2.BlobProto, name: str | os.PathLike[str]) -> Float32:
    """Return the numbers that NVIDIA's Caffe stores as bytes; none where there are none."""
    data, dtype = b"", None
    for field in unknown_fields(blob):
        if field.field_number == RAW_DATA and isinstance(field.data, bytes):
            data = field.data
        elif field.field_number == RAW_TYPE and isinstance(field.data, int):
            dtype = RAW_TYPES.get(field.data)
    if not data:
        return np.zeros(0, np.float32)
    if dtype is None or len(data) % np.dtype(dtype).itemsize:
        raise DataError(
            f"{os.fspath(name)}: the blob's raw data is not of doubles, floats or float16s. It is damaged. "
            "Copy it again."
        )
    return np.frombuffer(data, dtype).astype(np.float32)


def blob_of_array(array: npt.NDArray[Any], *, legacy: bool = False) -> caffe_pb2.BlobProto:
    """Return an array as a BlobProto.

    Args:
        array: The array.
        legacy: Whether its shape becomes num x channels x height x width, as in mean files from Caffe.

    Raises:
        DataError: `legacy`, with more than four axes.
    """
    blob = caffe_pb2.BlobProto()
    if legacy:
        if array.ndim > 4:
            raise DataError(f"num, channels, height and width are for at most 4 axes, this array has {array.ndim}.")
        blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - array.ndim) + array.shape
    else:
        blob.shape.dim.extend(array.shape)
    blob.data.extend(np.asarray(array, np.float32).ravel())
    return blob


def read_blob(path: str | os.PathLike[str], surroundings: Surroundings | None = None) -> Float32:
    """Read the array of a BlobProto file.

    Args:
        path: The file.
        surroundings: Those of the layer that names the file.

    Raises:
        DataError: The file is missing, no BlobProto, or its numbers do not fill its shape.
    """
    place = (surroundings or Surroundings()).find_source(os.fspath(path), "BlobProto file")
    try:
        data = place.read_bytes()
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error.strerror}). Give a file that can be read.") from error
    if problem := wrong_file(data[:HEAD]):
        raise DataError(f"{place}: {problem}")
    try:
        blob = caffe_pb2.BlobProto.FromString(data)
    except Exception as error:  # each protobuf runtime has its own DecodeError
        raise DataError(f"{place}: not a binary BlobProto ({error}). The file is damaged. Copy it again.") from error
    return array_of_blob(blob, place)


def write_blob(path: str | os.PathLike[str], array: npt.NDArray[Any], *, legacy: bool = True) -> None:
    """Write an array as a BlobProto file, whole or not at all.

    Args:
        path: The file.
        array: The array.
        legacy: See `blob_of_array`.

    Raises:
        DataError: The file cannot be written.
    """
    data = blob_of_array(array, legacy=legacy).SerializeToString()
    try:
        with atomic_write(path) as file:
            file.write(data)
    except OSError as error:
        raise DataError(
            f"{os.fspath(path)}: cannot be written ({error.strerror}). Make room, or give another place."
        ) from error
