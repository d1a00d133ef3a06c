"""Scores beside the four: near the boundaries of the ground truth, and how far they would vary with other images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import max_pool2d

from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.metrics import METRICS, ConfusionMatrix, Scores, metrics_of
from fcn_caffe.host.ranks import Ranks
from fcn_caffe.host.text import show
from fcn_caffe.net.own_passes import in_order

__all__ = ["Details", "trimap"]

RESAMPLES = 2000  # of the images; the ends of the intervals vary by about a thirtieth of the standard error
OUTSIDE = 100 * (1 - 0.95) / 2  # per cent of the resamples that lie below an interval, and above it


@dataclass(frozen=True)
class Details:
    """What to score beside the four metrics.

    Args:
        trimap: widths of bands along the boundaries, in pixels, see `trimap`; the metrics of each band are computed.
        intervals: whether to compute 95 % confidence intervals over the images.
        seed: what the resampling of the images starts from.
    """

    trimap: tuple[int, ...] = ()
    intervals: bool = False
    seed: int = 1337

    def __bool__(self) -> bool:
        return bool(self.trimap) or self.intervals


def trimap(label: npt.NDArray[Any], width: int) -> npt.NDArray[np.bool_]:
    """Say which pixels are at most `width` pixels from one of another label. Shapes: (N, H, W) -> (N, H, W).

    The distance is the larger of rows and columns, so that a straight boundary has `width` pixels on either side. Void
    is a label too: where objects have a rim of void, as in PASCAL VOC, the band lies along the rim. The image's edge is
    no boundary.

    Source: Kohli, Ladicky and Torr, Robust Higher Order Potentials for Enforcing Label Consistency, IJCV 2009, whose
    trimap is a band around the boundaries of the ground truth; Chen et al., Semantic Image Segmentation with Deep
    Convolutional Nets and Fully Connected CRFs, ICLR 2015, who take it around the void of PASCAL VOC.
    """
    values = torch.from_numpy(np.ascontiguousarray(label, dtype=np.float32))[:, None]
    highest = _largest(values, width)
    lowest = -_largest(-values, width)
    return np.asarray((highest != lowest)[:, 0].numpy())


def _largest(values: torch.Tensor, width: int) -> torch.Tensor:
    """Return the largest value around each pixel: of its column, then of these along its row, which is quicker."""
    rows, columns = (min(width, size - 1) for size in values.shape[2:])  # no pixel is further away
    tallest = max_pool2d(values, (2 * rows + 1, 1), stride=1, padding=(rows, 0))
    return max_pool2d(tallest, (1, 2 * columns + 1), stride=1, padding=(0, columns))


class DetailCounter:
    """Counts the pixels of a head's images for `Details`.

    Args:
        details: what to score.
        classes: the number of classes.
    """

    def __init__(self, details: Details, classes: int) -> None:
        self.details, self.classes = details, classes
        self.bands = {width: ConfusionMatrix(classes) for width in sorted(set(details.trimap))}
        # Of each pass, image and class: pixels that are right, pixels of the ground truth, pixels that are predicted.
        self.passes: list[npt.NDArray[np.int64]] = []

    def add(self, truth: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> None:
        """Count the pixels of whole images. Shapes: (N, ...), and (N, H, W) for a trimap.

        Raises:
            DataError: a trimap is asked for, and the predictions are no pictures.
        """
        if self.bands and truth.ndim != 3:
            raise DataError(f"predictions are {show(truth.shape)}: a trimap is of pictures. Leave it out.")
        for width, matrix in self.bands.items():
            near = trimap(truth, width)
            matrix.add(truth[near], prediction[near])
        if not self.details.intervals:
            return
        images = []
        for image, answer in zip(truth, prediction, strict=True):
            matrix = ConfusionMatrix(self.classes)
            matrix.add(image, answer)
            images.append(np.stack((np.diag(matrix.counts), matrix.counts.sum(1), matrix.counts.sum(0))))
        self.passes.append(np.stack(images))

    def gather(self, ranks: Ranks) -> None:
        """Count what the processes of a run have counted, in the order of the passes."""
        for matrix in self.bands.values():
            matrix.gather(ranks)
        self.passes = [np.array(table) for table in in_order([table.tolist() for table in self.passes], ranks)]

    def complete(self, scores: Scores, leave_out_absent: bool) -> Scores:
        """Return the scores with what was asked for.

        Raises:
            DataError: intervals of fewer than two images are asked for.
        """
        bands = {width: matrix.scores(leave_out_absent=leave_out_absent) for width, matrix in self.bands.items()}
        scores = replace(scores, trimap=bands)
        if not self.details.intervals:
            return scores
        images = sum(map(len, self.passes))
        if images < 2:
            raise DataError(f"{images} image scored: intervals need two or more, whose scores can vary.")
        return replace(scores, intervals=self._intervals(leave_out_absent), images=images)

    def _intervals(self, leave_out_absent: bool) -> dict[str, tuple[float, float]]:
        """Return the percentile interval of each metric: images are drawn with replacement, their pixels counted."""
        images = np.concatenate(self.passes)
        table = images.astype(np.float64).reshape(len(images), -1)
        generator = np.random.default_rng(self.details.seed)
        shares = np.full(len(table), 1 / len(table))
        found = np.empty((RESAMPLES, len(METRICS)))
        for row in found:
            correct, truth, predicted = (generator.multinomial(len(table), shares) @ table).reshape(3, -1)
            row[:] = list(metrics_of(correct, truth, predicted, leave_out_absent).summary().values())
        ends = np.full((2, len(METRICS)), np.nan)
        known = ~np.isnan(found).all(0)
        ends[:, known] = np.nanpercentile(found[:, known], (OUTSIDE, 100 - OUTSIDE), axis=0)
        return {name: (float(low), float(high)) for name, low, high in zip(METRICS, *ends, strict=True)}
