"""Weights of classes in the loss: by median frequency or from a file, as the matrix H of Caffe's InfogainLoss."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fcn_caffe.data.readers.labels import read_rules
from fcn_caffe.errors import DataError
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.blob_file import read_blob

__all__ = ["median_frequency_weights", "read_class_weights", "weigh_classes"]


def median_frequency_weights(counts: Sequence[int], shown_in: Sequence[int], power: float = 1) -> list[float]:
    """Return a weight for each class: the median of the classes' frequencies over its own; 0 where it has no pixel.

    A class's frequency is its pixels over all pixels of the images that show it. Source: Eigen and Fergus, ICCV 2015,
    section 5.2; Badrinarayanan et al., SegNet, section 3.1.

    Args:
        counts: The pixels of each class.
        shown_in: All pixels of the images that show it.
        power: What each weight is raised to: between 0, which weighs all alike, and 1.
    """
    frequencies = [count / pixels if count else 0.0 for count, pixels in zip(counts, shown_in, strict=True)]
    present = sorted(frequency for frequency in frequencies if frequency)
    if not present:
        return [1.0] * len(counts)
    median = float(np.median(present))
    return [round((median / frequency) ** power, 4) if frequency else 0.0 for frequency in frequencies]


def read_class_weights(path: Path, names: Sequence[str]) -> list[float]:
    """Read `NAME: WEIGHT` or `INDEX: WEIGHT` lines, or the diagonal of a binary BlobProto, Caffe's own form of H.

    Raises:
        DataError: A class has no weight or two, or a weight is no number from 0.
    """
    if path.suffix == ".binaryproto":
        matrix = read_blob(path)
        if matrix.size != len(names) ** 2:
            raise DataError(
                f"{path}: H has {matrix.size} numbers, {len(names)} classes have {len(names) ** 2}. Make another."
            )
        square = matrix.reshape(len(names), len(names))
        if np.count_nonzero(square - np.diag(np.diag(square))):
            raise DataError(f"{path}: H is not diagonal: name it in the net by hand, infogain_loss_param {{ source }}.")
        return _checked([float(weight) for weight in np.diag(square)], path)
    weights: dict[str, float] = {}
    for number, rule, line in read_rules(path, "class weights"):
        key, _, value = (part.strip() for part in rule.rpartition(":"))
        name = names[int(key)] if re.fullmatch(r"\d+", key) and key not in names and int(key) < len(names) else key
        if name not in names or name in weights or not re.fullmatch(r"\d*\.?\d+(e-?\d+)?", value):
            raise DataError(f"{path}:{number}: expected `NAME: WEIGHT`, once a class, got {line!r:.60}.")
        weights[name] = float(value)
    missing = [name for name in names if name not in weights]
    if missing:
        raise DataError(f"{path}: has no weight of {', '.join(missing[:5])}. Add a line for each class.")
    return _checked([weights[name] for name in names], path)


def _checked(weights: list[float], path: Path) -> list[float]:
    if not all(0 <= weight < 1e6 for weight in weights) or not any(weights):
        raise DataError(f"{path}: class weights should be numbers from 0, and one above, got {weights[:5]}.")
    return weights


def weigh_classes(net: caffe_pb2.NetParameter, source: str, scored: bool = False) -> caffe_pb2.NetParameter:
    """Copy a net so that its softmax losses weigh classes by the matrix H in a file.

    Args:
        net: The net.
        source: The file, as the net names it.
        scored: Whether the plain loss stays in the TEST phase, so that scores are what they were. Otherwise it is
            replaced in both phases.
    """
    weighed = caffe_pb2.NetParameter()
    weighed.CopyFrom(net)
    weighed.ClearField("layer")
    for layer in net.layer:
        if layer.type != "SoftmaxWithLoss":
            weighed.layer.add().CopyFrom(layer)
            continue
        infogain = weighed.layer.add()
        infogain.CopyFrom(layer)
        infogain.type = "InfogainLoss"
        infogain.infogain_loss_param.source = source
        if layer.loss_param.normalize:  # InfogainLoss takes the newer form alone
            infogain.loss_param.ClearField("normalize")
            infogain.loss_param.normalization = caffe_pb2.LossParameter.VALID
        if scored:
            plain = weighed.layer.add()
            plain.CopyFrom(layer)
            for each, phase in ((infogain, caffe_pb2.TRAIN), (plain, caffe_pb2.TEST)):
                for field in ("include", "exclude"):
                    each.ClearField(field)
                each.include.add(phase=phase, not_stage=["deploy"])
    return weighed
