"""What a net or solver file says, field by field, in one form for every way of saying it."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcn_caffe.layers.fillers import is_zero_filler
from fcn_caffe.net.graph import filter_net
from fcn_caffe.proto import caffe_pb2, read_text
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.proto.upgrade import upgrade_net
from fcn_caffe.training.solver.settings import weight_names

__all__ = ["EVERYWHERE", "Facts", "Layer", "read_layers", "show_value", "solver_facts"]

Facts = dict[str, Any]
# Where a layer is: while training, while testing, and in the deploy form.
STATES = {"train": (TRAIN, ()), "test": (TEST, ()), "deploy": (TEST, ("deploy",))}
EVERYWHERE = tuple(STATES)
_HAS_WINDOW = ("Convolution", "Deconvolution")
_AXES = (("kernel", "kernel_size"), ("stride", "stride"), ("pad", "pad"))
_POOLED = (("kernel_size", "kernel"), ("stride", "stride"), ("pad", "pad"))
_WIRING = ("name", "type", "bottom", "top", "include", "exclude", "phase", "param")
_NETS_INSIDE = ("net_param", "train_net_param", "test_net_param")
_FOLDERS = ("_dir",)  # options of data layers that only say where the data lies
# The messages that types read besides the one that has their name.
_READS = {"Deconvolution": ("convolution_param",), "SoftmaxWithLoss": ("loss_param", "softmax_param")}
_NO_STATE = caffe_pb2.NetState()
_RANK = 4  # axes of every blob of these nets: what an axis is counted from behind of


@dataclass(frozen=True)
class Layer:
    """A layer: how it is joined to others, in which states it is there, and the options that are not Caffe's default.

    Convolutions tell kernel, stride, pad, dilation, group, outputs, bias, fillers and rates in any case; losses whether
    they are means over pixels.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    states: tuple[str, ...] = EVERYWHERE
    options: Facts = field(default_factory=dict)


def read_layers(path: Any) -> list[Layer]:
    """All layers of a net file, of every state. Raises: PrototxtError with file:line; GraphError."""
    param = upgrade_net(read_text(path, caffe_pb2.NetParameter), path)
    return [
        Layer(one.name, one.type, tuple(one.bottom), tuple(one.top), _states(one, param.state), _options(one))
        for one in param.layer
    ]


def solver_facts(param: Any, root: str | os.PathLike[str]) -> Facts:
    """The fields of a solver that are set, those with a default only where they differ from it.

    Files are named as seen from the root, wherefrom the solver names them: as it is run, or beside itself.
    """
    found = _flat(param)
    train, test = found.get("train_net"), found.get("test_net")
    if "net" not in found and train is not None and test == (train,):
        found["net"] = found.pop("train_net")
        del found["test_net"]
    if "net" in found:
        found["net"] = _from_root(found["net"], root)
    if "weights" in found:
        found["weights"] = tuple(_from_root(name, root) for name in weight_names(param))
    inside = [key for key in found if key.partition(".")[0].partition("[")[0] in _NETS_INSIDE]
    for key in inside:
        found[key.partition(".")[0].partition("[")[0]] = "a net written inside the solver"
        del found[key]
    return found


def _from_root(name: str, root: str | os.PathLike[str]) -> str:
    """A file's name as seen from the root, where it is below or where none is there."""
    places = [os.path.join(root, name), os.path.join(root, "solvers", name)]
    found = next((place for place in places if os.path.isfile(place)), places[0])
    return Path(os.path.relpath(found, root)).as_posix()


def show_value(value: Any) -> str:
    """A field's value in words."""
    if isinstance(value, tuple):
        return " ".join(map(show_value, value))
    return f"{value:.7g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _states(layer: Any, own: Any) -> tuple[str, ...]:
    """The states that a layer is in. own: the net's own NetState, which a solver adds to its own."""
    if not (layer.include or layer.exclude):
        return EVERYWHERE
    alone, found = caffe_pb2.NetParameter(layer=[layer]), []
    for name, (phase, stages) in STATES.items():
        state = caffe_pb2.NetState(phase=phase, stage=stages)
        state.MergeFrom(own)
        if filter_net(alone, state.phase, state.stage, state.level).layer:
            found.append(name)
    return tuple(found)


def _options(layer: Any) -> Facts:
    """The options of a layer, less the name of the message they stand in where its type reads that message."""
    found = {_short(layer.type, key): value for key, value in _flat(layer, leave=_WIRING).items()}
    if layer.type in _HAS_WINDOW:
        _windowed(layer.convolution_param, found)
    if layer.type == "Python":
        found.pop("param_str", None)
        found = _data_options(layer.python_param.param_str) | found
    if layer.HasField("loss_param") or layer.type == "SoftmaxWithLoss":
        found.pop("normalization", None)
        found["normalize"] = _normalized(layer.loss_param)
    if layer.type == "Pooling":
        _pooled(layer.pooling_param, found)
    _settle(layer, found)
    if layer.type == "Dropout":
        found["dropout_ratio"] = _rounded(layer.dropout_param.dropout_ratio)
    blobs = _blobs(layer)
    rates = [float(one.lr_mult) for one in layer.param], [float(one.decay_mult) for one in layer.param]
    for key, given in zip(("lr_mult", "decay_mult"), rates, strict=True):
        if given or blobs:
            found[key] = _numbers(given + [1.0] * (blobs - len(given)))
    if any(one.name for one in layer.param):
        found["param.name"] = tuple(one.name for one in layer.param)
    return found


def _short(kind: str, key: str) -> str:
    """An option's name: by itself in a message that layers of this type read, with the message's in any other."""
    message, _, option = key.partition(".")
    read = (*_READS.get(kind, ()), kind.lower() + "param")
    return option if option and (message in read or message.replace("_", "") in read) else key


