"""The preprocessing of a net's data layer, compared with the record beside its weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fcn_caffe.data.readers.labels import read_classes, read_colors
from fcn_caffe.data.readers.mean_image import read_mean_image
from fcn_caffe.data.sets.options import parse_param_str, read_mean
from fcn_caffe.errors import DataError, WeightsError
from fcn_caffe.evaluation.score import class_names, heads
from fcn_caffe.host.paths import Paths, Surroundings
from fcn_caffe.host.pictures import palette
from fcn_caffe.layers.python import find_module
from fcn_caffe.models.published import PUBLISHED
from fcn_caffe.net.graph import read_net
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.weights.formats import format_of
from fcn_caffe.weights.record import PathLike, Preprocessing, differences, read_preprocessing, sha256_of

__all__ = [
    "check_preprocessing",
    "class_card",
    "known_preprocessing",
    "net_preprocessing",
    "photograph_mean",
    "picture_mean",
    "source_preprocessing",
    "trained_preprocessing",
]

# Read as BGR; databases hold what was put there.
_CAFFE_IMAGES = ("DenseImageData", "ImageData", "ImageLabelmapData", "ImageSegData", "WindowData")
_PHOTOGRAPHS = ("data", "color")  # what Python data layers call the top that is one
_DATA = (*_CAFFE_IMAGES, "Data", "MemoryData")


def known_preprocessing(weights: PathLike, sha256: str = "") -> Preprocessing:
    """Return the preprocessing of a published file, found by its checksum or name in weights/MANIFEST.toml."""
    name = os.path.basename(os.fspath(weights))
    files = [file for file in PUBLISHED.values() if sha256 and file.sha256 == sha256]
    files += [file for file in PUBLISHED.values() if name in (file.file, file.published)]
    return _from_words(files[0].preprocessing) if files else Preprocessing()


def source_preprocessing(weights: PathLike) -> Preprocessing:
    """Return the record of weights that are made from a file: what its record says, over what is known of it.

    Raises:
        WeightsError: the file or its record cannot be read.
    """
    checksum = sha256_of(weights)
    known = known_preprocessing(weights, checksum).with_facts_of(read_preprocessing(weights) or Preprocessing())
    return replace(known, source=os.path.basename(weights), sha256=checksum, format=format_of(weights).name)


def _from_words(words: str) -> Preprocessing:
    """Read the manifest's words, as `BGR, mean 104 117 123, no scaling`; several kinds of inputs have none."""
    match = re.fullmatch(r"(BGR|RGB), mean ([\d.]+(?: [\d.]+)*)(, no scaling)?", words)
    if match is None:
        return Preprocessing()
    return Preprocessing(match[1], tuple(float(value) for value in match[2].split()), scale=1.0)


# -- nets ----------------------------------------------------------------------------------------------------------


def net_preprocessing(
    net: PathLike,
    paths: Paths | None = None,
    *,
    phases: Iterable[int] = (TEST, TRAIN),
    stages: Sequence[str] = (),
) -> Preprocessing:
    """Return the preprocessing of a net's first data layer in TEST, else in TRAIN. No data is read.

    A Python layer is known by its mean. The classes are those of `classes.txt` beside the net. A net with Input layers
    alone has no preprocessing.

    Args:
        net: the net's file.
        paths: what relative paths start from.
        phases: the phases to look in, in this order.
        stages: the stages that the net is built for.
    Raises:
        PrototxtError: the net cannot be read.
        DataError: options or a mean file cannot be read.
    """
    paths = paths or Paths()
    place, preprocessing = paths.from_root(net), Preprocessing()
    for phase in phases:
        for layer in read_net(place, phase, stages).layer:
            if not layer.bottom and preprocessing == Preprocessing():
                preprocessing = _data_layer(layer, place, paths)
    card = class_card(place)
    return preprocessing if card is None else preprocessing.with_facts_of(card)


def class_card(net: Path | None) -> Preprocessing | None:
    """Return the classes and colours that `classes.txt` beside a net's file names; None where there is no such file."""
    card = None if net is None else net.parent / "classes.txt"
    if card is None or not card.is_file():
        return None
    names, colors = tuple(read_classes(card)), read_colors(card)
    is_voc = colors is None or np.array_equal(colors, palette(len(names)))
    return Preprocessing(classes=names, colors=None if colors is None or is_voc else tuple(colors))


def trained_preprocessing(net: Net, starts: Iterable[PathLike] = ()) -> Preprocessing:
    """Return the preprocessing of the weights that training a net makes, for the record beside them.

    Mean, scale and channel order are those of the net's data layer. The classes are those of `classes.txt` beside the
    net's file, else the data layer's own, where they are as many as a score blob has channels. What the net does not
    say of channel order and classes is as with the weights that training starts from; classes only if they are as
    many.

    Args:
        net: the net that is trained, as built.
        starts: the weight files that training starts from, the first first.
    Raises:
        DataError: options or a mean file cannot be read.
        WeightsError: a record beside a weight file cannot be read.
    """
    known = Preprocessing()
    for step in net.steps:
        if not step.bottoms and known == Preprocessing():
            paths = step.layer.surroundings.paths
            known = _data_layer(step.node.param, net.path or paths.root / "net", paths)
    counts = {net.blob_shapes[score][1] for score in heads(net)}
    known = known.with_facts_of(_trained_classes(net, counts))
    for record in filter(None, map(read_preprocessing, starts)):
        if known.channel_order is None:
            known = replace(known, channel_order=record.channel_order)
        if known.classes is None and record.classes is not None and len(record.classes) in counts:
            known = replace(known, classes=record.classes, colors=record.colors)
    return known


