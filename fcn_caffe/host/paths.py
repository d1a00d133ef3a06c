"""Where the files are that a net names: from the working directory, as in Caffe, or beside the net file."""

from __future__ import annotations

import os
from pathlib import Path

from fcn_caffe.data.sets.options import DATA_ROOT_VARIABLE, find_place
from fcn_caffe.errors import DataError

__all__ = ["find_source", "locate"]


def locate(source: str, folder: Path | None) -> Path:
    """The path that `source` means: from the working directory or $FCN_CAFFE_DATA, else below `folder`.

    A path that exists nowhere comes back as given. Source: Caffe opens relative to the working directory.
    """
    place = find_place(source)
    if folder is not None and not os.path.exists(place) and os.path.exists(folder / source):
        return folder / source
    return place


def find_source(source: str, what: str, folder: Path | None = None) -> Path:
    """The absolute path of the file or folder that `source` names, which must exist.

    `what` says what it is, `folder` is the net's.
    Raises: DataError naming every place that was tried.
    """
    if not source:
        raise DataError(f"no {what} is named.")
    path = locate(source, folder)
    if not os.path.exists(path):
        tried = [os.getcwd()]
        if os.environ.get(DATA_ROOT_VARIABLE):
            tried.append(f"${DATA_ROOT_VARIABLE} ({os.environ[DATA_ROOT_VARIABLE]})")
        if folder is not None and folder.absolute() != Path.cwd():
            tried.append(f"{folder.absolute()} (beside the net)")
        looked = "" if Path(source).is_absolute() else f" Looked from {', and from '.join(tried)}."
        raise DataError(f"{source}: no such {what}.{looked} Correct the path in the net.")
    if path.is_char_device() or path.is_block_device():
        raise DataError(f"{source}: is no {what} but a device, which may never end. Name a file.")
    return path.absolute()  # the working directory may be another one when it is read
