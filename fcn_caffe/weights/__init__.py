"""Weights: read from and written to files of many formats, copied into nets with a report, changed by surgery.

>>> import tempfile, numpy as np
>>> path = tempfile.mkdtemp() + "/fc.caffemodel"
>>> save_weights(path, {"fc": [np.ones((2, 3), np.float32), np.zeros(2, np.float32)]})
>>> [blob.shape for blob in load_weights(path)["fc"]]
[(2, 3), (2,)]
"""

from fcn_caffe.weights.formats import ABSENT, Array, Weights
from fcn_caffe.weights.transfer import CopyReport, copy_weights, load_weights, net_weights, save_weights

__all__ = ["ABSENT", "Array", "CopyReport", "Weights", "copy_weights", "load_weights", "net_weights", "save_weights"]
