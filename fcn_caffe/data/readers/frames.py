"""Read files of several pictures: the pages of TIFF files, the frames of GIF files and of films."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageSequence

from fcn_caffe.data.readers.image_files import UInt8, opened_image, photograph, refuse_unfolding
from fcn_caffe.errors import DataError
from fcn_caffe.host.films import import_av
from fcn_caffe.host.paths import ENDLESS, is_endless

__all__ = ["FILM_SUFFIXES", "Frame", "count_pages", "film_rate", "is_film", "read_film", "read_pages"]

FILM_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")

# What other formats hold besides the picture is a preview or a depth map, as a phone's JPEG files do.
_PAGED = ("GIF", "PNG", "TIFF", "WEBP")


@dataclass(frozen=True)
class Frame:
    """A picture of a film, RGB (H, W, 3), and when it is shown, in seconds; None where the film does not say."""

    rgb: UInt8
    time: Fraction | None


def count_pages(path: str | os.PathLike[str]) -> int:
    """Return how many pictures an image file holds: 1 but for TIFF, GIF, WebP and PNG files of several.

    Raises:
        DataError: for a file that is missing or is not an image.
    """
    with opened_image(path) as image:
        return int(getattr(image, "n_frames", 1)) if image.format in _PAGED else 1


def read_pages(path: str | os.PathLike[str]) -> Iterator[UInt8]:
    """Read the pictures of an image file one after the other, as `read_image` reads the first.

    Shapes: (H, W, 3), uint8; the pages of a TIFF file may differ in size.

    Raises:
        DataError: naming the file.
    """
    with opened_image(path) as image:
        size = os.stat(path).st_size
        for page in ImageSequence.Iterator(image):
            refuse_unfolding(page, size)  # each page of a TIFF, and each frame of a GIF that reaches beyond the first
            yield photograph(page, path)


def is_film(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is a film, by its name."""
    return Path(path).suffix.lower() in FILM_SUFFIXES


@contextmanager
def _opened_film(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """Open a film and its first stream of pictures; raise DataError, naming the file, for what goes wrong.

    Raises:
        DataError: also where PyAV is not installed.
    """
    av = import_av(path)
    if is_endless(path):
        raise DataError(f"{os.fspath(path)}: is {ENDLESS}")
    try:
        with av.open(os.fspath(path)) as film:
            if not film.streams.video:
                raise DataError(f"{os.fspath(path)}: holds no pictures. Take it out of the list.")
            film.streams.video[0].thread_type = "AUTO"
            yield film, film.streams.video[0]
    except FileNotFoundError as error:
        raise DataError(f"{os.fspath(path)}: no such file. Correct the path.") from error
    except UnicodeDecodeError as error:  # PyAV reads a film's notes as UTF-8
        raise DataError(
            f"{os.fspath(path)}: cannot be read as a film ({error.reason}). Convert it, or copy it again."
        ) from error
    except av.FFmpegError as error:
        raise DataError(
            f"{os.fspath(path)}: cannot be read as a film ({error.strerror}). Convert it, or copy it again."
        ) from error


def film_rate(path: str | os.PathLike[str]) -> Fraction:
    """Return how many frames a second a film has.

    Raises:
        DataError: naming the file, or the package that films need.
    """
    with _opened_film(path) as (_, stream):
        return Fraction(stream.average_rate or stream.guessed_rate or 25)


def read_film(path: str | os.PathLike[str]) -> Iterator[Frame]:
    """Read the frames of a film one after the other, upright as players show them.

    Raises:
        DataError: naming the file, or the package that films need.
    """
    with _opened_film(path) as (film, stream):
        for frame in film.decode(stream):
            quarters = round(getattr(frame, "rotation", 0) / 90) % 4
            rgb = np.rot90(frame.to_ndarray(format="rgb24"), quarters)
            time = None if frame.pts is None or frame.time_base is None else frame.pts * Fraction(frame.time_base)
            yield Frame(np.ascontiguousarray(rgb), time)
