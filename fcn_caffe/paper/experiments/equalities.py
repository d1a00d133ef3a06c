"""The paper's identities, measured: build nets that should be equal, fill them with the same numbers, compare them."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from fcn_caffe.errors import GraphError
from fcn_caffe.host.atomic import atomic_write, check_place
from fcn_caffe.models import shapes
from fcn_caffe.net.coord_map import receptive_field
from fcn_caffe.net.graph import filter_net, read_net
from fcn_caffe.net.net import Net
from fcn_caffe.net.net_spec import NetSpec
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random, image_input, prove, prove_places
from fcn_caffe.net.rewrite.convolutionalize import convolutional_weights, convolutionalize
from fcn_caffe.net.rewrite.deploy_form import deploy_form
from fcn_caffe.net.rewrite.rarefaction import Rarefaction, rarefy, shift_and_stitch
from fcn_caffe.paper.result import HOLDS, Result, relative
from fcn_caffe.proto import caffe_pb2, write_text
from fcn_caffe.proto.phases import TEST
from fcn_caffe.weights.surgery import interp, transplant
from fcn_caffe.weights.transfer import copy_weights, net_weights

__all__ = ["fc_to_conv", "rarefaction", "upsampling", "zero_init_skip"]

_SIDE = 61  # of the image that rarefaction is tried on


def strided_net() -> caffe_pb2.NetParameter:
    """Make a small net with every kind of layer that rarefaction knows: MAX and AVE pools, padding, branches, LRN."""
    n = NetSpec()
    n.data = L.Input(input_param={"shape": [{"dim": [1, 3, _SIDE, _SIDE + 6]}]})
    n.conv1 = L.Convolution(n.data, num_output=6, kernel_size=5, stride=2)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.norm1 = L.LRN(n.relu1, local_size=3, alpha=0.1)
    floor = {"round_mode": P.Pooling.FLOOR}
    n.pool1 = L.Pooling(n.norm1, pool=P.Pooling.MAX, kernel_size=3, stride=2, **floor)
    n.wide = L.Convolution(n.pool1, num_output=5, kernel_size=1)
    n.narrow = L.Convolution(n.pool1, num_output=4, kernel_size=1)
    n.both = L.Concat(n.wide, n.narrow)
    n.relu2 = L.ReLU(n.both, in_place=True)
    n.pool2 = L.Pooling(n.relu2, pool=P.Pooling.AVE, kernel_size=2, stride=2, **floor)
    n.fc = L.Convolution(n.pool2, num_output=8, kernel_size=3, pad=1)
    n.score = L.Convolution(n.fc, num_output=5, kernel_size=1)
    net: caffe_pb2.NetParameter = n.to_proto()
    return net


def rarefaction(
    net: str | os.PathLike[str] | None = None,
    until: str | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
) -> Result:
    """Compare shift-and-stitch with filter rarefaction at every blob with a stride, on random weights and image.

    A blob that the transformation calls inexact at the border is compared away from it.

    Args:
        net: a file, whose deploy form is taken; by default `strided_net`.
        until: the last blob that is made dense.
        seed: of weights and image.
        out: a file for the dense net, which takes the old net's weights layer by layer; written where the two agree.

    Raises: as `rarefy` does; GraphError for a net that is not of one image.
    """
    if out is not None:
        check_place(out)
    param = strided_net() if net is None else _without_rules(read_net(net, TEST, ("deploy",)))
    rarefied = rarefy(param, until)
    strided, dense = Net(param), Net(rarefied.net)
    fill_at_random(strided, seed)
    weights = net_weights(strided)
    copy_weights(dense, {name: weights[name] for name in dense.params if name in weights}, strict=False)
    rates = {blob: rate for blob, rate in rarefied.rates.items() if rate > 1}
    if not rates:
        raise GraphError(f"net '{dense.name}' has no stride up to '{until or dense.graph.outputs[0]}'.")
    result = Result(
        "rarefaction",
        "3.2",
        "shifting the input and stitching the answers equals filters with zeros between their taps",
    )
    _compare_dense(result, strided, dense, rarefied, rates, seed)
    if out is not None and result.verdict == HOLDS:
        with atomic_write(out, "w") as file:
            file.write(write_text(rarefied.net))
        result.remarks.append(f"{os.fspath(out)}: the dense net")
    result.remarks += rarefied.steps + [f"away from the border only: {why}" for why in rarefied.inexact]
    return result


def _compare_dense(
    result: Result, strided: Net, dense: Net, rarefied: Rarefaction, rates: dict[str, int], seed: int
) -> None:
    """Add a row for each blob with a rate: the dense net's, beside the strided net's over all shifts."""
    name = image_input(dense)
    margins = dict.fromkeys(rates, 0)
    batch, channels, *size = dense.blob_shapes[name]
    if rarefied.inexact:
        for blob, rate in rates.items():
            margins[blob] = max(receptive_field(strided.graph, blob, name).size, rarefied.pads[blob]) + rate
        # Places away from the border need no larger image, and every shift of the strided net costs a whole pass.
        size = [2 * max(margins.values()) + 8] * len(size)
    image = torch.randn((batch, channels, *size), generator=torch.Generator().manual_seed(seed))
    stitched = shift_and_stitch(strided, image, rates, name)
    with torch.no_grad():
        blobs = dense({name: image}, keep=rates)
    for blob, rate in rates.items():
        _compare_places(result, f"{blob}, {rate * rate} shifts", blobs[blob], stitched[blob], margins[blob], image)


def _compare_places(result: Result, what: str, dense: Tensor, stitched: Tensor, margin: int, image: Tensor) -> None:
    """Add a row for the places of two blobs that are at least `margin` pixels away from the image's border."""
    if margin:
        inside = (..., slice(margin, image.shape[2] - margin), slice(margin, image.shape[3] - margin))
        dense, stitched = dense[inside], stitched[inside]
    rows, columns = (min(dense.shape[axis], stitched.shape[axis]) for axis in (2, 3))
    difference = relative(dense[:, :, :rows, :columns], stitched[:, :, :rows, :columns])
    result.equal(f"{what}, {rows}x{columns} places", difference)


