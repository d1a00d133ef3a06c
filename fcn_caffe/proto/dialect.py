"""What a command says of the Caffe that its files are of: `--fork` and `--strict`. Nets and solvers read it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Dialect", "dialect", "use_dialect"]


@dataclass(frozen=True)
class Dialect:
    """fork: whose Caffe nets are of that do not say it. strict: whether BVLC's Caffe 1.0 alone is read."""

    fork: str = ""
    strict: bool = False


_current: ContextVar[Dialect] = ContextVar("dialect")


def dialect() -> Dialect:
    """Return the dialect of the command that runs; outside of commands nothing is said."""
    return _current.get(Dialect())


def use_dialect(fork: str, strict: bool) -> None:
    """Set the dialect up to the end of the command that runs: each runs in a context of its own."""
    _current.set(Dialect(fork, strict))
