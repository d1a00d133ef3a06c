"""Write nets/*.prototxt, solvers/*.prototxt and weights/MANIFEST.toml from the package's own definitions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fcn_caffe.commands import command
from fcn_caffe.commands._options import new_parser
from fcn_caffe.host.atomic import atomic_write


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("make_nets", __doc__)
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not as it would be")
    options.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where nets/ and solvers/ lie (.)")
    return options


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or with --check say which differ. Returns 1 where --check finds a difference."""
    arguments = parser().parse_args(argv)

    from fcn_caffe.models.files import all_files

    changed = []
    for name, text in all_files().items():
        path: Path = arguments.out / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        changed.append(str(path))
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path, "w") as file:
                file.write(text)
    if arguments.check and changed:
        print(f"differ from what make_nets writes: {', '.join(changed)}. Run it without --check.", file=sys.stderr)
        return 1
    if not arguments.check:
        print(f"{len(changed)} file(s) written" if changed else "every file is up to date")
    return 0
