"""`caffe.Detector`: a net that classifies windows of images, as R-CNN does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.proto.phases import TEST
from fcn_caffe.pycaffe.before import refuse_old_options
from fcn_caffe.pycaffe.classifier import input_transformer
from fcn_caffe.pycaffe.io import InputError, load_image, resize_image
from fcn_caffe.pycaffe.net import Net

__all__ = ["Detector", "NoSelectiveSearchError"]

Array = npt.NDArray[Any]
Window = Sequence[float]  # ymin, xmin, ymax, xmax


class NoSelectiveSearchError(FcnCaffeError, NotImplementedError):
    """Selective search is a MATLAB program that is part of neither Caffe nor this package."""


class Detector(Net):
    """A net in its TEST phase that classifies windows of images.

    context_pad: how many pixels of the net's input show the window's surroundings, on each side; None or 0 for none.
    mean, input_scale, raw_scale, channel_swap: see Transformer. Errors are those of Net and Transformer.
    """

    @refuse_old_options
    def __init__(
        self,
        model_file: str | os.PathLike[str],
        pretrained_file: str | os.PathLike[str],
        mean: Array | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = input_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(
        self, images_windows: Iterable[tuple[str | os.PathLike[str], Iterable[Window]]]
    ) -> list[dict[str, Any]]:
        """Classify windows: (file, windows) for each image -> {"window", "prediction", "filename"} for each window.

        A window is ymin, xmin, ymax, xmax, without its last row and column.

        Raises:
            InputError: there are no windows, or one is empty.
            ImageError: a file is missing or cannot be read.
        """
        detections: list[dict[str, Any]] = []
        crops: list[Array] = []
        for filename, windows in images_windows:
            image = load_image(filename)
            for window in windows:
                detections.append({"window": window, "prediction": None, "filename": filename})
                crops.append(self.crop(image, window))
        if not crops:
            raise InputError("detect_windows was given no windows.")
        in_ = self.inputs[0]
        preprocessed = np.stack([self.transformer.preprocess(in_, crop) for crop in crops])
        predictions = self.forward_all(None, **{in_: preprocessed})[self.outputs[0]]
        for detection, prediction in zip(detections, predictions, strict=True):
            detection["prediction"] = prediction
        return detections

    def detect_selective_search(self, image_fnames: Sequence[str | os.PathLike[str]]) -> NoReturn:
        """Refuse: Caffe ran another's MATLAB program here.

        Raises:
            NoSelectiveSearchError: always.
        """
        raise NoSelectiveSearchError(
            "detect_selective_search ran selective_search_ijcv_with_python, a MATLAB program, which is not part of "
            f"this package. Make the windows of these {len(image_fnames)} images yourself and call detect_windows."
        )

    def crop(self, im: Array, window: Window) -> Array:
        """Cut a window from an image; with context in the net's size, with the mean beyond the image's edge.

        Shapes: (H, W, C) -> (h, w, C).

        Raises:
            InputError: the window has no pixel in the image.
        """
        if not self.context_pad:
            top, left, bottom, right = (int(edge) for edge in window)
            cut = im[top:bottom, left:right]
            if not cut.size:
                raise InputError(f"window {list(window)} has no pixel in an image of {im.shape[0]} x {im.shape[1]}.")
            return cut
        size = self.blobs[self.inputs[0]].width  # the input is taken to be square
        scale = size / (size - self.context_pad * 2.0)
        half = np.array([(window[2] - window[0] + 1) / 2.0, (window[3] - window[1] + 1) / 2.0])
        centre = np.array(window[:2]) + half
        box = np.round(np.concatenate([centre - scale * half, centre + scale * half]))
        scales = size / (box[2:] - box[:2] + 1)
        pad = [round(before) for before in np.maximum(0, -box[:2]) * scales]
        box = box.clip(0, [*im.shape[:2], *im.shape[:2]]).astype(int)
        inside = im[box[0] : box[2], box[1] : box[3]]
        if not inside.size:
            raise InputError(f"window {list(window)} has no pixel in an image of {im.shape[0]} x {im.shape[1]}.")
        extents = [round(extent) for extent in (box[2:] - box[:2] + 1) * scales]
        rows, columns = (min(extent, size - before) for extent, before in zip(extents, pad, strict=True))
        padded = np.ones(tuple(self.crop_dims), np.float32) * self.crop_mean
        padded[pad[0] : pad[0] + rows, pad[1] : pad[1] + columns] = resize_image(inside, (rows, columns))
        return padded

    def configure_crop(self, context_pad: int | None) -> None:
        """Set how much context `crop` takes, and from the Transformer the numbers beyond the image's edge."""
        in_ = self.inputs[0]
        back = np.argsort(self.transformer.transpose[in_])
        self.crop_dims = np.array(self.blobs[in_].data.shape[1:])[back]
        self.context_pad = context_pad
        if not context_pad:
            return
        size = self.blobs[in_].width
        if 2 * context_pad >= size:
            raise InputError(
                f"context_pad {context_pad} leaves no pixel of inputs of {size}: give less than half of that."
            )
        mean = self.transformer.mean.get(in_)
        if mean is None:
            self.crop_mean: Array = np.zeros(tuple(self.crop_dims), np.float32)
            return
        unscaled = mean.astype(float).transpose(back)
        if in_ in self.transformer.channel_swap:
            unscaled = unscaled[:, :, np.argsort(self.transformer.channel_swap[in_])]
        self.crop_mean = unscaled / self.transformer.raw_scale.get(in_, 1.0)
