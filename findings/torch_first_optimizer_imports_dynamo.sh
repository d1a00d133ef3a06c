#!/bin/sh
# A good guess: torch.optim.SGD([parameter], lr=0.1) is a small object; what a training takes in memory are weights, gradients,
# history and blobs, and torch.compile, which nobody called, takes nothing.
# What happens: the first optimiser of a process imports torch._dynamo and with it sympy and some 800 modules. On Linux that
# is 71 MiB of resident memory in every process that trains, and a pause that a measurement of the first step counts. A second
# optimiser adds nothing. The time to measure memory or time from is after the first optimiser, not after `import torch`.
# What we do about it: the estimate of a run's memory counts it wherever an optimiser is yet to come.
# Source: torch/_compile.py, _disable_dynamo, which imports at the first call of what it wraps, and Optimizer.add_param_group,
# which it wraps. Seen with torch 2.13.0.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys

import torch


def resident():
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith("VmRSS")).split()[1]) / 1024


parameter = torch.zeros(3, requires_grad=True)
print(f"torch {torch.__version__}")
for which in ("first", "second"):
    modules, size, there = set(sys.modules), resident(), "torch._dynamo" in sys.modules
    torch.optim.SGD([parameter], lr=0.1)
    came = set(sys.modules) - modules
    print(f"the {which} optimiser: {resident() - size:.0f} MiB, {len(came)} modules, torch._dynamo was there: {there}")
    if which == "first":
        assert not there and {"torch._dynamo", "sympy"} <= came and len(came) > 400, "the finding no longer holds"
    else:
        assert there and not came
PYTHON
