"""Element-wise layers and fields of forks: ReLU6, Dropout's two ways of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn_caffe.layers.base import SameShapeLayer, register, variant
from fcn_caffe.proto import caffe_pb2


@register("ReLU6", forks="MobileNet-SSD, MobileNet-YOLO")
class ReLU6(SameShapeLayer):
    """min(max(x, 0) + negative_slope min(x, 0), 6).

    Shapes: any -> the same.
    Gradient: to the bottom: 1 where 0 < x < 6, negative_slope below 0, 0 at 6 and above.
    Source: eric612's MobileNet-YOLO ReLU6Layer; chuanqi305's SSD.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.negative_slope: float = param.relu6_param.negative_slope

    def forward(self, bottom: Tensor) -> Tensor:
        if not self.negative_slope:
            return F.hardtanh(bottom, 0.0, 6.0)
        top = F.leaky_relu(bottom, self.negative_slope)
        return torch.where(top < 6, top, 6.0)


class _RatioDropout(SameShapeLayer):
    """Base of the Dropouts of forks, which take ratios between 0 and 1 alone."""

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.ratio: float = param.dropout_param.dropout_ratio
        if not 0 < self.ratio < 1:
            raise self.error(f"dropout_ratio must be above 0 and below 1, got {self.ratio:g}: it is a probability.")


@variant("Dropout", "segnet", "SegNet, ENet")
class SamplingDropout(_RatioDropout):
    """Dropout that, with sample_weights_test, draws a mask in eval() as in train(): Bayesian SegNet's samples.

    Shapes: any -> the same.
    Gradient: to the bottom, through the mask.
    Raises: LayerError for a ratio that is not between 0 and 1.
    Source: SegNet's DropoutLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.samples: bool = param.dropout_param.sample_weights_test

    def is_repeatable(self) -> bool:
        return not (self.training or self.samples)

    def forward(self, bottom: Tensor) -> Tensor:
        return F.dropout(bottom, self.ratio) if self.training or self.samples else bottom


@variant("Dropout", "fast-rcnn", "Fast R-CNN, Faster R-CNN, R-FCN")
class TestScaledDropout(_RatioDropout):
    """Dropout that, with scale_train: false, does not scale in train() and multiplies by 1 - dropout_ratio in eval().

    Shapes: any -> the same.
    Gradient: to the bottom, by the same factors.
    Raises: LayerError for a ratio that is not between 0 and 1.
    Source: Fast R-CNN's DropoutLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.scales_train: bool = param.dropout_param.scale_train

    def is_repeatable(self) -> bool:
        return not self.training

    def forward(self, bottom: Tensor) -> Tensor:
        if self.training:
            top = F.dropout(bottom, self.ratio)
            return top if self.scales_train else top * (1 - self.ratio)
        return bottom if self.scales_train else bottom * (1 - self.ratio)
