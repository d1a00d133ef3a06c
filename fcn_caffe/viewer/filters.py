"""Pictures and numbers of weights: filters as small PNGs, a histogram, what is 0 and what is not finite."""

from __future__ import annotations

import base64
import io
from math import ceil, prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fcn_caffe.host.text import show

__all__ = ["blob_facts", "filter_picture"]

BINS = 41
MOST_TILES, MOST_SIDE = 96, 160  # filters in a picture; pixels of its sides
COLOURS = 3  # channels of a first layer that are shown as a colour

Array = npt.NDArray[Any]


@np.errstate(over="ignore")  # what float32 does not hold is not finite
def blob_facts(array: Array) -> dict[str, Any]:
    """Return a blob's shape, range, mean, deviation, shares of what is 0 or not finite, and histogram."""
    values = np.asarray(array, np.float32).reshape(-1)
    finite = values if np.isfinite(values).all() else values[np.isfinite(values)]
    facts: dict[str, Any] = {"shape": list(array.shape), "odd": int(values.size - finite.size)}
    if not finite.size:
        return facts
    low, high = float(finite.min()), float(finite.max())
    facts |= {"low": _short(low), "high": _short(high), "zeros": int(np.count_nonzero(finite == 0))}
    facts |= {"mean": _short(finite.mean(dtype=np.float64)), "deviation": _short(finite.std(dtype=np.float64))}
    if high > low:
        is_wide = high - low > float(np.finfo(np.float32).max)  # beyond float32, as in a net that diverged
        facts["bins"] = np.histogram(finite.astype(np.float64) if is_wide else finite, BINS, (low, high))[0].tolist()
    if array.ndim > 1:
        facts["dead"] = int(np.count_nonzero(~np.asarray(array).reshape(len(array), -1).any(axis=1)))
    return facts


def _short(value: Any) -> float:  # noqa: ANN401 (a number of numpy or of Python)
    return float(f"{float(value):.4g}")


@np.errstate(over="ignore")  # what float32 does not hold is not finite
def filter_picture(weight: Array, is_first: bool, is_bgr: bool = True) -> dict[str, Any] | None:
    """Return the picture of a layer's filters, and what it shows; None where there is nothing to see.

    Args:
        weight: (outputs, inputs, height, width), or a matrix.
        is_first: whether the inputs are the channels of an image: three of them make a colour.
        is_bgr: whether they are in that order.
    """
    if not weight.size:
        return None
    if weight.ndim == 4 and prod(weight.shape[2:]) > 1:
        tiles, note = _kernels(np.asarray(weight, np.float32), is_first, is_bgr)
        pixels = _arrange(tiles)
    elif weight.ndim >= 2 and prod(weight.shape[2:]) == 1 and min(weight.shape[:2]) > 1:
        pixels, note = _matrix(np.asarray(weight, np.float32).reshape(weight.shape[:2]))
    else:
        return None
    if not pixels.size:
        return None
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"uri": uri, "size": [pixels.shape[1], pixels.shape[0]], "note": note}


def _kernels(weight: Array, is_first: bool, is_bgr: bool) -> tuple[Array, str]:
    """Filters as tiles: (count, h, w) gray, or (count, h, w, 3) in colour."""
    height, width = weight.shape[2:]
    side = max(1, MOST_SIDE // (max(height, width) + 1))
    count = min(len(weight), MOST_TILES, side * side)
    shown = weight[:count]
    which = f"the first {count} of {len(weight)}" if count < len(weight) else f"all {count}"
    if is_first and weight.shape[1] == COLOURS:
        colours = shown.transpose(0, 2, 3, 1)
        order = " (BGR shown as colours)" if is_bgr else ""
        return _scale(
            colours[..., ::-1] if is_bgr else colours, per_tile=True
        ), f"{which} filters{order}, each to its range"
    if weight.shape[1] == 1:
        return _scale(shown[:, 0]), f"{which} filters; black and white are ± the largest weight"
    return _scale(shown.mean(axis=1, dtype=np.float64)), (
        f"{which} filters, mean over {weight.shape[1]} inputs; black and white are ± the largest mean"
    )


def _matrix(weight: Array) -> tuple[Array, str]:
    """The sizes of a matrix' weights, several in a pixel where it is large."""
    rows, columns = (max(1, ceil(size / MOST_SIDE)) for size in weight.shape)
    cut = np.abs(weight[: len(weight) // rows * rows, : weight.shape[1] // columns * columns])
    means = cut.reshape(len(cut) // rows, rows, -1, columns).mean(axis=(1, 3), dtype=np.float64)
    most = float(np.nanmax(means)) if np.isfinite(means).any() else 0.0
    pixels = np.nan_to_num(255 * means / (most or 1.0), posinf=255).clip(0, 255).astype(np.uint8)
    size = "" if rows == columns == 1 else f", {show((rows, columns))} in a pixel"
    return pixels, f"sizes of the weights: a row is an output, a column an input{size}; white is the largest"


def _scale(tiles: Array, per_tile: bool = False) -> Array:
    tiles = np.nan_to_num(tiles.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if per_tile:
        flat = tiles.reshape(len(tiles), -1)
        low, high = (bound.reshape(-1, *(1,) * (tiles.ndim - 1)) for bound in (flat.min(axis=1), flat.max(axis=1)))
        span = np.where(high > low, high - low, 1)
        return np.asarray(255 * (tiles - low) / span).astype(np.uint8)
    most = float(np.abs(tiles).max(initial=0.0)) or 1.0
    return np.asarray(127.5 + 127.5 * tiles / most).clip(0, 255).astype(np.uint8)


def _arrange(tiles: Array) -> Array:
    """Put tiles into about a square, a pixel apart."""
    count, height, width = tiles.shape[:3]
    columns = ceil(sqrt(count * (height + 1) / (width + 1)))
    rows = ceil(count / columns)
    canvas: Array = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, *tiles.shape[3:]), 90, np.uint8)
    for at, tile in enumerate(tiles):
        y, x = at // columns * (height + 1), at % columns * (width + 1)
        canvas[y : y + height, x : x + width] = tile
    return canvas
