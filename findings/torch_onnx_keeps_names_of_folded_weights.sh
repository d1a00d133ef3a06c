#!/bin/sh
# A good guess: an initializer of an exported ONNX file that is called as a parameter of the model holds that parameter, so that
# weights can be compared, exchanged or read back by name.
# What happens: torch.onnx.export folds a batch normalisation that follows a convolution into the convolution's weights, and
# leaves them the name they had: "0.weight" is there, with its shape, and other numbers. A bias that the convolution never had
# appears as "0.weight_bias"; parameters of the normalisation are gone. With optimize=False names and numbers are the model's own.
# What we do about it: `port_weights` compares what it takes from an ONNX file with the net's layers, and --check runs both.
# Source: torch.onnx.export, parameter optimize, and onnxscript's rule that fuses BatchNormalization into Conv.
# Seen with torch 2.13.0 and onnxscript 0.7.2.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
from importlib.metadata import version

import numpy as np
import torch
from onnx import numpy_helper
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
net[1].running_var.fill_(4)
net[1].running_mean.fill_(1)
state = {name: value.numpy() for name, value in net.state_dict().items()}
print(f"torch {torch.__version__}, onnxscript {version('onnxscript')}")
for optimize in (True, False):
    program = torch.onnx.export(net, (torch.zeros(1, 3, 8, 8),), dynamo=True, optimize=optimize, verbose=False)
    graph = program.model_proto.graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    ratio = float(np.median(held["0.weight"] / state["0.weight"]))
    print(f"optimize={optimize}: {[node.op_type for node in graph.node]}, {sorted(held)}, 0.weight is {ratio:.3f} of the model's")
    if optimize:
        assert abs(ratio - 0.5) < 1e-3 and "0.weight_bias" in held and "1.weight" not in held, "the finding no longer holds"
    else:
        assert ratio == 1 and set(held) == set(state) - {"1.num_batches_tracked"}
PYTHON
