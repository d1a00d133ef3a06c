"""Prepare a data set of the paper from the archives you downloaded: unpack, convert, write splits, check every file.

It uses no network: without the archives it says which to fetch and where. Stopped half way, it goes on where it stood.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.data.prepare import DATA_SETS, Job
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import DATA_ROOT_VARIABLE

DEFAULT_DATA = "../data"  # where the nets look, run from the repository


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="get_data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n\n".join(f"{name}: {data_set.card()}" for name, data_set in DATA_SETS.items()),
    )
    add = parser.add_argument
    add("name", metavar="NAME", choices=sorted(DATA_SETS), help=", ".join(DATA_SETS))
    where = f"folder of data sets (default: ${DATA_ROOT_VARIABLE}, or {DEFAULT_DATA}, where the nets look)"
    add("--data", type=Path, help=where)
    add("--archives", type=Path, help="folder of the downloaded archives (default: archives in the data folder)")
    add("--check", action="store_true", help="only check what is there; unpack and write nothing")
    add("--png", action="store_true", help="sbd: write the labels as palette PNG too")
    add("--no-checksum", action="store_true", help="take archives whose MD5 sum is not the published one")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    data = arguments.data or Path(os.environ.get(DATA_ROOT_VARIABLE) or DEFAULT_DATA)
    if arguments.png and (arguments.name != "sbd" or arguments.check):
        raise DataError("--png is for sbd, whose labels are .mat files, and writes: leave it out here.")
    job = Job(
        data=data,
        archives=arguments.archives or data / "archives",
        checksums=not arguments.no_checksum,
        png=arguments.png,
        report=lambda line: print(line, flush=True),
    )
    data_set = DATA_SETS[arguments.name]
    print(data_set.card())
    if arguments.check:
        data_set.check(job)
    else:
        data_set.prepare(job)
    if data.resolve() != Path(DEFAULT_DATA).resolve() and not os.environ.get(DATA_ROOT_VARIABLE):
        print(f"nets find it with {DATA_ROOT_VARIABLE}={data.resolve()} in the environment, or with solve.py --data")
    return 0
