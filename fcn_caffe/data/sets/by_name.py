"""`import voc_layers` and the like: the reference's data layers by the names that its scripts import."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from fcn_caffe.host.module_alias import AliasLoader

__all__ = ["MODULES", "offer"]

MODULES = ("voc_layers", "nyud_layers", "siftflow_layers", "pascalcontext_layers")


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in MODULES or path is not None:
            return None
        return ModuleSpec(name, AliasLoader(f"{__package__}.{name}"))


def offer() -> None:
    """Let scripts import the modules by their own names, unless sys.path has modules of these names."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
