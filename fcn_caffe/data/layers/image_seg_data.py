"""ImageSegData of DeepLab, PSPNet and DeconvNet: pictures, label pictures and the pictures' sizes from a list."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fcn_caffe.data.layers.label_pictures import LabelPictureSource, UInt8, check_label_size, without_window
from fcn_caffe.data.layers.prefetched import PrefetchedLayer
from fcn_caffe.data.readers.image_list import read_words
from fcn_caffe.data.readers.resize import resize, resize_nearest
from fcn_caffe.data.transformer import Transformer, draw_window
from fcn_caffe.errors import DataError
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import register
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TRAIN

_Options = caffe_pb2.ImageDataParameter
_BYTE = 255
_LONGEST = 1 << 16  # no side of a scaled picture may be longer
_UNREAD = ("has_label", "max_labels", "other_object_label")  # DeconvNet's, for other layers
_log = logging.getLogger("fcn_caffe.data")


class ImageSegSource(LabelPictureSource):
    """Makes samples as ImageSegData does: read, resized, scaled, padded, cropped, mirrored, (pixel - mean) * scale."""

    def __init__(self, layer: PrefetchedLayer, options: _Options, transformer: Transformer, seed: int) -> None:
        transform = layer.param.transform_param
        lines = read_words(layer.surroundings.find_source(options.source, "list of pictures"))
        self.label_type, self.nearest = options.label_type, layer.param.fork == "deconvnet"
        self.ignore_label = min(max(int(options.ignore_label), 0), _BYTE)  # a byte of an OpenCV matrix
        self.crop = crop_of(transform)
        self.is_random, self.mirror = layer.param.phase == TRAIN, bool(transform.mirror)
        self.scale_factors = np.array(transform.scale_factors, np.float32)
        super().__init__(layer, options, lines, transformer, seed, may_vary=False)
        for place, words in lines:
            _check_label(place, words, options)

    def parts(self, words: list[str], random: np.random.Generator) -> list[npt.NDArray[np.float32]]:
        """Make the tops' parts of one line: (C, h, w), (1, h, w) and (1, 1, 2)."""
        picture = self.read(words[0], self.colour)
        if self.height:
            picture = resize(picture, self.height, self.width)
        label = self._label(words, picture)
        height, width = picture.shape[:2]
        if len(self.scale_factors):
            picture, label = self._scaled(picture, label, random)
        parts = self._cropped(picture.transpose(2, 0, 1), label.transpose(2, 0, 1), words[0], random)
        top = parts[0].shape
        return [*parts, np.array([[[min(top[1], height), min(top[2], width)]]], np.float32)]

    def _label(self, words: list[str], picture: UInt8) -> UInt8:
        if self.label_type != _Options.PIXEL:
            known = self.label_type == _Options.IMAGE
            value = int(words[1]) if known and len(words) > 1 else 0 if known else self.ignore_label
            return np.full((*picture.shape[:2], 1), value, np.uint8)
        label = self.read(words[1], "gray")
        if self.height:
            label = (resize_nearest if self.nearest else resize)(label, self.height, self.width)
        check_label_size(picture, label, words)
        return label

    def _scaled(self, picture: UInt8, label: UInt8, random: np.random.Generator) -> tuple[UInt8, UInt8]:
        """Resize both by a factor that is drawn: the picture bilinear, the label to the nearest neighbour."""
        factor = self.scale_factors[random.integers(len(self.scale_factors))]
        if factor == 1:
            return picture, label
        with np.errstate(over="ignore"):
            sides = np.array(picture.shape[:2], np.float32) * factor
        if not (sides.min() >= 1 and sides.max() <= _LONGEST):
            shown = show(picture.shape[:2])
            raise DataError(
                f"scale_factors {factor:g} makes a picture of {shown} too small or too large. Give other factors."
            )
        height, width = (int(side) for side in sides)
        return resize(picture, height, width), resize_nearest(label, height, width)

    def _cropped(
        self, picture: UInt8, label: UInt8, name: str, random: np.random.Generator
    ) -> list[npt.NDArray[np.float32]]:
        """Cut the same window out of both, (C, H, W); what lies below and right of them is 0 and ignore_label."""
        crop = self.crop if self.crop != (0, 0) else picture.shape[1:]
        size = max(picture.shape[1], crop[0]), max(picture.shape[2], crop[1])
        window = draw_window(size, self.crop, random, is_random=self.is_random, mirror=self.mirror)
        inside = self.transformer(window.cut(picture), random, name)
        data = np.zeros((len(inside), *crop), np.float32)
        labels = np.full((1, *crop), self.ignore_label, np.float32)
        rows, columns = inside.shape[1:]
        data[:, :rows, :columns], labels[:, :rows, :columns] = inside, window.cut(label)
        return [window.mirror(data), window.mirror(labels)]


