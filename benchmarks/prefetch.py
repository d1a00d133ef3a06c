"""How much of a training step prefetching saves: steps on an LMDB of encoded images, with it and without, in one run.

    python benchmarks/prefetch.py [--images 64] [--steps 12] [--rounds 3]

Makes a database of JPEG images in a temporary folder, trains a small net from it by turns, and prints the best time
of a step each way, and of the two parts alone: making a batch, and the step on a batch that is there. torch runs on
one thread, so that the loading thread has a core of its own where there are two.
Exit status 1 if prefetching makes a step a quarter slower: where no core is free it cannot help, but must not harm.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fcn_caffe import TRAIN, Net
from fcn_caffe.data.readers.databases import write_records
from fcn_caffe.data.readers.datum import datum_of_encoded
from fcn_caffe.data.readers.opencv_images import encode_image
from fcn_caffe.proto import caffe_pb2, parse_text

SIDE, CROP, BATCH = 256, 224, 8
NET = """
layer {{ name: "data" type: "Data" top: "data" top: "label"
  data_param {{ source: "{source}" batch_size: {batch} backend: LMDB prefetch: {prefetch} }}
  transform_param {{ crop_size: {crop} mirror: true mean_value: 128 scale: 0.01 }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 16 kernel_size: 7 stride: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param {{ global_pooling: true pool: AVE }} }}
layer {{ name: "score" type: "InnerProduct" bottom: "pool" top: "score" inner_product_param {{ num_output: 10 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }}
"""


def write_images(path: Path, count: int) -> None:
    """A database of JPEG images, smooth so that they compress as photographs do."""
    random = np.random.RandomState(0)

    def record(index: int) -> tuple[bytes, bytes]:
        coarse = random.randint(0, 256, (16, 16, 3)).astype(np.uint8)
        image = np.repeat(np.repeat(coarse, SIDE // 16, 0), SIDE // 16, 1)
        datum = datum_of_encoded(encode_image(image, "jpg", "image"), image.shape, index % 10)
        return b"%08d" % index, datum.SerializeToString()

    write_records(path, "lmdb", map(record, range(count)))


def make_net(source: Path, prefetch: int) -> Net:
    text = NET.format(source=source, batch=BATCH, crop=CROP, prefetch=prefetch)
    return Net(parse_text(text, caffe_pb2.NetParameter), TRAIN)


def train_step(net: Net, inputs: dict[str, Any] | None = None) -> None:
    """Forward, backward and an update."""
    loss, _ = net.forward_loss(inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for blob in net.parameters():
            assert blob.grad is not None
            blob.sub_(blob.grad, alpha=0.01)
            blob.grad = None


def timed(function: Callable[[], object], steps: int) -> float:
    start = time.perf_counter()
    for _ in range(steps):
        function()
    return (time.perf_counter() - start) / steps


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="images in the database (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="steps a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the best counts (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "db"
        write_images(source, arguments.images)
        without = make_net(source, 0)
        layer = without.layer("data")
        data, label = layer()
        ways: dict[str, Callable[[], object]] = {
            "a batch alone": layer,
            "a step alone": lambda: train_step(without, {"data": data, "label": label}),
            "a step, prefetch: 0": lambda: train_step(without),
        }
        best = dict.fromkeys([*ways, "a step, prefetch: 4"], float("inf"))
        for _ in range(arguments.rounds):
            for name, function in ways.items():
                best[name] = min(best[name], timed(function, arguments.steps))
            # A net of its own each time: a thread that is ahead of the last round would take from the others.
            ahead = make_net(source, 4)
            timed(partial(train_step, ahead), 6)  # what it had made before the first step is used up
            seconds = timed(partial(train_step, ahead), arguments.steps)
            best["a step, prefetch: 4"] = min(best["a step, prefetch: 4"], seconds)
            ahead.layer("data").stop()
        layer.stop()
    ratio = best["a step, prefetch: 4"] / best["a step, prefetch: 0"]
    for name, seconds in best.items():
        print(f"{name:22} {seconds * 1000:8.1f} ms")
    print(f"with prefetching a step takes {ratio:.2f} of the time without")
    return int(ratio > 1.25)


if __name__ == "__main__":
    raise SystemExit(main())
