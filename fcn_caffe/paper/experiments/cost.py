"""What a fully convolutional pass saves over classifying every crop by itself, in time and in multiply-adds."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from fcn_caffe.models import trunks
from fcn_caffe.net.multiply_adds import multiply_adds
from fcn_caffe.net.net import Net
from fcn_caffe.net.net_spec import NetSpec
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random
from fcn_caffe.paper.result import Result, relative
from fcn_caffe.proto import caffe_pb2

__all__ = ["patchwise_cost"]

_CROP, _IMAGE, _STRIDE = 227, 500, 32
_MAP = 10  # the side of the map that the paper names


def alexnet_classifier(side: int, scale: int = 1) -> caffe_pb2.NetParameter:
    """Make CaffeNet as convolutions, without the pad of 100 that segmentation adds.

    Args:
        side: of the image.
        scale: divides the widths of all layers but the scores of the 1000 classes.
    """
    n = NetSpec()
    n.data = L.Input(input_param={"shape": [{"dim": [1, 3, side, side]}]})
    trunks.score(n, trunks.alexnet(n, n.data), "fc8", 1000)
    net: caffe_pb2.NetParameter = n.to_proto()
    for layer in net.layer:
        layer.ClearField("exclude")
        options = layer.convolution_param
        if layer.name == "conv1":
            options.ClearField("pad")
        if layer.type == "Convolution":
            options.num_output //= scale
    return net


def patchwise_cost(scale: int = 1, repeats: int = 3, seed: int = 0) -> Result:
    """Time AlexNet's 10x10 map of a 500x500 image in one pass, against its 100 crops of 227x227.

    A crop is timed alone, as the paper does, and in a batch of ten, which is faster.

    Args:
        scale: divides the widths of all layers, for a quick try.
        repeats: the least time of so many counts.
        seed: of weights and image.
    """
    result = Result("cost", "3.1", "one 500x500 pass gives a 10x10 map, more than 5 times faster than its 100 crops")
    whole, crop = Net(alexnet_classifier(_IMAGE, scale)), Net(alexnet_classifier(_CROP, scale))
    fill_at_random(whole, seed)
    crop.share_with(whole)
    image = torch.randn((1, 3, _IMAGE, _IMAGE), generator=torch.Generator().manual_seed(seed))
    crops = image[:, :, :_CROP, :_CROP].expand(10, 3, _CROP, _CROP).contiguous()
    with torch.no_grad():
        answer = whole(data=image)["fc8"]
        side = min(answer.shape[2:])
        result.measure("side of the map", side, str(_MAP), tuple(answer.shape[2:]) == (_MAP, _MAP))
        at_once = _least_seconds(lambda: whole(data=image), repeats)
        alone = _least_seconds(lambda: crop(data=crops[:1]), repeats)
        batched = _least_seconds(lambda: crop(data=crops), repeats) / len(crops)
        places = answer.shape[2] * answer.shape[3]
        corner = relative(crop(data=crops[:1])["fc8"][0, :, 0, 0], answer[0, :, 0, 0])
    result.measure("milliseconds, 500x500 at once", 1e3 * at_once)
    result.measure("milliseconds, one crop of 227x227", 1e3 * alone)
    ratio = alone * places / at_once
    result.measure("crops one by one / at once, in time", ratio, "more than 5", ratio > 5)
    result.measure("crops in batches of 10 / at once, in time", batched * places / at_once)
    result.measure("crops / at once, in multiply-adds", multiply_adds(crop) * places / multiply_adds(whole))
    result.measure("first place beside its crop, of the largest", corner)
    result.remarks.append(
        f"{torch.get_num_threads()} thread(s) of this CPU; the paper's times are a GPU's: 22 and 1.2 ms"
    )
    return result


def _least_seconds(run: Callable[[], object], repeats: int) -> float:
    run()  # the first pass also makes what later ones reuse
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
