"""Colour and depth in one net: early and late fusion before their first step, against the nets of one input."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from fcn_caffe.host.glog import silence_log
from fcn_caffe.layers.fillers import bilinear_kernel
from fcn_caffe.models import make_net, starts_of
from fcn_caffe.net.net import Net
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random
from fcn_caffe.paper.result import Result, relative
from fcn_caffe.proto.phases import TEST
from fcn_caffe.training.stage import start_from
from fcn_caffe.weights.surgery import interp
from fcn_caffe.weights.transfer import net_weights, save_weights

__all__ = ["fusion", "narrow_net"]

_SIZE = (48, 64)  # rows and columns of the image
_DEPTH = 37  # of an image of one depth everywhere, in the unit of its channel
_STEP = 1 / 256  # weights of the first convolution are multiples of it, so that its sums round nowhere
_LARGEST = 2.0  # no weight of the first convolution is larger: 36 products of 128 and 2 need fewer than 24 bits


def narrow_net(name: str, scale: int, last: str | None = None) -> Net:
    """Build a reference net in its deploy form, narrow.

    Args:
        name: the net.
        scale: divides every width but the scores'.
        last: cut the net after this layer.
    """
    param = make_net(name)
    for layer in param.layer:
        if layer.type == "Convolution" and not layer.name.startswith("score"):
            layer.convolution_param.num_output //= scale
        for shape in layer.input_param.shape:
            shape.dim[2:] = _SIZE
    if last is not None:
        names = [layer.name for layer in param.layer]
        del param.layer[names.index(last) + 1 :]
    return Net(param, TEST, stages=("deploy",))


def fusion(scale: int = 8, seed: int = 0) -> Result:
    """Start the fused nets of NYUDv2 as their solvers do, from nets of random weights, and compare them with these.

    Early: on zero depth color-d is the colour net, and on one depth everywhere its first convolution adds that depth
    times the mean of colour's filters. Late: color-hha averages the two nets' scores; its 16s starts as the 32s.

    Args:
        scale: divides the widths of all layers but the scores.
        seed: of weights and images.
    """
    result = Result(
        "fusion", "5", "early and late fusion of colour and depth start as the nets that they are made from"
    )
    generator = torch.Generator().manual_seed(seed)
    colour, hha = (torch.randint(-128, 128, (1, 3, *_SIZE), generator=generator).float() for _ in range(2))
    nets = {name: narrow_net(f"nyud-fcn32s-{name}", scale) for name in ("color", "hha")}
    for index, net in enumerate(nets.values()):
        fill_at_random(net, seed + index)
        interp(net)
        with torch.no_grad():
            for blob in net.params["conv1_1"]:
                blob.copy_((blob / _STEP).round().mul(_STEP).clamp(-_LARGEST, _LARGEST))
    with TemporaryDirectory() as folder:
        _compare_early(result, nets["color"], colour, scale, Path(folder))
        _compare_late(result, nets, {"color": colour, "hha": hha}, scale, Path(folder))
    result.remarks += [
        f"all widths but the scores' are divided by {scale}; images are {_SIZE[0]}x{_SIZE[1]}, weights random",
        f"weights of the first convolution are multiples of 1/{1 / _STEP:g} and pixels whole numbers, so that no sum "
        "depends on its order",
        "the sum of two nets' scores, upsampled, rounds otherwise than the sum of the upsampled",
    ]
    return result


def _start_net(name: str, scale: int, folder: Path, sources: dict[str, Net]) -> Net:
    """A stage's net as its recipe starts it from the weight files of other nets."""
    net = narrow_net(name, scale)
    for stem, source in sources.items():
        save_weights(folder / f"{stem}.caffemodel", net_weights(source))
    with silence_log():
        start_from(net, [starts_of(name, str(folder / f"{stem}.caffemodel")) for stem in sources])
    return net


