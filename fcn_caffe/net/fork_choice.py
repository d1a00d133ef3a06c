"""Which fork of Caffe a layer is of, where forks mean different things by one type.

The layer's `fork` says it, or the net's (which `Net(fork=…)` and `--fork` write), or its fields, its blobs and its
neighbours do. A layer that still does not know asks, in the error of its `__init__`; nothing is guessed where numbers
differ.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from fcn_caffe.errors import GraphError
from fcn_caffe.host.text import did_you_mean
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.dialect import dialect
from fcn_caffe.proto.upgrade import TO_ASK

__all__ = ["FORKS", "choose_forks", "fork_name", "with_fork"]

_log = logging.getLogger("fcn_caffe.net")

# The names that --fork takes, with the Caffes that they stand for.
FORKS = {
    "bvlc": "BVLC's Caffe 1.0",
    "cob": "COB",
    "crfrnn": "CRF-RNN",
    "davsod": "DAVSOD",
    "deconvnet": "DeconvNet",
    "deeplab": "DeepLab v2",
    "deeplab1": "DeepLab v1",
    "deepskeleton": "DeepSkeleton",
    "enet": "ENet",
    "fast-rcnn": "Fast R-CNN",
    "faster-rcnn": "Faster R-CNN",
    "fcn": "the first release of FCN (longjon's branch)",
    "happynear": "happynear",
    "hed": "HED",
    "icnet": "ICNet",
    "intel": "Intel",
    "nvidia": "NVIDIA",
    "osvos": "OSVOS",
    "pspnet": "PSPNet",
    "ras": "RAS",
    "rcf": "RCF",
    "rfcn": "R-FCN",
    "segnet": "SegNet",
    "ssd": "SSD",
    "tsn": "TSN",
    "yolo": "YOLO ports",
}
_ALIASES = {
    "caffe": "bvlc",
    "crf-rnn": "crfrnn",
    "deeplab-v1": "deeplab1",
    "deeplab-v2": "deeplab",
    "deeplabv1": "deeplab1",
    "deeplabv2": "deeplab",
    "deeplab2": "deeplab",
    "fastrcnn": "fast-rcnn",
    "fasterrcnn": "faster-rcnn",
    "longjon": "fcn",
    "r-fcn": "rfcn",
}
_DERIVING = ("cob", "crfrnn", "deconvnet", "deepskeleton", "fcn", "hed", "ras", "rcf")
# Type -> what `fork` of a layer becomes, with the forks that mean that by it.
_MEANINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "Accuracy": {"segnet": ("segnet", "enet")},
    "BN": {
        "segnet": ("segnet", "enet", "deconvnet"),
        "pspnet": ("pspnet", "icnet", "davsod", "tsn", "happynear", "deeplab"),
    },
    "BatchNorm": {"nvidia": ("nvidia",), "intel": ()},
    "Crop": {"hed": _DERIVING, "bvlc": ("bvlc", "osvos")},
    "DenseImageData": {"segnet": ("segnet",), "enet": ("enet",)},
    "Dropout": {"segnet": (), "fast-rcnn": ()},
    "ImageLabelmapData": {"hed": ("hed",), "rcf": ("rcf",), "deepskeleton": ("deepskeleton",)},
    "ImageSegData": {"deeplab": ("deeplab", "deeplab1", "pspnet", "icnet"), "deconvnet": ("deconvnet",)},
    "Normalize": {"ssd": ("ssd", "nvidia", "intel"), "happynear": ("happynear",)},
    "SigmoidCrossEntropyLoss": {
        "hed": ("hed",),
        "rcf": ("rcf",),
        "deepskeleton": ("deepskeleton",),
        "bvlc": tuple(name for name in FORKS if name not in ("hed", "rcf", "deepskeleton")),
    },
    "SmoothL1Loss": {"fast-rcnn": ("fast-rcnn",), "faster-rcnn": ("faster-rcnn",), "rfcn": ("rfcn",)},
    "SoftmaxWithLoss": {
        "segnet": ("segnet", "enet"),
        "deeplab1": ("deeplab1",),
        "deepskeleton": ("deepskeleton",),
        "bvlc": tuple(name for name in FORKS if name not in ("segnet", "enet", "deeplab1", "deepskeleton")),
    },
}
_BN_FIELDS = (  # in this order: PSPNet's first nets have SegNet's fillers, too
    ("pspnet", ("moving_average", "decay")),
    ("segnet", ("bn_mode", "scale_filler", "shift_filler")),
    ("pspnet", ("slope_filler", "bias_filler", "momentum", "eps", "frozen", "engine")),
)
_BN_BY_COUNT = {2: "segnet", 4: "pspnet"}


def with_fork(
    net: caffe_pb2.NetParameter, fork: str, blob_counts: Mapping[str, int] | None = None
) -> caffe_pb2.NetParameter:
    """Write into an upgraded net what a person and the weights say of its fork.

    Args:
        net: The net, which is changed.
        fork: Its fork; "" for what the command says, or the net itself.
        blob_counts: How many blobs each layer has in the weights.

    Returns:
        The same net.

    Raises:
        GraphError: The fork is not known.
    """
    fork = fork or dialect().fork
    if fork:
        net.fork = fork_name(fork)
    if blob_counts is not None:
        _choose_by_blobs(net, blob_counts)
    return net


def fork_name(text: str, place: str = "") -> str:
    """Return the name in `FORKS` that a text means: "SegNet", "segnet".

    Args:
        text: What a person or a file calls it.
        place: Who says so, for the error.

    Raises:
        GraphError: It means none.
    """
    plain = text.lower().replace("_", "-").replace(" ", "-")
    name = _ALIASES.get(plain, plain)
    if name not in FORKS:
        raise GraphError(f"{place}fork '{text}' is not known.{did_you_mean(name, FORKS)} Known: {', '.join(FORKS)}.")
    return name


def _choose_by_blobs(net: caffe_pb2.NetParameter, counts: Mapping[str, int]) -> None:
    """Let the weights say what the file leaves open, by the blobs that a layer has in them.

    BN has 2 or 4, Normalize 1 in SSD's form. BatchNorm of 5 has a scale and a bias, which Intel's has where the net is
    said to be Intel's; of 4 it is Intel's without a bias.
    """
    for layer in net.layer:
        if layer.type not in ("BN", "BatchNorm", "Normalize"):
            continue
        count = counts.get(layer.name, 0)
        if layer.type == "BN" and not layer.fork and not _bn_by_fields(layer)[0] and count in _BN_BY_COUNT:
            layer.fork = _BN_BY_COUNT[count]
            _log.info("layer '%s': BN as in %s: %d blobs.", layer.name, FORKS[layer.fork], count)
        elif layer.type == "Normalize" and count == 1 and not layer.fork and not _normalize(layer)[0]:
            layer.fork = "ssd"
            _log.info("layer '%s': Normalize as in SSD: 1 blob.", layer.name)
        elif layer.type == "BatchNorm" and (count == 4 or (count == 5 and net.fork == "intel")) and not layer.fork:
            layer.fork = "intel"
            layer.batch_norm_param.bias_term = count == 5
            _log.info("layer '%s': BatchNorm as in Intel: %d blobs.", layer.name, count)
        elif layer.type == "BatchNorm" and count == 5 and not layer.batch_norm_param.HasField("scale_bias"):
            layer.batch_norm_param.scale_bias = True
            _log.info("layer '%s': BatchNorm with scale and bias, as NVIDIA's: 5 blobs.", layer.name)


def choose_forks(net: caffe_pb2.NetParameter) -> None:
    """Write into each layer of an ambiguous type whose it is, where that is said or follows; log a line for each kind.

    Args:
        net: An upgraded net of one phase, which is changed. A plain net of Caffe 1.0 stays as it is.

    Raises:
        GraphError: a `fork` that is not known.
    """
    fork = fork_name(net.fork, f"net '{net.name}': ") if net.fork else ""
    kinds = {layer.type for layer in net.layer}
    said: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for layer in net.layer if kinds & _MEANINGS.keys() else ():
        meanings = _MEANINGS.get(layer.type)
        if meanings is None:
            continue
        if layer.fork not in ("", TO_ASK):
            layer.fork = _meaning(meanings, fork_name(layer.fork, f"layer '{layer.name}': ")) or layer.fork
            continue
        meaning, reason = _FIELDS[layer.type](layer) if layer.type in _FIELDS else ("", "")
        if not meaning and fork:
            meaning, reason = _meaning(meanings, fork), "as asked"
        if not meaning:
            meaning, reason = _from_neighbours(layer, net.layer, kinds)
        if meaning == "bvlc" and fork:
            layer.fork = meaning
        elif meaning not in ("", "bvlc"):  # a plain net stays as it is
            layer.fork = meaning
            said[layer.type, meaning, reason] += 1
    for (kind, meaning, reason), count in said.items():
        if meaning != TO_ASK:
            layers = "1 layer" if count == 1 else f"{count} layers"
            _log.info("net '%s': %s as in %s: %s (%s).", net.name, kind, FORKS[meaning], reason, layers)


def _meaning(meanings: Mapping[str, tuple[str, ...]], fork: str) -> str:
    return next((name for name, forks in meanings.items() if fork in forks), "")


# -- what a layer's own fields say -------------------------------------------------------------------------------------


def _bn_by_fields(layer: caffe_pb2.LayerParameter) -> tuple[str, str]:
    for meaning, fields in _BN_FIELDS:
        for field in fields:
            if layer.bn_param.HasField(field):
                return meaning, field
    return "", ""


def _bn(layer: caffe_pb2.LayerParameter) -> tuple[str, str]:
    if (said := _bn_by_fields(layer))[0]:
        return said
    if len(layer.top) > 1:
        return "segnet", f"{len(layer.top)} tops"
    count = len(layer.blobs)
    return (_BN_BY_COUNT[count], f"{count} blobs") if count in _BN_BY_COUNT else ("", "")


def _bn_by_param(layer: caffe_pb2.LayerParameter) -> tuple[str, str]:
    """Count the `param` blocks: a hint, as PSPNet's last two may be left out. What a person says goes before it."""
    count = len(layer.param)
    return (_BN_BY_COUNT[count], f"{count} param blocks") if count in _BN_BY_COUNT else ("", "")


