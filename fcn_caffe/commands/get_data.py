"""Prepare a data set of the paper from the archives you downloaded: unpack, convert, write splits, check every file.

It uses no network: without the archives it says which to fetch and where. Stopped half way, it goes on where it stood.
`weights` is no data set: it says which of the files of weights/MANIFEST.toml are there and how to get the others.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import DATA_ROOT_VARIABLE
from fcn_caffe.host.program import tool_call

DATA_SETS = ("voc2011", "voc2012", "sbd", "nyud", "siftflow", "pascal-context")
WEIGHTS = "weights"
DEFAULT_DATA = "../data"  # where the nets look, run from the repository


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("get_data", __doc__)
    add = options.add_argument
    add("name", metavar="NAME", nargs="?", choices=(*DATA_SETS, WEIGHTS), help=", ".join((*DATA_SETS, WEIGHTS)))
    add("--list", action="store_true", help="print what each data set is and needs; do nothing")
    where = f"folder of data sets (default: ${DATA_ROOT_VARIABLE}, or {DEFAULT_DATA}, where the nets look)"
    add("--data", type=Path, help=where)
    add("--archives", type=Path, help="folder of the downloaded archives (default: archives in the data folder)")
    add("--check", action="store_true", help="only check what is there; unpack and write nothing")
    add("--verify", action="store_true", help="weights: read each file; exit 1 if one is not what it should be")
    add("--folder", type=Path, help="weights: where they are (default: weights)")
    add("--png", action="store_true", help="sbd: write the labels as palette PNG too")
    add("--no-checksum", action="store_true", help="take archives whose MD5 sum is not the published one")
    return options


def _weights(arguments: argparse.Namespace) -> int:
    """Say of each file of the manifest whether it is there, and with --verify, whether it is right."""
    from fcn_caffe.models.verification import verify_weights

    folder, states = arguments.folder or Path(WEIGHTS), set()
    if arguments.folder and not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the one that holds the weights.")
    for found in verify_weights(folder, read=arguments.verify):
        states.add(found.state)
        print(found, flush=True)
    return int("wrong" in states)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parser()
    arguments = options.parse_args(argv)
    if not arguments.list and arguments.name is None:
        options.error(f"name a data set: {', '.join(DATA_SETS)}; --list says more of them")
    if (arguments.verify or arguments.folder) and arguments.name != WEIGHTS:
        raise DataError("--verify and --folder are for `weights`: leave them out here. A data set has --check.")
    if arguments.name == WEIGHTS and not arguments.list:
        return _weights(arguments)
    if arguments.png and (arguments.name != "sbd" or arguments.check):
        raise DataError("--png is for sbd, whose labels are .mat files, and writes: leave it out here.")

    from fcn_caffe.data import prepare

    if arguments.list:
        print("\n\n".join(f"{name}: {data_set.card()}" for name, data_set in prepare.DATA_SETS.items()))
        return 0
    data = arguments.data or Path(os.environ.get(DATA_ROOT_VARIABLE) or DEFAULT_DATA)
    job = prepare.Job(
        data=data,
        archives=arguments.archives or data / "archives",
        checksums=not arguments.no_checksum,
        png=arguments.png,
        report=lambda line: print(line, flush=True),
    )
    data_set = prepare.DATA_SETS[arguments.name]
    print(data_set.card())
    if arguments.check:
        data_set.check(job)
    else:
        data_set.prepare(job)
    if data.resolve() != Path(DEFAULT_DATA).resolve() and not os.environ.get(DATA_ROOT_VARIABLE):
        solve = tool_call("solve")
        print(f"nets find it with {DATA_ROOT_VARIABLE}={data.resolve()} in the environment, or with `{solve} --data`")
    return 0
