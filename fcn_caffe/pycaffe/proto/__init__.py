"""`caffe.proto`: Caffe's messages under the module names that scripts import."""

from . import caffe_pb2

__all__ = ["caffe_pb2"]
