"""Whether long runs grow: a small net trained for 20,000 steps with tests and snapshots, and 2,000 images segmented.

    python tests/reliability/long_run.py [--steps 20000] [--images 2000]

Prints the resident size along the way, from a tenth of each run on; exit status 1 where it grows by more than 2 %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from fcn_caffe import TEST, Net
from fcn_caffe.evaluation.infer import Segmenter
from fcn_caffe.evaluation.score import score_heads
from fcn_caffe.host.free_memory import resident_bytes, show_bytes
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver

MOST = 1.02
SAMPLES = 10  # of the resident size

NET = """
layer {{ name: "data" type: "Python" top: "data" top: "label" python_param {{
  module: "fcn_caffe.data.sets.folder_layers" layer: "FolderSegData" param_str: "{options}" }} }}
layer {{ name: "one" type: "Convolution" bottom: "data" top: "one" convolution_param {{
  num_output: 8 kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "one" top: "one" }}
layer {{ name: "drop" type: "Dropout" bottom: "one" top: "one" }}
layer {{ name: "score" type: "Convolution" bottom: "one" top: "score" convolution_param {{
  num_output: 2 kernel_size: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }}
"""
DEPLOY = NET[NET.index('layer {{ name: "one"') : NET.index('layer {{ name: "loss"')]
INPUT = 'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: 24 dim: 32 }} }} }}'


def make_data(folder: Path, images: int = 8) -> None:
    """Write images of several sizes, their labels and the list of a split."""
    draws = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index in range(images):
        size = 20 + index, 28 - index
        Image.fromarray(draws.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"images/{index}.png")
        Image.fromarray(draws.integers(0, 2, size, np.uint8)).save(folder / f"labels/{index}.png")
    (folder / "all.txt").write_text("".join(f"{index}\n" for index in range(images)))


def options(folder: Path) -> str:
    """Return the param_str of the data layer."""
    places = {"images": folder / "images", "labels": folder / "labels", "split": folder / "all.txt"}
    return repr({**{name: str(path) for name, path in places.items()}, "mean": (1, 2, 3)}).replace('"', "'")


def sizes_of(run: Callable[[int], object], count: int) -> list[int]:
    """Run for so many steps; return the resident size at ten places, the first after a tenth."""
    sizes = []
    for _ in range(SAMPLES):
        run(count // SAMPLES)
        sizes.append(resident_bytes() or 0)
    return sizes


def train(folder: Path, steps: int) -> list[int]:
    """Train with a test each 200 steps and a snapshot each 500, of which only the newest stays."""
    param = parse_text(
        f"""base_lr: 0.001 lr_policy: "fixed" momentum: 0.9 test_iter: 4 test_interval: 200 snapshot: 500 display: 100
        random_seed: 1 solver_mode: CPU snapshot_prefix: "{folder / "run"}" """,
        caffe_pb2.SolverParameter,
    )
    param.net_param.CopyFrom(parse_text(NET.format(options=options(folder)), caffe_pb2.NetParameter))
    solver = Solver(param)

    def forget(solver: Solver, state: Path) -> None:
        for path in folder.glob("run_iter_*"):
            if path.name.partition(".")[0] != state.name.partition(".")[0]:
                path.unlink()

    solver.on_snapshot.append(forget)
    return sizes_of(solver.step, steps)


def segment(folder: Path, images: int) -> list[int]:
    """Segment images of two dozen sizes."""
    net = Net(parse_text((INPUT + DEPLOY).format(), caffe_pb2.NetParameter), TEST)
    segmenter, draws = Segmenter(net, (1, 2, 3)), np.random.default_rng(1)

    def run(count: int) -> None:
        for index in range(count):
            segmenter(draws.integers(0, 256, (64 + 8 * (index % 24), 96, 3), np.uint8))

    return sizes_of(run, images)


def score(folder: Path, images: int) -> list[int]:
    """Score the images of a split again and again."""
    net = Net(parse_text(NET.format(options=options(folder)), caffe_pb2.NetParameter), TEST)
    return sizes_of(lambda count: score_heads(net, count), images)


def main() -> int:
    """Run all three; 1 where one grows."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=20_000)
    options.add_argument("--images", type=int, default=2_000)
    arguments = options.parse_args()
    grown = 0
    for what, run, count in (
        ("steps trained", train, arguments.steps),
        ("images segmented", segment, arguments.images),
        ("images scored", score, arguments.images),
    ):
        with tempfile.TemporaryDirectory() as place:
            make_data(Path(place))
            sizes = run(Path(place), count)
        grows = max(sizes) / sizes[0]
        grown += grows > MOST
        print(f"{count} {what}: {', '.join(map(show_bytes, sizes))}; {100 * grows - 100:+.2f} %", flush=True)
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
