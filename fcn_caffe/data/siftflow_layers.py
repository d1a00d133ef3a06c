"""SIFT Flow: outdoor scenes labelled twice, with 33 semantic and 3 geometric classes, void 255."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fcn_caffe.data.image_files import image_blob, label_blob
from fcn_caffe.data.image_layer import Blob
from fcn_caffe.data.labels import check_labels
from fcn_caffe.data.reference import COMMON, ReferenceLayer, read_mat

__all__ = ["CLASSES", "SIFTFlowSegDataLayer"]

MEAN = (114.578, 115.294, 108.353)
CLASSES = (
    *("awning", "balcony", "bird", "boat", "bridge", "building", "bus", "car", "cow", "crosswalk", "desert", "door"),
    *("fence", "field", "grass", "moon", "mountain", "person", "plant", "pole", "river", "road", "rock", "sand", "sea"),
    *("sidewalk", "sign", "sky", "staircase", "streetlight", "sun", "tree", "window"),
)
_SCENES = "spatial_envelope_256x256_static_8outdoorcategories"


class SIFTFlowSegDataLayer(ReferenceLayer):
    """SIFT Flow. Tops: data (1, 3, H, W) BGR minus mean, sem (1, 1, H, W) 0 to 32, geo (1, 1, H, W) 0 to 2; void 255.

    param_str: siftflow_dir, split (trainval or test), randomize, seed.
    Raises: DataError naming what is missing and where to get it. Source: the reference's siftflow_layers.
    """

    required = ("siftflow_dir",)
    defaults: ClassVar[Mapping[str, Any]] = COMMON
    top_names = ("data", "sem", "geo")
    folder_option = "siftflow_dir"
    origin = "SiftFlowDataset.zip of Tighe and Lazebnik's SuperParsing page, and the reference's trainval/test lists"

    def open(self) -> list[str]:
        self.root = self.folder()
        self.mean = self.mean_option(MEAN)
        return self.split_names(self.root / f"{self.options['split']}.txt")

    def load(self, index: int) -> tuple[Blob, Blob, Blob]:
        name = self.names[index]
        image = image_blob(self.image(self.root / "Images" / _SCENES / f"{name}.jpg"), self.mean)
        return image, self._label("SemanticLabels", name, 33), self._label("GeoLabels", name, 3)

    def _label(self, folder: str, name: str, classes: int) -> Blob:
        path = self.root / folder / _SCENES / f"{name}.mat"
        label = read_mat(path, "S").astype(np.int64)
        # Void is 0 in the semantic and -1 in the geometric labels; classes count from 1.
        label = np.where(label < 1, 255, label - 1)
        check_labels(label, classes, 255, path)
        return label_blob(label)
