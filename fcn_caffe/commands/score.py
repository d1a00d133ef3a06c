"""Score a trained net on its own data: pixel accuracy, mean accuracy, mean IU, f.w. IU, and IU of every class."""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    DATA_HELP,
    add_crf_options,
    add_deterministic_option,
    add_reading_options,
    add_speed_options,
    add_tile_option,
    make_faster,
    net_or_solver,
    new_parser,
    paths_with_data,
    positive,
    requested_crf,
    seed,
    use_deterministic,
    use_reading_options,
)
from fcn_caffe.commands.infer import VOC_LAYOUT
from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.paths import refuse_endless

if TYPE_CHECKING:
    from torch import Tensor

    from fcn_caffe.evaluation.metrics import Scores
    from fcn_caffe.evaluation.predictions import PredictionWriter
    from fcn_caffe.host.paths import Paths
    from fcn_caffe.host.ranks import Ranks
    from fcn_caffe.net.net import Net

    Record = dict[str, str | int | float | list[str] | list[list[int]] | dict[str, float | None] | None]


_ENDS = ("low", "high")  # of an interval


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("score", __doc__)
    add = options.add_argument
    add("net", type=net_or_solver, help="net prototxt; its TEST phase with its data layer is run")
    add("--weights", required=True, help="weights to score, in any form")
    add("--data", type=Path, metavar="DIR", help=DATA_HELP)
    add(
        "--trimap",
        type=positive,
        nargs="+",
        default=[],
        metavar="PIXELS",
        help="score bands along the boundaries too: pixels of the ground truth at most so many pixels from another "
        "label, void among them (Kohli et al. 2009; DeepLab), such as 1 2 4 8",
    )
    add("--intervals", action="store_true", help="95 %% confidence intervals of the metrics: bootstrap over the images")
    add("--seed", type=seed, default=1337, help="what that starts from (default: %(default)s)")
    add("--iterations", type=positive, help="passes to run (default: once over the data layer's split)")
    add("--score", nargs="+", help="score blobs, one a head (default: score, else every loss's)")
    add("--label", nargs="+", help="their label blobs, in the same order (default: those of their losses)")
    add("--leave-out-absent", action="store_true", help="leave classes without ground truth out of the means")
    _add_class_options(options)
    add("--stage", action="append", default=[], help="NetState stage (repeatable)")
    add_tile_option(options)
    add_speed_options(options)
    add_deterministic_option(options)
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--ignore-preprocessing", action="store_true", help="run even if the weights were made for other inputs")
    add("--csv", type=Path, help="append the scores to this CSV file")
    add("--json", type=Path, help="write the scores, by class too, to this JSON file")
    add("--per-class", type=Path, help="write the table of classes to this CSV file")
    add("--confusion", type=Path, help="draw the confusion matrix to this image; one a head")
    add("--save-predictions", type=Path, help="write every answer to this folder, as palette PNG")
    server = f"write every answer as the VOC test server takes it: under DIR/{VOC_LAYOUT}"
    add("--voc-results", type=Path, help=server)
    add_crf_options(options)
    add("--crf-image", metavar="BLOB", help="blob of the images that --crf looks at (default: data)")
    add_reading_options(options)
    return options


def _add_class_options(options: argparse.ArgumentParser) -> None:
    either = options.add_mutually_exclusive_group()
    either.add_argument(
        "--only",
        nargs="+",
        metavar="CLASS",
        help="score these classes as a task of their own: names, indices, or files that list them, one a line. Pixels "
        "of other classes, background too unless it is named, are void, and the answer is the best of these "
        "(PASCAL-Context's 33 classes: --only 33_labels.txt)",
    )
    either.add_argument(
        "--without",
        nargs="+",
        metavar="CLASS",
        help="score all classes but these, likewise (PASCAL-Context's 59 classes: --without background)",
    )


def _number(value: float) -> float | None:
    """JSON and CSV have no NaN: what cannot be said is left empty."""
    return None if math.isnan(value) else float(value)


def _record(arguments: argparse.Namespace, head: str, scores: Scores, names: list[str] | None) -> Record:
    """What --json holds of one head."""
    keys = names or [str(index) for index in range(len(scores.class_iu))]
    return {
        "net": arguments.net,
        "weights": arguments.weights,
        "head": head,
        **{name: _number(value) for name, value in scores.summary().items()},
        "loss": scores.loss,
        "pixels": scores.pixels,
        **_details(scores),
        "class_accuracy": {key: _number(value) for key, value in zip(keys, scores.class_accuracy, strict=True)},
        "class_iu": {key: _number(value) for key, value in zip(keys, scores.class_iu, strict=True)},
        "absent": [keys[index] for index in scores.absent],
        "confusion": [] if scores.confusion is None else scores.confusion.tolist(),
    }


