"""Pooling against Caffe's loops written out: sizes, windows past the image, divisors, ties and masks."""

from __future__ import annotations

import random
from math import ceil, floor

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net

FLOAT_MAX = np.finfo(np.float32).max


def caffe_pool(x: np.ndarray, k: list[int], s: list[int], p: list[int], maximum: bool, up: bool) -> list[np.ndarray]:
    """One plane pooled as PoolingLayer's CPU code does: the top, and the mask."""
    rounded = ceil if up else floor
    size = [rounded((x.shape[axis] + 2 * p[axis] - k[axis]) / s[axis]) + 1 for axis in (0, 1)]
    if any(p):
        size = [size[a] - ((size[a] - 1) * s[a] >= x.shape[a] + p[a]) for a in (0, 1)]
    top, mask = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for place in np.ndindex(*size):
        start = [place[a] * s[a] - p[a] for a in (0, 1)]
        padded = [min(start[a] + k[a], x.shape[a] + p[a]) for a in (0, 1)]
        divisor = np.float32((padded[0] - start[0]) * (padded[1] - start[1]))
        rows, columns = (range(max(start[a], 0), min(padded[a], x.shape[a])) for a in (0, 1))
        inside = [(x[h, w], h * x.shape[1] + w) for h in rows for w in columns]
        if maximum:
            top[place], mask[place] = max(inside, key=lambda pair: pair[0], default=(-FLOAT_MAX, -1))
        else:
            with np.errstate(all="ignore"):
                top[place] = np.float32(sum(value for value, _ in inside)) / divisor
    return [top, mask]


@pytest.mark.parametrize("seed", range(120))
def test_any_window_equals_caffes_loops(seed: int) -> None:
    draw = random.Random(seed)
    k, s = [draw.randint(1, 4), draw.randint(1, 4)], [draw.randint(1, 4), draw.randint(1, 4)]
    p = [draw.randint(0, size - 1) for size in k]
    height, width = (draw.randint(max(1, k[a] - 2 * p[a]), 9) for a in (0, 1))
    pool, up = draw.choice(("MAX", "AVE")), draw.random() < 0.7
    masked = pool == "MAX" and draw.random() < 0.5
    options = (
        f"pool: {pool} round_mode: {'CEIL' if up else 'FLOOR'} kernel_h: {k[0]} kernel_w: {k[1]} "
        f"stride_h: {s[0]} stride_w: {s[1]} pad_h: {p[0]} pad_w: {p[1]}"
    )
    tops = "y m" if masked else "y"
    net = make_net(
        input_layer("x", 1, 1, height, width), layer("l", "Pooling", "x", tops, f"pooling_param {{ {options} }}")
    )
    # Few values, so that there are ties: the first of equals is the maximum.
    x = np.random.RandomState(seed).randint(-3, 4, (height, width)).astype(np.float32)
    blobs = net(x=torch.from_numpy(x[None, None]))
    top, mask = caffe_pool(x, k, s, p, pool == "MAX", up)
    assert net.blob_shapes["y"] == (1, 1, *top.shape)
    np.testing.assert_allclose(blobs["y"][0, 0].numpy(), top, rtol=1e-5, atol=1e-6)
    if masked:
        np.testing.assert_array_equal(blobs["m"][0, 0].numpy(), mask)
