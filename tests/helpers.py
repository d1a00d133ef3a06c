"""Nets from short prototxt strings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from places import ROOT

from fcn_caffe import TEST, Net, read_net
from fcn_caffe.proto import caffe_pb2, parse_text


def input_layer(name: str, *shape: int) -> str:
    """Return an Input layer's text."""
    dims = " ".join(f"dim: {size}" for size in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(name: str, type: str, bottom: str = "", top: str | None = None, more: str = "") -> str:
    """Return a layer's text. Bottoms and tops are separated by spaces; the top has the layer's name by default."""
    bottoms = " ".join(f'bottom: "{blob}"' for blob in bottom.split())
    tops = " ".join(f'top: "{blob}"' for blob in (name if top is None else top).split())
    return f'layer {{ name: "{name}" type: "{type}" {bottoms} {tops} {more} }}\n'


def net_param(*text: str) -> caffe_pb2.NetParameter:
    """Parse the joined text."""
    return parse_text("\n".join(text), caffe_pb2.NetParameter, "net.prototxt")


def make_net(*text: str, phase: int = TEST, path: Path | None = None, **options: Any) -> Net:
    """Build a Net of the joined text, through a file at `path` if there is one; `options` are those of Net."""
    if path is None:
        return Net(net_param(*text), phase, **options)
    path.write_text("\n".join(text))
    return Net(path, phase, **options)


def randomise(net: Net, seed: int = 0) -> None:
    """Fill every parameter with small random numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for blobs in net.params.values():
            for blob in blobs:
                blob.copy_(torch.randn(blob.shape, generator=generator) * 0.3)


def narrow_net(name: str, share: int = 16) -> caffe_pb2.NetParameter:
    """Return the deploy form of a net in nets/ with a share of its channels, its convolutions filled at random."""
    param = read_net(ROOT / "nets" / f"{name}.prototxt", stages=("deploy",))
    for it in param.layer:
        options = it.convolution_param
        if it.type == "Convolution" and options.num_output >= 64:
            options.num_output //= share
        if it.type == "Convolution":
            options.weight_filler.type = "msra"
    return param
