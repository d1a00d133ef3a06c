"""From the trunk's features to scores at every pixel, and the loss: strides 32, 16 and 8. Offsets are derived."""

from __future__ import annotations

from collections.abc import Callable

from fcn_caffe.coord_map import crop
from fcn_caffe.models.trunks import NOT_DEPLOYED, score
from fcn_caffe.net_spec import NetSpec, Top
from fcn_caffe.net_spec import layers as L
from fcn_caffe.net_spec import params as P

__all__ = ["average", "crop_to", "head", "loss", "upsample"]

IGNORED = 255
# The constants of the at-once net: its skips see features of far larger magnitude than fc7's.
SKIP_SCALES = {4: 0.01, 3: 0.0001}

Skip = Callable[[int], Top]


def upsample(n: NetSpec, bottom: Top, name: str, classes: int, factor: int, odd: bool = False) -> Top:
    """A fixed upsampling, its kernel twice the factor, or one less where the trunk's geometry is `odd`."""
    kernel = 2 * factor - odd
    n[name] = L.Deconvolution(
        bottom,
        convolution_param={"num_output": classes, "bias_term": False, "kernel_size": kernel, "stride": factor},
        param=[{"lr_mult": 0}],
    )
    made: Top = n[name]
    return made


def crop_to(n: NetSpec, bottom: Top, reference: Top, name: str) -> Top:
    """A crop at the offset the coordinate maps give. Raises: GraphError where there is none."""
    n[name] = crop(bottom, reference)
    made: Top = n[name]
    return made


def average(n: NetSpec, one: Top, other: Top, name: str) -> Top:
    """The mean of two blobs."""
    n[name] = L.Eltwise(one, other, operation=P.Eltwise.SUM, coeff=[0.5, 0.5])
    made: Top = n[name]
    return made


def loss(n: NetSpec, scores: Top, label: Top, name: str = "loss", normalize: bool = False) -> None:
    """Softmax loss; by default summed over the pixels, not averaged."""
    options = {"ignore_label": IGNORED, "normalize": normalize}
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
) -> Top:
    """From stride-32 scores to the image's size, with skips from pool4 (16) and pool3 (8); returns the last crop.

    suffix: of every layer name, as in `_sem`. skip: gives the score top of a pool, called score_poolN; by default a
    score layer on n.poolN.
    Raises: GraphError where the coordinate maps give no offset, as for an fc6 kernel too small for the skips.
    """
    factor = 32
    for pool, name in ((4, "upscore2"), (3, "upscore_pool4")):
        if factor == stride:
            break
        up = upsample(n, scores, name + suffix, classes, 2)
        beside = score(n, n[f"pool{pool}"], f"score_pool{pool}{suffix}", classes) if skip is None else skip(pool)
        cut = crop_to(n, beside, up, f"score_pool{pool}{suffix}c")
        n[f"fuse_pool{pool}{suffix}"] = L.Eltwise(up, cut, operation=P.Eltwise.SUM)
        scores = n[f"fuse_pool{pool}{suffix}"]
        factor //= 2
    up = upsample(n, scores, f"upscore{'' if factor == 32 else factor}{suffix}", classes, factor, odd)
    return crop_to(n, up, image, f"score{suffix}")


def scaled_skip(n: NetSpec, classes: int) -> Skip:
    """The skips of the at-once net: a constant scale before each score layer."""

    def skip(pool: int) -> Top:
        value = {"type": "constant", "value": SKIP_SCALES[pool]}
        n[f"scale_pool{pool}"] = L.Scale(n[f"pool{pool}"], filler=value, param=[{"lr_mult": 0}])
        return score(n, n[f"scale_pool{pool}"], f"score_pool{pool}", classes)

    return skip
