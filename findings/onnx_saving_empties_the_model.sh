#!/bin/sh
# A good guess: onnx.save(model, path, save_as_external_data=True) writes two files and leaves the model as it was, as onnx.save
# without that option does.
# What happens: the weights leave the model in memory: their tensors keep names, shapes and the name of a file. Reading one ends
# in an error or, where the working folder happens to have a file of that name, gives that file's numbers. A second copy, saved
# into another folder without the option, is written without a word and cannot be loaded there. onnx.load gives a whole model
# again.
# What we do about it: `export` writes them by onnx_ir.save, which leaves the model whole.
# Source: onnx/__init__.py, save_model, and external_data_helper.py, write_external_data_tensors, which clears raw_data; the
# docstring of save_model and docs/ExternalData.md do not say it. Seen with onnx 1.23.2.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

weights = numpy_helper.from_array(np.arange(4096, dtype=np.float32), "w")
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4096]) for name in "xy")
graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "sum", [x], [y], [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
onnx.checker.check_model(model, full_check=True)
for name in ("plain", "first", "second"):
    os.mkdir(name)


def held():
    return len(model.graph.initializer[0].raw_data)


def load(path):
    try:
        return f"{numpy_helper.to_array(onnx.load(path).graph.initializer[0]).size} numbers"
    except Exception as error:
        return type(error).__name__


sizes = [held()]
onnx.save(model, "plain/model.onnx")
sizes.append(held())
onnx.save(model, "first/model.onnx", save_as_external_data=True, location="model.data")
sizes.append(held())
onnx.save(model, "second/model.onnx")
answers = [load(f"{name}/model.onnx") for name in ("plain", "first", "second")]
print(f"onnx {onnx.__version__}: bytes of weights in memory {sizes}, loaded from the three folders: {answers}")
assert sizes[:2] == [16384, 16384] and sizes[2] == 0, "the weights stay: the finding no longer holds"
assert answers[:2] == ["4096 numbers"] * 2 and not answers[2].endswith("numbers")
PYTHON
