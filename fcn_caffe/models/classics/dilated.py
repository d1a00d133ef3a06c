"""VGG nets that keep their resolution by dilation: DeepLab, the dilated front end with its context module, ParseNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fcn_caffe.models.classics.encoder_decoder import PLAIN, Loss, add_loss
from fcn_caffe.models.heads import to_image
from fcn_caffe.models.nets import DataSource
from fcn_caffe.models.trunks import RATES, conv_relu, drop, max_pool, rates
from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P
from fcn_caffe.proto import caffe_pb2

__all__ = ["LearnedHead", "aspp", "dilated_context", "large_fov", "parsenet"]

_VGG_STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
_GAUSSIAN = {"type": "gaussian", "std": 0.01}
# What the front end's unpadded convolutions see beside a pixel, on each side.
CONTEXT_MARGIN = 186
SCORE_RATES = [{"lr_mult": 10, "decay_mult": 1}, {"lr_mult": 20, "decay_mult": 0}]


def _deeplab_trunk(n: NetSpec, bottom: Top) -> Top:
    """Add DeepLab's trunk up to pool5: 3x3 pools, no stride from pool4 on, conv5 dilated by 2."""
    for stage, (depth, width) in enumerate(_VGG_STAGES, 1):
        dilation = {"dilation": 2} if stage == 5 else {}
        for number in range(1, depth + 1):
            place = f"{stage}_{number}"
            options = {"num_output": width, "pad": dilation.get("dilation", 1), "kernel_size": 3, **dilation}
            bottom = conv_relu(n, bottom, f"conv{place}", f"relu{place}", param=RATES, **options)
        bottom = max_pool(n, bottom, f"pool{stage}", 3, 2 if stage < 4 else 1, pad=1)
    return bottom


@dataclass(frozen=True)
class LearnedHead:
    """fc6 and fc7 that start from noise, beside a trunk that starts from weights.

    Attributes:
        width: their outputs.
        rate: what multiplies their learning rate.
    """

    width: int = 1024
    rate: float = 1


def _fc(n: NetSpec, bottom: Top, dilation: int, suffix: str = "", head: LearnedHead | None = None) -> Top:
    """Add fc6, of 3x3 places `dilation` apart, and fc7: VGG-16's, unless `head` says that they are learned."""
    learned = {} if head is None else {"weight_filler": _GAUSSIAN}
    head = head or LearnedHead()
    wide: dict[str, Any] = {"kernel_size": 3, "pad": dilation, "dilation": dilation}
    for number, options in ((6, wide), (7, {"kernel_size": 1})):
        name, options = f"fc{number}{suffix}", options | learned
        options = options | {"num_output": head.width, "param": rates(head.rate)}
        bottom = conv_relu(n, bottom, name, f"relu{number}{suffix}", **options)
        bottom = drop(n, bottom, f"drop{number}{suffix}", 0.5)
    return bottom


def _scores(n: NetSpec, bottom: Top, name: str, classes: int) -> Top:
    n[name] = L.Convolution(bottom, num_output=classes, kernel_size=1, param=SCORE_RATES, weight_filler=_GAUSSIAN)
    top: Top = n[name]
    return top


def _pool5a(n: NetSpec, bottom: Top) -> Top:
    n.pool5a = L.Pooling(bottom, pool=P.Pooling.AVE, kernel_size=3, stride=1, pad=1)
    top: Top = n.pool5a
    return top


def _learn_small(n: NetSpec, data: DataSource, scores: Top, loss: Loss) -> None:
    """Add the loss on labels taken at every eighth pixel, and the scores at full size."""
    n.fc8_interp = L.Interp(scores, interp_param={"zoom_factor": 8})
    n.label_shrink = L.Interp(n[data.labels[0]], interp_param={"shrink_factor": 8}, exclude={"stage": "deploy"})
    add_loss(n, scores, n.label_shrink, loss)


def large_fov(
    name: str,
    data: DataSource,
    classes: int,
    loss: Loss = PLAIN,
    *,
    every_pixel: bool = False,
    head: LearnedHead | None = None,
    scale: float | None = None,
) -> caffe_pb2.NetParameter:
    """Build DeepLab-LargeFOV: VGG-16 at stride 8, whose fc6 sees 3x3 places 12 apart.

    Chen, Papandreou, Kokkinos, Murphy, Yuille 2015 (ICLR; v2 arXiv 1606.00915, where it is the baseline). Compared with
    a copy of v1's config, TheLegendAli/DeepLab-Context, config/DeepLab-LargeFOV/test.prototxt, whose `hole` is dilation
    here; v2's file was not at hand. Images of 8k + 1 pixels fit without a crop.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        loss: the ignored label.
        every_pixel: crop the full scores to images of any size and learn every pixel; DeepLab learns every eighth.
        head: fc6 and fc7 where they are learned, for a start from VGG-16's convolutions alone.
        scale: a factor for the input, where the trunk is learned from nothing.
    """
    n = data.start()
    image = bottom = n[data.tops[0]]
    if scale is not None:
        bottom = n.scale_data = L.Scale(image, filler={"type": "constant", "value": scale}, param=[{"lr_mult": 0}])
    bottom = _fc(n, _pool5a(n, _deeplab_trunk(n, bottom)), 12, head=head)
    scores = _scores(n, bottom, "fc8_voc12", classes)
    if every_pixel:
        n.fc8_interp = L.Interp(scores, interp_param={"zoom_factor": 8})
        n.score = L.Crop(n.fc8_interp, image, axis=2, offset=[0])  # place i of fc8 lies on pixel 8i
        add_loss(n, n.score, n[data.labels[0]], loss)
    else:
        _learn_small(n, data, scores, loss)
    return data.finish(n, name)


