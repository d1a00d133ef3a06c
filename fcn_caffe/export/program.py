"""Traces a net as a program of torch.export, for every size that it takes: what all files are made of."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fcn_caffe.errors import FcnCaffeError, GraphError
from fcn_caffe.export.quiet import quiet
from fcn_caffe.export.sizes import TakenSizes
from fcn_caffe.layers.base import Layer
from fcn_caffe.net.module import NetModule
from fcn_caffe.net.net import Net
from fcn_caffe.net.runner import Shape

__all__ = ["Program", "trace"]

Sizes = tuple[int | str, ...]  # a free size has a letter, or is said by those of the inputs: "2*H"

_AXES = {4: "NCHW", 5: "NCDHW"}


@dataclass(frozen=True)
class Program:
    """A traced net.

    exported: torch.export's program. inputs, outputs: the sizes of each, by blob. types: "float32", of inputs by blob,
    of outputs by their name in the file.
    letters: the letter or name of each free size, by its symbol in `exported`. parameters: the Caffe name of each
    parameter, `layer.blob`, by its name in `exported`.
    """

    exported: torch.export.ExportedProgram
    inputs: dict[str, Sizes]
    outputs: dict[str, Sizes]
    types: dict[str, str]
    letters: dict[str, str]
    parameters: dict[str, str]

    def rename(self, size: str) -> str:
        """Return a size of `exported` with letters in place of its symbols."""
        return re.sub(r"\w+", lambda word: self.letters.get(word[0], word[0]), size)

    def output_names(self) -> list[str]:
        """Return what the outputs are called in a file: one that has an input's name gets another."""
        taken = [*self.inputs, *self.outputs]
        for place, name in enumerate(self.outputs, len(self.inputs)):
            while taken.count(name) > 1:
                name = taken[place] = f"{name}_out"
        return taken[len(self.inputs) :]

    def sizes(self, shape: Sequence[Any]) -> Sizes:
        """Return the sizes of a blob of `exported`."""
        return tuple(int(size) if str(size).isdigit() else self.rename(str(size)) for size in shape)


def trace(
    net: Net, outputs: Sequence[str], types: Mapping[str, torch.dtype], taken: TakenSizes | None = None
) -> Program:
    """Trace a net in TEST.

    The number of images, heights and widths are free where the net takes others than declared, and so are the axes of
    inputs that are no images, where no layer fixes them.

    Args:
        net: the net, of layers that can be traced.
        outputs: the blobs to give.
        types: those of inputs that are not float32.
        taken: the sizes that the net takes; without them every size is the declared one.

    Raises:
        GraphError: PyTorch cannot trace the net.
    """
    module = net.as_module(outputs).eval()
    module.layers = nn.ModuleDict(_layers_by_identifier(net))
    declared = [net.blob_shapes[name] for name in module.input_names]
    shapes = declared if taken is None else [taken.traced[name] for name in module.input_names]
    images = next((shape[0] for shape in declared if len(shape) == 4), None)
    axes = [set() if taken is None else _free_axes(shape, taken, images) for shape in declared]
    kinds = [types.get(name, torch.float32) for name in module.input_names]
    exported = _export(net.name, module, shapes, kinds, axes)
    found = [node.meta["val"].shape for node in exported.graph.nodes if node.op == "placeholder"][-len(shapes) :]
    # An axis that a layer has fixed, such as an LSTM's steps, has the declared size.
    kept = [
        tuple(said if str(size).isdigit() else traced for size, said, traced in zip(*sizes, strict=True))
        for sizes in zip(found, declared, shapes, strict=True)
    ]
    if kept != shapes:
        exported = _export(net.name, module, kept, kinds, axes)
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names files of the machine
    return _program(net, exported, module.input_names, outputs)


def _export(
    name: str, module: NetModule, shapes: Sequence[Shape], kinds: Sequence[torch.dtype], axes: Sequence[set[int]]
) -> torch.export.ExportedProgram:
    samples = tuple(torch.zeros(shape, dtype=kind) for shape, kind in zip(shapes, kinds, strict=True))
    free = tuple(dict.fromkeys(found, torch.export.Dim.AUTO) for found in axes)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, samples, dynamic_shapes=free, strict=False)
    except FcnCaffeError as error:
        if not any(axes):
            raise
        raise GraphError(
            f"net '{name}' cannot be traced for every size: {error} Try the declared sizes alone, with --fixed."
        ) from error
    except Exception as error:  # of many classes
        reason = str(error).strip().partition("\n")[0]
        raise GraphError(
            f"net '{name}': PyTorch cannot trace it: {reason}. Try the declared sizes alone, with --fixed."
        ) from error


def _free_axes(shape: Shape, taken: TakenSizes, images: int | None) -> set[int]:
    """Return the axes of an input that may be free; PyTorch finds out of those of no image which are.

    Of images another number than the first input's, `images`, is a table's own: it stays.
    """
    if len(shape) not in _AXES:
        return set(range(len(shape)))
    return ({0} if taken.batches and images in (None, shape[0]) else set()) | (
        {2, 3} if len(shape) == 4 and len(taken.pairs) == 2 else set()
    )


def _program(
    net: Net, exported: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]
) -> Program:
    values = {node.name: node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"}
    given = dict(zip(inputs, (values[name] for name in exported.graph_signature.user_inputs), strict=True))
    (end,) = (node for node in exported.graph.nodes if node.op == "output")
    made = dict(zip(outputs, (node.meta["val"] for node in end.args[0]), strict=True))
    letters: dict[str, str] = {}
    declared: dict[str, int] = {}  # by letter
    for name, blob in given.items():
        for axis, size in enumerate(blob.shape):
            if not isinstance(size, int) and str(size) not in letters and str(size).isidentifier():
                letter = _AXES.get(blob.ndim, "N")[axis : axis + 1] or f"{name}_{axis}"
                count = net.blob_shapes[name][axis]
                # Inputs of one size change together: `find_sizes` did so, and a layer may want them equal.
                letters[str(size)] = letter if declared.setdefault(letter, count) == count else f"{name}_{axis}"
    program = Program(exported, {}, {}, {}, letters, _parameter_names(net))
    program.inputs.update((name, program.sizes(blob.shape)) for name, blob in given.items())
    program.outputs.update((name, program.sizes(blob.shape)) for name, blob in made.items())
    for name, blob in zip((*given, *program.output_names()), (*given.values(), *made.values()), strict=True):
        program.types[name] = str(blob.dtype).removeprefix("torch.")
    return program


def _layers_by_identifier(net: Net) -> dict[str, Layer]:
    """Return the layers by their names in a traced module: PyTorch writes code with them, and none may be `class`."""
    layers: dict[str, Layer] = {}
    for key, layer in net.layers.items():
        assert isinstance(layer, Layer)
        while keyword.iskeyword(key) or key in layers:
            key += "_"
        layers[key] = layer
    return layers


def _parameter_names(net: Net) -> dict[str, str]:
    """Return `layer.blob` of each parameter, by its name in the module."""
    names: dict[str, str] = {}
    for key, layer in _layers_by_identifier(net).items():
        names.update((f"layers.{key}.{blob}", f"{layer.name}.{blob}") for blob in layer.blob_names)
    return names
