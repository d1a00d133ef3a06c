"""The exported FCN-8s in ONNX Runtime against the same net exported from PyTorch by hand: processor time, as a ratio.

    python benchmarks/exported.py [--name voc-fcn8s] [--side 500] [--width 1] [--rounds 5]

Both files run in one process on one thread, in turn; the ratio is that of the medians. Below 1 ours takes less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from by_hand import TABLE, Forms

from fcn_caffe.export import Options, Subject, export
from fcn_caffe.export.quiet import quiet
from fcn_caffe.weights.record import Preprocessing
from fcn_caffe.weights.transfer import net_weights, save_weights

Run = Callable[[], Any]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Return the median of each run's processor seconds, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if index:  # the first warms up
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="voc-fcn8s", choices=list(TABLE))
    parser.add_argument("--side", type=int, default=500)
    parser.add_argument("--width", type=int, default=1, help="what the channels are divided by")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    forms = Forms(arguments.name, arguments.side, arguments.width)
    hand = forms.hand()
    net, image = forms.net(hand), forms.data().numpy()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        automatic = torch.export.Dim.AUTO
        free = {"data": dict.fromkeys((0, 2, 3), automatic)}
        with quiet(), torch.no_grad():
            sample = (torch.zeros(2, *image.shape[1:]),)
            program = torch.export.export(hand, sample, dynamic_shapes=free)
            torch.onnx.export(program, (), place / "hand.onnx", dynamo=True, verbose=False, external_data=False)
        save_weights(place / "net.caffemodel", net_weights(net), net.name)
        subject = Subject(net, place / "net.caffemodel", Preprocessing(), net.graph.outputs)
        for name, plain in (("ours", False), ("ours --plain", True)):
            print(export(subject, place / f"{name}.onnx", Options(plain=plain), print).proof)
        sessions = {name: session(place / f"{name}.onnx") for name in ("hand", "ours", "ours --plain")}
    runs = {
        name: lambda each=each: each.run(None, {each.get_inputs()[0].name: image})[0] for name, each in sessions.items()
    }
    wanted = runs["hand"]()
    seconds = measure(runs, arguments.rounds)
    for name, run in runs.items():
        apart = np.abs(run() - wanted).max() / np.abs(wanted).max()
        print(f"{name}: {seconds[name]:.3f} s, {seconds[name] / seconds['hand']:.2f} of by hand, apart {apart:.1g}")


if __name__ == "__main__":
    main()
