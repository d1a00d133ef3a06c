"""Your own data set: a folder of images, a folder of labels, a list of names.

`tools/new_task.py` writes nets that read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fcn_caffe.data.image_files import (
    LABEL_SUFFIXES,
    VGG_MEAN,
    FolderIndex,
    image_blob,
    label_blob,
    read_image,
    read_split,
)
from fcn_caffe.data.image_layer import Blob, OneImageLayer
from fcn_caffe.data.labels import LabelMap, check_labels, read_label
from fcn_caffe.data.options import find_place, read_mean
from fcn_caffe.errors import DataError

__all__ = ["FolderSegData"]


class FolderSegData(OneImageLayer):
    """Give (image, label) of one photograph a step from two folders.

    Tops: data (1, 3, H, W) BGR minus mean, label (1, 1, H, W).
    param_str: a dict with `images` and `labels` (folders; files match by name without suffix, subfolders allowed),
    `split` (a file of names; one whose file name holds "train" is drawn at random), and optionally `mean` (BGR, of
    VGG-16 by default), `seed` (1337), `randomize` (True), `classes` (checked when given), `ignore` (the void value
    among the labels, 255), `mapping` (a file, see data/labels.py), `label_suffix` (what label names have after the
    image's, such as "_mask").
    Raises: DataError naming the file: missing folder or image, empty split, unreadable image, sizes that differ,
    label out of range.
    """

    required: ClassVar[Sequence[str]] = ("images", "labels")
    defaults: ClassVar[Mapping[str, Any]] = {
        "mean": VGG_MEAN,
        "seed": 1337,
        "classes": None,
        "ignore": 255,
        "mapping": None,
        "label_suffix": "",
    }

    def open(self) -> list[str]:
        options = self.options
        self.mean = read_mean(options["mean"], self.who)
        self.mapping = LabelMap.read(find_place(options["mapping"])) if options["mapping"] else None
        self.images = FolderIndex(find_place(options["images"]), what="image")
        self.labels = FolderIndex(find_place(options["labels"]), suffixes=LABEL_SUFFIXES, what="label")
        split = find_place(options["split"])
        # Only the file's own name decides the order: a folder called "training" should not shuffle its val list.
        options["split"] = split.name
        return read_split(split)

    def paths(self, index: int) -> tuple[Path, Path]:
        """The image and the label file of image `index`."""
        name = self.names[index]
        image = self.images.path(name)
        stem = image.relative_to(self.images.folder).with_suffix("").as_posix()
        return image, self.labels.path(stem + str(self.options["label_suffix"]))

    def load(self, index: int) -> tuple[Blob, Blob]:
        image_path, label_path = self.paths(index)
        rgb = read_image(image_path)
        label = read_label(label_path, self.mapping)
        if rgb.shape[:2] != label.shape:
            height, width = label.shape
            raise DataError(
                f"{label_path}: the label is {width}x{height}, its image {image_path} is {rgb.shape[1]}x{rgb.shape[0]} "
                "(after EXIF orientation). They should be of one size."
            )
        if self.options["classes"] is not None:
            check_labels(label, int(self.options["classes"]), self.options["ignore"], label_path)
        return image_blob(rgb, self.mean), label_blob(label)