def _trained_classes(net: Net, counts: Iterable[int]) -> Preprocessing:
    """Return the classes of a net whose score blobs have so many channels."""
    card = class_card(net.path)
    if card is not None:  # of another number, it contradicts the net, and no other names are sure either
        return card if card.classes is not None and len(card.classes) in counts else Preprocessing()
    names = next(filter(None, (class_names(net, count) for count in sorted(counts, reverse=True))), None)
    return Preprocessing(classes=None if names is None else tuple(names))


def _data_layer(layer: caffe_pb2.LayerParameter, net: Path, paths: Paths) -> Preprocessing:
    """Return the preprocessing of one data layer: Caffe's (image - mean) * scale, or image - mean of a Python layer."""
    if layer.type == "Python":
        known = photograph_mean(layer, net)
        return Preprocessing() if known is None else Preprocessing("BGR", known, scale=1.0)
    if layer.type not in _DATA:
        return Preprocessing()
    options = layer.transform_param
    mean, mean_file = tuple(options.mean_value), None
    if options.mean_file:
        mean_file = options.mean_file
        mean = file_mean(mean_file, Surroundings(paths, net.parent))
    return Preprocessing("BGR" if layer.type in _CAFFE_IMAGES else None, mean, mean_file, float(options.scale))


def file_mean(path: PathLike, surroundings: Surroundings | None = None) -> tuple[float, ...]:
    """Return the mean of each channel of a mean image (.binaryproto). Raises: DataError."""
    return tuple(float(value) for value in read_mean_image(path, surroundings).mean((1, 2), dtype=float))


def photograph_mean(layer: caffe_pb2.LayerParameter, net: PathLike) -> tuple[float, ...] | None:
    """What a Python data layer subtracts from photographs, BGR, by its param_str, class or module; None if unknown.

    Layers that give something else first (`tops` of param_str or the layer's own: hha, depth) have none.
    Raises: DataError for options that cannot be read.
    """
    who = f"{os.fspath(net)}: layer '{layer.name}'"
    options = parse_param_str(layer.python_param.param_str, who)
    tops = list(options.get("tops") or layer.top)
    if not tops or tops[0] not in _PHOTOGRAPHS:
        return None
    mean = options.get("mean")
    if mean is None:
        module = find_module(layer.python_param.module, Path(net).parent)
        cls = getattr(module, layer.python_param.layer, None)
        mean = getattr(cls, "defaults", {}).get("mean")
        if mean is None:
            mean = getattr(module, "MEAN", None)
    return None if mean is None else read_mean(mean, who)


def picture_mean(layer: caffe_pb2.LayerParameter, net: PathLike, paths: Paths) -> tuple[float, ...] | None:
    """Return what a layer that reads image files subtracts from them, for B, G and R; None for another layer.

    Raises:
        DataError: the layer scales its images, which `infer` does not; or the mean file cannot be read.
    """
    if layer.type not in _CAFFE_IMAGES:
        return None
    known = _data_layer(layer, Path(net), paths)
    if known.scale != 1:
        raise DataError(
            f"{os.fspath(net)}: layer '{layer.name}' ({layer.type}) multiplies images by scale {known.scale:g}; only a "
            "mean can be subtracted here. Fold the scale into the first convolution's weights, or run the net yourself."
        )
    mean = known.mean or (0.0,)
    return mean if len(mean) == 3 else mean * 3


def check_preprocessing(
    weights: PathLike,
    net: PathLike,
    mean: Sequence[float] | None = None,
    starts: bool = False,
    *,
    paths: Paths | None = None,
    trains: bool = False,
    stages: Sequence[str] = (),
) -> None:
    """Refuse weights whose record contradicts a net's data layer, or `mean` where it replaces that layer's mean.

    Args:
        weights: the weight file.
        net: the net's file.
        mean: what is subtracted in place of the data layer's mean.
        starts: whether the weights are only what training starts from, see `differences`.
        paths: what relative paths start from.
        trains: whether the data layer is the one in TRAIN, if there is one; else the one in TEST.
        stages: the stages that the net is built for.
    Raises:
        WeightsError: names both files and each difference; nothing for weights without a record.
    """
    weights = (paths or Paths()).from_root(weights)
    record = read_preprocessing(weights)
    if record is not None:
        phases = (TRAIN, TEST) if trains else (TEST, TRAIN)
        refuse_differences(record, net, weights, mean, starts, paths=paths, phases=phases, stages=stages)


def refuse_differences(
    record: Preprocessing,
    net: PathLike,
    weights: PathLike,
    mean: Sequence[float] | None = None,
    starts: bool = False,
    *,
    paths: Paths | None = None,
    phases: Iterable[int] = (TEST, TRAIN),
    stages: Sequence[str] = (),
) -> None:
    """Raise a WeightsError where a record contradicts a net's data layer."""
    try:
        theirs = net_preprocessing(net, paths, phases=phases, stages=stages)
    except DataError:
        if mean is None:
            raise
        theirs = Preprocessing()
    if mean is not None:
        theirs = replace(theirs, mean=tuple(mean), mean_file=None)
    refuse_other_inputs(record, theirs, weights, net, starts)


def refuse_other_inputs(
    record: Preprocessing, theirs: Preprocessing, weights: PathLike, net: PathLike, starts: bool = False
) -> None:
    """Raise a WeightsError where the record of weights contradicts the inputs that a net gives."""
    contradictions = differences(record, theirs, starts)
    if contradictions:
        raise WeightsError(
            f"{os.fspath(weights)}: was made for other inputs than {os.fspath(net)} gives: "
            f"{'; '.join(contradictions)}. "
            "Change the net's data layer or the record; --ignore-preprocessing goes on as it is."
        )
