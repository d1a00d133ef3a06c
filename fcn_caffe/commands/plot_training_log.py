"""Draw a chart of training logs, Caffe's or ours: LOG... OUT.png, or in Caffe's order, CHART OUT.png LOG..."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser
from fcn_caffe.training.log_chart import Chart, draw_chart, find_chart
from fcn_caffe.training.log_parser import parse_log

DEFAULT = Chart.TRAIN_LOSS_BY_ITERATION


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    listed = "\n".join(f"  {chart.number}: {chart.title}" for chart in Chart)
    options = new_parser("plot_training_log", f"{__doc__}\n\ncharts:\n{listed}")
    add = options.add_argument
    add("files", nargs="+", metavar="LOG... OUT", help="logs, and the picture to write, last")
    chart_help = f"its number, or its name as in test-accuracy-iters (default: {DEFAULT.number}, {DEFAULT.title})"
    add("--chart", help=chart_help)
    output = "output of the net to draw instead of loss or accuracy (repeatable)"
    add("--output", action="append", default=[], help=output)
    return options


def _titles(paths: Sequence[str]) -> list[str]:
    """What the legend calls the logs: their file names, or their paths where names are the same."""
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else list(paths)


def _files(arguments: argparse.Namespace) -> tuple[str | None, list[str], str]:
    """Return the chart, the logs and the picture, in our order of words or in Caffe's."""
    files, chart = list(arguments.files), arguments.chart
    if chart is None and len(files) > 2 and find_chart(files[0]) is not None and not Path(files[0]).exists():
        return files[0], files[2:], files[1]
    return chart, files[:-1], files[-1]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser()
    arguments = options.parse_args(argv)
    wanted, logs, out = _files(arguments)
    chart = DEFAULT if wanted is None else find_chart(wanted)
    if chart is None:
        titles = "; ".join(chart.title for chart in Chart)
        options.error(f"unknown chart {wanted!r}; there are 0 to {len(Chart) - 1}: {titles}")
    if not logs:
        options.error("give one log or more, and then the picture to write")
    if Path(out).suffix in ("", ".log", ".txt"):
        options.error(f"the last name is the picture to write, such as curve.png; {out!r} does not look like one")
    titled = {title: parse_log(log) for title, log in zip(_titles(logs), logs, strict=True)}
    draw_chart(titled, chart, out, arguments.output)
    print(f"wrote {out}")
    return 0
