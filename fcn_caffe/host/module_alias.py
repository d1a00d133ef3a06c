"""A module under a second name: imported by either, it is one module."""

from __future__ import annotations

import importlib
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["AliasLoader"]


class AliasLoader(Loader):
    """Loads the module of another name, so that a class is the same under both names. place: its full name."""

    def __init__(self, place: str) -> None:
        self.place = place

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import the module by its own name."""
        module = importlib.import_module(self.place)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec again: importing it under another name has replaced that."""
        module.__spec__ = self._spec
