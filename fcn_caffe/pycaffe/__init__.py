"""Caffe's Python interface over this package: `import fcn_caffe.pycaffe as caffe`.

>>> import tempfile
>>> import fcn_caffe.pycaffe as caffe
>>> from fcn_caffe.pycaffe import layers as L
>>> n = caffe.NetSpec()
>>> n.data = L.Input(input_param={"shape": {"dim": [1, 2]}})
>>> n.twice = L.Power(n.data, scale=2)
>>> with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
...     print(n.to_proto(), file=file, flush=True)
...     net = caffe.Net(file.name, caffe.TEST)
>>> net.blobs["data"].data[...] = [3, 4]
>>> net.forward()["twice"].tolist()
[[6.0, 8.0]]

`install()` makes a plain `import caffe` mean this package; `python -m fcn_caffe.pycaffe SCRIPT ARGS` runs a script so.
"""

from __future__ import annotations

import importlib
import sys

from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.pycaffe.before import old_module_name
from fcn_caffe.pycaffe.blob import Blob
from fcn_caffe.pycaffe.install import install
from fcn_caffe.pycaffe.layer import Layer
from fcn_caffe.pycaffe.modes import (
    Timer,
    init_log,
    layer_type_list,
    log,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_random_seed,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from fcn_caffe.pycaffe.nccl import NCCL, has_nccl
from fcn_caffe.pycaffe.net import Net
from fcn_caffe.pycaffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)

__version__ = "1.0.0"  # Caffe's, whose interface this is

__all__ = [
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "Timer",
    "get_solver",
    "has_nccl",
    "init_log",
    "install",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "params",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
]

# Imported when they are asked for: a script that runs a net needs none of them.
_LATER = {
    "Classifier": "classifier",
    "Detector": "detector",
    "NetSpec": "net_spec",
    "layers": "net_spec",
    "params": "net_spec",
    "to_proto": "net_spec",
}
# pycaffe's own modules whose names are all in this one, and the classes that only its C++ module shows.
_SAME = ("_caffe", "pycaffe")
_CONTAINERS = {"BlobVec": "BlobVec", "RawBlobVec": "BlobVec"}
_MODULES = ("classifier", "coord_map", "detector", "draw", "io", "net_spec", "proto")


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _SAME:
        return sys.modules[__name__]
    if name in _CONTAINERS:
        return getattr(importlib.import_module(f"{__name__}.blob"), _CONTAINERS[name])
    hint = old_module_name(name)
    raise AttributeError(f"module 'caffe' ({__name__}) has no attribute {name!r}.{hint and f' {hint}'}")
