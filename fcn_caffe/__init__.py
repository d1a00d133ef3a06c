"""Caffe's fully convolutional networks, alive on PyTorch."""

from __future__ import annotations

from fcn_caffe.host import interrupts

interrupts.end_silently()  # before what takes longer

import importlib
from typing import TYPE_CHECKING

from fcn_caffe.errors import (
    DataError,
    FcnCaffeError,
    GraphError,
    LayerError,
    PrototxtError,
    RanksError,
    SolverError,
    WeightsError,
)
from fcn_caffe.host import renamed
from fcn_caffe.host.paths import Paths

if TYPE_CHECKING:
    from fcn_caffe.layers import Layer
    from fcn_caffe.layers.python import PythonLayer
    from fcn_caffe.net import Graph, LearnableParam, Net, Node, known_types, read_net, register
    from fcn_caffe.proto.phases import TEST, TRAIN

__version__ = "0.2.0"

__all__ = [
    "TEST",
    "TRAIN",
    "DataError",
    "FcnCaffeError",
    "Graph",
    "GraphError",
    "Layer",
    "LayerError",
    "LearnableParam",
    "Net",
    "Node",
    "Paths",
    "PrototxtError",
    "PythonLayer",
    "RanksError",
    "SolverError",
    "WeightsError",
    "known_types",
    "read_net",
    "register",
]

# Imported when they are asked for: these load PyTorch, which takes a second that a command's --help does without.
_ROOM_OF = {
    "Graph": "net",
    "Layer": "layers",
    "LearnableParam": "net",
    "Net": "net",
    "Node": "net",
    "PythonLayer": "layers.python",
    "TEST": "proto.phases",
    "TRAIN": "proto.phases",
    "known_types": "net",
    "read_net": "net",
    "register": "net",
}

renamed.install()


def __getattr__(name: str) -> object:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