def _details(scores: Scores) -> Record:
    """What --json and --csv hold of --intervals and --trimap."""
    found: Record = {}
    for name, ends in scores.intervals.items():
        found |= {f"{name}_{end}": _number(value) for end, value in zip(_ENDS, ends, strict=True)}
    for width, band in scores.trimap.items():
        found |= {f"trimap_{width}_{name}": _number(value) for name, value in band.summary().items()}
        found[f"trimap_{width}_pixels"] = band.pixels
    return found


def _csv_columns(arguments: argparse.Namespace) -> list[str]:
    """The columns of --csv."""
    from fcn_caffe.evaluation.metrics import METRICS

    ends = [f"{name}_{end}" for name in METRICS for end in _ENDS] if arguments.intervals else []
    widths = sorted(set(arguments.trimap))
    bands = [f"trimap_{width}_{name}" for width in widths for name in (*METRICS, "pixels")]
    return ["net", "weights", "head", *METRICS, "loss", "pixels", *ends, *bands]


def _check_places(arguments: argparse.Namespace) -> None:
    """Refuse files that could not be written in the end. Raises: DataError."""
    from fcn_caffe.host.atomic import check_place, refuse_same
    from fcn_caffe.host.pictures import image_format

    files = (arguments.csv, arguments.json, arguments.per_class, arguments.confusion)
    refuse_same(files, (arguments.net, arguments.weights))
    for path in files:
        if path is not None:
            check_place(path)
    if arguments.confusion is not None:
        image_format(arguments.confusion)
    if arguments.csv is not None:
        _check_csv(arguments.csv, _csv_columns(arguments))


def _check_csv(path: Path, columns: list[str]) -> None:
    """Refuse a file of other columns before the work whose result it is for. Raises: DataError."""
    try:
        refuse_endless(path)
        with open(path, encoding="utf-8", newline="") as file:
            found = next(csv.reader(file), columns)
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table of scores ({error}). Remove it, or name another.") from None
    if found != columns:
        raise DataError(
            f"{path}: has columns {', '.join(found)}; these scores have {', '.join(columns)}. "
            "Name another file, or give the options that it was written with."
        )


def _append_csv(path: Path, records: list[Record], columns: list[str]) -> None:
    plain = [{key: record[key] for key in columns} for record in records]
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    with atomic_write(path, "w") as file:
        file.write(old)
        writer = csv.DictWriter(file, fieldnames=columns, lineterminator="\n")
        if not old:
            writer.writeheader()
        writer.writerows(plain)


def _heads(arguments: argparse.Namespace, net: Net) -> dict[str, str]:
    """Score blob -> label blob: as given; else `score` and `label` where the net has both; else those of every loss."""
    from fcn_caffe.evaluation.score import heads as loss_heads

    if arguments.score is not None or arguments.label is not None:
        scores, known = arguments.score or ["score"], loss_heads(net)
        labels = arguments.label or [known.get(score, "label") for score in scores]
        if len(scores) != len(labels):
            raise DataError(f"{len(scores)} score blobs and {len(labels)} labels: give one label each.")
        return dict(zip(scores, labels, strict=True))
    plain = {"score": "label"}
    return plain if {"score", "label"} <= net.blob_shapes.keys() else loss_heads(net) or plain


def _only(arguments: argparse.Namespace, net: Net, heads: dict[str, str]) -> list[int] | None:
    """The classes that --only names, or all but those of --without; None for all of them."""
    from fcn_caffe.evaluation.score import class_indices

    option, words = ("--only", arguments.only) if arguments.only else ("--without", arguments.without)
    if not words:
        return None
    if len(heads) > 1:
        raise DataError(f"{option}: the net has heads {', '.join(heads)}. Choose one with --score and --label.")
    head = next(iter(heads))
    named = class_indices(net, head, words)
    if arguments.only:
        return named
    return [index for index in range(net.blob_shapes[head][1]) if index not in named]


def _beside(path: Path, head: str, several: bool) -> Path:
    """A file for one head: the path, or, of several, the path with the head's name before its ending."""
    return path.with_name(f"{path.stem}-{head}{path.suffix}") if several else path


def _write_classes(path: Path, scores: Scores, names: list[str] | None) -> None:
    """One line a class: its scores, its pixels, and how many were called it."""
    assert scores.confusion is not None
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("class", "name", "iu", "accuracy", "pixels", "predicted_pixels"))
        for index, counts in enumerate(scores.confusion):
            name = names[index] if names else ""
            iu, accuracy = _number(scores.class_iu[index]), _number(scores.class_accuracy[index])
            writer.writerow((index, name, iu, accuracy, counts.sum(), scores.confusion[:, index].sum()))


def _draw_confusion(path: Path, scores: Scores, names: list[str] | None, title: str) -> None:
    from fcn_caffe.evaluation.confusion_picture import draw_confusion
    from fcn_caffe.host.pictures import save_image

    assert scores.confusion is not None
    save_image(path, draw_confusion(scores.confusion, names, title))


