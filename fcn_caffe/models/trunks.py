"""The classifiers that FCNs are made of, as convolutions: VGG (16 layers, or narrow), AlexNet, GoogLeNet."""

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
    "rates",
    "scaled",
    "score",
    "vgg",
]

NOT_DEPLOYED = {"stage": "deploy"}  # an `exclude` rule


def rates(rate: float) -> list[dict[str, float]]:
    """`param` of a layer that learns at `rate`. Caffe's classifiers double the bias's rate and do not decay it."""
    return [{"lr_mult": rate, "decay_mult": 1}, {"lr_mult": 2 * rate, "decay_mult": 0}]


RATES = rates(1)


@dataclass(frozen=True)
class Vgg:
    """A trunk of VGG's form: 3x3 convolutions in five stages, each ending in a pool, then fc6 and fc7.

    depths, widths: convolutions and outputs of each stage. fc_kernel: of fc6, which is what pool5 leaves of the
    classifier's image. dropout: 0 leaves the layers out. filler: the weights of all layers where they are learned from
    nothing; none leaves them zero, to be copied from a file. rate: lr_mult of all layers; with 0 nothing learns.
    pad: of the first convolution, by default `first_pad`'s. fc_pad: of fc6. special: options of single convolutions
    by their names, instead of those of all.
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
    def keeps_size(self) -> bool:
        """No convolution makes its blob larger or smaller; then the scores are the larger side beside a skip."""
        return self.pad == 1 and self.fc_kernel == 2 * self.fc_pad + 1

    @property
    def convolution_names(self) -> list[str]:
        """Its convolutions before fc6, in order."""
        return [f"conv{stage}_{n}" for stage, depth in enumerate(self.depths, 1) for n in range(1, depth + 1)]

    def learning(self, name: str = "") -> dict[str, Any]:
        """The options by which a layer learns."""
        filled = {"weight_filler": {"type": self.filler}} if self.filler else {}
        return {"param": rates(self.rate), **filled, **self.special.get(name, {})}

    def conv(self, name: str, outputs: int, kernel: int, pad: int) -> dict[str, Any]:
        """The options of one of its convolutions."""
        return {"num_output": outputs, "pad": pad, "kernel_size": kernel, "stride": 1, **self.learning(name)}


VGG16 = Vgg()


def first_pad(fc_kernel: int) -> int:
    """The pad of the first convolution, so that even the smallest image leaves something for fc6: 100 for 7x7.

    It grows by half of what fc6 cuts off, in pixels. The last crop is at 19, 27 or 31 for every kernel then.
    """
    return 4 + 16 * (fc_kernel - 1)


def conv_relu(n: NetSpec, bottom: Top, name: str, relu: str, **options: Any) -> Top:
    """A convolution and its ReLU in place; returns the ReLU's top."""
    n[name] = L.Convolution(bottom, **options)
    n[relu] = L.ReLU(n[name], in_place=True)
    relu_top: Top = n[relu]
    return relu_top


def max_pool(n: NetSpec, bottom: Top, name: str, kernel: int = 2, stride: int = 2, **more: int) -> Top:
    """A max pooling."""
    n[name] = L.Pooling(bottom, pool=P.Pooling.MAX, kernel_size=kernel, stride=stride, **more)
    pooled: Top = n[name]
    return pooled


def drop(n: NetSpec, bottom: Top, name: str, ratio: float) -> Top:
    """Dropout in place, left out of the deploy form."""
    n[name] = L.Dropout(bottom, dropout_ratio=ratio, in_place=True, exclude=NOT_DEPLOYED)
    dropped: Top = n[name]
    return dropped


def scaled(n: NetSpec, bottom: Top, name: str, value: float) -> Top:
    """A multiplication by a constant."""
    n[name] = L.Scale(bottom, filler={"type": "constant", "value": value}, param=[{"lr_mult": 0}])
    made: Top = n[name]
    return made


def score(n: NetSpec, bottom: Top, name: str, classes: int, rate: float = 1) -> Top:
    """A score layer, 1x1 and without filler: it starts at zero."""
    n[name] = L.Convolution(bottom, num_output=classes, pad=0, kernel_size=1, param=rates(rate))
    scored: Top = n[name]
    return scored


def convolutions(n: NetSpec, bottom: Top, trunk: Vgg = VGG16, suffix: str = "", first: str = "conv1_1") -> Top:
    """Add a VGG trunk up to pool5. suffix: of every layer name. first: the first convolution's name."""
    edge = first_pad(trunk.fc_kernel) if trunk.pad is None else trunk.pad
    for stage, (depth, width) in enumerate(zip(trunk.depths, trunk.widths, strict=True), 1):
        for number in range(1, depth + 1):
            start = (stage, number) == (1, 1)
            name = first if start else f"conv{stage}_{number}"
            options = trunk.conv(name, width, 3, edge if start else 1)
            bottom = conv_relu(n, bottom, name + suffix, f"relu{stage}_{number}{suffix}", **options)
        bottom = max_pool(n, bottom, f"pool{stage}{suffix}")
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


def alexnet(n: NetSpec, bottom: Top, **learning: Any) -> Top:
    """Add CaffeNet up to fc7. learning: options of each convolution; the released net gives them no `param`."""

    def conv(number: int, kernel: int, outputs: int, stride: int = 1, pad: int = 0, group: int = 1) -> Top:
        options = {"num_output": outputs, "pad": pad, "kernel_size": kernel, "group": group, "stride": stride}
        options |= learning
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
    """CaffeNet with the rate of its biases doubled, as the paper's text says; the released net leaves them alone."""
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
    """Add BVLC's GoogLeNet up to its last inception and dropout; auxiliary heads and average pooling are left out."""

    def conv(bottom: Top, group: str, part: str, outputs: int, kernel: int = 1, stride: int = 1, pad: int = 0) -> Top:
        options = {"num_output": outputs, "pad": pad, "kernel_size": kernel, "stride": stride, "param": RATES}
        # A relu is called by the convolution's part without its stride.
        return conv_relu(n, bottom, f"{group}/{part}", f"{group}/relu_{part.removesuffix('_s2')}", **options)

    def norm(bottom: Top, name: str) -> Top:
        made: Top = L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)
        n[name] = made
        return made

    bottom = conv(bottom, "conv1", "7x7_s2", 64, 7, 2, pad)
    bottom = norm(max_pool(n, bottom, "pool1/3x3_s2", 3), "pool1/norm1")
    bottom = conv(bottom, "conv2", "3x3_reduce", 64)
    bottom = norm(conv(bottom, "conv2", "3x3", 192, 3, pad=1), "conv2/norm2")
    bottom = max_pool(n, bottom, "pool2/3x3_s2", 3)
    for name, (one, reduce3, three, reduce5, five, projected) in _INCEPTIONS.items():
        group = f"inception_{name}"
        branches = [conv(bottom, group, "1x1", one)]
        for size, reduced, outputs in ((3, reduce3, three), (5, reduce5, five)):
            part = f"{size}x{size}"
            narrow = conv(bottom, group, f"{part}_reduce", reduced)
            branches.append(conv(narrow, group, part, outputs, size, pad=size // 2))
        pooled = max_pool(n, bottom, f"{group}/pool", 3, 1, pad=1)
        branches.append(conv(pooled, group, "pool_proj", projected))
        bottom = n[f"{group}/output"] = L.Concat(*branches)
        if name in ("3b", "4e"):
            bottom = max_pool(n, bottom, f"pool{name[0]}/3x3_s2", 3)
    return drop(n, bottom, "pool5/drop_7x7_s1", 0.4)
