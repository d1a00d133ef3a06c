"""The paper's data sets as Python layers, which a net names by their module alone: `module: "voc_layers"`."""

from fcn_caffe.layers.python import PACKAGES

if __name__ not in PACKAGES:
    PACKAGES.append(__name__)
