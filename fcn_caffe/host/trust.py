"""Whether code beside a net may run: only where the person says so, for a net may come from a stranger."""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from pathlib import Path

__all__ = ["ALLOW_PYTHON_VARIABLE", "allow_python", "may_run_python_of"]

ALLOW_PYTHON_VARIABLE = "FCN_CAFFE_ALLOW_PYTHON"  # 1 stands for --allow-python in every command and script

_allowed: ContextVar[bool] = ContextVar("allow_python", default=False)


def allow_python() -> None:
    """Let modules beside nets run up to the end of the command that runs: each runs in a context of its own."""
    _allowed.set(True)


def may_run_python_of(folder: Path) -> bool:
    """Whether modules of this folder may run: `--allow-python`, $FCN_CAFFE_ALLOW_PYTHON, or Python looks there anyway.

    Args:
        folder: The folder of a net's file.
    """
    if _allowed.get() or os.environ.get(ALLOW_PYTHON_VARIABLE) == "1":
        return True
    # "" is the working directory, where Python itself looks for modules in an interactive session.
    return any(folder.resolve() == Path(place).resolve() for place in sys.path)
