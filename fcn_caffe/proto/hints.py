"""What ends a message about a field or a value that is not known: where it belongs, how the other form spells it."""

from __future__ import annotations

from collections.abc import Sequence

from fcn_caffe.host.text import nearest_names
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.forks import V1_WORDS
from fcn_caffe.proto.layer_types import OPTIONS, modern_name, options_with, v1_word
from fcn_caffe.proto.schema import Message
from fcn_caffe.proto.upgrade import modern_type

__all__ = [
    *("LAYERS", "both_forms", "field_hint", "layer_type", "modern_type_hint", "one_value", "param_hint"),
    "v1_type_hint",
]

LAYERS = ("LayerParameter", "V1LayerParameter")
_ALIKE = 0.7  # how much of a field has to agree for it to be a slip of the pen
_MOST_OPTIONS = 3
# A field of `layers` -> what `layer` has; and back.
_OF_V1 = {
    "blobs_lr": "param { lr_mult: … }",
    "weight_decay": "param { decay_mult: … }",
    "blob_share_mode": "param { share_mode: … }",
}
_OF_SPEC = {"lr_mult": "blobs_lr: …", "decay_mult": "weight_decay: …", "share_mode": "blob_share_mode: …"}


def layer_type(message: caffe_pb2.Message | None) -> str:
    """Return the modern type of a layer as far as it is read; empty for another message, and where none is said."""
    if isinstance(message, caffe_pb2.LayerParameter):
        return str(message.type)
    if isinstance(message, caffe_pb2.V1LayerParameter) and message.HasField("type"):
        return modern_type(message.type)
    return ""


def field_hint(name: str, about: Message, type: str, known: Sequence[str]) -> str:
    """Return where an unknown field belongs, or the known field that it may be; empty where neither is clear.

    Args:
        name: the field.
        about: the message that has it not.
        type: the type of the layer that it is in, if any.
        known: the message's fields.
    """
    hint = _spelling_hint(name, about.name)
    if hint:
        return hint
    in_layer = about.name in LAYERS
    homes = options_with(name, type) if type or in_layer else []
    if homes and (in_layer or len(homes) == 1):
        return f" It goes into {_either(homes)} {{ … }}{'' if in_layer else ' of the layer'}."
    near = nearest_names(name, known, alike=_ALIKE)
    return f' Did you mean "{near[0]}"?' if near else ""


def _spelling_hint(name: str, message: str) -> str:
    if message == "V1LayerParameter":
        if name in _OF_SPEC:
            return f" In `layers` it is {_OF_SPEC[name]}, one for each blob."
        if name in caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name:
            return f" It is of `layer`: {_THROUGHOUT}"
        return ""
    if name in _OF_V1:
        place = "" if message == "LayerParameter" else " in the layer, beside the options"
        return f" It is of the old `layers`: write {_OF_V1[name]}{place}, one for each blob."
    if name in _OF_SPEC:
        place = "" if message == "LayerParameter" else " of the layer, beside the options"
        return f" It goes into param {{ {name}: … }}{place}, one for each blob."
    return ""


_THROUGHOUT = 'write `layer` for `layers` in the whole file, and each type as in type: "Convolution".'


def _either(names: Sequence[str]) -> str:
    shown = [*names[:_MOST_OPTIONS], *(["…"] if len(names) > _MOST_OPTIONS else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def modern_type_hint(word: str) -> str:
    """Return how a `layer` spells a type that came without quotes."""
    name = modern_name(word) or V1_WORDS.get(word, word)
    old = f" {word} is of the old `layers`." if name != word else ""
    return f' Write type: "{name}".{old}'


def v1_type_hint(word: str) -> str:
    """Return how `layers` spells a type that came in quotes."""
    name = modern_name(word)
    old = v1_word(name)
    if old:
        return f" In `layers` write type: {old} without quotes; or {_THROUGHOUT}"
    if word in OPTIONS:
        return f" The old `layers` have no {word}: {_THROUGHOUT}"
    near = nearest_names(word.upper(), caffe_pb2.V1LayerParameter.LayerType.keys(), alike=_ALIKE)
    return f' Did you mean "{near[0]}"?' if near else ""


def param_hint() -> str:
    """Return how `layers` spells `param { lr_mult: … }`."""
    return (
        " In `layers` it is a name to share by; multipliers are blobs_lr: … and weight_decay: …, one for each blob. "
        f"For param {{ lr_mult: … }} {_THROUGHOUT}"
    )


def both_forms(form: str, other: str, line: int) -> str:
    """Say that `layer` and `layers` are in one file. form: the one that comes; other: the one that line has."""
    return (
        f"a net has both `layer` and the old `layers`: here is `{form}`, and line {line} has `{other}`. Write all of "
        'them as `layer`, each type as in type: "Convolution", blobs_lr: 1 as param { lr_mult: 1 }.'
    )


def one_value(name: str, shown: str, is_repeated: bool) -> str:
    """Say that a field was given a second value behind a comma. shown: that value, quoted."""
    if is_repeated:
        return f"{name} takes one value at a time, got {shown} behind it. Write {name}: [a, b], or {name}: before each."
    hint = " Training runs on one device here: name one." if name == "device_id" else " Keep one."
    return f"{name} takes one value, got {shown} behind it.{hint}"
