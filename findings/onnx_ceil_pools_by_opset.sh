#!/bin/sh
# A good guess: MaxPool with ceil_mode: 1 has one shape for one input, whichever version of the operator a file names, and what
# onnx.shape_inference says is what an engine gives.
# What happens: where the last window begins beyond the image (kernel 2, stride 3, pad 1 on 4x4), inference says 3x3 for files of
# opset 10 to 21 and 2x2 for opset 22, whose text is the first to speak of that window. Of one and the same node ONNX's own
# evaluator and ONNX Runtime give 2x2 at either opset, OpenVINO 3x3 at either: no opset has all of them agree.
# onnx.version_converter from 21 to 22 infers before it converts, and leaves a file of opset 22 that says 3x3.
# What we do about it: pools are exported as an explicit pad and a pool without ceil_mode.
# Source: ONNX's operator MaxPool, versions 10 to 22. Seen with onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import io
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, shape_inference, version_converter
from onnx.reference import ReferenceEvaluator

image = np.random.default_rng(0).random((1, 1, 4, 4), dtype=np.float32)


def make_model(opset):
    pool = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[3, 3], pads=[1] * 4, ceil_mode=1)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, None, None])
    graph = helper.make_graph([pool], "pool", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def said(model):
    """The height of the top that a file says or leaves to inference."""
    inferred = shape_inference.infer_shapes(model)
    return inferred.graph.output[0].type.tensor_type.shape.dim[2].dim_value


def heights(model):
    """Heights of the top: by inference, by ONNX's evaluator, by ONNX Runtime and by OpenVINO."""
    data, core = model.SerializeToString(), openvino.Core()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return [
        said(model),
        ReferenceEvaluator(model).run(None, {"x": image})[0].shape[2],
        session.run(None, {"x": image})[0].shape[2],
        core.compile_model(core.read_model(io.BytesIO(data)), "CPU")(image)[0].shape[2],
    ]


print(f"onnx {version('onnx')}, onnxruntime {version('onnxruntime')}, openvino {version('openvino')}")
found = {opset: heights(make_model(opset)) for opset in (10, 18, 21, 22)}
for opset, line in found.items():
    print(f"opset {opset}: inference {line[0]}, ONNX's evaluator {line[1]}, ONNX Runtime {line[2]}, OpenVINO {line[3]}")
converted = version_converter.convert_version(make_model(21), 22)
print(f"opset 21 converted to {converted.opset_import[0].version}: the file says {said(converted)}")
assert [line[0] for line in found.values()] == [3, 3, 3, 2], "another inference: the finding no longer holds"
assert all(line[1:] == [2, 2, 3] for line in found.values()) and said(converted) == 3
PYTHON
