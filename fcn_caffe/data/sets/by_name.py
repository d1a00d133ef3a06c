"""`import voc_layers` and the like: the reference's data layers by the names that its scripts import."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MODULES", "offer"]

MODULES = ("voc_layers", "nyud_layers", "siftflow_layers", "pascalcontext_layers")


class _Same(Loader):
    """Loads the module of this package, so that both names give the same classes."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{__package__}.{spec.name}")
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importing under another name has replaced it


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, _Same()) if name in MODULES and path is None else None


def offer() -> None:
    """Let scripts import the modules by their own names, unless sys.path has modules of these names."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
