"""Weights: read from and written to files of many formats, copied into nets with a report, changed by surgery."""

from fcn_caffe.weights.formats import ABSENT, Array, Weights
from fcn_caffe.weights.transfer import CopyReport, copy_weights, load_weights, net_weights, save_weights

__all__ = ["ABSENT", "Array", "CopyReport", "Weights", "copy_weights", "load_weights", "net_weights", "save_weights"]
