"""The nets of reference-nets: trunk, heads, and data for training, testing and deploy in one NetParameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fcn_caffe.errors import GraphError
from fcn_caffe.models import trunks
from fcn_caffe.models.heads import IGNORED, average, head, loss, scaled_skip
from fcn_caffe.models.trunks import RATES, VGG16, Vgg, convolutions, drop, multiply, score, vgg
from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.proto import caffe_pb2

__all__ = ["COLOUR_SCALE", "NETS", "VOC", "DataSource", "classifier", "fcn", "fcn_on", "make_net", "without_defaults"]

DEPLOY_SIZE = 500
# A trunk filled at random would make activations as large as colours are.
COLOUR_SCALE = 1 / 64
# By stride. Pools round sizes up, so a skip may lack a row at the far side unless fc6 cuts off enough.
LEAST_KERNEL = {32: 1, 16: 3, 8: 4}


@dataclass(frozen=True)
class DataSource:
    """The data layers of a net and their tops.

    Attributes:
        module: the Python module of the layers' classes.
        train: class and options in training.
        test: class and options in testing.
        images: the channels of each top that is an image.
        labels: the tops that are labels.
        last: class and options in testing with the stage "test", for a list that validation must not see.
        deploy_size: height and width of the deploy form's images.
    """

    module: str
    train: tuple[str, Mapping[str, Any]]
    test: tuple[str, Mapping[str, Any]]
    images: Mapping[str, int]
    labels: tuple[str, ...] = ("label",)
    last: tuple[str, Mapping[str, Any]] | None = None
    deploy_size: tuple[int, int] = (DEPLOY_SIZE, DEPLOY_SIZE)

    @property
    def tops(self) -> list[str]:
        """The names of the tops, images first."""
        return [*self.images, *self.labels]

    def start(self) -> NetSpec:
        """Return a NetSpec that holds the data layer's tops."""
        n = NetSpec()
        n.update(dict(zip(self.tops, L.Python(ntop=len(self.tops)), strict=True)))
        return n

    def finish(self, n: NetSpec, name: str) -> caffe_pb2.NetParameter:
        """Build the net: the data layers for training, testing and deploy (`Input`), then the other layers.

        Caffe's own nets have their data layers first too.
        """
        spec = n.to_proto()
        net = caffe_pb2.NetParameter(name=name)
        wanted = ["test"] if self.last else []
        uses: list[tuple[tuple[str, Mapping[str, Any]], dict[str, Any]]] = [
            (self.train, {"phase": caffe_pb2.TRAIN, "not_stage": ["deploy"]}),
            (self.test, {"phase": caffe_pb2.TEST, "not_stage": ["deploy", *wanted]}),
        ]
        if self.last:
            uses.append((self.last, {"phase": caffe_pb2.TEST, "stage": wanted, "not_stage": ["deploy"]}))
        for (layer, options), rule in uses:
            data = self.data_layer(layer, options)
            data.include.add(**rule)
            net.layer.append(data)
        inputs = net.layer.add(name="input", type="Input", top=list(self.images))
        inputs.include.add(stage=["deploy"])
        for channels in self.images.values():
            inputs.input_param.shape.add(dim=[1, channels, *self.deploy_size])
        net.layer.extend(layer for layer in spec.layer if list(layer.top) != self.tops)
        return net

    def data_layer(self, layer: str, options: Mapping[str, Any]) -> caffe_pb2.LayerParameter:
        """Build one data layer: a class of the Python module with its options."""
        data = caffe_pb2.LayerParameter(name=self.tops[0], type="Python", top=self.tops)
        data.python_param.module, data.python_param.layer = self.module, layer
        data.python_param.param_str = str(dict(options))
        return data


def fcn(
    name: str,
    data: DataSource,
    classes: int,
    stride: int,
    trunk: Vgg = VGG16,
    *,
    at_once: bool = False,
    normalize: bool = False,
    ignore: int = IGNORED,
    colour_scale: float | None = None,
    score_rates: Mapping[str, float] | None = None,
    learned: bool = False,
) -> caffe_pb2.NetParameter:
    """Build an FCN on a trunk of VGG's form; with the defaults, the paper's.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        stride: 32, 16 or 8.
        trunk: the trunk's form.
        at_once: scale the skips, as needed where all strides are learned together.
        normalize: average the loss over the pixels.
        ignore: the label that is not learned.
        colour_scale: a factor for the trunk's input.
        score_rates: lr_mult of score layers, by name; 1 otherwise.
        learned: learn the upsampling between skips.
    Raises:
        GraphError: the fc6 kernel is too small for the stride's skips.
    """
    if not trunk.has_same_padding and trunk.fc_kernel < LEAST_KERNEL[stride]:
        raise GraphError(
            f"net '{name}': stride {stride} needs an fc6 kernel of at least {LEAST_KERNEL[stride]}, "
            f"got {trunk.fc_kernel}. With less, the skips are smaller than what they are added to."
        )
    n = data.start()
    image = n[data.tops[0]]
    bottom = image if colour_scale is None else multiply(n, image, "scale_data", colour_scale)
    scores = score(n, vgg(n, bottom, trunk), "score_fr", classes, (score_rates or {}).get("score_fr", 1))
    skip = scaled_skip(n, classes) if at_once else None
    options: dict[str, Any] = {
        "skip": skip,
        "crop_up": trunk.has_same_padding,
        "score_rates": score_rates,
        "learned": learned,
    }
    scores = head(n, scores, image, classes, stride, **options)
    loss(n, scores, n[data.labels[0]], normalize=normalize, ignore=ignore)
    return data.finish(n, name)


