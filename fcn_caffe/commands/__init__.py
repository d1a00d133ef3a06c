"""The command line: `fcn-caffe NAME …` and `python tools/NAME.py …` are the same functions, one module a command."""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence

from fcn_caffe.errors import FcnCaffeError

Main = Callable[[Sequence[str] | None], int]
INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended


def command(main: Main) -> Callable[..., int]:
    """Wrap a command's `main(argv) -> exit status` so that a mistake of the user ends in one line, not a traceback.

    FcnCaffeError and what the system refuses print `error: …` on stderr and give 1; Ctrl-C gives 130; a reader that
    closed the pipe gives 0.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            status = main(argv)
            sys.stdout.flush()
            return status
        except FcnCaffeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            # Python flushes stdout once more at exit; give it somewhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            hint = " Check who owns it." if isinstance(error, PermissionError) else ""
            print(f"error: {place}{error.strerror or error}.{hint}", file=sys.stderr)
            return 1

    return run


def names() -> list[str]:
    """The commands there are, sorted: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fcn-caffe NAME ARGUMENTS`: the `main` of that module. Returns its exit status, 2 for an unknown name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: fcn-caffe COMMAND …\n\ncommands: {', '.join(names())}\n\n`fcn-caffe COMMAND --help` says more.")
        return 0 if arguments else 2
    name, *rest = arguments
    if name.replace("-", "_") not in names():
        print(f"error: unknown command {name!r}. Known: {', '.join(names())}.", file=sys.stderr)
        return 2
    module = importlib.import_module(f"fcn_caffe.commands.{name.replace('-', '_')}")
    status: int = module.main(rest)
    return status
