"""OpenVINO's IR, .xml and .bin: converted from the ONNX file, and run by OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fcn_caffe.export.engines import Array, Engine

__all__ = ["open_openvino", "write_openvino"]


def write_openvino(onnx: Path, path: Path, facts: Mapping[str, str], half: bool) -> list[Path]:
    """Write an IR of an ONNX file.

    Args:
        onnx: the ONNX file.
        path: where to; the weights go to NAME.bin beside it.
        facts: what its rt_info says under "fcn_caffe".
        half: whether the weights are kept in float16.

    Returns:
        Both files.
    """
    import openvino  # type: ignore[import-untyped]

    model = openvino.Core().read_model(str(onnx))
    for name, fact in facts.items():
        model.set_rt_info(fact, ["fcn_caffe", name])
    openvino.save_model(model, str(path), compress_to_fp16=half)
    return [path, path.with_suffix(".bin")]


def open_openvino(path: Path) -> Engine:
    """Load an IR into OpenVINO, on the CPU and in float32."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        tops = compiled(list(inputs.values()))
        return [np.array(tops[port]) for port in compiled.outputs]

    return Engine(f"OpenVINO {openvino.__version__.partition('-')[0]}", run)
