"""Packages whose names are imported when somebody asks for them, so that a light command loads no PyTorch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping

__all__ = ["import_name"]


def import_name(package: str, name: str, modules: Mapping[str, str]) -> object:
    """Import a name of a package's face; a package calls it from its `__getattr__` (PEP 562).

    Args:
        package: the package's full name.
        name: what is asked for.
        modules: the module, below the package, that each name of the face comes from.
    Raises:
        AttributeError: the face has no such name.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
    setattr(sys.modules[package], name, value)  # the next time it is there
    return value
