"""Which lines of the package a run reaches: what guides the campaign to inputs that are worth keeping."""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

from campaign.guards import PACKAGE

Lines = dict[str, set[int]]  # by file


def lines_of(code: CodeType) -> set[int]:
    """The lines of a function's body."""
    return {line for _, _, line in code.co_lines() if line}


class Tracer:
    """Follows the package's functions and notes lines that nothing has reached before; a function whose lines are all
    known is followed no more.

    Args:
        known: Lines that earlier runs have reached; new ones are added.
    """

    def __init__(self, known: Lines) -> None:
        self.known = known
        self.new: Lines = {}
        self._open: dict[CodeType, set[int] | None] = {}  # None: not the package's, or all known

    def __enter__(self) -> Tracer:
        self.found_new = False
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        if code not in self._open:
            ours = code.co_filename.startswith(PACKAGE) and code.co_filename.endswith(".py")  # templates have code, too
            left = lines_of(code) - self.known.setdefault(code.co_filename[len(PACKAGE) :], set()) if ours else set()
            self._open[code] = left or None
        return None if self._open[code] is None else self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        left = self._open[frame.f_code]
        if left is not None and frame.f_lineno in left:
            left.discard(frame.f_lineno)
            name = frame.f_code.co_filename[len(PACKAGE) :]
            if frame.f_lineno not in self.known[name]:
                self.known[name].add(frame.f_lineno)
                self.new.setdefault(name, set()).add(frame.f_lineno)
                self.found_new = True
            if not left:
                self._open[frame.f_code] = None
        return self._line
