"""ONNX: written by PyTorch's exporter, with Caffe's names, and run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fcn_caffe
from fcn_caffe.errors import GraphError
from fcn_caffe.export.engines import Array, Engine
from fcn_caffe.export.program import Program
from fcn_caffe.export.quiet import quiet

__all__ = ["MOST_BYTES", "OPSETS", "open_onnx", "write_onnx"]

OPSETS = (18, 23)  # the oldest and the newest that can be asked for
MOST_BYTES = 1_900_000_000  # of weights in the file itself; a protobuf message ends at 2 GiB


def write_onnx(program: Program, path: Path, facts: Mapping[str, str], opset: int) -> list[Path]:
    """Write an ONNX file.

    Args:
        program: what it computes.
        path: where to.
        facts: what its metadata says.
        opset: the version of ONNX's operators.

    Returns:
        The file; and, of a net of more than `MOST_BYTES`, the file of its weights, NAME.onnx.data.

    Raises:
        GraphError: PyTorch's exporter fails.
    """
    import onnx_ir
    import torch

    try:
        with quiet():
            made: Any = torch.onnx.export(
                program.exported,
                (),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=list(program.inputs),
                output_names=list(program.outputs),
            )
    except Exception as error:  # of many classes
        reason = str(error).strip().partition("\n")[0]
        raise GraphError(f"PyTorch's exporter to ONNX fails: {reason} Please report this net.") from error
    model = made.model
    found = model.opset_imports.get("")
    if found != opset:
        raise GraphError(f"PyTorch's exporter wrote opset {found}, not {opset}. Choose that with --opset.")
    _name(model, program)
    model.producer_name, model.producer_version = "fcn_caffe", fcn_caffe.__version__
    model.metadata_props.clear()
    model.metadata_props.update(facts)
    if sum(value.const_value.nbytes for value in model.graph.initializers.values()) <= MOST_BYTES:
        onnx_ir.save(model, path)
        return [path]
    data = path.with_name(f"{path.name}.data")
    onnx_ir.save(model, path, external_data=data.name)
    return [path, data]


def _name(model: Any, program: Program) -> None:  # noqa: ANN401 (onnx_ir's)
    """Give weights and free sizes their names, and leave out the exporter's notes for its developers."""
    import onnx_ir

    graph = model.graph
    for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            _name_sizes(value, program)
    for value in (*graph.inputs, *graph.outputs):
        _name_sizes(value, program)
    for value in list(graph.initializers.values()):
        value.metadata_props.clear()
        name = program.parameters.get(value.name)
        if name is None:
            continue
        if not _is_parameter(value, program):
            # The exporter merges batch normalisations into convolutions: what is left is no layer's own.
            layer, _, blob = name.rpartition(".")
            name = f"{layer}_merged.{blob}"
        if name not in graph.initializers:
            value.name = name
    graph.name, graph.doc_string = "net", None
    graph.metadata_props.clear()


def _is_parameter(value: Any, program: Program) -> bool:  # noqa: ANN401 (onnx_ir's)
    """Whether an initializer still has the numbers of the parameter that it is called after."""
    parameter = program.exported.state_dict[value.name].detach().numpy()
    return np.array_equal(value.const_value.numpy(), parameter)


def _name_sizes(value: Any, program: Program) -> None:  # noqa: ANN401 (onnx_ir's)
    import onnx_ir

    value.metadata_props.clear()
    for axis, size in enumerate(value.shape or ()):
        if not isinstance(size, int) and size.value is not None:
            value.shape[axis] = onnx_ir.SymbolicDim(program.rename(size.value))


def open_onnx(path: Path) -> Engine:
    """Load an ONNX file into ONNX Runtime."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        return [np.asarray(top) for top in session.run(None, dict(inputs))]

    return Engine(f"ONNX Runtime {onnxruntime.__version__}", run)
