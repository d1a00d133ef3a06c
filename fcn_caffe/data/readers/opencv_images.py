"""Images as Caffe reads them through OpenCV: BGR, without alpha, 16 bits cut to 8, grey by OpenCV's weights."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from fcn_caffe.data.readers.image_files import identify, upright
from fcn_caffe.data.readers.resize import resize
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import refuse_endless

__all__ = ["Colour", "decode_image", "encode_image", "image_format", "read_image_bgr"]

UInt8 = npt.NDArray[np.uint8]
Colour = Literal["color", "gray", "native"]  # OpenCV's IMREAD_COLOR, _GRAYSCALE and _UNCHANGED

# Weights of red, green and blue, the half that rounds, and the bits to shift. libpng converts PNG files, and does not
# round; OpenCV converts the others.
_PNG_GREY, _OTHER_GREY = (9797, 19234, 3737, 0, 15), (4899, 9617, 1868, 1 << 13, 14)
_PNG_DEPTH = 24  # the byte of a PNG file that holds the bits per sample


def read_image_bgr(path: str | os.PathLike[str], colour: Colour = "color", height: int = 0, width: int = 0) -> UInt8:
    """Read an image file as Caffe's ReadImageToCVMat does, resized where height and width are positive.

    Shapes: (H, W, 3) BGR, or (H, W, 1) grey.

    Raises:
        DataError: naming the file.
    """
    try:
        refuse_endless(path)
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{os.fspath(path)}: cannot be read ({error.strerror}). Correct the path, or make the file readable."
        ) from error
    image = decode_image(data, os.fspath(path), colour)
    return resize(image, height, width) if height > 0 and width > 0 else image


def decode_image(data: bytes, name: str, colour: Colour = "color") -> UInt8:
    """Decode a compressed image; `name` is for errors.

    Shapes: (H, W, 3) BGR; (H, W, 1) for "gray"; for "native" what the file has: grey, BGR, or BGR and alpha, and the
    EXIF orientation is left alone. A palette counts as colour.

    Raises:
        DataError: where Pillow cannot decode it; for floating-point and 32-bit pixels; "native" for 16-bit ones.
    """
    try:
        image = identify(io.BytesIO(data), in_colours=True)
        has_16_bits = image.format == "PNG" and data[_PNG_DEPTH] == 16
        return _decode(image, name, colour, has_16_bits)
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image Pillow can read. Convert it to PNG or JPEG.") from error
    except DataError:
        raise
    except Exception as error:  # each of Pillow's decoders fails in its own way
        raise DataError(f"{name}: cannot be decoded ({error}). The image looks damaged: copy it again.") from error


def _decode(image: Image.Image, name: str, colour: Colour, has_16_bits: bool) -> UInt8:
    from_png = image.format == "PNG"
    if colour == "gray" and image.format == "JPEG" and image.mode in ("RGB", "YCbCr"):
        image.draft("L", None)  # grey of a JPEG is the luma it stores, as in OpenCV
    image.load()
    if colour != "native":
        image = upright(image)
    deep = image.mode == "F" or image.mode.startswith("I")
    if colour == "native" and (deep or has_16_bits):
        raise DataError(f"{name}: holds more than 8 bits. Set force_color or force_gray, or convert it to 8 bits.")
    if deep:
        return _deep(image, name, colour)
    if colour == "native":
        return _native(image)
    if image.mode in ("1", "L", "LA"):
        grey = np.asarray(_in_mode(image, "L"))[:, :, None]
        return grey.copy() if colour == "gray" else np.repeat(grey, 3, axis=2)
    rgb = _rgb(image)
    return _grey(rgb, _PNG_GREY if from_png else _OTHER_GREY) if colour == "gray" else _bgr(rgb)


def encode_image(image: UInt8, suffix: str, name: str) -> bytes:
    """Compress a BGR or grey image as cv::imencode does: JPEG of quality 95, or the format of the suffix.

    Raises:
        DataError: for a suffix Pillow does not write.
    """
    format = image_format(suffix, name)
    pixels = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else np.ascontiguousarray(image[:, :, ::-1]))
    buffer = io.BytesIO()
    pixels.save(buffer, format, **({"quality": 95} if format == "JPEG" else {}))
    return buffer.getvalue()


def image_format(suffix: str, name: str) -> str:
    """Return Pillow's format for a suffix without its dot.

    Raises:
        DataError: beginning with `name`, if Pillow does not write it.
    """
    format = Image.registered_extensions().get(f".{suffix}", "")
    if format not in Image.SAVE:
        raise DataError(f"{name}: images cannot be encoded as {suffix!r}. Use png or jpg.")
    return format


def _bgr(rgb: UInt8) -> UInt8:
    return np.ascontiguousarray(rgb[:, :, ::-1])


def _rgb(image: Image.Image) -> UInt8:
    if image.mode != "CMYK":
        return np.asarray(_in_mode(image, "RGB"))
    inks = np.asarray(image)
    white = 255 - inks[:, :, 3]
    rgb = np.empty((*white.shape, 3), np.uint8)
    for channel in range(3):  # one by one, for they take twice their bytes
        rgb[:, :, channel] = white - (inks[:, :, channel] * white.astype(np.uint16) >> 8)
    return rgb


def _grey(rgb: UInt8, weights: tuple[int, int, int, int, int]) -> UInt8:
    *channels, half, bits = weights
    total = np.full(rgb.shape[:2], half, np.int32)
    for channel, weight in enumerate(channels):
        total += rgb[:, :, channel] * np.int32(weight)
    total >>= bits
    return total.astype(np.uint8)[:, :, None]


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image, but one that has the mode, of which Pillow makes a copy."""
    return image if image.mode == mode else image.convert(mode)


def _native(image: Image.Image) -> UInt8:
    if image.mode in ("1", "L"):
        return np.array(_in_mode(image, "L"))[:, :, None]
    if image.mode in ("LA", "RGBA", "PA") or (image.mode == "P" and "transparency" in image.info):
        return np.ascontiguousarray(np.asarray(image.convert("RGBA"))[:, :, [2, 1, 0, 3]])
    return _bgr(_rgb(image))


def _deep(image: Image.Image, name: str, colour: Colour) -> UInt8:
    """Convert a 16-bit grey image: the high byte counts."""
    deep = np.asarray(image)
    if deep.dtype.kind == "f" or deep.min(initial=0) < 0 or deep.max(initial=0) > 0xFFFF:
        raise DataError(f"{name}: holds {deep.dtype} pixels. Convert it to 8 bits.")
    grey: UInt8 = (deep >> 8).astype(np.uint8)[:, :, None]
    return grey if colour == "gray" else np.repeat(grey, 3, axis=2)
