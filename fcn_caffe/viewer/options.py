"""The options of a layer or a solver: those that are set, the others with their defaults, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import NamedTuple

from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.schema import Field, Message, describe
from fcn_caffe.proto.text_writer import shortest_float

__all__ = ["Option", "layer_options", "meanings", "solver_options"]

_SAID_ELSEWHERE = {"name", "type", "bottom", "top", "param", "blobs", "phase"}  # a layer gets its net's phase
_MOST_LETTERS = 400  # of a value


class Option(NamedTuple):
    """One option.

    Attributes:
        key: what `meanings` knows it by: Message.field.
        name: as the file writes it, behind the name of the message that it is in.
        value: as the file would write it.
        is_set: whether the file sets it; if not, the value is the default.
    """

    key: str
    name: str
    value: str
    is_set: bool


@cache
def meanings() -> dict[str, str]:
    """Return what each option means, in one line."""
    text = resources.files("fcn_caffe.viewer").joinpath("options.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines())


def layer_options(layer: caffe_pb2.LayerParameter) -> list[Option]:
    """List a layer's options: those that are set, then the defaults of the messages that are there or of its type."""
    about = describe(layer.DESCRIPTOR)
    set_options: list[Option] = []
    defaults: list[Option] = []
    for descriptor, value in layer.ListFields():
        field = about.field(descriptor.name)
        if field.name in _SAID_ELSEWHERE:
            continue
        if field.message is None:
            set_options += _options(layer, field, value, "LayerParameter", "")
            continue
        for item in value if field.repeated else [value]:
            set_options += _of_message(item, field.message, f"{field.name}.")
            if field.name.endswith("_param"):
                defaults += _defaults(item, field.message, f"{field.name}.")
    own = _own_message(layer, about)
    if own is not None and not layer.HasField(own):
        message = about.field(own).message
        assert message is not None
        defaults += _defaults(getattr(layer, own), message, f"{own}.")
    return [*set_options, *defaults]


def _own_message(layer: caffe_pb2.LayerParameter, about: Message) -> str | None:
    """The field of the options that a type is named after: convolution_param of Convolution."""
    type = "Convolution" if layer.type == "Deconvolution" else layer.type
    wanted = f"{type}_param".lower().replace("_", "")
    fields = {**about.fields, **about.forks}
    return next((name for name, field in fields.items() if field.message and name.replace("_", "") == wanted), None)


def solver_options(solver: caffe_pb2.SolverParameter) -> list[Option]:
    """List what a solver's file sets, then the defaults of the rest."""
    about = describe(solver.DESCRIPTOR)
    return [*_of_message(solver, about, ""), *_defaults(solver, about, "")]


def _of_message(message: caffe_pb2.Message, about: Message, prefix: str) -> Iterator[Option]:
    for descriptor, value in message.ListFields():
        field = about.field(descriptor.name)
        if field.message is None:
            yield from _options(message, field, value, about.name, prefix)
        elif field.message.name != "NetParameter":  # a solver's net has a picture of its own
            for item in value if field.repeated else [value]:
                yield from _of_message(item, field.message, f"{prefix}{field.name}.")


def _options(message: caffe_pb2.Message, field: Field, value: object, key: str, prefix: str) -> Iterator[Option]:
    values = list(value) if field.repeated else [value]  # type: ignore[call-overload]
    text = ", ".join(_show(item, field) for item in values)
    text = text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"
    yield Option(f"{key}.{field.name}", f"{prefix}{field.name}", text, True)


def _defaults(message: caffe_pb2.Message, about: Message, prefix: str) -> Iterator[Option]:
    """The fields of Caffe 1.0 that have a default and are not set."""
    for field in about.fields.values():
        descriptor = message.DESCRIPTOR.fields_by_name[field.name]
        if field.repeated or field.message is not None or message.HasField(field.name):
            continue
        if getattr(descriptor, "has_default_value"):  # noqa: B009 (the stub has it not)
            text = _show(descriptor.default_value, field)
            yield Option(f"{about.name}.{field.name}", f"{prefix}{field.name}", text, False)


def _show(value: object, field: Field) -> str:
    if field.values is not None:
        return next((name for name, number in (field.values | field.fork_values).items() if number == value), "?")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return shortest_float(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
