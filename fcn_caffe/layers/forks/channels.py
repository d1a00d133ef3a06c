"""Layers that weigh or move whole channels: Axpy of SENet, ShuffleChannel of ShuffleNet."""

from __future__ import annotations

from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer, SameShapeLayer, of_shape, register
from fcn_caffe.proto import caffe_pb2


@register("Axpy", bottoms=3, forks="SENet")
class Axpy(Layer):
    """a x + y, with one a for each channel of each item.

    Shapes: a (N, C) or (N, C, 1, 1), x (N, C, H, W), y as x -> as x.
    Gradient: to all three; to a the sum over the places of its channel.
    Raises: LayerError for shapes that do not fit.
    Source: SENet's AxpyLayer.
    """

    fresh_top = True
    takes_in_place = False

    def _check(self, a: Tensor, x: Tensor, y: Tensor) -> None:
        if x.ndim != 4 or y.shape != x.shape or a.shape not in (x.shape[:2], (*x.shape[:2], 1, 1)):
            raise self.error(
                f"bottoms are {show(a.shape)}, {show(x.shape)} and {show(y.shape)}: give a as N x C, x and y "
                "as N x C x H x W, alike."
            )

    def infer(self, *bottoms: Tensor) -> Tensor:
        self._check(*bottoms)
        return of_shape(*bottoms[1].shape)

    def forward(self, a: Tensor, x: Tensor, y: Tensor) -> Tensor:
        self._check(a, x, y)
        return a.reshape(*x.shape[:2], 1, 1) * x + y


@register("ShuffleChannel", forks="ShuffleNet's, by farmingyard")
class ShuffleChannel(SameShapeLayer):
    """Transpose the channels, seen as group x (C / group): top channel j group + i is bottom channel i (C / group) + j.

    Shapes: (N, C, ...) -> the same.
    Gradient: to the bottom.
    Raises: LayerError for a group that does not divide the channels.
    Source: farmingyard's ShuffleChannelLayer.
    """

    fresh_top = True
    takes_in_place = False

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.group: int = param.shuffle_channel_param.group
        if bottoms[0].ndim < 2 or self.group < 1 or bottoms[0].shape[1] % self.group:
            raise self.error(f"group {self.group} must divide the channels of the bottom {show(bottoms[0].shape)}.")

    def forward(self, bottom: Tensor) -> Tensor:
        lead, rest = bottom.shape[0], bottom.shape[2:]
        return (
            bottom.reshape(lead, self.group, bottom.shape[1] // self.group, *rest).transpose(1, 2).reshape(bottom.shape)
        )
