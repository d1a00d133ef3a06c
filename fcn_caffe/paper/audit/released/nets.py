"""The released nets and solvers as facts, written from the table of them and not by what writes our files.

Beside them the nets that the papers describe and nobody released: those of the CVPR 2015 text, GoogLeNet, and the
NYUDv2 nets of stride 16. Source: ../shared/spec/reference-nets.md; for GoogLeNet's widths Szegedy et al., table 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from fcn_caffe.paper.audit.released.fields import EVERYWHERE, Facts, Layer

__all__ = ["CLASSES", "CVPR", "DERIVED", "GOOGLENET", "NYUD16", "RELEASED", "released_net"]

RELEASED = (
    *("voc-fcn32s", "voc-fcn16s", "voc-fcn8s", "voc-fcn8s-atonce", "voc-fcn-alexnet"),
    *("nyud-fcn32s-color", "nyud-fcn32s-hha", "nyud-fcn32s-color-d", "nyud-fcn32s-color-hha"),
    *("siftflow-fcn32s", "siftflow-fcn16s", "siftflow-fcn8s"),
    *("pascalcontext-fcn32s", "pascalcontext-fcn16s", "pascalcontext-fcn8s"),
)
CVPR = ("cvpr-fcn32s", "cvpr-fcn16s", "cvpr-fcn8s", "cvpr-fcn-alexnet")
GOOGLENET = ("voc-fcn-googlenet", "cvpr-fcn-googlenet")
NYUD16 = ("nyud-fcn16s-hha", "nyud-fcn16s-rgb-hha")
DERIVED = (*CVPR, *GOOGLENET, *NYUD16)

CLASSES = {"voc": 21, "cvpr": 21, "nyud": 40, "siftflow": 33, "pascalcontext": 60}
GEOMETRIC = 3
TRAINED = ("train", "test")  # not in the deploy form
BOTH: Facts = {"lr_mult": (1.0, 2.0), "decay_mult": (1.0, 0.0)}
NEITHER: Facts = {"lr_mult": (1.0, 1.0), "decay_mult": (1.0, 1.0)}

_VGG = ((1, 2, 64), (2, 2, 128), (3, 3, 256), (4, 3, 512), (5, 3, 512))
# Layer, ReLU, kernel, stride, pad, outputs, group, and the names of the pool, normalisation or dropout that follow.
_ALEXNET = (
    ("conv1", "relu1", 11, 4, 100, 96, 1, ("pool1", "norm1")),
    ("conv2", "relu2", 5, 1, 2, 256, 2, ("pool2", "norm2")),
    ("conv3", "relu3", 3, 1, 1, 384, 1, ()),
    ("conv4", "relu4", 3, 1, 1, 384, 2, ()),
    ("conv5", "relu5", 3, 1, 1, 256, 2, ("pool5",)),
    ("fc6", "relu6", 6, 1, 0, 4096, 1, ("drop6",)),
    ("fc7", "relu7", 1, 1, 0, 4096, 1, ("drop7",)),
)
# Outputs of 1x1, of 3x3_reduce and 3x3, of 5x5_reduce and 5x5, and of pool_proj.
_INCEPTION = {
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
_NORM: Facts = {"alpha": 0.0001}  # local_size 5 and beta 0.75 are Caffe's own
_OFFSETS = {32: 19, 16: 27, 8: 31}
_VOC_MEAN = (104.00699, 116.66877, 122.67892)
_SCALES = {4: 0.01, 3: 0.0001}


class _Chain:
    """Builds layers one after the other. Each method adds some and returns the last top, which `at` then is."""

    def __init__(self, at: str) -> None:
        self.layers: list[Layer] = []
        self.at = at

    def add(
        self,
        name: str,
        kind: str,
        *bottoms: str,
        top: str | None = None,
        states: tuple[str, ...] = EVERYWHERE,
        **options: object,
    ) -> str:
        self.at = name if top is None else top
        self.layers.append(Layer(name, kind, bottoms, (self.at,), states, options))
        return self.at

    def conv(
        self,
        name: str,
        relu: str,
        window: tuple[int, int, int],
        outputs: int,
        group: int = 1,
        rates: Facts = BOTH,
        after: str | None = None,
    ) -> str:
        self.add(name, "Convolution", after or self.at, **_window(window, outputs, group), bias_term=True, **rates)
        return self.add(relu, "ReLU", self.at, top=self.at)

    def pool(self, name: str, kernel: int, stride: int = 2, pad: int = 0, after: str | None = None) -> str:
        options: Facts = {"kernel_size": kernel, "stride": stride, "pad": pad}
        usual = {"stride": 1, "pad": 0}
        kept: Facts = {key: value for key, value in options.items() if usual.get(key) != value}
        return self.add(name, "Pooling", after or self.at, **kept)

    def drop(self, name: str, ratio: float = 0.5) -> str:
        return self.add(name, "Dropout", self.at, top=self.at, states=TRAINED, dropout_ratio=ratio)

    def score(self, name: str, bottom: str, classes: int) -> str:
        return self.add(name, "Convolution", bottom, **_window((1, 1, 0), classes), bias_term=True, **BOTH)

    def up(self, name: str, bottom: str, classes: int, kernel: int, stride: int, learned: bool = False) -> str:
        rates: Facts = {"lr_mult": (float(learned),), "decay_mult": (1.0,)}
        return self.add(
            name, "Deconvolution", bottom, **_window((kernel, stride, 0), classes), bias_term=False, **rates
        )

    def crop(self, name: str, bottom: str, to: str, offset: int) -> str:
        return self.add(name, "Crop", bottom, to, offset=(offset,))  # axis 2 is Caffe's own

    def mean(self, name: str, bottom: str, other: str) -> str:
        return self.add(name, "Eltwise", bottom, other, coeff=(0.5, 0.5))


def _window(window: tuple[int, int, int], outputs: int, group: int = 1) -> Facts:
    kernel, stride, pad = window
    facts = {"kernel": kernel, "stride": stride, "pad": pad, "dilation": 1, "num_output": outputs, "group": group}
    return {**facts, "weight_filler": "zero", "bias_filler": "zero"}


def _vgg(chain: _Chain, suffix: str = "", first: str = "conv1_1") -> None:
    for stage, depth, width in _VGG:
        for number in range(1, depth + 1):
            start = (stage, number) == (1, 1)
            name = first if start else f"conv{stage}_{number}"
            chain.conv(name + suffix, f"relu{stage}_{number}{suffix}", (3, 1, 100 if start else 1), width)
        chain.pool(f"pool{stage}{suffix}", 2)
    for number, kernel in ((6, 7), (7, 1)):
        chain.conv(f"fc{number}{suffix}", f"relu{number}{suffix}", (kernel, 1, 0), 4096)
        chain.drop(f"drop{number}{suffix}")


def _alexnet(chain: _Chain, rates: Facts) -> None:
    for name, relu, kernel, stride, pad, outputs, group, after in _ALEXNET:
        chain.conv(name, relu, (kernel, stride, pad), outputs, group, rates)
        for follower in after:
            if follower.startswith("pool"):
                chain.pool(follower, 3)
            elif follower.startswith("norm"):
                chain.add(follower, "LRN", chain.at, **_NORM)
            else:
                chain.drop(follower)


def _googlenet(chain: _Chain) -> None:
    chain.conv("conv1/7x7_s2", "conv1/relu_7x7", (7, 2, 18), 64)  # BVLC's pad is 3; ours keeps small images whole
    chain.pool("pool1/3x3_s2", 3)
    chain.add("pool1/norm1", "LRN", chain.at, **_NORM)
    chain.conv("conv2/3x3_reduce", "conv2/relu_3x3_reduce", (1, 1, 0), 64)
    chain.conv("conv2/3x3", "conv2/relu_3x3", (3, 1, 1), 192)
    chain.add("conv2/norm2", "LRN", chain.at, **_NORM)
    chain.pool("pool2/3x3_s2", 3)
    for name, (one_by_one, reduce3, three, reduce5, five, pool_proj) in _INCEPTION.items():
        group, below = f"inception_{name}", chain.at

        def conv(part: str, kernel: int, outputs: int, after: str, group: str = group) -> str:
            pad = kernel // 2
            return chain.conv(f"{group}/{part}", f"{group}/relu_{part}", (kernel, 1, pad), outputs, after=after)

        branches = [conv("1x1", 1, one_by_one, below)]
        branches.append(conv("3x3", 3, three, conv("3x3_reduce", 1, reduce3, below)))
        branches.append(conv("5x5", 5, five, conv("5x5_reduce", 1, reduce5, below)))
        branches.append(conv("pool_proj", 1, pool_proj, chain.pool(f"{group}/pool", 3, 1, 1, below)))
        chain.add(f"{group}/output", "Concat", *branches)
        if name in ("3b", "4e"):
            chain.pool(f"pool{name[0]}/3x3_s2", 3)
    chain.drop("pool5/drop_7x7_s1", 0.4)


Score = Callable[[int], str]


def _head(
    chain: _Chain,
    scores: str,
    image: str,
    stride: int,
    classes: int,
    *,
    suffix: str = "",
    learned: bool = False,
    skip: Score | None = None,
    loss: str = "loss",
    label: str = "label",
    normalize: bool = False,
    odd: int | None = None,
) -> None:
    """From the scores of stride 32 to the loss. odd: the crop's offset where kernels have a middle pixel."""
    for pool, up, offset in ((4, "upscore2", 5), (3, "upscore_pool4", 9)):
        if stride > {4: 16, 3: 8}[pool]:
            break
        upsampled = chain.up(up + suffix, scores, classes, 4, 2, learned)
        name = f"score_pool{pool}{suffix}"
        skip_score = skip(pool) if skip else chain.score(name, f"pool{pool}", classes)
        cropped = chain.crop(f"{name}c", skip_score, upsampled, offset)
        scores = chain.add(f"fuse_pool{pool}{suffix}", "Eltwise", upsampled, cropped)
    name = f"upscore{'' if stride == 32 else stride}{suffix}"
    upsampled = chain.up(name, scores, classes, 2 * stride - (odd is not None), stride)
    cropped = chain.crop(f"score{suffix}", upsampled, image, _OFFSETS[stride] if odd is None else odd)
    options: Facts = {"ignore_label": 255, "normalize": normalize}
    chain.add(loss, "SoftmaxWithLoss", cropped, label, states=TRAINED, **options)


