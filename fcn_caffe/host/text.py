"""How values are written in messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST_NAME = 100  # of a name as long as a file the matcher would make a table many times as large


def show(shape: Iterable[int]) -> str:
    """Write a shape as Caffe does.

    >>> show((1, 3, 500, 500)), show(())
    ('1x3x500x500', '(scalar)')
    """
    return "x".join(str(size) for size in shape) or "(scalar)"


def nearest_names(name: str, known: Iterable[str], count: int = 1, alike: float = 0.6) -> list[str]:
    """Return the known names that are most like a name, the best first.

    Args:
        count: how many at most.
        alike: how much of a name has to agree, from 0 to 1.
    """
    return get_close_matches(name[:_LONGEST_NAME], list(known), count, alike)


def decode_text(data: bytes) -> str:
    """Read text that should be UTF-8; a byte that is none is read as the letter that it is in Latin-1.

    Caffe takes names of any bytes.

    >>> decode_text("é".encode()), decode_text(b"caf\\xe9")
    ('é', 'café')
    """
    text = data.decode("utf-8", "surrogateescape")
    return text if text.isascii() else re.sub("[\udc80-\udcff]", lambda match: chr(ord(match[0]) - 0xDC00), text)


def did_you_mean(name: str, known: Iterable[str], quote: str = "'") -> str:
    """Return the hint that ends a message about an unknown name; empty where no known name is near.

    >>> did_you_mean("kernl_size", ["kernel_size", "pad"])
    " Did you mean 'kernel_size'?"
    """
    near = nearest_names(name, known)
    return f" Did you mean {quote}{near[0]}{quote}?" if near else ""
