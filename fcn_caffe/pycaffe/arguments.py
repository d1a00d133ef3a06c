"""What people hand to nets and solvers: files, and Net's arguments in the forms that pycaffe takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from fcn_caffe.errors import FcnCaffeError

PathLike = str | os.PathLike[str]


class NoFileError(RuntimeError, FcnCaffeError):
    """A file that is not there: a RuntimeError, as pycaffe's."""


def check_file(path: PathLike) -> str:
    """The path, of a file that can be opened. Raises: NoFileError."""
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise NoFileError(f"Could not open file {name}: there is none. Paths are relative to {os.getcwd()}.")
    return name


def net_arguments(arguments: Sequence[Any], options: dict[str, Any]) -> tuple[str, int, int, list[str], Any]:
    """file, phase, level, stages, weights of the two forms that pycaffe has."""
    if len(arguments) == 3 and not options and isinstance(arguments[1], (str, os.PathLike)):
        return arguments[0], int(arguments[2]), 0, [], arguments[1]
    names = ("network_file", "phase", "level", "stages", "weights")
    given = dict(zip(names, arguments, strict=False))
    strange = [name for name in options if name not in names or name in given]
    given.update(options)
    if len(arguments) > len(names) or strange or not {"network_file", "phase"} <= given.keys():
        raise TypeError(
            "Net takes (network_file, phase, level=0, stages=None, weights=None) or (network_file, weights, phase); "
            f"got {len(arguments)} arguments" + (f" and {listed(options)}." if options else ".")
        )
    if not isinstance(given["network_file"], (str, os.PathLike)) or given["phase"] not in (0, 1):
        raise TypeError(
            f"Net: network_file must be a path and phase caffe.TRAIN or caffe.TEST, got "
            f"{given['network_file']!r} and {given['phase']!r}."
        )
    return (
        os.fspath(given["network_file"]),
        int(given["phase"]),
        int(given.get("level", 0)),
        list(given.get("stages") or ()),
        given.get("weights"),
    )


def listed(names: Iterable[Any]) -> str:
    """Names in a sentence."""
    return ", ".join(map(str, names)) or "none"
