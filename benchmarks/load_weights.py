"""How long a 540 MB caffemodel takes into a built net, against copying its bytes and against protobuf parsing.

    python benchmarks/load_weights.py [--protobuf]

Builds a net with the parameters of voc-fcn8s, writes its weights to a temporary file and prints the best of seven
for each way, in one run. The file is in the page cache; destination memory has been touched. `--protobuf` adds what
a plain reader does: parse the message, then turn every blob's repeated floats into an array (about a minute).
Exit status 1 if loading takes more than 1.1 times the copy of the same bytes out of the file.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.weights.transfer import copy_weights, load_weights, net_weights, save_weights

TRUNK = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]


def fcn8s_parameters() -> str:
    """Return a net with the parameters of voc-fcn8s (134.5 million) in layers that need no image to build."""
    text, bottom, size = ['input: "data" input_shape { dim: 1 dim: 3 dim: 64 dim: 64 }'], "data", 3
    names = [(f"conv{block}_{i}", n, 3) for block, (n, count) in enumerate(TRUNK, 1) for i in range(1, count + 1)]
    for name, outputs, kernel in [*names, ("fc6", 4096, 7), ("fc7", 4096, 1), ("score_fr", 21, 1)]:
        options = f"num_output: {outputs} kernel_size: {kernel} pad: {kernel // 2}"
        text.append(
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
            f"convolution_param {{ {options} }} }}"
        )
        bottom, size = name, outputs
    for name, kernel, stride in [("upscore2", 4, 2), ("upscore_pool4", 4, 2), ("upscore8", 16, 8)]:
        options = f"num_output: {size} kernel_size: {kernel} stride: {stride} bias_term: false"
        text.append(
            f'layer {{ name: "{name}" type: "Deconvolution" bottom: "score_fr" top: "{name}" '
            f"convolution_param {{ {options} }} }}"
        )
    for name, bottom in [("score_pool4", "conv4_3"), ("score_pool3", "conv3_3")]:
        text.append(
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
            "convolution_param { num_output: 21 kernel_size: 1 } }"
        )
    return "\n".join(text)


def best(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the shortest time of each way in seconds. Ways take turns, so a busy moment hits all of them."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, function in ways.items():
            gc.collect()
            start = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - start)
    return {name: min(times) for name, times in taken.items()}


def read_into(path: Path, target: Any) -> None:
    """Copy the file by the system call."""
    with open(path, "rb") as file:
        file.readinto(target)


def parse_with_protobuf(path: Path) -> None:
    """Do what pycaffe's users did: every float passes through Python."""
    net = caffe_pb2.NetParameter.FromString(path.read_bytes())  # type: ignore[attr-defined]
    for layer in net.layer:
        for blob in layer.blobs:
            np.array(blob.data, dtype=np.float32).reshape(tuple(blob.shape.dim))


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protobuf", action="store_true", help="also parse with protobuf")
    arguments = parser.parse_args()
    net = Net(parse_text(fcn8s_parameters(), caffe_pb2.NetParameter))
    with torch.no_grad():
        for blobs in net.params.values():
            for blob in blobs:
                blob.uniform_(-1, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fcn8s.caffemodel"
        saved = best({"": lambda: save_weights(path, net_weights(net), "fcn8s")}, 1)[""]
        size = path.stat().st_size
        memory, target = np.fromfile(path, np.uint8), np.zeros(size, np.uint8)
        ways: dict[str, Callable[[], object]] = {
            "copy the bytes, memory to memory": lambda: np.copyto(target, memory),
            "copy the bytes, mapped file to memory": lambda: np.copyto(target, np.memmap(path, np.uint8, "r")),
            "read() the bytes into memory": lambda: read_into(path, target),
            "load_weights + copy_weights": lambda: copy_weights(net, load_weights(path)),
            "  of which load_weights": lambda: load_weights(path),
        }
        rows = best(ways, 7)
        if arguments.protobuf:
            rows |= best({"protobuf parse + arrays": lambda: parse_with_protobuf(path)}, 1)
    copied, loaded = rows["copy the bytes, mapped file to memory"], rows["load_weights + copy_weights"]
    print(f"{size / 1e6:.0f} MB, {sum(len(b) for b in net.params.values())} blobs; saved and synced in {saved:.2f} s")
    for name, seconds in rows.items():
        print(f"{name:40} {seconds * 1000:9.1f} ms   {seconds / copied:6.2f} x copy")
    return int(loaded > 1.1 * copied)


if __name__ == "__main__":
    raise SystemExit(main())
