"""The layers that compute: one file for each family, one class for each Caffe layer type.

A net finds the class of a layer's `type:` in the registry:

    >>> from fcn_caffe.layers import known_types, layer_class
    >>> from fcn_caffe.proto import caffe_pb2
    >>> "Convolution" in known_types()
    True
    >>> param = caffe_pb2.LayerParameter(name="crop", type="Crop", bottom=["score", "data"], top=["out"])
    >>> layer_class(param).__name__
    'Crop'

To add a layer, write its class in the file of its family, or in a new file of this folder, which is imported because
it is there: `@register("Type", bottoms=…, tops=…)`, options and `add_blob` in `__init__`, arithmetic in `forward`.
`Layer` shows a whole one. A layer of your own may live in any module that is imported before the net is built; a type
that is registered already is an error, unless `register` is told `replace=True`. Layers that read data are in
`fcn_caffe.data.layers`, those that Caffe's forks added in `forks`.
"""

from fcn_caffe.layers.base import Layer, import_families, known_types, layer_class, register

import_families(__name__, __path__)

__all__ = ["Layer", "known_types", "layer_class", "register"]
