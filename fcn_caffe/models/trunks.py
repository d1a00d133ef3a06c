"""The trunks of FCNs: the classifiers VGG-16 (or a narrow VGG), AlexNet and GoogLeNet as convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P

__all__ = [
    "VGG16",
    "Vgg",
    "alexnet",
    "alexnet_by_the_text",
    "conv_relu",
    "convolutions",
    "drop",
    "first_pad",
    "googlenet",
    "max_pool",
    "multiply",
    "rates",
    "score",
    "vgg",
]

NOT_DEPLOYED = {"stage": "deploy"}  # an `exclude` rule


def rates(rate: float) -> list[dict[str, float]]:
    """Return the `param` of a layer that learns at `rate`; a bias learns twice as fast and does not decay."""
    return [{"lr_mult": rate, "decay_mult": 1}, {"lr_mult": 2 * rate, "decay_mult": 0}]


RATES = rates(1)


@dataclass(frozen=True)
class Vgg:
    """A trunk of VGG's form: 3x3 convolutions in five stages, each ending in a pool, then fc6 and fc7.

    Attributes:
        depths: the number of convolutions of each stage.
        widths: the outputs of each stage's convolutions.
        fc_width: the outputs of fc6 and of fc7.
        fc_kernel: the kernel of fc6: what pool5 leaves of the classifier's image.
        dropout: the ratio after fc6 and fc7; 0 leaves the layers out.
        filler: the filler of all weights, where they are learned from nothing; None leaves them zero, to be copied.
        rate: lr_mult of all layers; with 0 nothing learns.
        pad: the pad of the first convolution; by default that of `first_pad`.
        fc_pad: the pad of fc6.
        special: the options of single convolutions by their names, instead of those of all.
    """

    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    fc_width: int = 4096
    fc_kernel: int = 7
    dropout: float = 0.5
    filler: str | None = None
    rate: float = 1
    pad: int | None = None
    fc_pad: int = 0
    special: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def has_same_padding(self) -> bool:
        """Whether every convolution keeps its blob's size; then the scores are the larger side beside a skip."""
        return self.pad == 1 and self.fc_kernel == 2 * self.fc_pad + 1

    @property
    def convolution_names(self) -> list[str]:
        """Its convolutions before fc6, in order."""
        return [f"conv{stage}_{n}" for stage, depth in enumerate(self.depths, 1) for n in range(1, depth + 1)]

    def learning(self, name: str = "") -> dict[str, Any]:
        """Return the options by which a layer learns."""
        filled = {"weight_filler": {"type": self.filler}} if self.filler else {}
        return {"param": rates(self.rate), **filled, **self.special.get(name, {})}

    def conv(self, name: str, outputs: int, kernel: int, pad: int) -> dict[str, Any]:
        """Return the options of one convolution."""
        return {"num_output": outputs, "pad": pad, "kernel_size": kernel, "stride": 1, **self.learning(name)}


VGG16 = Vgg()


def first_pad(fc_kernel: int) -> int:
    """Return a pad of the first convolution with which the smallest image leaves something for fc6: 100 for 7x7.

    The pad grows by half of what fc6 cuts off, in pixels. Then the last crop is at 19, 27 or 31 for every kernel.
    """
    return 4 + 16 * (fc_kernel - 1)


def conv_relu(n: NetSpec, bottom: Top, name: str, relu: str, **options: object) -> Top:
    """Add a convolution and its ReLU in place; return the ReLU's top."""
    n[name] = L.Convolution(bottom, **options)
    n[relu] = L.ReLU(n[name], in_place=True)
    relu_top: Top = n[relu]
    return relu_top


def max_pool(n: NetSpec, bottom: Top, name: str, kernel: int = 2, stride: int = 2, **more: int) -> Top:
    """Add a max pooling."""
    n[name] = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=kernel, stride=stride, **more)
    pooled: Top = n[name]
    return pooled


def drop(n: NetSpec, bottom: Top, name: str, ratio: float) -> Top:
    """Add dropout in place, left out of the deploy form."""
    n[name] = L.Dropout(bottom, dropout_ratio=ratio, in_place=True, exclude=NOT_DEPLOYED)
    dropped: Top = n[name]
    return dropped


def multiply(n: NetSpec, bottom: Top, name: str, value: float) -> Top:
    """Add a multiplication by a constant."""
    n[name] = L.Scale(bottom, filler={"type": "constant", "value": value}, param=[{"lr_mult": 0}])
    product: Top = n[name]
    return product


def score(n: NetSpec, bottom: Top, name: str, classes: int, rate: float = 1) -> Top:
    """Add a score layer: 1x1, without filler, so that it starts at zero."""
    n[name] = L.Convolution(bottom, num_output=classes, pad=0, kernel_size=1, param=rates(rate))
    scored: Top = n[name]
    return scored


def convolutions(n: NetSpec, bottom: Top, trunk: Vgg = VGG16, suffix: str = "", first: str = "conv1_1") -> Top:
    """Add a VGG trunk up to pool5.

    Args:
        n: the net.
        bottom: the image.
        trunk: the trunk's form.
        suffix: what every layer's name ends in.
        first: the first convolution's name.
    """
    for stage in range(1, len(trunk.depths) + 1):
        bottom = max_pool(n, add_stage(n, bottom, stage, trunk, suffix, first), f"pool{stage}{suffix}")
    return bottom


