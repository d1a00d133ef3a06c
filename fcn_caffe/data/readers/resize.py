"""OpenCV's resizing of 8-bit images, to the bit: of the bilinear one its fixed-point weights and truncating sums.

Pillow and torch give results that differ by a grey level in places. Databases that Caffe's tools made, and nets trained
on them, have OpenCV's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["resize", "resize_nearest"]

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]

WEIGHT_ONE = 2048  # OpenCV's INTER_RESIZE_COEF_SCALE: weights are multiples of 1/2048


def resize(image: UInt8, height: int, width: int) -> UInt8:
    """Resize as cv2.resize(image, (width, height)) does, INTER_LINEAR.

    Shapes: (H, W) or (H, W, C), uint8 -> (height, width) or (height, width, C).
    Source: OpenCV's resize of uint8: weights rounded to 1/2048, each row's sum cut to 1/16 and the products of the
    column weights to 1/4 before the last rounding; halving both axes exactly is the rounded mean of 2 x 2.
    """
    old_height, old_width = image.shape[:2]
    if (old_height, old_width) == (height, width):
        return np.array(image)
    if (old_height, old_width) == (2 * height, 2 * width):
        wide = image.astype(np.uint16)
        total: npt.NDArray[np.uint16] = wide[::2, ::2] + wide[::2, 1::2] + wide[1::2, ::2] + wide[1::2, 1::2]
        halved: UInt8 = ((total + 2) >> 2).astype(np.uint8)
        return halved
    left, right, left_weight, right_weight = _columns(old_width, width)
    top, bottom, top_weight, bottom_weight = _rows(old_height, height)
    trailing = (1,) * (image.ndim - 2)
    used, position = np.unique(np.concatenate([top, bottom]), return_inverse=True)
    source = image[used].astype(np.int32)
    mixed = source[:, left] * left_weight.reshape(-1, *trailing) + source[:, right] * right_weight.reshape(
        -1, *trailing
    )
    mixed >>= 4
    above = (mixed[position[: len(top)]] * top_weight.reshape(-1, 1, *trailing)) >> 16
    below = (mixed[position[len(top) :]] * bottom_weight.reshape(-1, 1, *trailing)) >> 16
    resized: UInt8 = ((above + below + 2) >> 2).astype(np.uint8)
    return resized


def resize_nearest(image: UInt8, height: int, width: int) -> UInt8:
    """Resize as cv2.resize(image, (width, height)) does, INTER_NEAREST.

    Shapes: (H, W) or (H, W, C), uint8 -> (height, width) or (height, width, C).
    Source: OpenCV's resizeNN: the old pixel of a new one is the whole part of its number times the scale.
    """
    rows, columns = _nearest(image.shape[0], height), _nearest(image.shape[1], width)
    resized: UInt8 = image[rows[:, None], columns]
    return resized


def _nearest(old: int, new: int) -> npt.NDArray[np.int64]:
    scale = 1.0 / (new / old)  # as in `_positions`
    places: npt.NDArray[np.int64] = np.floor(np.arange(new) * scale).astype(np.int64).clip(0, old - 1)
    return places


def _positions(old: int, new: int) -> tuple[Int32, npt.NDArray[np.float32]]:
    """Return for each new pixel the old pixel before its centre, and the distance between their centres."""
    scale = 1.0 / (new / old)  # as OpenCV computes it, which is not old / new to the last bit
    centre = ((np.arange(new) + 0.5) * scale - 0.5).astype(np.float32)
    before = np.floor(centre).astype(np.int32)
    return before, centre - before.astype(np.float32)


def _weights(fraction: npt.NDArray[np.float32]) -> tuple[Int32, Int32]:
    scale = np.float32(WEIGHT_ONE)
    return np.rint((1 - fraction) * scale).astype(np.int32), np.rint(fraction * scale).astype(np.int32)


def _columns(old: int, new: int) -> tuple[Int32, Int32, Int32, Int32]:
    before, fraction = _positions(old, new)
    outside = (before < 0) | (before >= old - 1)  # there a single pixel counts
    fraction[outside] = 0
    before = before.clip(0, old - 1)
    return before, (before + 1).clip(0, old - 1), *_weights(fraction)


def _rows(old: int, new: int) -> tuple[Int32, Int32, Int32, Int32]:
    before, fraction = _positions(old, new)  # outside, the edge row is mixed with itself
    return before.clip(0, old - 1), (before + 1).clip(0, old - 1), *_weights(fraction)
