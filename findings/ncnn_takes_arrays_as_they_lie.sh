#!/bin/sh
# A good guess: ncnn.Mat(array), ncnn's way in from NumPy, takes the numbers of the array, whatever its strides are, as torch,
# ONNX Runtime and OpenCV do, or refuses what it cannot take.
# What happens: it takes the shape from the array and the numbers as they lie in memory. A transposed image (HWC to CHW by
# transpose, the usual step before a net) has the right shape and its pixels in other places; of every second column the columns
# between are there. No error, no warning. np.ascontiguousarray first is the cure.
# What we do about it: blobs of fcn_caffe are contiguous; a net exported for ncnn by way of pnnx wants images made so.
# Source: ncnn's python/src/main.cpp, the Mat of a buffer; its README's example begins with a contiguous array.
# Seen with ncnn 1.0.20261020.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check ncnn==1.0.20261020 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import ncnn
import numpy as np

image = np.arange(24, dtype=np.float32).reshape(2, 4, 3)  # height, width, channels
views = {"transposed": image.transpose(2, 0, 1), "every second column": image[:, ::2]}
print(f"ncnn {version('ncnn')}")
for name, view in views.items():
    taken, copied = np.array(ncnn.Mat(view)), np.array(ncnn.Mat(np.ascontiguousarray(view)))
    print(f"{name}: shape {taken.shape}, {int((taken != view).sum())} of {view.size} numbers are others")
    assert taken.shape == view.shape and np.array_equal(copied, view)
    assert not np.array_equal(taken, view), "the array's numbers: the finding no longer holds"
PYTHON
