"""OpenVINO's IR, .xml and .bin: converted from the ONNX file, and run by OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fcn_caffe.export.engines import Array, Engine

__all__ = ["open_openvino", "openvino_core", "write_openvino"]


@cache
def openvino_core() -> Any:  # noqa: ANN401 (OpenVINO has no types)
    """Return this process's one OpenVINO core.

    Each core's CPU plugin gives the thread a stack for signal handlers, and takes it away with the core. Of two cores
    that are freed in the order they were made, the second leaves the freed stack of the first: the next Ctrl-C is a
    segmentation fault (OpenVINO 2026.4.1).
    """
    import openvino  # type: ignore[import-untyped]

    return openvino.Core()


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
    import openvino

    model = openvino_core().read_model(str(onnx))
    for name, fact in facts.items():
        model.set_rt_info(fact, ["fcn_caffe", name])
    openvino.save_model(model, str(path), compress_to_fp16=half)
    return [path, path.with_suffix(".bin")]


def open_openvino(path: Path) -> Engine:
    """Load an IR into OpenVINO, on the CPU and in float32."""
    import openvino

    compiled = openvino_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Mapping[str, Array]) -> list[Array]:
        tops = compiled(list(inputs.values()))
        return [np.array(tops[port]) for port in compiled.outputs]

    return Engine(f"OpenVINO {openvino.__version__.partition('-')[0]}", run)
