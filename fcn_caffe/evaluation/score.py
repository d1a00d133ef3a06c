"""Score a net over its data layer's images: one confusion matrix over all pixels, as in the paper."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcn_caffe.data.layers.listed import ListSource
from fcn_caffe.data.readers.labels import read_classes
from fcn_caffe.data.readers.text_file import read_lines
from fcn_caffe.data.sets.siftflow_layers import SIFTFlowSegDataLayer
from fcn_caffe.errors import DataError, GraphError
from fcn_caffe.evaluation.crf import Refiner
from fcn_caffe.evaluation.details import DetailCounter, Details
from fcn_caffe.evaluation.metrics import METRICS, NAMES, ConfusionMatrix, Scores
from fcn_caffe.evaluation.tiles import RunningLoss, check_whole, loss_steps, parts, read_part, source_blobs
from fcn_caffe.host.ranks import ALONE, Ranks
from fcn_caffe.host.tables import Table, print_tables
from fcn_caffe.host.text import nearest_names, show
from fcn_caffe.net.net import Net
from fcn_caffe.net.own_passes import in_order, own_passes
from fcn_caffe.net.runner import Shape
from fcn_caffe.net.strips import Strips

__all__ = [
    "best_classes",
    "class_indices",
    "class_names",
    "count_iterations",
    "data_layer",
    "eval_mode",
    "format_scores",
    "heads",
    "is_scored_without_absent",
    "print_scores",
    "score_heads",
    "score_net",
]

OnImage = Callable[[int, Mapping[str, Tensor]], None]
OnAnswers = Callable[[int, Mapping[str, Tensor]], None]
OnSample = Callable[[int, Mapping[str, Tensor], Mapping[str, Tensor]], None]


def data_layer(net: Net) -> Sized | None:
    """Return the net's first Python layer that knows how many images it has, or None."""
    for layer in net.layers.values():
        user: object = getattr(layer, "user", None)
        if isinstance(user, Sized):
            return user
    return None


def heads(net: Net) -> dict[str, str]:
    """Return the label blob of each score blob: the bottoms of every softmax loss of the net."""
    return {node.bottoms[0]: node.bottoms[1] for node in net.graph.nodes if node.type == "SoftmaxWithLoss"}


def is_scored_without_absent(net: Net) -> bool:
    """Say whether the means leave out classes that the ground truth never shows, as the paper's do for SIFT Flow."""
    source = data_layer(net)
    # The reference's own file of this class, beside a net, has no such attribute.
    by_name = type(source).__name__ == SIFTFlowSegDataLayer.__name__
    return bool(getattr(source, "leaves_out_absent", by_name))


def best_classes(scores: Tensor, only: Sequence[int] | None = None) -> Tensor:
    """Return the index of the highest score at each pixel, the first of equals.

    Shapes: (N, C, H, W) -> (N, H, W).

    Args:
        scores: the scores of C classes.
        only: the classes to choose from; the result then is an index into `only`.
    """
    return (scores if only is None else scores[:, list(only)]).argmax(1)


# -- scoring -------------------------------------------------------------------------------------------------------


class _Head:
    """A score blob with its label blob, and the confusion matrix that the pixels of both are counted in.

    Raises:
        DataError: the net lacks a blob, or `only` names a class that the head does not have.
    """

    def __init__(self, net: Net, score: str, label: str, only: Sequence[int] | None, details: Details | None) -> None:
        self.net_name, self.score, self.label, self.only = net.name, score, label, only
        classes = _count_classes(net, score, label)
        self.rows = None if only is None else _matrix_rows(net, score, classes, only)
        self.matrix = ConfusionMatrix(classes if only is None else len(only))
        self.details = DetailCounter(details, self.matrix.classes) if details else None

    def scores(self, leave_out_absent: bool, loss: float | None) -> Scores:
        """Return the scores of the pixels that were counted."""
        scores = self.matrix.scores(leave_out_absent=leave_out_absent, loss=loss)
        return scores if self.details is None else self.details.complete(scores, leave_out_absent)

    def add(self, scores: Tensor, label: Tensor) -> Tensor:
        """Count the pixels of a pass or of a part of it; return their classes, indices into `only`.

        Raises:
            DataError: the label is of another size than the score.
        """
        prediction = best_classes(scores, self.only)
        if label.numel() != prediction.numel():
            raise DataError(
                f"net '{self.net_name}': score '{self.score}' is {show(scores.shape)} and label "
                f"'{self.label}' {show(label.shape)}. The score should have the label's height and width."
            )
        self.matrix.add(self._truth(label, prediction), prediction.cpu().numpy())
        return prediction

    def gather(self, ranks: Ranks) -> _Head:
        """Count what the processes of a run have counted."""
        self.matrix.gather(ranks)
        if self.details is not None:
            self.details.gather(ranks)
        return self

    def add_details(self, prediction: Tensor, label: Tensor) -> None:
        """Count the pixels of whole images for the details, if some are asked for."""
        if self.details is not None:
            self.details.add(self._truth(label, prediction), prediction.cpu().numpy())

    def _truth(self, label: Tensor, prediction: Tensor) -> npt.NDArray[Any]:
        """Return the true class of each predicted pixel, an index into `only`."""
        truth: npt.NDArray[Any] = label.reshape(prediction.shape).cpu().numpy()
        if self.rows is None:
            return truth
        is_class = (truth >= 0) & (truth < len(self.rows))
        return np.where(is_class, self.rows[np.where(is_class, truth, 0).astype(np.int64)], -1)


