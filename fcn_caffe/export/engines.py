"""What an exported file is run by, to see that it is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Engine"]

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Engine:
    """An engine with a file loaded.

    name: what it is called, with its version. run: takes the inputs by blob, and returns the outputs in order.
    """

    name: str
    run: Callable[[Mapping[str, Array]], list[Array]]
