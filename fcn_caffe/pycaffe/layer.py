"""Layers as pycaffe shows them, and the base class of Python layers."""

from __future__ import annotations

from fcn_caffe.layers.python import Python, PythonLayer
from fcn_caffe.pycaffe.blob import BlobVec
from fcn_caffe.pycaffe.executor import Step


class Layer(PythonLayer):
    """Base of Python layers: `param_str`, `phase`, `blobs`; write setup, reshape, forward and backward.

    setup, reshape and forward take (bottom, top), backward takes (top, propagate_down, bottom). bottom and top are
    lists of Blobs; a top in place is the same Blob as its bottom. Source: pycaffe's Layer.
    """

    @property
    def type(self) -> str:
        """The layer type of every class of this kind."""
        return "Python"


class NetLayer:
    """A layer of a net: its `type` and its parameters, `blobs`."""

    def __init__(self, step: Step) -> None:
        self._step = step

    @property
    def type(self) -> str:
        return self._step.node.type

    @property
    def blobs(self) -> BlobVec:
        return self._step.blobs

    def __repr__(self) -> str:
        return f"<caffe layer '{self._step.node.name}' ({self.type})>"


def layer_of(step: Step) -> object:
    """Return the item of `net.layers` for a step: a Python layer's own object, as in pycaffe, else a NetLayer."""
    return step.layer.user if isinstance(step.layer, Python) else NetLayer(step)
