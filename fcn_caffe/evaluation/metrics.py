"""The four segmentation metrics, from one confusion histogram over all pixels of all images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fcn_caffe.errors import DataError
from fcn_caffe.host.ranks import Ranks
from fcn_caffe.host.text import show

__all__ = ["METRICS", "NAMES", "ConfusionMatrix", "Scores", "metrics_of"]

Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Scores as fractions of 1.

    Entries of `class_iu` and `class_accuracy` are NaN where they are 0 / 0. `absent` lists the classes that the ground
    truth never shows. The means leave out NaN alone: an absent class that was predicted has IU 0 and counts, except
    with `scores(leave_out_absent=True)`.
    """

    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    class_iu: npt.NDArray[np.float64]
    class_accuracy: npt.NDArray[np.float64]
    absent: tuple[int, ...]
    pixels: int
    loss: float | None = None
    confusion: npt.NDArray[np.int64] | None = None  # [i, j]: pixels of class i predicted as j
    trimap: Mapping[int, Scores] = field(default_factory=dict)  # the scores of bands along boundaries, by their width
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # 95 %, by metric
    images: int | None = None  # that the intervals are of

    def summary(self) -> dict[str, float]:
        """Return the four metrics by name, in the paper's order."""
        return {
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "mean_iu": self.mean_iu,
            "frequency_weighted_iu": self.frequency_weighted_iu,
        }


def _nan_mean(values: npt.NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


class ConfusionMatrix:
    """Counts of pixels by true and predicted class: `counts[i, j]` pixels of class i were predicted as j.

    Source: reference-nets, scoring.
    """

    def __init__(self, classes: int) -> None:
        if classes < 1:
            raise DataError(f"a confusion matrix needs at least 1 class, got {classes}.")
        self.classes = classes
        self.counts: npt.NDArray[np.int64] = np.zeros((classes, classes), dtype=np.int64)

    def add(self, label: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> None:
        """Count the pixels of two arrays of equal shape. Labels outside [0, classes) are void and not counted.

        Raises:
            DataError: the shapes differ, or a counted prediction is not a class.
        """
        label, prediction = np.asarray(label), np.asarray(prediction)
        if label.shape != prediction.shape:
            raise DataError(
                f"label is {show(label.shape)} and prediction {show(prediction.shape)}: they should be of one shape."
            )
        counted = (label >= 0) & (label < self.classes)
        truth = label[counted].astype(np.int64)
        answer = prediction[counted].astype(np.int64)
        if answer.size and (answer.min() < 0 or answer.max() >= self.classes):
            raise DataError(
                f"predictions run from {answer.min()} to {answer.max()}, classes from 0 to {self.classes - 1}."
            )
        self.counts += np.bincount(truth * self.classes + answer, minlength=self.classes**2).reshape(self.counts.shape)

    def gather(self, ranks: Ranks) -> None:
        """Count what the processes of a run have counted."""
        self.counts = ranks.add(torch.from_numpy(self.counts)).numpy()

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of as many classes."""
        if other.classes != self.classes:
            raise DataError(f"cannot merge {other.classes} classes into {self.classes}.")
        self.counts += other.counts

    def scores(self, *, leave_out_absent: bool = False, loss: float | None = None) -> Scores:
        """Compute the metrics; all are NaN where nothing was counted.

        Args:
            leave_out_absent: leave classes that the ground truth never shows out of mean IU even if they were
                predicted, as the paper scores SIFT Flow.
            loss: the mean loss, to keep beside the metrics.
        """
        counts = self.counts.astype(np.float64)
        scores = metrics_of(np.diag(counts), counts.sum(1), counts.sum(0), leave_out_absent)
        return replace(scores, loss=loss, confusion=self.counts.copy())


def metrics_of(correct: Counts, truth: Counts, predicted: Counts, leave_out_absent: bool = False) -> Scores:
    """Compute the metrics from numbers of pixels by class. Shapes: (C,).

    Args:
        correct: the pixels whose class was predicted.
        truth: the pixels of the class.
        predicted: the pixels that were predicted as the class.
        leave_out_absent: as in `ConfusionMatrix.scores`.
    """
    total = truth.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        class_accuracy = correct / truth
        class_iu = correct / (truth + predicted - correct)
        frequency = truth / total
        pixel_accuracy = float(correct.sum() / total)
    if leave_out_absent:
        class_iu = np.where(truth > 0, class_iu, np.nan)
    present = truth > 0
    return Scores(
        pixel_accuracy=pixel_accuracy,
        mean_accuracy=_nan_mean(class_accuracy),
        mean_iu=_nan_mean(class_iu),
        frequency_weighted_iu=float((frequency[present] * class_iu[present]).sum()) if total else float("nan"),
        class_iu=class_iu,
        class_accuracy=class_accuracy,
        absent=tuple(int(index) for index in np.flatnonzero(truth == 0)),
        pixels=int(total),
    )


NAMES = {
    "pixel_accuracy": "pixel acc.",
    "mean_accuracy": "mean acc.",
    "mean_iu": "mean IU",
    "frequency_weighted_iu": "f.w. IU",
}


METRICS = tuple(NAMES)