def add_stage(n: NetSpec, bottom: Top, stage: int, trunk: Vgg = VGG16, suffix: str = "", first: str = "conv1_1") -> Top:
    """Add the convolutions of one stage of a VGG trunk, without its pool: stages count from 1, see `convolutions`."""
    edge = first_pad(trunk.fc_kernel) if trunk.pad is None else trunk.pad
    for number in range(1, trunk.depths[stage - 1] + 1):
        start = (stage, number) == (1, 1)
        name = first if start else f"conv{stage}_{number}"
        options = trunk.conv(name, trunk.widths[stage - 1], 3, edge if start else 1)
        bottom = conv_relu(n, bottom, name + suffix, f"relu{stage}_{number}{suffix}", **options)
    return bottom


def vgg(n: NetSpec, bottom: Top, trunk: Vgg = VGG16, suffix: str = "", first: str = "conv1_1") -> Top:
    """Add a VGG trunk up to fc7, as `convolutions` does up to pool5."""
    bottom = convolutions(n, bottom, trunk, suffix, first)
    for number, kernel, pad in ((6, trunk.fc_kernel, trunk.fc_pad), (7, 1, 0)):
        options = trunk.conv(f"fc{number}", trunk.fc_width, kernel, pad)
        bottom = conv_relu(n, bottom, f"fc{number}{suffix}", f"relu{number}{suffix}", **options)
        if trunk.dropout:
            bottom = drop(n, bottom, f"drop{number}{suffix}", trunk.dropout)
    return bottom


def alexnet(n: NetSpec, bottom: Top, **learning: object) -> Top:
    """Add CaffeNet up to fc7. learning: options of every convolution; the released net gives them no `param`."""

    def conv(number: int, kernel: int, outputs: int, stride: int = 1, pad: int = 0, group: int = 1) -> Top:
        options = {
            "num_output": outputs,
            "pad": pad,
            "kernel_size": kernel,
            "group": group,
            "stride": stride,
            **learning,
        }
        name = f"{'fc' if number > 5 else 'conv'}{number}"
        return conv_relu(n, bottom, name, f"relu{number}", **options)

    for number, kernel, outputs, stride, pad, group in ((1, 11, 96, 4, 100, 1), (2, 5, 256, 1, 2, 2)):
        bottom = conv(number, kernel, outputs, stride, pad, group)
        bottom = max_pool(n, bottom, f"pool{number}", 3)
        bottom = n[f"norm{number}"] = L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)
    bottom = conv(3, 3, 384, pad=1)
    bottom = conv(4, 3, 384, pad=1, group=2)
    bottom = conv(5, 3, 256, pad=1, group=2)
    bottom = max_pool(n, bottom, "pool5", 3)
    bottom = drop(n, conv(6, 6, 4096), "drop6", 0.5)
    return drop(n, conv(7, 1, 4096), "drop7", 0.5)


def alexnet_by_the_text(n: NetSpec, bottom: Top) -> Top:
    """Add CaffeNet with the rate of its biases doubled, as the paper's text says; the released net does not."""
    return alexnet(n, bottom, param=RATES)


# Outputs of 1x1; of 3x3's reduction and 3x3; of 5x5's and 5x5; of the pool's projection.
_INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# With BVLC's own 3, images under 31 pixels would get fewer scores than they have pixels.
GOOGLENET_PAD = 18


def googlenet(n: NetSpec, bottom: Top, pad: int = GOOGLENET_PAD) -> Top:
    """Add BVLC's GoogLeNet up to its last inception and dropout, without auxiliary heads and average pooling."""

    def conv(bottom: Top, group: str, part: str, outputs: int, kernel: int = 1, stride: int = 1, pad: int = 0) -> Top:
        options = {"num_output": outputs, "pad": pad, "kernel_size": kernel, "stride": stride, "param": RATES}
        # A relu is called by the convolution's part without its stride.
        return conv_relu(n, bottom, f"{group}/{part}", f"{group}/relu_{part.removesuffix('_s2')}", **options)

    def norm(bottom: Top, name: str) -> Top:
        normalised: Top = L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)
        n[name] = normalised
        return normalised

    bottom = conv(bottom, "conv1", "7x7_s2", 64, 7, 2, pad)
    bottom = norm(max_pool(n, bottom, "pool1/3x3_s2", 3), "pool1/norm1")
    bottom = conv(bottom, "conv2", "3x3_reduce", 64)
    bottom = norm(conv(bottom, "conv2", "3x3", 192, 3, pad=1), "conv2/norm2")
    bottom = max_pool(n, bottom, "pool2/3x3_s2", 3)
    for name, (width1, reduce3, width3, reduce5, width5, projected) in _INCEPTIONS.items():
        group = f"inception_{name}"
        branches = [conv(bottom, group, "1x1", width1)]
        for size, reduced, outputs in ((3, reduce3, width3), (5, reduce5, width5)):
            part = f"{size}x{size}"
            narrow = conv(bottom, group, f"{part}_reduce", reduced)
            branches.append(conv(narrow, group, part, outputs, size, pad=size // 2))
        pooled = max_pool(n, bottom, f"{group}/pool", 3, 1, pad=1)
        branches.append(conv(pooled, group, "pool_proj", projected))
        bottom = n[f"{group}/output"] = L.Concat(*branches)
        if name in ("3b", "4e"):
            bottom = max_pool(n, bottom, f"pool{name[0]}/3x3_s2", 3)
    return drop(n, bottom, "pool5/drop_7x7_s1", 0.4)
