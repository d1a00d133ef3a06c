"""PASCAL VOC and SBD (Hariharan's extra labels): 20 classes and background, void 255."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fcn_caffe.data.readers.image_files import VGG_MEAN
from fcn_caffe.data.readers.labels import check_labels, read_label
from fcn_caffe.data.sets.one_image_layer import Array
from fcn_caffe.data.sets.reference_layer import COMMON, ReferenceLayer, as_label, load_bgr, read_mat, stored_size

__all__ = ["CLASSES", "SBDDSegDataLayer", "VOCSegDataLayer"]

MEAN = VGG_MEAN
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class VOCSegDataLayer(ReferenceLayer, complete=True):
    """PASCAL VOC segmentation.

    Tops: data (1, 3, H, W) BGR minus mean, label (1, 1, H, W), 0 to 20 and 255.

    param_str: voc_dir, split (a file of ImageSets/Segmentation, such as seg11valid), mean, randomize, seed, prefetch.
    Raises: DataError naming what is missing and where to get it.
    Source: the reference's voc_layers.
    """

    required = ("voc_dir",)
    defaults: ClassVar[Mapping[str, Any]] = COMMON
    folder_option = "voc_dir"
    data_set = "voc2011"
    origin = (
        "host.robots.ox.ac.uk/pascal/VOC, VOCtrainval_25-May-2011.tar or VOCtrainval_11-May-2012.tar; its "
        "VOCdevkit/VOC20xx is the folder"
    )

    def open(self) -> list[str]:
        self.voc_dir, self.mean = self.folder(), self.mean_option(MEAN)
        return self.split_names(Path(self.voc_dir, "ImageSets", "Segmentation", f"{self.split}.txt"))

    def size_of(self, idx: str) -> tuple[int, int]:
        return stored_size(Path(self.voc_dir, "JPEGImages", f"{idx}.jpg"))

    def load_image(self, idx: str) -> Array:
        return load_bgr(Path(self.voc_dir, "JPEGImages", f"{idx}.jpg"), self.mean)

    def load_label(self, idx: str) -> Array:
        path = Path(self.voc_dir, "SegmentationClass", f"{idx}.png")
        label = read_label(path)
        check_labels(label, len(CLASSES), 255, path)
        return as_label(label)


class SBDDSegDataLayer(ReferenceLayer, complete=True):
    """SBD segmentation: the VOC classes on 11,355 images. Tops as VOCSegDataLayer.

    param_str: sbdd_dir (holds img, cls and the split files), split, mean, randomize, seed, prefetch.
    Raises: DataError naming what is missing and where to get it.
    Source: the reference's voc_layers.
    """

    required = ("sbdd_dir",)
    defaults: ClassVar[Mapping[str, Any]] = COMMON
    folder_option = "sbdd_dir"
    data_set = "sbd"
    origin = "the Semantic Boundaries Dataset, benchmark.tgz of Berkeley; its benchmark_RELEASE/dataset is the folder"

    def open(self) -> list[str]:
        self.sbdd_dir, self.mean = self.folder(), self.mean_option(MEAN)
        return self.split_names(Path(self.sbdd_dir, f"{self.split}.txt"))

    def size_of(self, idx: str) -> tuple[int, int]:
        return stored_size(Path(self.sbdd_dir, "img", f"{idx}.jpg"))

    def load_image(self, idx: str) -> Array:
        return load_bgr(Path(self.sbdd_dir, "img", f"{idx}.jpg"), self.mean)

    def load_label(self, idx: str) -> Array:
        path = Path(self.sbdd_dir, "cls", f"{idx}.mat")
        label = read_mat(path, "GTcls", "Segmentation")
        check_labels(label, len(CLASSES), 255, path)
        return as_label(label)
