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
STATES: dict[str, tuple[int, tuple[str, ...]]] = {
    "train": (TRAIN, ()),
    "test": (TEST, ()),
    "deploy": (TEST, ("deploy",)),
}
EVERYWHERE = tuple(STATES)
_HAS_WINDOW = ("Convolution", "Deconvolution")
_WINDOW_DEFAULTS: dict[str, tuple[int, ...]] = {"kernel": (), "stride": (1,), "pad": (0,)}
_POOLING_FIELDS = {"kernel_size": "kernel", "stride": "stride", "pad": "pad"}  # and how their _h and _w begin
_WIRING = ("name", "type", "bottom", "top", "include", "exclude", "phase", "param")
_NETS_INSIDE = ("net_param", "train_net_param", "test_net_param")
_FOLDERS = ("_dir",)  # endings of the options of data layers that only say where the data lies
# The messages that types read besides the one that has their name.
_READS = {"Deconvolution": ("convolution_param",), "SoftmaxWithLoss": ("loss_param", "softmax_param")}
_NO_STATE = caffe_pb2.NetState()
_RANK = 4  # All blobs are 4-D; a negative axis counts from 4.


@dataclass(frozen=True)
class Layer:
    """A layer: its wiring, the states that it is in, and the options that are not Caffe's default.

    Convolutions always have kernel, stride, pad, dilation, group, outputs, bias, fillers and rates; losses say whether
    they are means over pixels.
    """

    name: str
    type: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    states: tuple[str, ...] = EVERYWHERE
    options: Facts = field(default_factory=dict)


def read_layers(path: str | os.PathLike[str]) -> list[Layer]:
    """Read all layers of a net file, those of every state. Raises: PrototxtError with file:line; GraphError."""
    param = upgrade_net(read_text(path, caffe_pb2.NetParameter), path)
    return [
        Layer(
            layer.name,
            layer.type,
            tuple(layer.bottom),
            tuple(layer.top),
            _states(layer, param.state),
            _options(layer),
        )
        for layer in param.layer
    ]


def solver_facts(param: caffe_pb2.SolverParameter, root: str | os.PathLike[str]) -> Facts:
    """Collect the fields of a solver that are set and differ from their default.

    Args:
        param: the solver.
        root: files are named as seen from here. The solver names them from here too, or from beside itself.
    """
    facts = _flatten(param)
    train, test = facts.get("train_net"), facts.get("test_net")
    if "net" not in facts and train is not None and test == (train,):
        facts["net"] = facts.pop("train_net")
        del facts["test_net"]
    if "net" in facts:
        facts["net"] = _from_root(facts["net"], root)
    if "weights" in facts:
        facts["weights"] = tuple(_from_root(name, root) for name in weight_names(param))
    for key in list(facts):
        message = key.partition(".")[0].partition("[")[0]
        if message in _NETS_INSIDE:
            facts[message] = "a net written inside the solver"
            del facts[key]
    return facts


def _from_root(name: str, root: str | os.PathLike[str]) -> str:
    """A file's name as seen from the root, where it is below or where none is there."""
    places = [os.path.join(root, name), os.path.join(root, "solvers", name)]
    file = next((place for place in places if os.path.isfile(place)), places[0])
    return Path(os.path.relpath(file, root)).as_posix()


def show_value(value: object) -> str:
    """Write a field's value in words."""
    if isinstance(value, tuple):
        return " ".join(map(show_value, value))
    return f"{value:.7g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


# -- layers ------------------------------------------------------------------------------------------------------------


def _states(layer: caffe_pb2.LayerParameter, own: caffe_pb2.NetState) -> tuple[str, ...]:
    """The states that a layer is in. own: the net's own NetState, which a solver adds to its own."""
    if not (layer.include or layer.exclude):
        return EVERYWHERE
    net, states = caffe_pb2.NetParameter(layer=[layer]), []
    for name, (phase, stages) in STATES.items():
        state = caffe_pb2.NetState(phase=phase, stage=stages)
        state.MergeFrom(own)
        if filter_net(net, state.phase, state.stage, state.level).layer:
            states.append(name)
    return tuple(states)


