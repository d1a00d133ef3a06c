"""The classes of a task: names and colours from a file, and classes of the data that are merged or dropped."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcn_caffe.data.own.formats.source import ClassName, refuse_repeated
from fcn_caffe.data.readers.labels import noted_color, read_rules
from fcn_caffe.errors import DataError
from fcn_caffe.host.text import did_you_mean

__all__ = [
    "VOID",
    "Changes",
    "ClassTable",
    "ValueChanges",
    "change_values",
    "merge_classes",
    "read_changes",
    "read_class_file",
    "refuse_unwritable",
]

VOID = 255
MOST = 255

# The new name of each old class; None for void.
Changes = Mapping[str, str | None]

_VOID_NAMES = ("void", "ignore")


@dataclass(frozen=True)
class ClassTable:
    """The task's classes, and which of them, or 255, each class of the data becomes."""

    classes: list[ClassName]
    lookup: list[int]


def read_class_file(path: Path) -> list[ClassName]:
    """Read classes in order: `NAME`, `NAME RED GREEN BLUE`, or a class card's `INDEX: NAME  # RED GREEN BLUE` a line.

    Raises:
        DataError: Naming file and line.
    """
    classes: list[ClassName] = []
    for number, rule, line in read_rules(path, "list of classes"):
        match = re.match(r"(\d+)\s*:\s*", rule)
        index, (name, own) = match and match[1], _name_and_colour(rule[match.end() if match else 0 :])
        parts = list(map(int, own)) if own else list(noted_color(line) or ())
        if not name or any(part > 255 for part in parts):
            raise DataError(f"{path}:{number}: expected `NAME` or `NAME RED GREEN BLUE`, got {line!r:.60}.")
        if index is not None and (len(index) > 9 or int(index) != len(classes)):
            raise DataError(
                f"{path}:{number}: class {index:.60} should be {len(classes)}: indices run from 0 in order."
            )
        classes.append(ClassName(name, (parts[0], parts[1], parts[2]) if parts else None))
    refuse_repeated((each.name for each in classes), "the class", path)
    refuse_repeated((each.colour for each in classes if each.colour), "the colour", path)
    if not classes:
        raise DataError(f"{path}: lists no class. It should have one name on each line.")
    return classes


def _name_and_colour(text: str) -> tuple[str, list[str]]:
    """Split `NAME RED GREEN BLUE`, with blanks or commas between; there may be no colour."""
    name, *colour = text.replace(",", " ").rsplit(None, 3) or [""]
    if len(colour) == 3 and all(re.fullmatch(r"\d{1,3}", part) for part in colour):
        return text[: len(name)], colour
    return text, []


def read_changes(path: Path | None, merged: Sequence[str] = (), dropped: Sequence[str] = ()) -> dict[str, str | None]:
    """Read which classes are merged and dropped.

    Args:
        path: A file of `old = new` and `old = void` lines.
        merged: Texts `NEW=OLD,OLD`.
        dropped: Names of classes that become void.

    Raises:
        DataError: Naming the file and line, or the option.
    """
    changes: dict[str, str | None] = {}

    def add(old: str, new: str | None, where: str) -> None:
        if old in changes:
            raise DataError(f"{where}: what becomes of the class {old!r} is said twice. Say it once.")
        changes[old] = new

    for number, _, line in read_rules(path, "map of classes") if path is not None else ():
        old, equals, target = (part.strip() for part in line.partition("="))
        if not equals or not old or not target:
            raise DataError(f"{path}:{number}: expected `old = new` or `old = void`, got {line!r:.60}.")
        add(old, None if target in _VOID_NAMES else target, f"{path}:{number}")
    for text in merged:
        new, equals, olds = (part.strip() for part in text.partition("="))
        if not equals or not new or not olds:
            raise DataError(f"--merge {text!r}: expected NEW=OLD,OLD, such as vehicle=car,bus.")
        for old in olds.split(","):
            add(old.strip(), new, f"--merge {text!r}")
    for name in dropped:
        add(name, None, f"--drop {name!r}")
    return changes


