"""From a claim to the lines that realise it: layers of nets, fields of solvers, functions of the package."""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import fcn_caffe

__all__ = ["Code", "Place", "locate", "place_of"]

LINES, LONGEST = 8, 30  # of an excerpt: around a field or from a function on; of a layer, all but what is longer
_ABOVE_PACKAGE = Path(fcn_caffe.__file__).resolve().parent.parent
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|#[^\n]*|[{}<>\n]|[A-Za-z_]\w*')
_LAYERS = ("layer", "layers")

Code = Callable[..., object] | ModuleType  # a function, a class or a module


@dataclass(frozen=True)
class Place:
    """A file relative to the root, a line of it, what is there, and the numbered lines to show.

    Where there is no such thing, line is None, the excerpt is empty, and `what` says so.
    """

    path: str
    line: int | None
    what: str
    excerpt: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class _Field:
    """A field of a text message: its name below the blocks around it, dotted, and the lines it runs over."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class _Layer:
    """A layer of a net: its name, the lines it runs over, and its fields."""

    name: str
    first: int
    last: int
    fields: list[_Field]


def place_of(code: Code) -> str:
    """Name a function, a class or a module of the package as a place: "fcn_caffe/FILE.py:NAME"."""
    if isinstance(code, ModuleType):
        return _path_of(code)
    return f"{_path_of(inspect.unwrap(code))}:{code.__qualname__}"


def _path_of(code: Code) -> str:
    file = inspect.getsourcefile(code)
    assert file is not None  # the package is Python
    return Path(file).resolve().relative_to(_ABOVE_PACKAGE).as_posix()


def locate(place: str, root: str | os.PathLike[str]) -> Place:
    """Find a place under the root; a file of the package is also found where the package lies.

    Args:
        place: "nets/NAME.prototxt:LAYER", "nets/NAME.prototxt:LAYER.FIELD", "solvers/NAME.prototxt:FIELD" or
            "fcn_caffe/FILE.py:FUNCTION". A nested field goes by its last name or by its dotted one; of layers with one
            name the first counts.
        root: the audited folder.
    """
    path, _, name = place.partition(":")
    file = Path(root, path)
    if not file.is_file() and path.startswith("fcn_caffe/"):
        file = _ABOVE_PACKAGE / path
    try:
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None  # a pipe would wait
    except OSError:
        text = None
    if text is None:
        return Place(path, None, "the file is not there")
    if not name:
        return _with_excerpt(path, text, "the file", 1, LINES)
    if path.endswith(".py"):
        return _in_module(path, text, name)
    return _in_message(path, text, name)


def _with_excerpt(path: str, text: str, what: str, line: int, last: int, first: int | None = None) -> Place:
    """A line, with the lines from `first` (by default the line itself) to `last`."""
    lines = text.splitlines()
    first = max(1, line if first is None else first)
    excerpt = tuple((number, lines[number - 1]) for number in range(first, min(last, len(lines)) + 1))
    return Place(path, line, what, excerpt)


# -- Python ------------------------------------------------------------------------------------------------------------


def _in_module(path: str, text: str, name: str) -> Place:
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        return Place(path, None, f"the file is not Python: {error}")
    statement: ast.stmt | None = None
    for part in name.split("."):
        statement = next((node for node in body if part in _names(node)), None)
        if statement is None:
            return Place(path, None, f"has no {name}")
        body = getattr(statement, "body", [])
    assert statement is not None
    kind = "class" if isinstance(statement, ast.ClassDef) else "function" if _is_function(statement) else "value"
    last = min(statement.end_lineno or statement.lineno, statement.lineno + LINES - 1)
    return _with_excerpt(path, text, f"{kind} {name}", statement.lineno, last)


def _is_function(node: ast.stmt) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def _names(node: ast.stmt) -> list[str]:
    """What a statement gives a name to."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


# -- messages ----------------------------------------------------------------------------------------------------------


def _in_message(path: str, text: str, name: str) -> Place:
    fields, layers = _read(text)
    # A layer's name may have dots: the longest that is one counts.
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        layer_name, field_name = ".".join(parts[:count]), ".".join(parts[count:])
        same_name = [layer for layer in layers if layer.name == layer_name]
        if not same_name:
            continue
        if not field_name:
            first = same_name[0].first
            return _with_excerpt(path, text, f"layer {layer_name}", first, min(same_name[0].last, first + LONGEST - 1))
        for layer in same_name:
            field = _find(layer.fields, field_name)
            if field is not None:
                return _around(path, text, f"{field_name} of layer {layer_name}", field, layer)
        return Place(path, None, f"layer {layer_name} has no field {field_name}")
    field = _find(fields, name)
    if field is not None:
        return _around(path, text, f"field {name}", field)
    return Place(path, None, f"has no layer {name}" if layers or "nets/" in path else f"has no field {name}")


def _around(path: str, text: str, what: str, field: _Field, layer: _Layer | None = None) -> Place:
    """A field with lines before and after it, not beyond its layer."""
    first, last = field.first - LINES // 2, field.first + LINES // 2 - 1
    if layer is not None:
        first, last = max(first, layer.first), min(last, layer.last)
    return _with_excerpt(path, text, what, field.first, last, first)


def _find(fields: list[_Field], name: str) -> _Field | None:
    """The field of that dotted name, or the first whose name ends with it."""
    exact = next((field for field in fields if field.name == name), None)
    return exact or next((field for field in fields if field.name.endswith(f".{name}")), None)


def _read(text: str) -> tuple[list[_Field], list[_Layer]]:
    """The fields of a message and its layers. This is no parser: a net that does not parse should still be shown."""
    reader = _Reader()
    for match in _TOKEN.finditer(text):
        reader.take(match[0])
    return reader.fields, reader.layers


class _Reader:
    """Takes a message token by token."""

    def __init__(self) -> None:
        self.fields: list[_Field] = []
        self.layers: list[_Layer] = []
        self._line = 1
        self._name, self._name_line = "", 1  # the last field's name: a block or a value may follow
        self._blocks: list[tuple[str, int]] = []  # the open ones: name and first line
        self._layer_name = ""
        self._layer_fields: list[_Field] = []

    def take(self, token: str) -> None:
        """Take the next token: a newline, a brace, a text, a comment or a name."""
        if token == "\n":
            self._line += 1
        elif token in "{<":
            self._open_block()
        elif token in "}>":
            self._close_block()
        elif token[0] in "\"'":
            if self._name == "name" and len(self._blocks) == 1 and self._in_layer() and not self._layer_name:
                self._layer_name = token[1:-1]
        elif token[0] != "#":
            self._add_field(token)

    def _in_layer(self) -> bool:
        return bool(self._blocks) and self._blocks[0][0] in _LAYERS

    def _open_block(self) -> None:
        self._blocks.append((self._name, self._name_line))
        if len(self._blocks) == 1 and self._in_layer():
            self._layer_name, self._layer_fields = "", []

    def _close_block(self) -> None:
        if not self._blocks:
            return
        block, first = self._blocks.pop()
        if not self._blocks and block in _LAYERS:
            self.layers.append(_Layer(self._layer_name, first, self._line, self._layer_fields))

    def _add_field(self, name: str) -> None:
        self._name, self._name_line = name, self._line
        path = ".".join([*(block for block, _ in self._blocks), name])
        if self._in_layer():
            self._layer_fields.append(_Field(path.partition(".")[2], self._line, self._line))
        else:
            self.fields.append(_Field(path, self._line, self._line))
