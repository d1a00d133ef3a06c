"""What a net has of other Caffes, said in one message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fcn_caffe.host.text import nearest_names
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.fork_fields import foreign_field
from fcn_caffe.proto.forks import LAYERS, RUNS, Foreign
from fcn_caffe.proto.layer_types import OPTIONS, modern_name
from fcn_caffe.proto.schema import FORKS

__all__ = ["ForeignPart", "describe", "is_foreign", "set_fork_fields", "type_problem"]

_TYPO = 0.8  # how much of a type has to agree for it to be a slip of the pen
_MOST_NAMES = 3
_GUIDE = "docs/howto/own_layer.md"
_ADVICE = f"Take it out where it is not needed, or register the type from Python ({_GUIDE})."


@dataclass(frozen=True)
class ForeignPart:
    """A layer, or a field outside of layers, with what Caffe 1.0 has not.

    Attributes:
        layer: the layer's name, and `type` its type; both empty outside of layers.
        fields: the foreign fields, a path each where they are not the layer's own, with whose they are; None where no
            fork is known for one.
        line: where it stands in the file, from 1; 0 if that is not known.
    """

    layer: str = ""
    type: str = ""
    fields: tuple[tuple[str, Foreign | None], ...] = ()
    line: int = 0


def is_foreign(type: str, strict: bool = False) -> bool:
    """Whether a layer type is one that a fork of Caffe is known to have, and that does not run; strict: or does."""
    return type in LAYERS and (strict or type not in RUNS)


def set_fork_fields(layer: caffe_pb2.LayerParameter) -> tuple[tuple[str, Foreign | None], ...]:
    """Return the fields of forks that a layer has, and those in its options, with whose they are; but for `fork`."""
    found: list[tuple[str, Foreign | None]] = []
    for field, value in layer.ListFields():
        if field.number >= FORKS:
            found.append((field.name, foreign_field("LayerParameter", field.name)))
        elif field.name.endswith("_param"):
            options = value.DESCRIPTOR.name
            found += [
                (f"{field.name}.{inner.name}", foreign_field(options, inner.name))
                for inner, _ in value.ListFields()
                if inner.number >= FORKS
            ]
    return tuple(item for item in found if item[0] != "fork")


def type_problem(type: str) -> str:
    """Say what is wrong with a layer type that Caffe 1.0 has not: whose it is, or what it should be."""
    if type in LAYERS:
        return f"the type is {_owned(LAYERS[type])}"
    if name := modern_name(type):
        return f'unknown layer type {type!r}. Write type: "{name}".'
    near = nearest_names(type, OPTIONS, alike=_TYPO)
    if near and near[0].lower() not in type.lower():  # a longer name is of another layer
        return f"unknown layer type {type!r}. Did you mean {near[0]!r}?"
    own = f" No fork that is known here has it, either. {_ADVICE}" if type else ""
    return f"unknown layer type {type!r}.{own} Known types: {', '.join(sorted(OPTIONS))}."


def describe(parts: Iterable[ForeignPart]) -> str:
    """Say what is foreign, all of it in one message: layers of one kind in one line, at their first place."""
    groups: dict[tuple[str, tuple[str, ...]], list[ForeignPart]] = {}
    for part in parts:
        groups.setdefault((part.type, tuple(dict.fromkeys(name for name, _ in part.fields))), []).append(part)
    if len(groups) == 1:
        (group,) = groups.values()
        return _sentence(group)
    layers = sum(bool(part.type) for group in groups.values() for part in group)
    title = f"{layers} layers have what Caffe 1.0 has not:" if layers else "it has what Caffe 1.0 has not:"
    lines = [
        f"line {group[0].line}: {_sentence(group)}" if group[0].line else _sentence(group) for group in groups.values()
    ]
    return "\n  ".join([title, *lines])


def _sentence(group: Sequence[ForeignPart]) -> str:
    first = group[0]
    fields = list(dict.fromkeys(name for name, _ in first.fields))
    listed = ", ".join(fields)
    if not first.type:
        return f"{listed} is {_owned(first.fields[0][1])}"
    who = _layers(group)
    if first.type in OPTIONS:
        owners = dict.fromkeys(foreign for _, foreign in first.fields)
        said = " ".join(f"{_names(first, foreign)} {_owned(foreign)}" for foreign in owners)
        return f"{who} ({first.type}): {said}"
    foreign = LAYERS.get(first.type) or next((item for _, item in first.fields if item), None)
    having = f", with {listed}" if listed else ""
    return f"{who} ({first.type}{having}): the type is {_owned(foreign)}"


def _names(part: ForeignPart, foreign: Foreign | None) -> str:
    names = list(dict.fromkeys(name for name, owner in part.fields if owner == foreign))
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _layers(group: Sequence[ForeignPart]) -> str:
    names = [f"'{part.layer}'" for part in group]
    if len(names) == 1:
        return f"layer {names[0]}"
    if len(names) > _MOST_NAMES + 1:
        names = [*names[:_MOST_NAMES], f"{len(names) - _MOST_NAMES} more"]
    return f"layers {', '.join(names[:-1])} and {names[-1]}"


def _owned(foreign: Foreign | None) -> str:
    if foreign is None:
        return f"neither of Caffe 1.0 nor of a fork that is known here. {_ADVICE}"
    first, _, last = foreign.owners.rpartition(", ")
    return f"of {f'{first} and {last}' if first else last} Caffe, not of Caffe 1.0. {foreign.cure or _ADVICE}"
