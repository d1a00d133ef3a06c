"""Nets of edges: HED."""

from __future__ import annotations

from dataclasses import replace

from fcn_caffe.models.nets import DataSource
from fcn_caffe.models.trunks import NOT_DEPLOYED, VGG16, convolutions, rates
from fcn_caffe.net.coord_map import crop
from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.proto import caffe_pb2

__all__ = ["hed"]

DEPLOYED = {"stage": "deploy"}
# The trunk's last convolution is trained a hundred times faster than the others, its scores a hundred times slower.
CONV5_RATE, SIDE_RATE, FUSE_RATE = 100, 0.01, 0.001


def hed(
    name: str, data: DataSource, *, conv5_rate: float = CONV5_RATE, side_rate: float = SIDE_RATE
) -> caffe_pb2.NetParameter:
    """Build HED: an edge map from each stage of VGG-16, each with a loss of its own, and their weighted sum.

    Xie, Tu 2015 (ICCV). Compared layer by layer with s9xie/hed, examples/hed/train_val.prototxt. Its nameless losses
    have names here, its derived crops their offsets, and its upsampling fillers, as it copies bilinear weights.

    Args:
        name: the net's name.
        data: its data layers; a label is 1 on an edge, else 0.
        conv5_rate: lr_mult of conv5.
        side_rate: lr_mult of the stages' edge maps.
    """
    n = data.start()
    image, label = n[data.tops[0]], n[data.labels[0]]
    special = {f"conv5_{number}": {"param": rates(conv5_rate)} for number in (1, 2, 3)}
    convolutions(n, image, replace(VGG16, pad=35, special=special))
    del n["pool5"]
    sides = []
    for stage, last in enumerate((2, 2, 3, 3, 3), 1):
        side = f"score-dsn{stage}"
        n[side] = L.Convolution(n[f"relu{stage}_{last}"], num_output=1, kernel_size=1, param=rates(side_rate))
        sides.append(_edges(n, n[side], image, label, stage))
    n["concat-upscore"] = L.Concat(*sides)
    n["new-score-weighting"] = L.Convolution(
        n["concat-upscore"],
        num_output=1,
        kernel_size=1,
        param=rates(FUSE_RATE),
        weight_filler={"type": "constant", "value": 0.2},
    )
    _loss(n, n["new-score-weighting"], label, "fuse")
    return data.finish(n, name)


def _edges(n: NetSpec, scores: Top, image: Top, label: Top, stage: int) -> Top:
    """Add a stage's edge map at the image's size, and its loss."""
    factor = 1 << (stage - 1)
    if factor > 1:
        options = {"num_output": 1, "kernel_size": 2 * factor, "stride": factor, "weight_filler": {"type": "bilinear"}}
        fixed = [{"lr_mult": 0, "decay_mult": 1}, {"lr_mult": 0, "decay_mult": 0}]
        scores = n[f"upsample_{factor}"] = L.Deconvolution(scores, convolution_param=options, param=fixed)
    edges = n[f"upscore-dsn{stage}"] = crop(scores, image)
    _loss(n, edges, label, f"dsn{stage}")
    top: Top = edges
    return top


def _loss(n: NetSpec, edges: Top, label: Top, name: str) -> None:
    """Add HED's balanced loss in training and testing, the probability of an edge in the deploy form."""
    n[f"{name}_loss"] = L.SigmoidCrossEntropyLoss(edges, label, loss_weight=[1], fork="hed", exclude=NOT_DEPLOYED)
    n[f"sigmoid-{name}"] = L.Sigmoid(edges, include=DEPLOYED)
