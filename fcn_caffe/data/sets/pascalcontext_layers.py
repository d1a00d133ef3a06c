"""PASCAL-Context: every pixel of VOC 2010 labelled; 59 classes picked by name out of 459, and background 0."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fcn_caffe.data.readers.labels import check_labels
from fcn_caffe.data.sets.one_image_layer import Array
from fcn_caffe.data.sets.reference_layer import COMMON, ReferenceLayer, as_label, load_bgr, read_mat
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import refuse_endless

__all__ = ["LABEL_CLASSES", "PASCALContextSegDataLayer"]

MEAN = (104.007, 116.669, 122.679)
LABEL_CLASSES = (60,)  # of each label top; their names come with the data set
# Names of the 59 that the list of 459 spells otherwise.
OTHER_SPELLING = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}


class PASCALContextSegDataLayer(ReferenceLayer, complete=True):
    """PASCAL-Context.

    Tops: data (1, 3, H, W) BGR minus mean, label (1, 1, H, W), 0 (background) to 59.

    param_str: voc_dir (holds VOC2010), context_dir (holds trainval, labels.txt, 59_labels.txt), split, mean, randomize,
    seed, prefetch.
    Raises: DataError naming what is missing and where to get it.
    Source: the reference's pascalcontext_layers.
    """

    required = ("voc_dir", "context_dir")
    defaults: ClassVar[Mapping[str, Any]] = COMMON
    folder_option = "context_dir"
    data_set = "pascal-context"
    origin = "PASCAL-Context of cs.stanford.edu/~roozbeh/pascal-context, and VOC 2010 from host.robots.ox.ac.uk"

    def open(self) -> list[str]:
        self.context_dir, self.voc_dir = self.folder(), str(Path(self.folder("voc_dir"), "VOC2010"))
        self.mean = self.mean_option(np.array(MEAN, np.float32))
        self.labels_400, self.labels_59 = self._names("labels.txt"), self._names("59_labels.txt")
        spelt = OTHER_SPELLING
        self.labels_59 = [spelt[name] if spelt.get(name) in self.labels_400 else name for name in self.labels_59]
        for name in self.labels_59:
            if name not in self.labels_400:
                raise DataError(
                    f"{self.context_dir}/59_labels.txt: class {name!r} is not in labels.txt. Correct one of the two."
                )
        return self.split_names(Path(self.voc_dir, "ImageSets", "Main", f"{self.split}.txt"))

    def _names(self, file: str) -> list[str]:
        path = Path(self.context_dir, file)
        try:
            return read_names(path, numbered=file == "labels.txt")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}). Get it: {self.origin}.") from error

    def load_image(self, idx: str) -> Array:
        return load_bgr(Path(self.voc_dir, "JPEGImages", f"{idx}.jpg"), self.mean)

    def load_label(self, idx: str) -> Array:
        path = Path(self.context_dir, "trainval", f"{idx}.mat")
        stored = read_mat(path, "LabelMap").astype(np.int64)
        check_labels(stored, len(self.labels_400) + 1, None, path)
        task_of = np.zeros(len(self.labels_400) + 1, np.uint8)
        for number, name in enumerate(self.labels_59, 1):
            task_of[self.labels_400.index(name) + 1] = number
        return as_label(task_of[stored])


def read_names(path: Path, *, numbered: bool) -> list[str]:
    """Read a list of classes, `INDEX: NAME` a line; blanks of names are left out.

    `numbered`: whether the indices are those of pixels, which count from 1; else only the order of lines matters.

    Raises:
        DataError: with file:line.
        OSError: .
    """
    names: list[str] = []
    try:
        refuse_endless(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text ({error}). It should list `INDEX: NAME`, one a line.") from error
    for number, line in enumerate(lines, 1):
        index, colon, name = line.partition(":")
        if not line.strip():
            continue
        if not colon or not re.fullmatch("[0-9]{1,9}", index.strip()):
            raise DataError(f"{path}:{number}: expected `INDEX: NAME`, got {line!r}.")
        if numbered and int(index) != len(names) + 1:
            raise DataError(f"{path}:{number}: expected index {len(names) + 1}, got {index.strip()}: classes in order.")
        names.append(name.replace(" ", "").strip())
    return names
