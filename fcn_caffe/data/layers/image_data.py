"""ImageData: batches of image files from a list."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fcn_caffe.data.layers.prefetched import PrefetchedLayer
from fcn_caffe.data.prefetch import Batch, State, draws, fill_batch
from fcn_caffe.data.readers.image_list import read_image_list
from fcn_caffe.data.readers.opencv_images import Colour, read_image_bgr
from fcn_caffe.data.transformer import Transformer
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import Surroundings
from fcn_caffe.layers.base import register
from fcn_caffe.proto import caffe_pb2

_TRANSFORM, _SKIP, _ORDER = 0, 1, 2  # streams of random numbers, see `draws`


class ImageSource:
    """Makes batches of transformed images in the list's order, or in a new random order in each round."""

    def __init__(
        self,
        lines: list[tuple[str, int]],
        options: caffe_pb2.ImageDataParameter,
        transformer: Transformer,
        seed: int,
        surroundings: Surroundings,
    ) -> None:
        self.lines, self.transformer, self.seed, self.surroundings = lines, transformer, seed, surroundings
        self.size, self.shuffle, self.root = int(options.batch_size), bool(options.shuffle), options.root_folder
        self.height, self.width = int(options.new_height), int(options.new_width)
        self.colour: Colour = "color" if options.is_color else "gray"
        self.skip = int(draws(seed, _SKIP).integers(options.rand_skip)) if options.rand_skip else 0
        if self.skip >= len(lines):
            raise DataError(f"rand_skip skips {self.skip} images, the list has {len(lines)}. Make it smaller.")

    def start(self) -> State:
        return {"seed": self.seed, "batch": 0, "skip": self.skip, "count": len(self.lines)}

    def read_state(self, state: State) -> State:
        if state["count"] != len(self.lines):
            raise DataError(
                f"the snapshot's data order is for a list of {state['count']} images, this one has {len(self.lines)}. "
                "Resume with the list it was trained on."
            )
        return {key: int(state[key]) for key in ("seed", "batch", "skip", "count")}

    def first(self) -> npt.NDArray[np.float32]:
        """Return the first image, transformed: the batch has its shape."""
        line = int(self._order(self.seed, 0)[self.skip])
        return self._image(line, draws(0))[0]

    def batches(self, state: State) -> Generator[Batch, None, None]:
        seed, batch, skip, count = (state[key] for key in ("seed", "batch", "skip", "count"))
        lines = self._lines(seed, skip + batch * self.size)
        while True:
            random = draws(seed, _TRANSFORM, batch)
            taken = islice(lines, self.size)
            arrays = fill_batch(self.size, ((*self._image(line, random), self.lines[line][0]) for line in taken))
            batch += 1
            yield arrays, {"seed": seed, "batch": batch, "skip": skip, "count": count}

    def _lines(self, seed: int, position: int) -> Iterator[int]:
        """Yield line numbers without end, from a position that counts all rounds."""
        around, place = divmod(position, len(self.lines))
        while True:
            yield from self._order(seed, around)[place:].tolist()
            around, place = around + 1, 0

    def _order(self, seed: int, around: int) -> npt.NDArray[np.int64]:
        count = len(self.lines)
        return draws(seed, _ORDER, around).permutation(count) if self.shuffle else np.arange(count)

    def _image(self, line: int, random: np.random.Generator) -> tuple[npt.NDArray[np.float32], int]:
        name, label = self.lines[line]
        path = self.surroundings.locate(self.root + name)
        image = read_image_bgr(path, self.colour, self.height, self.width)
        return self.transformer(image.transpose(2, 0, 1), random, str(path)), label


@register("ImageData", bottoms=0, tops=2)
class ImageData(PrefetchedLayer):
    """Images and labels of a list file: a path (after root_folder) and an integer on each line.

    Shapes: () -> (batch_size, C, H or crop, W or crop), (batch_size,); C is 3, or 1 without is_color. Images are
    resized where new_height and new_width are given; with batch_size 1 each image may have its own size.
    Units: transform_param's, (pixel - mean) * scale, BGR. shuffle orders the list anew in each round.
    Raises: DataError for a missing list or image, images of two sizes in a batch, one of new_height and new_width.
    Source: Caffe ImageDataLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options = param.image_data_param
        size = self.batch_size(options.batch_size)
        if (options.new_height > 0) != (options.new_width > 0):
            raise DataError("new_height and new_width go together: give both or neither.")
        lines = read_image_list(self.surroundings.find_source(options.source, "list of images"))
        transformer = Transformer(param.transform_param, param.phase, self.surroundings)
        seed = self.seed() if transformer.is_random or options.shuffle or options.rand_skip else 0
        source = ImageSource(lines, options, transformer, seed, self.surroundings)
        self.begin(source, [(size, *source.first().shape), (size,)])
