"""Nets: the graph of a prototxt, the torch module made of it, and what is told of it or made from it."""

# Every layer type a net may name, and the packages its Python layers may come from.
import fcn_caffe.data.layers
import fcn_caffe.data.sets
import fcn_caffe.layers  # noqa: F401
from fcn_caffe.layers.base import known_types, register
from fcn_caffe.net.graph import Graph, Node, filter_net, read_net
from fcn_caffe.net.net import Net
from fcn_caffe.net.parameters import LearnableParam

__all__ = ["Graph", "LearnableParam", "Net", "Node", "filter_net", "known_types", "read_net", "register"]
