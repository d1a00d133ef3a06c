"""Read photographs and label images of the formats that Pillow knows, and make blobs of them.

Errors name the file and the cure, because a data set of thousands of files fails on one of them.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from fcn_caffe.data.readers.text_file import read_lines
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import refuse_endless
from fcn_caffe.host.unfolding import MOST_TIMES

__all__ = [
    "DAMAGE",
    "IMAGE_SUFFIXES",
    "LARGE",
    "READING",
    "VGG_MEAN",
    "FolderIndex",
    "identify",
    "image_blob",
    "image_size",
    "label_blob",
    "open_image",
    "opened_image",
    "photograph",
    "read_image",
    "read_index_image",
    "read_split",
    "refuse_unfolding",
    "upright",
]

VGG_MEAN = (104.00699, 116.66877, 122.67892)  # BGR; what the VGG-16 classifier was trained with

# The first suffix wins where a folder has several files of one name: photographs are JPEG rather than PNG.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".gif")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".webp")

# What Pillow raises for files that are cut off or not what they say; each of its decoders fails in its own ways.
DAMAGE = (
    *(
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ),
    *(AssertionError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
)

LARGE = 1 << 22  # pixels: from here on it is asked whether memory does
READING = 7  # bytes a pixel: four in Pillow, three in the array

_ROWS = 256  # of a large image that are copied at once
_DRAWN_BY_PROGRAMS = ("EPS",)  # Pillow runs Ghostscript, which runs what the file says
_HOLDING_OTHERS = ("BLP", "CUR", "ICNS", "IPTC")  # whose own sizes are met when it is too late
_ICO = b"\0\0\1\0"  # what an ICO begins with, which holds others and is unpacked as soon as it is opened
_MOST_SCANS = 500  # of a progressive JPEG, each of which costs a pass over all pixels, however few bytes it has
_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # tags of a TIFF

# What any picture may take while it is read. Pillow has a pixel in 1, 2 or 4 bytes, and three of it while it makes an
# array; a photograph has its three colours twice more meanwhile.
_FREE_BYTES = 1 << 27
_COPIES, _COLOUR_BYTES = 3, 10
_FAR_PACKED = ("AVIF", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "TIFF", "WEBP")
_OTHER_TIMES = 256  # runs of TGA, PCX, SGI and QOI pack less

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Integers = npt.NDArray[np.integer[Any]]


def identify(file: IO[bytes], *, in_colours: bool = False) -> Image.Image:
    """Open an image by its first bytes, as `Image.open` does; nothing is decoded yet.

    Args:
        file: The image.
        in_colours: Whether it will be read in colours, whatever it has.

    Raises:
        UnidentifiedImageError: it is no image, or of a kind that another program would have to draw, as EPS is, or
            that holds images of other formats, as ICO does.
        ValueError: it declares far more pixels than a file of its size holds, so that it would only fill the memory;
            or it has scans or strips without end.
    """
    is_ico = file.read(len(_ICO)) == _ICO
    file.seek(0)
    if is_ico:
        raise UnidentifiedImageError("ICO holds other images")
    image = Image.open(file)
    if image.format in (*_DRAWN_BY_PROGRAMS, *_HOLDING_OTHERS):
        raise UnidentifiedImageError(f"{image.format} is a program that draws, or holds other images")
    if image.info.get("progressive") and _count_scans(file) > _MOST_SCANS:
        raise ValueError(f"has more than {_MOST_SCANS} scans")
    refuse_unfolding(image, file.seek(0, os.SEEK_END), in_colours=in_colours)
    return image


def _count_scans(file: IO[bytes]) -> int:
    """Return how many scans a JPEG file has; the file is left where it was."""
    place, count = file.tell(), 0
    file.seek(0)
    while chunk := file.read(1 << 20):
        count += chunk.count(b"\xff\xda")
    file.seek(place)
    return count


def refuse_unfolding(image: Image.Image, size: int, *, in_colours: bool = True) -> None:
    """Refuse an open image that declares far more than its file's `size` bytes can hold, see `identify`.

    The tiles of a TIFF count, too, which are read whole, however few of their pixels belong to the image.

    Raises:
        ValueError: it does, or is cut into more parts than it has pixels for.
    """
    deep = 4 if image.mode in ("I", "F") else 2 if image.mode.startswith("I;") else 1
    bands, pixels = len(image.getbands()), image.width * image.height
    tile = 0
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        sides: list[Any] = [image.tag_v2.get(tag) for tag in (_TILE_WIDTH, _TILE_HEIGHT)]
        tile = prod(sides) if all(isinstance(side, int) for side in sides) else 0  # in a damaged file it may be a list
        if len(image.tile) > bands * (image.height + pixels // 64):  # a tile has 256 pixels or more, a strip a row
            raise ValueError(f"has {len(image.tile):,} strips or tiles for {image.width}x{image.height} pixels")
    stored = deep if bands == 1 else 4
    taken = max(pixels, tile) * (stored + _COLOUR_BYTES if in_colours else stored * _COPIES)
    times = MOST_TIMES if image.format in _FAR_PACKED and tile <= pixels else _OTHER_TIMES
    pixels = max(pixels, tile)
    if taken > _FREE_BYTES and pixels * bands * deep > times * size:
        raise ValueError(f"declares {image.width}x{image.height} pixels in a file of {size:,} bytes")


@contextmanager
def opened_image(path: str | os.PathLike[str], *, in_colours: bool = False) -> Iterator[Image.Image]:
    """Open an image for the block, see `identify`; raise DataError, naming the file, for what goes wrong in it."""
    try:
        refuse_endless(path)
        with open(path, "rb") as file:
            yield identify(file, in_colours=in_colours)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Correct the path.") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not an image Pillow can read. Convert it, or take it out of the list.") from error
    except DAMAGE as error:
        raise DataError(f"{path}: cannot be read ({error}). The file looks damaged: copy it again.") from error


def open_image(path: str | os.PathLike[str], *, in_colours: bool = False) -> Image.Image:
    """Open and decode an image, see `identify`.

    Raises:
        DataError: for a file that is missing, is not an image, or ends early.
    """
    with opened_image(path, in_colours=in_colours) as image:
        _refuse_larger_than_memory(image, path)
        image.load()
    return image


def _refuse_larger_than_memory(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Raise DataError for an image that takes more than is free; small ones are not asked about."""
    pixels = image.width * image.height
    if pixels < LARGE:
        return
    from fcn_caffe.host.free_memory import most_free, show_bytes  # it imports torch

    free = most_free()
    if free is not None and READING * pixels > free:
        raise DataError(
            f"{path}: its {image.width}x{image.height} pixels take about {show_bytes(READING * pixels)} to read, "
            f"{show_bytes(free)} are free. Use a smaller image, or free memory."
        )


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the height and width that `read_image` would give, from the file's head where it is there.

    Raises:
        DataError: as `open_image`.
    """
    with opened_image(path) as image:
        width, height = image.size
        # Pillow decodes a PNG to look behind its pixels, too.
        has_exif = image.format != "PNG" or "exif" in image.info or _ends_with_notes(path)
        is_turned = has_exif and image.getexif().get(ExifTags.Base.Orientation) in range(5, 9)
    return (width, height) if is_turned else (height, width)


def _ends_with_notes(path: str | os.PathLike[str]) -> bool:
    """Whether a PNG file has something else than its end behind its pixels; false where it is cut off."""
    with open(path, "rb") as file:
        file.seek(8)
        seen = b""
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if seen == b"IDAT" and kind not in (b"IDAT", b"IEND"):
                return True
            seen = kind
            file.seek(length + 4, os.SEEK_CUR)
    return False


def read_image(path: str | os.PathLike[str], *, apply_orientation: bool = True) -> UInt8:
    """Read a photograph as RGB.

    Shapes: (H, W, 3), uint8; grey and palette images become three channels, alpha is dropped, 16 bits become 8. The
    EXIF orientation is applied unless told otherwise: people label what their viewer shows, and viewers apply it. The
    reference's own data layers do not, so ours of the same names do not either.

    Raises:
        DataError: naming the file.
    """
    with opened_image(path, in_colours=True) as image:
        _refuse_larger_than_memory(image, path)
        return photograph(image, path, apply_orientation=apply_orientation)


def photograph(image: Image.Image, path: str | os.PathLike[str], *, apply_orientation: bool = True) -> UInt8:
    """Turn an open image into RGB, see `read_image`; `path` is named in errors.

    Raises:
        DataError: the pixels are floating-point numbers.
    """
    if apply_orientation:
        image = upright(image)
    image.load()
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        grey = (deep >> 8 if deep.max(initial=0) > 255 else deep).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise DataError(f"{path}: holds floating-point pixels. Convert it to 8-bit RGB.")
    return _in_colours(image)


def _in_colours(image: Image.Image) -> UInt8:
    """Return an image's pixels in RGB; of a large one in parts, as Pillow would hold them up to twice on the way."""
    if image.width * image.height < LARGE:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS):
        part = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        pixels[top : top + _ROWS] = np.asarray(part if part.mode == "RGB" else part.convert("RGB"))
    return pixels


