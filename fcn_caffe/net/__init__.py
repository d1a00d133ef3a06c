"""Nets: the graph of a prototxt, the torch module made of it, and the one runner that runs its layers.

>>> from fcn_caffe.net import Net, read_net
>>> from fcn_caffe.host.paths import shipped
>>> param = read_net(shipped("nets/voc-fcn8s.prototxt"), stages=["deploy"])
>>> net = Net(param, device="meta")
>>> [str(node) for node in net.graph.nodes][-2:]
["layer 'upscore8' (Deconvolution)", "layer 'score' (Crop)"]
>>> net.blob_shapes["score"]
(1, 21, 500, 500)

`read_net` and `filter_net` give a NetParameter, `Graph` wires it, `Net` runs it. A `Runner` of one's own watches or
changes what happens layer by layer, `register` adds a layer type, and `rewrite` makes nets from nets.
"""

# Every layer type a net may name, and the packages its Python layers may come from.
import fcn_caffe.data.layers
import fcn_caffe.data.sets
import fcn_caffe.layers  # noqa: F401
from fcn_caffe.layers.base import known_types, register
from fcn_caffe.net.graph import Graph, Node, filter_net, read_net
from fcn_caffe.net.net import Net
from fcn_caffe.net.parameters import LearnableParam
from fcn_caffe.net.runner import Runner, Step

__all__ = [
    "Graph",
    "LearnableParam",
    "Net",
    "Node",
    "Runner",
    "Step",
    "filter_net",
    "known_types",
    "read_net",
    "register",
]
