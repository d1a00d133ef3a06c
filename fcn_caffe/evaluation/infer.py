"""Segment photographs with a trained net."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcn_caffe.data.readers.image_files import IMAGE_SUFFIXES, image_blob, read_image
from fcn_caffe.errors import DataError, WeightsError
from fcn_caffe.evaluation.crf import DenseCrf, refuse_tile
from fcn_caffe.evaluation.net_inputs import photograph_mean, picture_mean
from fcn_caffe.evaluation.tiles import parts
from fcn_caffe.host.paths import Paths
from fcn_caffe.host.text import show
from fcn_caffe.net.graph import read_net
from fcn_caffe.net.net import Net
from fcn_caffe.net.strips import Strips
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.weights.transfer import copy_weights, count_blobs, load_weights

__all__ = ["Segmenter", "find_images", "net_mean", "trained_net"]


def trained_net(
    path: str | os.PathLike[str],
    weights: str | os.PathLike[str],
    *,
    stages: Sequence[str] = (),
    device: str = "cpu",
    paths: Paths | None = None,
    fork: str = "",
) -> Net:
    """Build a TEST net and fill it from a weights file. paths: what relative paths start from; fork: as in `Net`.

    Raises:
        WeightsError: the file does not fit, or lacks a layer of the net. A layer left at its filler would answer
            nonsense silently.
    """
    paths = paths or Paths()
    weights = paths.from_root(weights)
    arrays = load_weights(weights)
    net = Net(path, TEST, stages=stages, paths=paths, fork=fork, blob_counts=count_blobs(arrays))
    report = copy_weights(net, arrays, source=weights)
    if report.missing:
        raise WeightsError(
            f"{weights}: has no weights for layer {', '.join(map(str, report.missing))} of {net.path}. "
            "Use weights trained with this net, or the net they were trained with."
        )
    return net.to(device) if device != "cpu" else net


def net_mean(path: str | os.PathLike[str], paths: Paths | None = None) -> tuple[float, ...] | None:
    """The BGR mean that the net's data layer subtracts; None if unknown.

    A Python layer says it in its param_str or its module's MEAN, a layer of image files in transform_param.

    paths: what a relative path starts from.
    Raises: DataError for a layer of image files that scales them.
    """
    paths = paths or Paths()
    place = paths.from_root(path)
    for phase in (TEST, TRAIN):
        for layer in read_net(place, phase).layer:
            if layer.bottom:
                continue
            mean = photograph_mean(layer, place) if layer.type == "Python" else picture_mean(layer, place, paths)
            if mean is not None:
                return mean
    return None


def find_images(place: str | os.PathLike[str]) -> list[Path]:
    """List one image file, or all images of a folder by name. Raises: DataError where there are none."""
    path = Path(place)
    if path.is_dir():
        images = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not images:
            raise DataError(f"{path}: has no images ({', '.join(IMAGE_SUFFIXES)}).")
        return images
    if not path.exists():
        raise DataError(f"{path}: no such image or folder.")
    return [path]


class Segmenter:
    """A deploy net with its preprocessing: it takes an RGB image of any size and gives class indices.

    Args:
        net: a TEST net with one Input blob (1, 3, H, W).
        mean: the BGR mean to subtract.
        score: the blob of class scores.
        tile: how many columns to run at once at most, 0 for all; by default an image that would take too much memory
            is run in parts, see `tiles.parts`.
        crf: what refines the scores; the image is run whole then.
    Raises:
        DataError: the net has no such blobs, or `tile` and `crf` are both asked for.
    """

    def __init__(
        self,
        net: Net,
        mean: Sequence[float],
        score: str = "score",
        tile: int | None = None,
        crf: DenseCrf | None = None,
    ) -> None:
        if len(net.graph.inputs) != 1:
            raise DataError(
                f"net '{net.name}': expected one input blob in its deploy form, it has "
                f'{", ".join(net.graph.inputs) or "none"}. Give the net an Input layer under stage "deploy".'
            )
        if score not in net.blob_shapes:
            raise DataError(
                f"net '{net.name}' has no blob '{score}' to read scores from. "
                f"Its outputs: {', '.join(net.graph.outputs)}."
            )
        if crf is not None:
            refuse_tile(tile)
        self.net, self.mean, self.score, self.tile, self.crf = net, tuple(mean), score, tile, crf
        self.input = net.graph.inputs[0]

    @torch.no_grad()
    def __call__(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Segment an image. Shapes: (H, W, 3) RGB -> (H, W) class indices."""
        whole = self.crf is not None
        run = None if whole else parts(self.net, {self.input: (1, 3, *rgb.shape[:2])}, [self.score], self.tile)
        if run is not None:
            return self._in_parts(run, rgb)
        blob = torch.from_numpy(image_blob(rgb, self.mean))
        scores: Tensor = self.net({self.input: blob}, keep=(self.score,))[self.score]
        self._check(tuple(scores.shape), rgb)
        if self.crf is not None:
            scores = self.crf(scores, blob.to(scores.device))
        return np.asarray(scores[0].argmax(0).to(torch.uint8).cpu().numpy())

    def _in_parts(self, run: Strips, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Segment an image whose scores are never held whole."""
        self._check(run.shape(self.score), rgb)
        labels = np.empty(rgb.shape[:2], np.uint8)
        read = {self.input: lambda rows, columns: _part_blob(rgb[slice(*rows), slice(*columns)], self.mean)}
        for piece in run.pieces(read):
            classes = piece.values[0].argmax(0).to(torch.uint8).cpu().numpy()
            labels[slice(*piece.rows), slice(*piece.columns)] = classes
        return labels

    def _check(self, scores: Sequence[int], rgb: npt.NDArray[np.uint8]) -> None:
        if tuple(scores[2:]) != rgb.shape[:2]:
            raise DataError(
                f"net '{self.net.name}': blob '{self.score}' is {show(scores)} for an image of "
                f"{show(rgb.shape[:2])}. It should have the image's height and width."
            )

    def read(self, path: str | os.PathLike[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Read an image file and segment it; return image and labels. Raises: DataError naming the file."""
        rgb = read_image(path)
        return rgb, self(rgb)


def _part_blob(rgb: npt.NDArray[np.uint8], mean: Sequence[float]) -> Tensor:
    return torch.from_numpy(image_blob(rgb, mean))