def merge_classes(
    classes: Sequence[ClassName], changes: Changes, wanted: Sequence[ClassName] = (), source: str = ""
) -> ClassTable:
    """Return the classes that are left after merging and dropping some.

    Args:
        classes: Those of the data.
        changes: The new names of those that change.
        wanted: The task's classes, in order, where a file lists them; by default what is left, in the data's order.
        source: That file.

    Raises:
        DataError: A class to change is not one of the data's, or one that is left is not wanted.
    """
    old = [each.name for each in classes]
    for name in changes:
        if name not in old:
            known = did_you_mean(name, old, "'") or f" The data has: {', '.join(old[:20])}."
            raise DataError(f"the class {name!r} that should be merged or dropped is none of the data's.{known}")
    new = [changes.get(name, name) for name in old]
    left = {each.name: each for each in wanted}
    for target, each in zip(new, classes, strict=True):
        if target is None:
            continue
        if wanted and target not in left:
            raise DataError(
                f"{source}: does not list the class {target!r} of the data. Add it there, drop it with "
                f"--drop {target!r}, or merge it with --map or --merge."
            )
        own = next((other for other in classes if other.name == target), each)
        kept = left.get(target)
        left[target] = ClassName(target, kept.colour if kept is not None and kept.colour else own.colour)
    names = list(left)
    if len(names) > MOST:
        raise DataError(f"{len(names)} classes are more than a label picture holds ({MOST}). Merge some with --map.")
    if len(names) < 2:
        raise DataError(f"only {len(names)} class is left: segmentation needs at least 2 classes.")
    return ClassTable(list(left.values()), [VOID if target is None else names.index(target) for target in new])


def refuse_unwritable(names: Iterable[str], where: object) -> None:
    """Refuse names that a class card, one `INDEX: NAME  # COLOUR` a line, cannot hold.

    Args:
        names: The classes' names.
        where: The file or folder that they come from.

    Raises:
        DataError: A name is empty, or would break its line.
    """
    for name in names:
        if not name or not name.isprintable() or name != name.strip() or "#" in name:
            raise DataError(
                f"{where}: the class name {name!r:.60} is empty, or holds # or what cannot be printed. Correct it "
                "there, or give the class another with --map or --merge."
            )


@dataclass(frozen=True)
class ValueChanges:
    """What becomes of label values: those that become another, those that become void, and names that are new."""

    moved: dict[int, int]
    dropped: list[int]
    renamed: dict[int, str]


def change_values(changes: Changes, names: Sequence[str], values: Collection[int]) -> ValueChanges:
    """Say which label values are merged and dropped.

    Args:
        changes: By name; by value where values have no names.
        names: The values' names; empty where they have none.
        values: Those that the labels hold.

    Raises:
        DataError: There is no such class.
    """
    known = list(names) or [str(value) for value in sorted(values)]

    def value_of(name: str) -> int:
        if name not in known:
            hint = did_you_mean(name, known, "'") or f" Known: {', '.join(known[:20])}."
            raise DataError(f"there is no class {name!r} to merge or drop.{hint}")
        return names.index(name) if names else int(name)

    moved: dict[int, int] = {}
    carriers: dict[str, int] = {}  # the value that a new class has: its first old one's
    dropped = []
    for old, new in changes.items():
        value = value_of(old)
        if new is None:
            dropped.append(value)
        elif new in known or not names:
            moved[value] = value_of(new)
        elif carriers.setdefault(new, value) != value:
            moved[value] = carriers[new]
    gone = sorted(moved.keys() & set(moved.values())) + sorted(set(dropped) & set(moved.values()))
    if gone:
        shown = names[gone[0]] if names else str(gone[0])
        raise DataError(f"the class {shown!r} is merged or dropped itself: name the class that is left.")
    return ValueChanges(moved, dropped, {value: name for name, value in carriers.items()})
