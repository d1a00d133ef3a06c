"""`import caffe` means the face: modules under Caffe's names."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from fcn_caffe.data.sets.by_name import offer
from fcn_caffe.host.module_alias import AliasLoader

PACKAGE = __name__.rpartition(".")[0]

# pycaffe's own modules whose names all live in the package here.
_SAME = ("pycaffe", "_caffe")


class _Finder(importlib.abc.MetaPathFinder):
    """Gives this package's module X for `caffe.X`, so that there is one of each, imported when it is asked for."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not fullname.startswith("caffe."):
            return None
        name = PACKAGE + fullname.removeprefix("caffe")
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            spec = None
        return None if spec is None else ModuleSpec(fullname, AliasLoader(name), origin=spec.origin)


_FINDER = _Finder()


def install() -> ModuleType:
    """Let `import caffe`, and `import caffe.X` of every module here, give this package; return it.

    Another caffe is hidden, imported or not. Calling it again does nothing more.
    """
    package = importlib.import_module(PACKAGE)
    offer()  # `import voc_layers` and the others of the reference
    if sys.modules.get("caffe") is not package:
        for name in [name for name in sys.modules if name.startswith("caffe.")]:
            del sys.modules[name]
    sys.modules["caffe"] = package
    for name in _SAME:
        sys.modules[f"caffe.{name}"] = package
        setattr(package, name, package)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    return package


def find_caffe() -> None:
    """Let `import caffe` in a Python layer's module mean this package, unless there is another caffe."""
    if "caffe" not in sys.modules and importlib.util.find_spec("caffe") is None:
        install()
