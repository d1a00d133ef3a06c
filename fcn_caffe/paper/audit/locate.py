"""From a claim to the lines that realise it: layers of nets, fields of solvers, functions of the package."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass
from pathlib import Path

import fcn_caffe

__all__ = ["Place", "locate"]

LINES, LONGEST = 8, 30  # of an excerpt: around a field or from a function on; of a layer, whole
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|#[^\n]*|[{}<>\n]|[A-Za-z_]\w*')
_LAYERS = ("layer", "layers")


@dataclass(frozen=True)
class Place:
    """A file relative to the root, a line of it, what is there, and the numbered lines to show.

    line is None, with no excerpt, where there is no such thing; `what` then says so.
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


def locate(place: str, root: str | os.PathLike[str]) -> Place:
    """Find a place such as "nets/NAME.prototxt:LAYER", "nets/NAME.prototxt:LAYER.FIELD", "solvers/NAME.prototxt:FIELD"
    or "fcn_caffe/FILE.py:FUNCTION", under the root; the package's own files are also found where the package lies.

    A nested field goes by its last name or by its dotted one. Of layers with one name the first counts.
    """
    path, _, inside = place.partition(":")
    file = Path(root, path)
    if not file.is_file() and path.startswith("fcn_caffe/"):
        file = Path(fcn_caffe.__file__).parent.parent / path
    try:
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None  # a pipe would wait
    except OSError:
        text = None
    if text is None:
        return Place(path, None, "the file is not there")
    if not inside:
        return _place(path, text, "the file", 1, LINES)
    if path.endswith(".py"):
        return _in_module(path, text, inside)
    return _in_message(path, text, inside)


def _place(path: str, text: str, what: str, line: int, last: int, first: int | None = None) -> Place:
    """A line with the lines from `first` (the line itself, where not given) to `last` around it."""
    lines = text.splitlines()
    first = max(1, line if first is None else first)
    shown = tuple((number, lines[number - 1]) for number in range(first, min(last, len(lines)) + 1))
    return Place(path, line, what, shown)


# -- Python ------------------------------------------------------------------------------------------------------------


def _in_module(path: str, text: str, name: str) -> Place:
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        return Place(path, None, f"the file is not Python: {error}")
    found: ast.stmt | None = None
    for part in name.split("."):
        found = next((node for node in body if part in _names(node)), None)
        if found is None:
            return Place(path, None, f"has no {name}")
        body = getattr(found, "body", [])
    assert found is not None
    kind = "class" if isinstance(found, ast.ClassDef) else "function" if _is_function(found) else "value"
    last = min(found.end_lineno or found.lineno, found.lineno + LINES - 1)
    return _place(path, text, f"{kind} {name}", found.lineno, last)


def _is_function(node: ast.stmt) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def _names(node: ast.stmt) -> list[str]:
    """What a statement gives a name to."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


# -- messages ----------------------------------------------------------------------------------------------------------


def _in_message(path: str, text: str, inside: str) -> Place:
    top, layers = _read(text)
    names = [name for name, _, _ in layers]
    # Names of layers may have dots: the longest that is one counts.
    parts = inside.split(".")
    for count in range(len(parts), 0, -1):
        name, wanted = ".".join(parts[:count]), ".".join(parts[count:])
        if name not in names:
            continue
        for one, block, fields in layers:
            if one == name and not wanted:
                last = min(block.last, block.first + LONGEST - 1)
                return _place(path, text, f"layer {name}", block.first, last)
            field = _find(fields, wanted) if one == name else None
            if field is not None:
                return _around(path, text, f"{wanted} of layer {name}", field, block)
        return Place(path, None, f"layer {name} has no field {wanted}")
    found = _find(top, inside)
    if found is not None:
        return _around(path, text, f"field {inside}", found)
    return Place(path, None, f"has no layer {inside}" if layers or "nets/" in path else f"has no field {inside}")


def _around(path: str, text: str, what: str, field: _Field, block: _Field | None = None) -> Place:
    """A field with lines before and after it, not beyond its layer."""
    first, last = field.first - LINES // 2, field.first + LINES // 2 - 1
    if block is not None:
        first, last = max(first, block.first), min(last, block.last)
    return _place(path, text, what, field.first, last, first)


def _find(fields: list[_Field], wanted: str) -> _Field | None:
    """The field of that dotted name, or the first whose name ends with it."""
    whole = next((field for field in fields if field.name == wanted), None)
    return whole or next((field for field in fields if field.name.endswith(f".{wanted}")), None)


def _read(text: str) -> tuple[list[_Field], list[tuple[str, _Field, list[_Field]]]]:
    """The fields of a message, and of its layers each with its name; broken files are read as far as they go.

    This is no parser: a net that does not parse should still be shown.
    """
    fields: list[_Field] = []
    layers: list[tuple[str, _Field, list[_Field]]] = []
    open_blocks: list[tuple[str, int]] = []
    inner: list[_Field] = []
    name, line, at, pending = "", 1, 1, ""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
        elif token in "{<":
            open_blocks.append((pending, at))
            if len(open_blocks) == 1 and pending in _LAYERS:
                name, inner = "", []
        elif token in "}>":
            if not open_blocks:
                continue
            block, first = open_blocks.pop()
            if not open_blocks and block in _LAYERS:
                layers.append((name, _Field(block, first, line), inner))
        elif token[0] in "\"'":
            if pending == "name" and len(open_blocks) == 1 and open_blocks[0][0] in _LAYERS and not name:
                name = token[1:-1]
        elif token[0] != "#":
            pending, at = token, line
            path = ".".join([*(block for block, _ in open_blocks), token])
            if open_blocks and open_blocks[0][0] in _LAYERS:
                inner.append(_Field(path.partition(".")[2], line, line))
            else:
                fields.append(_Field(path, line, line))
    return fields, layers
