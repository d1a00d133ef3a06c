"""ONNX: written by PyTorch's exporter, with Caffe's names, and run by ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fcn_caffe
from fcn_caffe.errors import GraphError
from fcn_caffe.export.engines import Array, Engine, import_engine, reason_of
from fcn_caffe.export.program import Program
from fcn_caffe.export.quiet import quiet

if TYPE_CHECKING:
    import torch

__all__ = ["MOST_BYTES", "make_onnx", "open_onnx", "write_onnx"]

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

    made = make_onnx(program.exported, list(program.inputs), program.output_names(), opset)
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


def make_onnx(program: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], opset: int) -> Any:  # noqa: ANN401 (PyTorch's ONNXProgram)
    """Make an ONNX model of a program.

    Args:
        program: it.
        inputs: what its inputs are called.
        outputs: likewise.
        opset: the version of ONNX's operators.

    Raises:
        GraphError: PyTorch's exporter fails.
    """
    import torch

    try:
        with quiet():
            made: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                optimize=False,
                input_names=inputs,
                output_names=outputs,
            )
            _keep_constants(made.model)
            made.optimize()
            graph = made.model.graph
            for value, name in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
                value.name = name  # of an input that is an output as well PyTorch changes the name
    except Exception as error:  # of many classes
        raise GraphError(f"PyTorch's exporter to ONNX fails: {reason_of(error)} Please report this net.") from error
    return made


_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


def _keep_constants(model: Any) -> None:  # noqa: ANN401 (onnx_ir's)
    """Make constants vectors of one where the optimiser takes them for 0 or 1, and drops them.

    It does so with scalars within 1e-8 of 0, or 1e-5 of 1: without an eps of 1e-10, 0 / (0 + eps) is not 0. A blob
    without axes would get one: there they stay.
    """
    import onnx_ir

    nodes: list[Any] = list(onnx_ir.traversal.RecursiveGraphIterator(model.graph))
    for node in nodes:
        neutral = _NEUTRAL.get(node.op_type)
        top = node.outputs[0]
        if neutral is None or top.dtype is None or not top.dtype.is_floating_point() or not top.shape:
            continue
        for place, value in enumerate(node.inputs):
            constant = onnx_ir.convenience.get_const_tensor(value)
            if constant is None or constant.shape or constant.numpy().item() == neutral:
                continue
            if math.isclose(constant.numpy().item(), neutral, rel_tol=1e-5, abs_tol=1e-8):
                vector = onnx_ir.tensor(constant.numpy().reshape(1))
                kept = onnx_ir.node("Constant", [], {"value": vector})
                node.graph.insert_before(node, kept)
                node.replace_input_with(place, kept.outputs[0])


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
    if value.shape is not None:  # a new one: the optimiser makes some that cannot be changed
        value.shape = onnx_ir.Shape(
            size if isinstance(size, int) or size.value is None else program.rename(size.value) for size in value.shape
        )


def open_onnx(path: Path) -> Engine:
    """Load an ONNX file into ONNX Runtime."""
    onnxruntime = import_engine("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        return [np.asarray(top) for top in session.run(None, dict(inputs))]

    return Engine(f"ONNX Runtime {onnxruntime.__version__}", run)
