"""Forward of a Net against the same net written by hand in plain PyTorch: time and peak memory, in one run.

    python benchmarks/executor.py [--rounds 5] [--size 500]

Two nets: voc-fcn8s (deploy stage), and 40 small layers on a 32x32 input, where overhead is all there is to see.
Times are interleaved, round by round; the figure is the median of the rounds' ratios. Memory is the growth of the
peak resident size over one forward, each in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fcn_caffe import Net  # noqa: E402
from fcn_caffe.proto import caffe_pb2, parse_text  # noqa: E402

VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class HandWrittenFCN8s(nn.Module):
    """voc-fcn8s as a person would write it: modules in __init__, calls in forward."""

    def __init__(self, classes: int = 21) -> None:
        super().__init__()
        channels, stages = 3, []
        for width, count in VGG:
            convs: list[nn.Module] = []
            for _ in range(count):
                convs += [nn.Conv2d(channels, width, 3, padding=1 if stages or convs else 100), nn.ReLU(inplace=True)]
                channels = width
            stages.append(nn.Sequential(*convs, nn.MaxPool2d(2, 2, ceil_mode=True)))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Sequential(
            nn.Conv2d(512, 4096, 7), nn.ReLU(inplace=True), nn.Conv2d(4096, 4096, 1), nn.ReLU(inplace=True)
        )
        self.score_fr = nn.Conv2d(4096, classes, 1)
        self.score_pool4, self.score_pool3 = nn.Conv2d(512, classes, 1), nn.Conv2d(256, classes, 1)
        self.up2 = nn.ConvTranspose2d(classes, classes, 4, 2, bias=False)
        self.up4 = nn.ConvTranspose2d(classes, classes, 4, 2, bias=False)
        self.up8 = nn.ConvTranspose2d(classes, classes, 16, 8, bias=False)

    def forward(self, data: Tensor) -> Tensor:
        height, width = data.shape[2:]
        pool3 = self.stages[2](self.stages[1](self.stages[0](data)))
        pool4 = self.stages[3](pool3)
        up = self.up2(self.score_fr(self.head(self.stages[4](pool4))))
        up = self.up4(up + self.score_pool4(pool4)[:, :, 5 : 5 + up.shape[2], 5 : 5 + up.shape[3]])
        up = self.up8(up + self.score_pool3(pool3)[:, :, 9 : 9 + up.shape[2], 9 : 9 + up.shape[3]])
        return up[:, :, 31 : 31 + height, 31 : 31 + width]


def fcn8s() -> tuple[Net, nn.Module]:
    """Both forms of voc-fcn8s with the same parameters: they are copied over in file order."""
    net, hand = Net(ROOT / "nets/voc-fcn8s.prototxt", stages=("deploy",)), HandWrittenFCN8s()
    torch.manual_seed(0)
    order = ["score_fr", "upscore2", "score_pool4", "upscore_pool4", "score_pool3", "upscore8"]
    mine = [layer for layer in net.params if layer not in order]
    theirs = {"score_fr": hand.score_fr, "upscore2": hand.up2, "score_pool4": hand.score_pool4}
    theirs |= {"upscore_pool4": hand.up4, "score_pool3": hand.score_pool3, "upscore8": hand.up8}
    trunk = [module for module in (*hand.stages.modules(), *hand.head) if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        for layer, module in zip(mine + order, [*trunk, *(theirs[name] for name in order)], strict=True):
            for blob, parameter in zip(net.params[layer], module.parameters(), strict=True):
                fan = max(1, parameter[0].numel())
                blob.copy_(parameter.normal_(0, (2 / fan) ** 0.5 if parameter.ndim > 1 else 0.01))
    return net, hand


def small() -> tuple[Net, nn.Module]:
    """40 layers, 20 convolutions of 8 channels each with its ReLU, both forms with the same parameters."""
    text = ['layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }']
    modules: list[nn.Module] = []
    bottom, channels = "data", 3
    for index in range(20):
        name = f"conv{index}"
        text.append(
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
            f"convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 }} }}"
            f'layer {{ name: "relu{index}" type: "ReLU" bottom: "{name}" top: "{name}" }}'
        )
        modules += [nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(inplace=True)]
        bottom, channels = name, 8
    net, hand = Net(parse_text("\n".join(text), caffe_pb2.NetParameter)), nn.Sequential(*modules)
    with torch.no_grad():
        for mine, theirs in zip(net.parameters(), hand.parameters(), strict=True):
            mine.copy_(theirs)
    return net, hand


NETS: dict[str, Callable[[], tuple[Net, nn.Module]]] = {"voc-fcn8s": fcn8s, "40 small layers": small}


def time_ratio(name: str, size: int, rounds: int, repeat: int) -> tuple[float, float, float]:
    """Median seconds of ours and theirs, and the median of the rounds' ratios."""
    net, hand = NETS[name]()
    hand.eval()
    data = torch.randn(1, 3, size, size) * 50
    with torch.no_grad():
        (ours,) = net(data=data).values()
        assert torch.allclose(ours, hand(data), rtol=1e-4, atol=1e-4 * float(ours.abs().max())), "the nets differ"
        pairs = []
        for round in range(rounds):
            seconds = {}
            runs = [("ours", lambda: net(data=data)), ("theirs", lambda: hand(data))]
            for key, run in runs if round % 2 else reversed(runs):
                start = time.perf_counter()
                for _ in range(repeat):
                    run()
                seconds[key] = (time.perf_counter() - start) / repeat
            pairs.append((seconds["ours"], seconds["theirs"]))
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs), ratio


def peak_growth(form: str, size: int) -> int:
    """KiB by which one forward of voc-fcn8s raises the peak; run in a process of its own."""
    net, hand = fcn8s()
    module = net if form == "ours" else hand.eval()
    data = torch.randn(1, 3, size, size)
    before = peak()
    with torch.no_grad():
        module(data=data) if form == "ours" else module(data)
    return peak() - before


def peak() -> int:
    """KiB of the highest resident size of this process; getrusage would tell the parent's where that was higher."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=500)
    parser.add_argument("--peak", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_growth(arguments.peak, arguments.size))
        return
    for name, size, rounds, repeat in (
        ("voc-fcn8s", arguments.size, arguments.rounds, 1),
        ("40 small layers", 32, 4 * arguments.rounds, 50),
    ):
        ours, theirs, ratio = time_ratio(name, size, rounds, repeat)
        print(f"{name} at {size}x{size}: ours {ours * 1e3:.2f} ms, by hand {theirs * 1e3:.2f} ms, ratio {ratio:.3f}")
    growth = {}
    for form in ("ours", "theirs"):
        command = [sys.executable, __file__, "--peak", form, "--size", str(arguments.size)]
        growth[form] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ratio = growth["ours"] / growth["theirs"]
    print(f"peak memory of a forward: ours {growth['ours']} KiB, by hand {growth['theirs']} KiB, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