def aspp(name: str, data: DataSource, classes: int, loss: Loss = PLAIN) -> caffe_pb2.NetParameter:
    """Build DeepLab v2 on VGG-16 with its pyramid of dilations (ASPP-L): four heads at 6, 12, 18 and 24, summed.

    Chen, Papandreou, Kokkinos, Murphy, Yuille 2016 (arXiv 1606.00915). The published file was not at hand: structure
    from the paper, names as far as they are known (fc6_1 … fc8_voc12_4).

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        loss: the ignored label.
    """
    n = data.start()
    bottom = _deeplab_trunk(n, n[data.tops[0]])
    heads = []
    for number, dilation in enumerate((6, 12, 18, 24), 1):
        fc7 = _fc(n, bottom, dilation, f"_{number}")
        heads.append(_scores(n, fc7, f"fc8_voc12_{number}", classes))
    n.fc8_voc12 = L.Eltwise(*heads, operation=P.Eltwise.SUM)
    _learn_small(n, data, n.fc8_voc12, loss)
    return data.finish(n, name)


def parsenet(name: str, data: DataSource, classes: int, loss: Loss = PLAIN) -> caffe_pb2.NetParameter:
    """Build ParseNet on DeepLab-LargeFOV: the image's mean features beside those of each place, both normalised.

    Liu, Rabinovich, Berg 2015 (arXiv 1506.04579). The published file was not at hand: structure from the paper, names
    as ports give them (pool6_1x1, pool6_1x1_norm_new, pool6_1x1_norm_upsample). For images of the deploy form's size.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        loss: the ignored label.
    """
    n = data.start()
    fc7 = _fc(n, _pool5a(n, _deeplab_trunk(n, n[data.tops[0]])), 12)
    norm = {"across_spatial": False, "channel_shared": False, "scale_filler": {"type": "constant", "value": 10}}
    n.fc7_norm_new = L.Normalize(fc7, norm_param=norm)
    n.pool6_1x1 = L.Pooling(fc7, pool=P.Pooling.AVE, global_pooling=True)
    n.pool6_1x1_norm_new = L.Normalize(n.pool6_1x1, norm_param=norm)
    height, width = ((side - 1) // 8 + 1 for side in data.deploy_size)
    n.pool6_1x1_norm_upsample = L.Interp(n.pool6_1x1_norm_new, interp_param={"height": height, "width": width})
    n.concat = L.Concat(n.fc7_norm_new, n.pool6_1x1_norm_upsample)
    _learn_small(n, data, _scores(n, n.concat, "fc8_voc12", classes), loss)
    return data.finish(n, name)


def dilated_context(name: str, data: DataSource, classes: int, loss: Loss = PLAIN) -> caffe_pb2.NetParameter:
    """Build the dilated front end with its context module (Dilation8).

    Yu, Koltun 2016 (ICLR). Compared layer by layer with fyu/dilation, models/dilation8_pascal_voc_deploy.prototxt. Its
    first convolution has no pad, as its scripts reflect the image 186 pixels beyond each side; here it pads zeros, the
    same as an image with a border of the mean. The scores are upsampled by a fixed bilinear kernel.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        loss: the ignored label.
    """
    n = data.start()
    image = bottom = n[data.tops[0]]

    def conv(bottom: Top, name: str, relu: str, outputs: int, kernel: int = 3, dilation: int = 1, pad: int = 0) -> Top:
        options: dict[str, Any] = {"num_output": outputs, "kernel_size": kernel, "param": RATES}
        options |= {"pad": pad} if pad else {}
        options |= {"dilation": dilation} if dilation > 1 else {}
        options |= {"weight_filler": _GAUSSIAN} if name.startswith("ct_") else {}
        return conv_relu(n, bottom, name, relu, **options)

    for stage, (depth, width) in enumerate(_VGG_STAGES, 1):
        for number in range(1, depth + 1):
            place, pad = f"{stage}_{number}", CONTEXT_MARGIN if (stage, number) == (1, 1) else 0
            bottom = conv(bottom, f"conv{place}", f"relu{place}", width, dilation=2 if stage == 5 else 1, pad=pad)
        if stage < 4:
            bottom = max_pool(n, bottom, f"pool{stage}")
    for number, kernel, dilation in ((6, 7, 4), (7, 1, 1)):
        bottom = conv(bottom, f"fc{number}", f"relu{number}", 4096, kernel, dilation)
        bottom = drop(n, bottom, f"drop{number}", 0.5)
    bottom = _final(n, bottom, "fc-final", classes)
    # Each convolution sees twice as far as the one before, and has twice its channels.
    bottom = conv(bottom, "ct_conv1_1", "ct_relu1_1", 2 * classes, pad=33)
    bottom = conv(bottom, "ct_conv1_2", "ct_relu1_2", 2 * classes)
    for level in range(1, 5):
        place = f"{level + 1}_1"
        bottom = conv(bottom, f"ct_conv{place}", f"ct_relu{place}", 2 * classes << level, dilation=1 << level)
    bottom = conv(bottom, "ct_fc1", "ct_fc1_relu", 2 * classes << 4)
    scores = to_image(n, _final(n, bottom, "ct_final", classes), image, classes, 8)
    n.upscore8.fn.params["convolution_param"].update(group=classes, weight_filler={"type": "bilinear"})
    add_loss(n, scores, n[data.labels[0]], loss)
    return data.finish(n, name)


def _final(n: NetSpec, bottom: Top, name: str, classes: int) -> Top:
    n[name] = L.Convolution(bottom, num_output=classes, kernel_size=1, param=rates(1), weight_filler=_GAUSSIAN)
    top: Top = n[name]
    return top
