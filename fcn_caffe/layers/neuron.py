"""Element-wise layers: each output element depends on the input element in its place."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.layers.base import SameShapeLayer, register


@register("ReLU")
class ReLU(SameShapeLayer):
    """max(x, 0) + negative_slope * min(x, 0).

    Shapes: any -> the same. Gradient: to the bottom. Source: Caffe ReLULayer.
    """

    def __init__(self, param: Any, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.negative_slope: float = param.relu_param.negative_slope

    def forward(self, bottom: Tensor) -> Tensor:
        if self.negative_slope:
            # Overwriting needs the sign of the input to survive in the output.
            return F.leaky_relu(bottom, self.negative_slope, inplace=self.inplace and self.negative_slope > 0)
        return F.relu_(bottom) if self.inplace else F.relu(bottom)


@register("Sigmoid")
class Sigmoid(SameShapeLayer):
    """1 / (1 + exp(-x)).

    Shapes: any -> the same. Gradient: to the bottom. Source: Caffe SigmoidLayer.
    """

    def forward(self, bottom: Tensor) -> Tensor:
        return torch.sigmoid(bottom)


@register("Dropout")
class Dropout(SameShapeLayer):
    """Zero each element with probability dropout_ratio in train(), scaling the rest by 1 / (1 - ratio).

    Shapes: any -> the same; the identity in eval(). Gradient: to the bottom.
    Raises: LayerError for a ratio outside [0, 1). Source: Caffe DropoutLayer.
    """

    def __init__(self, param: Any, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.ratio: float = param.dropout_param.dropout_ratio
        if not 0 <= self.ratio < 1:
            raise self.error(f"dropout_ratio must be in [0, 1), got {self.ratio:g}.")

    def forward(self, bottom: Tensor) -> Tensor:
        return F.dropout(bottom, self.ratio, self.training)