def _windowed(options: Any, found: Facts) -> None:
    for key, both in _AXES:
        height, width = f"{key}_h", f"{key}_w"
        usual = {"kernel": (), "stride": (1,), "pad": (0,)}[key]
        given = tuple(getattr(options, both)) or usual
        if options.HasField(height) or options.HasField(width):
            given = getattr(options, height), getattr(options, width)
        for name in (both, height, width):
            found.pop(name, None)
        found[key] = given[0] if len(set(given)) == 1 else given
    dilation = tuple(options.dilation) or (1,)
    found["dilation"] = dilation[0] if len(set(dilation)) == 1 else dilation
    found |= {"num_output": options.num_output, "group": options.group, "bias_term": options.bias_term}
    for name in ("weight_filler", "bias_filler"):
        filler = getattr(options, name)
        found[name] = "zero" if is_zero_filler(filler) else filler.type
        keep = {} if found[name] == "zero" else {key: found[key] for key in found if key.startswith(f"{name}.")}
        for key in [key for key in found if key.startswith(f"{name}.") and key not in keep]:
            del found[key]


def _pooled(options: Any, found: Facts) -> None:
    """One number for both axes where they are equal, under the short name; Caffe's own stride and pad are left out."""
    for name, short in _POOLED:
        pair = tuple(found.pop(f"{short}_{axis}", None) for axis in "hw")
        if pair != (None, None):
            usual = options.DESCRIPTOR.fields_by_name[name].default_value
            sizes = tuple(usual if size is None else size for size in pair)
            found[name] = sizes[0] if len(set(sizes)) == 1 else sizes
            if found[name] == usual:
                del found[name]


def _settle(layer: Any, found: Facts) -> None:
    """Leave out what says what would be so without it."""
    for library in ("engine", "force_nd_im2col"):
        found.pop(library, None)  # what computes, not what is computed
    if layer.HasField("phase") and any(STATES[state][0] != layer.phase for state in _states(layer, _NO_STATE)):
        found["phase"] = "TRAIN" if layer.phase == TRAIN else "TEST"  # Dropout then drops always, or never
    if all(layer.propagate_down[: 1 if "Loss" in layer.type else None]):
        found.pop("propagate_down", None)  # gradients go down by themselves, but to labels
    if found.get("axis", 0) < 0:
        found["axis"] += _RANK
        if found["axis"] == (2 if layer.type == "Crop" else 1):  # Caffe's own
            del found["axis"]
    if layer.type == "Eltwise":
        if set(found.get("coeff", ())) == {1.0}:
            del found["coeff"]
        if found.get("operation") != "PROD":
            found.pop("stable_prod_grad", None)
    if set(found.get("loss_weight", ())) == {1.0 if "Loss" in layer.type else 0.0}:
        del found["loss_weight"]  # that of each top
    if layer.type == "Crop" and len(set(found.get("offset", ()))) == 1:
        found["offset"] = found["offset"][:1]  # of every axis
    if layer.type == "Input" and len(layer.input_param.shape) == 1:
        only = {key.partition(".")[2]: found.pop(key) for key in list(found) if key.startswith("shape[0].")}
        found |= {f"shape[{index}].{key}": value for index in range(len(layer.top)) for key, value in only.items()}


def _normalized(options: Any) -> bool | str:
    """True for a mean over the labelled pixels, as where nothing is said; False for a sum over them."""
    kinds = {"VALID": True, "BATCH_SIZE": False}
    kind = _scalar(options.DESCRIPTOR.fields_by_name["normalization"], options.normalization)
    if not options.HasField("normalization") and options.HasField("normalize"):
        return bool(options.normalize)
    return kinds.get(kind, str(kind))


def _blobs(layer: Any) -> int:
    if layer.type in _HAS_WINDOW:
        return 1 + int(layer.convolution_param.bias_term)
    if layer.type == "InnerProduct":
        return 1 + int(layer.inner_product_param.bias_term)
    if layer.type == "Scale" and len(layer.bottom) == 1:
        return 1 + int(layer.scale_param.bias_term)
    return 0


def _data_options(text: str) -> Facts:
    """The options of a data layer that speak of the data, not of where it lies; or the text where it is no dict."""
    try:
        given = ast.literal_eval(text) if text else {}
    except (SyntaxError, ValueError):
        given = None
    if not isinstance(given, Mapping):
        return {"param_str": text}
    return {
        str(key): tuple(value) if isinstance(value, list) else value
        for key, value in given.items()
        if not str(key).endswith(_FOLDERS)
    }


def _flat(message: Any, leave: tuple[str, ...] = (), prefix: str = "") -> Facts:
    """The set fields of a message that are not their defaults, nested ones by dotted names."""
    found: Facts = {}
    for about, value in message.ListFields():
        name = prefix + about.name
        if about.name in leave and not prefix:
            continue
        listed = _is_list(value)
        if about.message_type is not None:
            nested = list(value) if listed else [value]
            for index, one in enumerate(nested):
                inside = f"{name}[{index}]." if listed else f"{name}."
                found |= _flat(one, prefix=inside)
        elif listed:
            found[name] = tuple(_scalar(about, one) for one in value)
        elif value != about.default_value:
            found[name] = _scalar(about, value)
    return found


def _is_list(value: Any) -> bool:
    return not isinstance(value, (str, bytes, int, float)) and hasattr(value, "__len__")


def _scalar(about: Any, value: Any) -> Any:
    if about.enum_type is not None:
        return about.enum_type.values_by_number[value].name
    return _rounded(value) if isinstance(value, float) else value


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")  # files hold float32


def _numbers(values: list[float]) -> tuple[float, ...]:
    return tuple(_rounded(value) for value in values)
