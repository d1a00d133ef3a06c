"""Audit the papers' claims: run a check for each, and print whether it holds, differs, or could not be run.

Claims about scores need the data sets and trained weights: where they are there the nets are scored, which takes hours
on a CPU; else the audit says what is missing. The exit status is 0 where nothing differs, 1 where something does.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from fcn_caffe.commands import INTERRUPTED, command
from fcn_caffe.commands._options import new_parser, seed, share
from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write, check_place
from fcn_caffe.host.paths import shipped
from fcn_caffe.host.progress import duration
from fcn_caffe.paper.audit.claims import CHECKS, NO_UNITS, Claim
from fcn_caffe.paper.audit.files import AuditedFiles
from fcn_caffe.paper.audit.run import UNVERIFIED_SOURCE, VERDICTS, Entry, audit, choose_claims
from fcn_caffe.paper.report.page import write_page
from fcn_caffe.paper.result import DIFFERS, HOLDS, NOT_RUN

FOLDERS = ("nets", "solvers")
NARROW, WIDE = 80, 160  # columns that the table is kept within; the second where there is no terminal
_COLOURS = {HOLDS: "32", DIFFERS: "1;31", NOT_RUN: "33", UNVERIFIED_SOURCE: "36"}


def parser() -> argparse.ArgumentParser:
    options = new_parser("audit", __doc__)
    add = options.add_argument
    add("--root", type=Path, help="folder of nets/, solvers/ and weights/ (default: here, else the checkout)")
    add("--data", type=Path, metavar="DIR", help="where the data sets lie (default: $FCN_CAFFE_DATA, else as nets say)")
    add("--quick", action="store_true", help="leave out what trains: under two minutes")
    add(
        "--only",
        action="append",
        default=[],
        metavar="CLAIM",
        help="an id, what ids begin with, or a kind: static, behavioural, data; several with commas",
    )
    add("--seed", type=seed, default=0, help="of random weights and images (default: 0)")
    add("--scale", type=share, default=1.0, help="share of the iterations that experiments train for (default: 1)")
    add("--json", type=Path, metavar="FILE", help="write all that was found")
    add("--html", type=Path, metavar="FILE", help="write it as one page that needs no network")
    add("--list", action="store_true", help="list the claims and the kinds of their checks; run nothing")
    return options


def _root(given: Path | None) -> Path:
    """The folder that is audited. Raises: DataError where it has no nets and solvers."""
    places = [Path.cwd(), shipped()] if given is None else [given]
    for place in places:
        if place is not None and all((place / folder).is_dir() for folder in FOLDERS):
            return place.resolve()
    where = " and ".join(str(place) for place in places if place is not None)
    raise DataError(
        f"{where}: no folders {' and '.join(FOLDERS)} there. Give the folder they lie in with --root; "
        "tools/make_nets.py writes them."
    )


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise DataError for what would spoil the end of a long run."""
    for path in (arguments.json, arguments.html):
        if path is not None:
            check_place(path)
    if arguments.json is not None and arguments.html is not None and _same(arguments.json, arguments.html):
        raise DataError(f"{arguments.json}: is given for --json and --html. Give each its own file.")
    if arguments.data is not None and not arguments.data.is_dir():
        raise DataError(f"--data {arguments.data}: no such folder.")


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


class _Report:
    """What is being done, on stderr: one line that is redrawn on a terminal, elsewhere a line a claim."""

    def __init__(self, count: int, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.count, self.done, self.width = count, 0, 0
        self.drawn = self.stream.isatty()

    def __call__(self, claim: Claim, entry: Entry | None) -> None:
        self.done += entry is None
        if self.drawn and entry is None:
            self._draw(f"{self.done}/{self.count} {claim.id}: {claim.quantity}")
        elif not self.drawn and entry is not None:
            took = f", {entry['seconds']:.1f} s" if entry["seconds"] >= 0.1 else ""
            print(f"{self.done}/{self.count} {claim.id}: {entry['verdict']}{took}", file=self.stream, flush=True)

    def close(self) -> None:
        """Leave the terminal's line empty."""
        if self.drawn:
            self._draw("")
            self.stream.write("\r")
            self.stream.flush()

    def _draw(self, text: str) -> None:
        text = _cut(text, shutil.get_terminal_size().columns - 1)
        self.stream.write(f"\r{text}{' ' * (self.width - len(text))}")
        self.stream.flush()
        self.width = len(text)


# -- the table ---------------------------------------------------------------------------------------------------------


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: max(0, room - 1)]}…"


