"""Caffe's data layers, one file each; a file of this folder is imported because it is there.

    >>> from fcn_caffe import Net
    >>> from fcn_caffe.proto import caffe_pb2, parse_text
    >>> text = '''
    ... layer { name: "data" type: "DummyData" top: "data" dummy_data_param {
    ...   shape { dim: 2 dim: 3 } data_filler { type: "constant" value: 7 } } }
    ... '''
    >>> Net(parse_text(text, caffe_pb2.NetParameter))()["data"].tolist()
    [[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]]

To add one that reads files, write a `prefetch.Source`, which makes batches from a state, and a subclass of
`PrefetchedLayer`, which hands it to `begin`: batches made ahead, snapshots of the order, forks and copies come with it.
"""

from fcn_caffe.layers.base import import_families

import_families(__name__, __path__)