def _data(name: str) -> tuple[list[Layer], tuple[str, ...]]:
    """The data layers of training and testing and the input of the deploy form; and the names of the images."""
    data, _, form = name.partition("-")
    images: dict[str, int] = {"data": 3}
    labels: tuple[str, ...] = ("label",)
    seed: Facts = {"seed": 1337}
    if data == "nyud":
        kinds = {"color-d": ("color", "depth"), "color-hha": ("color", "hha"), "rgb-hha": ("color", "hha")}
        inputs = kinds.get(form.partition("-")[2], (form.partition("-")[2],))
        channels = {"color": 3, "hha": 3, "depth": 1}
        images = {name if len(inputs) > 1 else "data": channels[name] for name in inputs}
        seed["tops"] = (*inputs, "label")
        kind, splits = ("nyud_layers", "NYUDSegDataLayer", "NYUDSegDataLayer"), ("trainval", "test")
    elif data == "siftflow":
        labels = ("sem", "geo")
        kind, splits = ("siftflow_layers", "SIFTFlowSegDataLayer", "SIFTFlowSegDataLayer"), ("trainval", "test")
    elif data == "pascalcontext":
        layer = "PASCALContextSegDataLayer"
        kind, splits = ("pascalcontext_layers", layer, layer), ("train", "val")
    else:
        seed["mean"] = _VOC_MEAN
        kind, splits = ("voc_layers", "SBDDSegDataLayer", "VOCSegDataLayer"), ("train", "seg11valid")
    first, tops = next(iter(images)), (*images, *labels)
    layers = [
        Layer(first, "Python", (), tops, (state,), {"module": kind[0], "layer": layer, "split": split, **seed})
        for state, layer, split in zip(TRAINED, kind[1:], splits, strict=True)
    ]
    shapes = {f"shape[{index}].dim": (1, count, 500, 500) for index, count in enumerate(images.values())}
    return [*layers, Layer("input", "Input", (), tuple(images), ("deploy",), shapes)], tuple(images)


