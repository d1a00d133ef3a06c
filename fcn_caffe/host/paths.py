"""Where the files are that a net names: from the working directory, under $FCN_CAFFE_DATA, or beside the net file."""

from __future__ import annotations

import os
from pathlib import Path

from fcn_caffe.errors import DataError

__all__ = ["DATA_ROOT_VARIABLE", "find_place", "find_source", "locate"]

DATA_ROOT_VARIABLE = "FCN_CAFFE_DATA"  # a folder that relative data paths may also start from; `--data` sets it


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


def find_place(path: str | os.PathLike[str]) -> Path:
    """Resolve a data path: under $FCN_CAFFE_DATA when it is there, or else as given from the working directory.

    A leading `..` or `data` is dropped below $FCN_CAFFE_DATA, so `data/sbdd/dataset` is found as
    $FCN_CAFFE_DATA/sbdd/dataset. A path that exists nowhere comes back as given, for the caller's error.
    """
    path = Path(os.path.expanduser(path))
    root = os.environ.get(DATA_ROOT_VARIABLE)
    if root and not path.is_absolute():
        parts = list(path.parts)
        while parts and parts[0] in ("..", "."):
            parts.pop(0)
        for tail in (parts, parts[1:] if parts[:1] == ["data"] else parts):
            if tail and os.path.exists(Path(root, *tail)):
                return Path(root, *tail)
    return path
