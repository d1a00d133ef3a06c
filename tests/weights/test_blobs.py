"""How arrays fit blobs, and how blobs are set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fcn_caffe.errors import WeightsError
from fcn_caffe.weights.blobs import Fit, fit, missing_layers, refuse_meta, set_values

FITS = [
    ((2, 3), (2, 3), Fit.SHAPE),
    ((), (), Fit.SHAPE),
    ((1, 1, 2, 3), (2, 3), Fit.LEGACY),
    ((1, 1, 1, 5), (5,), Fit.LEGACY),
    ((1, 1, 1, 1), (), Fit.LEGACY),
    ((1, 2, 3), (2, 3), Fit.COUNT),  # three axes are no file of old Caffe's
    ((2, 3, 1, 1), (2, 3), Fit.COUNT),
    ((6,), (2, 3), Fit.COUNT),
    ((0, 9), (3, 0), Fit.COUNT),
    ((2**40, 2**40), (2**40 * 2, 2**39), Fit.COUNT),  # beyond 64 bits
    ((2, 4), (2, 3), Fit.NONE),
    ((), (2,), Fit.NONE),
]


@pytest.mark.parametrize(("have", "want", "answer"), FITS)
def test_how_an_array_fits_a_blob(have: tuple[int, ...], want: tuple[int, ...], answer: Fit) -> None:
    class Shape:
        def __init__(self, shape: tuple[int, ...]) -> None:
            self.shape = shape

    assert fit(Shape(have), Shape(want)) is answer


def test_a_layer_whose_blobs_are_set_through_another_is_not_missing() -> None:
    first, second = torch.zeros(4), torch.zeros(4)
    params = {"owner": [first], "sharer": [first.view(2, 2)], "other": [second], "partly": [first, second]}
    assert missing_layers(params, ["owner"], [first]) == ["other", "partly"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_setting_keeps_dtype_and_shape_and_is_seen_by_autograd(dtype: torch.dtype) -> None:
    blob = torch.nn.Parameter(torch.zeros(2, 3, dtype=dtype))
    squared = (blob**2).sum()
    array = np.arange(6, dtype=np.float32)
    array.flags.writeable = False
    set_values(blob, array)
    assert blob.dtype == dtype and torch.equal(blob.detach().float(), torch.arange(6.0).reshape(2, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.backward()


def test_a_net_without_memory_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"^x\.npz: the net is on the meta device"):
        refuse_meta([torch.zeros(2), torch.zeros(2, device="meta")], "x.npz: ")
