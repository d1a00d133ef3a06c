"""Caffe's messages (`caffe_pb2`), their text form, and old nets made modern.

>>> net = parse_text('layer { name: "conv1" type: "Convolution" }', caffe_pb2.NetParameter)
>>> net.layer[0].convolution_param.kernel_size.append(3)
>>> print(write_text(net), end="")
layer {
  name: "conv1"
  type: "Convolution"
  convolution_param {
    kernel_size: 3
  }
}
"""

from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.text import parse_text, read_text
from fcn_caffe.proto.text_writer import write_text

__all__ = ["caffe_pb2", "parse_text", "read_text", "write_text"]
