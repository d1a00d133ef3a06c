"""A training step of Solver against the same net by hand in PyTorch with torch.optim.SGD: time and peak memory.

    python benchmarks/train_step.py [--rounds 5] [--width 16] [--size 192]

Two nets: the shape of voc-fcn32s (five pools, fc6, fc7, dropout, upscore) with --width channels in conv1 where the
paper's has 64, and 20 small convolutions on a 32x32 image, where overhead is all there is to see. Times are
interleaved, round by round; the figure is the median of the rounds' ratios. Memory is the peak resident size of
three steps, each form in a process of its own, less what the imports take. Both forms end at the same parameters,
which is checked.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fcn_caffe.proto import caffe_pb2, parse_text  # noqa: E402
from fcn_caffe.training.solver import Solver  # noqa: E402

RATE, MOMENTUM, DECAY, CLASSES = 1e-3, 0.9, 5e-4, 21
SOLVER = f'base_lr: {RATE} lr_policy: "fixed" momentum: {MOMENTUM} weight_decay: {DECAY} max_iter: 1 solver_mode: CPU'
PARAMS = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"


class HandWritten(nn.Module):
    """Layers in a row, then the score map enlarged and cropped to the image, and its loss."""

    def __init__(self, layers: list[nn.Module], up: nn.Module | None, offset: int) -> None:
        super().__init__()
        self.layers, self.up, self.offset = nn.Sequential(*layers), up, offset

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        score = self.layers(data)
        if self.up is not None:
            end = self.offset + data.shape[2]
            score = self.up(score)[:, :, self.offset : end, self.offset : end]
        return functional.cross_entropy(score, label[:, 0].long(), ignore_index=255)


class Builder:
    """The prototxt and the modules of one net, side by side."""

    def __init__(self, size: int) -> None:
        self.text = [
            f'layer {{ name: "in" type: "Input" top: "data" top: "label" input_param {{ '
            f"shape {{ dim: 1 dim: 3 dim: {size} dim: {size} }} shape {{ dim: 1 dim: 1 dim: {size} dim: {size} }} }} }}"
        ]
        self.modules: list[Callable[[], nn.Module]] = []
        self.bottom, self.channels = "data", 3

    def conv(self, channels: int, kernel: int, pad: int, relu: bool = True) -> None:
        name = f"conv{len(self.text)}"
        self.text.append(
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{self.bottom}" top: "{name}" {PARAMS} '
            f"convolution_param {{ num_output: {channels} kernel_size: {kernel} pad: {pad} }} }}"
        )
        self.modules.append(partial(nn.Conv2d, self.channels, channels, kernel, padding=pad))
        self.bottom, self.channels = name, channels
        if relu:
            self.in_place("ReLU", partial(nn.ReLU, inplace=True))

    def in_place(self, kind: str, module: Callable[[], nn.Module]) -> None:
        self.text.append(
            f'layer {{ name: "n{len(self.text)}" type: "{kind}" bottom: "{self.bottom}" top: "{self.bottom}" }}'
        )
        self.modules.append(module)

    def pool(self) -> None:
        name = f"pool{len(self.text)}"
        self.text.append(
            f'layer {{ name: "{name}" type: "Pooling" bottom: "{self.bottom}" top: "{name}" '
            "pooling_param { pool: MAX kernel_size: 2 stride: 2 } }"
        )
        self.modules.append(partial(nn.MaxPool2d, 2, 2, ceil_mode=True))
        self.bottom = name

    def finish(self, up: bool) -> Builder:
        if up:
            self.text.append(
                f'layer {{ name: "up" type: "Deconvolution" bottom: "{self.bottom}" top: "up" param {{ lr_mult: 1 }} '
                f"convolution_param {{ num_output: {CLASSES} kernel_size: 64 stride: 32 bias_term: false }} }}"
                'layer { name: "crop" type: "Crop" bottom: "up" bottom: "data" top: "score" '
                "crop_param { axis: 2 offset: 19 } }"
            )
            self.bottom = "score"
        self.up = up
        self.text.append(
            f'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{self.bottom}" bottom: "label" top: "loss" '
            "loss_param { ignore_label: 255 normalization: VALID } }"
        )
        return self

    def hand(self) -> HandWritten:
        up = nn.ConvTranspose2d(CLASSES, CLASSES, 64, 32, bias=False) if self.up else None
        return HandWritten([module() for module in self.modules], up, 19)

    def solver(self) -> Solver:
        param = parse_text(SOLVER, caffe_pb2.SolverParameter)
        param.train_net_param.CopyFrom(parse_text("\n".join(self.text), caffe_pb2.NetParameter))
        return Solver(param, device="cpu")


def fcn32s(size: int, width: int) -> Builder:
    builder = Builder(size)
    for stage, (times, convs) in enumerate(((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))):
        for index in range(convs):
            builder.conv(width * times, 3, 1 if stage or index else 100)
        builder.pool()
    for kernel in (7, 1):
        builder.conv(64 * width, kernel, 0)
        builder.in_place("Dropout", nn.Dropout)
    builder.conv(CLASSES, 1, 0, relu=False)
    return builder.finish(up=True)


def small(size: int, width: int) -> Builder:
    builder = Builder(32)
    for _ in range(19):
        builder.conv(8, 3, 1)
    builder.conv(CLASSES, 3, 1, relu=False)
    return builder.finish(up=False)


NETS: dict[str, Callable[[int, int], Builder]] = {"fcn32s": fcn32s, "small": small}


def data_of(name: str, size: int) -> tuple[Tensor, Tensor]:
    side = size if name == "fcn32s" else 32
    return torch.randn(1, 3, side, side), torch.randint(0, CLASSES, (1, 1, side, side)).float()


def our_steps(solver: Solver, data: Tensor, label: Tensor) -> Callable[[int], float]:
    """A function that does so many training steps and returns the last loss."""
    solver.net.inputs.update(data=data, label=label)

    def run(count: int) -> float:
        solver.step(count)
        return solver.loss

    return run


def their_steps(hand: HandWritten, data: Tensor, label: Tensor) -> Callable[[int], float]:
    """The same by hand, as a person would write it."""
    weights = [param for name, param in hand.named_parameters() if not name.endswith("bias")]
    biases = [param for name, param in hand.named_parameters() if name.endswith("bias")]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases, "lr": 2 * RATE, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def run(count: int) -> float:
        value = 0.0
        for _ in range(count):
            optimizer.zero_grad()
            loss = hand(data, label)
            loss.backward()
            optimizer.step()
            value = loss.item()
        return value

    return run


def time_ratio(name: str, size: int, width: int, rounds: int, repeat: int) -> tuple[float, float, float]:
    """Median seconds a step of ours and theirs, and the median of the rounds' ratios."""
    builder = NETS[name](size, width)
    solver, hand = builder.solver(), builder.hand()
    with torch.no_grad():
        for mine, theirs in zip(solver.net.parameters(), hand.parameters(), strict=True):
            mine.copy_(theirs)
    data, label = data_of(name, size)
    runs = {"ours": our_steps(solver, data, label), "theirs": their_steps(hand, data, label)}
    pairs = []
    for turn in range(rounds + 1):
        seconds = {}
        for form in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
            torch.manual_seed(turn)  # the same dropout in both
            start = time.perf_counter()
            runs[form](repeat)
            seconds[form] = (time.perf_counter() - start) / repeat
        if turn:  # the first round makes histories and warms up
            pairs.append((seconds["ours"], seconds["theirs"]))
    for (param, mine), theirs in zip(solver.net.named_parameters(), hand.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5), f"the nets differ in {param}"
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs), ratio


