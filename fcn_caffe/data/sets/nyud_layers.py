"""NYUDv2: 40 classes of indoor scenes, void 255, in colour, depth and HHA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fcn_caffe.data.readers.image_files import read_index_image
from fcn_caffe.data.readers.labels import check_labels
from fcn_caffe.data.sets.one_image_layer import Array
from fcn_caffe.data.sets.reference_layer import ReferenceLayer, as_label, load_bgr, load_channels, read_mat
from fcn_caffe.errors import DataError

__all__ = ["CLASSES", "NYUDSegDataLayer"]

MEAN = (116.190, 97.203, 92.318)  # colour, BGR
HHA_MEAN = (132.431, 94.076, 118.477)  # in the order the channels are stored
LOG_DEPTH_MEAN = 7.844
TOPS = ("color", "depth", "hha", "label")
CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes"),
    *("ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard"),
    *("person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture"),
    "otherprop",
)


class NYUDSegDataLayer(ReferenceLayer, complete=True):
    """NYUDv2 segmentation.

    Tops: as `tops` of param_str lists them, any of color, depth, hha and label.

    color (1, 3, H, W) BGR minus mean; hha (1, 3, H, W) channels as stored, minus mean; depth (1, 1, H, W) natural log
    of the stored integers, minus mean; label (1, 1, H, W), 0 to 39 and 255.
    param_str: nyud_dir, split, tops, randomize, seed, prefetch.
    Raises: DataError naming what is missing and where to get it.
    Source: the reference's nyud_layers.
    """

    required = ("nyud_dir", "tops")
    defaults: ClassVar[Mapping[str, Any]] = {}
    folder_option = "nyud_dir"
    data_set = "nyud"
    origin = (
        "NYU Depth V2 (cs.nyu.edu/~silberman) for the images, and Gupta's rcnn-depth (github.com/s-gupta) for labels, "
        "splits and HHA"
    )

    def check_options(self) -> None:
        tops = self.options["tops"]
        if isinstance(tops, str) or not isinstance(tops, Sequence):
            raise DataError(f"{self.who}: tops should be a list, such as ['color', 'label'], got {tops!r}.")
        for top in tops:
            if top not in TOPS:
                raise DataError(f"{self.who}: unknown top {top!r}. Known: {', '.join(TOPS)}.")
        self.tops = self.top_names = list(tops)

    def open(self) -> list[str]:
        self.nyud_dir = self.folder()
        self.mean_bgr, self.mean_hha = np.array(MEAN, np.float32), np.array(HHA_MEAN, np.float32)
        self.mean_logd = np.array((LOG_DEPTH_MEAN,), np.float32)
        return self.split_names(Path(self.nyud_dir, f"{self.split}.txt"))

    def colour_mean(self) -> Array | None:
        return self.mean_bgr if self.tops[:1] == ["color"] else None

    def load_tops(self, idx: str) -> list[Array]:
        return [self.load(top, idx) for top in self.tops]

    def show(self, arrays: Sequence[Array]) -> None:
        self.data = dict(zip(self.tops, arrays, strict=True))

    def top_arrays(self) -> list[Array]:
        return [self.data[top] for top in self.tops]

    def load(self, top: str, idx: str) -> Array:
        """Read one top of the image `idx`.

        Raises:
            DataError: for a top that does not exist.
        """
        readers = {"color": self.load_image, "depth": self.load_depth, "hha": self.load_hha, "label": self.load_label}
        if top not in readers:
            raise DataError(f"{self.who}: unknown top {top!r}. Known: {', '.join(TOPS)}.")
        return readers[top](idx)

    def load_image(self, idx: str) -> Array:
        return load_bgr(Path(self.nyud_dir, "data", "images", f"img_{idx}.png"), self.mean_bgr)

    def load_hha(self, idx: str) -> Array:
        """Read the HHA encoding of the depth, (3, H, W), channels as stored, minus mean."""
        return load_channels(Path(self.nyud_dir, "data", "hha", f"img_{idx}.png"), self.mean_hha)

    def load_depth(self, idx: str) -> Array:
        """Read the depth as (1, H, W), logarithm minus mean.

        Raises:
            DataError: for a depth image with holes, or with several channels.
        """
        path = Path(self.nyud_dir, "data", "depth", f"img_{idx}.png")
        depth = read_index_image(path)
        if depth.ndim != 2 or depth.min(initial=1) < 1:
            raise DataError(
                f"{path}: depth should be one channel of positive integers; zeros are holes. Use the filled depth."
            )
        logarithm: Array = np.log(depth.astype(np.float32))
        return (logarithm - self.mean_logd)[None]

    def load_label(self, idx: str) -> Array:
        path = Path(self.nyud_dir, "segmentation", f"img_{idx}.mat")
        stored = read_mat(path, "segmentation")
        check_labels(stored, len(CLASSES) + 1, None, path)
        return as_label(stored.astype(np.uint8) - np.uint8(1))  # 0 is void: one down as uint8 makes it 255
