"""The exception tree. Every error names the file and line, or the layer, and ends with the fix.

FcnCaffeError
├── PrototxtError   text or binary that is not the message it should be
├── GraphError      layers that do not fit together: missing bottoms, repeated tops, wrong rules
├── LayerError      one layer's own options, bottoms or shapes
├── WeightsError    weight files, and weights that do not fit the net
├── SolverError     solver options, snapshots, the training loop
├── DataError       images, labels, splits and data sets
└── RanksError      a run of several processes that do not meet, or lose one
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

# Control characters, which a file's words may give to a terminal as orders; marks that turn a line's direction.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_LONGEST = 3000  # characters; a corrupt file may hold a name or a shape of any length
_NOTE = 50  # that a cut adds


class FcnCaffeError(Exception):
    """Base of every error that this package raises on purpose. A very long text loses its middle."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_shortened(message))

    def named(self, place: str) -> Self:
        """Return a copy that names the place first, for `raise error.named(place) from error.__cause__`.

        The text stays as it is where it starts with the place already. The copy has the traceback of the original,
        so nothing is lost and nothing is shown twice.
        """
        text = str(self)
        return self._with(text if text.startswith(place) else f"{place}: {text}")

    def hinted(self, hint: str) -> Self:
        """Return a copy whose text ends with the hint."""
        return self._with(f"{self}{hint}")

    def _with(self, text: str) -> Self:
        error = type(self).__new__(type(self))
        error.__dict__.update(self.__dict__)
        error.args = (_shortened(text),)
        return error.with_traceback(self.__traceback__)


def _shortened(text: str) -> str:
    """Keep the beginning, which says where, and the end, which says how to mend it; escape what no terminal shows."""
    text = _UNSHOWN.sub(lambda match: match[0].encode("unicode_escape").decode(), _cut(text))
    return _cut(text.encode("utf-8", "backslashreplace").decode())  # bytes that are no UTF-8; each may make six of one


def _cut(text: str) -> str:
    if len(text) <= _LONGEST + _NOTE:
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


class RanksError(FcnCaffeError):
    """Processes of one run that do not meet, or one of which is gone."""