def upright(image: Image.Image) -> Image.Image:
    """Return an image as its EXIF orientation says that it is shown; the same one where it says nothing."""
    image.load()
    turned = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    # Pillow returns None only with in_place=True, and a copy where it turns nothing.
    return ImageOps.exif_transpose(image) if turned else image


def read_index_image(path: str | os.PathLike[str], *, colours: bool = False, mapped: bool = False) -> Integers:
    """Read a label image without changing its numbers.

    Shapes: (H, W) of class indices for palette, grey (8 or 16 bits) and 1-bit images; (H, W, 3) uint8 for RGB, which is
    colour-coded and needs a mapping.

    Args:
        path: The file.
        colours: Whether palette images come as their colours too.
        mapped: Whether the numbers become others, which take as much memory as colours.

    Raises:
        DataError: naming the file.
    """
    with opened_image(path, in_colours=colours or mapped) as image:
        _refuse_larger_than_memory(image, path)
        image.load()
        if image.mode in ("RGBA", "CMYK", "YCbCr", "HSV", "LAB") or (colours and image.mode in ("P", "PA")):
            array: Integers = _in_colours(image)
        elif image.mode in ("LA", "PA"):
            array = np.asarray(image.getchannel(0) if image.mode == "LA" else image.convert("P"))
        else:
            array = np.asarray(image)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise DataError(f"{path}: labels hold floating-point pixels. Save them as 8-bit PNG of class indices.")
    return array


