"""What runs take at their most against what is said before they start, each in a process of its own.

    python tests/reliability/memory.py [CASE ...]

Without cases all of `CASES`: a net of the repository, a size, and `forward` or the number of training steps (options:
`checkpoint`, `Adam`, `test`). Prints the predicted and the measured peak of resident memory; exit status 1 where they
differ by more than 15 %. Linux alone, which says what a process had at its most.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.host.free_memory import show_bytes
from fcn_caffe.net.demand import Demand, forward_demand, training_demand
from fcn_caffe.net.graph import read_net
from fcn_caffe.net.rewrite.ready import ready_net
from fcn_caffe.net.training_runner import cut_segments
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver

ROOT = Path(__file__).resolve().parents[2]
MOST_APART = 0.15

CASES = [
    "voc-fcn32s 256x256 forward",
    "voc-fcn32s 256x256 2",
    "voc-fcn16s 256x256 2 checkpoint",
    "voc-fcn8s 500x500 forward",
    "voc-fcn8s 500x500 2 test",
    "voc-fcn-alexnet 300x300 2 Adam",
    "voc-fcn-googlenet 256x256 2",
    "camvid-segnet-basic 360x480 forward",
    "cells-unet 252x252 2",
    "voc-deeplab1-largefov 321x321 2",
    "bsds-hed 300x300 2",
    "ade20k-pspnet50 473x473 forward",
    "shapes-fcn8s 96x96 3 test",
    "lstm 40x64 3",
]

LSTM = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 40 dim: 64 dim: 100 } } }
layer { name: "cont" type: "Input" top: "cont" input_param { shape { dim: 40 dim: 64 } } }
layer { name: "lstm" type: "LSTM" bottom: "data" bottom: "cont" top: "lstm"
  recurrent_param { num_output: 256 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Reduction" bottom: "lstm" top: "loss" loss_weight: 1 }
"""


def net_of(name: str, size: tuple[int, int], phase: int) -> caffe_pb2.NetParameter:
    """Return a net whose data are ones."""
    if name == "lstm":
        param = parse_text(LSTM, caffe_pb2.NetParameter)
    else:
        stages = () if phase == TRAIN else ("deploy",)
        param = read_net(ROOT / f"nets/{name}.prototxt", phase, stages)
    for layer in param.layer:
        if layer.bottom:
            continue
        tops, shapes = list(layer.top), list(layer.input_param.shape) if name == "lstm" else []
        layer.Clear()
        layer.name, layer.type = f"ones {tops[0]}", "DummyData"
        layer.top.extend(tops)
        for top in tops:
            channels = 3 if top in ("data", "color") else 1
            shape = layer.dummy_data_param.shape.add()
            shape.dim.extend(shapes[0].dim if shapes else (1, channels, *size))
            layer.dummy_data_param.data_filler.add(type="constant", value=1)
    return param


def fill(net: Net) -> None:
    """Write to every weight: zeros that were never written to are not in memory."""
    with torch.no_grad():
        for blob in net.parameters():
            blob.add_(0)


def run(name: str, size: tuple[int, int], words: Sequence[str]) -> tuple[Demand, int]:
    """Predict, then run. Return what was predicted, and the peak of this process."""
    if words[0] == "forward":
        net = ready_net(Net(net_of(name, size, TEST), TEST))
        fill(net)
        demand = forward_demand(net)
        with torch.no_grad():
            for _ in range(2):
                net()
        return demand, peak_bytes()
    kind = "Adam" if "Adam" in words else "SGD"
    param = caffe_pb2.SolverParameter(base_lr=1e-9, lr_policy="fixed", momentum=0.9, random_seed=1, type=kind)
    param.train_net_param.CopyFrom(net_of(name, size, TRAIN))
    if "test" in words:
        param.test_net_param.add().CopyFrom(net_of(name, size, TEST))
        param.test_iter.append(1)
        param.test_interval = 1
    checkpoint = "checkpoint" in words
    solver = Solver(param, "cpu", rewrite=ready_net, checkpoint=checkpoint)
    fill(solver.net)
    segments = cut_segments(solver.net) if checkpoint else ()
    demand = training_demand(solver.net, kind, segments=segments, tests=solver.test_nets)
    solver.step(int(words[0]))
    return demand, peak_bytes()


def peak_bytes() -> int:
    """Return what this process had in memory at its most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def measure(case: str) -> tuple[int, int, str]:
    """Run a case in a new process; return the predicted bytes, the measured ones, and the parts."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, __file__, "--one", case]
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr.decode()}")
    said, had, parts = json.loads(done.stdout.splitlines()[-1])
    return said, had, parts


def main() -> int:
    """Run the cases; 1 where one is too far off."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("cases", nargs="*", default=CASES, metavar="CASE")
    options.add_argument("--one", metavar="CASE", help="run this case in this process")
    arguments = options.parse_args()
    if arguments.one:
        name, size, *words = arguments.one.split()
        height, width = map(int, size.split("x"))
        demand, had = run(name, (height, width), words)
        print(json.dumps([demand.process, had, str(demand)]))
        return 0
    wrong = 0
    for case in arguments.cases:
        said, had, parts = measure(case)
        apart = said / had - 1
        wrong += abs(apart) > MOST_APART
        print(f"| {case} | {show_bytes(said)} | {show_bytes(had)} | {100 * apart:+.0f} % | {parts} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
