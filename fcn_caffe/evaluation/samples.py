"""The images of a scoring that one wants to see: the first, the best and the worst, with truth and answer."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from fcn_caffe.evaluation.metrics import ConfusionMatrix
from fcn_caffe.evaluation.score import data_layer
from fcn_caffe.host.pictures import colour, label_picture
from fcn_caffe.host.ranks import Ranks
from fcn_caffe.net.net import Net

__all__ = ["Sample", "Samples"]

UInt8 = npt.NDArray[np.uint8]

KEPT = 4  # of each kind
LONGEST_SIDE = 320  # of a sample, in pixels; larger images are shown smaller


@dataclass(frozen=True)
class Sample:
    """One image as a person sees it.

    Attributes:
        place: its number among those that were scored, from 0.
        name: the data layer's name of it, else its number.
        mean_iu: over the classes that it shows or that were answered.
        image: RGB. Shape: (H, W, 3).
        labels: the true classes, 255 where void. Shape: (H, W).
        classes: the classes of the answer. Shape: (H, W).
    """

    place: int
    name: str
    mean_iu: float
    image: UInt8
    labels: UInt8
    classes: UInt8

    @property
    def truth(self) -> UInt8:
        """The labels in their classes' colours. Shape: (H, W, 3)."""
        return colour(self.labels)

    @property
    def answer(self) -> UInt8:
        """The answer in its classes' colours. Shape: (H, W, 3)."""
        return colour(self.classes)

    def record(self) -> dict[str, Any]:
        """Return what JSON can hold: the pictures as base64, the image as JPEG, the others as PNG."""
        return {
            "place": self.place,
            "name": self.name,
            "mean_iu": self.mean_iu,
            "size": [self.image.shape[1], self.image.shape[0]],
            "image": _base64(Image.fromarray(self.image), "JPEG"),
            "truth": _base64(label_picture(self.labels), "PNG"),
            "answer": _base64(label_picture(self.classes), "PNG"),
        }


class Samples:
    """An `on_sample` of score_heads that keeps few images of one head, and of those a small picture.

    Attributes:
        first: the first images that this process scored, always the same of a data layer.

    Args:
        net: the net.
        score: the score blob.
        label: its label blob.
        mean: the BGR mean that the data layer subtracts; None if unknown.
    """

    def __init__(self, net: Net, score: str, label: str, mean: Sequence[float] | None) -> None:
        self.score, self.label, self.mean = score, label, mean
        shape = net.blob_shapes.get(score, ())
        self.classes = shape[1] if len(shape) == 4 else 0  # 0: there is nothing to show
        self._source: object = data_layer(net)
        self.first: list[Sample] = []
        self._best: list[Sample] = []
        self._worst: list[Sample] = []

    def __call__(self, iteration: int, blobs: Mapping[str, Tensor], answers: Mapping[str, Tensor]) -> None:
        """Look at the images of one pass."""
        answer = answers[self.score]
        data, label = blobs.get("data"), blobs.get(self.label)
        if data is None or label is None or data.ndim != 4 or not 0 < self.classes <= 256:
            return
        labels = label.reshape(answer.shape).cpu().numpy()
        names = self._names(len(labels))
        for at, (truth, classes) in enumerate(zip(labels, answer.cpu().numpy(), strict=True)):
            matrix = ConfusionMatrix(self.classes)
            matrix.add(truth, classes)
            mean_iu = matrix.scores().mean_iu
            if mean_iu == mean_iu:  # else all of it is void
                place = iteration * len(labels) + at
                self._look(place, names[at] if names else str(place), mean_iu, data[at], truth, classes)

    def _names(self, count: int) -> list[str] | None:
        """Return the names of the images of a pass; None where the data layer does not say them."""
        name = getattr(self._source, "name", None)
        if not isinstance(name, str):
            return None
        names = name.split(", ") if count > 1 else [name]
        return names if len(names) == count else None

    def _look(
        self,
        place: int,
        name: str,
        mean_iu: float,
        image: Tensor,
        truth: npt.NDArray[Any],
        classes: npt.NDArray[Any],
    ) -> None:
        """Keep an image, if it is one of the first, the best or the worst."""
        is_first = len(self.first) < KEPT
        is_best = len(self._best) < KEPT or mean_iu > self._best[-1].mean_iu
        is_worst = len(self._worst) < KEPT or mean_iu < self._worst[-1].mean_iu
        if not (is_first or is_best or is_worst):
            return
        labels = np.where((truth >= 0) & (truth < self.classes), truth, 255)
        sample = Sample(
            place,
            name,
            mean_iu,
            _small(self._rgb(image)),
            _small(labels.astype(np.uint8)),
            _small(classes.astype(np.uint8)),
        )
        if is_first:
            self.first.append(sample)
        if is_best:
            self._best = _in_order([*self._best, sample], best=True)
        if is_worst:
            self._worst = _in_order([*self._worst, sample], best=False)

    def _rgb(self, image: Tensor) -> UInt8:
        """Return an image blob as a picture. Shapes: (C, H, W), BGR -> (H, W, 3)."""
        array = image.float().cpu().numpy()
        array = array[:3] if len(array) >= 3 else array[:1].repeat(3, 0)
        mean = self.mean if self.mean is not None and len(self.mean) == 3 else None
        if mean is None:
            low, high = float(array.min()), float(array.max())
            array = (array - low) * (255 / (high - low or 1))
        else:
            array = array + np.asarray(mean, np.float32)[:, None, None]
        return np.asarray(array[::-1].transpose(1, 2, 0).round().clip(0, 255).astype(np.uint8))

    def record(self, ranks: Ranks) -> dict[str, list[dict[str, Any]]]:
        """Return the best and the worst images of all processes, as JSON holds them. All processes have to call it."""
        known = {one["place"]: one for part in ranks.gather(self._records()) for one in part}
        every = sorted(known.values(), key=lambda one: (-one["mean_iu"], one["place"]))
        half = min(KEPT, (len(every) + 1) // 2)  # of few images none is both
        return {"best": every[:half], "worst": every[half:][::-1][:KEPT]}

    def _records(self) -> list[dict[str, Any]]:
        return [sample.record() for sample in {one.place: one for one in (*self._best, *self._worst)}.values()]


def _in_order(samples: list[Sample], best: bool) -> list[Sample]:
    return sorted(samples, key=lambda sample: -sample.mean_iu if best else sample.mean_iu)[:KEPT]


def _small(array: UInt8) -> UInt8:
    """Make a picture small enough; labels stay labels."""
    height, width = array.shape[:2]
    share = LONGEST_SIDE / max(height, width)
    if share >= 1:
        return array
    size = (max(1, round(width * share)), max(1, round(height * share)))
    method = Image.Resampling.NEAREST if array.ndim == 2 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(array).resize(size, method))


def _base64(picture: Image.Image, form: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **({"quality": 88} if form == "JPEG" else {"optimize": True}))
    return base64.b64encode(buffer.getvalue()).decode()
