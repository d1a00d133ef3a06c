"""Data layers of the generated data set `shapes`: scenes to segment, and crops of single objects to classify."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.readers.image_files import image_blob
from fcn_caffe.data.sets.options import read_mean, read_options
from fcn_caffe.data.sets.shapes_scenes import CLASSES, MEAN, SPLITS, draw_crop, draw_scene
from fcn_caffe.errors import DataError
from fcn_caffe.host.ranks import Share
from fcn_caffe.layers.python import Blob, PythonLayer

__all__ = ["CLASSES", "ShapesClassData", "ShapesSegData"]

Float32 = npt.NDArray[np.float32]


class _ShapesLayer(PythonLayer):
    """Base of the two layers: options, a position in the stream of images, state.

    param_str: a dict with `split` (train, val or test) and optionally `seed` (1337), `size` (pixels a side), `batch`,
    `count` (how many different images before the first comes again; 0 is without end), `mean` (BGR).
    Order: index 0, 1, 2 …; every image depends on (seed, split, index) only, so there is nothing to shuffle.
    """

    size = 0
    batch = 1
    share = Share()

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        who = type(self).__name__
        defaults = {"seed": 1337, "size": self.size, "batch": self.batch, "count": 0, "mean": MEAN}
        options = read_options(self.param_str, who, required=("split",), defaults=defaults)
        if options["split"] not in SPLITS:
            raise DataError(f"{who}: split {options['split']!r} is unknown. Known: {', '.join(SPLITS)}.")
        for key, least in (("size", 16), ("batch", 1), ("count", 0), ("seed", 0)):
            if not isinstance(options[key], int) or options[key] < least:
                raise DataError(f"{who}: {key} should be a whole number of at least {least}, got {options[key]!r}.")
        if len(bottom) or len(top) != 2:
            raise DataError(f"{who}: takes no bottoms and gives data and label; got {len(bottom)} and {len(top)} tops.")
        self.seed, self.split = options["seed"], options["split"]
        self.size, self.batch, self.count = options["size"], options["batch"], options["count"]
        self.mean = read_mean(options["mean"], who)
        self.position = 0

    def __len__(self) -> int:
        return int(self.count)

    def indices(self) -> list[int]:
        """Return the indices of the images of this pass."""
        first = self.position
        indices = [first + place for place in self.share.places(self.batch)]
        return [index % self.count if self.count else index for index in indices]

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Data has no gradient."""

    def take_share(self, share: Share) -> None:
        self.share = share

    def skip(self, passes: int) -> None:
        self.position += passes * self.batch

    def get_state(self) -> dict[str, int]:
        return {"position": self.position}

    def set_state(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])


class ShapesSegData(_ShapesLayer):
    """Scenes with their labels.

    Tops: data (N, 3, S, S) BGR minus mean, label (N, 1, S, S), void 255.
    """

    size = 112

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(self.batch, 3, self.size, self.size)
        top[1].reshape(self.batch, 1, self.size, self.size)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        data: Float32 = np.empty((self.batch, 3, self.size, self.size), dtype=np.float32)
        label: Float32 = np.empty((self.batch, 1, self.size, self.size), dtype=np.float32)
        for place, index in enumerate(self.indices()):
            image, label[place, 0] = draw_scene(self.seed, self.split, index, self.size)
            data[place] = image_blob(image, self.mean)[0]
        top[0].data[...], top[1].data[...] = data, label
        self.position += self.batch * self.share.count


class ShapesClassData(_ShapesLayer):
    """Crops of one object each, with its class.

    Tops: data (N, 3, S, S) BGR minus mean, label (N).
    """

    size = 64
    batch = 32

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(self.batch, 3, self.size, self.size)
        top[1].reshape(self.batch)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        data: Float32 = np.empty((self.batch, 3, self.size, self.size), dtype=np.float32)
        for place, index in enumerate(self.indices()):
            image, top[1].data[place] = draw_crop(self.seed, self.split, index, self.size)
            data[place] = image_blob(image, self.mean)[0]
        top[0].data[...] = data
        self.position += self.batch * self.share.count
