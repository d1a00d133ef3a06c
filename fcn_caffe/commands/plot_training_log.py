"""Draw a chart of training logs, Caffe's or ours: LOG... OUT.png, or in Caffe's order, CHART OUT.png LOG..."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.training.log_chart import Chart, draw_chart, find_chart
from fcn_caffe.training.log_parser import parse_log

DEFAULT = Chart.TRAIN_LOSS_BY_ITERATION


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {chart.number}: {chart.title}" for chart in Chart)
    parser = argparse.ArgumentParser(
        prog="plot_training_log",
        description=f"{__doc__}\n\ncharts:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="LOG... OUT", help="logs, and the picture to write, last")
    parser.add_argument(
        "--chart",
        help=f"its number, or its name as in test-accuracy-iters (default: {DEFAULT.number}, {DEFAULT.title})",
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        help="output of the net to draw instead of loss or accuracy (repeatable)",
    )
    return parser


def _titles(paths: Sequence[str]) -> list[str]:
    """What the legend calls the logs: their file names, or their paths where names are the same."""
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else list(paths)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    files, wanted = list(arguments.files), arguments.chart
    if wanted is None and len(files) > 2 and find_chart(files[0]) is not None and not Path(files[0]).exists():
        wanted, out, *logs = files
    else:
        *logs, out = files
    chart = DEFAULT if wanted is None else find_chart(wanted)
    if chart is None:
        titles = "; ".join(chart.title for chart in Chart)
        parser.error(f"unknown chart {wanted!r}; there are 0 to {len(Chart) - 1}: {titles}")
    if not logs:
        parser.error("give one log or more, and then the picture to write")
    if Path(out).suffix in ("", ".log", ".txt"):
        parser.error(f"the last name is the picture to write, such as curve.png; {out!r} does not look like one")
    draw_chart(
        {title: parse_log(log) for title, log in zip(_titles(logs), logs, strict=True)}, chart, out, arguments.output
    )
    print(f"wrote {out}")
    return 0
