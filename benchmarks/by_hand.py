"""The measured nets in two forms: of this project, and by hand in plain PyTorch, with the same parameters.

An FCN by hand is one row of TABLE; what is made of it is what a person would write: modules in `__init__`, calls in
`forward`. `python benchmarks/peers.py` compares all engines with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fcn_caffe import TEST, TRAIN, Net  # noqa: E402
from fcn_caffe.net.graph import read_net  # noqa: E402
from fcn_caffe.proto import caffe_pb2, parse_text  # noqa: E402
from fcn_caffe.training.solver import Solver  # noqa: E402

SMALL = "small"
SMALL_SIDE = 32
RATE, MOMENTUM, DECAY, IGNORED = 1e-10, 0.99, 5e-4, 255
SOLVER = f'base_lr: {RATE} lr_policy: "fixed" momentum: {MOMENTUM} weight_decay: {DECAY} max_iter: 1 solver_mode: CPU'

# Convolutions of a stage, each with its ReLU: outputs, kernel, stride, pad, groups.
Conv = tuple[int, int, int, int, int]
VGG: tuple[tuple[Conv, ...], ...] = tuple(
    tuple((width, 3, 1, 1 if stage or index else 100, 1) for index in range(count))
    for stage, (width, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))
)
ALEXNET: tuple[tuple[Conv, ...], ...] = (
    ((96, 11, 4, 100, 1),),
    ((256, 5, 1, 2, 2),),
    ((384, 3, 1, 1, 1), (384, 3, 1, 1, 2), (256, 3, 1, 1, 2)),
)


@dataclass(frozen=True)
class Row:
    """An FCN: stages of convolutions, each with its pool; fc6, fc7, score_fr; skips; the last enlargement.

    skips: (stage, offset): the score of a stage's pool, cropped at an offset, is added to the scores enlarged by 2.
    up: the kernel, stride and crop of the last enlargement. normed: the stages with an LRN after their pool.
    """

    stages: tuple[tuple[Conv, ...], ...]
    pool: int
    fc6: int
    classes: int
    skips: tuple[tuple[int, int], ...]
    up: tuple[int, int, int]
    normed: tuple[int, ...] = ()


TABLE = {
    "voc-fcn8s": Row(VGG, 2, 7, 21, ((3, 5), (2, 9)), (16, 8, 31)),
    "voc-fcn32s": Row(VGG, 2, 7, 21, (), (64, 32, 19)),
    "voc-fcn-alexnet": Row(ALEXNET, 3, 6, 21, (), (63, 32, 18), (0, 1)),
    "nyud-fcn16s-hha": Row(VGG, 2, 7, 40, ((3, 5),), (32, 16, 27)),
}


class HandWrittenFCN(nn.Module):
    """A row of TABLE as a person would write it; width divides the paper's channels."""

    def __init__(self, row: Row, width: int = 1) -> None:
        super().__init__()
        channels, stages, pooled = 3, [], []
        for index, convs in enumerate(row.stages):
            modules: list[nn.Module] = []
            for outputs, kernel, stride, pad, groups in convs:
                modules.append(nn.Conv2d(channels, outputs // width, kernel, stride, pad, groups=groups))
                modules.append(nn.ReLU(inplace=True))
                channels = outputs // width
            modules.append(nn.MaxPool2d(row.pool, 2, ceil_mode=True))
            if index in row.normed:
                modules.append(nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0))
            stages.append(nn.Sequential(*modules))
            pooled.append(channels)
        hidden = 4096 // width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Sequential(
            *(nn.Conv2d(channels, hidden, row.fc6), nn.ReLU(inplace=True), nn.Dropout()),
            *(nn.Conv2d(hidden, hidden, 1), nn.ReLU(inplace=True), nn.Dropout()),
            nn.Conv2d(hidden, row.classes, 1),
        )
        self.skips = row.skips
        self.fuse = nn.ModuleList()
        for stage, _ in row.skips:
            self.fuse.append(nn.ConvTranspose2d(row.classes, row.classes, 4, 2, bias=False))
            self.fuse.append(nn.Conv2d(pooled[stage], row.classes, 1))
        kernel, stride, self.offset = row.up
        self.up = nn.ConvTranspose2d(row.classes, row.classes, kernel, stride, bias=False)

    def forward(self, data: Tensor) -> Tensor:
        pools, blob = [], data
        for stage in self.stages:
            blob = stage(blob)
            pools.append(blob)
        score = self.head(blob)
        for index, (stage, offset) in enumerate(self.skips):
            score = self.fuse[2 * index](score)
            scored = self.fuse[2 * index + 1](pools[stage])
            score = score + scored[:, :, offset : offset + score.shape[2], offset : offset + score.shape[3]]
        end = [self.offset + size for size in data.shape[2:]]
        return self.up(score)[:, :, self.offset : end[0], self.offset : end[1]]


