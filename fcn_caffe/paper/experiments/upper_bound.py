"""The best score that answers on a coarse grid can have: labels shrunk and enlarged again, compared with themselves.

Source: Long et al., Appendix A.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fcn_caffe.data.readers.labels import check_labels, read_label
from fcn_caffe.data.sets.shapes_scenes import CLASSES, draw_scene
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.metrics import ConfusionMatrix
from fcn_caffe.paper.result import Result

__all__ = ["FACTORS", "coarse_label", "upper_bound", "upper_bounds"]

FACTORS = (128, 64, 32, 16, 8, 4)
_SEED, _SCENES, _SIDE = 1337, 60, 256  # of the generated labels
Labels = npt.NDArray[Any]


def coarse_label(label: Labels, factor: int, classes: int) -> Labels:
    """Shrink a label image by `factor` and enlarge it again, by nearest neighbour. Shapes: (H, W) -> (H, W).

    Each square of factor x factor gets the label of its middle; where that is void, the square's most frequent class;
    class 0 where all of it is void, which no score counts. Squares start at the top left corner.
    """
    height, width = label.shape
    coarse = np.zeros_like(label)
    for top in range(0, height, factor):
        for left in range(0, width, factor):
            square = label[top : top + factor, left : left + factor]
            middle = square[square.shape[0] // 2, square.shape[1] // 2]
            if not 0 <= middle < classes:
                counts = np.bincount(square[(square >= 0) & (square < classes)].astype(np.int64), minlength=1)
                middle = counts.argmax()
            coarse[top : top + factor, left : left + factor] = middle
    return coarse


def upper_bounds(labels: Iterable[Labels], classes: int, factors: Sequence[int] = FACTORS) -> dict[int, float]:
    """Measure mean IU by factor, over all label images together; labels outside [0, classes) are void."""
    confusions = {factor: ConfusionMatrix(classes) for factor in factors}
    for label in labels:
        for factor, confusion in confusions.items():
            confusion.add(label, coarse_label(label, factor, classes))
    return {factor: confusion.scores().mean_iu for factor, confusion in confusions.items()}


def upper_bound(
    folder: str | os.PathLike[str] | None = None,
    classes: int | None = None,
    ignore: int = 255,
    limit: int | None = None,
) -> Result:
    """Measure the upper bounds of a folder of label images, or of generated ones; they should rise as the factor falls.

    Args:
        folder: of label images; by default generated scenes are taken.
        classes: needed with a folder.
        ignore: the void label.
        limit: how many images are read, all by default.

    Raises: DataError for a folder without label images, and naming the file for labels out of range.
    """
    if folder is None:
        classes = len(CLASSES)
        generated = limit or _SCENES
        labels: Iterator[Labels] = (draw_scene(_SEED, "val", index, _SIDE)[1] for index in range(generated))
        source = f"{generated} generated scenes of {_SIDE}x{_SIDE}"
    else:
        if classes is None:
            raise DataError(f"{os.fspath(folder)}: say how many classes its labels have, with --classes.")
        paths = _label_files(folder)[:limit]
        labels = _read(paths, classes, ignore)
        source = f"{len(paths)} label images of {os.fspath(folder)}"
    bounds = upper_bounds(labels, classes)
    if any(np.isnan(bound) for bound in bounds.values()):
        raise DataError(f"{source}: every pixel is void ({ignore}). Is --ignore right?")
    result = Result(
        "upper-bound", "Appendix A", "coarse answers bound mean IU mildly: on PASCAL VOC 50.9 at factor 128, 98.5 at 4"
    )
    before = 0.0
    for factor, bound in bounds.items():
        result.measure(f"mean IU at factor {factor}, %", 100 * bound, "above the coarser one's", bound > before)
        before = bound
    result.remarks.append(f"over {source}; the paper's numbers are of its own labels")
    return result


def _label_files(folder: str | os.PathLike[str]) -> list[Path]:
    place = Path(folder)
    if not place.is_dir():
        raise DataError(f"{place}: no such folder of label images.")
    paths = sorted(path for path in place.iterdir() if path.suffix.lower() in (".png", ".bmp", ".gif", ".tif", ".tiff"))
    if not paths:
        raise DataError(f"{place}: has no label image (.png, .bmp, .gif or .tif).")
    return paths


def _read(paths: Iterable[Path], classes: int, ignore: int) -> Iterator[Labels]:
    for path in paths:
        label = read_label(path)
        check_labels(label, classes, ignore, path)
        # Any label may be the void one, even a class.
        yield np.where(label == ignore, np.int64(classes), label.astype(np.int64))
