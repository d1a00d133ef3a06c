"""ENet's Python layer: dropout of whole channels. Its nets name it as `module: "spatial_dropout"`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from fcn_caffe.data.sets.options import read_options
from fcn_caffe.errors import DataError
from fcn_caffe.layers.python import Blob, PythonLayer

__all__ = ["SpatialDropoutLayer"]


class SpatialDropoutLayer(PythonLayer):
    """Drop each channel of each item with probability p, and scale the others by 1 / (1 - p).

    Bottom: (N, C, H, W); top: the same. param_str: `p`, above 0 and below 1, and `phase`, "TRAIN"; with another phase
    nothing is dropped and all is scaled, as in ENet's. Both may be strings, as ENet writes them.
    Gradient: of the channels that stayed. ENet's takes the last item's channels for the whole batch.
    Raises: DataError for wrong options or numbers of blobs.
    Source: spatial_dropout.py of ENet's Caffe.
    """

    required: ClassVar[Sequence[str]] = ("p",)
    defaults: ClassVar[Mapping[str, Any]] = {"phase": "TRAIN"}

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        who = type(self).__name__
        options = read_options(self.param_str, who, required=self.required, defaults=self.defaults)
        if len(bottom) != 1 or len(top) != 1:
            raise DataError(f"{who}: takes one blob and gives one; the net has {len(bottom)} and {len(top)}.")
        try:
            self.p = float(options["p"])
        except (TypeError, ValueError, OverflowError):
            self.p = 0.0
        if not 0 < self.p < 1:
            raise DataError(f"{who}: p should be above 0 and below 1, got {options['p']!r}.")
        self.drops = options["phase"] == "TRAIN"
        self.factors = np.ones((1, 1, 1, 1), np.float32)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        kept = np.ones((1, 1), np.float32)
        if self.drops:
            # From torch, so that the solver's random_seed and a snapshot's state hold here too.
            kept = (torch.rand(bottom[0].data.shape[:2], device="cpu") >= self.p).float().numpy()
        self.factors = (kept / np.float32(1 - self.p))[:, :, None, None]
        top[0].data[...] = bottom[0].data * self.factors

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff * self.factors