class HandWrittenStep:
    """A training step by hand: Caffe's loss, torch.optim.SGD with Caffe's rates; call it with a number of steps."""

    def __init__(self, hand: nn.Module, solver: Solver, data: Tensor, label: Tensor) -> None:
        self.hand, self.data, self.label = hand.train(), data, label
        (loss,) = (layer for layer in solver.net.param.layer if layer.type == "SoftmaxWithLoss")
        self.reduction = "mean" if loss.loss_param.normalize else "sum"
        groups: list[dict[str, Any]] = []
        for item, parameter in zip(solver.net.learnable_params, hand.parameters(), strict=True):
            parameter.requires_grad_(item.lr_mult != 0)
            if item.lr_mult:
                options = {"lr": RATE * item.lr_mult, "weight_decay": DECAY * item.decay_mult}
                known = next((group for group in groups if options.items() <= group.items()), None)
                if known is None:
                    groups.append({"params": [parameter], **options})
                else:
                    known["params"].append(parameter)
        self.optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM)

    def __call__(self, count: int) -> float:
        value = 0.0
        for _ in range(count):
            self.optimizer.zero_grad()
            scores = self.hand(self.data)
            target = self.label[:, 0].long()
            loss = functional.cross_entropy(scores, target, ignore_index=IGNORED, reduction=self.reduction)
            loss.backward()
            self.optimizer.step()
            value = loss.item()
        return value


class OurStep:
    """The same by Solver."""

    def __init__(self, solver: Solver, data: Tensor, label: Tensor) -> None:
        self.solver = solver
        solver.net.inputs.update(data=data, label=label)

    def __call__(self, count: int) -> float:
        self.solver.step(count)
        return self.solver.loss