def _count_classes(net: Net, score: str, label: str) -> int:
    """Return how many classes a score blob has. Raises: DataError where the net lacks it, or the label."""
    for what, blob in (("score", score), ("label", label)):
        if blob not in net.blob_shapes:
            near = ", ".join(name for name in net.blob_shapes if what in name) or ", ".join(net.graph.outputs)
            raise DataError(f"net '{net.name}' has no {what} blob '{blob}'. It has: {near}.")
    shape = net.blob_shapes[score]
    if len(shape) < 2:
        raise DataError(f"net '{net.name}': score blob '{score}' is {show(shape)}: expected (N, classes, ...).")
    return shape[1]


def _matrix_rows(net: Net, score: str, classes: int, only: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the row of the matrix that each class is counted in, -1 for a class that is not in `only`."""
    wrong = [index for index in only if not 0 <= index < classes]
    if wrong or not only or len(set(only)) < len(only):
        listed = ", ".join(map(str, wrong or only)) or "none"
        raise DataError(
            f"net '{net.name}': classes to score alone: {listed}. Give each once, from 0 to {classes - 1} ('{score}')."
        )
    rows = np.full(classes, -1, np.int64)
    rows[list(only)] = np.arange(len(only))
    return rows


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
    on_answers: OnAnswers | None = None,
    tile: int | None = None,
    refine: Refiner | None = None,
    details: Details | None = None,
    on_sample: OnSample | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, Scores]:
    """Score several heads in one pass over the images.

    The net runs in eval mode; afterwards its mode is what it was. The prediction at a pixel is the class of the highest
    score, the first of equals. Each head's own loss is averaged too; a head without one uses `loss`.

    Args:
        net: a TEST net.
        iterations: the number of passes; by default one over the data layer's images.
        heads: the label blob (N, 1, H, W) of each score blob (N, C, H, W); by default `label` of `score`.
        loss: the loss blob of heads without a loss of their own, unless it is another head's.
        leave_out_absent: leave classes that the ground truth never shows out of the means.
        only: score these classes as a task of their own, in this order. Pixels of others are void.
        on_image: a function that gets the iteration and the blobs of each pass: scores, labels, `data`; run whole then.
        on_answers: a function that gets the iteration and, by score blob, the predicted classes (N, H, W) of each pass.
        tile: how many columns to run at once at most; see `tiles.parts`.
        refine: changes the scores before the prediction, not before the loss; run whole then.
        details: what to score beside the metrics.
        on_sample: a function that gets the iteration, the data layers' blobs and the labels, and `on_answers`' classes.
        ranks: the processes that share the passes; each gets the scores of all.
    Returns: the scores of each score blob.
    Raises:
        DataError: the net lacks a blob, sizes differ, or `tile` and `refine` are both asked for.
        GraphError: `tile` is asked for, and the net cannot be run in parts.
    """
    heads = heads or {"score": "label"}
    counters = {score: _Head(net, score, label, only, details) for score, label in heads.items()}
    iterations, losses = count_iterations(net, iterations), _losses(net, heads, loss)
    found: dict[str, list[float]] = {blob: [] for blob in losses.values()}
    run = _Pass(net, counters, found, tile, refine)
    with eval_mode(net):
        for iteration in own_passes(net, iterations, ranks):
            run(iteration, on_image, on_answers, on_sample, bool(details))
    means = {score: sum(in_order(found[blob], ranks)) / iterations for score, blob in losses.items()}
    return {score: head.gather(ranks).scores(leave_out_absent, means.get(score)) for score, head in counters.items()}


class _Pass:
    """A pass over the next images: it counts their pixels in each head and collects the losses.

    Args:
        net: the net.
        counters: the heads.
        found: each loss blob's value in each pass.
        tile: see `score_heads`.
        refine: what changes the scores, if anything.
    """

    def __init__(
        self,
        net: Net,
        counters: Mapping[str, _Head],
        found: dict[str, list[float]],
        tile: int | None,
        refine: Refiner | None,
    ) -> None:
        self.net, self.counters, self.found, self.tile, self.refine = net, counters, found, tile, refine
        if refine is not None:
            refine.check(net, tile)
        self.losses = loss_steps(net, list(found), list(counters))
        self._fitting: list[dict[str, Shape]] = []

    def __call__(
        self,
        iteration: int,
        on_image: OnImage | None,
        on_answers: OnAnswers | None,
        on_sample: OnSample | None,
        details: bool,
    ) -> None:
        """Run, and tell who wants to know."""
        given = source_blobs(self.net)
        answers, blobs = self.run(given, on_image is not None, bool(on_answers or on_sample or details))
        if on_image is not None:
            on_image(iteration, blobs)
        if on_answers is not None:
            on_answers(iteration, answers)
        if on_sample is not None:
            on_sample(iteration, {**given, **blobs}, answers)

    def run(
        self, given: Mapping[str, Tensor], keeps: bool, answers: bool
    ) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        """Run; return the classes of each head where `answers`, and the blobs, with `data` where `keeps`.

        given: the blobs of the data layers.
        """
        run = None
        if keeps or self.refine:
            self._check_whole(given)
            if self.refine:
                self.refine.check_memory(given, self.net, list(self.counters))
        else:
            run = self._parts(given)
        if run is not None:
            classes = self._in_parts(run, given, answers)
            self._add_details(classes, given)
            return classes, {}
        labels = [head.label for head in self.counters.values()]
        data = {"data"} & self.net.blob_shapes.keys() if keeps else set()
        if self.refine:
            data.add(self.refine.image)
        blobs = self.net(given, keep={*self.counters, *labels, *self.found, *data})
        scores = {name: self.refine(name, blobs) if self.refine else blobs[name] for name in self.counters}
        classes = {name: head.add(scores[name], blobs[head.label]) for name, head in self.counters.items()}
        for blob, values in self.found.items():
            values.append(float(blobs[blob].sum()))
        self._add_details(classes, blobs)
        return classes, blobs

    def _add_details(self, classes: Mapping[str, Tensor], blobs: Mapping[str, Tensor]) -> None:
        for name, prediction in classes.items():
            self.counters[name].add_details(prediction, blobs[self.counters[name].label])

    def _parts(self, given: Mapping[str, Tensor]) -> Strips | None:
        """Return how to run images of this size in parts; None for whole."""
        labels = {head.label for head in self.counters.values()}
        if self.losses is None or not labels <= given.keys():
            if self.tile:
                raise GraphError(f"net '{self.net.name}': labels or loss are not of the kind that is scored in parts.")
            self._check_whole(given)
            return None
        return parts(self.net, _shapes(given), list(self.counters), self.tile)

    def _check_whole(self, given: Mapping[str, Tensor]) -> None:
        """Refuse images that do not fit into memory whole; each size is looked at once."""
        if (shapes := _shapes(given)) not in self._fitting:
            check_whole(self.net, shapes)
            self._fitting.append(shapes)

    def _in_parts(self, run: Strips, given: Mapping[str, Tensor], answers: bool) -> dict[str, Tensor]:
        assert self.losses is not None
        losses = {blob: RunningLoss(step) for blob, step in self.losses.items()}
        classes: dict[str, Tensor] = {}
        if answers:
            kind = torch.uint8 if all(head.matrix.classes <= 256 for head in self.counters.values()) else torch.int64
            for name in self.counters:
                count, _, *size = run.shape(name)
                classes[name] = torch.empty((count, *size), dtype=kind)
        for piece in run.pieces({name: partial(read_part, blob) for name, blob in given.items()}):
            head = self.counters[piece.blob]
            label = read_part(given[head.label], piece.rows, piece.columns)
            made = head.add(piece.values, label)
            if answers:
                read_part(classes[piece.blob][:, None], piece.rows, piece.columns)[:, 0] = made
            for loss in losses.values():
                if loss.step.bottoms[0] == piece.blob:
                    loss.add(run, piece, read_part(given[loss.step.bottoms[1]], piece.rows, piece.columns))
        for blob, loss in losses.items():
            self.found[blob].append(loss.value())
        return classes


def _shapes(blobs: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: tuple(blob.shape) for name, blob in blobs.items()}


def count_iterations(net: Net, iterations: int | None) -> int:
    """Return the number of passes, by default one over the data layer's images."""
    if iterations is None:
        source = data_layer(net) or _list_source(net)
        batch = getattr(source, "batch", 1)
        iterations = -(-len(source) // batch) if source is not None else 0
        if isinstance(source, ListSource) and len(source) % batch:
            raise DataError(
                f"net '{net.name}': its list has {len(source)} images, which batches of {batch} do not divide: some "
                "would count twice. Set batch_size: 1, or give the number of iterations."
            )
    if iterations < 1:
        raise DataError(
            f"net '{net.name}': how many iterations to score is not known from its data layer. Give their number."
        )
    return iterations


def _list_source(net: Net) -> ListSource | None:
    """Return what reads the list of the net's first data layer that has one, or None."""
    sources = (getattr(layer, "source", None) for layer in net.layers.values())
    return next((source for source in sources if isinstance(source, ListSource)), None)


def _losses(net: Net, heads: Mapping[str, str], other: str) -> dict[str, str]:
    """Return the loss blob of each score blob: its own, or `other` where that is no head's own."""
    own = {node.bottoms[0]: node.tops[0] for node in net.graph.nodes if node.type == "SoftmaxWithLoss"}
    shared = [other] if other in net.blob_shapes and other not in own.values() else []
    return {score: blob for score in heads for blob in ([own[score]] if score in own else shared)}


@contextmanager
def eval_mode(net: Net) -> Iterator[None]:
    was_training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(was_training)


def score_net(
    net: Net,
    iterations: int | None = None,
    score: str = "score",
    label: str = "label",
    *,
    leave_out_absent: bool = False,
    on_image: OnImage | None = None,
) -> Scores:
    """Score one head of a TEST net, as `score_heads` scores several.

    Raises:
        DataError: see `score_heads`.
    """
    return score_heads(net, iterations, {score: label}, leave_out_absent=leave_out_absent, on_image=on_image)[score]


# -- classes -------------------------------------------------------------------------------------------------------


def class_names(net: Net, classes: int) -> list[str] | None:
    """Return the names of a net's classes; None where nothing names that many.

    They are read from `classes.txt` beside the net's file, else from `CLASSES` of the data layer's module.
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


def class_indices(net: Net, score: str, texts: Sequence[str]) -> list[int]:
    """Find the indices of classes of a score blob, in the order of the texts.

    A text is a class's name, its index, or a file that lists either, one a line. In a file, `INDEX: NAME` is read as
    the name, because the reference's lists have the numbers of another task; `#` begins a comment. Upper case, blanks,
    dashes and underscores in a name do not matter, and the data set's other spellings are known.

    Raises:
        DataError: names the file and line, or the class, that the net does not have.
    """
    count = _count_classes(net, score, score)
    names = class_names(net, count) or []
    known = _known_names(net, names)
    indices: list[int] = []
    for where, text in _class_lines(texts, known):
        name = _plain(text.rpartition(":")[2])
        index = int(text) if text.isdecimal() and len(text) < 10 else known.get(name, -1)
        if not 0 <= index < count:
            raise DataError(
                f"{where}: {text!r} is no class of '{score}'.{_class_hint(name, names, known)} "
                f"Give names, or indices from 0 to {count - 1}; in a file one a line."
            )
        if index in indices:
            raise DataError(f"{where}: class {names[index] if names else index} is chosen twice. Give each class once.")
        indices.append(index)
    return indices


def _known_names(net: Net, names: Sequence[str]) -> dict[str, int]:
    """Return the index of each class by its plain name, and by the data set's other spellings of it."""
    source = data_layer(net)
    others = getattr(inspect.getmodule(type(source)), "OTHER_SPELLING", {}) if source is not None else {}
    indices = {_plain(name): index for index, name in enumerate(names)}
    return {_plain(new): indices[_plain(old)] for new, old in others.items() if _plain(old) in indices} | indices


def _class_hint(name: str, names: Sequence[str], known: Mapping[str, int]) -> str:
    near = nearest_names(name, known)
    if near:
        return f" Did you mean {names[known[near[0]]]!r}?"
    return "" if names else " The classes have no names here: put a classes.txt beside the net, or give indices."


def _plain(name: str) -> str:
    return "".join(name.lower().replace("-", "").replace("_", "").split())


def _class_lines(texts: Sequence[str], known: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Give each place that names a class, with what it says. A class's name is preferred to a file of that name."""
    for text in texts:
        if text.isdecimal() or _plain(text) in known or not Path(text).is_file():
            yield "classes", text
            continue
        lines = enumerate(read_lines(text, "list of classes"), 1)
        stripped = [(number, line.split("#")[0].strip()) for number, line in lines]
        if not any(line for _, line in stripped):
            raise DataError(f"{text}: lists no class. Give names or indices, one a line.")
        yield from ((f"{text}:{number}", line) for number, line in stripped if line)


# -- text ----------------------------------------------------------------------------------------------------------


def format_scores(scores: Scores, names: Sequence[str] | None = None) -> str:
    """Write the four metrics in per cent, then IU and accuracy of each class, and which classes are absent."""
    intervals = [f"  {text}" if text else "" for text in _interval_texts(scores)]
    lines = [
        f"pixel accuracy  {scores.pixel_accuracy * 100:6.2f}{intervals[0]}",
        f"mean accuracy   {scores.mean_accuracy * 100:6.2f}{intervals[1]}",
        f"mean IU         {scores.mean_iu * 100:6.2f}{intervals[2]}",
        f"f.w. IU         {scores.frequency_weighted_iu * 100:6.2f}{intervals[3]}",
    ]
    if scores.loss is not None:
        lines.append(f"loss        {scores.loss:10.5g}")
    if scores.intervals:
        lines.append(f"({INTERVALS} of {scores.images} images)")
    if scores.trimap:
        lines.append(f"\n{TRIMAP[0]:<14}" + "".join(f"{title:>12}" for title in TRIMAP[1:]))
        lines += [f"{row[0]:<14}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in _trimap_rows(scores)]
    rows = _class_rows(scores, names)
    width = max(5, *(len(name) for name, *_ in rows))
    lines.append(f"\n{'class':<{width}}     IU    acc")
    for name, iu, accuracy, note in rows:
        lines.append(f"{name:<{width}} {iu:>6} {accuracy:>6}{f'  {note}' if note else ''}")
    return "\n".join(lines)


def print_scores(scores: Scores, names: Sequence[str] | None = None) -> None:
    """Print the scores: as tables on a terminal, else the text of `format_scores`."""
    metrics = {
        "pixel accuracy": scores.pixel_accuracy,
        "mean accuracy": scores.mean_accuracy,
        "mean IU": scores.mean_iu,
        "f.w. IU": scores.frequency_weighted_iu,
    }
    intervals = _interval_texts(scores)
    rows = [(name, _per_cent(value), text) for (name, value), text in zip(metrics.items(), intervals, strict=True)]
    if scores.loss is not None:
        rows.append(("loss", f"{scores.loss:.5g}", ""))
    tables = [Table(("metric", "per cent", f"{INTERVALS} of {scores.images} images"), rows)]
    if not scores.intervals:
        tables = [Table(("metric", "per cent"), [row[:2] for row in rows])]
    if scores.trimap:
        tables.append(Table(TRIMAP, _trimap_rows(scores)))
    classes = _class_rows(scores, names)
    columns: tuple[str, ...] = ("class", "IU", "acc", "")
    if not scores.absent:
        columns, classes = columns[:-1], [row[:-1] for row in classes]
    print_tables(format_scores(scores, names), [*tables, Table(columns, classes)])


INTERVALS = "95 % intervals, bootstrap"
TRIMAP = ("boundary", *NAMES.values())


def _interval_texts(scores: Scores) -> list[str]:
    """Return the interval of each metric in per cent, as text; empty where there is none."""
    ends = [scores.intervals.get(name) for name in METRICS]
    return ["" if pair is None else f"{_per_cent(pair[0])} to {_per_cent(pair[1])}" for pair in ends]


def _trimap_rows(scores: Scores) -> list[tuple[str, ...]]:
    """Return the metrics of each band along the boundaries, in per cent."""
    return [
        (f"within {width} px", *(_per_cent(value) for value in band.summary().values()))
        for width, band in scores.trimap.items()
    ]


def _class_rows(scores: Scores, names: Sequence[str] | None) -> list[tuple[str, ...]]:
    """Return name, IU, accuracy and a remark for each class."""
    names = names or [str(index) for index in range(len(scores.class_iu))]
    return [
        (
            name,
            _per_cent(scores.class_iu[index]),
            _per_cent(scores.class_accuracy[index]),
            "absent from the ground truth" if index in scores.absent else "",
        )
        for index, name in enumerate(names)
    ]


def _per_cent(value: float) -> str:
    return "-" if value != value else f"{value * 100:.2f}"
