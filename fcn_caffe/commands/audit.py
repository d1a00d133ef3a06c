"""Audit the papers' claims: run a check for each, and print whether it holds, differs, or could not be run.

Claims about scores need the data sets and trained weights: where they are there the nets are scored, which takes hours
on a CPU; else the audit says what is missing. The exit status is 0 where nothing differs, 1 where something does.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser, seed, share
from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write, check_place, refuse_same
from fcn_caffe.host.paths import shipped
from fcn_caffe.host.program import tool_call
from fcn_caffe.host.tables import Table, print_tables
from fcn_caffe.paper.result import DIFFERS, HOLDS, NOT_RUN

if TYPE_CHECKING:
    from rich.progress import Progress

    from fcn_caffe.paper.audit.claims import Claim
    from fcn_caffe.paper.audit.run import Entry

FOLDERS = ("nets", "solvers")
NARROW, WIDE = 80, 160  # columns that the table is kept within; the second where there is no terminal


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
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
        f"`{tool_call('make_nets')}` writes them."
    )


def _check_files(arguments: argparse.Namespace) -> None:
    """Raise DataError for what would spoil the end of a long run."""
    for path in (arguments.json, arguments.html):
        if path is not None:
            check_place(path)
    refuse_same((arguments.json, arguments.html))
    if arguments.data is not None and not arguments.data.is_dir():
        raise DataError(f"--data {arguments.data}: no such folder.")


class _Report:
    """What is being done, on stderr: a bar on a terminal, elsewhere a line a claim."""

    def __init__(self, count: int, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.count, self.done = count, 0
        self._bar = _start_bar(count, self.stream) if self.stream.isatty() else None

    def __call__(self, claim: Claim, entry: Entry | None) -> None:
        self.done += entry is None
        if self._bar is not None and entry is None:
            title = f"{claim.id}: {claim.quantity}"
            self._bar.update(self._bar.task_ids[0], completed=self.done, description=title, refresh=True)
        elif self._bar is None and entry is not None:
            took = f", {entry['seconds']:.1f} s" if entry["seconds"] >= 0.1 else ""
            print(f"{self.done}/{self.count} {claim.id}: {entry['verdict']}{took}", file=self.stream, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


def _start_bar(count: int, stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    title = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    # No thread of its own: the bar moves when a claim is begun.
    bar = Progress(
        BarColumn(20), MofNCompleteColumn(), title, console=Console(file=stream), auto_refresh=False, transient=True
    )
    bar.add_task("", total=count)
    bar.start()
    return bar


# -- the table ---------------------------------------------------------------------------------------------------------


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: max(0, room - 1)]}…"


def _columns() -> int:
    return max(NARROW, shutil.get_terminal_size((WIDE, 24)).columns if sys.stdout.isatty() else WIDE)


def _print_lines(lines: Iterable[str]) -> None:
    """Print lines; on a terminal the verdicts that some begin with are coloured."""
    if not sys.stdout.isatty():
        print("\n".join(lines))
        return
    from rich.console import Console
    from rich.text import Text

    from fcn_caffe.paper.audit.run import UNVERIFIED_SOURCE

    styles = {HOLDS: "green", DIFFERS: "bold red", NOT_RUN: "yellow", UNVERIFIED_SOURCE: "cyan"}
    console = Console()
    for line in lines:
        text, start = Text(line), len(line) - len(line.lstrip())
        for verdict, style in styles.items():
            if line.startswith((f"{verdict} ", f"{verdict}:"), start):
                text.stylize(style, start, start + len(verdict))
        console.print(text, soft_wrap=True)


def _table(record: Entry) -> list[str]:
    """A line a claim below its section: verdict, what was found for claims we could not verify, id, claim, value."""
    from fcn_caffe.paper.audit.claims import NO_UNITS
    from fcn_caffe.paper.audit.run import UNVERIFIED_SOURCE, VERDICTS

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
            verdict = f"{claim['verdict']:<{first}}"
            measured = claim["found"] if claim["verdict"] == UNVERIFIED_SOURCE else ""
            lines.append(f"  {verdict}  {measured:<{third}}  {claim['id']:<{second}}  {quantity}: {value}".rstrip())
    return lines


def _reasons(record: Entry, verdict: str) -> list[str]:
    """Why claims have a verdict, and where each claim becomes code."""
    # Names of files stay whole, so that they can be copied.
    whole = textwrap.TextWrapper(_columns() - 2, "  ", "  ", break_on_hyphens=False, break_long_words=False)
    lines: list[str] = []
    for claim in record["claims"]:
        if claim["verdict"] != verdict:
            continue
        lines += ["", f"{verdict}: {claim['id']}, {claim['quantity']}"]
        lines += whole.wrap(claim["reason"])
        places = (f"{place['path']}:{place['line']}" for place in claim["realised"] if place["line"] is not None)
        lines += [f"  see {place}" for place in list(places)[:1]]
    return lines


def _print(record: Entry, with_missing: bool) -> None:
    from fcn_caffe.host.progress import duration

    lines = _table(record) + _reasons(record, DIFFERS)
    if with_missing:
        lines += _reasons(record, NOT_RUN)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in record["counts"].items())
    state = ", interrupted" if record.get("interrupted") else ""
    took = duration(record["seconds"])
    _print_lines([*lines, "", f"{len(record['claims'])} claims: {counts} ({took}{state})"])


def _write(record: Entry, arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        with atomic_write(arguments.json, "w") as file:
            json.dump(record, file, indent=1, ensure_ascii=False, allow_nan=False)
            file.write("\n")
        print(f"wrote {arguments.json}")
    if arguments.html is not None:
        from fcn_caffe.paper.report.page import write_page

        page = write_page(record, arguments.html.resolve().parent)  # before the file is opened
        with atomic_write(arguments.html, "w") as file:
            file.write(page)
        print(f"wrote {arguments.html}")


def _list(claims: Iterable[Claim]) -> None:
    from fcn_caffe.paper.audit.claims import CHECKS

    rows = []
    for claim in claims:
        check = CHECKS.get(claim.id)
        kind = f"{check.kind}{', trains' if check.trains else ''}" if check else "no check"
        rows.append((claim.id, kind, claim.where, claim.quantity))
    width = max(len(row[0]) for row in rows)
    lines = [f"{id:<{width}}  {kind:<19}  {where}: {quantity}" for id, kind, where, quantity in rows]
    print_tables("\n".join(lines), [Table(("id", "check", "where", "claim"), rows)])


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Audit and print. Returns 0 where nothing differs, 1 where something does, 2 for a wrong command line."""
    options = parser()
    arguments = options.parse_args(argv)

    try:
        root = _root(arguments.root)
        _check_files(arguments)

        from fcn_caffe.paper.audit.files import AuditedFiles
        from fcn_caffe.paper.audit.run import audit, choose_claims

        claims = choose_claims([word.strip() for words in arguments.only for word in words.split(",")])
    except DataError as error:
        options.error(str(error))  # 1 means that a claim differs
    if arguments.list:
        _list(claims)
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
        raise KeyboardInterrupt  # which `command` tells
    return 1 if record["counts"][DIFFERS] else 0