def image_blob(rgb: UInt8, mean: Sequence[float]) -> Float32:
    """Turn an RGB image into the nets' input: BGR minus `mean` (BGR), not scaled.

    Shapes: (H, W, 3) uint8 -> (1, 3, H, W) float32, C-contiguous.
    Source: reference-nets, input conventions.
    """
    blob = np.empty((1, 3, *rgb.shape[:2]), dtype=np.float32)
    for channel in range(3):
        np.subtract(rgb[:, :, 2 - channel], np.float32(mean[channel]), out=blob[0, channel])
    return blob


def label_blob(label: npt.NDArray[np.generic]) -> Float32:
    """Turn a label image into a blob.

    Shapes: (H, W) of integers -> (1, 1, H, W) float32.
    """
    return np.ascontiguousarray(label, dtype=np.float32)[None, None]


def read_split(path: str | os.PathLike[str]) -> list[str]:
    """Read the names in a split file, one on each line; blank lines do not count.

    Raises:
        DataError: when the file is missing or lists nothing.
    """
    try:
        lines = read_lines(path, "split file")
    except DataError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise DataError(f"{path}: no such split file. It should have one image name on each line.") from error.__cause__
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path}: the split is empty. It should have one image name on each line.")
    return names


class FolderIndex:
    """The files of a folder and its subfolders, by name without suffix.

    Raises:
        DataError: where the folder is missing.
    """

    def __init__(self, folder: str | os.PathLike[str], suffixes: Iterable[str] = IMAGE_SUFFIXES, what: str = "image"):
        self.folder = Path(folder)
        self.what = what
        self.suffixes = tuple(suffixes)
        if not self.folder.is_dir():
            raise DataError(f"{folder}: no such folder of {what}s (looked from {os.getcwd()}). Correct the path.")
        rank = {suffix: place for place, suffix in enumerate(self.suffixes)}
        self.files: dict[str, Path] = {}
        for directory, subfolders, files in os.walk(self.folder, followlinks=True):
            subfolders.sort()
            for file in sorted(files):
                path = Path(directory, file)
                suffix = path.suffix.lower()
                if suffix not in rank or file.startswith("."):
                    continue
                name = path.relative_to(self.folder).with_suffix("").as_posix()
                known = self.files.get(name)
                if known is None or rank[suffix] < rank[known.suffix.lower()]:
                    self.files[name] = path

    def path(self, name: str) -> Path:
        """Return the file of a name, which may have its suffix.

        Raises:
            DataError: where there is none.
        """
        path = self.files.get(name)
        if path is None and Path(name).suffix.lower() in self.suffixes:
            exact = self.folder / name
            path = exact if os.path.isfile(exact) else self.files.get(str(Path(name).with_suffix("").as_posix()))
        if path is None:
            raise DataError(
                f"{self.folder / name}: no {self.what} of that name (tried {', '.join(self.suffixes)}; the folder has "
                f"{len(self.files)} {self.what}s). Take the name out of the split or add the file."
            )
        return path