def _crop(layer: caffe_pb2.LayerParameter) -> tuple[str, str]:
    return ("bvlc", "crop_param") if layer.HasField("crop_param") else ("", "")


def _image_seg_data(layer: caffe_pb2.LayerParameter) -> tuple[str, str]:
    for meaning, options, fields in (
        ("deconvnet", layer.image_data_param, ("has_label", "max_labels", "other_object_label")),
        ("deeplab", layer.transform_param, ("crop_height", "crop_width")),
    ):
        for field in fields:
            if options.HasField(field):
                return meaning, field
    return ("deeplab", "scale_factors") if layer.transform_param.scale_factors else ("", "")


def _smooth_l1(layer: caffe_pb2.LayerParameter) -> tuple[str, str]:
    if len(layer.top) == 2:  # R-FCN does not read sigma: it may be there
        return "rfcn", "2 tops"
    if layer.HasField("loss_param"):
        return "rfcn", "loss_param"
    if len(layer.bottom) == 4:
        return "faster-rcnn", "4 bottoms"
    return ("faster-rcnn", "smooth_l1_loss_param") if layer.HasField("smooth_l1_loss_param") else ("", "")


def _normalize(layer: caffe_pb2.LayerParameter) -> tuple[str, str]:
    if layer.HasField("norm_param"):
        return "ssd", "norm_param"
    if layer.HasField("normalize_param"):
        return "happynear", "normalize_param"
    return ("happynear", "2 tops") if len(layer.top) > 1 else ("", "")


