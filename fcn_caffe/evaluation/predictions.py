"""A net's predictions as palette PNGs, under the images' names, or in the layout of the VOC test server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from fcn_caffe.data.readers.image_files import FolderIndex
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.score import data_layer
from fcn_caffe.host import pictures
from fcn_caffe.net.net import Net

__all__ = ["VOC_CLASSES", "VOC_LAYOUT", "PredictionWriter", "check_voc", "voc_writer"]

VOC_LAYOUT = "results/VOC2012/Segmentation/comp6_test_cls"  # comp6: trained on any data
VOC_CLASSES = 21
MOST_CLASSES = 255  # a palette PNG has 256 values, and 255 is void


class PredictionWriter:
    """An `on_answers` of score_heads that writes FOLDER/NAME.png; with several heads FOLDER/HEAD/NAME.png.

    A pixel is a class index in the VOC palette. NAME is the data layer's, or a number where it has none.

    Args:
        net: the net.
        heads: its score blobs.
        folder: where to write.
        only: the classes to choose from, see score_heads.
    Raises:
        DataError: a head has more classes than a palette, a name leads out of the folder, or the net reads its images
            or labels there.
    """

    def __init__(
        self, net: Net, heads: Sequence[str], folder: str | os.PathLike[str], only: Sequence[int] | None = None
    ) -> None:
        self.folder, self.only = Path(folder), only
        self.folders = {head: Path(folder, head) if len(heads) > 1 else Path(folder) for head in heads}
        self.source: Any = data_layer(net)
        self.written = 0
        taken = {os.path.realpath(path) for path in self.folders.values()}
        for index in getattr(self.source, "__dict__", {}).values():
            if isinstance(index, FolderIndex) and os.path.realpath(index.folder) in taken:
                raise DataError(f"{index.folder}: has the {index.what}s that the net reads. Give another folder.")
        for head in heads:
            if net.blob_shapes[head][1] > MOST_CLASSES:
                raise DataError(f"score blob '{head}' has {net.blob_shapes[head][1]} classes: a palette PNG holds 255.")

    def __call__(self, iteration: int, classes: Mapping[str, Tensor]) -> None:
        """Write the predictions of one pass: the classes (N, H, W) of each head."""
        for head, folder in self.folders.items():
            answers = classes[head].cpu().numpy()
            if self.only is not None:
                answers = np.asarray(self.only)[answers]
            for place, answer in enumerate(answers):
                path = folder / f"{self._name(iteration, place, len(answers))}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pictures.save_labels(path, answer)
                self.written += 1

    def _name(self, iteration: int, place: int, batch: int) -> str:
        name = getattr(self.source, "name", None)
        if batch > 1 or not isinstance(name, str):
            return f"{iteration * batch + place:06d}"
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"image name {name!r} leads out of the folder its answer would be written to. Rename it.")
        return name


def voc_writer(
    net: Net, heads: Sequence[str], folder: str | os.PathLike[str], only: Sequence[int] | None = None
) -> PredictionWriter:
    """Return a writer of the VOC test server's layout under `folder`. Raises: DataError, see `check_voc`."""
    check_voc(net, heads)
    return PredictionWriter(net, heads, Path(folder) / VOC_LAYOUT, only)


def check_voc(net: Net, heads: Sequence[str]) -> None:
    """Refuse all heads but one of VOC's 21 classes. Raises: DataError."""
    counts = [net.blob_shapes[head][1] for head in heads]
    if counts != [VOC_CLASSES]:
        listed = ", ".join(map(str, counts))
        raise DataError(f"the VOC test server takes one answer of 21 classes an image, the heads have {listed}.")