def fcn_on(
    name: str, data: DataSource, classes: int, trunk: Callable[[NetSpec, Top], Top], ignore: int = IGNORED
) -> caffe_pb2.NetParameter:
    """Build a stride-32 net on a trunk whose receptive fields have a middle pixel: its upsampling kernel is odd."""
    n = data.start()
    scores = score(n, trunk(n, n.data), "score_fr", classes)
    loss(n, head(n, scores, n.data, classes, 32, odd=True), n.label, normalize=True, ignore=ignore)
    return data.finish(n, name)


def classifier(
    name: str,
    data: DataSource,
    classes: int,
    trunk: Vgg,
    *,
    score_name: str = "score",
    colour_scale: float | None = None,
) -> caffe_pb2.NetParameter:
    """Build the classifier that a trunk comes from. Its fc6 and fc7 are inner products, which transplant converts.

    The images should be 32 times as large as `fc_kernel`, so that pool5 leaves that much of them.

    Args:
        name: the net's name.
        data: its data layers.
        classes: the number of classes.
        trunk: the trunk's form; convolutions that keep their size are padded, nothing else.
        score_name: the name of the last inner product.
        colour_scale: a factor for the trunk's input.
    """
    n = data.start()
    bottom: Top = n[data.tops[0]]
    if colour_scale is not None:
        bottom = multiply(n, bottom, "scale_data", colour_scale)
    bottom = convolutions(n, bottom, replace(trunk, pad=1))
    for number in (6, 7):
        n[f"fc{number}"] = L.InnerProduct(bottom, num_output=trunk.fc_width, **trunk.learning(f"fc{number}"))
        bottom = n[f"relu{number}"] = L.ReLU(n[f"fc{number}"], in_place=True)
        if trunk.dropout:
            bottom = drop(n, bottom, f"drop{number}", trunk.dropout)
    n[score_name] = L.InnerProduct(bottom, num_output=classes, param=RATES)
    loss(n, n[score_name], n[data.labels[0]], normalize=True)
    return data.finish(n, name)


def without_defaults(net: caffe_pb2.NetParameter, **defaults: int) -> caffe_pb2.NetParameter:
    """Clear options of convolutions that are Caffe's defaults: `without_defaults(net, pad=0, stride=1)`.

    The paper's files state them; a net is easier to read without. The net is changed in place and returned.
    """
    for layer in net.layer:
        for field, value in defaults.items():
            if layer.type == "Convolution" and list(getattr(layer.convolution_param, field)) == [value]:
                layer.convolution_param.ClearField(field)
    return net


# The options stand in the order in which the released files have them.
_MEAN = (104.00699, 116.66877, 122.67892)
VOC = DataSource(
    "voc_layers",
    ("SBDDSegDataLayer", {"sbdd_dir": "../data/sbdd/dataset", "seed": 1337, "split": "train", "mean": _MEAN}),
    ("VOCSegDataLayer", {"voc_dir": "../data/pascal/VOC2011", "seed": 1337, "split": "seg11valid", "mean": _MEAN}),
    {"data": 3},
)
_NYUD_CHANNELS = {"color": 3, "depth": 1, "hha": 3}


def _same_layer(
    module: str,
    layer: str,
    splits: tuple[str, str],
    options: Mapping[str, Any],
    images: Mapping[str, int],
    labels: tuple[str, ...] = ("label",),
) -> DataSource:
    """Return the data of a class that trains on one split and tests on another; it replaces the option that is None."""
    train, test = ((layer, {key: options[key] or split for key in options}) for split in splits)
    return DataSource(module, train, test, images, labels)


def _nyud(*modalities: str, tops: tuple[str, ...] = ()) -> DataSource:
    """Return NYUDv2's data. The tops have the names of their modalities, unless `tops` names them."""
    options = {"tops": [*modalities, "label"], "seed": 1337, "nyud_dir": "../data/nyud", "split": None}
    images = {top: _NYUD_CHANNELS[kind] for top, kind in zip(tops or modalities, modalities, strict=True)}
    return _same_layer("nyud_layers", "NYUDSegDataLayer", ("trainval", "test"), options, images=images)


