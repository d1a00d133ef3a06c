"""The layers, one family a file; a file in this folder that registers a type makes it known."""

from fcn_caffe.layers.base import Layer, import_families, known_types, layer_class, register

import_families(__name__, __path__)

__all__ = ["Layer", "known_types", "layer_class", "register"]