def _compare_early(result: Result, colour_net: Net, colour: Tensor, scale: int, folder: Path) -> None:
    """Compare color-d with the colour net. It takes that net's trunk, here also its scores, to compare them."""
    trunk = {"vgg16fc": colour_net}
    fused = _start_net("nyud-fcn32s-color-d", scale, folder, trunk)
    weight, bias = (blob.detach() for blob in fused.params["conv1_1_bgrd"])
    old, old_bias = (blob.detach() for blob in colour_net.params["conv1_1"])
    mean = old.mean(1, keepdim=True)
    result.equal("early: colour's filters, of conv1_1", relative(weight[:, :3], old), 0)
    result.equal("early: its bias", relative(bias, old_bias), 0)
    result.equal("early: depth's filters, of the mean over colour's", relative(weight[:, 3:], mean))
    first = {"fused": narrow_net("nyud-fcn32s-color-d", scale, "conv1_1_bgrd")}
    first["colour"] = narrow_net("nyud-fcn32s-color", scale, "conv1_1")
    first["fused"].share_with(fused)
    first["colour"].share_with(colour_net)
    level = torch.full((1, 1, *_SIZE), float(_DEPTH))
    with torch.no_grad():
        alone = first["colour"](data=colour)["conv1_1"]
        dark = first["fused"](color=colour, depth=torch.zeros_like(level))["conv1_1_bgrd"]
        deep = first["fused"](color=colour, depth=level)["conv1_1_bgrd"]
        result.equal("early, zero depth: conv1_1_bgrd, of conv1_1", relative(dark, alone), 0)
        # The padding of 100 around the image is zero, so at its border a filter sees less of the depth.
        added = conv2d(level, mean, padding=100)
        result.equal(
            "early, one depth: conv1_1_bgrd, of conv1_1 and the mean filter's answer", relative(deep, alone + added)
        )
        inside = (deep - alone)[:, :, 101:-101, 101:-101]
        sums = (_DEPTH * mean.sum((1, 2, 3))).reshape(1, -1, 1, 1).expand_as(inside)
        result.equal("early, one depth: what is added inside, of depth x sum of the filter", relative(inside, sums))
        fused_score = fused({"color": colour, "depth": torch.zeros_like(level)}, keep=["score_fr"])["score_fr"]
        score = colour_net({"data": colour}, keep=["score_fr"])["score_fr"]
    result.equal("early, zero depth: score_fr, of the colour net's", relative(fused_score, score), 0)


def _compare_late(result: Result, nets: dict[str, Net], images: dict[str, Tensor], scale: int, folder: Path) -> None:
    """Compare color-hha with the two nets it averages, and its 16s with its 32s."""
    sources = {f"nyud-fcn32s-{kind}": net for kind, net in nets.items()}
    name = "nyud-fcn32s-color-hha"
    fused = _start_net(name, scale, folder, sources)
    kinds = list(images)
    keep = [f"score_fr{kind}" for kind in kinds] + ["score_fused", "score"]
    with torch.no_grad():
        alone = {kind: nets[kind]({"data": images[kind]}, keep=["score_fr", "score"]) for kind in kinds}
        both = fused(images, keep=keep)
    for kind in kinds:
        result.equal(
            f"late: score_fr{kind}, of the {kind} net's", relative(both[f"score_fr{kind}"], alone[kind]["score_fr"]), 0
        )
    mean = {blob: (alone["color"][blob] + alone["hha"][blob]) / 2 for blob in ("score_fr", "score")}
    result.equal("late: score_fused, of the mean of the two nets'", relative(both["score_fused"], mean["score_fr"]), 0)
    result.equal("late: score, of the mean of the two nets' scores", relative(both["score"], mean["score"]))
    _compare_finer(result, fused, both, images, scale, folder)


def _compare_finer(
    result: Result, coarse: Net, before: dict[str, Tensor], images: dict[str, Tensor], scale: int, folder: Path
) -> None:
    """Compare the late fusion of stride 16, as it starts, with that of stride 32."""
    finer = _start_net("nyud-fcn16s-rgb-hha", scale, folder, {"nyud-fcn32s-color-hha": coarse})
    with torch.no_grad():
        begun = finer(images, keep=["score_pool4", "score_fused", "upscore2", "fuse_pool4", "score"])
    skip = begun["score_pool4"]
    result.measure("late 16s: largest score_pool4", skip.abs().max(), "0 exactly", not skip.any())
    result.equal("late 16s: score_fused, of the 32s'", relative(begun["score_fused"], before["score_fused"]), 0)
    twice = bilinear_kernel(4).to(torch.float32)[None, None].expand(skip.shape[1], 1, 4, 4)
    wanted = conv_transpose2d(before["score_fused"], twice, stride=2, groups=len(twice))
    result.equal(
        "late 16s: fuse_pool4, of the 32s' score_fused at twice the size", relative(begun["fuse_pool4"], wanted)
    )
    result.equal("late 16s: fuse_pool4, of upscore2", relative(begun["fuse_pool4"], begun["upscore2"]), 0)
    agree = (begun["score"].argmax(1) == before["score"].argmax(1)).float().mean()
    result.measure("late 16s: pixels with the 32s' class", agree)
    result.remarks.append(
        "the row of pixels with the 32s' class asks nothing: random scores differ from place to place, and two "
        "bilinear steps are not one of twice the factor"
    )
