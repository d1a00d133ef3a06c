"""The rule by which a layer's tops get their shapes, as data that `shapes.js` computes with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fcn_caffe.layers.base import Layer, SameShapeLayer
from fcn_caffe.layers.borders import BorderCopy
from fcn_caffe.layers.combine import Concat, Eltwise, Slice, Split
from fcn_caffe.layers.conv import Convolution, Deconvolution, Im2col
from fcn_caffe.layers.forks.channels import Axpy
from fcn_caffe.layers.forks.mean_field import MultiStageMeanfield
from fcn_caffe.layers.forks.resize import Interp, Padding
from fcn_caffe.layers.forks.ssd import Permute
from fcn_caffe.layers.forks.unpool import Unpooling, Upsample
from fcn_caffe.layers.input import Input, Parameter
from fcn_caffe.layers.linear import Embed, InnerProduct
from fcn_caffe.layers.loss import Accuracy
from fcn_caffe.layers.norm import MVN
from fcn_caffe.layers.pooling import SPP, Pooling
from fcn_caffe.layers.reduce import ArgMax, Reduction
from fcn_caffe.layers.shape import Crop, Flatten, Reshape, Tile

__all__ = ["Rule", "shape_rule"]

Rule = dict[str, Any]
_SAME_ALONE = ("BN", "Normalize")  # their first top has the bottom's shape, others their own


def shape_rule(layer: Layer) -> Rule:
    """Return a layer's rule: what `rule` names is a function of shapes.js, the rest its numbers.

    A layer whose shapes no rule gives has "fixed", if nothing flows into it, or "unknown".
    """
    for kinds, make in _RULES:
        if isinstance(layer, kinds):
            return make(layer)
    if not layer.param.bottom:
        return {"rule": "fixed"}
    if layer.layer_type in _SAME_ALONE:
        return {"rule": "same" if layer.top_count == 1 else "unknown"}
    if layer.loss and layer.top_count == 1:
        return {"rule": "scalar"}
    return {"rule": "same"} if isinstance(layer, SameShapeLayer) else {"rule": "unknown"}


def _window(layer: Any, rule: str, **more: object) -> Rule:  # noqa: ANN401 (a window's or a pooling's)
    return {
        "rule": rule,
        "kernel": list(layer.kernel),
        "stride": list(layer.stride),
        "pad": list(layer.pad),
        **more,
    }


def _convolution(layer: Convolution | Deconvolution | Im2col) -> Rule:
    weight = layer.blobs[0] if layer.blob_names else None
    outputs = None if weight is None else layer.param.convolution_param.num_output
    more = {} if weight is None else {"per": len(weight), "weights": weight.numel()}
    return _window(
        layer,
        "deconvolution" if layer.transposed else "convolution",
        dilation=list(layer.dilation),
        axis=layer.channel_axis,
        channels=layer.channels,
        outputs=outputs,
        **more,
    )


def _resize(layer: Upsample) -> Rule:
    return {"rule": "resize", "scale": layer.scale, "less": layer.less, "wanted": layer.wanted}


def _accuracy(layer: Accuracy) -> Rule:
    return {"rule": "accuracy", "axis": layer.dim} if type(layer) is Accuracy else {"rule": "unknown"}


_RULES: tuple[tuple[type[Layer] | tuple[type[Layer], ...], Callable[[Any], Rule]], ...] = (
    (Input, lambda layer: {"rule": "input"}),
    (Parameter, lambda layer: {"rule": "fixed"}),
    ((Convolution, Deconvolution, Im2col), _convolution),
    (Pooling, lambda layer: _window(layer, "pooling", ceil=layer.ceil, whole=layer.whole)),
    (Concat, lambda layer: {"rule": "concat", "axis": layer.dim}),
    (Slice, lambda layer: {"rule": "slice", "axis": layer.dim, "points": layer.points}),
    (Eltwise, lambda layer: {"rule": "equal"}),
    ((Split, MVN, MultiStageMeanfield), lambda layer: {"rule": "same"}),
    (Axpy, lambda layer: {"rule": "same", "bottom": 1}),
    (Crop, lambda layer: {"rule": "crop", "axis": layer.first, "offsets": list(layer.offsets)}),
    (Flatten, lambda layer: {"rule": "flatten", "start": layer.start, "end": layer.end}),
    (Reshape, lambda layer: {"rule": "reshape", "start": layer.start, "end": layer.end, "wanted": layer.wanted}),
    (Tile, lambda layer: {"rule": "tile", "axis": layer.dim, "tiles": layer.tiles}),
    (Permute, lambda layer: {"rule": "permute", "order": list(layer.order)}),
    (
        InnerProduct,
        lambda layer: {
            **{"rule": "inner", "axis": layer.first, "inputs": layer.size, "weights": layer.weight.numel()},
            "outputs": layer.param.inner_product_param.num_output,
        },
    ),
    (Embed, lambda layer: {"rule": "embed", "outputs": layer.weight.shape[1]}),
    (Reduction, lambda layer: {"rule": "reduce", "axis": layer.first}),
    (ArgMax, lambda layer: {"rule": "argmax", "axis": layer.dim, "top_k": layer.top_k, "values": layer.values}),
    (Accuracy, _accuracy),
    (Upsample, _resize),
    (Unpooling, lambda layer: {"rule": "resize", "scale": (1, 1), "less": (0, 0), "wanted": layer.size}),
    (
        Interp,
        lambda layer: {
            **{"rule": "interp", "pads": sum(layer.pads), "shrink": layer.shrink, "zoom": layer.zoom},
            "wanted": layer.wanted,
        },
    ),
    (Padding, lambda layer: {"rule": "pad", "by": [sum(layer.pads)] * 2}),
    (BorderCopy, lambda layer: {"rule": "pad", "by": [2 * fold[2] for fold in layer.folds]}),
    (SPP, lambda layer: {"rule": "pyramid", "levels": layer.param.spp_param.pyramid_height}),
)
