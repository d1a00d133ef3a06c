"""The nets of the ablations: FCN-8s with learned upsampling or scaled skips, and scores from one pool alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from fcn_caffe.data.sets.shapes_scenes import CLASSES
from fcn_caffe.errors import GraphError
from fcn_caffe.models import shapes
from fcn_caffe.models.heads import loss, to_image
from fcn_caffe.models.nets import COLOUR_SCALE
from fcn_caffe.models.trunks import convolutions, multiply, score
from fcn_caffe.net.net import Net
from fcn_caffe.net.net_spec import NetSpec
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.paper.experiments.miniature import begin
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TRAIN
from fcn_caffe.weights.transfer import Weights

__all__ = ["feature_sizes", "pool_alone", "with_learned_upsampling", "with_scaled_skips"]


def with_learned_upsampling(net: caffe_pb2.NetParameter) -> tuple[caffe_pb2.NetParameter, list[str]]:
    """Copy a net so that it learns every upsampling but the last.

    Returns: the copy, and the names of the layers that now learn.
    Raises: GraphError for a net with fewer than two upsamplings.
    """
    copy = _copy(net)
    inner = [layer for layer in copy.layer if layer.type == "Deconvolution"][:-1]
    if not inner:
        raise GraphError(f"net '{net.name}' has no upsampling before its last one: nothing to learn.")
    for layer in inner:
        layer.param[0].lr_mult = 1
    return copy, [layer.name for layer in inner]


def with_scaled_skips(net: caffe_pb2.NetParameter, scales: Mapping[int, float]) -> caffe_pb2.NetParameter:
    """Copy a net so that its score layers see pool N times `scales[N]`, as those of the release's at-once net do.

    Raises: GraphError where there is no score_poolN.
    """
    copy = _copy(net)
    for pool, scale in scales.items():
        place = next((at for at, layer in enumerate(copy.layer) if layer.name == f"score_pool{pool}"), None)
        if place is None:
            raise GraphError(f"net '{net.name}' has no layer 'score_pool{pool}', which a scale would come before.")
        n = NetSpec()
        multiply(n, L.Input(), f"scale_pool{pool}", scale)
        (added,) = (layer for layer in n.to_proto().layer if layer.type == "Scale")
        added.bottom[:] = copy.layer[place].bottom
        copy.layer[place].bottom[:] = added.top
        copy.layer.insert(place, added)
    return copy


def feature_sizes(param: caffe_pb2.NetParameter, weights: Weights, blobs: list[str]) -> dict[str, float]:
    """Measure the root mean square of blobs of a net with these weights, over the first images it is trained on."""
    net = Net(param, TRAIN)
    begin(net, weights)
    with torch.no_grad():
        features = net(keep=blobs)
    return {name: math.sqrt(float(features[name].double().square().mean())) for name in blobs}


def pool_alone(pool: int, seed: int = shapes.SEED) -> caffe_pb2.NetParameter:
    """Make an FCN that scores pool 5, 4 or 3 and nothing else, upsampled by its stride; only the score layer learns."""
    n, classes = NetSpec(), len(CLASSES)
    n.data, n.label = L.Input(ntop=2)
    trunk = replace(shapes.TRUNK, rate=0, depths=shapes.TRUNK.depths[:pool], widths=shapes.TRUNK.widths[:pool])
    features = convolutions(n, multiply(n, n.data, "scale_data", COLOUR_SCALE), trunk)
    scores = score(n, features, f"score_pool{pool}", classes, shapes.SCORE_RATE)
    loss(n, to_image(n, scores, n.data, classes, 2**pool), n.label, normalize=True)
    data = (layer for layer in shapes.fcn("shapes-fcn32s", seed).layer if not layer.bottom)
    net = caffe_pb2.NetParameter(name=f"shapes-pool{pool}")
    net.layer.extend([*data, *(layer for layer in n.to_proto().layer if layer.bottom)])
    return net


def _copy(net: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    copy = caffe_pb2.NetParameter()
    copy.CopyFrom(net)
    return copy
