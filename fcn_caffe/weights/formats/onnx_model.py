"""ONNX: the weights of a graph's convolutions, inner products and normalisations, under the names that PyTorch has.

Nothing is run. Exporters rename weights (`onnx::Conv_23`), transpose those of a Linear, keep them in a file beside, or
in Constant nodes: which array is whose weight is seen from the node that reads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fcn_caffe.errors import WeightsError
from fcn_caffe.weights.formats.arrays import Array, Budget, Named, PathLike, as_float32, reading

# The inputs of a node that are a layer's weights, by PyTorch's names.
_ROLES: Mapping[str, Mapping[int, str]] = {
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {1: "weight", 2: "bias"},
    "MatMul": {1: "weight"},
    "BatchNormalization": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    "PRelu": {1: "weight"},
    "Gather": {0: "weight"},  # an embedding
}
_QUANTISED = {"DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulNBits"}
_LONGEST_CHAIN = 100  # of nodes that only turn a tensor, or give it another type
_FLOATS = (1, 10, 11, 16)  # TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16


def read_named(path: PathLike) -> Named:
    """Read the weights of an ONNX file in the order of its nodes; arrays of other nodes are constants.

    A weight has the name of its tensor where that is PyTorch's (`conv1.weight`), else one made of its node's name.

    Raises:
        WeightsError: The file is corrupt, quantised, or holds no weights; a file of weights beside it is not there; or
            the library is missing.
    """
    library = _library(path)
    with reading(path, "an ONNX model"):
        model = library.load_model(os.fspath(path), load_external_data=False)
        graph = _Graph(path, model.graph, library)
        named = graph.named()
    if not named.arrays:
        raise WeightsError(
            f"{os.fspath(path)}: holds no weights of a Conv, ConvTranspose, Gemm, MatMul or PRelu. Give another file."
        )
    return named


def read_facts(path: PathLike) -> dict[str, str]:
    """Read the model's metadata; raise as `read_named`."""
    library = _library(path)
    with reading(path, "an ONNX model"):
        model = library.load_model(os.fspath(path), load_external_data=False)
        return {entry.key: entry.value for entry in model.metadata_props}


