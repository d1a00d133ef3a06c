"""How much two processes of one thread train, against one process of two threads, on a machine of two cores.

    python benchmarks/ranks.py [--steps 12] [--rounds 3] [--side 160]

Trains a net of five convolutions on random images by turns: two gloo ranks with a batch of 1, and one process with
iter_size 2. Prints images a second of each, as medians of the rounds, and their ratio. What runs besides changes both:
the load is printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fcn_caffe.host.glog import silence_log
from fcn_caffe.host.ranks import ALONE, Ranks, join_ranks
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver

CONVOLUTION = """
layer {{ name: "c{0}" type: "Convolution" bottom: "{1}" top: "c{0}"
  convolution_param {{ num_output: 32 kernel_size: 3 pad: 1 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "r{0}" type: "ReLU" bottom: "c{0}" top: "c{0}" }}
"""
NET = """
layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
  shape {{ dim: 1 dim: 3 dim: {side} dim: {side} }} shape {{ dim: 1 dim: 1 dim: {side} dim: {side} }}
  data_filler {{ type: "gaussian" std: 1 }} data_filler {{ type: "constant" value: 1 }} }} }}
{middle}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "c4" bottom: "label" top: "loss" }}
"""


def images_per_second(ranks: Ranks, iter_size: int, steps: int, side: int) -> float:
    """Train, and return the images a second of all processes."""
    names = ["data", "c0", "c1", "c2", "c3"]
    middle = "".join(CONVOLUTION.format(index, name) for index, name in enumerate(names))
    text = f'base_lr: 0.001 lr_policy: "fixed" momentum: 0.9 random_seed: 1 iter_size: {iter_size} solver_mode: CPU'
    param: caffe_pb2.SolverParameter = parse_text(text, caffe_pb2.SolverParameter)
    param.net_param.CopyFrom(parse_text(NET.format(side=side, middle=middle), caffe_pb2.NetParameter))
    with silence_log():
        solver = Solver(param, device="cpu", ranks=ranks)
        solver.step(2)
        begun = time.perf_counter()
        solver.step(steps)
        return steps * iter_size * ranks.count / (time.perf_counter() - begun)


def one_rank(rank: int, meeting: str, steps: int, side: int, results: multiprocessing.Queue) -> None:
    """Be one of two ranks."""
    torch.set_num_threads(1)
    with join_ranks(rank, 2, meeting) as ranks:
        speed = images_per_second(ranks, 1, steps, side)
        if ranks.is_first:
            results.put(speed)


def two_ranks(steps: int, side: int) -> float:
    """Return the images a second of two processes."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"file://{folder}/meeting", steps, side, results)
        processes = [context.Process(target=one_rank, args=(rank, *arguments)) for rank in range(2)]
        for process in processes:
            process.start()
        speed: float = results.get()
        for process in processes:
            process.join()
    return speed


def main() -> None:
    """Measure both ways by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=160)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    ranks, threads = [], []
    for _ in range(arguments.rounds):
        ranks.append(two_ranks(arguments.steps, arguments.side))
        threads.append(images_per_second(ALONE, 2, arguments.steps, arguments.side))
    both, alone = statistics.median(ranks), statistics.median(threads)
    print(f"two ranks {both:.2f} images/s, one with two threads {alone:.2f}: ratio {both / alone:.2f}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
