#!/bin/sh
# A good guess: whether safetensors.numpy.load_file can read a file is a matter of the file and of the version: NumPy has no
# bfloat16, so a file of bfloat16 weights is either refused always, or converted always.
# What happens: it is refused ("data type 'bfloat16' not understood") until anything in the process has imported ml_dtypes,
# which gives NumPy the type by the way: `import onnx` does, and so do jax and tensorflow. From then on the same line gives an
# array whose type is ml_dtypes' own. A program works, and stops when an import that it does not use is taken out or comes
# later.
# What we do about it: fcn_caffe reads by way of PyTorch, which has the type, and widens it to float32.
# Source: safetensors' Rust side asks numpy.dtype("bfloat16"); safetensors' page on NumPy names no such need. Seen with
# safetensors 0.8.0, ml_dtypes 0.6.0 and NumPy 2.4.6.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6 onnx==1.23.2 ml_dtypes==0.6.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file

header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
with open("weights.safetensors", "wb") as file:  # 1 and 2 in bfloat16
    file.write(len(header).to_bytes(8, "little") + header + np.array([0x3F80, 0x4000], "<u2").tobytes())


def load():
    try:
        array = load_file("weights.safetensors")["w"]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{array.dtype} {array.astype(np.float32).tolist()}"


before, there = load(), "ml_dtypes" in sys.modules
import onnx  # noqa: E402

after = load()
print(f"safetensors {safetensors.__version__}, NumPy {np.__version__}")
print(f"before import onnx: {before}\nafter it: {after}")
assert not there and "ml_dtypes" in sys.modules
assert before.startswith("TypeError") and after == "bfloat16 [1.0, 2.0]", "the import has no say: the finding no longer holds"
PYTHON
