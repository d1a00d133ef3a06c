"""docs/pycaffe.md: every public name of pycaffe and its state here. `python tests/pycaffe_table.py` writes it.

The names, their arguments and what differs are facts in pycaffe_names.tsv; whether a name is there, and whether it
takes those arguments, is looked up in the package.
"""

from __future__ import annotations

import csv
import inspect
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from helpers import input_layer, layer

import fcn_caffe.pycaffe as caffe
from fcn_caffe.pycaffe.classifier import Classifier
from fcn_caffe.pycaffe.detector import Detector
from fcn_caffe.pycaffe.io import Transformer
from fcn_caffe.pycaffe.net_spec import NetSpec
from fcn_caffe.pycaffe.net_spec import layers as L

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "pycaffe.md"
NAMES = Path(__file__).with_name("pycaffe_names.tsv")
_ABSENT = object()


class Name(NamedTuple):
    """A row of the facts. arguments: those of the Python function, or after `C++ ` what the C++ function takes."""

    name: str
    kind: str
    arguments: str
    note: str

    @property
    def refused(self) -> bool:
        return self.note.startswith("refused: ")


def read_names() -> list[Name]:
    with NAMES.open(newline="") as file:
        return [Name(*row) for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)][1:]


@contextmanager
def samples() -> Iterator[dict[str, Any]]:
    """An object of each class whose attributes only objects have."""
    with tempfile.TemporaryDirectory() as folder:
        net, solver = Path(folder, "net.prototxt"), Path(folder, "solver.prototxt")
        weights = str(Path(folder, "net.caffemodel"))
        net.write_text(
            input_layer("data", 1, 3, 4, 4)
            + layer(
                "c", "Convolution", "data", more="loss_weight: 1 convolution_param { num_output: 2 kernel_size: 1 }"
            )
        )
        solver.write_text(f'net: "{net}" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "{folder}/s"')
        made = caffe.Net(str(net), caffe.TEST)
        made.save(weights)
        spec = NetSpec()
        spec.top = L.ReLU(L.Input())
        trained, written = caffe.get_solver(str(solver)), _python_layer(folder)
        yield {
            "caffe.Net": made,
            "caffe._caffe.Blob": made.blobs["data"],
            "caffe.Layer": written,
            "caffe.Layer.blobs": written.blobs,
            "caffe.SGDSolver": trained,
            "caffe.SGDSolver.param": trained.param,
            "caffe.Classifier": Classifier(str(net), weights),
            "caffe.Detector": Detector(str(net), weights, mean=np.ones(3), context_pad=1),
            "caffe.io.Transformer": Transformer({"data": (1, 3, 4, 4)}),
            "caffe.net_spec.NetSpec": spec,
            "caffe.net_spec.Top": spec.top,
            "caffe.net_spec.Function": spec.top.fn,
        }


def _python_layer(folder: str) -> Any:
    """A Python layer of a net, found on Python's path."""
    Path(folder, "pycaffe_table_layer.py").write_text(
        "import fcn_caffe.pycaffe as caffe\n\n\nclass Same(caffe.Layer):\n"
        "    def setup(self, bottom, top):\n        pass\n\n"
        "    def reshape(self, bottom, top):\n        top[0].reshape(*bottom[0].shape)\n\n"
        "    def forward(self, bottom, top):\n        top[0].data[...] = bottom[0].data\n"
    )
    path = Path(folder, "python.prototxt")
    more = 'python_param { module: "pycaffe_table_layer" layer: "Same" }'
    path.write_text(input_layer("data", 1, 3, 4, 4) + layer("same", "Python", "data", more=more))
    sys.path.insert(0, folder)
    try:
        return caffe.Net(str(path), caffe.TEST).layers[1]
    finally:
        sys.path.remove(folder)


def find(name: str, objects: dict[str, Any]) -> Any:
    """What a dotted name means: through modules, classes and, where those end, objects; _ABSENT if nothing."""
    parent, _, last = name.rpartition(".")
    if not parent:
        return caffe
    for holder in (find(parent, objects), objects.get(parent, _ABSENT)):
        if holder is not _ABSENT and (found := getattr(holder, last, _ABSENT)) is not _ABSENT:
            return found
    return _ABSENT


def wrong_arguments(name: Name, found: Any) -> str:
    """What is wrong with the arguments that a function or class takes; empty where nothing is."""
    if not name.arguments:
        return ""
    if not callable(found):
        return "cannot be called"
    taken = [p for p in inspect.signature(found).parameters.values() if p.name != "self"]
    if name.arguments.startswith("C++ "):
        wanted = re.findall(r"\w+", name.arguments[4:])
        try:
            inspect.Signature(taken).bind(*wanted)
        except TypeError as error:
            return str(error)
        return ""
    shown = [str(p.replace(annotation=inspect.Parameter.empty)) for p in taken]
    wanted = [part for part in name.arguments.strip("()").split(", ") if part]
    extra = taken[len(wanted) :]
    required = [p.name for p in extra if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    # An argument may have got a default.
    same = len(shown) >= len(wanted) and all(w in (s, s.split("=")[0]) for w, s in zip(wanted, shown, strict=False))
    return f"takes ({', '.join(shown)})" if required or not same else ""


def state(name: Name, objects: dict[str, Any]) -> str:
    """same; differs: how; refused: why; or what is wrong, beginning with MISSING."""
    found = find(name.name, objects)
    if name.refused:
        return name.note
    if found is _ABSENT:
        return "MISSING"
    wrong = wrong_arguments(name, found)
    return f"MISSING: {wrong}" if wrong else name.note or "same"


def page() -> str:
    """The text of docs/pycaffe.md."""
    with samples() as objects:
        states = {name: state(name, objects) for name in read_names()}
    words = Counter(text.split(":")[0] for text in states.values())
    lines = [
        "# pycaffe, name by name",
        "",
        "Every public name of Caffe 1.0's Python interface, and how it is here. Written by",
        "`python tests/pycaffe_table.py` from what the package has; a test compares.",
        "Arguments are given where they have names; functions that Caffe wrote in C++ take them by position.",
        "",
        f"{len(states)} names: {words['same']} the same, {words['differs']} that differ, {words['refused']} refused.",
    ]
    section = ""
    for name, text in states.items():
        title = _section(name)
        if title != section:
            section = title
            lines += ["", f"## {title}", "", "| name | kind | state |", "|---|---|---|"]
        arguments = name.arguments.removeprefix("C++ ")
        lines.append(f"| `{name.name.removeprefix('caffe.')}{arguments}` | {name.kind} | {text} |")
    return "\n".join([*lines, ""])


def _section(name: Name) -> str:
    parts = name.name.split(".")
    for place in ("classifier", "detector"):
        if parts[1] in (place, place.capitalize()) and name.kind != "module":
            return "caffe.Classifier and caffe.Detector"
    if name.kind != "module" and parts[1] in ("io", "draw", "net_spec", "coord_map", "proto"):
        return "caffe.proto.caffe_pb2" if parts[1] == "proto" else f"caffe.{parts[1]}"
    if parts[1].endswith(("Solver", "get_solver")) or "Solver" in parts[-1]:
        return "Solvers"
    if parts[1] in ("Net", "Layer", "_caffe") and name.kind != "module":
        return "Nets, blobs and layers"
    return "caffe"


if __name__ == "__main__":
    caffe.install()
    PAGE.write_text(page(), encoding="utf-8")
