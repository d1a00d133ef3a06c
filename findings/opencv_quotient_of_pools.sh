#!/bin/sh
# A good guess: an ONNX file that divides one average pool by another, with the second of one image and one channel, gives
# in OpenCV 5 the N x C x H x W that ONNX's broadcasting says.
# What happens: the pools keep their tops in blocks of 8 channels, the division is done on the blocks as they lie, and the
# output comes out of the net as N x 1 x H x W x 8, with inf and NaN where the second pool has no channels. No error, no
# warning. With the divisor's first two axes taken off (a Squeeze) the answer is right.
# What we do about it: the divisor of an exported AVE pool has two axes (fcn_caffe/export/portable_layers.py).
# Source: ONNX's operators AveragePool and Div, and its page on broadcasting; seen with OpenCV 5.0.0.93, new engine.
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


def divide(squeezes):
    pool = {"kernel_shape": [2, 2], "strides": [1, 1]}
    nodes = [helper.make_node("AveragePool", ["x"], ["a"], **pool), helper.make_node("AveragePool", ["ones"], ["b"], **pool)]
    nodes += [helper.make_node("Squeeze", ["b", "axes"], ["c"])] if squeezes else []
    nodes += [helper.make_node("Div", ["a", "c" if squeezes else "b"], ["y"])]
    sizes = {"x": [2, 3, 5, 5], "ones": [1, 1, 5, 5]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sizes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 4, 4])
    axes = [numpy_helper.from_array(np.array([0, 1], np.int64), "axes")] if squeezes else []
    graph = helper.make_graph(nodes, "quotient", inputs, [output], axes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8), cv2.dnn.ENGINE_NEW)
    net.setInput(np.arange(150, dtype=np.float32).reshape(2, 3, 5, 5), "x")
    net.setInput(np.ones((1, 1, 5, 5), np.float32), "ones")
    return net.forward("y")


print(f"OpenCV {cv2.__version__}")
wrong, right = divide(False), divide(True)
print(f"a quotient of pools: {wrong.shape}, {int((~np.isfinite(wrong)).sum())} values are not finite")
print(f"the divisor squeezed: {right.shape}, first row {right[0, 0, 0]}")
assert right.shape == (2, 3, 4, 4) and np.allclose(right[0, 0, 0], [3, 4, 5, 6])
assert wrong.shape == (2, 1, 4, 4, 8), "another shape: the finding no longer holds"
PYTHON
