"""`caffe.coord_map`: how the layers between two tops move coordinates, and the Crop that lines the tops up.

A map is (axis, scale, shift): on every axis from `axis` + 1 on, an output coordinate is scale * input + shift. scale
and shift are NumPy arrays of one number, or one for each axis. A layer that moves nothing is (None, 1, 0).
fcn_caffe.net.coord_map does the same for finished nets, in exact fractions and for more layer types; here the types,
numbers and errors are pycaffe's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fcn_caffe.errors import GraphError
from fcn_caffe.net.net_spec import Function, Top
from fcn_caffe.net.net_spec import layers as L

__all__ = [
    *("PASS_THROUGH_LAYERS", "AxisMismatchException", "CropError", "UnconnectedError", "UndefinedMapException"),
    *("compose", "conv_params", "coord_map", "coord_map_from_to", "crop", "crop_params", "inverse"),
]

Numbers = Any  # a number, or a numpy array of one or of one for each axis
Map = tuple[int | None, Numbers, Numbers]
IntArray = npt.NDArray[np.int64]

PASS_THROUGH_LAYERS = [
    *("AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Log", "LRN", "Exp", "MVN", "Power"),
    *("ReLU", "PReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold"),
]
_BY_AXIS = {f"{stem}_{axis}" for stem in ("kernel", "stride", "pad") for axis in "hw"}


class UndefinedMapException(GraphError):
    """A layer's outputs have no place in its inputs."""


class AxisMismatchException(GraphError):
    """The coordinates of two maps begin at different axes."""


class CropError(GraphError, AssertionError):
    """No Crop lines up two tops."""


class UnconnectedError(GraphError, RuntimeError):
    """No layers with coordinate maps connect two tops."""


def conv_params(fn: Function) -> tuple[int, IntArray, IntArray, IntArray]:
    """Return (axis, stride, kernel, pad) of a layer with windows; the kernel includes its dilation.

    Raises:
        CropError: sizes are given as _h and _w.
        UndefinedMapException: there is no kernel size.
    """
    own = "pooling_param" if fn.type_name == "Pooling" else "convolution_param"
    params: Mapping[str, Any] = fn.params.get(own, fn.params)
    unsupported = sorted(_BY_AXIS & {*params, *fn.params})
    if unsupported:
        raise CropError(f"{fn.type_name}: coordinate maps do not take {', '.join(unsupported)}. Use a list of sizes.")
    if "kernel_size" not in params:
        raise UndefinedMapException(f"{fn.type_name}: has no kernel_size, so it sees everything.")
    kernel, dilation = _array(params["kernel_size"]), _array(params.get("dilation", 1))
    axis = int(params.get("axis", 1))
    return axis, _array(params.get("stride", 1)), (kernel - 1) * dilation + 1, _array(params.get("pad", 0))


def crop_params(fn: Function) -> tuple[int, IntArray]:
    """Return (axis, offset) of a Crop, with Caffe's defaults."""
    params: Mapping[str, Any] = fn.params.get("crop_param", fn.params)
    return int(params.get("axis", 2)), _array(params.get("offset", 0))


def _array(value: npt.ArrayLike) -> IntArray:
    return np.array(value, ndmin=1)


def coord_map(fn: Function) -> Map:
    """Return the map of one layer.

    Raises:
        UndefinedMapException: its type has none.
    """
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, kernel, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (kernel - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, kernel, pad = conv_params(fn)
        return axis, stride, (kernel - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return None, 1, 0
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset  # the axis before the first that is cropped, as convolutions give theirs
    raise UndefinedMapException(f"{fn.type_name} layers have no coordinate map.")


def compose(base_map: Map, next_map: Map) -> Map:
    """Return the map of a layer followed by that of a layer above.

    Raises:
        AxisMismatchException: their axes differ.
    """
    axis, scale, shift = base_map
    next_axis, next_scale, next_shift = next_map
    if axis is not None and next_axis is not None and axis != next_axis:
        raise AxisMismatchException(f"one map begins after axis {axis}, the other after axis {next_axis}.")
    return next_axis if axis is None else axis, scale * next_scale, scale * next_shift + shift


def inverse(coord_map: Map) -> Map:
    """Return the map back."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def _below(top: Top) -> tuple[Any, ...]:
    # The second bottom of a Crop only says how much is left.
    return top.fn.inputs[:1] if top.fn.type_name == "Crop" else top.fn.inputs


def coord_map_from_to(top_from: Top, top_to: Top) -> Map:
    """Return the map from one top to another, through the nearest top that both are computed from.

    Raises:
        UnconnectedError: there is none.
        AxisMismatchException: axes differ on the way.
    """
    from_maps = _maps_below(top_from)
    for top, to_map in _maps_below(top_to).items():  # nearest first
        if top in from_maps:
            return compose(to_map, inverse(from_maps[top]))
    raise UnconnectedError("the two tops come from nothing in common that layers with coordinate maps lead to.")


def _maps_below(start: Top) -> dict[Top, Map]:
    maps: dict[Top, Map] = {start: (None, 1, 0)}
    waiting = deque([start])
    while waiting:
        top = waiting.popleft()
        try:
            step = coord_map(top.fn) if top.fn.inputs else None
        except UndefinedMapException:
            continue
        for bottom in _below(top):
            if bottom not in maps:
                maps[bottom] = compose(maps[top], step or (None, 1, 0))
                waiting.append(bottom)
    return maps


def crop(top_from: Top, top_to: Top) -> Top:
    """Make a Crop layer that cuts `top_from` to the place and size of `top_to`.

    Raises:
        CropError: the scales differ, or the offset is negative or no whole number.
        UnconnectedError: as `coord_map_from_to`.
        AxisMismatchException: as `coord_map_from_to`.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    if not np.all(scale == 1):
        raise CropError(f"scale mismatch on crop (a = {scale}). Upsample or pool until both have the same stride.")
    if not np.all(shift <= 0):
        raise CropError(f"cannot crop negative offset (b = {shift}). Pad the first convolution more.")
    if not np.all(np.round(shift) == shift):
        raise CropError(f"cannot crop noninteger offset (b = {shift}). Make the upsampling kernel one larger.")
    offset = [-int(value) for value in np.atleast_1d(np.round(shift))]
    # Tops that differ only by layers that move nothing have no axis of their own: the spatial ones are meant.
    layer: Top = L.Crop(top_from, top_to, crop_param={"axis": 2 if axis is None else axis + 1, "offset": offset})
    return layer
