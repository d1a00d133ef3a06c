"""Data sets as Python layers: the paper's, a folder of one's own, and `shapes`.

A net names them by their module, without the package: `python_param { module: "voc_layers" layer: "VOCSegDataLayer" }`.
"""

from fcn_caffe.layers.python import PACKAGES

if __name__ not in PACKAGES:
    PACKAGES.append(__name__)
