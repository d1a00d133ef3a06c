"""Small nets with the numbers that BVLC Caffe gave for them (tests/golden/cases), run through the face and the core.

A case is a folder: net.prototxt (and solver.prototxt), inputs.npz, what Caffe had then (caffe.npz), or how it died
(caffe.txt). cases.tsv has each one's phase and whether Caffe ran it.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from places import GOLDEN

import fcn_caffe.pycaffe as caffe

Array = npt.NDArray[Any]
Numbers = dict[str, Array]

CASES = GOLDEN / "cases"
PHASES = {"TRAIN": caffe.TRAIN, "TEST": caffe.TEST}


def read_table() -> list[tuple[str, int, bool]]:
    """Each case with its phase and whether Caffe ran it."""
    with open(CASES / "cases.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [(row["case"], PHASES[row["phase"]], row["caffe"] == "runs") for row in rows]


def caffes_numbers(case: str) -> Numbers:
    """What Caffe had, by its path: fwd0/data/y, bwd0/diff/x, step1/pdata/ip/0 …"""
    with np.load(CASES / case / "caffe.npz") as stored:
        return dict(stored)


def run_face(case: str, phase: int, folder: Path) -> Numbers:
    """The same numbers from the `caffe` face, run in `folder`, where a solver's net is looked for."""
    with np.load(CASES / case / "inputs.npz") as stored:
        inputs = dict(stored)
    for path in (CASES / case).glob("*.prototxt"):
        shutil.copy(path, folder)
    if (folder / "solver.prototxt").exists():
        return dict(_solver_steps(folder, inputs))
    net = caffe.Net(str(folder / "net.prototxt"), phase)
    return dict(_passes(net, inputs, accumulates="accumulates" in case))


def _passes(net: Any, inputs: Mapping[str, Array], accumulates: bool) -> Iterator[tuple[str, Array]]:
    _set_params(net, inputs)
    steps = 1 + max((int(name.split("/")[0][4:]) for name in inputs if name.startswith("step")), default=0)
    for step in range(steps):
        given = {name.split("/", 1)[1]: value for name, value in inputs.items() if name.startswith(f"step{step}/")}
        for name, value in given.items():
            if not name.startswith("topdiff/"):
                net.blobs[name].reshape(*value.shape)
                net.blobs[name].data[...] = value
        if not accumulates:
            net.clear_param_diffs()
        yield f"fwd{step}/loss", np.float32(net._forward(0, len(net.layers) - 1))
        yield from ((f"fwd{step}/data/{name}", np.array(blob.data)) for name, blob in net.blobs.items())
        for name, value in given.items():
            if name.startswith("topdiff/"):
                net.blobs[name.removeprefix("topdiff/")].diff[...] = value
        net._backward(len(net.layers) - 1, 0)
        yield from ((f"bwd{step}/diff/{name}", np.array(blob.diff)) for name, blob in net.blobs.items())
        for name, blobs in net.params.items():
            for index, blob in enumerate(blobs):
                yield f"bwd{step}/pdiff/{name}/{index}", np.array(blob.diff)
                yield f"bwd{step}/pdata/{name}/{index}", np.array(blob.data)


def _solver_steps(folder: Path, inputs: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    here = os.getcwd()
    os.chdir(folder)
    try:
        solver = caffe.get_solver("solver.prototxt")
    finally:
        os.chdir(here)
    _set_params(solver.net, inputs)
    blobs = {name: values for name, values in inputs.items() if "/" not in name}
    for step in range(max(len(values) for values in blobs.values())):
        for name, values in blobs.items():
            solver.net.blobs[name].data[...] = values[step % len(values)]
        solver.step(1)
        yield from ((f"step{step}/data/{name}", np.array(blob.data)) for name, blob in solver.net.blobs.items())
        for name, params in solver.net.params.items():
            yield from ((f"step{step}/pdata/{name}/{index}", np.array(blob.data)) for index, blob in enumerate(params))


def _set_params(net: Any, inputs: Mapping[str, Array]) -> None:
    for name, value in inputs.items():
        if name.startswith("param/"):
            layer, index = name.removeprefix("param/").rsplit("/", 1)
            net.params[layer][int(index)].data[...] = value


def difference(theirs: Array, ours: Array, tolerance: float = 2e-5) -> str:
    """What is different, in words; empty where shapes, infinities and NaN are the same and numbers within tolerance.

    tolerance: of the largest finite number, and never under 1e-6.
    """
    a, b = np.asarray(theirs, np.float64), np.asarray(ours, np.float64)
    if a.shape != b.shape:
        return f"shape {a.shape}, here {b.shape}"
    finite = np.isfinite(a) & np.isfinite(b)
    other = ~finite & ~((np.isnan(a) & np.isnan(b)) | (a == b))
    if other.any():
        return f"{a[other].flat[0]}, here {b[other].flat[0]}"
    if not finite.any():
        return ""
    apart, largest = np.abs(a[finite] - b[finite]).max(), np.abs(a[finite]).max()
    return f"off by {apart:.2g} of {largest:.2g}" if apart > max(tolerance * largest, 1e-6) else ""
