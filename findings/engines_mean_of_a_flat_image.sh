#!/bin/sh
# A good guess: the mean over an image of one colour is that colour to the last digit or two, and an instance normalisation of
# it is 0, in ONNX Runtime and OpenVINO as in PyTorch and NumPy: nothing cancels where all numbers are alike.
# What happens: both engines add a whole plane up in float32 in a few running sums, NumPy and torch.mean in pairs. At 360x480,
# which is no large image, ReduceMean and GlobalAveragePool of a plane of 0.1 are off in the fourth digit. InstanceNormalization
# subtracts such a mean and divides by what is left: a plane of 123.68, a blank frame or a border, gives 0.78 everywhere instead
# of 0. Natural images give little sign of it, since their errors are of either sign. A mean over columns, then over rows is
# right in ONNX Runtime; OpenVINO makes one mean of the two again. Right in both: the mean, and the mean of what is left without
# it added.
# What we do about it: an exported net's MVN, global averages and normalisation by the batch take the mean, and add to it the mean
# of what is left without it.
# Source: ONNX's operators InstanceNormalization, ReduceMean; they do not say in what order sums are made. Seen with onnxruntime
# 1.32.0 and openvino 2026.4.1 (CPU).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import io
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

SHAPE = [1, 1, 360, 480]


def run(nodes, value, result, arrays):
    """What both engines make of a plane of one value."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", SHAPE), ("y", result)))
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "plane", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    plane, data = np.full(SHAPE, value, np.float32), model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    return session.run(None, {"x": plane})[0], core.compile_model(core.read_model(io.BytesIO(data)), "CPU")(plane)[0]


def off(nodes, **arrays):
    """How far the engines' means of a plane of 0.1 are off, as shares."""
    return [float(abs(answer.item() / np.float32(0.1) - 1)) for answer in run(nodes, 0.1, [1, 1, 1, 1], arrays)]


def reduce(*steps):
    names = ["x", *(f"m{index}" for index in range(1, len(steps))), "y"]
    nodes = [helper.make_node("ReduceMean", [names[i], f"axes{i}"], [names[i + 1]], keepdims=1) for i in range(len(steps))]
    return off(nodes, **{f"axes{i}": np.array(axes, np.int64) for i, axes in enumerate(steps)})


print(f"onnxruntime {version('onnxruntime')}, openvino {version('openvino')}, NumPy {np.__version__}")
numpy_off = float(abs(np.full(SHAPE, 0.1, np.float32).mean() / np.float32(0.1) - 1))
means = {"ReduceMean": reduce([2, 3]), "GlobalAveragePool": off([helper.make_node("GlobalAveragePool", ["x"], ["y"])])}
steps = reduce([3], [2])
corrected = off(
    [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["left"]),
        helper.make_node("ReduceMean", ["left", "axes"], ["more"], keepdims=1),
        helper.make_node("Add", ["m", "more"], ["y"]),
    ],
    axes=np.array([2, 3], np.int64),
)
for name, shares in {**means, "ReduceMean over 3, then 2": steps, "two passes": corrected, "NumPy": [numpy_off]}.items():
    print(f"mean of 0.1 by {name}: off by {', '.join(f'{share:.1e}' for share in shares)}")
node = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"], epsilon=1e-5)
normal = run([node], 123.68, SHAPE, {"scale": np.ones(1, np.float32), "bias": np.zeros(1, np.float32)})
print(f"InstanceNormalization of 123.68: {', '.join(f'{answer.flat[0]:.3f}' for answer in normal)}")
assert min(min(shares) for shares in means.values()) > 2e-5, "right means: the finding no longer holds"
assert max(steps[0], *corrected, numpy_off) < 5e-6 and steps[1] == means["ReduceMean"][1]
assert all(abs(answer).min() > 0.1 for answer in normal), "right numbers: the finding no longer holds"
PYTHON
