"""Upgrade old forms of nets and solvers: V0 and V1 layers, data transforms, net-level inputs, BatchNorm.

Source of every rule: Caffe's own upgrade of the same forms, in its order.
"""

from __future__ import annotations

import logging
import os

from fcn_caffe.errors import PrototxtError
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.forks import V1_CROP, V1_WORDS
from fcn_caffe.proto.kept import keep_line, kept_lines
from fcn_caffe.proto.upgrade_v0 import upgrade_v0_layers

# V1 types whose modern name is not the capitalised words.
_IRREGULAR_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "IM2COL": "Im2col",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}
_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}
_log = logging.getLogger("fcn_caffe.proto")

_TYPE = "type: "
TO_ASK = "?"  # `fork` of a layer that may be of several forks, and whose fields do not tell
# Kept with a Crop layer whose offset is still to be derived; `filter_net` and `upgrade_whole_net` do it.
CROP_TO_DERIVE = "# V1's CROP: its offset comes from the coordinate map"
_DATA_OPTIONS = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}
_MOVED_TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")


def upgrade_net(net: caffe_pb2.NetParameter, path: str | os.PathLike[str] = "<net>") -> caffe_pb2.NetParameter:
    """Upgrade a net in place: only `layer` is left, and inputs are Input layers. A modern net stays as it is.

    Args:
        net: The net, which is changed.
        path: What errors call it.

    Returns:
        The same net.

    Raises:
        PrototxtError: Caffe refuses this form, too; names the layer.
    """
    if len(net.layers):
        if len(net.layer):
            raise PrototxtError("has both `layer` and the old `layers`. Use one of them.", path)
        upgrade_v0_layers(net, path)
        for old in net.layers:
            _move_data_transform(old)
        net.layer.extend([_modern_layer(old) for old in net.layers])
        net.ClearField("layers")
    for layer in net.layer:
        _warn_of_transforms(layer, path)
        if has_old_multipliers(layer):
            for param in layer.param:
                param.lr_mult = param.decay_mult = 0
    if len(net.input):
        _add_input_layer(net, path)
    return net


def upgrade_solver(
    solver: caffe_pb2.SolverParameter, path: str | os.PathLike[str] = "<solver>"
) -> caffe_pb2.SolverParameter:
    """Turn the enum `solver_type` of a solver into the string `type`, in place.

    Returns:
        The same solver.

    Raises:
        PrototxtError: Both are there.
    """
    if solver.HasField("solver_type"):
        if solver.HasField("type"):
            raise PrototxtError("has both `type` and the old `solver_type`. Keep `type`.", path)
        solver.type = _SOLVER_TYPES[caffe_pb2.SolverParameter.SolverType.Name(solver.solver_type)]
        solver.ClearField("solver_type")
    return solver


def modern_type(v1_type: int) -> str:
    """Return the modern name of a V1LayerParameter.LayerType.

    >>> modern_type(4)
    'Convolution'
    """
    name = caffe_pb2.V1LayerParameter.LayerType.Name(v1_type)
    return _IRREGULAR_TYPES.get(name, name.title().replace("_", ""))


def _modern_layer(old: caffe_pb2.V1LayerParameter) -> caffe_pb2.LayerParameter:
    new = caffe_pb2.LayerParameter()
    if old.HasField("name"):
        new.name = old.name
    if old.HasField("type"):
        new.type = modern_type(old.type)
    specs = max(len(old.param), len(old.blob_share_mode), len(old.blobs_lr), len(old.weight_decay))
    for index in range(specs):
        spec = new.param.add()
        for name, values in (
            ("name", old.param),
            ("share_mode", old.blob_share_mode),
            ("lr_mult", old.blobs_lr),
            ("decay_mult", old.weight_decay),
        ):
            if index < len(values):
                setattr(spec, name, values[index])
    for line in kept_lines(old):
        if line == f"{_TYPE}{V1_CROP}":
            new.type = "Crop"
            keep_line(new, CROP_TO_DERIVE)
        elif line.startswith(_TYPE):  # a type that V1 has no number for
            new.type = V1_WORDS[line.removeprefix(_TYPE)]
        else:
            keep_line(new, line)
    for name in ("bottom", "top", "loss_weight", "include", "exclude", "blobs"):
        getattr(new, name).extend(getattr(old, name))
    for field, value in old.ListFields():
        if field.name.endswith("_param"):  # all options of the V1 form exist under the same name
            getattr(new, field.name).CopyFrom(value)
    if new.type == "ImageSegData" and new.image_data_param.new_height:
        new.fork = TO_ASK  # DeepLab v1 and DeconvNet resize labels differently
    return new


