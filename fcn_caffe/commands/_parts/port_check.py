"""Compares a net that `port_weights` has filled with the model that the weights come from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from fcn_caffe.errors import WeightsError
from fcn_caffe.export.engines import import_engine
from fcn_caffe.host.text import did_you_mean, show
from fcn_caffe.net.rewrite.proof import compare
from fcn_caffe.weights.formats import NPZ, ONNX, PT2, Format, format_of

if TYPE_CHECKING:
    from fcn_caffe.net.net import Net

__all__ = ["TOLERANCE", "check"]

Arrays = dict[str, npt.NDArray[Any]]

TOLERANCE = 1e-4  # of a blob's largest value
_SPREAD = 64.0  # the standard deviation of photographs less their mean


def check(net: Net, source: str, form: Format, expected: str) -> str:
    """Compare a net with a model, on what `expected` says, else on random numbers; return what was found, in words.

    Args:
        net: The net, filled.
        source: The file of the model, which ONNX Runtime runs.
        form: Its format.
        expected: An .npz file of inputs and outputs, or "".

    Raises:
        WeightsError: A blob is off by more than TOLERANCE, or there is nothing to compare with.
    """
    if expected:
        inputs, outputs = _read_expected(net, expected)
        how = expected
    elif form is ONNX:
        inputs, outputs, how = _run_onnx(net, source)
    else:
        why = (
            "torch.export's loader runs code that the file holds, so it is not run here"
            if form is PT2
            else (f"a file of weights ({form.name}) holds no model that could be run")
        )
        raise WeightsError(
            f"{source}: {why}. Run the model yourself and give what it makes: "
            "np.savez('expected.npz', data=images, score=scores), by the net's blob names, and --check expected.npz."
        )
    net.eval()
    with torch.no_grad():
        blobs = net({name: torch.from_numpy(array) for name, array in inputs.items()}, keep=outputs)
    found = []
    for name, array in outputs.items():
        if tuple(blobs[name].shape) != array.shape:
            raise WeightsError(
                f"{how}: '{name}' is {show(array.shape)}, the net's {show(blobs[name].shape)}. Is it the same net?"
            )
        found.append(compare(name, torch.from_numpy(array), blobs[name], TOLERANCE, f"{how}'s"))
    shapes = ", ".join(f"{name} {show(array.shape)}" for name, array in inputs.items())
    said = "; ".join(f"{it.blob} {it.difference:.2g}, {it.relative:.2g} of the largest value" for it in found)
    return f"checked with {how} on {shapes}: largest difference {said}"


def _read_expected(net: Net, path: str) -> tuple[Arrays, Arrays]:
    """Read inputs and outputs by blob name."""
    if format_of(path) is not NPZ:
        raise WeightsError(f"{path}: wanted an .npz file of arrays by blob name, as np.savez writes it.")
    arrays: Mapping[str, npt.NDArray[Any]] = NPZ.read_named(path).arrays
    for name in arrays:
        if name not in net.blob_shapes:
            raise WeightsError(f"{path}: the net has no blob '{name}'.{did_you_mean(name, net.blob_shapes)}")
    inputs = {name: array for name, array in arrays.items() if name in net.graph.inputs}
    outputs = {name: array for name, array in arrays.items() if name not in inputs}
    if len(inputs) < len(net.graph.inputs) or not outputs:
        raise WeightsError(
            f"{path}: holds {', '.join(arrays) or 'nothing'}; wanted the inputs {', '.join(net.graph.inputs)} and at "
            f"least one blob made of them, as {', '.join(net.graph.outputs)}."
        )
    return inputs, outputs


def _run_onnx(net: Net, path: str) -> tuple[Arrays, Arrays, str]:
    """Run a model on random numbers; return inputs and outputs by the net's names, and what ran it."""
    try:
        onnxruntime = import_engine("onnxruntime")
    except ImportError:
        raise WeightsError(f'{path}: --check needs ONNX Runtime. Run `pip install "fcn-caffe[onnx]"`.') from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are told below
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        taken, given = session.get_inputs(), [output.name for output in session.get_outputs()]
        names = _pair([entry.name for entry in taken], net.graph.inputs, f"{path}: its inputs")
        inputs: Arrays = {}
        for entry, name in zip(taken, names, strict=True):
            if entry.type != "tensor(float)":
                raise WeightsError(
                    f"{path}: its input '{entry.name}' is a {entry.type}, not the net's input. Export the model "
                    "without its preprocessing, or give --check FILE.npz."
                )
            sizes = _sizes(entry.shape, net.blob_shapes[name])
            numbers = np.random.default_rng(len(inputs)).standard_normal(sizes, np.float32)
            inputs[name] = numbers * np.float32(_SPREAD if sizes[1:2] == [3] else 1)
        values = session.run(None, {entry.name: inputs[name] for entry, name in zip(taken, names, strict=True)})
    except WeightsError:
        raise
    except Exception as error:  # of many classes
        reason = str(error).strip().partition("\n")[0]
        raise WeightsError(f"{path}: ONNX Runtime cannot run it: {reason}") from None
    blobs = _pair(given, net.graph.outputs, f"{path}: its outputs", net.blob_shapes)
    outputs = {blob: value for blob, value in zip(blobs, values, strict=True) if value.dtype.kind == "f"}
    if not outputs:
        raise WeightsError(f"{path}: gives no scores, but {values[0].dtype}. Give --check FILE.npz.")
    return inputs, outputs, f"{os.path.basename(path)} in ONNX Runtime {onnxruntime.__version__}"


def _sizes(theirs: Sequence[int | str | None], ours: Sequence[int]) -> list[int]:
    """Return sizes that a model takes: its own, and where it takes any those of the net."""
    free = [*ours, *[1] * (len(theirs) - len(ours))]
    return [size if isinstance(size, int) else other for size, other in zip(theirs, free, strict=False)]


def _pair(theirs: list[str], ours: tuple[str, ...], what: str, blobs: Mapping[str, object] | None = None) -> list[str]:
    """Return the net's name of each of the model's inputs or outputs: the same, where the net has it, else in order."""
    if all(name in (blobs or ours) for name in theirs):
        return theirs
    if len(theirs) != len(ours):
        raise WeightsError(f"{what} are {', '.join(theirs)}, the net's {', '.join(ours)}. Give --check FILE.npz.")
    return list(ours)