@cache
def released_net(name: str) -> tuple[Layer, ...]:
    """Return the layers that a net should have, in their order. Raises: KeyError for a net of no paper."""
    if name not in RELEASED + DERIVED:
        raise KeyError(name)
    start, images = _data(name)
    data, _, form = name.partition("-")
    classes, by_text = CLASSES[data], data == "cvpr"
    stride = 8 if "8s" in form else 16 if "16s" in form else 32
    chain = _Chain(images[0])
    if form in ("fcn-alexnet", "fcn-googlenet"):
        alexnet = form == "fcn-alexnet"
        if alexnet:
            _alexnet(chain, BOTH if by_text else NEITHER)
        else:
            _googlenet(chain)
        scores = chain.score("score_fr", chain.at, classes)
        _head(chain, scores, "data", 32, classes, normalize=True, odd=18 if alexnet else 16)
    elif len(images) == 2 and images[1] == "hha":
        _two_trunks(chain, stride, classes)
    else:
        if len(images) == 2:
            chain.add("data", "Concat", *images)
        _vgg(chain, first="conv1_1" if len(images) == 1 else "conv1_1_bgrd")
        heads = (("", classes, "loss", "label"),)
        if data == "siftflow":
            heads = (("_sem", classes, "loss", "sem"), ("_geo", GEOMETRIC, "loss_geo", "geo"))  # type: ignore[assignment]
        features = chain.at
        skip = _scaled_skip(chain, classes) if form.endswith("atonce") else None
        for suffix, count, loss, label in heads:
            scores = chain.score(f"score_fr{suffix}", features, count)
            _head(
                chain,
                scores,
                "data",
                stride,
                count,
                suffix=suffix,
                learned=by_text,
                skip=skip,
                loss=loss,
                label=label,
                normalize=by_text,
            )
    return (*start, *chain.layers)


def _two_trunks(chain: _Chain, stride: int, classes: int) -> None:
    kinds = ("color", "hha")
    scores = []
    for kind in kinds:
        chain.at = kind
        _vgg(chain, kind)
        scores.append(chain.score(f"score_fr{kind}", chain.at, classes))
    fused = chain.mean("score_fused", *scores)

    def skip(pool: int) -> str:
        kind_scores = [chain.score(f"score_pool{pool}{kind}", f"pool{pool}{kind}", classes) for kind in kinds]
        return chain.mean(f"score_pool{pool}", *kind_scores)

    _head(chain, fused, "color", stride, classes, skip=skip)


def _scaled_skip(chain: _Chain, classes: int) -> Score:
    def skip(pool: int) -> str:
        options: Facts = {"filler.value": _SCALES[pool], "lr_mult": (0.0,), "decay_mult": (1.0,)}
        scaled = chain.add(f"scale_pool{pool}", "Scale", f"pool{pool}", **options)
        return chain.score(f"score_pool{pool}", scaled, classes)

    return skip
