"""A fully connected CRF behind any net, as DeepLab refined its scores: mean field over position and colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod

import torch
from torch import Tensor

from fcn_caffe.errors import DataError
from fcn_caffe.host.free_memory import free_bytes, show_bytes
from fcn_caffe.host.text import show
from fcn_caffe.layers.forks.mean_field import mean_field, mean_field_bytes
from fcn_caffe.layers.forks.permutohedral import PixelFilter, bilateral_features, count_points, position_features
from fcn_caffe.net.memory import FLOAT
from fcn_caffe.net.net import Net

MOST = 1e6  # of its numbers: what comes of them is float32

__all__ = ["DenseCrf", "Refiner", "refuse_tile"]


@dataclass(frozen=True)
class DenseCrf:
    """Refine scores by what close pixels, and pixels of like colours, are.

    Krähenbühl and Koltun's mean field with a Potts model. The names are those of DeepLab's DenseCRF. Its paper takes 10
    iterations with pos_w 3 and pos_xy_std 3, and searches the others on a hundred images held back: bi_w from 3 to 6,
    bi_xy_std from 30 to 100, bi_rgb_std from 3 to 6.

    Attributes:
        iterations: the steps.
        pos_w: the weight of pixels that are close.
        pos_xy_std: how far that reaches, in pixels.
        bi_w: the weight of pixels that are close and of a like colour.
        bi_xy_std: how far that reaches, in pixels.
        bi_rgb_std: how like colours are, in values of 255.

    Raises:
        DataError: a number that makes no sense.
    """

    iterations: int = 10
    pos_w: float = 3.0
    pos_xy_std: float = 3.0
    bi_w: float = 4.0
    bi_xy_std: float = 49.0
    bi_rgb_std: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name.endswith("_w") else 1e-3 if field.name.endswith("_std") else 1
            if not least <= value <= MOST:
                raise DataError(f"CRF: {field.name} is {value:g}: give a number from {least:g} to {MOST:g}.")

    @torch.no_grad()
    def check_memory(self, images: Tensor, classes: int, device: torch.device, beside: int = 0) -> None:
        """Refuse images whose refinement would take more than is free, before their scores are there.

        Args:
            images: the images, as for a call.
            classes: how many classes the scores are of.
            device: where they are refined.
            beside: how many bytes of answers come to be there meanwhile.

        Shapes: (N, colours, H, W).

        Raises:
            DataError: it would take more.
        """
        free = free_bytes(device)
        if free is None:
            return
        count, colours, *size = images.shape
        pixels = prod(size)
        beside += FLOAT * count * pixels * (classes + colours)  # the scores and the images

        def need(points: int) -> int:
            return beside + mean_field_bytes(pixels, points, classes)

        if need((colours + 3) * pixels) <= free:  # each pixel has corners of its own
            return
        points = 0
        if need(points) <= free:  # it depends on the colours
            features = (bilateral_features(image, self.bi_xy_std, self.bi_rgb_std) for image in images)
            points = max(map(count_points, features))
        if need(points) > free:
            raise DataError(
                f"CRF: an image of {show(size)} and {classes} classes takes about {show_bytes(need(points))} to "
                f"refine, {show_bytes(free)} are free. Use a smaller image, leave out --crf, or free some memory."
            )

    @torch.no_grad()
    def __call__(self, scores: Tensor, images: Tensor) -> Tensor:
        """Return refined scores.

        Args:
            scores: class scores; what a softmax makes of them are the probabilities.
            images: the images, with or without their mean, in any order of colours.

        Shapes: (N, C, H, W), (N, colours, H, W) -> (N, C, H, W).

        Raises:
            DataError: images of another size than the scores.
        """
        sizes = [(blob.shape[0], *blob.shape[2:]) for blob in (scores, images)]
        if sizes[0] != sizes[1] or len(sizes[0]) != 3:
            shapes = f"scores are {show(scores.shape)} and images {show(images.shape)}"
            raise DataError(f"CRF: {shapes}: both need N x C x H x W, of one N, H and W.")
        position = PixelFilter.of(position_features(*sizes[0][1:], self.pos_xy_std, scores.device))
        return torch.stack([self._refine(*pair, position) for pair in zip(scores, images, strict=True)])

    def _refine(self, scores: Tensor, image: Tensor, position: PixelFilter) -> Tensor:
        """Refine one picture's scores. Shapes: (C, H, W), (colours, H, W) -> (C, H, W)."""
        colour = PixelFilter.of(bilateral_features(image, self.bi_xy_std, self.bi_rgb_std))
        unary = scores.log_softmax(0).flatten(1).T.contiguous()

        def message(probabilities: Tensor) -> Tensor:  # the more a class is around, the less it costs
            return -(self.pos_w * position(probabilities) + self.bi_w * colour(probabilities))

        return mean_field(unary, unary, message, self.iterations).T.reshape(scores.shape)


def refuse_tile(tile: int | None) -> None:
    """Raise DataError where images are to be run in parts: a CRF needs them whole."""
    if tile:
        raise DataError(f"--tile {tile}: a CRF needs images whole. Leave out --tile, or --crf.")


@dataclass(frozen=True)
class Refiner:
    """A CRF and the blob of the images that it looks at, to refine the scores of a pass over a net."""

    crf: DenseCrf
    image: str = "data"

    def check(self, net: Net, tile: int | None) -> None:
        """Raise DataError where the net has no such images, or is to be run in parts."""
        refuse_tile(tile)
        if self.image not in net.blob_shapes:
            raise DataError(
                f"net '{net.name}' has no blob '{self.image}' that a CRF could look at. Name the blob of the images."
            )

    def check_memory(self, given: Mapping[str, Tensor], net: Net, heads: Sequence[str]) -> None:
        """Refuse images that would take too much memory, where they come from the data layers: see `DenseCrf`."""
        images = given.get(self.image)
        if images is not None and images.ndim == 4:
            classes = max(net.blob_shapes[score][1] for score in heads)
            self.crf.check_memory(images, classes, net.device)

    def __call__(self, score: str, blobs: Mapping[str, Tensor]) -> Tensor:
        """Return the refined scores of a head."""
        return self.crf(blobs[score], blobs[self.image])
