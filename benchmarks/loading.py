"""What loading and augmenting photographs costs, and what loading processes give beside the thread.

    python benchmarks/loading.py [--images 24] [--passes 30] [--rounds 3]

Writes JPEG photographs of 500 x 375 with label images to a temporary folder and reads them by FolderSegData. First
table: processor time of an image without and with each kind of augmentation, and how many that is a second of a core.
Second: images a second that a small net gets for training, with reading ahead in a thread and with 1 and 2 loading
processes, in turns, and their ratio to the thread's. torch runs on one thread; where no core is free, processes share
the cores with it.
Exit status 1 if all of the augmentation together costs more than seven times the decoding.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fcn_caffe import TRAIN, Net
from fcn_caffe.data.sets.folder_layers import FolderSegData
from fcn_caffe.layers.python import Blob, BlobVector
from fcn_caffe.proto import caffe_pb2, parse_text

HEIGHT, WIDTH = 375, 500
USUAL = {"mirror": True, "scale": (0.5, 2.0), "rotate": 10, "colour": 0.4, "crop": (320, 320), "least": 0.5}
WAYS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "paper: mirror, jitter 32": {"mirror": True, "jitter": 32},
    "colour 0.4": {"colour": 0.4},
    "scale 0.5 to 2, whole image": {"scale": (0.5, 2.0)},
    "rotate 10, whole image": {"rotate": 10},
    "all, window 320 x 320": USUAL,
}
NET = """
layer {{ name: "data" type: "Python" top: "data" top: "label" python_param {{
  module: "folder_layers" layer: "FolderSegData" param_str: "{options}" }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 8 kernel_size: 3 stride: 2 pad: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param {{ global_pooling: true pool: AVE }} }}
layer {{ name: "loss" type: "Reduction" bottom: "pool" top: "loss" loss_weight: 1 }}
"""


def write_photographs(folder: Path, count: int) -> dict[str, Any]:
    """Write images, smooth so that they compress as photographs do; return the options of their layer."""
    random = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3)).astype(np.uint8))
        coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / f"images/{number}.jpg", quality=92)
        label = Image.fromarray(random.integers(0, 5, (12, 16)).astype(np.uint8))
        label.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST).save(folder / f"labels/{number}.png")
    (folder / "train.txt").write_text("".join(f"{number}\n" for number in range(count)))
    places = {"images": str(folder / "images"), "labels": str(folder / "labels"), "split": str(folder / "train.txt")}
    return {**places, "seed": 1, "order": "epochs"}


def seconds_of_an_image(options: dict[str, Any], count: int) -> float:
    """Processor time of loading and changing an image."""
    layer = FolderSegData()
    layer.param_str, layer.phase, layer.blobs = repr({**options, "prefetch": 0}), TRAIN, BlobVector()
    layer.setup([], [Blob(), Blob()])
    names = list(layer.indices)
    start = time.process_time()
    for turn in range(count):
        layer.read_sample(names[turn % len(names)], turn % len(names), turn)
    return (time.process_time() - start) / count


def costs(options: dict[str, Any], count: int, rounds: int) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, augment in WAYS.items():
            found[name].append(seconds_of_an_image({**options, **({"augment": augment} if augment else {})}, count))
    return {name: statistics.median(values) for name, values in found.items()}


def seconds_of_a_step(options: dict[str, Any], workers: int, passes: int) -> float:
    """Wall time of a step, after what was read ahead is used up."""
    text = NET.format(options={**options, "augment": USUAL, "batch_size": 4, "workers": workers})
    net = Net(parse_text(text, caffe_pb2.NetParameter), TRAIN)
    try:
        start = 0.0
        for turn in range(passes + 8):
            if turn == 8:
                start = time.perf_counter()
            loss, _ = net.forward_loss()
            loss.backward()  # type: ignore[no-untyped-call]
        return (time.perf_counter() - start) / passes
    finally:
        user: Any = net.layer("data")
        user.user.close()


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24, help="photographs (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=30, help="images, or steps, a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        options = write_photographs(Path(folder), arguments.images)
        cost = costs(options, arguments.passes, arguments.rounds)
        print(f"{'augmentation':30} ms an image  images/s  over nothing")
        for name, seconds in cost.items():
            print(f"{name:30} {1000 * seconds:11.1f} {1 / seconds:9.0f} {seconds / cost['nothing']:13.2f}")
        steps: dict[int, list[float]] = {0: [], 1: [], 2: []}
        for _ in range(arguments.rounds):
            for workers, found in steps.items():
                found.append(seconds_of_a_step(options, workers, arguments.passes))
    thread = statistics.median(steps[0])
    print("\nbatches of 4, all of it: images a second, and over the thread's")
    for workers, found in steps.items():
        name = f"{workers} loading process{'es' if workers > 1 else ''}" if workers else "the thread"
        seconds = statistics.median(found)
        print(f"{name:30} {4 / seconds:6.1f} {thread / seconds:6.2f}")
    return int(cost["all, window 320 x 320"] > 7 * cost["nothing"])


if __name__ == "__main__":
    raise SystemExit(main())
