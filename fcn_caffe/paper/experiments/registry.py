"""The experiments by name, each with the options that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fcn_caffe.paper.result import Result

__all__ = ["EXPERIMENTS", "Experiment", "Options"]


@dataclass(frozen=True)
class Options:
    """The options of all experiments; each takes those that concern it.

    Attributes:
        net: the net to compare, a file.
        until: its last blob.
        out: a file for the net that is made.
        labels: a folder of label images.
        classes: of the labels.
        ignore: the void label.
        limit: how many labels are read.
        seed: of all random numbers.
        scale: share of the iterations, where nets are trained.
    """

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
    """An experiment: the paper's section, what it does, the names of the options that it takes, how it is run."""

    section: str
    what: str
    takes: tuple[str, ...]
    run: Callable[[Options], Result]


# The experiments are imported when one is run: a list of their names does without PyTorch.


def _fc_to_conv(options: Options) -> Result:
    from fcn_caffe.paper.experiments.equalities import fc_to_conv

    return fc_to_conv(options.net, options.seed)


def _patchwise_cost(options: Options) -> Result:
    from fcn_caffe.paper.experiments.cost import patchwise_cost

    return patchwise_cost(seed=options.seed)


def _rarefaction(options: Options) -> Result:
    from fcn_caffe.paper.experiments.equalities import rarefaction

    return rarefaction(options.net, options.until, options.seed, options.out)


def _upsampling(options: Options) -> Result:
    from fcn_caffe.paper.experiments.equalities import upsampling

    return upsampling(seed=options.seed)


def _zero_init_skip(options: Options) -> Result:
    from fcn_caffe.paper.experiments.equalities import zero_init_skip

    return zero_init_skip(options.seed)


def _fusion(options: Options) -> Result:
    from fcn_caffe.paper.experiments.fusion import fusion

    return fusion(seed=options.seed)


def _encode_room(options: Options) -> Result:
    from fcn_caffe.paper.experiments.hha_of_a_room import encode_room

    return encode_room()


def _sampling(options: Options) -> Result:
    from fcn_caffe.paper.experiments.sampling import sampling

    return sampling(options.seed, options.scale)


def _balance(options: Options) -> Result:
    from fcn_caffe.paper.experiments.balance import balance

    return balance(options.seed, options.scale)


def _augmentation(options: Options) -> Result:
    from fcn_caffe.paper.experiments.augmentation import augmentation

    return augmentation(options.seed, options.scale)


def _regimes(options: Options) -> Result:
    from fcn_caffe.paper.experiments.regimes import regimes

    return regimes(options.seed, options.scale)


def _masking(options: Options) -> Result:
    from fcn_caffe.paper.experiments.masking import masking

    return masking(options.seed, options.scale)


def _momentum_and_batch(options: Options) -> Result:
    from fcn_caffe.paper.experiments.momentum import momentum_and_batch

    return momentum_and_batch(seed=options.seed)


def _upper_bound(options: Options) -> Result:
    from fcn_caffe.paper.experiments.upper_bound import upper_bound

    return upper_bound(options.labels, options.classes, options.ignore, options.limit)


def _table2(options: Options) -> Result:
    from fcn_caffe.paper.experiments.ablation import table2

    return table2(options.seed, options.scale)


def _learned_upsampling(options: Options) -> Result:
    from fcn_caffe.paper.experiments.ablation import learned_upsampling

    return learned_upsampling(options.seed, options.scale)


def _at_once(options: Options) -> Result:
    from fcn_caffe.paper.experiments.ablation import at_once

    return at_once(options.seed, options.scale)


def _pools(options: Options) -> Result:
    from fcn_caffe.paper.experiments.ablation import pools

    return pools(options.seed, options.scale)


EXPERIMENTS: dict[str, Experiment] = {
    "fc-to-conv": Experiment(
        "3.1",
        "a classifier and its fully convolutional form give the same numbers",
        ("net", "seed"),
        _fc_to_conv,
    ),
    "cost": Experiment(
        "3.1",
        "AlexNet over a 500x500 image at once, against its 100 crops: time and multiply-adds",
        ("seed",),
        _patchwise_cost,
    ),
    "rarefaction": Experiment(
        "3.2",
        "shift-and-stitch equals filter rarefaction, at every strided blob",
        ("net", "until", "out", "seed"),
        _rarefaction,
    ),
    "upsampling": Experiment(
        "3.3",
        "Deconvolution equals the gradient of a Convolution",
        ("seed",),
        _upsampling,
    ),
    "zero-init-skip": Experiment(
        "4.2",
        "FCN-16s and 8s start as the coarser net",
        ("seed",),
        _zero_init_skip,
    ),
    "fusion": Experiment(
        "5",
        "colour and depth fused early and late start as the nets of one input",
        ("seed",),
        _fusion,
    ),
    "hha": Experiment(
        "5",
        "depth as disparity, height and angle with gravity, of a room whose numbers are known",
        (),
        _encode_room,
    ),
    "sampling": Experiment(
        "3.4, 4.3",
        "patches are a sample of the loss; training on all, half and a quarter of it",
        ("seed", "scale"),
        _sampling,
    ),
    "balance": Experiment(
        "4.3",
        "FCN-32s with and without weights of rare classes",
        ("seed", "scale"),
        _balance,
    ),
    "augmentation": Experiment(
        "4.3",
        "FCN-32s with and without mirroring and jitter",
        ("seed", "scale"),
        _augmentation,
    ),
    "regimes": Experiment(
        "PAMI",
        "accumulated, online and heavy learning at one rate",
        ("seed", "scale"),
        _regimes,
    ),
    "masking": Experiment(
        "PAMI",
        "FCN-32s on whole images, on foregrounds and on backgrounds",
        ("seed", "scale"),
        _masking,
    ),
    "momentum": Experiment(
        "PAMI",
        "a batch of k with momentum p is like single images with momentum p^(1/k)",
        ("seed",),
        _momentum_and_batch,
    ),
    "upper-bound": Experiment(
        "Appendix A",
        "mean IU of labels shrunk by 128 to 4 and enlarged again",
        ("labels", "classes", "ignore", "limit"),
        _upper_bound,
    ),
    "table2": Experiment(
        "4.2",
        "mean IU of FCN-32s-fixed, 32s, 16s, 8s, each trained from the one before",
        ("seed", "scale"),
        _table2,
    ),
    "learned-upsampling": Experiment(
        "4.2",
        "FCN-8s with learned and with fixed upsampling between its skips",
        ("seed", "scale"),
        _learned_upsampling,
    ),
    "at-once": Experiment(
        "release",
        "FCN-8s trained at once with scaled skips, against steps; and without the scales",
        ("seed", "scale"),
        _at_once,
    ),
    "pools": Experiment(
        "PAMI",
        "scores from pool5, pool4, pool3 alone",
        ("seed", "scale"),
        _pools,
    ),
}
