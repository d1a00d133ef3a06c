"""Score a net of edges on its own data: precision, recall and F at the best threshold (ODS), and F by image (OIS)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    DATA_HELP,
    add_reading_options,
    net_or_solver,
    new_parser,
    paths_with_data,
    positive,
    use_reading_options,
    whole,
)
from fcn_caffe.host.atomic import atomic_write, check_place, refuse_same

if TYPE_CHECKING:
    from torch import Tensor

SCORE = "new-score-weighting"  # HED's sum of its stages


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("score_edges", __doc__)
    add = options.add_argument
    add("net", type=net_or_solver, help="net prototxt; its TEST phase with its data layer is run")
    add("--weights", required=True, help="weights to score, in any form")
    add("--data", type=Path, metavar="DIR", help=DATA_HELP)
    add("--score", default=SCORE, help="blob of scores, before the sigmoid (default: %(default)s, HED's)")
    add("--label", default="label", help="blob of labels, 1 on an edge (default: %(default)s)")
    add("--tolerance", type=whole, default=2, help="pixels beside an edge that count as on it (default: %(default)s)")
    add("--iterations", type=positive, help="passes to run (default: once over the data layer's split)")
    add("--stage", action="append", default=[], help="NetState stage (repeatable)")
    add("--save", type=Path, metavar="DIR", help="write every edge map to this folder, as grey PNG: black is an edge")
    add("--json", type=Path, help="write the scores to this JSON file")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--ignore-preprocessing", action="store_true", help="run even if the weights were made for other inputs")
    add_reading_options(options)
    return options


def _writer(folder: Path) -> Callable[[int, Tensor], None]:
    import numpy as np

    from fcn_caffe.host.pictures import save_image

    folder.mkdir(parents=True, exist_ok=True)

    def write(index: int, probability: Tensor) -> None:
        grey = np.rint(255 * (1 - probability.cpu().numpy())).astype(np.uint8)
        save_image(folder / f"{index:05}.png", np.repeat(grey[..., None], 3, 2))

    return write


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)
    use_reading_options(arguments)
    if arguments.json is not None:
        refuse_same([arguments.json], [arguments.net, arguments.weights])
        check_place(arguments.json)
    paths = paths_with_data(arguments.data)

    from fcn_caffe.evaluation.edges import score_edges
    from fcn_caffe.evaluation.infer import trained_net
    from fcn_caffe.evaluation.net_inputs import check_preprocessing
    from fcn_caffe.host.devices import torch_device

    device = str(torch_device(arguments.device))
    if not arguments.ignore_preprocessing:
        check_preprocessing(arguments.weights, arguments.net, paths=paths, stages=arguments.stage)
    net = trained_net(arguments.net, arguments.weights, stages=arguments.stage, device=device, paths=paths)
    scores = score_edges(
        net,
        arguments.score,
        arguments.label,
        tolerance=arguments.tolerance,
        images=arguments.iterations,
        on_image=_writer(arguments.save) if arguments.save else None,
    )
    threshold, precision, recall, best = scores.best()
    record = {"threshold": threshold, "precision": precision, "recall": recall, "ods": best}
    record |= {"ois": scores.best_by_image(), "images": len(scores.counts), "tolerance": arguments.tolerance}
    for name, value in record.items():
        print(f"{name:<10} {value:.4f}" if isinstance(value, float) else f"{name:<10} {value}")
    if arguments.json:
        with atomic_write(arguments.json, "w") as file:
            json.dump(record, file, indent=2)
            file.write("\n")
    return 0
