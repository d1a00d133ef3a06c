"""DenseImageData of SegNet and ENet: pictures and label pictures from a list."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fcn_caffe.data.layers.label_pictures import LabelPictureSource, check_label_size, cut, without_window
from fcn_caffe.data.layers.prefetched import PrefetchedLayer
from fcn_caffe.data.readers.image_list import read_picture_pairs
from fcn_caffe.data.readers.resize import resize, resize_nearest
from fcn_caffe.data.transformer import Transformer, draw_window
from fcn_caffe.errors import DataError
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import register
from fcn_caffe.proto import caffe_pb2

_log = logging.getLogger("fcn_caffe.data")


class DenseImageSource(LabelPictureSource):
    """Makes samples as DenseImageData does: read, resized, mirrored, cropped, then (pixel - mean) * scale."""

    def __init__(
        self,
        layer: PrefetchedLayer,
        options: caffe_pb2.DenseImageDataParameter,
        transformer: Transformer,
        seed: int,
    ) -> None:
        lines = read_picture_pairs(layer.surroundings.find_source(options.source, "list of pictures"))
        self.crop = int(options.crop_height), int(options.crop_width)
        self.mirror, self.factor = bool(options.mirror), int(options.label_divide_factor)
        may_vary = options.batch_size == 1 and not options.new_height and self.crop == (0, 0)
        super().__init__(layer, options, lines, transformer, seed, may_vary=may_vary)

    def parts(self, words: list[str], random: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        """Make the tops' parts of one line: (C, H, W) and (1, H, W), or (1, H / factor, W / factor)."""
        picture, label = self.read(words[0], self.colour), self.read(words[1], "gray")
        if self.height:
            picture = resize(picture, self.height, self.width)
            label = resize_nearest(label, self.height // self.factor, self.width // self.factor)
        check_label_size(picture, label, words, self.factor)
        height, width = picture.shape[:2]
        if self.crop[0] > height or self.crop[1] > width:
            raise DataError(
                f"picture {words[0]} is {height}x{width}, smaller than crop_height and crop_width, {show(self.crop)}. "
                "Resize the pictures or crop less."
            )
        window = draw_window((height, width), self.crop, random, is_random=True, mirror=self.mirror)
        picture, label = cut(picture.transpose(2, 0, 1), label.transpose(2, 0, 1), window)
        return [self.transformer(picture, random, words[0]), label.astype(np.float32)]


@register("DenseImageData", bottoms=0, tops=2, forks="SegNet, ENet")
class DenseImageData(PrefetchedLayer):
    """Pictures and label pictures of a list file: two paths (after root_folder) on each line.

    The label is read in grey and resized by its nearest neighbour; mirror and the crop are drawn once for both, and in
    TEST, too. Mean and scale of transform_param change the picture only. With ENet's label_divide_factor the label is
    smaller than the picture by that factor.

    Shapes: () -> (batch_size, C, H, W), (batch_size, 1, H, W): crop_height by crop_width, new_height by new_width, or
    the first picture's size, which all must have; with batch_size 1 each picture has its own size.
    Raises: DataError for a missing list or picture, a label of another size, half a crop or half a size; for crop_size
    and mirror in transform_param, which the forks refuse or apply to picture and label apart; for a crop of a label
    that is divided.
    Source: caffe-segnet and caffe-enet, DenseImageDataLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options, transform = param.dense_image_data_param, param.transform_param
        self.batch_size(options.batch_size)
        for name in ("crop_size", "mirror"):
            if getattr(transform, name):
                better = "crop_height and crop_width" if name == "crop_size" else name
                raise DataError(
                    f"transform_param {{ {name} }} would not treat the label as the picture. Write {better} into "
                    "dense_image_data_param."
                )
        if (options.crop_height > 0) != (options.crop_width > 0):
            raise DataError("crop_height and crop_width go together: give both or neither.")
        self._check_factor(options)
        if options.mean_file:
            _log.warning(
                "layer '%s' (DenseImageData): mean_file of dense_image_data_param has no effect, as in SegNet's Caffe. "
                "Write it in transform_param if you want it.",
                self.name,
            )
        transformer = Transformer(without_window(transform), param.phase, self.surroundings)
        is_random = options.mirror or options.crop_height or options.shuffle or options.rand_skip
        source = DenseImageSource(self, options, transformer, self.seed() if is_random else 0)
        self.begin(source, source.first_shapes())

    def _check_factor(self, options: caffe_pb2.DenseImageDataParameter) -> None:
        factor = options.label_divide_factor
        if factor < 1:
            raise DataError("label_divide_factor is 0: give 1 or more.")
        if factor > 1 and options.crop_height:
            raise DataError(
                f"label_divide_factor {factor} and a crop do not go together: the label would be cropped elsewhere "
                "than the picture. Leave one of them out."
            )
        if options.new_height and factor > min(options.new_height, options.new_width):
            raise DataError(
                f"label_divide_factor {factor} leaves nothing of new_height and new_width. Make it smaller."
            )
