#!/bin/sh
# A good guess: onnxscript's optimiser, which torch.onnx.export runs, takes out x + 0 and x * 1 and leaves every other constant.
# What happens: a scalar within 1e-8 of 0 or 1e-5 of 1 counts as 0 or 1. The eps that keeps a quotient from 0 / 0 is often 1e-10
# or 1e-8: it goes, and where x is 0 the model gives NaN, where it is 1e-9 a number that is off by half. A constant of one axis, [1e-9],
# stays. No warning, and on usual inputs the model agrees with what it was made from.
# What we do about it: `export` makes such constants vectors of one before the optimiser sees them.
# Source: onnxscript/rewriter, the rules for redundant scalars, by numpy's isclose; seen with onnxscript 0.7.2.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxscript==0.7.2 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer


def quotient(constant):
    """x / (x + constant) as a model."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy")
    nodes = [helper.make_node("Add", ["x", "eps"], ["sum"]), helper.make_node("Div", ["x", "sum"], ["y"])]
    eps = numpy_helper.from_array(np.array(constant, np.float32), "eps")
    model = helper.make_model(
        helper.make_graph(nodes, "quotient", [x], [y], [eps]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([0, 1e-9, 1], np.float32)})[0].tolist()


print(f"onnxscript {version('onnxscript')}, x / (x + eps) at 0, 1e-9 and 1")
answers = {}
for name, constant in (("1e-6", 1e-6), ("1e-9", 1e-9), ("[1e-9]", [1e-9])):
    model = quotient(constant)
    smaller = optimizer.optimize(model)
    answers[name] = run(model), run(smaller), [node.op_type for node in smaller.graph.node]
    print(f"eps {name}: {answers[name][0]}, optimised {answers[name][1]}, operators {answers[name][2]}")
assert answers["1e-6"][0] == answers["1e-6"][1] and answers["[1e-9]"][0] == answers["[1e-9]"][1]
before, after, left = answers["1e-9"]
assert before == [0, 0.5, 1] and left == ["Div"], "the constant stays: the finding no longer holds"
assert np.isnan(after[0]) and after[1:] == [1, 1]
PYTHON
