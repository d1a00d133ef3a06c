"""`import caffe` means the face: modules under Caffe's names."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from types import ModuleType

PACKAGE = "fcn_caffe.pycaffe"

# pycaffe's own modules whose names all live in the package here.
_SAME = ("pycaffe", "_caffe")


def install() -> ModuleType:
    """Let `import caffe`, and `import caffe.X` of every module of the face, give the face; returns it.

    Another caffe that can be imported, or is, is hidden. Safe to call again.
    """
    package = importlib.import_module(PACKAGE)
    for name in [name for name in sys.modules if name == "caffe" or name.startswith("caffe.")]:
        if sys.modules[name] is not sys.modules.get(PACKAGE + name[len("caffe") :]):
            del sys.modules[name]
    sys.modules["caffe"] = package
    for module in pkgutil.walk_packages(package.__path__, f"{PACKAGE}."):
        name = module.name.removeprefix(f"{PACKAGE}.")
        if name != "__main__":
            sys.modules[f"caffe.{name}"] = importlib.import_module(module.name)
    for name in _SAME:
        sys.modules[f"caffe.{name}"] = package
        setattr(package, name, package)
    return package
