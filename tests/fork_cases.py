"""Golden cases of layers that forks of Caffe added: a net, its inputs and weights, and what the fork gives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from places import GOLDEN
from torch import Tensor

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.weights.transfer import copy_weights

FOLDER = GOLDEN / "forks"
# Cases whose net does not say whose it is, by the beginning of their name.
ASKED = {"crop_derived_offset": "hed", "hed_": "hed", "pspnet_": "pspnet", "rcf_": "rcf", "rfcn_": "rfcn"}
ASKED |= {"segnet_": "segnet", "smoothl1_": "fast-rcnn"}
ITS_GRADIENT, TRUE = "_fork", "_true"


def case_names() -> list[str]:
    """Return the cases that give tops for bottoms; those of data layers have a list of pictures."""
    return sorted(path.name for path in FOLDER.iterdir() if not (path / "list.txt").exists())


@dataclass(frozen=True)
class ForkCase:
    """One case: `inputs` and `weights` go into `net()`, `expected` has tops and gradients as its README says."""

    name: str

    @property
    def folder(self) -> Path:
        """Where the case's files are."""
        return FOLDER / self.name

    @cached_property
    def readme(self) -> str:
        """What the case says of itself."""
        return (self.folder / "README").read_text()

    def arrays(self, which: str) -> dict[str, Tensor]:
        """Return the arrays of inputs, weights or expected."""
        with np.load(self.folder / f"{which}.npz") as file:
            return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}

    def net(self) -> Net:
        """Build the case's net and fill it with its weights."""
        fork = next((fork for start, fork in ASKED.items() if self.name.startswith(start)), "")
        phase = TRAIN if "Phase TRAIN" in self.readme else TEST
        net = Net(self.folder / "net.prototxt", phase, fork=fork)
        weights: dict[str, list[np.ndarray]] = {}
        for name, blob in sorted(self.arrays("weights").items()):
            weights.setdefault(name.rpartition("/")[0], []).append(blob.numpy())
        copy_weights(net, weights)
        return net


def check_case(case: ForkCase) -> None:
    """Compare tops, gradients and moved blobs of a case; a gradient of the fork alone under `follows_caffe`, too."""
    expected = case.arrays("expected")
    forks = any(name.endswith((ITS_GRADIENT, TRUE)) for name in expected)
    for follows in (False, True) if forks else (False,):
        net = case.net()
        for layer in net.layers_in_order:
            layer.follows_caffe = follows
        _check(case, net, expected, TRUE if not follows else ITS_GRADIENT)


def _check(case: ForkCase, net: Net, expected: dict[str, Tensor], wanted: str) -> None:
    tops = [name for name in expected if ":" not in name and name in net.blob_shapes]
    inputs = case.arrays("inputs")
    diffs = {name.removeprefix("topdiff:"): value for name, value in expected.items() if name.startswith("topdiff:")}
    gradients = {
        name.removeprefix("grad:").removesuffix(wanted): value
        for name, value in expected.items()
        if name.startswith("grad:") and not name.endswith(ITS_GRADIENT if wanted == TRUE else TRUE)
    }
    leaves = {name: value.requires_grad_(name in gradients) for name, value in inputs.items()}
    blobs = net(leaves, keep={*tops, *diffs, *(name for name in gradients if name in net.blob_shapes)})
    for name in tops:
        close(blobs[name], expected[name], f"{case.name}: {name}")
    if gradients:
        losses = [(blobs[name] * diff).sum() for name, diff in diffs.items()] or [
            blobs[name].sum() for name in tops[:1]
        ]
        places = [_place(net, {**blobs, **leaves}, name) for name in gradients]
        found = torch.autograd.grad(sum(losses[1:], losses[0]), places)
        for name, place, gradient in zip(gradients, places, found, strict=True):
            close(gradient, gradients[name].reshape(place.shape), f"{case.name}: gradient of {name}")
    for name, value in expected.items():
        if name.startswith("after:"):
            close(_place(net, {}, name.removeprefix("after:")), value, f"{case.name}: {name}")
    second = {name.removeprefix("second:"): value for name, value in expected.items() if name.startswith("second:")}
    if second:
        again = net({name: second[name] for name in inputs}, keep=tops)
        for name in tops:
            close(again[name], second[name], f"{case.name}: {name}, second forward")


def _place(net: Net, blobs: dict[str, Tensor], name: str) -> Tensor:
    layer, _, index = name.rpartition("/")
    return net.params[layer][int(index)] if layer else blobs[name]


def close(ours: Tensor, theirs: Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Assert that two arrays differ by less than the tolerance of the largest number."""
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    largest = max(float(theirs.abs().max()), 1e-12) if theirs.numel() else 1.0
    distance = float((ours.detach() - theirs).abs().max()) / largest if theirs.numel() else 0.0
    assert distance <= tolerance, f"{what}: {distance:.2g} of the largest"
