"""NYUDv2: 40 classes of indoor scenes, void 255, in colour, depth and HHA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fcn_caffe.data.image_files import image_blob, label_blob, read_index_image
from fcn_caffe.data.image_layer import Blob
from fcn_caffe.data.labels import check_labels
from fcn_caffe.data.reference import ReferenceLayer, read_mat
from fcn_caffe.errors import DataError

__all__ = ["CLASSES", "NYUDSegDataLayer"]

MEAN = (116.190, 97.203, 92.318)  # colour, BGR
HHA_MEAN = (132.431, 94.076, 118.477)  # in the order the channels are stored
LOG_DEPTH_MEAN = 7.844
CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes"),
    *("ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard"),
    *("person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture"),
    "otherprop",
)


class NYUDSegDataLayer(ReferenceLayer):
    """NYUDv2 segmentation. Tops: as `tops` of param_str lists them, any of color, depth, hha and label.

    color (1, 3, H, W) BGR minus mean; hha (1, 3, H, W) channels as stored, minus mean; depth (1, 1, H, W) natural log
    of the stored integers, minus mean; label (1, 1, H, W), 0 to 39 and 255.
    param_str: nyud_dir, split, tops, randomize, seed.
    Raises: DataError naming what is missing and where to get it. Source: the reference's nyud_layers.
    """

    required = ("nyud_dir", "tops")
    defaults: ClassVar[Mapping[str, Any]] = {}
    folder_option = "nyud_dir"
    origin = (
        "NYU Depth V2 (cs.nyu.edu/~silberman) for the images, and Gupta's rcnn-depth (github.com/s-gupta) for labels, "
        "splits and HHA"
    )

    def open(self) -> list[str]:
        self.root = self.folder()
        self.top_names = tuple(self.options["tops"])  # type: ignore[misc]
        readers = {"color": self._color, "depth": self._depth, "hha": self._hha, "label": self._label}
        for top in self.top_names:
            if top not in readers:
                raise DataError(f"{self.who}: unknown top {top!r}. Known: {', '.join(readers)}.")
        self._readers = [readers[top] for top in self.top_names]
        return self.split_names(self.root / f"{self.options['split']}.txt")

    def load(self, index: int) -> list[Blob]:
        return [read(self.names[index]) for read in self._readers]

    def _color(self, name: str) -> Blob:
        return image_blob(self.image(self.root / "data" / "images" / f"img_{name}.png"), MEAN)

    def _hha(self, name: str) -> Blob:
        stored = self.image(self.root / "data" / "hha" / f"img_{name}.png")
        return image_blob(stored[:, :, ::-1], HHA_MEAN)  # image_blob turns channels round; here they stay

    def _depth(self, name: str) -> Blob:
        path = self.root / "data" / "depth" / f"img_{name}.png"
        depth = read_index_image(path)
        if depth.ndim != 2 or depth.min(initial=1) < 1:
            raise DataError(
                f"{path}: depth should be one channel of positive integers; zeros are holes. Use the filled depth."
            )
        logarithm = np.log(depth.astype(np.float32)) - np.float32(LOG_DEPTH_MEAN)
        return np.ascontiguousarray(logarithm, dtype=np.float32)[None, None]

    def _label(self, name: str) -> Blob:
        path = self.root / "segmentation" / f"img_{name}.mat"
        # 0 is void: one down as uint8 makes it 255.
        label = read_mat(path, "segmentation").astype(np.uint8) - np.uint8(1)
        check_labels(label, len(CLASSES), 255, path)
        return label_blob(label)