def upsampling(factors: tuple[int, ...] = (2, 3, 8, 32), seed: int = 0) -> Result:
    """Compare Deconvolution with the gradient of a Convolution of the same weights, for each factor.

    Both are layers of Caffe; the gradient is autograd's. Upsampled by a bilinear kernel a ramp must stay a ramp.
    """
    result = Result("upsampling", "3.3", "upsampling by f is backward convolution with stride f")
    generator = torch.Generator().manual_seed(seed)
    for factor in factors:
        kernel = 2 * factor - factor % 2
        options = {"num_output": 3, "kernel_size": kernel, "stride": factor, "bias_term": False}
        down, up = NetSpec(), NetSpec()
        side = factor * 6 + kernel - factor
        down.image = L.Input(input_param={"shape": [{"dim": [1, 3, side, side]}]})
        down.small = L.Convolution(down.image, **options)
        up.small = L.Input(input_param={"shape": [{"dim": [1, 3, 6, 6]}]})
        up.up = L.Deconvolution(up.small, convolution_param=options)
        forward, upsampler = Net(down.to_proto()), Net(up.to_proto())
        fill_at_random(forward, seed)
        transplant(upsampler, {"up": net_weights(forward)["small"]})
        image = torch.randn((1, 3, side, side), generator=generator).requires_grad_()
        small = torch.randn((1, 3, 6, 6), generator=generator)
        forward(image=image)["small"].backward(small)
        with torch.no_grad():
            upsampled = upsampler(small=small)["up"]
        assert image.grad is not None
        result.equal(f"factor {factor}, random kernel of {kernel}", relative(upsampled, image.grad))
        interp(upsampler)
        with torch.no_grad():
            ramp = upsampler(small=torch.arange(6.0).expand(1, 3, 6, 6))["up"]
        steps = (ramp[..., 1:] - ramp[..., :-1])[:, :, factor * 2 : -factor * 2, factor * 2 : -factor * 2]
        result.equal(f"factor {factor}, a ramp by bilinear kernel", relative(steps * factor, torch.ones_like(steps)))
    return result


