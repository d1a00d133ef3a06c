"""Numbers measured on BVLC Caffe, and the parameters they were measured with."""

from __future__ import annotations

import zlib
from functools import lru_cache
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fcn_caffe import Net
from fcn_caffe.layers.fillers import bilinear_kernel

FOLDER = Path(__file__).parent / "golden"

Array = npt.NDArray[Any]


@lru_cache
def load(name: str) -> dict[str, Array]:
    """Read a file of golden numbers."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def cases(name: str) -> list[str]:
    """Return the names of the cases in a file of golden numbers."""
    return sorted({key.split("/")[0] for key in load(name)})


def arrays(data: dict[str, Array], prefix: str) -> list[Array]:
    """Return the arrays PREFIX/0, PREFIX/1 … that there are."""
    blobs = {int(key.rsplit("/", 1)[1]): value for key, value in data.items() if key.rsplit("/", 1)[0] == prefix}
    return [blobs[index] for index in sorted(blobs)]


def draw(layer: str, type: str, index: int, shape: tuple[int, ...]) -> Array:
    """Return the parameter blob of Caffe's run, by the rule that the oracle used."""
    if type == "Scale":
        return np.full(shape, 0.01, np.float32)
    if type == "Deconvolution" and index == 0:
        blob = np.zeros(shape, np.float32)
        blob[range(shape[0]), range(shape[1])] = bilinear_kernel(shape[2]).numpy()
        return blob
    random = np.random.RandomState(zlib.crc32(f"{layer}/{index}".encode()) & 0xFFFFFFFF)
    fan_in = prod(shape[1:]) if len(shape) > 1 else 0
    return (random.randn(*shape) * (sqrt(2 / fan_in) if fan_in else 0.1)).astype(np.float32)


def draw_all(net: Net) -> None:
    """Fill a net with the parameters of Caffe's run."""
    with torch.no_grad():
        for node in net.graph.nodes:
            for index, blob in enumerate(net.layer(node.name).blobs):
                blob.copy_(torch.from_numpy(draw(node.name, node.type, index, tuple(blob.shape))))


def assert_close(actual: object, expected: Array, tolerance: float, what: str) -> None:
    """Assert equality within `tolerance` of the largest magnitude in the array; NaN where Caffe has NaN."""
    got = np.asarray(actual.detach() if isinstance(actual, torch.Tensor) else actual, np.float64)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, Caffe's is {expected.shape}"
    assert np.array_equal(np.isnan(got), np.isnan(expected)), f"{what}: NaN in other places"
    if expected.size:
        scale = np.nanmax(np.abs(expected)) if not np.isnan(expected).all() else 0.0
        worst = np.nanmax(np.abs(got - expected)) if scale or not np.isnan(expected).all() else 0.0
        assert worst <= tolerance * max(scale, 1e-30), f"{what}: off by {worst:.3g} where the largest is {scale:.3g}"