def _softmax_loss(layer: caffe_pb2.LayerParameter) -> tuple[str, str]:
    if layer.HasField("softmaxloss_param"):
        return "deeplab1", "softmaxloss_param"
    options = layer.loss_param
    if options.HasField("weight_by_label_freqs"):
        return "segnet", "weight_by_label_freqs"
    return ("segnet", "class_weighting") if options.class_weighting else ("", "")


def _batch_norm(layer: caffe_pb2.LayerParameter) -> tuple[str, str]:
    """NVIDIA's has a scale where a field asks for one; Intel's has one with its own engines."""
    options = layer.batch_norm_param
    engines = caffe_pb2.BatchNormParameter
    if options.HasField("engine") and options.engine in (engines.MKL2017, engines.MKLDNN):
        return "intel", "its engine"
    if options.scale_bias or options.HasField("scale_filler") or options.HasField("bias_filler"):
        return "nvidia", "scale_bias or its fillers"
    return "", ""


def _dropout(layer: caffe_pb2.LayerParameter) -> tuple[str, str]:
    if layer.dropout_param.HasField("sample_weights_test"):
        return "segnet", "sample_weights_test"
    return ("fast-rcnn", "scale_train") if layer.dropout_param.HasField("scale_train") else ("", "")


_FIELDS: dict[str, Callable[[caffe_pb2.LayerParameter], tuple[str, str]]] = {
    "BN": _bn,
    "BatchNorm": _batch_norm,
    "Crop": _crop,
    "Dropout": _dropout,
    "ImageSegData": _image_seg_data,
    "Normalize": _normalize,
    "SmoothL1Loss": _smooth_l1,
    "SoftmaxWithLoss": _softmax_loss,
}


