"""Run one of the paper's experiments: measured numbers beside what the paper says, and the verdict they give."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser, positive, seed, share, whole
from fcn_caffe.host.atomic import atomic_write, check_place
from fcn_caffe.host.tables import Table, print_tables
from fcn_caffe.paper.experiments.registry import EXPERIMENTS, Options
from fcn_caffe.paper.result import HOLDS

if TYPE_CHECKING:
    from fcn_caffe.paper.result import Result


def parser() -> argparse.ArgumentParser:
    options = new_parser("experiment", __doc__)
    options.add_argument("name", nargs="?", help="which one: --list tells them")
    options.add_argument("--list", action="store_true", help="list the experiments, with the options each takes")
    options.add_argument("--net", help="a net file of your own, in place of the experiment's")
    options.add_argument("--until", metavar="BLOB", help="the last blob of the net that is wanted")
    options.add_argument("--out", metavar="FILE", help="write the net that was made, a prototxt, where the two agree")
    options.add_argument("--labels", metavar="DIR", help="a folder of label images, in place of generated ones")
    options.add_argument("--classes", type=positive, help="how many classes the labels have")
    options.add_argument("--ignore", type=whole, help="the void label (default: 255)")
    options.add_argument("--limit", type=positive, help="how many label images are read (default: all)")
    options.add_argument("--seed", type=seed, help="of random weights and images (default: 0)")
    options.add_argument("--scale", type=share, help="of the iterations, where nets are trained (default: 1)")
    options.add_argument("--curves", metavar="FILE", help="draw the curves of one that trains, an HTML page")
    options.add_argument("--json", action="store_true", help="print the result as JSON")
    return options


def _list() -> None:
    width = max(map(len, EXPERIMENTS))
    lines, rows = [], []
    for name, experiment in EXPERIMENTS.items():
        takes = " ".join(f"--{option}" for option in experiment.takes)
        lines.append(f"{name:<{width}}  {experiment.section:<10}  {experiment.what}" + (f" ({takes})" if takes else ""))
        rows.append((name, experiment.section, experiment.what, takes))
    print_tables("\n".join(lines), [Table(("name", "section", "what it does", "options"), rows)])


def _chosen_options(options: argparse.ArgumentParser, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was given of the options that experiments take; end the command where this one does not take them."""
    name = arguments.name
    if name not in EXPERIMENTS:
        mistake = "name an experiment" if name is None else f"unknown experiment {name!r}"
        options.error(f"{mistake}; known: {', '.join(EXPERIMENTS)}")
    takes = EXPERIMENTS[name].takes
    every = dict.fromkeys(option for experiment in EXPERIMENTS.values() for option in experiment.takes)
    values = {option: getattr(arguments, option) for option in every}
    values = {option: value for option, value in values.items() if value is not None}
    if unused := [option for option in values if option not in takes]:
        known = ", ".join(f"--{option}" for option in takes) or "none of these"
        options.error(f"{name} takes no --{unused[0]}; it takes {known}")
    if "labels" not in values and (unused := [option for option in ("classes", "ignore") if option in values]):
        options.error(f"--{unused[0]} is of the labels in a folder: name it with --labels")
    return values


def _write_curves(result: Result, path: str, name: str) -> None:
    """Draw the curves of an experiment that trains; a remark says that they are there, or that there are none."""
    from fcn_caffe.paper.report.page import write_curves

    if not result.curves:
        result.remarks.append(f"{path} is not written: {name} has no curves")
        return
    with atomic_write(path, "w") as file:
        file.write(write_curves(result.record()))
    result.remarks.append(f"{path}: its curves")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one experiment's result. Returns 0 where the paper's statement holds, 1 where it does not."""
    options = parser()
    arguments = options.parse_args(argv)
    if arguments.list:
        _list()
        return 0
    values = _chosen_options(options, arguments)
    if arguments.curves is not None:
        check_place(arguments.curves)
    result = EXPERIMENTS[arguments.name].run(Options(**values))
    if arguments.curves is not None:
        _write_curves(result, arguments.curves, arguments.name)
    print(json.dumps(result.record(), indent=2, ensure_ascii=False) if arguments.json else result)
    return 0 if result.verdict == HOLDS else 1
