"""Run a Python data layer without a net, for the tests of data layers."""

from fcn_caffe.layers.python import Blob, BlobVector
from fcn_caffe.proto.phases import TRAIN


def start(cls, tops=2, /, **options):
    layer = cls.__new__(cls)
    layer.param_str, layer.phase, layer.blobs = repr(options), TRAIN, BlobVector()
    blobs = [Blob() for _ in range(tops)]
    layer.setup([], blobs)
    layer.reshape([], blobs)
    return layer, blobs


def step(layer, blobs):
    layer.reshape([], blobs)
    layer.forward([], blobs)
    return [blob.data.copy() for blob in blobs]
