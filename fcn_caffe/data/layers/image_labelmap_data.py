"""ImageLabelmapData of HED, RCF and DeepSkeleton: pictures and maps of edges from a list."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fcn_caffe.data.layers.label_pictures import LabelPictureSource, UInt8, check_label_size
from fcn_caffe.data.layers.prefetched import PrefetchedLayer
from fcn_caffe.data.readers.image_list import read_picture_pairs
from fcn_caffe.data.readers.resize import resize
from fcn_caffe.data.transformer import Transformer
from fcn_caffe.layers.base import register
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TRAIN

_BANDS = (1, 10, 26, 60, 150)  # DeepSkeleton's scales: where each class begins; from the last on it is background


def _hed_label(label: UInt8) -> npt.NDArray[np.float32]:
    """Return 1 for bytes from 128 on, else 0: OpenCV's division by 255 in bytes."""
    return (label >= 128).astype(np.float32)


def _rcf_label(label: UInt8) -> npt.NDArray[np.float32]:
    """Return 1 for bytes above 255 / 2, and the others divided by 255: RCF's loss leaves out what is between."""
    values: npt.NDArray[np.float32] = label.astype(np.float32) / np.float32(255)
    return np.where(values > 0.5, np.float32(1), values)


def _deepskeleton_label(label: UInt8) -> npt.NDArray[np.float32]:
    """Return 1 to 4 by the band that a byte lies in, 0 outside of the bands."""
    classes = np.digitize(label, _BANDS)
    return np.where(classes == len(_BANDS), 0, classes).astype(np.float32)


_RULES: dict[str, Callable[[UInt8], npt.NDArray[np.float32]]] = {
    "hed": _hed_label,
    "rcf": _rcf_label,
    "deepskeleton": _deepskeleton_label,
}


class LabelmapSource(LabelPictureSource):
    """Makes samples as ImageLabelmapData does: read, resized, cropped and mirrored together."""

    def __init__(
        self, layer: PrefetchedLayer, options: caffe_pb2.ImageDataParameter, transformer: Transformer, seed: int
    ) -> None:
        lines = read_picture_pairs(layer.surroundings.find_source(options.source, "list of pictures"))
        self.rule = layer.param.fork
        super().__init__(layer, options, lines, transformer, seed, may_vary=True)

    def parts(self, words: list[str], random: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        """Make the tops' parts of one line: (C, H, W) and (1, H, W)."""
        picture, label = self.read(words[0], self.colour), self.read(words[1], "gray")
        check_label_size(picture, label, words)
        if self.height:
            picture, label = (resize(image, self.height, self.width) for image in (picture, label))
        picture, label = picture.transpose(2, 0, 1), label.reshape(1, *label.shape[:2])
        self.transformer.check(picture.shape, f"picture {words[0]}")
        window = self.transformer.draw(picture.shape, random)
        return [self.transformer.at(window, picture), _RULES[self.rule](window.mirror(window.cut(label)))]


@register("ImageLabelmapData", bottoms=0, tops=2, forks="HED, RCF, DeepSkeleton")
class ImageLabelmapData(PrefetchedLayer):
    """Pictures and label pictures of a list file: two paths (after root_folder) on each line.

    Both are resized bilinearly. crop_size (at random in TEST, too) and mirror are drawn once for both; mean and scale
    change the picture only. What a byte of the label becomes depends on the fork, which has to be said: HED, 1 from 128
    on, else 0; RCF, 1 from 128 on, else the byte divided by 255; DeepSkeleton, classes 1 to 4 for the bands from 1, 10,
    26 and 60 to 149, else 0.

    Shapes: () -> (batch_size, C, H, W), (batch_size, 1, H, W), by the first picture of each batch.
    Raises: DataError for a missing list or picture, a label of another size than its picture, pictures of two sizes in
    a batch. LayerError where the net does not say its fork.
    Source: hed, RCF and DeepSkeleton, ImageLabelmapDataLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        if param.fork not in _RULES:
            raise self.ask_fork(
                "hed (a label is 1 from 128 on, else 0)",
                "rcf (1 from 128 on, else the byte / 255)",
                "deepskeleton (classes 1 to 4 by the byte)",
            )
        options = param.image_data_param
        self.batch_size(options.batch_size)
        transformer = Transformer(param.transform_param, TRAIN, self.surroundings)  # random crops in TEST, too
        seed = self.seed() if transformer.is_random or options.shuffle or options.rand_skip else 0
        source = LabelmapSource(self, options, transformer, seed)
        self.begin(source, source.first_shapes())