def _writers(
    arguments: argparse.Namespace, net: Net, heads: dict[str, str], only: list[int] | None
) -> list[PredictionWriter]:
    """Make the writers of answers that are asked for."""
    from fcn_caffe.evaluation.predictions import PredictionWriter, voc_writer

    known = [head for head in heads if head in net.blob_shapes]  # score_heads refuses the others
    writers = []
    if arguments.save_predictions:
        writers.append(PredictionWriter(net, known, arguments.save_predictions, only))
    if arguments.voc_results:
        writers.append(voc_writer(net, known, arguments.voc_results, only))
    return writers


def _score(
    arguments: argparse.Namespace, net: Net, ranks: Ranks
) -> tuple[dict[str, Scores], list[int] | None, list[PredictionWriter]]:
    """Run the net over its data; returns the scores by head, the classes that --only names, and who wrote answers."""
    from fcn_caffe.evaluation.crf import Refiner
    from fcn_caffe.evaluation.details import Details
    from fcn_caffe.evaluation.score import is_scored_without_absent, score_heads

    heads = _heads(arguments, net)
    only = _only(arguments, net, heads)
    writers = _writers(arguments, net, heads, only)
    crf = requested_crf(arguments)
    if arguments.crf_image is not None and crf is None:
        raise DataError("--crf-image is of the CRF: give --crf too, or leave --crf-image out.")

    def write(iteration: int, classes: Mapping[str, Tensor]) -> None:
        for writer in writers:
            writer(iteration, classes)

    scores = score_heads(
        net,
        arguments.iterations,
        heads,
        # The paper leaves classes that the SIFT Flow test images never show out of the means.
        leave_out_absent=arguments.leave_out_absent or is_scored_without_absent(net),
        only=only,
        on_answers=write if writers else None,
        tile=arguments.tile,
        refine=None if crf is None else Refiner(crf, arguments.crf_image or "data"),
        details=Details(tuple(arguments.trimap), arguments.intervals, arguments.seed),
        ranks=ranks,
    )
    return scores, only, writers


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)
    use_reading_options(arguments)
    use_deterministic(arguments)
    paths = paths_with_data(arguments.data)

    from fcn_caffe.host.ranks import joined_ranks

    with joined_ranks() as ranks:
        with ranks.all_or_none():
            net = _read_net(arguments, paths, ranks)
        with ranks.first_before_others():  # what --fast has measured is kept in a file
            fast = make_faster(net, arguments)
        scores_of, only, writers = _score(arguments, fast, ranks)
        written = [sum(numbers) for numbers in zip(*ranks.gather([writer.written for writer in writers]), strict=True)]
        if ranks.is_first:
            _tell(arguments, net, scores_of, only)
            for writer, count in zip(writers, written, strict=True):
                print(f"wrote {count} answers to {writer.folder}")
    return 0


def _read_net(arguments: argparse.Namespace, paths: Paths, ranks: Ranks) -> Net:
    """Read the net and its weights, and check all that can be checked before the first pass."""
    from fcn_caffe.evaluation.infer import trained_net
    from fcn_caffe.evaluation.net_inputs import check_preprocessing
    from fcn_caffe.host.devices import torch_device

    device = str(ranks.device(torch_device(arguments.device)))
    _check_places(arguments)
    if not arguments.ignore_preprocessing:
        check_preprocessing(arguments.weights, arguments.net, paths=paths, stages=arguments.stage)
    return trained_net(arguments.net, arguments.weights, stages=arguments.stage, device=device, paths=paths)


def _tell(arguments: argparse.Namespace, net: Net, scores_of: Mapping[str, Scores], only: list[int] | None) -> None:
    """Print the scores, and write the files that are asked for."""
    from fcn_caffe.evaluation.score import class_names, print_scores

    records, several = [], len(scores_of) > 1
    for head, scores in scores_of.items():
        names = class_names(net, net.blob_shapes[head][1])
        if only is not None:
            names = [names[index] if names else str(index) for index in only]
        if several:
            print(f"== {head}")
        print_scores(scores, names)
        records.append(_record(arguments, head, scores, names))
        if arguments.per_class:
            _write_classes(_beside(arguments.per_class, head, several), scores, names)
        if arguments.confusion and scores.confusion is not None:
            title = f"{net.name or Path(arguments.net).stem}, {head}: mean IU {scores.mean_iu * 100:.2f}"
            _draw_confusion(_beside(arguments.confusion, head, several), scores, names, title)
    if arguments.csv:
        _append_csv(arguments.csv, records, _csv_columns(arguments))
    if arguments.json:
        with atomic_write(arguments.json, "w") as file:
            json.dump(records[0] if len(records) == 1 else records, file, indent=2)
            file.write("\n")