@dataclass
class Forms:
    """A net in both forms. `make_net(phase)` is the net file; the forms have the same parameters."""

    name: str
    side: int
    width: int = 1

    def __post_init__(self) -> None:
        if self.name == SMALL:
            self.side = SMALL_SIDE

    def param(self, phase: int) -> caffe_pb2.NetParameter:
        """Return the net file with an Input layer for its data, and in TRAIN for its labels."""
        param = small_param() if self.name == SMALL else self._narrow(phase)
        shapes = {"data": (1, 3, self.side, self.side)}
        if phase == TRAIN:
            shapes["label"] = (1, 1, self.side, self.side)
        source = caffe_pb2.LayerParameter(name="data", type="Input", top=list(shapes))
        for shape in shapes.values():
            source.input_param.shape.add(dim=shape)
        layers = [
            layer for layer in param.layer if layer.bottom and (phase == TRAIN or layer.type != "SoftmaxWithLoss")
        ]
        del param.layer[:]
        param.layer.extend([source, *layers])
        return param

    def _narrow(self, phase: int) -> caffe_pb2.NetParameter:
        param = read_net(ROOT / "nets" / f"{self.name}.prototxt", phase, (), 0)
        for layer in param.layer:
            if self.width > 1 and layer.type == "Convolution" and not layer.name.startswith("score"):
                layer.convolution_param.num_output //= self.width
        return param

    def hand(self) -> nn.Module:
        """Make the form by hand, with parameters that keep the size of the numbers from layer to layer."""
        torch.manual_seed(0)
        module = small_by_hand() if self.name == SMALL else HandWrittenFCN(TABLE[self.name], self.width)
        with torch.no_grad():
            for parameter in module.parameters():
                fan = max(1, parameter[0].numel())
                parameter.normal_(0, (2 / fan) ** 0.5 if parameter.ndim > 1 else 0.01)
            next(module.parameters()).div_(60)  # the size of the image's numbers
            for enlargement in (part for part in module.modules() if isinstance(part, nn.ConvTranspose2d)):
                enlargement.weight.copy_(bilinear(enlargement.weight))
        return module.eval()

    def net(self, hand: nn.Module) -> Net:
        """Make our form with the parameters of the other."""
        return self._filled(Net(self.param(TEST)), hand)

    def solver(self, hand: nn.Module, **options: object) -> Solver:
        """Make a solver that trains our form; options: as Solver has them."""
        param = parse_text(SOLVER, caffe_pb2.SolverParameter)
        param.train_net_param.CopyFrom(self.param(TRAIN))
        make: Callable[..., Solver] = Solver
        solver = make(param, device="cpu", **options)
        self._filled(solver.net, hand)
        return solver

    @staticmethod
    def _filled(net: Net, hand: nn.Module) -> Net:
        with torch.no_grad():
            for mine, theirs in zip(net.parameters(), hand.parameters(), strict=True):
                mine.copy_(theirs)
        return net

    def data(self, height: int = 0, width: int = 0) -> Tensor:
        """Return an image less its mean: smooth shapes, with the range that images have."""
        generator = torch.Generator().manual_seed(1)
        size = (height or self.side, width or self.side)
        coarse = torch.randn(1, 3, *(max(2, extent // 20) for extent in size), generator=generator)
        fine = torch.randn(1, 3, *size, generator=generator)
        return functional.interpolate(coarse, size, mode="bilinear") * 60 + fine * 10

    def label(self) -> Tensor:
        """Return classes for each pixel, a few of them ignored."""
        classes = 8 if self.name == SMALL else TABLE[self.name].classes
        generator = torch.Generator().manual_seed(2)
        label = torch.randint(0, classes, (1, 1, self.side, self.side), generator=generator).float()
        label[:, :, ::9, ::9] = IGNORED
        return label


def bilinear(weight: Tensor) -> Tensor:
    """Return weights like these that interpolate each channel by itself, as the paper's nets start with them."""
    size = weight.shape[-1]
    factor = (size + 1) // 2
    line = 1 - (torch.arange(size) - (factor - 1 if size % 2 else factor - 0.5)).abs() / factor
    return torch.eye(len(weight))[:, :, None, None] * line[:, None] * line


def small_param() -> caffe_pb2.NetParameter:
    """20 convolutions of 8 channels, each with its ReLU: 40 layers where overhead is all there is to see."""
    text, bottom = [], "data"
    for index in range(20):
        name = f"conv{index}"
        text.append(
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" '
            "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 } "
            f"convolution_param {{ num_output: 8 kernel_size: 3 pad: 1 }} }}"
            f'layer {{ name: "relu{index}" type: "ReLU" bottom: "{name}" top: "{name}" }}'
        )
        bottom = name
    text.append(
        f'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{bottom}" bottom: "label" top: "loss" '
        f"loss_param {{ ignore_label: {IGNORED} normalize: false }} }}"
    )
    return parse_text("\n".join(text), caffe_pb2.NetParameter)


def small_by_hand() -> nn.Module:
    modules: list[nn.Module] = []
    for index in range(20):
        modules += [nn.Conv2d(8 if index else 3, 8, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules)
