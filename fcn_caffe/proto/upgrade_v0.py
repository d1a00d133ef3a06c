"""V0 layers, `layers { layer { type: "conv" } }` of 2013: every option in one message, padding a layer of its own."""

from __future__ import annotations

import logging
import os

from fcn_caffe.errors import PrototxtError
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.schema import Scalar

# V0 type -> V1 type and the field of its options, where it has any.
V0_TYPES = {
    "accuracy": ("ACCURACY", ""),
    "bnll": ("BNLL", ""),
    "concat": ("CONCAT", "concat_param"),
    "conv": ("CONVOLUTION", "convolution_param"),
    "data": ("DATA", "data_param"),
    "dropout": ("DROPOUT", "dropout_param"),
    "euclidean_loss": ("EUCLIDEAN_LOSS", ""),
    "flatten": ("FLATTEN", ""),
    "hdf5_data": ("HDF5_DATA", "hdf5_data_param"),
    "hdf5_output": ("HDF5_OUTPUT", "hdf5_output_param"),
    "im2col": ("IM2COL", ""),
    "images": ("IMAGE_DATA", "image_data_param"),
    "infogain_loss": ("INFOGAIN_LOSS", "infogain_loss_param"),
    "innerproduct": ("INNER_PRODUCT", "inner_product_param"),
    "lrn": ("LRN", "lrn_param"),
    "multinomial_logistic_loss": ("MULTINOMIAL_LOGISTIC_LOSS", ""),
    "pool": ("POOLING", "pooling_param"),
    "relu": ("RELU", ""),
    "sigmoid": ("SIGMOID", ""),
    "softmax": ("SOFTMAX", ""),
    "softmax_loss": ("SOFTMAX_LOSS", ""),
    "split": ("SPLIT", ""),
    "tanh": ("TANH", ""),
    "window_data": ("WINDOW_DATA", "window_data_param"),
}
_log = logging.getLogger("fcn_caffe.proto")

# V0 option -> its name in the options of the type. Caffe warns of an option that the type lacks.
_OPTIONS = {
    "biasterm": "bias_term",
    "kernelsize": "kernel_size",
    "batchsize": "batch_size",
    "shuffle_images": "shuffle",
    "det_fg_threshold": "fg_threshold",
    "det_bg_threshold": "bg_threshold",
    "det_fg_fraction": "fg_fraction",
    "det_context_pad": "context_pad",
    "det_crop_mode": "crop_mode",
}
_TRANSFORMS = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_CARRIED = ("blobs", "blobs_lr", "weight_decay")


def upgrade_v0_layers(net: caffe_pb2.NetParameter, path: str | os.PathLike[str] = "<net>") -> None:
    """Turn the V0 layers of a net into V1 layers, in place; a padding layer becomes the `pad` of what reads it.

    Raises:
        PrototxtError: V0 has no such type, or what reads a padding layer takes no `pad`.
    """
    if not any(layer.HasField("layer") for layer in net.layers):
        return
    layers = [_v1_layer(layer, path) for layer in _without_padding(list(net.layers), path)]
    net.ClearField("layers")
    net.layers.extend(layers)


def _without_padding(
    layers: list[caffe_pb2.V1LayerParameter], path: str | os.PathLike[str]
) -> list[caffe_pb2.V1LayerParameter]:
    """Drop padding layers and set `pad` on the conv and pool layers that read them."""
    produced: dict[str, caffe_pb2.V1LayerParameter] = {}
    kept = []
    for layer in layers:
        for index, bottom in enumerate(layer.bottom):
            source = produced.get(bottom)
            if source is None or source.layer.type != "padding":
                continue
            if layer.layer.type not in ("conv", "pool"):
                raise PrototxtError(
                    f"layer '{layer.layer.name}' ({layer.layer.type}) reads the padding layer "
                    f"'{source.layer.name}'; only conv and pool can.",
                    path,
                )
            layer.layer.pad = source.layer.pad
            layer.bottom[index] = source.bottom[0]
        if layer.layer.type != "padding":
            kept.append(layer)
        elif len(layer.bottom) != 1:
            raise PrototxtError(f"padding layer '{layer.layer.name}' has {len(layer.bottom)} bottoms, not 1.", path)
        produced.update(dict.fromkeys(layer.top, layer))
    return kept


def _v1_layer(layer: caffe_pb2.V1LayerParameter, path: str | os.PathLike[str]) -> caffe_pb2.V1LayerParameter:
    if not layer.HasField("layer"):
        return layer
    old = layer.layer
    if old.type not in V0_TYPES:
        raise PrototxtError(f"layer '{old.name}' has the unknown type \"{old.type}\". Correct it.", path)
    type_name, options = V0_TYPES[old.type]
    new = caffe_pb2.V1LayerParameter(bottom=layer.bottom, top=layer.top)
    new.type = caffe_pb2.V1LayerParameter.LayerType.Value(type_name)
    if old.HasField("name"):
        new.name = old.name
    for field, value in old.ListFields():
        if field.name in ("name", "type"):
            continue
        if field.name in _CARRIED:
            getattr(new, field.name).extend(value)
        elif field.name in _TRANSFORMS:
            setattr(new.transform_param, _TRANSFORMS[field.name], value)
        elif field.name == "hdf5_output_param" and options == field.name:
            new.hdf5_output_param.CopyFrom(value)
        else:
            target = getattr(new, options) if options else None
            name = _OPTIONS.get(field.name, field.name)
            if target is None or name not in target.DESCRIPTOR.fields_by_name:
                _log.warning(
                    "%s: layer '%s' (%s) does not read `%s`: it has no effect, as in Caffe.",
                    *(os.fspath(path), old.name, old.type, field.name),
                )
                continue
            try:
                _set(target, name, value)
            except ValueError:  # V0 has signed numbers where the later messages have none below 0
                raise PrototxtError(
                    f"layer '{old.name}' ({old.type}): {field.name} is {value}. Give 0 or more.", path
                ) from None
    return new


def _set(message: caffe_pb2.Message, name: str, value: Scalar | caffe_pb2.Message) -> None:
    """Set a field, whether it became a message (fillers), repeated (conv's kernel_size) or stayed single."""
    if isinstance(value, caffe_pb2.Message):
        getattr(message, name).CopyFrom(value)
    elif hasattr(getattr(message, name), "append"):
        getattr(message, name).append(value)
    else:
        setattr(message, name, value)
