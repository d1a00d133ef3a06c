"""The exception tree. Every error names the file and line, or the layer, and ends with the fix.

FcnCaffeError
├── PrototxtError   text or binary that does not parse as the message it should be
├── GraphError      layers that do not fit together: missing bottoms, repeated tops, wrong rules
├── LayerError      one layer's own options, bottoms or shapes
├── WeightsError    weight files, and weights that do not fit the net
├── SolverError     solver options, snapshots, the training loop
└── DataError       images, labels, splits and data sets
"""

from __future__ import annotations

import os
from typing import NoReturn

_LONGEST = 3000  # characters of a message; a corrupt file may hold a name or a shape of any length


class FcnCaffeError(Exception):
    """Base of every error this package raises on purpose. Its text is cut in the middle where it is very long."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_shortened(message))

    def named(self, place: str) -> FcnCaffeError:
        """The same error with the place in front, unless its text starts with it already."""
        return self if str(self).startswith(place) else self._with(f"{place}: {self}")

    def raise_named(self, place: str) -> NoReturn:
        """Raise it with the place in front, keeping what it came from."""
        named = self.named(place)
        if named is self:
            raise self
        raise named from self

    def hinted(self, hint: str) -> FcnCaffeError:
        """The same error with a hint behind."""
        return self._with(f"{self}{hint}") if hint else self

    def _with(self, text: str) -> FcnCaffeError:
        error = type(self).__new__(type(self))
        error.__dict__.update(self.__dict__)
        error.args = (_shortened(text),)
        return error


def _shortened(text: str) -> str:
    """The text, or its beginning, which says where, and its end, which says how to mend it."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 2]} … ({len(text) - _LONGEST} characters) … {text[-_LONGEST // 2 :]}"


class PrototxtError(FcnCaffeError):
    """A prototxt or binary message that cannot be read. Carries `path`, `line` and `column` (1-based)."""

    def __init__(
        self,
        message: str,
        path: str | os.PathLike[str] = "<string>",
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        self.path, self.line, self.column = os.fspath(path), line, column
        place = ":".join(str(part) for part in (self.path, line, column) if part is not None)
        super().__init__(f"{place}: {message}")


class GraphError(FcnCaffeError):
    """Layers that cannot be wired: a missing bottom, a repeated top, include with exclude."""


class LayerError(FcnCaffeError):
    """A layer whose options, bottoms or shapes are wrong. Carries `layer` and `type`."""

    def __init__(self, message: str, layer: str = "", type: str = "") -> None:
        self.layer, self.type = layer, type
        super().__init__(f"layer '{layer}' ({type}): {message}" if layer or type else message)


class WeightsError(FcnCaffeError):
    """A weight file that cannot be read or written, or weights that do not fit the net."""


class SolverError(FcnCaffeError):
    """Solver options that are wrong, or a training run that cannot go on."""


class DataError(FcnCaffeError):
    """An image, label, split or data set that is missing or not what it should be. Names the file."""
