"""Classifiers to convert: short ones of each family as text, and the stock ones at full or less width."""

from __future__ import annotations

from typing import Any

from helpers import input_layer, layer, net_param

from fcn_caffe import Net
from fcn_caffe.models import trunks
from fcn_caffe.net.graph import filter_net
from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random, prove
from fcn_caffe.net.rewrite.convolutionalize import Conversion, convolutional_weights, convolutionalize
from fcn_caffe.net.rewrite.deploy_form import deploy_form
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.weights.surgery import transplant
from fcn_caffe.weights.transfer import net_weights


def conv(name: str, bottom: str, outputs: int, kernel: int, more: str = "") -> str:
    options = f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {more} }}"
    return layer(name, "Convolution", bottom, more=options)


def full(name: str, bottom: str, outputs: int, more: str = "", extra: str = "") -> str:
    options = f"inner_product_param {{ num_output: {outputs} {more} }} {extra}"
    return layer(name, "InnerProduct", bottom, more=options)


def pool(name: str, bottom: str, more: str) -> str:
    return layer(name, "Pooling", bottom, more=f"pooling_param {{ {more} }}")


def relu(name: str, blob: str) -> str:
    return layer(name, "ReLU", blob, blob)


def converted(
    *text: str, suffix: str = "", input_size: tuple[int, ...] | None = None, seed: int = 1
) -> tuple[Conversion, Net, Net]:
    """The conversion of a net, both nets with the same weights, and the proof of them."""
    deployed, _ = deploy_form(filter_net(net_param(*text)), input_size)
    conversion = convolutionalize(deployed, suffix)
    classifier, net = Net(deployed), Net(conversion.net)
    fill_at_random(classifier, seed)
    transplant(net, convolutional_weights(conversion, net_weights(classifier)))
    assert prove(conversion, classifier, net)
    return conversion, classifier, net


ALEXNET = (
    input_layer("data", 2, 3, 33, 33), conv("conv1", "data", 4, 5, "stride: 2"), relu("relu1", "conv1"),
    pool("pool1", "conv1", "pool: MAX kernel_size: 3 stride: 2"),
    layer("norm1", "LRN", "pool1", more="lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"),
    conv("conv2", "norm1", 6, 3, "group: 2"), relu("relu2", "conv2"),
    full("fc6", "conv2", 8), relu("relu6", "fc6"), layer("drop6", "Dropout", "fc6", "fc6"),
    full("fc7", "fc6", 7), relu("relu7", "fc7"), layer("drop7", "Dropout", "fc7", "fc7"),
    full("fc8", "fc7", 5), layer("prob", "Softmax", "fc8"),
)  # fmt: skip


def inception(name: str, bottom: str) -> str:
    parts = [
        conv(f"{name}/1x1", bottom, 3, 1),
        conv(f"{name}/3x3", bottom, 4, 3, "pad: 1"),
        pool(f"{name}/pool", bottom, "kernel_size: 3 pad: 1"),
        conv(f"{name}/pool_proj", f"{name}/pool", 2, 1),
    ]
    return "".join(parts) + layer(f"{name}/output", "Concat", f"{name}/1x1 {name}/3x3 {name}/pool_proj")


GOOGLENET = (
    'layer { name: "images" type: "Data" top: "data" top: "label" include { phase: TEST } '
    'transform_param { crop_size: 15 mean_value: 104 mean_value: 117 mean_value: 123 } data_param { source: "x" } }',
    conv("conv1", "data", 4, 3, "stride: 2"), inception("3a", "conv1"),
    pool("aux/ave", "3a/output", "pool: AVE kernel_size: 5 stride: 3"), full("aux/fc", "aux/ave", 6),
    relu("aux/relu", "aux/fc"), full("aux/classifier", "aux/fc", 3),
    layer("aux/loss", "SoftmaxWithLoss", "aux/classifier label", more="loss_weight: 0.3"),
    inception("4a", "3a/output"), pool("pool5", "4a/output", "pool: AVE global_pooling: true"),
    full("classifier", "pool5", 3),
    layer("loss", "SoftmaxWithLoss", "classifier label"),
    layer("top-1", "Accuracy", "classifier label", more="include { phase: TEST }"),
)  # fmt: skip


def caffenet(scale: int = 1) -> caffe_pb2.NetParameter:
    """BVLC's CaffeNet at 227 x 227, or with fewer channels."""
    n = NetSpec()
    n.data = L.Input(input_param={"shape": [{"dim": [1, 3, 227, 227]}]})
    bottom: Top = n.data
    rows: tuple[tuple[int, int, int, dict[str, Any]], ...] = (
        (1, 96, 11, {"stride": 4}),
        (2, 256, 5, {"pad": 2, "group": 2}),
        (3, 384, 3, {"pad": 1}),
        (4, 384, 3, {"pad": 1, "group": 2}),
        (5, 256, 3, {"pad": 1, "group": 2}),
    )
    for number, outputs, kernel, options in rows:
        options = {"num_output": outputs // scale, "kernel_size": kernel, **options}
        bottom = trunks.conv_relu(n, bottom, f"conv{number}", f"relu{number}", **options)
        if number in (1, 2, 5):
            bottom = trunks.max_pool(n, bottom, f"pool{number}", 3)
        if number < 3:
            n[f"norm{number}"] = bottom = L.LRN(bottom, local_size=5, alpha=1e-4, beta=0.75)
    return inner_products(n, bottom, scale)


def vgg16(scale: int = 1) -> caffe_pb2.NetParameter:
    """VGG-16 at 224 x 224."""
    n = NetSpec()
    n.data = L.Input(input_param={"shape": [{"dim": [1, 3, 224, 224]}]})
    widths = tuple(width // scale for width in trunks.VGG16.widths)
    return inner_products(n, trunks.convolutions(n, n.data, trunks.Vgg(widths=widths, pad=1)), scale)


def inner_products(n: NetSpec, bottom: Top, scale: int) -> caffe_pb2.NetParameter:
    for number in (6, 7):
        bottom = n[f"fc{number}"] = L.InnerProduct(bottom, num_output=4096 // scale)
        bottom = n[f"relu{number}"] = L.ReLU(bottom, in_place=True)
        bottom = n[f"drop{number}"] = L.Dropout(bottom, in_place=True)
    n.fc8 = L.InnerProduct(bottom, num_output=1000)
    n.prob = L.Softmax(n.fc8)
    return n.to_proto()


def googlenet(whole: bool = False) -> caffe_pb2.NetParameter:
    """BVLC's GoogLeNet at 224 x 224 up to its softmax; its average pooling of 7 x 7, or of the whole map."""
    n = NetSpec()
    n.data = L.Input(input_param={"shape": [{"dim": [1, 3, 224, 224]}]})
    window = {"global_pooling": True} if whole else {"kernel_size": 7, "stride": 1}
    n["pool5"] = L.Pooling(trunks.googlenet(n, n.data, pad=3), pool=1, **window)
    n["loss3/classifier"] = L.InnerProduct(n["pool5"], num_output=1000)
    n.prob = L.Softmax(n["loss3/classifier"])
    return n.to_proto()
