"""Caffe's data layers; a file in this folder that registers a type makes it known."""

from fcn_caffe.layers.base import import_families

import_families(__name__, __path__)
