"""Write a page of a run: its stages, curves, scores by class, confusion, best and worst images, how to repeat it.

The page is one HTML file for any browser, which needs no network. It is made of what `solve` and `train --log` left,
also of a run that was interrupted or that still runs: nothing is computed again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("report", __doc__)
    add = options.add_argument
    add("run", type=Path, help="a task's folder, or snapshot/NAME of a stage, or a training log")
    add("out", type=Path, nargs="?", help="page to write (default: report.html in that folder)")
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser()
    arguments = options.parse_args(argv)
    folder = arguments.run.parent if arguments.run.is_file() else arguments.run
    out = arguments.out or folder / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        options.error(f"{out}: the page is HTML: give a name that ends with .html.")

    from fcn_caffe.host.atomic import atomic_write, check_place
    from fcn_caffe.training.report import write_run

    page = write_run(arguments.run)
    check_place(out)
    with atomic_write(out, "w") as file:
        file.write(page)
    print(f"wrote {out}: {len(page.encode()) / 1e3:,.0f} kB")
    return 0
