"""Your own data set: a folder of images, a folder of labels, a list of names.

`tools/new_task.py` writes nets that read it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fcn_caffe.data.readers.image_files import (
    LABEL_SUFFIXES,
    VGG_MEAN,
    FolderIndex,
    image_blob,
    image_size,
    label_blob,
    read_image,
    read_split,
)
from fcn_caffe.data.readers.labels import LabelMap, check_labels, read_label
from fcn_caffe.data.sets.one_image_layer import Array, OneImageLayer
from fcn_caffe.data.sets.options import read_mean
from fcn_caffe.errors import DataError

__all__ = ["FolderSegData", "outlines"]


def outlines(label: Array, ignore: int) -> Array:
    """Return 1 where a pixel is void, or of another class than its right or lower neighbour; else 0.

    Void is how data sets mark the borders of objects that nobody can tell to the pixel.

    Shapes: (H, W) -> (H, W), uint8.
    """
    void = label == ignore
    edges: Array = void.copy()
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        edges[near] |= (label[near] != label[far]) & ~void[far]
    return edges.astype(np.uint8)


class FolderSegData(OneImageLayer, complete=True):
    """A photograph and its label in each step, from two folders.

    Tops: data (1, 3, H, W) BGR minus mean, label (1, 1, H, W).
    param_str: a dict with `images` and `labels` (folders; files match by name without suffix, subfolders allowed),
    `split` (a file of names; one whose file name holds "train" is drawn at random), and optionally `mean` (BGR, of
    VGG-16 by default), `seed` (1337), `randomize` (True), `classes` (checked when given), `ignore` (the void value
    among the labels, 255), `mapping` (a file, see data/labels.py), `base` (where relative paths start, seen from the
    net's file; without it they are data paths), `label_suffix` (what a label's name adds to the
    image's, such as "_mask"), `outlines` (False; True makes labels of 1 on the outlines between classes and on void
    pixels, else 0).
    Raises: DataError naming the file: missing folder or image, empty split, unreadable image, sizes that differ, label
    out of range.
    """

    required: ClassVar[Sequence[str]] = ("images", "labels")
    defaults: ClassVar[Mapping[str, Any]] = {
        "mean": VGG_MEAN,
        "seed": 1337,
        "classes": None,
        "ignore": 255,
        "mapping": None,
        "base": None,
        "label_suffix": "",
        "outlines": False,
    }

    def open(self) -> list[str]:
        options = self.options
        find = self.find
        self.mean = read_mean(options["mean"], self.who)
        self.mapping = LabelMap.read(find(options["mapping"])) if options["mapping"] else None
        self.images = FolderIndex(find(options["images"]), what="image")
        self.labels = FolderIndex(find(options["labels"]), suffixes=LABEL_SUFFIXES, what="label")
        split = find(options["split"])
        # Only the file's own name decides the order: a folder called "training" should not shuffle its val list.
        self.split = options["split"] = split.name
        return read_split(split)

    def find(self, path: str) -> Path:
        """Find a file or folder that an option names. A net that comes from no file starts from the root."""
        base, folder = self.options["base"], self.surroundings.folder
        if base is None:
            return self.surroundings.paths.find_data(path)
        root = self.surroundings.paths.root if folder is None else folder / str(base)
        return Path(os.path.normpath(root / path))

    def paths(self, idx: str) -> tuple[Path, Path]:
        """The image and the label file of the name `idx`."""
        image = self.images.path(idx)
        stem = image.relative_to(self.images.folder).with_suffix("").as_posix()
        return image, self.labels.path(stem + str(self.options["label_suffix"]))

    def largest_image(self) -> tuple[str, int, int] | None:
        sizes = ((idx, *self.largest_of(*self.size_of(idx))) for idx in self.indices)
        return max(sizes, key=lambda size: size[1] * size[2], default=None)

    def size_of(self, idx: str) -> tuple[int, int]:
        return image_size(self.images.path(idx))

    def voids(self) -> list[float | None]:
        return [None, 0 if self.options["outlines"] else self.options["ignore"]]

    def load_image(self, idx: str) -> Array:
        image: Array = image_blob(read_image(self.paths(idx)[0]), self.mean)[0]
        return image

    def load_label(self, idx: str) -> Array:
        path = self.paths(idx)[1]
        label = read_label(path, self.mapping)
        if self.options["classes"] is not None:
            check_labels(label, int(self.options["classes"]), self.options["ignore"], path)
        if self.options["outlines"]:
            label = outlines(label, int(self.options["ignore"]))
        blob: Array = label_blob(label)[0]
        return blob

    def load_tops(self, idx: str) -> tuple[Array, Array]:
        image, label = self.load_image(idx), self.load_label(idx)
        if image.shape[1:] != label.shape[1:]:
            image_path, label_path = self.paths(idx)
            raise DataError(
                f"{label_path}: the label is {label.shape[2]}x{label.shape[1]}, its image {image_path} is "
                f"{image.shape[2]}x{image.shape[1]} (after EXIF orientation). They should be of one size."
            )
        return image, label