_SIFTFLOW = _same_layer(
    "siftflow_layers",
    "SIFTFlowSegDataLayer",
    ("trainval", "test"),
    {"siftflow_dir": "../data/sift-flow", "seed": 1337, "split": None},
    images={"data": 3},
    labels=("sem", "geo"),
)
_CONTEXT = _same_layer(
    "pascalcontext_layers",
    "PASCALContextSegDataLayer",
    ("train", "val"),
    {"context_dir": "../data/pascal-context", "seed": 1337, "split": None, "voc_dir": "../data/pascal"},
    images={"data": 3},
)


def _voc_on(name: str, trunk: Callable[[NetSpec, Top], Top]) -> caffe_pb2.NetParameter:
    return fcn_on(name, VOC, 21, trunk)


def _cvpr(name: str, stride: int) -> caffe_pb2.NetParameter:
    """Build a net as the CVPR 2015 text trains it: the loss averaged, the upsampling between skips learned."""
    return fcn(name, VOC, 21, stride, normalize=True, learned=True)


def _color_d(name: str) -> caffe_pb2.NetParameter:
    """Build the early fusion: depth is a fourth channel."""
    data = _nyud("color", "depth")
    n = data.start()
    n.data = L.Concat(n.color, n.depth)
    scores = score(n, vgg(n, n.data, first="conv1_1_bgrd"), "score_fr", 40)
    loss(n, head(n, scores, n.data, 40, 32), n.label)
    return data.finish(n, name)


def _color_hha(name: str, stride: int) -> caffe_pb2.NetParameter:
    """Build the late fusion: a trunk each for colour and HHA, and the mean of their scores."""
    data = _nyud("color", "hha")
    n = data.start()
    kinds = ("color", "hha")
    for kind in kinds:
        score(n, vgg(n, n[kind], suffix=kind), f"score_fr{kind}", 40)
    fused = average(n, n.score_frcolor, n.score_frhha, "score_fused")

    def skip(pool: int) -> Top:
        colour, hha = (score(n, n[f"pool{pool}{kind}"], f"score_pool{pool}{kind}", 40) for kind in kinds)
        return average(n, colour, hha, f"score_pool{pool}")

    loss(n, head(n, fused, n.color, 40, stride, skip=skip), n.label)
    return data.finish(n, name)


def _siftflow(name: str, stride: int) -> caffe_pb2.NetParameter:
    """Build SIFT Flow's net: two heads over one trunk."""
    n = _SIFTFLOW.start()
    features = vgg(n, n.data)
    for kind, classes, loss_name in (("sem", 33, "loss"), ("geo", 3, "loss_geo")):
        scores = score(n, features, f"score_fr_{kind}", classes)
        loss(n, head(n, scores, n.data, classes, stride, suffix=f"_{kind}"), n[kind], loss_name)
    return _SIFTFLOW.finish(n, name)


NETS: dict[str, Callable[[str], caffe_pb2.NetParameter]] = {
    "voc-fcn32s": lambda name: fcn(name, VOC, 21, 32),
    "voc-fcn16s": lambda name: fcn(name, VOC, 21, 16),
    "voc-fcn8s": lambda name: fcn(name, VOC, 21, 8),
    "voc-fcn8s-atonce": lambda name: fcn(name, VOC, 21, 8, at_once=True),
    "voc-fcn-alexnet": lambda name: _voc_on(name, trunks.alexnet),
    "voc-fcn-googlenet": lambda name: _voc_on(name, trunks.googlenet),
    "cvpr-fcn32s": lambda name: _cvpr(name, 32),
    "cvpr-fcn16s": lambda name: _cvpr(name, 16),
    "cvpr-fcn8s": lambda name: _cvpr(name, 8),
    "cvpr-fcn-alexnet": lambda name: _voc_on(name, trunks.alexnet_by_the_text),
    "cvpr-fcn-googlenet": lambda name: _voc_on(name, trunks.googlenet),
    "nyud-fcn32s-color": lambda name: fcn(name, _nyud("color", tops=("data",)), 40, 32),
    "nyud-fcn32s-hha": lambda name: fcn(name, _nyud("hha", tops=("data",)), 40, 32),
    "nyud-fcn32s-color-d": _color_d,
    "nyud-fcn32s-color-hha": lambda name: _color_hha(name, 32),
    "nyud-fcn16s-hha": lambda name: fcn(name, _nyud("hha", tops=("data",)), 40, 16),
    "nyud-fcn16s-rgb-hha": lambda name: _color_hha(name, 16),
    "siftflow-fcn32s": lambda name: _siftflow(name, 32),
    "siftflow-fcn16s": lambda name: _siftflow(name, 16),
    "siftflow-fcn8s": lambda name: _siftflow(name, 8),
    "pascalcontext-fcn32s": lambda name: fcn(name, _CONTEXT, 60, 32),
    "pascalcontext-fcn16s": lambda name: fcn(name, _CONTEXT, 60, 16),
    "pascalcontext-fcn8s": lambda name: fcn(name, _CONTEXT, 60, 8),
}


def make_net(name: str) -> caffe_pb2.NetParameter:
    """Build the NetParameter of a reference net. Raises: KeyError for a name that is not in NETS."""
    return NETS[name](name)
