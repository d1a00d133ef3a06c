"""Score a net over its data layer's images: one global confusion histogram, as the paper does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcn_caffe.data.readers.labels import read_classes
from fcn_caffe.errors import DataError
from fcn_caffe.evaluation.metrics import ConfusionMatrix, Scores
from fcn_caffe.host.text import show
from fcn_caffe.net.net import Net

__all__ = [
    "chosen_classes",
    "class_names",
    "data_layer",
    "format_scores",
    "heads",
    "leaves_out_absent",
    "score_heads",
    "score_net",
]

OnImage = Callable[[int, Mapping[str, Tensor]], None]


def data_layer(net: Net) -> Any | None:
    """The net's first Python layer that knows how many images it has, or None."""
    for layer in net.layers.values():
        user = getattr(layer, "user", None)
        if user is not None and hasattr(user, "__len__"):
            return user
    return None


def _iterations(net: Net, iterations: int | None) -> int:
    if iterations is None:
        source = data_layer(net)
        batch = getattr(source, "batch", 1)
        iterations = -(-len(source) // batch) if source is not None else 0
    if iterations < 1:
        raise DataError(
            f"net '{net.name}': how many iterations to score is not known from its data layer. Give their number."
        )
    return iterations


def _check(net: Net, score: str, label: str) -> int:
    for what, blob in (("score", score), ("label", label)):
        if blob not in net.blob_shapes:
            near = ", ".join(name for name in net.blob_shapes if what in name) or ", ".join(net.graph.outputs)
            raise DataError(f"net '{net.name}' has no {what} blob '{blob}'. It has: {near}.")
    shape = net.blob_shapes[score]
    if len(shape) < 2:
        raise DataError(f"net '{net.name}': score blob '{score}' is {show(shape)}: expected (N, classes, ...).")
    return shape[1]


def _places(net: Net, score: str, classes: int, only: Sequence[int] | None) -> npt.NDArray[np.int64] | None:
    """The row of the matrix that each class is counted in, -1 for none; None where each has its own."""
    if only is None:
        return None
    wrong = [index for index in only if not 0 <= index < classes]
    if wrong or not only or len(set(only)) < len(only):
        listed = ", ".join(map(str, wrong or only)) or "none"
        raise DataError(
            f"net '{net.name}': classes to score alone: {listed}. Give each once, from 0 to {classes - 1} ('{score}')."
        )
    places = np.full(classes, -1, np.int64)
    places[list(only)] = np.arange(len(only))
    return places


def _placed(labels: npt.NDArray[Any], places: npt.NDArray[np.int64] | None) -> npt.NDArray[Any]:
    if places is None:
        return labels
    known = (labels >= 0) & (labels < len(places))
    return np.where(known, places[np.where(known, labels, 0).astype(np.int64)], -1)


def best_classes(scores: Tensor, only: Sequence[int] | None = None) -> Tensor:
    """Place of the highest score in `only`, or among all classes, the first of equals: (N, C, H, W) to (N, H, W)."""
    return (scores if only is None else scores[:, list(only)]).argmax(1)


@torch.no_grad()
def score_heads(
    net: Net,
    iterations: int | None = None,
    heads: Mapping[str, str] | None = None,
    *,
    loss: str = "loss",
    leave_out_absent: bool = False,
    only: Sequence[int] | None = None,
    on_image: OnImage | None = None,
) -> dict[str, Scores]:
    """Score several heads in one pass over the images.

    heads: label blob by score blob. Each score is (N, C, H, W) and its label (N, 1, H, W); the prediction is the
    class of the highest score, the first of equals. Averaged along is the loss that reads a head's score; where none
    does, the blob called `loss`, unless it is another score's.
    only: score these classes, as a task of their own: other pixels are void, the answer is the best of them, and the
    scores are in their order.
    `on_image(iteration, blobs)` sees the score and label blobs, and `data`, of every iteration.
    Returns scores by score blob. The net runs in eval mode and is put back as it was.
    Raises: DataError for blobs the net lacks, or scores and labels of different sizes.
    """
    heads = heads or {"score": "label"}
    counts = {score: _check(net, score, label) for score, label in heads.items()}
    places = {score: _places(net, score, count, only) for score, count in counts.items()}
    matrices = {score: ConfusionMatrix(len(only) if only is not None else count) for score, count in counts.items()}
    iterations = _iterations(net, iterations)
    losses = _losses(net, heads, loss)
    keep = {*heads, *heads.values(), *losses.values()}
    if on_image is not None and "data" in net.blob_shapes:
        keep.add("data")
    was_training, summed = net.training, dict.fromkeys(losses.values(), 0.0)
    net.eval()
    try:
        for iteration in range(iterations):
            blobs = net(keep=keep)
            for score, label in heads.items():
                prediction, truth = best_classes(blobs[score], only), blobs[label]
                if truth.numel() != prediction.numel():
                    raise DataError(
                        f"net '{net.name}': score '{score}' is {tuple(blobs[score].shape)} and label '{label}' "
                        f"{show(truth.shape)}. The score should have the label's height and width."
                    )
                labels = truth.reshape(prediction.shape).cpu().numpy()
                matrices[score].add(_placed(labels, places[score]), prediction.cpu().numpy())
            for blob in summed:
                summed[blob] += float(blobs[blob].sum())
            if on_image is not None:
                on_image(iteration, blobs)
    finally:
        net.train(was_training)
    means = {score: summed[blob] / iterations for score, blob in losses.items()}
    return {
        score: matrix.scores(leave_out_absent=leave_out_absent, loss=means.get(score))
        for score, matrix in matrices.items()
    }


def _losses(net: Net, heads: Mapping[str, str], other: str) -> dict[str, str]:
    """The loss blob of each score blob: its own, or `other` where that is nobody's."""
    own = {node.bottoms[0]: node.tops[0] for node in net.graph.nodes if node.type == "SoftmaxWithLoss"}
    shared = [other] if other in net.blob_shapes and other not in own.values() else []
    return {score: blob for score in heads for blob in ([own[score]] if score in own else shared)}


def score_net(
    net: Net,
    iterations: int | None = None,
    score: str = "score",
    label: str = "label",
    *,
    leave_out_absent: bool = False,
    on_image: OnImage | None = None,
) -> Scores:
    """Score one head of a TEST net over `iterations` passes; by default once over its data layer's images.

    Shapes: score (N, C, H, W), label (N, 1, H, W).
    Raises: DataError, see `score_heads`.
    """
    found = score_heads(net, iterations, {score: label}, leave_out_absent=leave_out_absent, on_image=on_image)
    return found[score]


def class_names(net: Net, classes: int) -> list[str] | None:
    """Names of the classes: from `classes.txt` beside the net's file, or what its data layer's module calls CLASSES.

    None where neither has as many names as there are classes.
    """
    if net.path is not None and (card := Path(net.path).parent / "classes.txt").is_file():
        names = read_classes(card)
        if len(names) == classes:
            return names
    source = data_layer(net)
    if source is not None:
        names = list(getattr(inspect.getmodule(type(source)), "CLASSES", ()))
        if len(names) == classes:
            return names
        # PASCAL-Context reads its list of classes with the data set; background comes before them.
        names = ["background", *getattr(source, "labels_59", ())]
        if len(names) == classes:
            return names
    return None


def chosen_classes(net: Net, score: str, given: Sequence[str]) -> list[int]:
    """The indices of classes of a score blob, in the order given.

    given: names, indices, and files of them, one a line; in files `INDEX: NAME` counts by its name, as the reference's
    lists have the numbers of another task, and text after `#` is a comment. Upper case, blanks, dashes and underscores
    of names do not matter, and the data set's other spellings are known.
    Raises: DataError naming the file and line, or the class, that is none of the net's.
    """
    count = _check(net, score, score)
    names = class_names(net, count) or []
    source = data_layer(net)
    other = getattr(inspect.getmodule(type(source)), "OTHER_SPELLING", {}) if source is not None else {}
    places = {_plain(name): index for index, name in enumerate(names)}
    places = {_plain(new): places[_plain(old)] for new, old in other.items() if _plain(old) in places} | places
    found = []
    for where, text in _class_lines(given, places):
        index = int(text) if text.isdecimal() else places.get(_plain(text.rpartition(":")[2]), -1)
        if not 0 <= index < count:
            near = get_close_matches(_plain(text.rpartition(":")[2]), places, 1)
            none = (
                "" if names else " The classes have no names here: put a classes.txt beside the net, or give indices."
            )
            hint = f" Did you mean {names[places[near[0]]]!r}?" if near else none
            raise DataError(
                f"{where}: {text!r} is no class of '{score}'.{hint} "
                f"Give names, or indices from 0 to {count - 1}; in a file one a line."
            )
        found.append(index)
    if len(set(found)) < len(found):
        twice = next(index for index in found if found.count(index) > 1)
        raise DataError(f"class {names[twice] if names else twice} is chosen twice. Give each class once.")
    return found


def _plain(name: str) -> str:
    return "".join(name.lower().replace("-", "").replace("_", "").split())


def _class_lines(given: Sequence[str], known: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Where a class is named, and how. A class's name comes before a file of that name."""
    for text in given:
        if text.isdecimal() or _plain(text) in known or not Path(text).is_file():
            yield "classes", text
            continue
        try:
            lines = Path(text).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{text}: the list of classes cannot be read ({error}).") from error
        stripped = [(number, line.split("#")[0].strip()) for number, line in enumerate(lines, 1)]
        if not any(line for _, line in stripped):
            raise DataError(f"{text}: lists no class. Give names or indices, one a line.")
        yield from ((f"{text}:{number}", line) for number, line in stripped if line)


def format_scores(scores: Scores, names: list[str] | None = None) -> str:
    """The four metrics in per cent, then IU and accuracy of every class; absent classes say so."""
    lines = [
        f"pixel accuracy  {scores.pixel_accuracy * 100:6.2f}",
        f"mean accuracy   {scores.mean_accuracy * 100:6.2f}",
        f"mean IU         {scores.mean_iu * 100:6.2f}",
        f"f.w. IU         {scores.frequency_weighted_iu * 100:6.2f}",
    ]
    if scores.loss is not None:
        lines.append(f"loss        {scores.loss:10.5g}")
    names = names or [str(index) for index in range(len(scores.class_iu))]
    width = max(5, *(len(name) for name in names))
    lines.append(f"\n{'class':<{width}}     IU    acc")
    for index, name in enumerate(names):
        iu, accuracy = scores.class_iu[index] * 100, scores.class_accuracy[index] * 100
        note = "  absent from the ground truth" if index in scores.absent else ""
        lines.append(f"{name:<{width}} {_cell(iu)} {_cell(accuracy)}{note}")
    return "\n".join(lines)


def _cell(value: float) -> str:
    return "     -" if value != value else f"{value:6.2f}"


def heads(net: Net) -> dict[str, str]:
    """Score blob -> label blob: the bottoms of every softmax loss of the net."""
    return {node.bottoms[0]: node.bottoms[1] for node in net.graph.nodes if node.type == "SoftmaxWithLoss"}


def leaves_out_absent(net: Net) -> bool:
    """Whether classes that the ground truth never shows are left out of the means, as the paper does for SIFT Flow."""
    return bool(getattr(data_layer(net), "leaves_out_absent", False))