class _Graph:
    """The tensors and nodes of an ONNX graph."""

    def __init__(self, path: PathLike, graph: Any, library: ModuleType) -> None:  # noqa: ANN401 (onnx's messages)
        self.path, self.library = path, library
        self.nodes = graph.node
        self.makers = {name: node for node in graph.node for name in node.output}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self.tensors[node.output[0]] = attribute.t
        self.budget = Budget(path, os.stat(path).st_size)
        self.arrays: dict[str, Array] = {}
        self.beside: set[Path] = set()  # files that tensors are in
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def named(self) -> Named:
        """Return the weights of nodes in order, and the other arrays of real numbers."""
        arrays: dict[str, Array] = {}
        taken: set[str] = set()
        layers: dict[str, int] = {}
        for node in self.nodes:
            if node.op_type in _QUANTISED:
                raise WeightsError(
                    f"{os.fspath(self.path)}: is quantised ({node.op_type}): its weights are rounded to few bits. Give "
                    "the model that it was made of."
                )
            parts = self._weights(node)
            if not parts or "weight" not in parts:
                continue
            first = parts["weight"][0]
            if first in taken:
                continue  # read a second time: the layer is known
            layer = _layer_name(node, first, layers)
            for role, (tensor, array) in parts.items():
                taken.add(tensor)
                arrays[f"{layer}.{role}"] = array
        constants = {
            name: self._array(name)
            for name, tensor in self.tensors.items()
            if name not in taken and tensor.data_type in _FLOATS
        }
        return Named(arrays, constants, is_program=True)

    def _weights(self, node: Any) -> dict[str, tuple[str, Array]]:  # noqa: ANN401
        """Return name and array of a node's weights, by role."""
        parts: dict[str, tuple[str, Array]] = {}
        for position, role in _ROLES.get(node.op_type, {}).items():
            found = self._constant(node.input[position]) if position < len(node.input) else None
            if found is not None:
                parts[role] = found
        if "weight" not in parts:
            return {}
        options = {attribute.name: attribute for attribute in node.attribute}
        tensor, weight = parts["weight"]
        if node.op_type == "Gather" and weight.ndim != 2:
            return {}
        if node.op_type in ("Gemm", "MatMul"):
            if weight.ndim != 2 or ("transA" in options and options["transA"].i):
                return {}
            if node.op_type == "MatMul" or "transB" not in options or not options["transB"].i:
                weight = weight.T
            parts["weight"] = tensor, weight
            if node.op_type == "MatMul":
                parts |= self._added(node.output[0], len(weight))
            for role, name in (("weight", "alpha"), ("bias", "beta")):
                if name in options and role in parts and options[name].f != 1:
                    parts[role] = parts[role][0], parts[role][1] * np.float32(options[name].f)
        elif node.op_type == "PRelu":
            parts["weight"] = tensor, weight.reshape(-1)
        return parts

    def _added(self, product: str, outputs: int) -> dict[str, tuple[str, Array]]:
        """Return the bias that the one reader of a product adds, if it does."""
        readers = self.readers.get(product, [])
        if len(readers) == 1 and readers[0].op_type == "Add":
            for name in readers[0].input:
                found = self._constant(name) if name != product else None
                if found is not None and found[1].shape == (outputs,):
                    return {"bias": found}
        return {}

    def _constant(self, name: str) -> tuple[str, Array] | None:
        """Return the tensor that a value is, and its array; None for what depends on the input."""
        turns: list[Sequence[int] | None] = []
        seen: set[str] = set()
        while name not in self.tensors:
            node = self.makers.get(name)
            if node is None or node.op_type not in ("Identity", "Transpose", "Cast"):
                return None
            if node.op_type == "Transpose":
                turns.append(next((list(attribute.ints) for attribute in node.attribute), None))
            seen.add(name)
            name = node.input[0]
            if name in seen or len(seen) > _LONGEST_CHAIN:
                raise WeightsError(
                    f"{os.fspath(self.path)}: a value is made of itself, or by more than {_LONGEST_CHAIN} nodes that "
                    "leave it as it is. The file is corrupt. Copy it again."
                )
        if self.tensors[name].data_type not in _FLOATS:
            return None
        array = self._array(name)
        for turn in reversed(turns):
            array = array.transpose(turn)
        return name, array

    def _array(self, name: str) -> Array:
        """Return the numbers of a tensor, float32."""
        if name not in self.arrays:
            self.arrays[name] = self._read(name)
        return self.arrays[name]

    def _read(self, name: str) -> Array:
        tensor = self.tensors[name]
        what = f"{os.fspath(self.path)}: {name}"
        if any(size < 0 for size in tensor.dims):
            raise WeightsError(f"{what} has a negative size. The file is corrupt. Copy it again.")
        if tensor.data_location == self.library.TensorProto.EXTERNAL:
            return as_float32(self._beside(tensor, what), what)
        self.budget.take_values(tensor.dims, name)
        return as_float32(np.asarray(self.library.numpy_helper.to_array(tensor), order="C"), what)

    def _beside(self, tensor: Any, what: str) -> Array:  # noqa: ANN401
        """Return the numbers of a tensor in a file beside this one, as a view of that file."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        folder = Path(self.path).resolve().parent
        file = (folder / entries["location"]).resolve()
        if not file.is_relative_to(folder):
            raise WeightsError(
                f"{what} is in {entries['location']!r}, which is not beside the file. It is not read. "
                "Put that file beside the model."
            )
        if not file.is_file():
            raise WeightsError(f"{what} is in {file.name}, which is not there. Put that file beside the model.")
        if file not in self.beside:
            self.beside.add(file)
            self.budget.size += file.stat().st_size
        self.budget.take_values(tensor.dims, tensor.name)
        dtype = np.dtype(self.library.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        offset, size = int(entries.get("offset", 0)), prod(tensor.dims) * dtype.itemsize
        if offset < 0 or offset + size > file.stat().st_size or int(entries.get("length", size)) != size:
            raise WeightsError(
                f"{what} is not whole in {file.name}. The file is truncated, or of another model. Copy it again."
            )
        values = np.memmap(file, np.uint8, "c", offset, (size,)) if size else np.zeros(0, np.uint8)
        array = np.frombuffer(values, dtype).reshape(tuple(tensor.dims))
        return array if array.dtype.kind in "fiu" else array.astype(np.float32)


def _layer_name(node: Any, tensor: str, known: dict[str, int]) -> str:  # noqa: ANN401
    """Return what to call the layer of a node: after its weight where that has PyTorch's name, else after the node.

    Args:
        node: The node.
        tensor: Its weight.
        known: How many layers have each name; the new one is added.
    """
    name, dot, last = tensor.rpartition(".")
    if not (dot and last in ("weight", "slope")):
        path = [part for part in node.name.split("/") if part]
        name = path[-2] if len(path) > 1 else node.name or tensor
    unique = name
    while unique in known:
        known[name] += 1
        unique = f"{name}_{known[name]}"
    known[unique] = 1
    return unique


def _library(path: PathLike) -> ModuleType:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise WeightsError(f'{os.fspath(path)}: needs the library onnx. Run `pip install "fcn-caffe[onnx]"`.') from None
    return onnx
