"""SIFT Flow: outdoor scenes labelled twice, with 33 semantic and 3 geometric classes, void 255."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fcn_caffe.data.readers.labels import check_labels
from fcn_caffe.data.sets.one_image_layer import Array
from fcn_caffe.data.sets.reference_layer import COMMON, ReferenceLayer, as_label, load_bgr, read_mat
from fcn_caffe.errors import DataError

__all__ = ["CLASSES", "LABEL_CLASSES", "SIFTFlowSegDataLayer"]

MEAN = (114.578, 115.294, 108.353)
CLASSES = (
    *("awning", "balcony", "bird", "boat", "bridge", "building", "bus", "car", "cow", "crosswalk", "desert", "door"),
    *("fence", "field", "grass", "moon", "mountain", "person", "plant", "pole", "river", "road", "rock", "sand", "sea"),
    *("sidewalk", "sign", "sky", "staircase", "streetlight", "sun", "tree", "window"),
)
SCENES = "spatial_envelope_256x256_static_8outdoorcategories"
# Label type -> folder, number of classes, the value of void besides 0.
LABELS = {"semantic": ("SemanticLabels", 33, None), "geometric": ("GeoLabels", 3, -1)}
LABEL_CLASSES = tuple(classes for _, classes, _ in LABELS.values())  # of each label top


class SIFTFlowSegDataLayer(ReferenceLayer, complete=True):
    """SIFT Flow.

    Tops: data (1, 3, H, W) BGR minus mean, sem (1, 1, H, W) 0 to 32, geo (1, 1, H, W) 0 to 2; void 255.

    param_str: siftflow_dir, split (trainval or test), mean, randomize, seed, prefetch.
    Raises: DataError naming what is missing and where to get it.
    Source: the reference's siftflow_layers.
    """

    leaves_out_absent = True  # as the paper's numbers for SIFT Flow do
    required = ("siftflow_dir",)
    defaults: ClassVar[Mapping[str, Any]] = COMMON
    top_names = ("data", "sem", "geo")
    folder_option = "siftflow_dir"
    data_set = "siftflow"
    origin = "SiftFlowDataset.zip of Tighe and Lazebnik's SuperParsing page, and the reference's trainval/test lists"

    def open(self) -> list[str]:
        self.siftflow_dir, self.mean = self.folder(), self.mean_option(np.array(MEAN, np.float32))
        return self.split_names(Path(self.siftflow_dir, f"{self.split}.txt"))

    def load_tops(self, idx: str) -> tuple[Array, Array, Array]:
        return self.load_image(idx), self.load_label(idx, "semantic"), self.load_label(idx, "geometric")

    def show(self, arrays: Sequence[Array]) -> None:
        self.data, self.label_semantic, self.label_geometric = arrays

    def top_arrays(self) -> tuple[Array, Array, Array]:
        return self.data, self.label_semantic, self.label_geometric

    def load_image(self, idx: str) -> Array:
        return load_bgr(Path(self.siftflow_dir, "Images", SCENES, f"{idx}.jpg"), self.mean)

    def load_label(self, idx: str, label_type: str | None = None) -> Array:
        """Read the semantic or the geometric label of the image called `idx`, (1, H, W) uint8, void 255."""
        if label_type not in LABELS:
            raise DataError(f"{self.who}: unknown label type {label_type!r}. Pick {' or '.join(LABELS)}.")
        folder, classes, void = LABELS[label_type]
        path = Path(self.siftflow_dir, folder, SCENES, f"{idx}.mat")
        stored = read_mat(path, "S")
        check_labels(stored, classes + 1, void, path)
        # Classes count from 1; 0, and -1 among the geometric labels, is void.
        return as_label(np.where(stored < 1, 255, stored.astype(np.int64) - 1))
