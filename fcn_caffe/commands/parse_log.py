"""Turn training logs, Caffe's or ours, into CSV files: LOG.train and LOG.test, with iterations and seconds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser
from fcn_caffe.host.atomic import check_place


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("parse_log", __doc__)
    add = options.add_argument
    add("log", type=Path, help="log file")
    add("output_dir", type=Path, help="folder to write the two files to")
    add("--delimiter", type=_delimiter, default=",", help="between columns (default: a comma)")
    add("--verbose", action="store_true", help="say how many rows there are")
    return options


def _delimiter(text: str) -> str:
    character = "\t" if text in ("\\t", "tab") else text
    if len(character) != 1 or character in '"\r\n':
        raise argparse.ArgumentTypeError(f"should be one character, got {text!r}")
    return character


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    arguments = parser().parse_args(argv)

    from fcn_caffe.training.log_parser import parse_log, write_tables

    check_place(arguments.output_dir / f"{arguments.log.name}.train")
    log = parse_log(arguments.log)
    paths = write_tables(log, arguments.output_dir / arguments.log.name, arguments.delimiter)
    if arguments.verbose:
        print(f"{len(log.train)} rows of training, {sum(map(len, log.tests.values()))} of testing")
    for path in paths:
        print(f"wrote {path}")
    return 0
