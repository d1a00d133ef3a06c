"""`caffe.Classifier`: a net that classifies images, with its preprocessing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fcn_caffe.proto.phases import TEST
from fcn_caffe.pycaffe.before import refuse_old_options
from fcn_caffe.pycaffe.io import InputError, Transformer, oversample, resize_image
from fcn_caffe.pycaffe.net import Net

__all__ = ["Classifier", "input_transformer"]

Array = npt.NDArray[Any]


def input_transformer(
    net: Net,
    mean: Array | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> Transformer:
    """Make the Transformer of (H, W, C) images for a net's first input; an option that is None is not set."""
    in_ = net.inputs[0]
    transformer = Transformer({in_: net.blobs[in_].data.shape})
    transformer.set_transpose(in_, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(in_, mean)
    if input_scale is not None:
        transformer.set_input_scale(in_, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(in_, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(in_, channel_swap)
    return transformer


class Classifier(Net):
    """A net in its TEST phase that classifies images.

    image_dims: the (height, width) that images are resized to before they are cropped to the net's input; by default
    the input's. mean, input_scale, raw_scale, channel_swap: see Transformer. Errors are those of Net and Transformer.
    """

    @refuse_old_options
    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        image_dims: Sequence[int] | None = None,
        mean: Array | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = input_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].data.shape[2:])
        self.image_dims = self.crop_dims if image_dims is None or not len(image_dims) else image_dims

    def predict(self, inputs: Sequence[Array], oversample: bool = True) -> Array:
        """Return the net's first output for images: the mean over ten crops, or without `oversample` the centre crop's.

        Shapes: N of (H, W, C) -> (N, outputs) with `oversample`, (N, *output) without.

        Raises:
            InputError: there are no images.
            FcnCaffeError: as `Net.forward_all`.
        """
        if not len(inputs):
            raise InputError("predict was given no images.")
        images = np.stack([resize_image(image, self.image_dims) for image in inputs])
        crops = _ten_crops(images, self.crop_dims) if oversample else self._centres(images)
        in_ = self.inputs[0]
        preprocessed = np.stack([self.transformer.preprocess(in_, crop) for crop in crops])
        predictions: Array = self.forward_all(None, **{in_: preprocessed})[self.outputs[0]]
        if oversample:
            predictions = predictions.reshape(len(predictions) // 10, 10, -1).mean(1)
        return predictions

    def _centres(self, images: Array) -> Array:
        top, left = ((np.array(self.image_dims) - self.crop_dims) / 2.0).astype(int)
        return images[:, top : top + self.crop_dims[0], left : left + self.crop_dims[1]]


_ten_crops = oversample  # predict has an argument of this name