def _options(layer: caffe_pb2.LayerParameter) -> Facts:
    """The options of a layer, less the name of the message they stand in where its type reads that message."""
    options = {_option_name(layer.type, key): value for key, value in _flatten(layer, leave=_WIRING).items()}
    if layer.type in _HAS_WINDOW:
        _unify_window(layer.convolution_param, options)
        _name_fillers(layer.convolution_param, options)
    if layer.type == "Python":
        options.pop("param_str", None)
        options = _data_options(layer.python_param.param_str) | options
    if layer.HasField("loss_param") or layer.type == "SoftmaxWithLoss":
        options.pop("normalization", None)
        options["normalize"] = _normalize(layer.loss_param)
    if layer.type == "Pooling":
        _unify_pooling(layer.pooling_param, options)
    _drop_defaults(layer, options)
    if layer.type == "Dropout":
        options["dropout_ratio"] = _round(layer.dropout_param.dropout_ratio)
    blobs = _count_blobs(layer)
    rates = {
        "lr_mult": [spec.lr_mult for spec in layer.param],
        "decay_mult": [spec.decay_mult for spec in layer.param],
    }
    for key, values in rates.items():
        if values or blobs:
            options[key] = tuple(map(_round, values + [1.0] * (blobs - len(values))))
    if any(spec.name for spec in layer.param):
        options["param.name"] = tuple(spec.name for spec in layer.param)
    return options


def _option_name(kind: str, key: str) -> str:
    """An option's name: by itself in a message that layers of this type read, with the message's in any other."""
    message, _, option = key.partition(".")
    messages = (*_READS.get(kind, ()), kind.lower() + "param")
    return option if option and (message in messages or message.replace("_", "") in messages) else key


def _unify_window(param: caffe_pb2.ConvolutionParameter, options: Facts) -> None:
    """Set kernel, stride, pad and dilation: one number for both axes where they are equal."""
    for key, default in _WINDOW_DEFAULTS.items():
        both, height, width = "kernel_size" if key == "kernel" else key, f"{key}_h", f"{key}_w"
        sizes = tuple(getattr(param, both)) or default
        if param.HasField(height) or param.HasField(width):
            sizes = getattr(param, height), getattr(param, width)
        for name in (both, height, width):
            options.pop(name, None)
        options[key] = _one_if_equal(sizes)
    options["dilation"] = _one_if_equal(tuple(param.dilation) or (1,))
    options |= {"num_output": param.num_output, "group": param.group, "bias_term": param.bias_term}


def _one_if_equal(sizes: tuple[int, ...]) -> int | tuple[int, ...]:
    return sizes[0] if len(set(sizes)) == 1 else sizes


def _name_fillers(param: caffe_pb2.ConvolutionParameter, options: Facts) -> None:
    """Set each filler's type: "zero" for any that fills with zeros, whose other fields then say nothing."""
    for name, filler in (("weight_filler", param.weight_filler), ("bias_filler", param.bias_filler)):
        options[name] = "zero" if is_zero_filler(filler) else filler.type
        if options[name] == "zero":
            for key in [key for key in options if key.startswith(f"{name}.")]:
                del options[key]


def _unify_pooling(param: caffe_pb2.PoolingParameter, options: Facts) -> None:
    """One number for both axes where they are equal, under the short name; Caffe's own stride and pad are left out."""
    for name, short in _POOLING_FIELDS.items():
        pair = tuple(options.pop(f"{short}_{axis}", None) for axis in "hw")
        if pair != (None, None):
            default = param.DESCRIPTOR.fields_by_name[name].default_value
            options[name] = _one_if_equal(tuple(default if size is None else size for size in pair))
            if options[name] == default:
                del options[name]


