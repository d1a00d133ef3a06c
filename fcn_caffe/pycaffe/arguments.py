"""Checks the arguments of nets and solvers: files, and Net's two forms of arguments."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.pycaffe.before import two_files

PathLike = str | os.PathLike[str]


class NoFileError(RuntimeError, FcnCaffeError):
    """A file is not there; a RuntimeError, as pycaffe's."""


def check_file(path: PathLike) -> str:
    """Return the path of a file that is there.

    Raises:
        NoFileError: it is not there.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise NoFileError(f"Could not open file {name}: there is none. Paths are relative to {os.getcwd()}.")
    return name


def net_arguments(
    arguments: Sequence[Any], options: dict[str, Any]
) -> tuple[str, int, int, list[str], PathLike | None]:
    """Return file, phase, level, stages and weights of either form of Net's arguments.

    Raises:
        TypeError: they are of neither form.
    """
    if len(arguments) == 3 and not options and isinstance(arguments[1], (str, os.PathLike)):
        return arguments[0], int(arguments[2]), 0, [], arguments[1]
    names = ("network_file", "phase", "level", "stages", "weights")
    values = dict(zip(names, arguments, strict=False))
    strange = [name for name in options if name not in names or name in values]
    values.update(options)
    if len(arguments) == 2 and all(isinstance(item, (str, os.PathLike)) for item in arguments):
        raise TypeError(two_files(*map(os.fspath, arguments)))
    if len(arguments) > len(names) or strange or not {"network_file", "phase"} <= values.keys():
        raise TypeError(
            "Net takes (network_file, phase, level=0, stages=None, weights=None) or (network_file, weights, phase); "
            f"got {len(arguments)} arguments" + (f" and {list_names(options)}." if options else ".")
        )
    if not isinstance(values["network_file"], (str, os.PathLike)) or values["phase"] not in (0, 1):
        raise TypeError(
            f"Net: network_file must be a path and phase caffe.TRAIN or caffe.TEST, got "
            f"{values['network_file']!r} and {values['phase']!r}."
        )
    level, stages = values.get("level", 0), values.get("stages") or ()
    if not isinstance(level, int) or isinstance(stages, str):
        raise TypeError(
            f"Net: level must be a whole number and stages a list of names, got {level!r} and {stages!r}. Weights go "
            "third from (network_file, weights, phase), or by name: weights=…."
        )
    return (
        os.fspath(values["network_file"]),
        int(values["phase"]),
        int(level),
        list(stages),
        values.get("weights"),
    )


def list_names(names: Iterable[Any]) -> str:
    """List names for a sentence; "none" if there is none."""
    return ", ".join(map(str, names)) or "none"
