"""The heads of FCNs: from the trunk's features to scores at every pixel, at strides 32, 16 and 8, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fcn_caffe.models.trunks import NOT_DEPLOYED, multiply, score
from fcn_caffe.net.coord_map import crop
from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P

__all__ = ["IGNORED", "SKIPS", "average", "fuse", "head", "loss", "to_image", "upsample"]

IGNORED = 255
# The constants of the at-once net: its skips see features of far larger magnitude than fc7's.
SKIP_SCALES = {4: 0.01, 3: 0.0001}
# The pools that skips come from, each with the name of the upsampling beside it.
SKIPS = ((4, "upscore2"), (3, "upscore_pool4"))

Skip = Callable[[int], Top]


def upsample(
    n: NetSpec, bottom: Top, name: str, classes: int, factor: int, odd: bool = False, learned: bool = False
) -> Top:
    """Add an upsampling, fixed or learned. Its kernel is twice the factor, or one less with an `odd` trunk."""
    kernel = 2 * factor - odd
    n[name] = L.Deconvolution(
        bottom,
        convolution_param={"num_output": classes, "bias_term": False, "kernel_size": kernel, "stride": factor},
        param=[{"lr_mult": int(learned)}],
    )
    top: Top = n[name]
    return top


def _crop_to(n: NetSpec, bottom: Top, reference: Top, name: str) -> Top:
    """Add a crop at the offset that the coordinate maps give. Raises: GraphError where there is none."""
    n[name] = crop(bottom, reference)
    top: Top = n[name]
    return top


def average(n: NetSpec, first: Top, second: Top, name: str) -> Top:
    """Add the mean of two blobs."""
    n[name] = L.Eltwise(first, second, operation=P.Eltwise.SUM, coeff=[0.5, 0.5])
    top: Top = n[name]
    return top


def fuse(n: NetSpec, up: Top, beside: Top, name: str, crop_up: bool = False) -> Top:
    """Add the sum of upsampled scores and a skip's. The larger is cropped: the skip's, unless `crop_up`."""
    if crop_up:
        up = _crop_to(n, up, beside, f"{up.name}c")
    else:
        beside = _crop_to(n, beside, up, f"{beside.name}c")
    n[name] = L.Eltwise(up, beside, operation=P.Eltwise.SUM)
    top: Top = n[name]
    return top


def to_image(
    n: NetSpec, scores: Top, image: Top, classes: int, factor: int, suffix: str = "", odd: bool = False
) -> Top:
    """Add the last upsampling, cropped to the image."""
    up = upsample(n, scores, f"upscore{'' if factor == 32 else factor}{suffix}", classes, factor, odd)
    return _crop_to(n, up, image, f"score{suffix}")


def loss(
    n: NetSpec, scores: Top, label: Top, name: str = "loss", normalize: bool = False, ignore: int = IGNORED
) -> None:
    """Add a softmax loss, by default summed over the pixels.

    Args:
        n: the net.
        scores: the scores of every pixel.
        label: the labels.
        name: the layer's name.
        normalize: average the loss over the pixels.
        ignore: the label that does not count.
    """
    options = {"ignore_label": ignore, "normalize": normalize}
    n[name] = L.SoftmaxWithLoss(scores, label, loss_param=options, exclude=NOT_DEPLOYED)


def head(
    n: NetSpec,
    scores: Top,
    image: Top,
    classes: int,
    stride: int,
    *,
    suffix: str = "",
    skip: Skip | None = None,
    odd: bool = False,
    crop_up: bool = False,
    score_rates: Mapping[str, float] | None = None,
    learned: bool = False,
) -> Top:
    """Add the way from stride-32 scores to the image's size, with skips from pool4 (16) and pool3 (8).

    Args:
        n: the net, with the trunk.
        scores: the scores of stride 32.
        image: what the result is cropped to.
        classes: the number of classes.
        stride: 32, 16 or 8.
        suffix: what every layer's name ends in, as `_sem`.
        skip: makes the score top of a pool, score_poolN; by default a score layer on n.poolN.
        odd: the trunk's receptive fields have a middle pixel, so the last kernel is odd.
        crop_up: crop the upsampled scores, not the skip, as where every convolution keeps its size.
        score_rates: lr_mult of the skips' score layers, by name; 1 otherwise.
        learned: learn the upsampling between skips, from bilinear; the last one stays fixed.
    Returns:
        The last crop.
    Raises:
        GraphError: the coordinate maps give no offset, as for an fc6 kernel that is too small for the skips.
    """
    factor = 32
    for pool, up_name in SKIPS:
        if factor == stride:
            break
        up = upsample(n, scores, up_name + suffix, classes, 2, learned=learned)
        name = f"score_pool{pool}{suffix}"
        rate = (score_rates or {}).get(name, 1)
        beside = score(n, n[f"pool{pool}"], name, classes, rate) if skip is None else skip(pool)
        scores = fuse(n, up, beside, f"fuse_pool{pool}{suffix}", crop_up)
        factor //= 2
    return to_image(n, scores, image, classes, factor, suffix, odd)


def scaled_skip(n: NetSpec, classes: int) -> Skip:
    """Return the skips of the at-once net: a constant scale before each score layer."""

    def skip(pool: int) -> Top:
        bottom = multiply(n, n[f"pool{pool}"], f"scale_pool{pool}", SKIP_SCALES[pool])
        return score(n, bottom, f"score_pool{pool}", classes)

    return skip
