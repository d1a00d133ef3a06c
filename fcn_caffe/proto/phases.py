"""Caffe's two phases."""

from __future__ import annotations

from fcn_caffe.proto import caffe_pb2

TRAIN: int = caffe_pb2.TRAIN
TEST: int = caffe_pb2.TEST
