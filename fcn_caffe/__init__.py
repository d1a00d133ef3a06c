"""Caffe's fully convolutional networks, alive on PyTorch."""

from fcn_caffe.errors import (
    DataError,
    FcnCaffeError,
    GraphError,
    LayerError,
    PrototxtError,
    SolverError,
    WeightsError,
)
from fcn_caffe.layers import Layer, known_types, register
from fcn_caffe.layers.python import PythonLayer
from fcn_caffe.net.graph import Graph, Node, read_net
from fcn_caffe.net.net import Net
from fcn_caffe.net.parameters import LearnableParam
from fcn_caffe.proto.phases import TEST, TRAIN

__all__ = [
    "TEST",
    "TRAIN",
    "DataError",
    "FcnCaffeError",
    "Graph",
    "GraphError",
    "Layer",
    "LayerError",
    "LearnableParam",
    "Net",
    "Node",
    "PrototxtError",
    "PythonLayer",
    "SolverError",
    "WeightsError",
    "known_types",
    "read_net",
    "register",
]
