"""Layers without bottoms: Input and Parameter."""

from __future__ import annotations

import torch
from torch import Tensor

from fcn_caffe.layers.base import Layer, register
from fcn_caffe.proto import caffe_pb2


@register("Input", bottoms=0, tops=(1, None))
class Input(Layer):
    """The net's inputs: blobs that the caller of the net gives.

    Shapes: () -> those of input_param, one for all tops or one each; a forward may give other sizes.
    Raises: LayerError for a number of shapes that is neither 0, 1 nor the number of tops.
    Source: Caffe InputLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        shapes = [tuple(shape.dim) for shape in param.input_param.shape]
        if len(shapes) not in (0, 1, len(param.top)):
            raise self.error(f"{len(shapes)} shapes for {len(param.top)} tops: give one for all, or one each.")
        self.shapes: list[tuple[int, ...]] = (shapes or [()]) * (len(param.top) if len(shapes) < 2 else 1)

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty(shape, device="meta") for shape in self.shapes)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        raise self.error("was not given its blobs. Give them to the net.")  # the net puts them in and never calls this


@register("Parameter", bottoms=0)
class Parameter(Layer):
    """A learned blob as a top; it is zero until weights are loaded.

    Shapes: () -> parameter_param.shape.
    Gradient: to the blob.
    Source: Caffe ParameterLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.add_blob("weight", tuple(param.parameter_param.shape.dim))

    def forward(self, *bottoms: Tensor) -> Tensor:
        weight: Tensor = self.weight
        return weight