def classifier_net() -> caffe_pb2.NetParameter:
    """Make a classifier that does not pad, so that each place of a larger image can be compared with its crop."""
    n = NetSpec()
    n.data = L.Input(input_param={"shape": [{"dim": [1, 3, 43, 43]}]})
    n.conv1 = L.Convolution(n.data, num_output=8, kernel_size=5, stride=2)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    n.conv2 = L.Convolution(n.pool1, num_output=12, kernel_size=3)
    n.relu2 = L.ReLU(n.conv2, in_place=True)
    n.fc6 = L.InnerProduct(n.relu2, num_output=16)
    n.relu6 = L.ReLU(n.fc6, in_place=True)
    n.fc7 = L.InnerProduct(n.relu6, num_output=16)
    n.fc8 = L.InnerProduct(n.fc7, num_output=6)
    net: caffe_pb2.NetParameter = n.to_proto()
    return net


def fc_to_conv(net: str | os.PathLike[str] | None = None, seed: int = 0) -> Result:
    """Compare a classifier with its fully convolutional form, on its own image and at places of a larger one.

    Args:
        net: a classifier's file; by default `classifier_net`.
        seed: of weights and images.

    Raises: as `convolutionalize` does; WeightsError where the two differ.
    """
    state = TEST, ("deploy",)
    param = _without_rules(filter_net(classifier_net(), *state) if net is None else read_net(net, *state))
    deployed, _ = deploy_form(param)
    conversion = convolutionalize(deployed)
    classifier, fully = Net(deployed), Net(conversion.net)
    fill_at_random(classifier, seed)
    transplant(fully, convolutional_weights(conversion, net_weights(classifier)))
    result = Result("fc-to-conv", "3.1", "a classifier's inner products are convolutions over their whole input")
    for comparison in prove(conversion, classifier, fully, seed):
        result.equal(f"{comparison.blob} on the classifier's image", comparison.relative)
    places = prove_places(conversion, classifier, fully, seed)
    if isinstance(places, str):
        result.remarks.append(f"places of a larger image not compared: {places}")
    else:
        for number, comparison in enumerate(places, 1):
            what = f"{comparison.blob} at place {number} of {len(places)} of a larger image"
            result.equal(what, comparison.relative)
    return result


def _without_rules(param: caffe_pb2.NetParameter) -> caffe_pb2.NetParameter:
    """A filtered net without the rules that it was filtered by, so that it is the same net in every state."""
    for layer in param.layer:
        layer.ClearField("include")
        layer.ClearField("exclude")
    return param


def zero_init_skip(seed: int = 0) -> Result:
    """Compare FCN-16s and 8s of the generated data, as they start, with the coarser net that they start from.

    The skip's scores add exactly nothing, and the finer net upsamples the coarser net's scores, in the same bits. What
    differs is the upsampling: two bilinear steps where the coarser net takes one.
    """
    result = Result("zero-init-skip", "4.2", "with its new scores at zero, a finer net starts as the coarser one")
    coarse = _deployed_fcn("shapes-fcn32s")
    fill_at_random(coarse, seed)
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand((2, 3, shapes.SCENE, shapes.SCENE), generator=generator) * 255 - 128
    interp(coarse)
    scores, last = "score_fr", coarse
    for name, new, up, fused in (
        ("shapes-fcn16s", "score_pool4", "upscore2", "fuse_pool4"),
        ("shapes-fcn8s", "score_pool3", "upscore_pool4", "fuse_pool3"),
    ):
        finer = _deployed_fcn(name)
        copy_weights(finer, net_weights(last), strict=False)
        interp(finer)
        cropped = f"{up}c"
        with torch.no_grad():
            old = last({"data": image}, keep=[scores])
            begun = finer({"data": image}, keep=[scores, new, cropped, fused])
        result.measure(f"{name}: largest {new}", begun[new].abs().max(), "0 exactly", not begun[new].any())
        result.equal(f"{name}: {scores} and the coarser net's", relative(begun[scores], old[scores]), 0)
        result.equal(f"{name}: {fused} and upsampled {scores}", relative(begun[fused], begun[cropped]), 0)
        agree = (begun["score"].argmax(1) == old["score"].argmax(1)).float().mean()
        result.measure(f"{name}: pixels with the coarser net's class", agree, "at least 0.9", agree >= 0.9)
        result.measure(
            f"{name}: score beside the coarser net's, of the largest", relative(begun["score"], old["score"])
        )
        scores, last = fused, finer
    result.remarks.append(
        "The scores of the image differ by the interpolation: two bilinear steps are not one of twice the factor."
    )
    return result


def _deployed_fcn(name: str) -> Net:
    return Net(shapes.fcn(name), TEST, stages=("deploy",))
