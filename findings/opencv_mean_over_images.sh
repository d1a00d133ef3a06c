#!/bin/sh
# A good guess: ReduceMean over the axes 0, 2 and 3 of an ONNX file, the mean of each channel in a batch normalisation that
# goes by its batch, is in OpenCV 5 what NumPy's mean over these axes is.
# What happens: it depends on the size. For 2x3x4x3 the means are right; for 3x3x5x5 every one of them is off, in the second
# digit, without an error or a warning. Two ReduceMeans, first over 2 and 3, then over 0, give the right means.
# What we do about it: docs/export_layers.md says that BatchNorm with use_global_stats: false has other numbers there.
# Source: ONNX's operator ReduceMean; seen with OpenCV 5.0.0.93, new engine.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==5.0.0.93 onnx==1.23.2
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def means(blob, *steps):
    """The mean of each channel in OpenCV, by ReduceMeans over these axes."""
    names = ["x", *(f"y{index}" for index in range(len(steps)))]
    axes = [numpy_helper.from_array(np.array(step, np.int64), f"axes{index}") for index, step in enumerate(steps)]
    nodes = [
        helper.make_node("ReduceMean", [names[index], f"axes{index}"], [names[index + 1]], keepdims=1)
        for index in range(len(steps))
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, blob.shape)
    y = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [1, blob.shape[1], 1, 1])
    graph = helper.make_graph(nodes, "means", [x], [y], axes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8), cv2.dnn.ENGINE_NEW)
    net.setInput(blob, "x")
    return net.forward().ravel()


print(f"OpenCV {cv2.__version__}")
for shape in ((2, 3, 4, 3), (3, 3, 5, 5)):
    blob = np.random.default_rng(0).random(shape, dtype=np.float32)
    right, once, twice = blob.mean((0, 2, 3)), means(blob, (0, 2, 3)), means(blob, (2, 3), (0,))
    print(f"{shape}: NumPy {right}, over 0, 2, 3 {once}, over 2, 3 and then 0 {twice}")
    assert np.allclose(twice, right, atol=1e-5)
assert np.abs(once - right).min() > 1e-4, "right means: the finding no longer holds"
PYTHON
