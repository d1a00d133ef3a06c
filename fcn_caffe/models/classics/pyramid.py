"""ResNet-50 nets that pool over regions of several sizes: PSPNet and ICNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fcn_caffe.models.classics.encoder_decoder import PLAIN, Loss, add_loss
from fcn_caffe.models.nets import DataSource
from fcn_caffe.models.trunks import drop, max_pool
from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P
from fcn_caffe.proto import caffe_pb2

__all__ = ["icnet", "pspnet50"]

_MSRA = {"type": "msra"}
NEW_RATE = 10  # lr_mult of what the classifier lacks
_FILLED = {"slope_filler": {"type": "constant", "value": 1}, "bias_filler": {"type": "constant", "value": 0}}


@dataclass(frozen=True)
class _Resnet:
    """A ResNet-50 in PSPNet's names: three 3x3 convolutions first, conv4 dilated by 2 and conv5 by 4.

    Attributes:
        n: the net.
        width: the inner outputs of conv2; of the first convolutions too.
    """

    n: NetSpec
    width: int

    def conv(self, bottom: Top, name: str, outputs: int, *, relu: bool = True, rate: float = 1, **shape: int) -> Top:
        """Add a convolution without bias, its BN, and a ReLU unless told otherwise."""
        options = {"num_output": outputs, "kernel_size": 1, **shape, "weight_filler": _MSRA, "bias_term": False}
        self.n[name] = L.Convolution(bottom, param=[{"lr_mult": rate, "decay_mult": 1}], **options)
        learned, kept = {"lr_mult": rate, "decay_mult": 0}, {"lr_mult": 0, "decay_mult": 0}
        norm = {**_FILLED, "momentum": 0.95}
        top: Top = L.BN(self.n[name], in_place=True, bn_param=norm, param=[learned, learned, kept, kept])
        self.n[f"{name}/bn"] = top
        return self.relu(top, name) if relu else top

    def relu(self, top: Top, name: str) -> Top:
        rectified: Top = L.ReLU(top, in_place=True)
        self.n[f"{name}/relu"] = rectified
        return rectified

    def block(
        self, bottom: Top, name: str, inner: int, *, dilation: int = 1, stride: int = 1, proj: bool = False
    ) -> Top:
        """Add a bottleneck; `proj` where its input has another shape than its output."""
        near: dict[str, Any] = {"dilation": dilation} if dilation > 1 else {}
        step: dict[str, Any] = {"stride": stride} if stride > 1 else {}
        top = self.conv(bottom, f"{name}_1x1_reduce", inner, **step)
        top = self.conv(top, f"{name}_3x3", inner, kernel_size=3, pad=dilation, **near)
        top = self.conv(top, f"{name}_1x1_increase", 4 * inner, relu=False)
        beside = self.conv(bottom, f"{name}_1x1_proj", 4 * inner, relu=False, **step) if proj else bottom
        self.n[name] = L.Eltwise(beside, top, operation=P.Eltwise.SUM)
        return self.relu(self.n[name], name)

    def stem(self, bottom: Top) -> Top:
        """Add what comes before the bottlenecks, and conv2."""
        bottom = self.conv(bottom, "conv1_1_3x3_s2", self.width, kernel_size=3, pad=1, stride=2)
        bottom = self.conv(bottom, "conv1_2_3x3", self.width, kernel_size=3, pad=1)
        bottom = self.conv(bottom, "conv1_3_3x3", 2 * self.width, kernel_size=3, pad=1)
        bottom = max_pool(self.n, bottom, "pool1_3x3_s2", 3, pad=1)
        for number in (1, 2, 3):
            bottom = self.block(bottom, f"conv2_{number}", self.width, proj=number == 1)
        return self.block(bottom, "conv3_1", 2 * self.width, stride=2, proj=True)

    def body(self, bottom: Top) -> Top:
        """Add the rest of conv3, then conv4 and conv5."""
        for number in (2, 3, 4):
            bottom = self.block(bottom, f"conv3_{number}", 2 * self.width)
        for stage, count, dilation in ((4, 6, 2), (5, 3, 4)):
            for number in range(1, count + 1):
                inner = self.width << (stage - 2)
                bottom = self.block(bottom, f"conv{stage}_{number}", inner, dilation=dilation, proj=number == 1)
        return bottom


def _classify(n: NetSpec, bottom: Top, name: str, classes: int, rate: float) -> Top:
    param = [{"lr_mult": rate, "decay_mult": 1}, {"lr_mult": 2 * rate, "decay_mult": 1}]
    n[name] = L.Convolution(bottom, num_output=classes, kernel_size=1, weight_filler=_MSRA, param=param)
    top: Top = n[name]
    return top


def _zoom(n: NetSpec, bottom: Top, name: str, factor: int) -> Top:
    n[name] = L.Interp(bottom, interp_param={"zoom_factor": factor})
    top: Top = n[name]
    return top


def pspnet50(name: str, data: DataSource, classes: int, loss: Loss = PLAIN) -> caffe_pb2.NetParameter:
    """Build PSPNet-50 for images of 473x473: conv5 pooled to 1, 2, 3 and 6 places a side, beside conv5 itself.

    Zhao, Shi, Qi, Wang, Jia 2017 (CVPR). Compared with hszhao/PSPNet, evaluation/prototxt/pspnet50_ADE20K_473.prototxt:
    conv1 to conv3_1 and conv5_3 to the scores layer by layer; what lies between repeats. Training was published without
    its net: BN learns here, and a second loss on conv4_6, of weight 0.4, is the paper's.

    Args:
        name: the net's name.
        data: its data layers, of 473x473.
        classes: the number of classes.
        loss: the ignored label.
    """
    n = data.start()
    net, label = _Resnet(n, 64), n[data.labels[0]]
    features = net.body(net.stem(n[data.tops[0]]))
    side = (data.deploy_size[0] - 1) // 8 + 1
    pooled = [features]
    for places in (6, 3, 2, 1):
        extent, stem = side // places, f"conv5_3_pool{places}"
        n[stem] = L.Pooling(features, pool=P.Pooling.AVE, kernel_size=extent, stride=extent)
        net.conv(n[stem], f"{stem}_conv", 512, rate=NEW_RATE)
        pooled.append(L.Interp(n[f"{stem}_conv/relu"], interp_param={"height": side, "width": side}))
        n[f"{stem}_interp"] = pooled[-1]
    n.conv5_3_concat = L.Concat(*pooled)
    last = net.conv(n.conv5_3_concat, "conv5_4", 512, kernel_size=3, pad=1, rate=NEW_RATE)
    last = drop(n, last, "conv5_4/dropout", 0.1)
    scores = _zoom(n, _classify(n, last, "conv6", classes, NEW_RATE), "conv6_interp", 8)
    add_loss(n, scores, label, loss)
    _second_loss(net, classes, label, loss)
    return data.finish(n, name)


def _second_loss(net: _Resnet, classes: int, label: Top, loss: Loss) -> None:
    """Add the loss on conv4_6, of training alone."""
    n = net.n
    bottom = net.conv(n["conv4_6/relu"], "conv4_6_aux", 256, kernel_size=3, pad=1, rate=NEW_RATE)
    scores = _zoom(n, _classify(n, bottom, "conv6_aux", classes, NEW_RATE), "conv6_aux_interp", 8)
    add_loss(n, scores, label, loss, "loss_aux", 0.4)
    for added in ("conv4_6_aux", "conv4_6_aux/bn", "conv4_6_aux/relu", "conv6_aux", "conv6_aux_interp", "loss_aux"):
        _only_in_training(n, added)


def _only_in_training(n: NetSpec, name: str) -> None:
    n[name].fn.params.pop("exclude", None)
    n[name].fn.params["include"] = [{"phase": caffe_pb2.TRAIN, "not_stage": "deploy"}]


# kernel and stride along each axis of the pools to 1, 2, 3 and 6 places, on 33x65.
_ICNET_POOLS: Mapping[int, tuple[int, int, int, int]] = {
    1: (33, 65, 33, 65),
    2: (17, 33, 16, 32),
    3: (13, 25, 10, 20),
    6: (8, 15, 5, 10),
}


def icnet(name: str, data: DataSource, classes: int, loss: Loss = PLAIN) -> caffe_pb2.NetParameter:
    """Build ICNet for images of 1025x2049: a narrow PSPNet-50 at a quarter of the size, two lighter branches above.

    Zhao, Qi, Shen, Shi, Jia 2018 (ECCV; arXiv 1704.08545). Compared with hszhao/ICNet,
    evaluation/prototxt/icnet_cityscapes_bnnomerge.prototxt: conv1 to conv4_3 and conv5_2 to the scores layer by layer;
    what lies between repeats. Training was published without its net: BN learns here, and the losses of the two coarser
    branches, of weights 0.16 and 0.4, are those of its ports.

    Args:
        name: the net's name.
        data: its data layers, of 1025x2049.
        classes: the number of classes.
        loss: the ignored label.
    """
    n = data.start()
    net, label = _Resnet(n, 32), n[data.labels[0]]
    n.data_sub1 = L.Scale(n[data.tops[0]], param=[{"lr_mult": 0}], filler={"type": "constant", "value": 1})
    n.data_sub2 = L.Interp(n.data_sub1, interp_param={"shrink_factor": 2})
    conv3 = net.stem(n.data_sub2)
    n.conv3_1_sub4 = L.Interp(conv3, interp_param={"shrink_factor": 2})
    features = net.body(n.conv3_1_sub4)
    pooled = [features]
    for places in (6, 3, 2, 1):
        names = ("kernel_h", "kernel_w", "stride_h", "stride_w")
        options: dict[str, Any] = dict(zip(names, _ICNET_POOLS[places], strict=True))
        stem = f"conv5_3_pool{places}"
        n[stem] = L.Pooling(features, pool=P.Pooling.AVE, **options)
        pooled.append(L.Interp(n[stem], interp_param={"height": 33, "width": 65}))
        n[f"{stem}_interp"] = pooled[-1]
    n.conv5_3_sum = L.Eltwise(*pooled)
    coarse = _zoom(n, net.conv(n.conv5_3_sum, "conv5_4_k1", 256), "conv5_4_interp", 2)
    middle = _join(net, coarse, "conv_sub4", net.conv(conv3, "conv3_1_sub2_proj", 128, relu=False), "sub24_sum")
    fine = n.data_sub1
    for number, outputs in ((1, 32), (2, 32), (3, 64)):
        fine = net.conv(fine, f"conv{number}_sub1", outputs, kernel_size=3, pad=1, stride=2)
    beside = net.conv(fine, "conv3_sub1_proj", 128, relu=False)
    top = _join(net, middle, "conv_sub2", beside, "sub12_sum")
    scores = _zoom(n, _classify(n, top, "conv6_cls", classes, 1), "conv6_interp", 4)
    add_loss(n, scores, label, loss)
    for branch, bottom, step, weight in (("sub4", coarse, 16, 0.16), ("sub24", middle, 8, 0.4)):
        n[f"label_{branch}"] = L.Interp(label, interp_param={"shrink_factor": step})
        out = _classify(n, bottom, f"{branch}_out", classes, 1)
        add_loss(n, out, n[f"label_{branch}"], loss, f"loss_{branch}", weight)
        for added in (f"label_{branch}", f"{branch}_out", f"loss_{branch}"):
            _only_in_training(n, added)
    return data.finish(n, name)


def _join(net: _Resnet, coarse: Top, name: str, beside: Top, total: str) -> Top:
    """Add a coarser branch to a finer one, and double the size of the sum."""
    n = net.n
    wide = net.conv(coarse, name, 128, relu=False, kernel_size=3, pad=2, dilation=2)
    n[total] = L.Eltwise(beside, wide)
    return _zoom(n, net.relu(n[total], total), f"{total}_interp", 2)
