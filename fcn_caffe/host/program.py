"""How the person at the keyboard runs our tools: what a message tells them to type."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["tool_call", "tool_words"]

_PACKAGE = Path(__file__).resolve().parents[1]


def tool_call(tool: str, *, from_elsewhere: bool = False) -> str:
    """Say how a tool is run here, as part of a message: `fcn-caffe solve`, or `python tools/solve.py`.

    Args:
        tool: The tool's name, `solve`.
        from_elsewhere: Whether it has to work in another folder than this one.

    Returns:
        The form in which this process itself was started; `fcn-caffe TOOL` within a program of the user's own.
    """
    return shlex.join(tool_words(tool, from_elsewhere=from_elsewhere))


def tool_words(tool: str, *, from_elsewhere: bool = False, processes: int = 1) -> list[str]:
    """Return the words of `tool_call`, or torchrun's for several processes; a command line goes on behind them."""
    if processes > 1:
        return ["torchrun", "--nproc-per-node", str(processes), "-m", _PACKAGE.name, tool]
    program = Path(sys.argv[0])
    if program.resolve().parent == _PACKAGE.parent / "tools":
        folder = program.resolve().parent if from_elsewhere else program.parent
        return [_python(), str(folder / f"{tool}.py")]
    if program.resolve() == _PACKAGE / "__main__.py":
        return [_python(), "-m", _PACKAGE.name, tool]
    return ["fcn-caffe", tool]


def _python() -> str:
    """The shortest name of the interpreter that runs this."""
    for name in ("python", "python3"):
        path = shutil.which(name)
        if path is not None and os.path.abspath(path) == sys.executable:
            return name
    return sys.executable
