"""The pycaffe face against the core: time of a forward of voc-fcn8s, and of setting and reading a blob.

    python benchmarks/pycaffe.py [--rounds 7] [--size 500]

Forward: net.forward() through the face and net(data=…) of the core, no gradients, interleaved round by round; the
figure is the median of the rounds' ratios. Blobs: `net.blobs['data'].data[...] = x` against numpy's own copy between
two arrays, and microseconds to get at `.data`, which copies nothing: the addresses are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import fcn_caffe.pycaffe as caffe  # noqa: E402


def seconds(run: Callable[[], object], repeat: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - start) / repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=500)
    arguments = parser.parse_args()
    path = ROOT / "nets/voc-fcn8s.prototxt"
    torch.manual_seed(0)
    face = caffe.Net(str(path), caffe.TEST, stages=["deploy"])
    for blobs in face.params.values():
        for blob in blobs:
            blob.data[...] = np.random.default_rng(0).normal(0, 0.01, tuple(blob.shape))
    core = face.core
    image = np.random.default_rng(1).normal(0, 50, (1, 3, arguments.size, arguments.size)).astype(np.float32)
    face.blobs["data"].reshape(*image.shape)
    face.blobs["data"].data[...] = image
    tensor = torch.from_numpy(image)

    def run_core() -> torch.Tensor:
        with torch.no_grad():
            return core(data=tensor)["score"]

    expected = run_core().numpy()
    assert np.array_equal(face.forward()["score"], expected), "the face and the core differ"
    pairs = []
    for round in range(arguments.rounds):
        runs: list[tuple[str, Callable[[], object]]] = [("face", face.forward), ("core", run_core)]
        spent = {name: seconds(run) for name, run in (runs if round % 2 else reversed(runs))}
        pairs.append((spent["face"], spent["core"]))
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"voc-fcn8s {arguments.size}x{arguments.size} forward: face {ours * 1e3:.0f} ms, core {theirs * 1e3:.0f} ms, "
        f"ratio {ratio:.3f}"
    )
    least = [min(column) for column in zip(*pairs, strict=True)]
    print(f"the quickest of each, where others use the machine: ratio {least[0] / least[1]:.3f}")
    blob, plain = face.blobs["data"], np.empty_like(image)

    def set_blob() -> None:
        blob.data[...] = image

    def set_plain() -> None:
        plain[...] = image

    ratio = statistics.median(seconds(set_blob, 100) / seconds(set_plain, 100) for _ in range(arguments.rounds))
    address = face.blobs["data"].data_memory.tensor(torch.device("cpu")).data_ptr()
    assert blob.data.ctypes.data == address, "reading a blob copies"
    reading = seconds(lambda: blob.data, 10000) * 1e6
    print(f"set a {blob.data.shape} blob: {ratio:.3f} of numpy's copy; get its .data: {reading:.2f} us, no copy")


if __name__ == "__main__":
    main()
