"""ImageData: batches of image files from a list."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fcn_caffe.data.layers.listed import ListSource
from fcn_caffe.data.layers.prefetched import PrefetchedLayer
from fcn_caffe.data.prefetch import Sample
from fcn_caffe.data.readers.image_list import read_image_list
from fcn_caffe.data.readers.opencv_images import read_image_bgr
from fcn_caffe.data.transformer import Transformer
from fcn_caffe.host.paths import Surroundings
from fcn_caffe.layers.base import register
from fcn_caffe.proto import caffe_pb2


class ImageSource(ListSource):
    """Makes samples of a transformed image and its label."""

    def __init__(
        self,
        lines: list[tuple[str, int]],
        options: caffe_pb2.ImageDataParameter,
        transformer: Transformer,
        seed: int,
        surroundings: Surroundings,
    ) -> None:
        super().__init__(len(lines), options, seed)
        self.lines, self.transformer, self.surroundings = lines, transformer, surroundings

    def sample(self, index: int, random: np.random.Generator) -> tuple[Sample, str]:
        name, label = self.lines[index]
        path = self.surroundings.locate(self.root + name)
        image = read_image_bgr(path, self.colour, self.height, self.width)
        return (self.transformer(image.transpose(2, 0, 1), random, str(path)), label), name


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
        self.batch_size(options.batch_size)
        lines = read_image_list(self.surroundings.find_source(options.source, "list of images"))
        transformer = Transformer(param.transform_param, param.phase, self.surroundings)
        seed = self.seed() if transformer.is_random or options.shuffle or options.rand_skip else 0
        source = ImageSource(lines, options, transformer, seed, self.surroundings)
        self.begin(source, source.first_shapes())
