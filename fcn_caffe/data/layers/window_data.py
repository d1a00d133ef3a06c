"""WindowData: batches of foreground and background windows of images, as R-CNN was trained with."""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fcn_caffe.data.layers.prefetched import PrefetchedLayer
from fcn_caffe.data.prefetch import Batch, State, draws
from fcn_caffe.data.readers.opencv_images import decode_image, read_image_bgr
from fcn_caffe.data.readers.resize import resize
from fcn_caffe.data.readers.window_list import Window, WindowList, place_window, read_windows
from fcn_caffe.data.transformer import read_means
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import Surroundings, refuse_endless
from fcn_caffe.host.ranks import Share
from fcn_caffe.host.text import show
from fcn_caffe.layers.base import register
from fcn_caffe.proto import caffe_pb2

_log = logging.getLogger("fcn_caffe.data")

_WINDOWS = 0  # stream of random numbers


class WindowSource:
    """Makes batches of windows drawn at random with replacement, background windows first."""

    share = Share()

    def __init__(
        self, windows: WindowList, param: caffe_pb2.LayerParameter, seed: int, surroundings: Surroundings
    ) -> None:
        options, transform = param.window_data_param, param.transform_param
        self.windows, self.seed = windows, seed
        self.surroundings, self.root = surroundings, options.root_folder
        self.size, self.crop, self.pad = int(options.batch_size), int(transform.crop_size), int(options.context_pad)
        self.square, self.mirror = options.crop_mode == "square", bool(transform.mirror)
        self.scale = np.float32(options.scale)
        self.mean_image, self.mean_values = read_means(transform, surroundings)
        self.foreground = int(np.float32(self.size) * np.float32(options.fg_fraction))
        self._check()
        self.cache = {index: _bytes(self._path(index)) for index in windows.images if options.cache_images}

    def _check(self) -> None:
        channels = self.windows.channels
        if self.mean_values is not None and len(self.mean_values) not in (1, channels):
            raise DataError(
                f"mean_value is given {len(self.mean_values)} times for images of {channels} channels: give it once, "
                "or once per channel."
            )
        if self.mean_image is not None:
            # As in Caffe, the offset of the width serves for the height too.
            mean = self.mean_image.shape
            self.offset = (mean[2] - self.crop) // 2
            if mean[0] != channels or self.offset < 0 or self.offset + self.crop > mean[1]:
                raise DataError(
                    f"the mean_file is {show(mean)}, wanted {channels} channels and a square of "
                    f"crop_size {self.crop} or more."
                )
        wanted = {"background": self.size - self.foreground, "foreground": self.foreground}
        for kind, windows in (("background", self.windows.background), ("foreground", self.windows.foreground)):
            if wanted[kind] > 0 and not windows:
                raise DataError(
                    f"a batch needs {wanted[kind]} {kind} windows; by fg_threshold and bg_threshold the file has none."
                )

    def start(self) -> State:
        return {"seed": self.seed, "batch": 0}

    def read_state(self, state: State) -> State:
        return {"seed": int(state["seed"]), "batch": int(state["batch"])}

    def batches(self, state: State) -> Generator[Batch, None, None]:
        seed, batch = state["seed"], state["batch"]
        while True:
            random = draws(seed, _WINDOWS, batch + self.share.rank)
            data = np.zeros((self.size, self.windows.channels, self.crop, self.crop), np.float32)
            labels = np.empty(self.size, np.float32)
            for index in range(self.size):
                behind = index < self.size - self.foreground
                choice = self.windows.background if behind else self.windows.foreground
                window = choice[int(random.integers(len(choice)))]
                mirrored = self.mirror and bool(random.integers(2))
                self._fill(data[index], window, mirrored)
                labels[index] = window.label
            batch += self.share.count
            yield [data, labels], {"seed": seed, "batch": batch}

    def state_behind(self, state: State, batches: int) -> State:
        return {**state, "batch": state["batch"] + batches}

    def _fill(self, target: npt.NDArray[np.float32], window: Window, mirrored: bool) -> None:
        """Warp a window into its place in the crop; the rest stays zero, which is the mean."""
        image = self._image(window.image)
        name = f"{self._path(window.image)}: window {window.box}"
        placed = place_window(window.box, image.shape, self.crop, self.pad, self.square, name)
        left = placed.pad_right if mirrored else placed.pad_left
        # Rounding may make the warp larger than its place: it is made smaller then.
        height, width = min(placed.height, self.crop - placed.pad_top), min(placed.width, self.crop - left)
        warped = resize(image[placed.top : placed.bottom, placed.left : placed.right], height, width)
        if mirrored:
            warped = warped[:, ::-1]
        rows, columns = slice(placed.pad_top, placed.pad_top + height), slice(left, left + width)
        pixels = warped.transpose(2, 0, 1).astype(np.float32)
        if self.mean_image is not None:
            centre = self.mean_image[:, self.offset :, self.offset :]
            pixels -= centre[:, rows, columns]
        elif self.mean_values is not None:
            pixels -= self.mean_values
        with np.errstate(all="ignore"):  # as the transformer does
            target[:, rows, columns] = pixels * self.scale

    def _image(self, index: int) -> npt.NDArray[np.uint8]:
        path, cached = self._path(index), self.cache.get(index)
        image = read_image_bgr(path) if cached is None else decode_image(cached, str(path))
        if image.shape[2] != self.windows.channels:
            raise DataError(
                f"{path}: has 3 channels, the window file says {self.windows.channels}. Correct the window file."
            )
        return image

    def _path(self, index: int) -> Path:
        return self.surroundings.locate(self.root + self.windows.images[index])


def _bytes(path: Path) -> bytes:
    try:
        refuse_endless(path)
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), but the window file names it. "
            "Put the image there, or correct the window file."
        ) from error


@register("WindowData", bottoms=0, tops=2)
class WindowData(PrefetchedLayer):
    """Windows of images, warped to crop_size, and their labels: background first, then fg_fraction of foreground.

    Shapes: () -> (batch_size, channels, crop_size, crop_size), (batch_size,). A window whose overlap reaches
    fg_threshold is foreground, one below bg_threshold background, of label 0. crop_mode "warp" takes the window as it
    is, "square" the square around it; context_pad is how many pixels of surroundings the crop has on each side.
    Units: (pixel - mean) * scale, BGR, with window_data_param's scale, as in Caffe, and transform_param's mean; mirror
    is random in both phases.
    Raises: DataError for a window file that does not read, windows outside their image, a share without windows.
    Source: Caffe WindowDataLayer.
    """

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        options, crop = param.window_data_param, int(param.transform_param.crop_size)
        size = self.batch_size(options.batch_size)
        if param.transform_param.HasField("scale"):
            _log.warning(
                "layer '%s' (WindowData): transform_param { scale } has no effect, as in Caffe, which reads "
                "window_data_param { scale }. Write it there.",
                param.name,
            )
        if crop < 1:
            raise DataError("crop_size must be given and positive: it is the size of the windows in the batch.")
        if 2 * options.context_pad >= crop:
            raise DataError(f"context_pad {options.context_pad} leaves nothing of crop_size {crop}. Make it smaller.")
        if options.crop_mode not in ("warp", "square"):
            raise DataError(f"crop_mode {options.crop_mode!r} is unknown. Known: square, warp.")
        path = self.surroundings.find_source(options.source, "window file")
        windows = read_windows(path, options.fg_threshold, options.bg_threshold)
        source = WindowSource(windows, param, self.seed(), self.surroundings)
        self.begin(source, [(size, windows.channels, crop, crop), (size,)])
