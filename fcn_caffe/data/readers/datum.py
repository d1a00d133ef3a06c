"""Datum messages, the records of Caffe's databases, to arrays and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.readers.opencv_images import Colour, decode_image
from fcn_caffe.errors import DataError
from fcn_caffe.host.text import show
from fcn_caffe.proto import caffe_pb2

__all__ = ["array_of_datum", "datum_of_encoded", "datum_of_image", "parse_datum"]


def parse_datum(data: bytes, name: str) -> caffe_pb2.Datum:
    """Parse a Datum.

    Raises:
        DataError: beginning with `name`, if the bytes are not a Datum.
    """
    try:
        return caffe_pb2.Datum.FromString(data)
    except Exception as error:  # each protobuf runtime has its own DecodeError
        raise DataError(f"{name}: not a Datum ({error}). Which program wrote the database? Write it again.") from error


def array_of_datum(datum: caffe_pb2.Datum, name: str, colour: Colour = "native") -> npt.NDArray[Any]:
    """Return the numbers of a Datum; `colour` says how to decode an encoded image.

    Shapes: (C, H, W), uint8 or float32, BGR as Caffe stores it.

    Raises:
        DataError: beginning with `name`, for an image that cannot be decoded, or numbers that do not fill the
            shape.
    """
    if datum.encoded:
        return np.moveaxis(decode_image(datum.data, name, colour), 2, 0)
    shape = datum.channels, datum.height, datum.width
    values: npt.NDArray[Any] = (
        np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    )
    if min(shape) < 1 or shape[0] * shape[1] * shape[2] != values.size:
        raise DataError(
            f"{name}: the Datum says {show(shape)}, but holds {values.size} numbers. Write the database again."
        )
    return values.reshape(shape)


def datum_of_image(image: npt.NDArray[np.uint8], label: int | None = None) -> caffe_pb2.Datum:
    """Make a raw Datum of an image in OpenCV's layout.

    Shapes: (H, W, C), uint8.
    Source: Caffe CVMatToDatum.
    """
    height, width, channels = image.shape
    data = np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width, data=data, encoded=False)
    if label is not None:
        datum.label = label
    return datum


def datum_of_encoded(data: bytes, shape: tuple[int, ...], label: int) -> caffe_pb2.Datum:
    """Make a Datum of a compressed image.

    Shapes: `shape` is (H, W, C).
    """
    height, width, channels = shape
    return caffe_pb2.Datum(channels=channels, height=height, width=width, data=data, label=label, encoded=True)
