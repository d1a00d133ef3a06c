"""Runs a net in every engine that its exported file is for, and says where the numbers are not the net's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcn_caffe import Net
from fcn_caffe.export.onnx_file import make_onnx
from fcn_caffe.export.openvino_file import open_openvino as open_openvino_file
from fcn_caffe.export.openvino_file import openvino_core, write_openvino
from fcn_caffe.export.portable import make_portable
from fcn_caffe.export.quiet import quiet
from fcn_caffe.export.write import OPSET

Array = npt.NDArray[np.generic]
Blobs = Mapping[str, Tensor]
Run = Callable[[Mapping[str, Array]], list[Array]]

TOLERANCE = 1e-5  # of the largest
ENGINES = ("torch.export", "ONNX Runtime", "OpenVINO", "OpenCV 5", "OpenVINO IR")


def export(net: Net, sample: Blobs, outputs: Sequence[str]) -> tuple[torch.export.ExportedProgram, bytes]:
    """Return a net as a program and as an ONNX file; every axis of its inputs is free, but the channels."""
    module = net.eval().as_module(outputs)
    inputs = tuple(sample[name] for name in module.input_names)
    free = tuple({axis: torch.export.Dim.AUTO for axis in range(blob.ndim) if axis != 1} for blob in inputs)
    with quiet():
        program = torch.export.export(module, inputs, dynamic_shapes=free, strict=False)
    made = make_onnx(program, module.input_names, outputs, OPSET)
    return program, made.model_proto.SerializeToString()


def open_all(net: Net, sample: Blobs, outputs: Sequence[str]) -> dict[str, Run]:
    """Export a net, and load what it becomes into each engine."""
    program, file = export(make_portable(net), sample, outputs)
    program.example_inputs = None  # as in files: with an example PyTorch refuses sizes for what the example's were like
    module = program.module()

    def run_program(inputs: Mapping[str, Array]) -> list[Array]:
        with torch.no_grad():
            tops = module(*map(torch.from_numpy, inputs.values()))
        return [top.numpy() for top in ((tops,) if isinstance(tops, Tensor) else tops)]

    return {ENGINES[0]: run_program, **open_onnx_everywhere(file, outputs)}


def open_onnx_everywhere(file: bytes, outputs: Sequence[str]) -> dict[str, Run]:
    """Load an ONNX file, and the IR that OpenVINO makes of it, into each engine."""
    runs = (open_onnxruntime(file), open_openvino(file), open_opencv(file, outputs), open_ir(file))
    return dict(zip(ENGINES[1:], runs, strict=True))


def open_onnxruntime(file: bytes) -> Run:
    """Load an ONNX file into ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def open_openvino(file: bytes) -> Run:
    """Load an ONNX file into OpenVINO."""
    core = openvino_core()
    compiled = core.compile_model(
        core.read_model(file), "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda inputs: [np.array(top) for top in compiled(dict(inputs)).values()]


def open_ir(file: bytes) -> Run:
    """Load the IR of an ONNX file into OpenVINO."""
    with tempfile.TemporaryDirectory() as folder:
        onnx, path = Path(folder, "net.onnx"), Path(folder, "net.xml")
        onnx.write_bytes(file)
        write_openvino(onnx, path, {}, half=False)
        run = open_openvino_file(path).run
    return run


def open_opencv(file: bytes, outputs: Sequence[str]) -> Run:
    """Load an ONNX file into OpenCV's new engine, once for each run: it keeps what it knows of the first's sizes."""
    import cv2

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        net = cv2.dnn.readNetFromONNX(np.frombuffer(file, np.uint8), cv2.dnn.ENGINE_NEW)
        for name, blob in inputs.items():
            net.setInput(np.ascontiguousarray(blob), name)
        return [np.asarray(top) for top in net.forward(list(outputs))]

    return run


def difference(found: Sequence[Array], wanted: Sequence[Array]) -> str:
    """Say how tops differ from the wanted ones, as a share of the largest; empty where they are the same."""
    for top, expected in zip(found, wanted, strict=True):
        if top.shape != expected.shape and (expected.shape or top.shape != (1,)):  # OpenCV has no scalars
            return f"shape {top.shape} for {expected.shape}"
        apart = np.abs(top.astype(np.float64) - expected).max(initial=0)
        if not apart <= TOLERANCE * max(np.abs(expected).max(initial=0), 1e-30):
            return f"off by {apart:.2g}"
    return ""


def answer(net: Net, inputs: Blobs, outputs: Sequence[str]) -> list[Array]:
    """Return a net's outputs, as of its first forward: files keep no state."""
    for layer in net.layers_in_order:
        if hasattr(layer, "reset"):
            layer.reset()
    with torch.no_grad():
        blobs = net(inputs, keep=outputs)
    return [blobs[name].detach().numpy() for name in outputs]  # an input that passes through may want a gradient


def compare(net: Net, runs: Mapping[str, Run], inputs: Blobs, outputs: Sequence[str]) -> dict[str, str]:
    """Run every engine on inputs of one size; return by engine what is wrong, empty where nothing is."""
    wanted, found = answer(net, inputs, outputs), {}
    for engine, run in runs.items():
        try:
            tops = run({name: blob.numpy().copy() for name, blob in inputs.items()})
        except Exception as error:  # an engine's, of any class
            found[engine] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        else:
            found[engine] = difference(tops, wanted)
    return found
