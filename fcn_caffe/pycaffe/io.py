"""`caffe.io`: arrays in messages, images from files, and the Transformer that prepares an image for a net.

An image is (H, W, C), RGB, float32 of 0 to 1, as scikit-image reads it. A Transformer makes a net's (C, H, W) of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage  # type: ignore[import-untyped]

from fcn_caffe.data.readers.image_files import open_image
from fcn_caffe.errors import DataError
from fcn_caffe.host.text import show
from fcn_caffe.proto import caffe_pb2 as messages
from fcn_caffe.pycaffe.proto import caffe_pb2  # noqa: F401  # scripts use caffe.io.caffe_pb2

__all__ = [
    *("ImageError", "InputError", "Transformer", "array_to_blobproto", "array_to_datum"),
    *("arraylist_to_blobprotovector_str", "blobproto_to_array", "blobprotovector_str_to_arraylist", "caffe_pb2"),
    *("datum_to_array", "load_image", "oversample", "resize_image"),
]

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Sizes = Sequence[int] | Array

_GREY_OF_RGB = (0.2125, 0.7154, 0.0721)  # scikit-image's rgb2gray
_AXES = ("num", "channels", "height", "width")


class InputError(DataError, ValueError):
    """An array or an option of a Transformer does not fit."""


class ImageError(DataError, OSError):
    """An image file is missing or cannot be read."""

    __str__ = Exception.__str__


def blobproto_to_array(blob: messages.BlobProto, return_diff: bool = False) -> Array:
    """Return a BlobProto's numbers, or its diff, as float64 in its shape or its old num x channels x height x width.

    Raises:
        InputError: the numbers do not fill the shape.
    """
    values = np.array(blob.diff or blob.double_diff if return_diff else blob.data or blob.double_data, np.float64)
    old = any(blob.HasField(axis) for axis in _AXES)
    shape = tuple(getattr(blob, axis) for axis in _AXES) if old else tuple(blob.shape.dim)
    return _reshape(values, shape, "BlobProto")


def _reshape(values: Array, shape: tuple[int, ...], what: str) -> Array:
    try:
        return values.reshape(shape)
    except ValueError as error:
        raise InputError(f"the {what} says {show(shape)}, but holds {values.size} numbers.") from error


def array_to_blobproto(arr: Array, diff: Array | None = None) -> messages.BlobProto:
    """Make a BlobProto of an array of any number of axes, and of its diff."""
    blob = messages.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(arr.astype(float).ravel())
    if diff is not None:
        blob.diff.extend(diff.astype(float).ravel())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[Array]) -> bytes:
    """Serialize arrays as a BlobProtoVector."""
    return messages.BlobProtoVector(blobs=[array_to_blobproto(arr) for arr in arraylist]).SerializeToString()


def blobprotovector_str_to_arraylist(str: bytes) -> list[Array]:
    """Return the arrays of a serialized BlobProtoVector."""
    return [blobproto_to_array(blob) for blob in messages.BlobProtoVector.FromString(str).blobs]


def array_to_datum(arr: Array, label: int | None = None) -> messages.Datum:
    """Make a Datum of an array: its bytes if it is uint8, float_data otherwise.

    Shapes: (C, H, W).

    Raises:
        InputError: the array has not three axes.
    """
    if arr.ndim != 3:
        raise InputError(f"Incorrect array shape: a Datum holds channels x height x width, this has {arr.ndim} axes.")
    datum = messages.Datum(channels=arr.shape[0], height=arr.shape[1], width=arr.shape[2])
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).ravel())
    if label is not None:
        datum.label = int(label)
    return datum


def datum_to_array(datum: messages.Datum) -> Array:
    """Return a Datum's numbers: uint8 of its bytes, float64 of float_data. The label is `datum.label`.

    Shapes: (C, H, W).

    Raises:
        InputError: the numbers do not fill the shape, as those of a compressed image.
    """
    # A copy: frombuffer's array cannot be written to.
    values: Array = np.frombuffer(datum.data, np.uint8).copy() if datum.data else np.array(datum.float_data, float)
    return _reshape(values, (datum.channels, datum.height, datum.width), "Datum")


class Transformer:
    """Makes a net's inputs of images, and back: resize, transpose, swap channels, scale, subtract, scale.

    inputs: blob name -> its shape, as `{"data": net.blobs["data"].data.shape}`. Source: pycaffe's Transformer.

    Its methods raise InputError for a blob that is no input, and for an option that does not fit its shape.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, Array] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise InputError(f"{in_} is not one of the net inputs: {', '.join(self.inputs)}.")
        return tuple(self.inputs[in_])

    def preprocess(self, in_: str, data: Array) -> Float32:
        """Return an image as the net takes it, without the batch axis; `data` is not changed.

        Shapes: (H, W, C) -> (C, H, W) with the usual transpose, float32.
        """
        size = self._shape(in_)[2:]
        image: Float32 = data.astype(np.float32)
        if image.shape[:2] != size:
            image = resize_image(image, size)
        if in_ in self.transpose:
            image = image.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            image = image[list(self.channel_swap[in_]), :, :]
        if in_ in self.raw_scale:
            image *= self.raw_scale[in_]
        if in_ in self.mean:
            image -= self.mean[in_]
        if in_ in self.input_scale:
            image *= self.input_scale[in_]
        return image

    def deprocess(self, in_: str, data: Array) -> Array:
        """Undo `preprocess`, except the resize.

        Shapes: (1, C, H, W) or (C, H, W) -> (H, W, C) with the usual transpose.
        """
        self._shape(in_)
        image: Array = data.copy().squeeze()
        if in_ in self.input_scale:
            image /= self.input_scale[in_]
        if in_ in self.mean:
            image += self.mean[in_]
        if in_ in self.raw_scale:
            image /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            image = image[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            image = image.transpose(np.argsort(self.transpose[in_]))
        return image

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of an image's axes in the net: (2, 0, 1) makes C x H x W of H x W x C."""
        if len(order) != len(self._shape(in_)) - 1:
            raise InputError("Transpose order needs to have the same number of dimensions as the input.")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of an image's channels in the net: (2, 1, 0) makes BGR of RGB."""
        if len(order) != self._shape(in_)[1]:
            raise InputError("Channel swap needs to have the same number of dimensions as the input channels.")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Set the factor of pixels before the mean is subtracted: 255 for images of 0 to 1."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: Array) -> None:
        """Set the mean to subtract: a number for each channel, or an image, which is resized if need be.

        Shapes: (C,), (H, W) or (C, H, W), channels in the net's order.
        """
        shape = self._shape(in_)[1:]
        if mean.ndim == 1:
            if len(mean) != shape[0]:
                raise InputError(f"Mean channels incompatible with input: {len(mean)}, the net takes {shape[0]}.")
            mean = mean[:, np.newaxis, np.newaxis]
        elif mean.ndim not in (2, 3):
            raise InputError(f"Mean shape invalid: {show(mean.shape)}, wanted channels, or channels x height x width.")
        else:
            image = mean[np.newaxis] if mean.ndim == 2 else mean
            if image.shape[0] != shape[0]:
                raise InputError(
                    f"Mean shape incompatible with input shape: {show(mean.shape)}, the net takes {show(shape)}."
                )
            if image.shape != shape:
                mean = resize_image(image.transpose(1, 2, 0), shape[1:]).transpose(2, 0, 1)
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Set the factor of the input after the mean is subtracted."""
        self._shape(in_)
        self.input_scale[in_] = scale


def load_image(filename: str | os.PathLike[str], color: bool = True) -> Float32:
    """Read an image as numbers of 0 to 1; alpha is dropped, palettes become colours, EXIF is ignored.

    Shapes: (H, W, 3) RGB, grey repeated; (H, W, 1) luminance without `color`.

    Raises:
        ImageError: the file is missing or cannot be read.

    Source: scikit-image's imread and img_as_float, as pycaffe uses them.
    """
    try:
        image = open_image(filename)
    except DataError as error:
        raise ImageError(str(error)) from error
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f":
        if pixels.min(initial=0) < -1 or pixels.max(initial=0) > 1:
            raise ImageError(f"{os.fspath(filename)}: floating-point pixels must lie between -1 and 1.")
        numbers = pixels.astype(np.float64)
    else:
        numbers = pixels / (255.0 if pixels.dtype == np.uint8 else 65535.0)
    if numbers.ndim == 3 and not color:
        numbers = numbers @ np.array(_GREY_OF_RGB)
    image32: Float32 = numbers.astype(np.float32)
    if image32.ndim == 2:
        image32 = np.repeat(image32[:, :, np.newaxis], 3 if color else 1, axis=2)
    return image32


def resize_image(im: Array, new_dims: Sizes, interp_order: int = 1) -> Float32:
    """Resize an image; `interp_order` is the degree of the spline, 1 for bilinear.

    One and three channels are resized as by scikit-image: pixel centres on pixel centres, no smoothing before
    shrinking, and beyond the edge the image's minimum, which darkens the edges of an enlarged image. Other counts are
    resized as by scipy's zoom: corner on corner.

    Shapes: (H, W, C) -> (*new_dims, C), float32. Source: pycaffe's resize_image.
    """
    if np.ndim(im) != 3 or not np.size(im):
        what = show(np.shape(im)) if isinstance(im, np.ndarray) else type(im).__name__
        raise InputError(f"an image is an array of height x width x channels, not {what}. Give a list of such.")
    height, width = (int(size) for size in new_dims)
    if im.shape[-1] not in (1, 3):
        scale = tuple(np.array(new_dims, dtype=float) / np.array(im.shape[:2]))
        zoomed: Float32 = ndimage.zoom(im, (*scale, 1), order=interp_order).astype(np.float32)
        return zoomed
    if im.dtype.kind != "f":
        im = im.astype(float)
    low, high = im.min(), im.max()
    if not high > low:
        return np.full((height, width, im.shape[-1]), low, np.float32)
    normal = (im - low) / (high - low)
    resized = np.empty((height, width, im.shape[-1]))
    for channel in range(im.shape[-1]):
        resized[:, :, channel] = ndimage.zoom(
            normal[:, :, channel].astype(float),
            (height / im.shape[0], width / im.shape[1]),
            order=interp_order,
            mode="grid-constant",
            grid_mode=True,
        )
    # Splines overshoot; scikit-image cuts them to the image's range.
    image: Float32 = (resized.clip(0, 1) * (high - low) + low).astype(np.float32)
    return image


def oversample(images: Sequence[Array] | Array, crop_dims: Sizes) -> Float32:
    """Cut ten crops of each image: top left, top right, bottom left, bottom right, centre, and their mirrors.

    Shapes: N of (H, W, C), all of one size -> (10 N, *crop_dims, C), float32.
    """
    if not len(images) or np.ndim(images[0]) != 3:
        raise InputError("oversample takes a list of images, each an array of height x width x channels.")
    height, width, channels = images[0].shape
    rows, columns = (int(size) for size in crop_dims)
    if rows > height or columns > width:
        raise InputError(f"crops of {rows} x {columns} do not fit in images of {height} x {width}.")
    corners = [(top, left) for top in (0, height - rows) for left in (0, width - columns)]
    places = [*corners, ((height - rows) // 2, (width - columns) // 2)]
    crops = np.empty((10 * len(images), rows, columns, channels), np.float32)
    for number, image in enumerate(images):
        for place, (top, left) in enumerate(places, 10 * number):
            crops[place] = image[top : top + rows, left : left + columns]
            crops[place + 5] = crops[place, :, ::-1]
    return crops