# -- what its neighbours say -------------------------------------------------------------------------------------------


def _from_neighbours(
    layer: caffe_pb2.LayerParameter, layers: Iterable[caffe_pb2.LayerParameter], kinds: set[str]
) -> tuple[str, str]:
    """Return what a layer is by the others of its net, and why."""
    if layer.type == "BN":
        by_param = _bn_by_param(layer)
        return by_param if by_param[0] else _bn_from_neighbours(layers, kinds)
    if layer.type == "Normalize" and (found := kinds & {"DetectionOutput", "MultiBoxLoss", "PriorBox"}):
        return "ssd", f"{min(found)} in the net"
    if layer.type == "Accuracy":
        return _from_segnet(layers, kinds)
    if layer.type in ("Crop", "SigmoidCrossEntropyLoss", "ImageLabelmapData") and "AutoCrop" in kinds:
        meaning = {"Crop": "hed"}.get(layer.type, "rcf")
        return meaning, "an AutoCrop layer in the net"
    if layer.type == "ImageSegData" and layer.fork == TO_ASK:
        return _image_seg_data_from_neighbours(kinds)
    if layer.type == "Crop" and "ImageLabelmapData" in kinds:
        return "hed", "an ImageLabelmapData layer in the net"
    if layer.type == "SigmoidCrossEntropyLoss" and "SigmoidCrossEntropyBalanceLoss" in kinds:
        return "bvlc", "a SigmoidCrossEntropyBalanceLoss in the net"
    if layer.type in ("SigmoidCrossEntropyLoss", "SoftmaxWithLoss") and "ImageLabelmapData" in kinds:
        return TO_ASK, ""
    return "", ""


def _bn_from_neighbours(layers: Iterable[caffe_pb2.LayerParameter], kinds: set[str]) -> tuple[str, str]:
    """A net is of one fork: the other BN say it; or layers that only one of the two kinds of fork has."""
    others = {_bn(other)[0] or other.fork or _bn_by_param(other)[0] for other in layers if other.type == "BN"} - {""}
    if len(others) == 1:
        return others.pop(), "as other BN of the net"
    segnet, _ = _from_segnet(layers, kinds)
    pspnet = kinds & {"Interp", "SegAccuracy"}
    if segnet and not pspnet:
        return segnet, "its neighbours are SegNet's"
    return ("pspnet", f"{min(pspnet)} in the net") if pspnet and not segnet else ("", "")


def _image_seg_data_from_neighbours(kinds: set[str]) -> tuple[str, str]:
    deconvnet, deeplab = kinds & {"Unpooling", "BN"}, kinds & {"Interp", "SegAccuracy"}
    if deconvnet and not deeplab:
        return "deconvnet", f"{max(deconvnet)} in the net"
    return ("deeplab", f"{min(deeplab)} in the net") if deeplab and not deconvnet else ("", "")


def _from_segnet(layers: Iterable[caffe_pb2.LayerParameter], kinds: set[str]) -> tuple[str, str]:
    if "DenseImageData" in kinds:
        return "segnet", "a DenseImageData layer in the net"
    for other in layers:
        if other.type == "BN" and (_bn(other)[0] or other.fork or _bn_by_param(other)[0]) == "segnet":
            return "segnet", "SegNet's BN in the net"
        if other.type == "Upsample" and len(other.bottom) == 2:
            return "segnet", "SegNet's Upsample in the net"
        if other.type == "SoftmaxWithLoss" and _softmax_loss(other)[0] == "segnet":
            return "segnet", "SegNet's class weights in the net"
    return "", ""
