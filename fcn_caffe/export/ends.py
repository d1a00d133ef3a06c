"""What stands before and behind a net in an exported file: photographs become its input, its scores become classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fcn_caffe.errors import DataError, GraphError
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import Layer
from fcn_caffe.net.graph import Node
from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Step
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.weights.record import Preprocessing

__all__ = ["Classes", "Photograph", "with_argmax", "with_preprocessing"]


class Photograph(Layer):
    """Make a net's input of photographs: put the channels in its order, subtract the mean, multiply by the scale.

    Shapes: (N, 3, H, W), RGB from 0 to 255, uint8 -> the same in float32.
    """

    layer_type = "Photograph"

    def __init__(self, param: caffe_pb2.LayerParameter, made_by: Preprocessing) -> None:
        super().__init__(param)
        mean = made_by.mean or (0.0,)
        self.mean = mean * 3 if len(mean) == 1 else mean
        self.scale = 1.0 if made_by.scale is None else made_by.scale
        self.places = (2, 1, 0) if made_by.channel_order == "BGR" else (0, 1, 2)

    def forward(self, bottom: Tensor) -> Tensor:
        numbers = bottom.to(torch.float32)
        # Numbers, not a tensor: weights are the only tensors of an exported net.
        channels = [numbers[:, place : place + 1] - mean for place, mean in zip(self.places, self.mean, strict=True)]
        top = torch.cat(channels, 1)
        return top if self.scale == 1 else top * self.scale


class Classes(Layer):
    """Give the index of the best class at each place, the first where several are best.

    Shapes: (N, C, …) -> (N, …), int64.
    """

    layer_type = "Classes"

    def forward(self, bottom: Tensor) -> Tensor:
        return bottom.argmax(1)


def with_preprocessing(net: Net, made_by: Preprocessing) -> Net:
    """Return a net that takes photographs, RGB from 0 to 255 as uint8, in place of its input.

    Raises:
        DataError: the net has another input than a photograph of 3 channels, or what it wants is not known.
    """
    inputs = net.graph.inputs
    if len(inputs) != 1 or len(net.blob_shapes[inputs[0]]) != 4 or net.blob_shapes[inputs[0]][1] != 3:
        found = ", ".join(f"{name} {show(net.blob_shapes[name])}" for name in inputs)
        raise DataError(
            f"net '{net.name}': --preprocess takes one photograph of 3 channels, the net's inputs are {found}. "
            "Export it without, and prepare them yourself."
        )
    if made_by.mean is None or made_by.channel_order is None or len(made_by.mean) not in (0, 1, 3):
        raise DataError(
            f"net '{net.name}': --preprocess needs to know the input: {made_by}. Give --mean, one number a channel in "
            "the net's order, and --channel-order BGR or RGB."
        )
    step = _step(net, inputs[0], Photograph(_param("photograph", "Photograph", inputs[0]), made_by))
    place = 1 + max(index for index, other in enumerate(net.steps) if inputs[0] in other.tops and not other.bottoms)
    return net.with_steps([*net.steps[:place], step, *net.steps[place:]])


def with_argmax(net: Net, outputs: Sequence[str]) -> Net:
    """Return a net whose outputs are classes in place of their scores.

    Raises:
        GraphError: an output has no scores of classes.
    """
    steps = list(net.steps)
    for name in outputs:
        shape = net.blob_shapes[name]
        if len(shape) < 2 or shape[1] < 2:
            raise GraphError(
                f"net '{net.name}': output '{name}' is {show(shape)}, and --argmax needs the scores of two classes or "
                "more on axis 1. Choose outputs with --outputs, or export without --argmax."
            )
        steps.append(_step(net, name, Classes(_param(f"{name}_classes", "Classes", name))))
    return net.with_steps(steps)


def _param(name: str, type: str, blob: str) -> caffe_pb2.LayerParameter:
    return caffe_pb2.LayerParameter(name=name, type=type, bottom=[blob], top=[blob])


def _step(net: Net, blob: str, layer: Layer) -> Step:
    node = Node(len(net.graph.nodes), layer.name, layer.layer_type, (blob,), (blob,), layer.param)
    return Step.of(node, layer.train(net.training))
