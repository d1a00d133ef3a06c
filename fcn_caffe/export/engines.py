"""What an exported file is run by, to see that it is right."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt

from fcn_caffe.errors import FcnCaffeError, GraphError

__all__ = ["Engine", "engine_errors", "import_engine", "reason_of"]

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Engine:
    """An engine with a file loaded.

    name: what it is called, with its version. run: takes the inputs by blob, and returns the outputs in order.
    """

    name: str
    run: Callable[[Mapping[str, Array]], list[Array]]


def import_engine(package: str) -> ModuleType:
    """Import the package of an engine, which is to report nothing to its makers.

    ONNX Runtime 1.32's wheels note down, from their import on, what they are used for, and send it to Microsoft.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module(package)


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