def high_water() -> int:
    """Peak resident KiB of this process. Unlike ru_maxrss it does not start at the parent's."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def peak(form: str, size: int, width: int) -> int:
    """KiB of the peak over three steps, less what the process had after its imports."""
    before = high_water()
    builder = NETS["fcn32s"](size, width)
    data, label = data_of("fcn32s", size)
    if form == "ours":
        solver = builder.solver()
        with torch.no_grad():
            for param in solver.net.parameters():
                param.normal_(0, 0.01)
        our_steps(solver, data, label)(3)
    else:
        their_steps(builder.hand(), data, label)(3)
    return high_water() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--peak", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.getLogger("fcn_caffe.solver").addHandler(logging.NullHandler())
    size, width = arguments.size, arguments.width
    if arguments.peak:
        print(peak(arguments.peak, size, width))
        return
    for name, rounds, repeat in (("fcn32s", arguments.rounds, 1), ("small", 8 * arguments.rounds, 10)):
        ours, theirs, ratio = time_ratio(name, size, width, rounds, repeat)
        print(f"{name}: ours {ours * 1e3:.2f} ms a step, by hand {theirs * 1e3:.2f} ms, ratio {ratio:.3f}", flush=True)
    peaks = {}
    for form in ("ours", "theirs"):
        command = [sys.executable, __file__, "--peak", form, "--size", str(size), "--width", str(width)]
        peaks[form] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ratio = peaks["ours"] / peaks["theirs"]
    print(f"peak memory of fcn32s: ours {peaks['ours']} KiB, by hand {peaks['theirs']} KiB, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
