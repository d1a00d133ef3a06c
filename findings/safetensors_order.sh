#!/bin/sh
# A good guess: a dict of arrays saved as .safetensors comes back in the order it was saved in, as from torch.save, numpy.savez
# and JSON: the layers of a net from first to last.
# What happens: the arrays are laid out by the size of their numbers, large ones first, then by name, and load_file and keys() go
# by that: conv10 before conv2, and a net in half precision with one int64 counter begins with the counter. `keys()` of an open
# file goes by name alone. The format's page asks for no order.
# What we do about it: the order of the layers is in the file's metadata; a file without it is taken by the names of the layers.
# Source: the format's README ("tensors" and "header"), and the sort in safetensors/src/tensor.rs; seen with safetensors 0.8.0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

blobs = {name: np.zeros(2, np.float32) for name in ("input", "conv1", "conv2", "conv10", "score")}
blobs["slope"] = np.zeros(2, np.float16)
blobs["steps"] = np.zeros(1, np.int64)
save_file(blobs, "net.safetensors")
np.savez("net.npz", **blobs)
loaded = list(load_file("net.safetensors"))
with safetensors.safe_open("net.safetensors", "np") as file:
    keys = list(file.keys())
print(f"safetensors {safetensors.__version__}")
print(f"saved:     {list(blobs)}\nload_file: {loaded}\nkeys():    {keys}")
assert list(np.load("net.npz")) == list(blobs)
assert loaded == ["steps", "conv1", "conv10", "conv2", "input", "score", "slope"], "another order: look again"
assert keys == sorted(blobs)
PYTHON
