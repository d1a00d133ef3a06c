"""Run one of the paper's experiments: measured numbers beside what the paper says, and the verdict they give."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields

from fcn_caffe.commands import command
from fcn_caffe.commands._options import positive, seed, share
from fcn_caffe.host.atomic import atomic_write, check_place
from fcn_caffe.paper.experiments.registry import EXPERIMENTS, Options
from fcn_caffe.paper.report.page import write_curves
from fcn_caffe.paper.result import HOLDS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="experiment", description=__doc__)
    parser.add_argument("name", nargs="?", help="which one: --list tells them")
    parser.add_argument("--list", action="store_true", help="list the experiments, with the options each takes")
    parser.add_argument("--net", help="a net file of your own, in place of the experiment's")
    parser.add_argument("--until", metavar="BLOB", help="the last blob of the net that is wanted")
    parser.add_argument("--out", metavar="FILE", help="write the net that was made, a prototxt, where the two agree")
    parser.add_argument("--labels", metavar="DIR", help="a folder of label images, in place of generated ones")
    parser.add_argument("--classes", type=positive, help="how many classes the labels have")
    parser.add_argument("--ignore", type=int, help="the void label (default: 255)")
    parser.add_argument("--limit", type=positive, help="how many label images are read (default: all)")
    parser.add_argument("--seed", type=seed, help="of random weights and images (default: 0)")
    parser.add_argument("--scale", type=share, help="of the iterations, where nets are trained (default: 1)")
    parser.add_argument("--curves", metavar="FILE", help="draw the curves of one that trains, an HTML page")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one experiment's result. Returns 0 where the paper's statement holds, 1 where it does not."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.list:
        width = max(map(len, EXPERIMENTS))
        for name, known in EXPERIMENTS.items():
            takes = " ".join(f"--{option}" for option in known.takes)
            print(f"{name:<{width}}  {known.section:<10}  {known.what}" + (f" ({takes})" if takes else ""))
        return 0
    if arguments.name not in EXPERIMENTS:
        said = "name an experiment" if arguments.name is None else f"unknown experiment {arguments.name!r}"
        parser.error(f"{said}; known: {', '.join(EXPERIMENTS)}")
    experiment = EXPERIMENTS[arguments.name]
    given = {field.name: getattr(arguments, field.name) for field in fields(Options)}
    given = {name: value for name, value in given.items() if value is not None}
    if unused := [name for name in given if name not in experiment.takes]:
        takes = ", ".join(f"--{name}" for name in experiment.takes) or "none of these"
        parser.error(f"{arguments.name} takes no --{unused[0]}; it takes {takes}")
    if "labels" not in given and (unused := [name for name in ("classes", "ignore") if name in given]):
        parser.error(f"--{unused[0]} is of the labels in a folder: name it with --labels")
    if arguments.curves is not None:
        check_place(arguments.curves)
    result = experiment.run(Options(**given))
    if arguments.curves is not None and not result.curves:
        result.remarks.append(f"{arguments.curves} is not written: {arguments.name} has no curves")
    elif arguments.curves is not None:
        with atomic_write(arguments.curves, "w") as file:
            file.write(write_curves(result.record()))
        result.remarks.append(f"{arguments.curves}: its curves")
    print(json.dumps(result.record(), indent=2, ensure_ascii=False) if arguments.json else result)
    return 0 if result.verdict == HOLDS else 1
