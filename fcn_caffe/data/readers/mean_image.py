"""Arrays in BlobProto files (.binaryproto): the mean images of compute_image_mean, infogain matrices."""

from __future__ import annotations

import os

from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import Surroundings
from fcn_caffe.host.text import show
from fcn_caffe.proto.blob_file import Float32, read_blob

__all__ = ["read_mean_image"]


def read_mean_image(path: str | os.PathLike[str], surroundings: Surroundings | None = None) -> Float32:
    """Read the mean image that compute_image_mean wrote.

    Shapes: (C, H, W), BGR as Caffe's images are.

    Raises:
        DataError: for a file that is no blob, or a blob that is not one image.
    """
    mean = read_blob(path, surroundings)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3 or not mean.size:
        raise DataError(
            f"{os.fspath(path)}: holds a blob of {show(mean.shape)}, expected one image, 1 x channels x "
            "height x width. compute_image_mean writes one."
        )
    return mean
