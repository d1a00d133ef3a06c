"""A U-Net on VGG-16: its convolutions are the way down, so that a few hundred images are enough to learn the rest."""

from __future__ import annotations

from fcn_caffe.models.classics.encoder_decoder import PLAIN, Loss, add_loss
from fcn_caffe.models.nets import DataSource
from fcn_caffe.models.trunks import Vgg, add_stage, conv_relu, drop, max_pool, multiply, rates
from fcn_caffe.net.coord_map import crop
from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.proto import caffe_pb2

__all__ = ["unet_on_vgg"]

# By VGG-16's stage: what makes its blobs about 1 (root of the mean square, on street scenes); outputs on the way up.
_VGG_SCALES = {2: 0.04, 3: 0.1, 4: 0.36, 5: 0.16}
_VGG_UP = {2: 64, 3: 96, 4: 128, 5: 256}


def unet_on_vgg(
    name: str,
    data: DataSource,
    classes: int,
    loss: Loss = PLAIN,
    *,
    rate: float = 1,
    scale: float | None = None,
) -> caffe_pb2.NetParameter:
    """Build a U-Net whose way down is VGG-16's convolutions, for images of any size.

    Iglovikov and Shvets 2018 (TernausNet, arXiv 1801.05746), who start from VGG-11. Here the way up is narrow, to be
    learned from a few hundred images: a level is one convolution over what comes up, bilinearly, beside the features of
    the way down. Those are first multiplied to a size of about 1, since VGG's differ tenfold between stages. Scores are
    made at half the image's resolution.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        loss: the ignored label and the classes' weights.
        rate: what multiplies the learning rate of the way up; the scores learn twice as fast as that.
        scale: a factor for the input, where VGG's convolutions are learned from nothing.
    """
    n = data.start()
    bottom = image = n[data.tops[0]]
    if scale is not None:
        bottom = multiply(n, bottom, "scale_data", scale)
    down = _vgg_down(n, bottom)
    factor = _VGG_SCALES if scale is None else dict.fromkeys(_VGG_SCALES, 1)
    bottom = drop(n, multiply(n, down[5], "scale5", factor[5]), "drop5", 0.5)
    for stage in (5, 4, 3, 2):
        if stage < 5:
            up = _double(n, bottom, f"up{stage}", _VGG_UP[stage + 1])
            beside = multiply(n, down[stage], f"scale{stage}", factor[stage])
            up = n[f"crop{stage}"] = crop(up, beside)  # pools round up, so what comes up may be a row larger
            bottom = n[f"join{stage}"] = L.Concat(up, beside)
        options = {"num_output": _VGG_UP[stage], "pad": 1, "kernel_size": 3, "weight_filler": {"type": "msra"}}
        bottom = conv_relu(n, bottom, f"decode{stage}", f"relu_decode{stage}", param=rates(rate), **options)
    n.score_half = L.Convolution(
        bottom,
        num_output=classes,
        kernel_size=1,
        param=rates(2 * rate),
        weight_filler={"type": "gaussian", "std": 0.01},
    )
    n.score = crop(_double(n, n.score_half, "upscore", classes), image)
    add_loss(n, n.score, n[data.labels[0]], loss)
    return data.finish(n, name)


def _vgg_down(n: NetSpec, bottom: Top) -> dict[int, Top]:
    """Add VGG-16 up to its last convolution; return what each stage leaves before its pool."""
    down: dict[int, Top] = {}
    for stage in range(1, 6):
        if stage > 1:
            bottom = max_pool(n, bottom, f"pool{stage - 1}")
        bottom = down[stage] = add_stage(n, bottom, stage, Vgg(pad=1))
    return down


def _double(n: NetSpec, bottom: Top, name: str, channels: int) -> Top:
    """Add a bilinear upsampling by 2, which does not learn."""
    options = {
        "num_output": channels,
        "group": channels,
        "kernel_size": 4,
        "stride": 2,
        "pad": 1,
        "bias_term": False,
        "weight_filler": {"type": "bilinear"},
    }
    n[name] = L.Deconvolution(bottom, param=[{"lr_mult": 0, "decay_mult": 0}], convolution_param=options)
    doubled: Top = n[name]
    return doubled
