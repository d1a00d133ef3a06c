"""Score a trained net on its own data: pixel accuracy, mean accuracy, mean IU, f.w. IU, and IU of every class."""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcn_caffe.atomic import atomic_write
from fcn_caffe.commands import command
from fcn_caffe.errors import DataError
from fcn_caffe.infer import trained_net
from fcn_caffe.metrics import Scores
from fcn_caffe.preprocessing import check_preprocessing
from fcn_caffe.score import class_names, data_layer, format_scores, score_heads


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="score", description=__doc__)
    parser.add_argument("net", help="net prototxt; its TEST phase with its data layer is run")
    parser.add_argument("--weights", required=True, help="weights to score, in any form")
    parser.add_argument("--iterations", type=int, help="passes to run (default: once over the data layer's split)")
    parser.add_argument("--score", nargs="+", default=["score"], help="score blobs, one a head (default: score)")
    parser.add_argument("--label", nargs="+", default=["label"], help="their label blobs, in the same order")
    parser.add_argument(
        "--leave-out-absent", action="store_true", help="leave classes without ground truth out of the means"
    )
    parser.add_argument("--stage", action="append", default=[], help="NetState stage (repeatable)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument(
        "--ignore-preprocessing", action="store_true", help="run even if the weights were made for other inputs"
    )
    parser.add_argument("--csv", type=Path, help="append the scores to this CSV file")
    parser.add_argument("--json", type=Path, help="write the scores to this JSON file")
    return parser


def _number(value: float) -> float | None:
    """JSON and CSV have no NaN: what cannot be said is left empty."""
    return None if math.isnan(value) else float(value)


def _record(arguments: argparse.Namespace, head: str, scores: Scores, names: list[str] | None) -> dict[str, Any]:
    keys = names or [str(index) for index in range(len(scores.class_iu))]
    return {
        "net": arguments.net,
        "weights": arguments.weights,
        "head": head,
        **{name: _number(value) for name, value in scores.summary().items()},
        "loss": scores.loss,
        "pixels": scores.pixels,
        "class_iu": {key: _number(value) for key, value in zip(keys, scores.class_iu, strict=True)},
        "absent": [keys[index] for index in scores.absent],
    }


def _append_csv(path: Path, records: list[dict[str, Any]]) -> None:
    plain = [{key: value for key, value in record.items() if not isinstance(value, (dict, list))} for record in records]
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    with atomic_write(path, "w") as file:
        file.write(old)
        writer = csv.DictWriter(file, fieldnames=list(plain[0]), lineterminator="\n")
        if not old:
            writer.writeheader()
        writer.writerows(plain)


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    if len(arguments.score) != len(arguments.label):
        raise DataError(f"{len(arguments.score)} score blobs and {len(arguments.label)} labels: give one label each.")
    if not arguments.ignore_preprocessing:
        check_preprocessing(arguments.weights, arguments.net)
    net = trained_net(arguments.net, arguments.weights, stages=arguments.stage, device=arguments.device)
    # The paper leaves classes that the SIFT Flow test images never show out of the means.
    sift_flow = type(data_layer(net)).__module__.endswith("siftflow_layers")
    heads = dict(zip(arguments.score, arguments.label, strict=True))
    found = score_heads(net, arguments.iterations, heads, leave_out_absent=arguments.leave_out_absent or sift_flow)
    records = []
    for head, scores in found.items():
        names = class_names(net, len(scores.class_iu))
        if len(found) > 1:
            print(f"== {head}")
        print(format_scores(scores, names))
        records.append(_record(arguments, head, scores, names))
    if arguments.csv:
        _append_csv(arguments.csv, records)
    if arguments.json:
        with atomic_write(arguments.json, "w") as file:
            json.dump(records[0] if len(records) == 1 else records, file, indent=2)
            file.write("\n")
    return 0
