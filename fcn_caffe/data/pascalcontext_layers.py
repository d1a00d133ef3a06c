"""PASCAL-Context: every pixel of VOC 2010 labelled; 59 classes picked by name out of 459, and background 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fcn_caffe.data.image_files import image_blob, label_blob
from fcn_caffe.data.image_layer import Blob
from fcn_caffe.data.reference import COMMON, ReferenceLayer, read_mat
from fcn_caffe.errors import DataError

__all__ = ["PASCALContextSegDataLayer"]

MEAN = (104.007, 116.669, 122.679)
# Names of the 59 that the list of 459 spells otherwise.
_OTHER_SPELLING = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}


class PASCALContextSegDataLayer(ReferenceLayer):
    """PASCAL-Context. Tops: data (1, 3, H, W) BGR minus mean, label (1, 1, H, W), 0 (background) to 59.

    param_str: voc_dir (holds VOC2010), context_dir (holds trainval, labels.txt, 59_labels.txt), split, randomize, seed.
    Raises: DataError naming what is missing and where to get it. Source: the reference's pascalcontext_layers.
    """

    required = ("voc_dir", "context_dir")
    defaults: ClassVar[Mapping[str, Any]] = COMMON
    folder_option = "context_dir"
    origin = "PASCAL-Context of cs.stanford.edu/~roozbeh/pascal-context, and VOC 2010 from host.robots.ox.ac.uk"

    def open(self) -> list[str]:
        self.context = self.folder()
        self.voc = self.folder("voc_dir") / "VOC2010"
        self.mean = self.mean_option(MEAN)
        all_labels, task = self._names("labels.txt"), self._names("59_labels.txt")
        index_of = {name: index for index, name in all_labels.items()}
        self._class_of = np.zeros(max(all_labels, default=0) + 1, dtype=np.uint8)
        for number, name in enumerate(task.values(), 1):
            source = index_of.get(_OTHER_SPELLING.get(name, name), index_of.get(name, -1))
            if source < 0:
                raise DataError(f"{self.context}/59_labels.txt: class {name!r} is not in labels.txt.")
            self._class_of[source] = number
        return self.split_names(self.voc / "ImageSets" / "Main" / f"{self.options['split']}.txt")

    def _names(self, file: str) -> dict[int, str]:
        path = Path(self.context, file)
        names: dict[int, str] = {}
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error}). Get it: {self.origin}.") from error
        for number, line in enumerate(lines, 1):
            index, colon, name = line.partition(":")
            if not line.strip():
                continue
            if not colon or not index.strip().isdigit():
                raise DataError(f"{path}:{number}: expected `INDEX: NAME`, got {line!r}.")
            names[int(index)] = name.replace(" ", "")
        return names

    def load(self, index: int) -> tuple[Blob, Blob]:
        # Lists of ImageSets/Main may carry a second column, +1 or -1 for a class.
        name = self.names[index].split()[0]
        path = self.context / "trainval" / f"{name}.mat"
        source = read_mat(path, "LabelMap").astype(np.int64)
        if source.size and (source.min() < 0 or source.max() >= len(self._class_of)):
            raise DataError(f"{path}: labels run to {source.max()}, labels.txt ends at {len(self._class_of) - 1}.")
        label = self._class_of[source]
        return image_blob(self.image(self.voc / "JPEGImages" / f"{name}.jpg"), self.mean), label_blob(label)
