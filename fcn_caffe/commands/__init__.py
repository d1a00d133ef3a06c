"""The command line: `fcn-caffe NAME …` and `python tools/NAME.py …` are the same functions, one module a command.

A command's module has `parser()`, its flags, and `main(argv)`, which does the work and returns the exit status. The top
of the module imports nothing heavy; the functions that do the work import the library. So help, a wrong command line
and the shell's completion do without PyTorch, which takes seconds to load.
"""

from __future__ import annotations

import contextvars
import errno
import functools
import importlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence

import fcn_caffe
from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.host import interrupts

__all__ = ["COMMANDS", "INTERRUPTED", "WRONG_USAGE", "command", "main", "names"]

Main = Callable[[Sequence[str] | None], int]
INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended; see `interrupts.exit_status` for others
WRONG_USAGE = 2  # as argparse has it

_CURES = {
    errno.EACCES: "Check who owns it.",
    errno.EPERM: "Check who owns it.",
    errno.EROFS: "Give a place on a disk that can be written to.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "A part of the path is a file: give another one.",
    errno.EISDIR: "Give the name of a file.",
    errno.EEXIST: "Remove it, or give another name.",
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.ELOOP: "Remove the link, which leads to itself.",
    errno.ENOSPC: "Make room on the disk.",
    errno.EFBIG: "Raise the limit of file sizes: ulimit -f.",
    errno.EMFILE: "Raise the limit of open files: ulimit -n.",
}

# What `fcn-caffe --help` says of each command, by group.
COMMANDS = {
    "Train": {
        "solve": "train a net, and first the coarser ones it starts from",
        "train": "train one net with one solver, as caffe train does",
        "explain_lr": "say what a solver's learning rate means",
        "doctor": "examine a net or a solver before it runs",
        "report": "write a page of a run: curves, scores, images",
        "parse_log": "turn training logs into CSV files",
        "plot_training_log": "draw a chart of training logs",
    },
    "Run and score": {
        "infer": "segment photographs with a trained net",
        "score": "score a trained net on its own data",
        "score_edges": "score a trained net of edges on its own data",
        "test_net": "run a net on its test data, as caffe test does",
        "extract_features": "write blobs of a net to databases or files",
        "time_net": "time a net layer by layer, as caffe time does",
        "device_query": "show the CUDA devices, as caffe device_query does",
    },
    "Data": {
        "new_task": "make nets and solvers for your own images and labels",
        "get_data": "prepare a data set of the paper from its archives",
        "convert_imageset": "make a database out of a list of images",
        "compute_image_mean": "compute the mean image of a database",
        "hha": "encode depth images as HHA",
    },
    "Nets and weights": {
        "convolutionalize": "turn a classifier into its fully convolutional form",
        "merge_bn": "merge batch normalisations into convolutions",
        "port_weights": "turn weights of any form into any other",
        "draw_net": "draw a net",
        "view": "write a page on which one can look at a net",
        "export": "write a net as ONNX, torch.export or OpenVINO",
        "upgrade_net": "make an old net modern",
        "upgrade_solver": "make an old solver modern",
        "make_nets": "write the paper's nets and solvers",
    },
    "The paper": {
        "audit": "check what the papers claim",
        "experiment": "run one of the paper's experiments",
    },
}


def command(main: Main) -> Callable[..., int]:
    """Wrap a command's `main(argv)` so that a mistake of the user ends in one line, not in a traceback.

    Args:
        main: Takes the words behind the command's name, and returns the exit status.

    Returns:
        The same function, which prints `error: …` on stderr and returns 1 for FcnCaffeError and for what the system
        refuses, returns 130 for Ctrl-C and 143 for SIGTERM, and 0 where the reader of a pipe went away.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        _open_closed_streams()
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd files; what stands in their way is an error of ours
        if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text, or not the terminal's
        try:
            with interrupts.listening():
                status: int = contextvars.copy_context().run(main, argv)
                sys.stdout.flush()
                return status
        except FcnCaffeError as error:
            print(f"error: {_who()}{_printable(str(error))}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            number = interrupts.ended_by()
            print(f"{_who()}{interrupts.message(number)}", file=sys.stderr)
            return interrupts.exit_status(number)
        except BrokenPipeError:
            # Python flushes stdout once more at exit; give it somewhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            said = _printable(f"{place}{error.strerror or error}. {_cure(error)}").rstrip()
            print(f"error: {_who()}{said}", file=sys.stderr)
            return 1
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            why = str(error).partition("\n")[0] or "no more is given"
            print(f"error: {_who()}too little memory: {why}. Take smaller images, batches or nets.", file=sys.stderr)
            return 1

    return run


def _open_closed_streams() -> None:
    """Lead streams that were closed before we came to nowhere, so that no file gets their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (as long as the process)


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Say whether memory ran out; PyTorch has no class of its own for that on the CPU."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _printable(text: str) -> str:
    """Return a text that does nothing to a terminal: a name in a stranger's file may be made to."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda match: ascii(match[0])[1:-1], text)


def _cure(error: OSError) -> str:
    """Say what helps against what the system refuses; empty where that is not known."""
    return _CURES.get(error.errno or 0, "")


def _who() -> str:
    """Say which process of several this is, as the beginning of what it says last."""
    return f"rank {os.environ['RANK']}: " if os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ else ""


def names() -> list[str]:
    """List the commands, sorted."""
    return sorted(name for group in COMMANDS.values() for name in group)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run `fcn-caffe NAME ARGUMENTS`.

    Args:
        argv: The words behind `fcn-caffe`; by default those of this process.

    Returns:
        The exit status of that command's `main`; 2 for an unknown name.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else WRONG_USAGE
    if arguments[0] == "--version":
        print(f"fcn-caffe {fcn_caffe.__version__}")
        return 0
    if arguments[0] == "--completion":
        return _print_completion(arguments[1:])
    name = arguments[0].replace("-", "_")
    if name not in names():
        return _wrong_usage(f"unknown command {arguments[0]!r}. Known: {', '.join(names())}.")
    module = importlib.import_module(f"{__name__}.{name}")
    status: int = module.main(arguments[1:])
    return status


def _help() -> str:
    width = max(map(len, names()))
    lines = ["usage: fcn-caffe COMMAND …", "       fcn-caffe --version | --completion bash|zsh"]
    for group, members in COMMANDS.items():
        lines += ["", f"{group}:", *(f"  {name:<{width}}  {what}" for name, what in members.items())]
    return "\n".join([*lines, "", "`fcn-caffe COMMAND --help` says more of a command."])


def _print_completion(shells: Sequence[str]) -> int:
    from fcn_caffe.commands._completion import WRITERS

    if len(shells) != 1 or shells[0] not in WRITERS:
        return _wrong_usage(f"--completion takes the name of a shell: {' or '.join(WRITERS)}.")
    print(WRITERS[shells[0]]())
    return 0


def _wrong_usage(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return WRONG_USAGE
