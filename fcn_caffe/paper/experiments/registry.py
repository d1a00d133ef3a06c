"""The experiments by name, each with the options that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fcn_caffe.paper.experiments.ablation import at_once, learned_upsampling, pools, table2
from fcn_caffe.paper.experiments.augmentation import augmentation
from fcn_caffe.paper.experiments.balance import balance
from fcn_caffe.paper.experiments.cost import patchwise_cost
from fcn_caffe.paper.experiments.equalities import fc_to_conv, rarefaction, upsampling, zero_init_skip
from fcn_caffe.paper.experiments.fusion import fusion
from fcn_caffe.paper.experiments.hha_of_a_room import encode_room
from fcn_caffe.paper.experiments.masking import masking
from fcn_caffe.paper.experiments.momentum import momentum_and_batch
from fcn_caffe.paper.experiments.regimes import regimes
from fcn_caffe.paper.experiments.sampling import sampling
from fcn_caffe.paper.experiments.upper_bound import upper_bound
from fcn_caffe.paper.result import Result

__all__ = ["EXPERIMENTS", "Experiment", "Options"]


@dataclass(frozen=True)
class Options:
    """What an experiment may be told; each takes what concerns it. scale: of the iterations, where nets are trained."""

    net: str | None = None
    until: str | None = None
    out: str | None = None
    labels: str | None = None
    classes: int | None = None
    ignore: int = 255
    limit: int | None = None
    seed: int = 0
    scale: float = 1.0


@dataclass(frozen=True)
class Experiment:
    """A name's section of the paper, what is done, the options it takes, and how it is run."""

    section: str
    what: str
    takes: tuple[str, ...]
    run: Callable[[Options], Result]


EXPERIMENTS: dict[str, Experiment] = {
    "fc-to-conv": Experiment(
        "3.1",
        "a classifier and its fully convolutional form give the same numbers",
        ("net", "seed"),
        lambda options: fc_to_conv(options.net, options.seed),
    ),
    "cost": Experiment(
        "3.1",
        "AlexNet over a 500x500 image at once, against its 100 crops: time and multiply-adds",
        ("seed",),
        lambda options: patchwise_cost(seed=options.seed),
    ),
    "rarefaction": Experiment(
        "3.2",
        "shift-and-stitch equals filter rarefaction, at every strided blob",
        ("net", "until", "out", "seed"),
        lambda options: rarefaction(options.net, options.until, options.seed, options.out),
    ),
    "upsampling": Experiment(
        "3.3",
        "Deconvolution equals the gradient of a Convolution",
        ("seed",),
        lambda options: upsampling(seed=options.seed),
    ),
    "zero-init-skip": Experiment(
        "4.2",
        "FCN-16s and 8s start as the coarser net",
        ("seed",),
        lambda options: zero_init_skip(options.seed),
    ),
    "fusion": Experiment(
        "5",
        "colour and depth fused early and late start as the nets of one input",
        ("seed",),
        lambda options: fusion(seed=options.seed),
    ),
    "hha": Experiment(
        "5",
        "depth as disparity, height and angle with gravity, of a room whose numbers are known",
        (),
        lambda options: encode_room(),
    ),
    "sampling": Experiment(
        "3.4, 4.3",
        "patches are a sample of the loss; training on all, half and a quarter of it",
        ("seed", "scale"),
        lambda options: sampling(options.seed, options.scale),
    ),
    "balance": Experiment(
        "4.3",
        "FCN-32s with and without weights of rare classes",
        ("seed", "scale"),
        lambda options: balance(options.seed, options.scale),
    ),
    "augmentation": Experiment(
        "4.3",
        "FCN-32s with and without mirroring and jitter",
        ("seed", "scale"),
        lambda options: augmentation(options.seed, options.scale),
    ),
    "regimes": Experiment(
        "PAMI",
        "accumulated, online and heavy learning at one rate",
        ("seed", "scale"),
        lambda options: regimes(options.seed, options.scale),
    ),
    "masking": Experiment(
        "PAMI",
        "FCN-32s on whole images, on foregrounds and on backgrounds",
        ("seed", "scale"),
        lambda options: masking(options.seed, options.scale),
    ),
    "momentum": Experiment(
        "PAMI",
        "a batch of k with momentum p is like single images with momentum p^(1/k)",
        ("seed",),
        lambda options: momentum_and_batch(seed=options.seed),
    ),
    "upper-bound": Experiment(
        "Appendix A",
        "mean IU of labels shrunk by 128 to 4 and enlarged again",
        ("labels", "classes", "ignore", "limit"),
        lambda options: upper_bound(options.labels, options.classes, options.ignore, options.limit),
    ),
    "table2": Experiment(
        "4.2",
        "mean IU of FCN-32s-fixed, 32s, 16s, 8s, each trained from the one before",
        ("seed", "scale"),
        lambda options: table2(options.seed, options.scale),
    ),
    "learned-upsampling": Experiment(
        "4.2",
        "FCN-8s with learned and with fixed upsampling between its skips",
        ("seed", "scale"),
        lambda options: learned_upsampling(options.seed, options.scale),
    ),
    "at-once": Experiment(
        "release",
        "FCN-8s trained at once with scaled skips, against steps; and without the scales",
        ("seed", "scale"),
        lambda options: at_once(options.seed, options.scale),
    ),
    "pools": Experiment(
        "PAMI",
        "scores from pool5, pool4, pool3 alone",
        ("seed", "scale"),
        lambda options: pools(options.seed, options.scale),
    ),
}
