"""Text files that people write: lists, cards, tables."""

from __future__ import annotations

import os
from pathlib import Path

from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import refuse_endless

__all__ = ["read_lines"]


def read_lines(path: str | os.PathLike[str], what: str = "", encoding: str = "utf-8") -> list[str]:
    """Read the lines of a text file.

    Args:
        path: the file.
        what: what it is called where it cannot be read, such as "split file".
        encoding: "utf-8-sig" where it may begin with a mark of its encoding, as Windows' editors write.

    Raises:
        DataError: it cannot be read.
    """
    try:
        refuse_endless(path)
        return Path(path).read_text(encoding=encoding).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        subject = f"the {what} cannot" if what else "cannot"
        raise DataError(f"{path}: {subject} be read ({error}). Give a text file in UTF-8.") from error
