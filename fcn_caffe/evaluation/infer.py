"""Segment photographs with a trained net."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fcn_caffe.data.readers.image_files import Float32, UInt8, image_blob
from fcn_caffe.errors import DataError, WeightsError
from fcn_caffe.evaluation.average import Average
from fcn_caffe.evaluation.crf import DenseCrf, refuse_tile
from fcn_caffe.evaluation.net_inputs import photograph_mean, picture_mean
from fcn_caffe.evaluation.tiles import batch_that_fits, check_whole, parts, refuse_batch
from fcn_caffe.host.paths import Paths
from fcn_caffe.host.text import show
from fcn_caffe.net.graph import read_net
from fcn_caffe.net.memory import shape_bytes
from fcn_caffe.net.net import Net
from fcn_caffe.net.strips import Span
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.weights.transfer import copy_weights, count_blobs, load_weights

__all__ = ["Answer", "Segmenter", "net_mean", "trained_net"]

ON_DISK = 256 << 20  # bytes: larger probabilities are not held in memory

MOST_CLASSES = 256  # what 8 bits tell apart

ScoredPart = tuple[Tensor, Span, Span]  # scores (N, C, rows, columns), and their place


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


class Answer:
    """What a net says of an image.

    Attributes:
        labels: class indices, (H, W) uint8.
        confidence: the largest class's probability, (H, W) float32; None where it was not asked for.
        probabilities: the softmax of the scores, (C, H, W) float32; None where they were not asked for.
    """

    def __init__(
        self,
        size: tuple[int, int],
        classes: int,
        *,
        confidence: bool = False,
        probabilities: bool = False,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self.labels: UInt8 = np.empty(size, np.uint8)
        self.confidence: Float32 | None = np.empty(size, np.float32) if confidence else None
        self.probabilities: Float32 | None = _new_array((classes, *size), folder) if probabilities else None

    @property
    def bytes_in_memory(self) -> int:
        """The bytes of what is there once all parts have come, but for what lies in a file."""
        arrays = [self.labels, self.confidence, self.probabilities]
        return sum(array.nbytes for array in arrays if array is not None and not isinstance(array, np.memmap))

    def add(self, scores: Tensor, rows: Span, columns: Span) -> None:
        """Take the scores of a part. Shape: (C, rows, columns)."""
        height, width = slice(*rows), slice(*columns)
        self.labels[height, width] = scores.argmax(0).to(torch.uint8).cpu().numpy()
        if self.confidence is None and self.probabilities is None:
            return
        shares = scores.float().softmax(0)
        if self.confidence is not None:
            self.confidence[height, width] = shares.amax(0).cpu().numpy()
        if self.probabilities is not None:
            self.probabilities[:, height, width] = shares.cpu().numpy()


def _new_array(shape: tuple[int, ...], folder: str | os.PathLike[str] | None) -> Float32:
    """Return an array; a large one is in a nameless file of the folder, so that it is not held in memory."""
    if folder is None or shape_bytes(shape) < ON_DISK:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float32, "w+", shape=shape)


class Segmenter:
    """A deploy net with its preprocessing: it takes RGB images of any size and gives class indices and probabilities.

    Args:
        net: a TEST net with one Input blob (1, 3, H, W).
        mean: the BGR mean to subtract.
        score: the blob of class scores.
        tile: how many columns to run at once at most, 0 for all; by default an image that would take too much memory
            is run in parts, see `tiles.parts`.
        crf: what refines the scores; the image is run whole then.
        average: the sizes that an image is run in, and whether mirrored too; the mean of their probabilities counts.
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
        average: Average | None = None,
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
        shape = net.blob_shapes[score]
        if len(shape) != 4 or shape[1] > MOST_CLASSES:
            raise DataError(
                f"net '{net.name}': blob '{score}' is {show(shape)}, and scores are N x classes x H x W of at most "
                f"{MOST_CLASSES} classes, as labels are written in 8 bits. Name another blob."
            )
        if crf is not None:
            refuse_tile(tile)
        self.net, self.mean, self.score, self.tile, self.crf = net, tuple(mean), score, tile, crf
        self.average = None if average is None or average.changes_nothing else average
        self.input = net.graph.inputs[0]

    @property
    def classes(self) -> int:
        """How many classes the scores are of."""
        return self.net.blob_shapes[self.score][1]

    def __call__(self, rgb: UInt8) -> UInt8:
        """Segment an image. Shapes: (H, W, 3) RGB -> (H, W) class indices."""
        return self.answer([rgb])[0].labels

    @torch.no_grad()
    def answer(
        self,
        images: Sequence[UInt8],
        *,
        confidence: bool = False,
        probabilities: bool = False,
        folder: str | os.PathLike[str] | None = None,
    ) -> list[Answer]:
        """Segment images of one size in one go.

        Args:
            images: the images, (H, W, 3) RGB each; see `fitting_batch` for how many.
            confidence: whether the largest probability is asked for.
            probabilities: whether all probabilities are asked for.
            folder: where probabilities may lie, in a nameless file, if they are large; in memory by default.
        Raises:
            DataError: the scores are of another size than the images, or of fewer images; memory is short; or an
                answer depends on the other images.
        """
        if len(images) > 1:
            refuse_batch(self.net)
        height, width = images[0].shape[:2]
        answers = [
            Answer((height, width), self.classes, confidence=confidence, probabilities=probabilities, folder=folder)
            for _ in images
        ]
        beside = sum(answer.bytes_in_memory for answer in answers)
        for scores, rows, columns in self._scores(images, beside):
            for answer, of_image in zip(answers, scores, strict=True):
                answer.add(of_image, rows, columns)
        return answers

    def fitting_batch(self, height: int, width: int, most: int) -> int:
        """Return how many images of a size are run in one go: what takes 2 GiB or is free, at most `most`."""
        if most == 1 or self.tile:
            return 1
        scale = 1.0 if self.average is None else max(self.average.scales)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        return batch_that_fits(self.net, self.input, (3, *size), most)

    def _scores(self, images: Sequence[UInt8], beside: int) -> Iterator[ScoredPart]:
        """The final scores of images, part by part; beside: the bytes of their answers."""
        if self.average is None and self.crf is None:
            yield from self._run(images, beside)
            return
        rows, columns = (0, images[0].shape[0]), (0, images[0].shape[1])
        if self.crf is not None:
            self.crf.check_memory(self._blob(images), self.classes, self.net.device, beside)
        if self.average is None:
            check_whole(self.net, {self.input: (len(images), 3, *images[0].shape[:2])}, beside)
            scores = self._whole(images)
        else:
            # Logarithms of probabilities are scores whose softmax they are.
            shares = self.average(images, self._probabilities, self.classes, self.net.device)
            scores = shares.clamp_min_(torch.finfo(shares.dtype).tiny).log_()
        if self.crf is not None:
            scores = self.crf(scores, self._blob(images).to(scores.device))
        yield scores, rows, columns

    def _probabilities(self, images: Sequence[UInt8]) -> Tensor:
        """The probabilities of one pass of the net. Shape: (N, C, H, W)."""
        shares: Tensor | None = None
        for scores, rows, columns in self._run(images):
            part = scores.float().softmax(1)
            if part.shape[2:] == images[0].shape[:2]:
                return part
            if shares is None:
                shares = part.new_empty((*part.shape[:2], *images[0].shape[:2]))
            shares[:, :, slice(*rows), slice(*columns)] = part
        assert shares is not None
        return shares

    def _run(self, images: Sequence[UInt8], beside: int = 0) -> Iterator[ScoredPart]:
        """The net's scores, in parts where an image alone would take too much memory."""
        size = images[0].shape[:2]
        run = None
        if len(images) == 1:
            run = parts(self.net, {self.input: (1, 3, *size)}, [self.score], self.tile, beside)
        if run is None:
            yield self._whole(images), (0, size[0]), (0, size[1])
            return
        self._check(run.shape(self.score), images)
        rgb = images[0]
        read = {self.input: lambda rows, columns: self._blob([rgb[slice(*rows), slice(*columns)]])}
        for piece in run.pieces(read):
            yield piece.values, piece.rows, piece.columns

    def _whole(self, images: Sequence[UInt8]) -> Tensor:
        scores: Tensor = self.net({self.input: self._blob(images)}, keep=(self.score,))[self.score]
        self._check(tuple(scores.shape), images)
        return scores

    def _blob(self, images: Sequence[UInt8]) -> Tensor:
        blobs = [torch.from_numpy(image_blob(rgb, self.mean)) for rgb in images]
        return blobs[0] if len(blobs) == 1 else torch.cat(blobs)

    def _check(self, scores: Sequence[int], images: Sequence[UInt8]) -> None:
        size = images[0].shape[:2]
        if tuple(scores[2:]) != size:
            raise DataError(
                f"net '{self.net.name}': blob '{self.score}' is {show(scores)} for an image of "
                f"{show(size)}. It should have the image's height and width."
            )
        if scores[0] != len(images):
            raise DataError(
                f"net '{self.net.name}': blob '{self.score}' is {show(scores)} for {len(images)} images. "
                "The net takes one image at a time: leave out --batch."
            )
