"""What an exported file is run by, to see that it is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fcn_caffe.errors import FcnCaffeError, GraphError

__all__ = ["Engine", "engine_errors", "reason_of"]

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Engine:
    """An engine with a file loaded.

    name: what it is called, with its version. run: takes the inputs by blob, and returns the outputs in order.
    """

    name: str
    run: Callable[[Mapping[str, Array]], list[Array]]


@contextmanager
def engine_errors(net: str) -> Iterator[None]:
    """Tell in one line what an engine, or a converter, raises on the file of a net: errors of any class."""
    try:
        yield
    except (FcnCaffeError, OSError, MemoryError):
        raise
    except Exception as error:
        raise GraphError(
            f"net '{net}': the engine fails on the file, and nothing was written: {reason_of(error)} Try the declared "
            "sizes alone, with --fixed, and please report this net."
        ) from error


def reason_of(error: BaseException) -> str:
    """Return what an error comes from, without colours: its class and the first line of what it says."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line}".removesuffix(".") + "."
