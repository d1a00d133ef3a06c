"""Run a Python data layer without a net, for the tests of data layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy.typing as npt

from fcn_caffe.layers.python import Blob, BlobVector, PythonLayer
from fcn_caffe.proto.phases import TRAIN

LayerType = TypeVar("LayerType", bound=PythonLayer)


def start(cls: type[LayerType], tops: int = 2, /, **options: object) -> tuple[LayerType, list[Blob]]:
    """Build a layer in TRAIN with these options in param_str; return it and its tops."""
    layer = cls.__new__(cls)
    layer.param_str, layer.phase, layer.blobs = repr(options), TRAIN, BlobVector()
    blobs = [Blob() for _ in range(tops)]
    layer.setup([], blobs)
    layer.reshape([], blobs)
    return layer, blobs


def step(layer: PythonLayer, blobs: Sequence[Blob]) -> list[npt.NDArray[Any]]:
    """Run one pass; return copies of the tops."""
    tops = list(blobs)
    layer.reshape([], tops)
    layer.forward([], tops)
    return [blob.data.copy() for blob in tops]
