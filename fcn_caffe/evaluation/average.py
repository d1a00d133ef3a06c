"""Probabilities of an image in several sizes, and mirrored, averaged: what papers call multi-scale and flip testing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fcn_caffe.data.readers.image_files import UInt8
from fcn_caffe.errors import DataError
from fcn_caffe.host.free_memory import free_bytes, show_bytes
from fcn_caffe.net.memory import shape_bytes

__all__ = ["Average"]

LARGEST_SCALE = 16.0


@dataclass(frozen=True)
class Average:
    """Run images in several sizes and take the mean of their probabilities.

    An image is resized bilinearly, where it shrinks over all pixels that become one (Pillow's BILINEAR); probabilities
    are resized back bilinearly (PyTorch's interpolate, align_corners=False).

    Attributes:
        scales: the sizes, as shares of the image's.
        mirror: whether each is run mirrored too, left to right.

    Raises:
        DataError: there is no scale, or one that makes no sense.
    """

    scales: Sequence[float] = (1.0,)
    mirror: bool = False

    def __post_init__(self) -> None:
        wrong = [scale for scale in self.scales if not 0 < scale <= LARGEST_SCALE]
        if wrong or not self.scales:
            shown = ", ".join(f"{scale:g}" for scale in wrong) or "none"
            raise DataError(f"scales: got {shown}. Give numbers above 0 and at most {LARGEST_SCALE:g}, such as 0.75 1.")

    @property
    def changes_nothing(self) -> bool:
        """Whether it is a plain run: the image's own size alone."""
        return tuple(self.scales) == (1.0,) and not self.mirror

    def __call__(
        self, images: Sequence[UInt8], run: Callable[[Sequence[UInt8]], Tensor], classes: int, device: torch.device
    ) -> Tensor:
        """Return the averaged probabilities.

        Args:
            images: the images, of one size.
            run: gives the probabilities of images of one size, (N, C, H, W).
            classes: C.
            device: where `run` leaves them.

        Shapes: N times (H, W, 3) RGB -> (N, C, H, W).

        Raises:
            DataError: they do not fit into the memory that is free.
        """
        height, width = images[0].shape[:2]
        sizes = [(max(1, round(height * scale)), max(1, round(width * scale))) for scale in self.scales]
        self._check_memory((len(images), classes, height, width), max(sizes), device)
        total: Tensor | None = None
        for size in sizes:
            shares = self._run_size(images, size, run)
            if size != (height, width):
                shares = functional.interpolate(shares, (height, width), mode="bilinear", align_corners=False)
            total = shares if total is None else total.add_(shares)
        assert total is not None
        return total.div_(len(sizes) * (2 if self.mirror else 1))

    def _run_size(
        self, images: Sequence[UInt8], size: tuple[int, int], run: Callable[[Sequence[UInt8]], Tensor]
    ) -> Tensor:
        """The probabilities in one size, mirrored ones added."""
        if size != images[0].shape[:2]:
            resized = [Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BILINEAR) for rgb in images]
            images = [np.asarray(image) for image in resized]
        shares = run(images)
        if self.mirror:
            shares = shares + run([np.ascontiguousarray(rgb[:, ::-1]) for rgb in images]).flip(3)
        return shares

    def _check_memory(self, shape: tuple[int, ...], largest: tuple[int, int], device: torch.device) -> None:
        free = free_bytes(device)
        # The sum, and of one size the probabilities, the mirrored ones and what is resized.
        need = 2 * shape_bytes(shape) + 3 * shape_bytes((*shape[:2], *largest))
        if free is not None and need > free:
            raise DataError(
                f"the average over {len(self.scales)} sizes of this image takes about {show_bytes(need)}, "
                f"{show_bytes(free)} are free. Leave out --scales and --mirror, or use a smaller image."
            )
