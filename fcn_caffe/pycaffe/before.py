"""Names that pycaffe had before Caffe 1.0: each says what took its place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar, cast

__all__ = ["old_module_name", "old_net_name", "refuse_old_options", "two_files"]

Init = TypeVar("Init", bound=Callable[..., None])

_PHASE = "The phase is given when a net is built: caffe.Net(file, caffe.{0}) or caffe.Net(file, weights, caffe.{0})."
_MODULE = {"set_phase_test": _PHASE.format("TEST"), "set_phase_train": _PHASE.format("TRAIN")}
_TRANSFORMER = (
    "A Transformer does it: transformer = caffe.io.Transformer({{'data': net.blobs['data'].data.shape}}), then "
    "transformer.{}."
)
_NET = {
    **_MODULE,
    "set_mode_cpu": "The mode is the module's: caffe.set_mode_cpu().",
    "set_mode_gpu": "The mode is the module's: caffe.set_mode_gpu().",
    "set_device": "The device is the module's: caffe.set_device(number).",
    "set_mean": _TRANSFORMER.format("set_mean('data', array), with the array itself: numpy.load(file) of a .npy"),
    "set_raw_scale": _TRANSFORMER.format("set_raw_scale('data', 255)"),
    "set_input_scale": _TRANSFORMER.format("set_input_scale('data', scale)"),
    "set_channel_swap": _TRANSFORMER.format("set_channel_swap('data', (2, 1, 0))"),
    "preprocess": _TRANSFORMER.format("preprocess('data', image)"),
    "deprocess": _TRANSFORMER.format("deprocess('data', array)"),
    "mean": _TRANSFORMER.format("mean"),
    "raw_scale": _TRANSFORMER.format("raw_scale"),
    "input_scale": _TRANSFORMER.format("input_scale"),
    "channel_swap": _TRANSFORMER.format("channel_swap"),
    "ForwardPrefilled": "It is net.forward() without arrays.",
    "Forward": "It is net.forward(data=array).",
    "Backward": "It is net.backward().",
}
_OPTIONS = {
    "gpu": "Call caffe.set_mode_gpu() or caffe.set_mode_cpu() before.",
    "mean_file": "Give the array itself: mean=numpy.load(file).",
    "phase": "A {} is always in its TEST phase: leave it out.",
}


def old_module_name(name: str) -> str:
    """Return what took the place of a name of the module `caffe`; empty for any other name."""
    return _MODULE.get(name, "")


def old_net_name(name: str) -> str:
    """Return what took the place of a method or attribute of Net; empty for any other name."""
    return _NET.get(name, "")


def two_files(network_file: object, weights: object) -> str:
    """Return what to write for `Net(network_file, weights)`, which had no phase."""
    return (
        f"Net takes a phase, too: caffe.Net({network_file!r}, {weights!r}, caffe.TEST) to run it, caffe.TRAIN to "
        "train. Before Caffe 1.0 two files were enough."
    )


def refuse_old_options(init: Init) -> Init:
    """Let an `__init__` raise TypeError for options of before Caffe 1.0 that says what took their place."""

    @functools.wraps(init)
    def checked(self: object, *arguments: object, **options: object) -> None:
        for name in options:
            if name in _OPTIONS:
                kind = type(self).__name__
                raise TypeError(f"{kind} has no option {name!r} since Caffe 1.0. {_OPTIONS[name].format(kind)}")
        init(self, *arguments, **options)

    return cast(Init, checked)
