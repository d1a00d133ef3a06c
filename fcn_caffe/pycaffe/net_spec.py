"""`caffe.net_spec`: nets written in Python. It is fcn_caffe.net.net_spec, whose rules are pycaffe's."""

from __future__ import annotations

from fcn_caffe.net.net_spec import (
    Function,
    Layers,
    NetSpec,
    Parameters,
    Top,
    assign_proto,
    layers,
    param_name_dict,
    params,
    to_proto,
)

__all__ = [
    "Function",
    "Layers",
    "NetSpec",
    "Parameters",
    "Top",
    "assign_proto",
    "layers",
    "param_name_dict",
    "params",
    "to_proto",
]