def crop_of(transform: caffe_pb2.TransformationParameter) -> tuple[int, int]:
    """Return the height and the width that ImageSegData crops to; (0, 0) for the whole picture.

    Raises:
        DataError: crop_size with crop_height or crop_width, or one of these alone.
    """
    height, width, side = int(transform.crop_height), int(transform.crop_width), int(transform.crop_size)
    if side and (height or width):
        raise DataError("give crop_size, or crop_height and crop_width, not both kinds.")
    if (height > 0) != (width > 0):
        raise DataError("crop_height and crop_width go together: give both, or crop_size.")
    return (side, side) if side else (height, width)


def _check_label(place: str, words: list[str], options: _Options) -> None:
    """Raise DataError where a line's second word is not what label_type says."""
    if options.label_type == _Options.PIXEL and len(words) < 2:
        raise DataError(f'{place}: expected "PICTURE LABEL_PICTURE", as label_type is PIXEL, got {words[0]!r} alone.')
    if options.label_type != _Options.IMAGE or len(words) < 2:
        return
    how = "" if options.HasField("label_type") else ", the default"
    try:
        label = int(words[1])
    except ValueError:
        raise DataError(
            f"{place}: label_type is IMAGE{how}: expected a whole number behind the picture, got {words[1]!r}. "
            "Write label_type: PIXEL if it is a label picture."
        ) from None
    if not 0 <= label <= _BYTE:
        raise DataError(
            f"{place}: label {label} is not in 0 to {_BYTE}, the bytes that a label picture can hold. Correct the list."
        )


@register("ImageSegData", bottoms=0, tops=3, forks="DeepLab, PSPNet, DeconvNet")
class ImageSegData(PrefetchedLayer):
    """Pictures and labels of a list file: a path (after root_folder) and what label_type says on each line.

    label_type: PIXEL, the path of a label picture, which is read in grey; IMAGE, the default, a number for all pixels;
    NONE: all pixels get ignore_label. scale_factors resizes both by a factor that is drawn, the label by its nearest
    neighbour. What the crop lacks at the bottom and on the right is 0, and ignore_label. The crop lies at random in
    TRAIN and in the centre in TEST; mirror is random in both phases.

    new_height and new_width resize the label, too: bilinearly in DeepLab and PSPNet, which blends classes, to the
    nearest neighbour in DeconvNet, whose nets have the old form. An old net with both has to say whose it is.

    Shapes: () -> (batch_size, C, h, w), (batch_size, 1, h, w), (batch_size, 1, 1, 2): the crop's size, or the first
    picture's, which all must have; the third top is height and width of the picture inside of the crop, before
    scale_factors.
    Raises: DataError for a missing list or picture, a label that label_type does not fit or of another size, pictures
    of two sizes without a crop, a mean_file, both kinds of crops. LayerError where the net does not say its fork.
    Source: PSPNet, deeplab-v2, DeepLab-Context, HyeonwooNoh/caffe: ImageSegDataLayer.
    """

    fork_fields = frozenset(f"image_data_param.{name}" for name in ("ignore_label", "label_type", *_UNREAD)) | {
        f"transform_param.{name}" for name in ("scale_factors", "crop_height", "crop_width")
    }

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options, transform = param.image_data_param, param.transform_param
        self.batch_size(options.batch_size)
        crop = crop_of(transform)
        if transform.mean_file:
            raise DataError("a mean_file is not supported by this layer, in no fork. Give mean_value for each channel.")
        if any(not 0 < factor < np.inf for factor in transform.scale_factors):
            raise DataError("scale_factors must be above 0.")
        if transform.scale_factors and crop == (0, 0):
            raise DataError("scale_factors make pictures of several sizes: give crop_size, too.")
        if (
            options.new_height
            and options.label_type == _Options.PIXEL
            and param.fork not in ("", "deeplab", "deconvnet")
        ):
            raise self.ask_fork(
                "deeplab (new_height resizes labels bilinearly)", "deconvnet (to the nearest neighbour)"
            )
        if not 0 <= options.ignore_label <= _BYTE:
            _log.warning(
                "layer '%s' (ImageSegData): ignore_label %d becomes %d, as in OpenCV's matrix of bytes.",
                *(self.name, options.ignore_label, min(max(options.ignore_label, 0), _BYTE)),
            )
        if unread := [name for name in _UNREAD if options.HasField(name)]:
            names = ", ".join(unread)
            _log.warning("layer '%s' (ImageSegData): %s: no effect, as in DeconvNet's Caffe.", self.name, names)
        transformer = Transformer(without_window(transform), param.phase, self.surroundings)
        is_random = (
            *(transform.mirror, len(transform.scale_factors), param.phase == TRAIN and crop != (0, 0)),
            *(options.shuffle, options.rand_skip),
        )
        source = ImageSegSource(self, options, transformer, self.seed() if any(is_random) else 0)
        self.begin(source, source.first_shapes())