def _drop_defaults(layer: caffe_pb2.LayerParameter, options: Facts) -> None:
    """Leave out what says what would be so without it."""
    is_loss = "Loss" in layer.type
    for library in ("engine", "force_nd_im2col"):
        options.pop(library, None)  # what computes, not what is computed
    if layer.HasField("phase") and any(STATES[state][0] != layer.phase for state in _states(layer, _NO_STATE)):
        options["phase"] = "TRAIN" if layer.phase == TRAIN else "TEST"  # Dropout then drops always, or never
    if all(layer.propagate_down[: 1 if is_loss else None]):
        options.pop("propagate_down", None)  # gradients go down by themselves, but to labels
    if options.get("axis", 0) < 0:
        options["axis"] += _RANK
        if options["axis"] == (2 if layer.type == "Crop" else 1):  # Caffe's own
            del options["axis"]
    if set(options.get("loss_weight", ())) == {1.0 if is_loss else 0.0}:
        del options["loss_weight"]  # that of each top
    if layer.type == "Eltwise":
        if set(options.get("coeff", ())) == {1.0}:
            del options["coeff"]
        if options.get("operation") != "PROD":
            options.pop("stable_prod_grad", None)
    if layer.type == "Crop" and len(set(options.get("offset", ()))) == 1:
        options["offset"] = options["offset"][:1]  # of every axis
    if layer.type == "Input" and len(layer.input_param.shape) == 1:
        shape = {key.partition(".")[2]: options.pop(key) for key in list(options) if key.startswith("shape[0].")}
        options |= {f"shape[{index}].{key}": value for index in range(len(layer.top)) for key, value in shape.items()}


def _normalize(param: caffe_pb2.LossParameter) -> bool | str:
    """True for a mean over the labelled pixels, as where nothing is said; False for a sum over them."""
    if not param.HasField("normalization") and param.HasField("normalize"):
        return param.normalize
    kind = str(_scalar(param.DESCRIPTOR.fields_by_name["normalization"], param.normalization))
    return {"VALID": True, "BATCH_SIZE": False}.get(kind, kind)


def _count_blobs(layer: caffe_pb2.LayerParameter) -> int:
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
        options = ast.literal_eval(text) if text else {}
    except (SyntaxError, ValueError):
        options = None
    if not isinstance(options, Mapping):
        return {"param_str": text}
    return {
        str(key): tuple(value) if isinstance(value, list) else value
        for key, value in options.items()
        if not str(key).endswith(_FOLDERS)
    }


# -- messages ----------------------------------------------------------------------------------------------------------


def _flatten(message: caffe_pb2.Message, leave: tuple[str, ...] = (), prefix: str = "") -> Facts:
    """The set fields of a message that are not their defaults, nested ones by dotted names."""
    facts: Facts = {}
    for descriptor, value in message.ListFields():
        name = prefix + descriptor.name
        if descriptor.name in leave and not prefix:
            continue
        is_list = not isinstance(value, (str, bytes, int, float)) and hasattr(value, "__len__")
        if descriptor.message_type is not None:
            for index, nested in enumerate(value if is_list else [value]):
                facts |= _flatten(nested, prefix=f"{name}[{index}]." if is_list else f"{name}.")
        elif is_list:
            facts[name] = tuple(_scalar(descriptor, item) for item in value)
        elif value != descriptor.default_value:
            facts[name] = _scalar(descriptor, value)
    return facts


def _scalar(descriptor: caffe_pb2.FieldDescriptor, value: str | float) -> str | float:
    """A scalar as facts have it: an enumeration's name, a rounded number."""
    if descriptor.enum_type is not None:
        return str(descriptor.enum_type.values_by_number[int(value)].name)
    return _round(value) if isinstance(value, float) else value


def _round(value: float) -> float:
    return float(f"{value:.7g}")  # files hold float32
