"""Write a page on which one can look at a net or a solver: one HTML file for any browser, which needs no network.

It has the graph with its stages, and for each layer its options with their meaning, shapes, how far it sees,
parameters, multiply-adds, the derivation of a crop's offset and what `doctor` finds; other sizes can be typed in.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.commands._options import add_reading_options, net_or_solver, new_parser, use_reading_options


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("view", __doc__)
    add = options.add_argument
    add("file", type=net_or_solver, help="net or solver prototxt, old forms too")
    add("out", type=Path, help="page to write, such as net.html")
    add("--weights", help="weights to show: filters, histograms")
    add_reading_options(options)
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser()
    arguments = options.parse_args(argv)
    if arguments.out.suffix.lower() not in (".html", ".htm"):
        options.error(f"{arguments.out}: the page is HTML: give a name that ends with .html.")
    use_reading_options(arguments)

    from fcn_caffe.host.atomic import atomic_write, check_place
    from fcn_caffe.viewer import write_view

    check_place(arguments.out)
    page = write_view(arguments.file, arguments.weights)
    with atomic_write(arguments.out, "w") as file:
        file.write(page)
    print(f"wrote {arguments.out}: {len(page.encode()) / 1e3:,.0f} kB")
    return 0