def _columns() -> int:
    return max(NARROW, shutil.get_terminal_size((WIDE, 24)).columns if sys.stdout.isatty() else WIDE)


def _coloured(text: str, verdict: str, colours: bool) -> str:
    return f"\033[{_COLOURS[verdict]}m{text}\033[0m" if colours else text


def _table(record: Entry, colours: bool) -> list[str]:
    """A line a claim below its section: verdict, what was found for claims we could not verify, id, claim, value."""
    sections: dict[str, list[Entry]] = {}
    claims: list[Entry] = record["claims"]
    for claim in claims:
        sections.setdefault(f"{claim['source']}, {claim['where']}", []).append(claim)
    lines: list[str] = []
    first, second = max(map(len, VERDICTS)), max((len(claim["id"]) for claim in claims), default=0)
    # A claim of unverified source is measured all the same: its own column tells what came of it.
    third = len(NOT_RUN)
    room = _columns() - first - second - third - 10
    for section, members in sections.items():
        lines += ["", section] if lines else [section]
        for claim in members:
            # Each may have half of the room, and what the other leaves.
            unit = "" if claim["unit"] in NO_UNITS else f" {claim['unit']}"
            value, quantity = f"{claim['value']}{unit}", claim["quantity"]
            value = _cut(value, max(room // 2, room - len(quantity)))
            quantity = _cut(quantity, room - len(value))
            verdict = _coloured(f"{claim['verdict']:<{first}}", claim["verdict"], colours)
            found = claim["found"] if claim["verdict"] == UNVERIFIED_SOURCE else ""
            lines.append(f"  {verdict}  {found:<{third}}  {claim['id']:<{second}}  {quantity}: {value}".rstrip())
    return lines


def _explained(record: Entry, verdict: str, colours: bool) -> list[str]:
    """Why claims have a verdict, and where each claim becomes code."""
    # Names of files stay whole, so that they can be copied.
    whole = textwrap.TextWrapper(_columns() - 2, "  ", "  ", break_on_hyphens=False, break_long_words=False)
    lines: list[str] = []
    for claim in record["claims"]:
        if claim["verdict"] != verdict:
            continue
        lines += ["", f"{_coloured(verdict, verdict, colours)}: {claim['id']}, {claim['quantity']}"]
        lines += whole.wrap(claim["reason"])
        places = (f"{place['path']}:{place['line']}" for place in claim["realised"] if place["line"] is not None)
        lines += [f"  see {place}" for place in list(places)[:1]]
    return lines


def _print(record: Entry, with_missing: bool) -> None:
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    lines = _table(record, colours) + _explained(record, DIFFERS, colours)
    if with_missing:
        lines += _explained(record, NOT_RUN, colours)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in record["counts"].items())
    state = ", interrupted" if record.get("interrupted") else ""
    print("\n".join([*lines, "", f"{len(record['claims'])} claims: {counts} ({duration(record['seconds'])}{state})"]))


def _write(record: Entry, arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        with atomic_write(arguments.json, "w") as file:
            json.dump(record, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
        print(f"wrote {arguments.json}")
    if arguments.html is not None:
        page = write_page(record, arguments.html.resolve().parent)  # before the file is opened
        with atomic_write(arguments.html, "w") as file:
            file.write(page)
        print(f"wrote {arguments.html}")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Audit and print. Returns 0 where nothing differs, 1 where something does, 2 for a wrong command line."""
    options = parser()
    arguments = options.parse_args(argv)
    try:
        claims = choose_claims([word.strip() for words in arguments.only for word in words.split(",")])
        root = _root(arguments.root)
        _check_files(arguments)
    except DataError as error:
        options.error(str(error))  # 1 means that a claim differs
    if arguments.list:
        width = max(len(claim.id) for claim in claims)
        for claim in claims:
            check = CHECKS.get(claim.id)
            kind = f"{check.kind}{', trains' if check.trains else ''}" if check else "no check"
            print(f"{claim.id:<{width}}  {kind:<19}  {claim.where}: {claim.quantity}")
        return 0
    settings = {"quick": arguments.quick, "seed": arguments.seed, "scale": arguments.scale}
    report = _Report(len(claims))
    try:
        audited = AuditedFiles(root, arguments.data, **settings)
        record = audit(audited, only={claim.id for claim in claims}, on_claim=report)
    finally:
        report.close()
    _print(record, with_missing=bool(arguments.only))
    _write(record, arguments)
    if record.get("interrupted"):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 1 if record["counts"][DIFFERS] else 0
