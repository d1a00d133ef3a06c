"""Write a film: H.264 in an MP4 file, which is there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write

__all__ = ["film_writer", "import_av"]

UInt8 = npt.NDArray[np.uint8]
AddFrame = Callable[[UInt8, Fraction | None], None]

_CODECS = ("libx264", "libopenh264", "mpeg4")  # the first that this FFmpeg has
_TICK = Fraction(1, 90_000)  # of a second; every usual rate divides it


def import_av(path: str | os.PathLike[str]) -> ModuleType:
    """Import PyAV for a film. Raises: DataError, naming the film, where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise DataError(f"{os.fspath(path)}: films need the package av. Run `pip install fcn-caffe[video]`.") from error
    return av


@contextmanager
def film_writer(path: str | os.PathLike[str], rate: Fraction) -> Iterator[AddFrame]:
    """Open a film for the block; where the block ends with an error, no file is left.

    Args:
        path: an MP4 file.
        rate: frames a second.

    Yields:
        A function that adds an RGB frame (H, W, 3) and when it is shown, in seconds; None where that follows from the
        rate. All frames are of the first one's size; an odd row or column is repeated, as the codec needs even ones.

    Raises:
        DataError: PyAV is not installed, or the codec takes no such frames.
    """
    av = import_av(path)
    try:
        with atomic_write(path, "wb") as file, av.open(file, "w", format="mp4") as film:
            writer = _Writer(film, rate)
            yield writer.add
            writer.finish()
    except av.FFmpegError as error:
        raise DataError(
            f"{os.fspath(path)}: the film cannot be written ({error}). Make room, or give another place."
        ) from error


class _Writer:
    """The stream of a film, opened with the size of its first frame."""

    def __init__(self, film: Any, rate: Fraction) -> None:  # noqa: ANN401
        self.film, self.rate = film, rate
        self.stream: Any = None
        self.added, self.last = 0, -1

    def add(self, rgb: UInt8, time: Fraction | None) -> None:
        import av

        height, width = rgb.shape[:2]
        rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
        if self.stream is None:
            codec = next(name for name in _CODECS if name in av.codecs_available)
            self.stream = self.film.add_stream(codec, rate=self.rate)
            self.stream.height, self.stream.width, self.stream.pix_fmt = *rgb.shape[:2], "yuv420p"
            self.stream.codec_context.time_base = _TICK
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.time_base = _TICK
        # A frame comes later than the one before it, whatever the film says.
        self.last = max(self.last + 1, round((self.added / self.rate if time is None else time) / _TICK))
        frame.pts = self.last
        self.added += 1
        self.film.mux(self.stream.encode(frame))

    def finish(self) -> None:
        if self.stream is not None:
            self.film.mux(self.stream.encode())
