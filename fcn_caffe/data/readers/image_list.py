"""Lists of images: a path, a space, an integer, as ImageData and convert_imageset read them; or two paths."""

from __future__ import annotations

import os
from pathlib import Path

from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import ENDLESS, is_endless

__all__ = ["read_image_list", "read_lines", "read_picture_pairs", "read_words"]


def read_lines(path: str | os.PathLike[str], what: str) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not blank, with their numbers, which count from 1.

    Raises:
        DataError: where the file cannot be read or is empty; `what` names its kind there.
    """
    if is_endless(path):
        raise DataError(f"{os.fspath(path)}: is no {what} but {ENDLESS}")
    try:
        # File names are bytes: those that are not UTF-8 must reach open() unchanged.
        text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise DataError(
            f"{os.fspath(path)}: the {what} cannot be read ({error.strerror}). Give a file that can be read."
        ) from error
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{os.fspath(path)}: the {what} is empty. Fill it, or name another.")
    return lines


def read_image_list(path: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """Return (path, label) of each line. The label follows the last space, so paths may hold spaces.

    Raises:
        DataError: for a line without a label.
    """
    images = []
    for number, line in read_lines(path, "list of images"):
        name, _, label = line.replace("\t", " ").rpartition(" ")
        try:
            images.append((name.strip(), int(label)))
        except ValueError:
            name = ""
        if name and not -(2**31) <= images[-1][1] < 2**31:
            raise DataError(f"{os.fspath(path)}:{number}: the label {label:.20} is beyond 32 bits. Correct it.")
        if not name:
            raise DataError(f'{os.fspath(path)}:{number}: expected "PATH LABEL" with an integer label, got {line!r}.')
    return images


def read_words(path: str | os.PathLike[str]) -> list[tuple[str, list[str]]]:
    """Return the words of each line that is not blank, with its place, "list.txt:3".

    Raises:
        DataError: as `read_lines`.
    """
    lines = read_lines(path, "list of pictures")
    return [(f"{os.fspath(path)}:{number}", line.split()) for number, line in lines]


def read_picture_pairs(path: str | os.PathLike[str]) -> list[tuple[str, list[str]]]:
    """Return the two words of each line, a picture and a label picture, with its place.

    Raises:
        DataError: for a line of more or fewer words; as `read_lines`.
    """
    lines = read_words(path)
    for place, words in lines:
        if len(words) != 2:
            raise DataError(
                f'{place}: expected "PICTURE LABEL_PICTURE", got {len(words)} '
                f"word{'' if len(words) == 1 else 's'}: {' '.join(words)!r}. Names hold no blanks here."
            )
    return lines
