"""Nets that go down and come back: SegNet and SegNet-Basic, DeconvNet, U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcn_caffe.models.heads import IGNORED
from fcn_caffe.models.nets import DataSource
from fcn_caffe.models.trunks import NOT_DEPLOYED, RATES, conv_relu, drop, max_pool
from fcn_caffe.net.coord_map import crop
from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P
from fcn_caffe.proto import caffe_pb2

__all__ = ["UNET_MARGIN", "Loss", "add_loss", "deconvnet", "segnet", "segnet_basic", "unet", "unpool_sizes"]

BN_RATES = [{"lr_mult": 1, "decay_mult": 1}, {"lr_mult": 1, "decay_mult": 0}]
BN_FILLERS = {
    "scale_filler": {"type": "constant", "value": 1},
    "shift_filler": {"type": "constant", "value": 0.001},
}
# What U-Net's unpadded convolutions cut off on each side.
UNET_MARGIN = 92


@dataclass(frozen=True)
class Loss:
    """The label that is not learned, and a weight for each class where they have weights."""

    ignore: int = IGNORED
    class_weights: Sequence[float] = ()


PLAIN = Loss()


def add_loss(
    n: NetSpec, scores: Top, label: Top, loss: Loss, name: str = "loss", weight: float | None = None, **more: object
) -> None:
    """Add a softmax loss, averaged over the pixels. weight: of this loss beside others; more: options of the layer."""
    options: dict[str, Any] = {"ignore_label": loss.ignore}
    if loss.class_weights:
        options |= {"weight_by_label_freqs": True, "class_weighting": list(loss.class_weights)}
    if weight is not None:
        more["loss_weight"] = [weight]
    n[name] = L.SoftmaxWithLoss(scores, label, loss_param=options, exclude=NOT_DEPLOYED, **more)


def pool_with_mask(n: NetSpec, bottom: Top, name: str) -> Top:
    """Add a 2x2 max pooling whose second top says where each maximum was."""
    n[name], n[f"{name}_mask"] = L.Pooling(bottom, ntop=2, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    pooled: Top = n[name]
    return pooled


def unpool_sizes(size: int, pools: int) -> list[int]:
    """Return the sizes before each of so many 2x2 poolings, which round up: 45 is pooled to 23."""
    sizes = [size]
    for _ in range(pools - 1):
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _upsample(n: NetSpec, bottom: Top, number: int, size: tuple[int, int], pools: int) -> Top:
    """Add the way back from pooling `number`. A side that was odd is written as pad_out, as SegNet does."""
    odd = [unpool_sizes(side, pools)[number - 1] % 2 for side in size]
    pads = {f"pad_out_{axis}": True for axis, is_odd in zip("hw", odd, strict=True) if is_odd}
    n[f"upsample{number}"] = L.Upsample(bottom, n[f"pool{number}_mask"], upsample_param={"scale": 2, **pads})
    top: Top = n[f"upsample{number}"]
    return top


def _conv_bn(n: NetSpec, bottom: Top, name: str, outputs: int, kernel: int, **bn: object) -> Top:
    """Add a convolution that keeps its blob's size, and SegNet's BN in place."""
    n[name] = L.Convolution(
        bottom,
        num_output=outputs,
        pad=kernel // 2,
        kernel_size=kernel,
        param=RATES,
        weight_filler={"type": "msra"},
    )
    n[f"{name}_bn"] = L.BN(n[name], in_place=True, bn_param=BN_FILLERS, **bn)
    top: Top = n[f"{name}_bn"]
    return top


def _classify(n: NetSpec, bottom: Top, name: str, classes: int, kernel: int = 1) -> Top:
    n[name] = L.Convolution(
        bottom,
        num_output=classes,
        kernel_size=kernel,
        pad=kernel // 2,
        param=RATES,
        weight_filler={"type": "msra"},
    )
    top: Top = n[name]
    return top


def segnet_basic(
    name: str,
    data: DataSource,
    classes: int,
    loss: Loss = PLAIN,
    *,
    size: tuple[int, int] | None = None,
    width: int = 64,
) -> caffe_pb2.NetParameter:
    """Build SegNet-Basic: four 7x7 convolutions down, four up, pooling places remembered.

    Badrinarayanan, Handa, Cipolla 2015 (arXiv 1505.07293). Compared layer by layer with
    alexgkendall/SegNet-Tutorial, Models/segnet_basic_train.prototxt.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        loss: the ignored label and the classes' weights.
        size: height and width of all images; by default the deploy form's.
        width: the outputs of each convolution.
    """
    n = data.start()
    n.norm = L.LRN(n[data.tops[0]], local_size=5, alpha=1e-4, beta=0.75)
    bottom = n.norm
    for number in range(1, 5):
        normed = _conv_bn(n, bottom, f"conv{number}", width, 7)
        n[f"relu{number}"] = L.ReLU(normed, in_place=True)
        bottom = pool_with_mask(n, n[f"relu{number}"], f"pool{number}")
    for number in range(4, 0, -1):
        bottom = _upsample(n, bottom, number, size or data.deploy_size, 4)
        bottom = _conv_bn(n, bottom, f"conv_decode{number}", width, 7)
    add_loss(n, _classify(n, bottom, "conv_classifier", classes), n[data.labels[0]], loss)
    return data.finish(n, name)


_VGG_STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


def segnet(
    name: str, data: DataSource, classes: int, loss: Loss = PLAIN, *, size: tuple[int, int] | None = None
) -> caffe_pb2.NetParameter:
    """Build SegNet: the 13 convolutions of VGG-16 with BN, and their mirror image with the pools' places.

    Badrinarayanan, Kendall, Cipolla 2015 (arXiv 1511.00561). Compared with alexgkendall/SegNet-Tutorial,
    Models/segnet_train.prototxt: names, widths, order; the last convolution gives the scores and has no BN.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        loss: the ignored label and the classes' weights.
        size: height and width of all images; by default the deploy form's.
    """
    n = data.start()
    bottom = n[data.tops[0]]
    for stage, (depth, width) in enumerate(_VGG_STAGES, 1):
        for number in range(1, depth + 1):
            normed = _conv_bn(n, bottom, f"conv{stage}_{number}", width, 3, param=BN_RATES)
            bottom = n[f"relu{stage}_{number}"] = L.ReLU(normed, in_place=True)
        bottom = pool_with_mask(n, bottom, f"pool{stage}")
    widths = [width for _, width in _VGG_STAGES]
    for stage in range(5, 0, -1):
        depth, width = _VGG_STAGES[stage - 1]
        bottom = _upsample(n, bottom, stage, size or data.deploy_size, 5)
        for number in range(depth, 0, -1):
            if (stage, number) == (1, 1):
                break
            outputs = width if number > 1 else widths[stage - 2]
            normed = _conv_bn(n, bottom, f"conv{stage}_{number}_D", outputs, 3, param=BN_RATES)
            bottom = n[f"relu{stage}_{number}_D"] = L.ReLU(normed, in_place=True)
    add_loss(n, _classify(n, bottom, "conv1_1_D", classes, 3), n[data.labels[0]], loss)
    return data.finish(n, name)


def _normed(n: NetSpec, top: Top, bn: str, relu: str) -> Top:
    normed = n[bn] = L.BN(top, in_place=True, bn_param=BN_FILLERS)
    rectified = n[relu] = L.ReLU(normed, in_place=True)
    result: Top = rectified
    return result


# The stages on the way up; a stage ends narrower, at the width of the pool that comes next.
_DECONVNET_UP = {5: (512, 512, 512), 4: (512, 512, 256), 3: (256, 256, 128), 2: (128, 64), 1: (64, 64)}


def deconvnet(name: str, data: DataSource, classes: int, loss: Loss = PLAIN) -> caffe_pb2.NetParameter:
    """Build DeconvNet: VGG-16 with BN down to one place, and deconvolutions with unpooling up to 224x224.

    Noh, Hong, Han 2015 (ICCV). Compared with HyeonwooNoh/DeconvNet, training/002_stage_2/stage_2_train.prototxt
    from conv4_2 on: names, widths, BN after each; its V1 layers are written in the modern form.

    Args:
        name: the net's name.
        data: its data layers, of 224x224.
        classes: the number of classes.
        loss: the ignored label.
    """
    n = data.start()
    bottom = n[data.tops[0]]
    for stage, (depth, width) in enumerate(_VGG_STAGES, 1):
        for number in range(1, depth + 1):
            place = f"{stage}_{number}"
            n[f"conv{place}"] = L.Convolution(bottom, num_output=width, pad=1, kernel_size=3, param=RATES)
            bottom = _normed(n, n[f"conv{place}"], f"bn{place}", f"relu{place}")
        bottom = pool_with_mask(n, bottom, f"pool{stage}")
    for number, kernel in ((6, 7), (7, 1)):
        n[f"fc{number}"] = L.Convolution(bottom, num_output=4096, kernel_size=kernel, param=RATES)
        bottom = _normed(n, n[f"fc{number}"], f"bnfc{number}", f"relu{number}")

    def deconvolve(bottom: Top, name: str, outputs: int, kernel: int, pad: int) -> Top:
        options = {"num_output": outputs, "kernel_size": kernel, "pad": pad, "weight_filler": _GAUSSIAN}
        n[name] = L.Deconvolution(bottom, convolution_param=options, param=RATES)
        top: Top = n[name]
        return top

    up = deconvolve(bottom, "fc6-deconv", 512, 7, 0)
    bottom = _normed(n, up, "fc6-deconv-bn", "fc6-deconv-relu")
    for stage, outputs in _DECONVNET_UP.items():
        sizes = {"unpool": P.Unpooling.MAX, "kernel_size": 2, "stride": 2, "unpool_size": 224 >> stage - 1}
        bottom = n[f"unpool{stage}"] = L.Unpooling(bottom, n[f"pool{stage}_mask"], unpooling_param=sizes)
        for number, width in enumerate(outputs, 1):
            place = f"{stage}_{number}"
            up = deconvolve(bottom, f"deconv{place}", width, 3, 1)
            bottom = _normed(n, up, f"debn{place}", f"derelu{place}")
    n["seg-score-voc"] = L.Convolution(bottom, num_output=classes, kernel_size=1, param=RATES, weight_filler=_GAUSSIAN)
    add_loss(n, n["seg-score-voc"], n[data.labels[0]], loss, "seg-loss")
    return data.finish(n, name)


_GAUSSIAN: Mapping[str, Any] = {"type": "gaussian", "std": 0.01}
_UNET_WIDTHS = (64, 128, 256, 512, 1024)


def unet(
    name: str,
    data: DataSource,
    classes: int,
    loss: Loss = PLAIN,
    *,
    padded: bool = False,
    scale: float | None = None,
    width: int = _UNET_WIDTHS[0],
) -> caffe_pb2.NetParameter:
    """Build U-Net in layers of Caffe 1.0: each level's features are cropped and put beside what comes up from below.

    Ronneberger, Fischer, Brox 2015 (MICCAI). The published phseg_v5.prototxt was not at hand; layer names are those
    that ports of it give (conv_d0a-b, upconv_d4c_u3a), sizes the paper's: 572x572 in, 388x388 out.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        loss: the ignored label and the classes' weights.
        padded: keep sizes, so that every pixel gets scores, for images of any size.
        scale: a factor for the input.
        width: the outputs of the first level; each next level has twice as many.
    """
    n = data.start()
    bottom = image = n[data.tops[0]]
    if scale is not None:
        bottom = n.scale_data = L.Scale(image, filler={"type": "constant", "value": scale}, param=[{"lr_mult": 0}])
    widths = [width << level for level in range(5)]
    down = _unet_down(n, bottom, widths, int(padded))
    bottom = down[4]
    for level in range(3, -1, -1):
        bottom = _unet_up(n, bottom, down[level], level, widths[level], padded)
    n["conv_u0d-score"] = L.Convolution(
        bottom, num_output=classes, kernel_size=1, weight_filler={"type": "msra"}, param=RATES
    )
    scores, label = n["conv_u0d-score"], n[data.labels[0]]
    if padded:
        add_loss(n, scores, label, loss)
    else:
        n.label_cut = L.Crop(label, scores, axis=2, offset=[UNET_MARGIN], exclude=NOT_DEPLOYED)
        # The crop looks at the scores' size, so that Caffe would ask for a gradient by way of the label.
        add_loss(n, scores, n.label_cut, loss, propagate_down=[True, False])
    return data.finish(n, name)


def _unet_conv(n: NetSpec, bottom: Top, name: str, relu: str, outputs: int, pad: int) -> Top:
    options = {"num_output": outputs, "pad": pad, "kernel_size": 3, "weight_filler": {"type": "msra"}}
    return conv_relu(n, bottom, name, relu, param=RATES, **options)


def _unet_down(n: NetSpec, bottom: Top, widths: Sequence[int], pad: int) -> list[Top]:
    """Add the way down; return each level's features."""
    down = []
    for level, outputs in enumerate(widths):
        bottom = _unet_conv(n, bottom, f"conv_d{level}a-b", f"relu_d{level}b", outputs, pad)
        bottom = _unet_conv(n, bottom, f"conv_d{level}b-c", f"relu_d{level}c", outputs, pad)
        if level >= 3:
            bottom = drop(n, bottom, f"dropout_d{level}c", 0.5)
        down.append(bottom)
        if level < 4:
            bottom = max_pool(n, bottom, f"pool_d{level}c-{level + 1}a")
    return down


def _unet_up(n: NetSpec, bottom: Top, beside: Top, level: int, outputs: int, padded: bool) -> Top:
    """Add the way up to a level: twice as large, beside the features of the way down, two convolutions."""
    below = "d4c" if level == 3 else f"u{level + 1}d"
    options = {"num_output": outputs, "kernel_size": 2, "stride": 2, "weight_filler": {"type": "msra"}}
    up = n[f"upconv_{below}_u{level}a"] = L.Deconvolution(bottom, param=RATES, convolution_param=options)
    up = n[f"relu_u{level}a"] = L.ReLU(up, in_place=True)
    if padded:
        # Pools round up, so what comes up may be a row larger.
        up = n[f"crop_u{level}a"] = crop(up, beside)
    else:
        beside = n[f"crop_d{level}c-d{level}cc"] = crop(beside, up)
    joined = n[f"concat_d{level}cc_u{level}a-b"] = L.Concat(up, beside)
    bottom = _unet_conv(n, joined, f"conv_u{level}b-c", f"relu_u{level}c", outputs, int(padded))
    return _unet_conv(n, bottom, f"conv_u{level}c-d", f"relu_u{level}d", outputs, int(padded))
