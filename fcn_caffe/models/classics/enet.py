"""ENet: narrow bottlenecks at an eighth of the image's size, and a small decoder."""

from __future__ import annotations

from typing import Any

from fcn_caffe.models.classics.encoder_decoder import BN_FILLERS, BN_RATES, PLAIN, Loss, add_loss, pool_with_mask
from fcn_caffe.models.nets import DataSource
from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P
from fcn_caffe.proto import caffe_pb2

__all__ = ["enet"]

_MSRA = {"type": "msra"}
# Of the second and the third stage: dilation, or 0 for a 5x1 and a 1x5 convolution.
_MIDDLES = (1, 2, 0, 4, 1, 8, 0, 16)


class _Bottlenecks:
    """Adds ENet's bottlenecks: names end in stage, bottleneck, place; the decoder's ReLUs are called prelu, too."""

    def __init__(self, n: NetSpec) -> None:
        self.n = n
        self.rectifier = "PReLU"

    def conv(self, bottom: Top, name: str, outputs: int, **options: object) -> Top:
        shape: dict[str, Any] = {} if "kernel_h" in options else {"kernel_size": 1}
        shape |= {"bias_term": False, **options}
        self.n[name] = L.Convolution(bottom, num_output=outputs, weight_filler=_MSRA, **shape)
        top: Top = self.n[name]
        return top

    def norm(self, bottom: Top, name: str) -> Top:
        self.n[f"bn{name}"] = L.BN(bottom, param=BN_RATES, bn_param=BN_FILLERS)
        top: Top = self.n[f"bn{name}"]
        return top

    def rectify(self, bottom: Top, name: str) -> Top:
        make = L.PReLU if self.rectifier == "PReLU" else L.ReLU
        self.n[f"prelu{name}"] = make(bottom)
        top: Top = self.n[f"prelu{name}"]
        return top

    def drop(self, bottom: Top, name: str, ratio: float) -> Top:
        """Drop whole channels in training; ENet's Python layer, which the deploy form leaves out."""
        options = {"module": "spatial_dropout", "layer": "SpatialDropoutLayer"}
        text = str({"phase": "TRAIN", "p": str(ratio)})
        training = {"include": [{"phase": caffe_pb2.TRAIN, "not_stage": "deploy"}]}
        self.n[f"drop{name}"] = L.Python(bottom, in_place=True, python_param={**options, "param_str": text}, **training)
        top: Top = self.n[f"drop{name}"]
        return top

    def middle(self, bottom: Top, name: str, width: int, dilation: int) -> Top:
        if dilation == 0:
            column = self.conv(bottom, f"conv{name}_a", width, kernel_h=5, kernel_w=1, pad=1)
            return self.conv(column, f"conv{name}", width, kernel_h=1, kernel_w=5, pad=1, bias_term=True)
        options = {"dilation": dilation} if dilation > 1 else {}
        return self.conv(bottom, f"conv{name}", width, kernel_size=3, pad=dilation, bias_term=True, **options)

    def add(
        self, bottom: Top, place: str, width: int, outputs: int, *, dilation: int = 1, ratio: float = 0.1, way: str = ""
    ) -> Top:
        """Add a bottleneck.

        Args:
            bottom: what it adds to.
            place: stage and number, as "2_3".
            width: the outputs of its inner convolutions.
            outputs: the outputs of its last.
            dilation: of the middle convolution; 0 for a pair of 5x1 and 1x5.
            ratio: the share of channels that are dropped.
            way: "down" halves the size, "up" doubles it by the mask of `pool_of_stage`, "" keeps it.
        """
        halve = {"kernel_size": 2, "stride": 2} if way == "down" else {}
        inner = self.rectify(self.norm(self.conv(bottom, f"conv{place}_0", width, **halve), f"{place}_0"), f"{place}_0")
        if way == "up":
            options = {"num_output": width, "bias_term": True, "kernel_size": 2, "stride": 2, "weight_filler": _MSRA}
            inner = self.n[f"deconv{place}_1"] = L.Deconvolution(inner, convolution_param=options)
        else:
            inner = self.middle(inner, f"{place}_1", width, dilation)
        inner = self.rectify(self.norm(inner, f"{place}_1"), f"{place}_1")
        inner = self.drop(self.norm(self.conv(inner, f"conv{place}_2", outputs), f"{place}_2"), f"{place}_3", ratio)
        self.n[f"eltwise{place}_4"] = L.Eltwise(inner, self._beside(bottom, place, outputs, way))
        return self.rectify(self.n[f"eltwise{place}_4"], f"{place}_4")

    def _beside(self, bottom: Top, place: str, outputs: int, way: str) -> Top:
        """Add the way around a bottleneck: nothing, or a pooling, or its reverse."""
        if not way:
            return bottom
        if way == "down":
            bottom = pool_with_mask(self.n, bottom, f"pool{place}_4")
        beside = self.norm(self.conv(bottom, f"conv{place}_4", outputs), f"{place}_4")
        if way == "down":
            return beside
        mask = {"4_0": "pool2_0_4_mask", "5_0": "pool1_0_4_mask"}[place]
        self.n[f"upsample{place}_4"] = L.Upsample(beside, self.n[mask], upsample_param={"scale": 2})
        top: Top = self.n[f"upsample{place}_4"]
        return top


def enet(name: str, data: DataSource, classes: int, loss: Loss = PLAIN) -> caffe_pb2.NetParameter:
    """Build ENet, encoder and decoder.

    Paszke, Chaurasia, Kim, Culurciello 2016 (arXiv 1606.02147). Compared with TimoSaemann/ENet,
    prototxts/enet_train_encoder_decoder.prototxt: the first stage, 2_1 to 2_8 and the decoder from 3_8 on layer by
    layer; the third stage repeats the second. Sides must be multiples of 8. Its deconvolutions have no filler there, so
    that they start at zero; here they start from msra.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        loss: the ignored label and the classes' weights.
    """
    n = data.start()
    make, image = _Bottlenecks(n), n[data.tops[0]]
    first = make.conv(image, "conv0_1", 13, kernel_size=3, pad=1, stride=2, bias_term=True)
    n["pool0_1"] = L.Pooling(image, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n["concat0_1"] = L.Concat(first, n["pool0_1"])
    bottom = make.rectify(make.norm(n["concat0_1"], "0_1"), "0_1")
    bottom = make.add(bottom, "1_0", 16, 64, ratio=0.01, way="down")
    for number in range(1, 5):
        bottom = make.add(bottom, f"1_{number}", 16, 64, ratio=0.01)
    bottom = make.add(bottom, "2_0", 32, 128, way="down")
    for stage in (2, 3):
        for number, dilation in enumerate(_MIDDLES, 1):
            bottom = make.add(bottom, f"{stage}_{number}", 32, 128, dilation=dilation)
    make.rectifier = "ReLU"
    for stage, inner, outer, others in ((4, 16, 64, 2), (5, 4, 16, 1)):
        bottom = make.add(bottom, f"{stage}_0", inner, outer, way="up")
        for number in range(1, others + 1):
            bottom = make.add(bottom, f"{stage}_{number}", inner, outer)
    options = {"num_output": classes, "bias_term": True, "kernel_size": 2, "stride": 2, "weight_filler": _MSRA}
    n["deconv6_0_0"] = L.Deconvolution(bottom, convolution_param=options)
    add_loss(n, n["deconv6_0_0"], n[data.labels[0]], loss)
    return data.finish(n, name)