def has_old_multipliers(layer: caffe_pb2.LayerParameter) -> bool:
    """Whether a BatchNorm layer has a `param` for each of its blobs, as the first ones had to.

    The blobs are running sums, which the solver must not touch: the upgrade sets the multipliers to 0.
    """
    return layer.type == "BatchNorm" and len(layer.param) == 3


def old_transforms(layer: caffe_pb2.LayerParameter | caffe_pb2.V1LayerParameter) -> list[str]:
    """Return the transforms that stand in the options of a data layer: "data_param { scale }" …

    Those of V1 layers are moved to transform_param. Those of modern layers Caffe does not read, but for the scale of
    WindowData.
    """
    v1 = isinstance(layer, caffe_pb2.V1LayerParameter)
    kind = modern_type(layer.type) if isinstance(layer, caffe_pb2.V1LayerParameter) else layer.type
    options = _DATA_OPTIONS.get(kind, "")
    if not options or not layer.HasField(options):
        return []
    read = () if v1 or options != "window_data_param" else ("scale",)
    data = getattr(layer, options)
    names = [name for name in _MOVED_TRANSFORMS if data.HasField(name) and name not in read]
    return [f"{options} {{ {name} }}" for name in names]


def _move_data_transform(layer: caffe_pb2.V1LayerParameter) -> None:
    """Move scale, mean_file, crop_size and mirror from the options of a V1 data layer to transform_param."""
    for place in old_transforms(layer):
        options, name = place.removesuffix(" }").split(" { ")
        data = getattr(layer, options)
        setattr(layer.transform_param, name, getattr(data, name))
        data.ClearField(name)


def _warn_of_transforms(layer: caffe_pb2.LayerParameter, path: str | os.PathLike[str]) -> None:
    unread = old_transforms(layer)
    if unread:
        _log.warning(
            "%s: layer '%s' (%s): %s has no effect, as in Caffe, which moves it for V1 `layers` alone. "
            "Write it in transform_param if you want it.",
            *(os.fspath(path), layer.name, layer.type, ", ".join(unread)),
        )


def _add_input_layer(net: caffe_pb2.NetParameter, path: str | os.PathLike[str]) -> None:
    """Replace net-level `input` with one Input layer in front, named "input" as Caffe does."""
    inputs, shapes, dims = list(net.input), list(net.input_shape), list(net.input_dim)
    if shapes and dims:
        _log.warning("%s: has input_shape and the old input_dim: input_shape counts.", os.fspath(path))
        dims = []
    if dims and len(dims) < 4 * len(inputs):
        raise PrototxtError(f"has {len(dims)} input_dim for {len(inputs)} input, expected {4 * len(inputs)}.", path)
    if not dims and len(shapes) < len(inputs):
        raise PrototxtError(f"has {len(shapes)} input_shape for {len(inputs)} input. Give each input its shape.", path)
    if len(dims) > 4 * len(inputs) or len(shapes) > len(inputs):
        _log.warning("%s: has more shapes than its %d input: the first count.", os.fspath(path), len(inputs))
    layer = caffe_pb2.LayerParameter(name="input", type="Input", top=inputs)
    for index in range(len(inputs)):
        dim = dims[4 * index : 4 * index + 4] or shapes[index].dim
        layer.input_param.shape.add().dim.extend(dim)
    rest = list(net.layer)
    net.ClearField("layer")
    net.layer.extend([layer, *rest])
    for field in ("input", "input_shape", "input_dim"):
        net.ClearField(field)
