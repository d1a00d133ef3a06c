"""Convolutions of one channel each: the types that MobileNets' and ShuffleNets' Caffes have for them."""

from __future__ import annotations

from torch import Tensor

from fcn_caffe.host.text import show
from fcn_caffe.layers.base import register
from fcn_caffe.layers.conv import Convolution
from fcn_caffe.proto import caffe_pb2


@register("DepthwiseConvolution", bottoms=(1, None), tops=(1, None), forks="MobileNet's, by yonghenglh6")
class DepthwiseConvolution(Convolution):
    """Convolution, with the file's own `group`: a full convolution where it gives none.

    Shapes: as Convolution. The fork's GPU code takes group, channels and num_output to be equal.
    Gradient: as Convolution.
    Source: yonghenglh6's DepthwiseConvolutionLayer.
    """


@register("ConvolutionDepthwise", forks="MobileNet's, ShuffleNet's, by farmingyard; soeaver's")
class ConvolutionDepthwise(Convolution):
    """Convolve each channel by itself; `group` and `num_output` are not read: both are the channels of the bottom.

    Shapes: (N, C, H, W) -> (N, C, h, w), h as Convolution's; weight (C, 1, *kernel), bias (C).
    Gradient: to the bottom, weight and bias.
    Raises: LayerError for sizes that do not fit, or a bottom that is not 4-D.
    Source: farmingyard's ConvolutionDepthwiseLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        if bottoms[0].ndim != 4:
            self.name = param.name
            raise self.error(f"needs a 4-D bottom (N x C x H x W), got {show(bottoms[0].shape)}.")
        mine = caffe_pb2.LayerParameter()
        mine.CopyFrom(param)
        mine.convolution_param.group = mine.convolution_param.num_output = bottoms[0].shape[1]
        mine.convolution_param.ClearField("axis")
        super().__init__(mine, *bottoms)
