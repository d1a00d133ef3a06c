"""The files of weights/ compared with what is known of the published ones: checksum, size, and layers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fcn_caffe.errors import WeightsError
from fcn_caffe.models.nets import make_net
from fcn_caffe.models.published import PUBLISHED, Published
from fcn_caffe.weights.record import checksum_of, read_preprocessing
from fcn_caffe.weights.transfer import Weights, load_weights

__all__ = ["Verified", "verify_weights"]

_WITH_WEIGHTS = ("Convolution", "Deconvolution", "InnerProduct")


@dataclass(frozen=True)
class Verified:
    """What was found of one file of the manifest.

    Attributes:
        file: where it is, or would be.
        state: "right": it is the published file. "whole": it has the layers that it should, and the published file's
            checksum is not known. "other": it has them, and is not the published file. "wrong", "missing", or "there",
            where it was not read.
        text: more of it, in words.
    """

    file: Path
    state: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.state}: {self.text}"


def verify_weights(folder: str | os.PathLike[str], read: bool = True) -> Iterator[Verified]:
    """Look at each file of the manifest in a folder, under its name there or the one it was published under.

    Args:
        folder: the folder, `weights`.
        read: whether to read the files, or only to say which are there.
    """
    for entry in PUBLISHED.values():
        paths = [path for name in (entry.file, entry.published) if (path := Path(folder) / name).exists()]
        for path in paths:
            yield _verify(path, entry) if read else Verified(path, "there", entry.what)
        if not paths:
            yield Verified(Path(folder) / entry.file, "missing", f"{entry.what}: {entry.origin}")


def _verify(path: Path, entry: Published) -> Verified:
    """Compare a file with the published one, and where it is another one, its layers with the net's."""
    again = f"Remove it, and {entry.origin}."
    try:
        kind, difference = _compare(path, entry)
        if kind and not difference:
            return Verified(path, "right", f"is the published file, by its {kind}")
        record, lacking = read_preprocessing(path), _lacking(load_weights(path), entry)
    except WeightsError as error:
        return Verified(path, "wrong", f"{str(error).removeprefix(f'{path}: ')} {again}")
    if lacking:
        return Verified(path, "wrong", f"{entry.net} has other layers {', '.join(lacking)}. {again}")
    if not kind and record is None:
        return Verified(path, "whole", f"has the layers of {entry.net}; no checksum of the published file is known")
    if record is not None:
        made = f"made from {record.source}" if record.source else "trained here"
        return Verified(path, "other", f"{made}, as its record says; has the layers of {entry.net}")
    if kind == "size" and path.name == entry.file:  # as nets by surgery in Caffe, or trained there
        return Verified(path, "other", f"has the layers of {entry.net}; {difference}")
    return Verified(path, "wrong", f"{difference}. {again}")


def _compare(path: Path, entry: Published) -> tuple[str, str]:
    """Compare a file with what is known of the published one.

    Returns:
        What was compared: "size", "SHA-256", "SHA-1", or nothing; and how the file differs, if it does.
    Raises:
        WeightsError: the file cannot be read.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: is no file.")
    size = path.stat().st_size
    if entry.size and size != entry.size:
        return "size", f"it has {size} bytes, the published file {entry.size}"
    kind, wanted = ("SHA-256", entry.sha256) if entry.sha256 else ("SHA-1", entry.sha1)
    if not wanted:
        return "", ""
    found = checksum_of(path, kind.replace("-", "").lower())
    return kind, "" if found == wanted else f"its {kind} is {found}, the published file's {wanted}"


def _lacking(weights: Weights, entry: Published) -> list[str]:
    """Return the layers of the net that weights lack, or have with other outputs; of a classifier's not the scores."""
    lacking = []
    for layer in make_net(entry.net).layer:
        is_new = entry.is_classifier and layer.name.startswith(("score", "upscore"))
        if layer.type not in _WITH_WEIGHTS or is_new:
            continue
        first = next(iter(weights.get(layer.name, ())), None)
        outputs = layer.convolution_param.num_output or layer.inner_product_param.num_output
        # Which axis it is differs by layer type, and in files of old Caffes.
        if outputs not in getattr(first, "shape", ()):
            lacking.append(layer.name)
    return lacking
