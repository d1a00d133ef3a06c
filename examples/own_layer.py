"""A layer of one's own, in two ways: in PyTorch, and as a Python layer in Caffe's way.

`Softsign` is registered under a type name; after that any prototxt may use it, and its gradient is autograd's.
`Noise` is what a script for pycaffe would hold: the prototxt names its module and class.
You see the two layers' outputs, the gradient of Softsign at 1 (a quarter, as 1 / (1 + |x|)² says), and the error that
a wrong option gets: it names the layer and says what to write.
"""

import numpy as np
import torch
from torch import Tensor

import fcn_caffe.pycaffe as caffe
from fcn_caffe import Layer, LayerError, Net, register
from fcn_caffe.proto import caffe_pb2, parse_text


@register("Softsign")
class Softsign(Layer):
    """y = scale * x / (1 + |x|), where scale is power_param's.

    Shapes: any -> the same.
    Gradient: to the bottom.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.scale = param.power_param.scale
        if self.scale <= 0:
            raise self.error(f"power_param.scale is {self.scale:g}; write one above 0.")

    def forward(self, bottom: Tensor) -> Tensor:
        return self.scale * bottom / (1 + bottom.abs())


class Noise(caffe.Layer):
    """Add noise of the standard deviation in param_str; the gradient goes through unchanged."""

    def setup(self, bottom, top):
        self.deviation = float(self.param_str)
        self.random = np.random.default_rng(0)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data + self.deviation * self.random.standard_normal(bottom[0].shape)

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff


NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 } } }
layer { name: "soft" type: "Softsign" bottom: "data" top: "soft" power_param { scale: %s } }
layer { name: "noise" type: "Python" bottom: "soft" top: "noise"
        python_param { module: "%s" layer: "Noise" param_str: "0.01" } }
"""


def net(scale: str) -> Net:
    """Return the net of both layers."""
    return Net(parse_text(NET % (scale, __name__), caffe_pb2.NetParameter, "NET"))


x = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
blobs = net("1")(data=x, keep=["soft"])
print("soft: ", blobs["soft"].tolist())
print("noise:", blobs["noise"].tolist())
blobs["soft"].sum().backward()
print("gradient:", x.grad.tolist())
try:
    net("-1")
except LayerError as error:
    print("error:", error)
