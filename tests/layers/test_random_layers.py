"""Layers of every type with drawn options and shapes: the face against the core, float32 against float64, gradients
against differences.

A drawn layer that is refused must be so by the core and the face alike. CI draws the same layers each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layer_cases import OUTSIDE
from torch import Tensor

import fcn_caffe.pycaffe as caffe
from fcn_caffe import TEST, TRAIN, FcnCaffeError, Net, known_types
from fcn_caffe.layers.base import REGISTRY
from fcn_caffe.proto import caffe_pb2, parse_text

Shape = tuple[int, ...]

SIZES = st.integers(1, 3)
ANY = st.lists(SIZES, min_size=1, max_size=5).map(tuple)
IMAGES = st.tuples(SIZES, SIZES, st.integers(2, 5), st.integers(2, 5))
SPATIAL = st.tuples(SIZES, st.sampled_from([2, 4])).flatmap(
    lambda lead: st.lists(st.integers(2, 4), min_size=0, max_size=4).map(lambda sizes: (*lead, *sizes))
)
ONE = st.just(1)
AXES = ["", "axis: 0", "axis: 1", "axis: -1"]
WINDOW = [
    ["kernel_size: 1", "kernel_size: 2", "kernel_size: 3", "kernel_h: 2 kernel_w: 1", ""],
    ["", "stride: 2", "stride: 3", "stride_h: 2 stride_w: 1"],
    ["", "pad: 1", "pad_h: 1 pad_w: 0"],
]
NORMALISERS = [
    ["", "ignore_label: 0"],
    ["", "normalization: FULL", "normalization: VALID", "normalization: BATCH_SIZE", "normalization: NONE"],
    ["", "normalize: true", "normalize: false"],
]
RECURRENT = {"recurrent_param": [["num_output: 1", "num_output: 2"], ["", "expose_hidden: true"]]}


@dataclass(frozen=True)
class Kind:
    """What is drawn for a layer type.

    shapes: of the bottoms. options: by message, groups of which one text each is taken. tops: how many are drawn.
    indices: by bottom, how many values it takes, whole numbers from 0. in_place: whether that is drawn too.
    """

    shapes: st.SearchStrategy[tuple[Shape, ...]]
    options: dict[str, list[list[str]]] = field(default_factory=dict)
    tops: st.SearchStrategy[int] = ONE
    indices: dict[int, int] = field(default_factory=dict)
    in_place: bool = False
    phases: tuple[int, ...] = (TEST,)


def alone(shape: st.SearchStrategy[Shape]) -> st.SearchStrategy[tuple[Shape, ...]]:
    """One bottom."""
    return shape.map(lambda one: (one,))


def alike(shape: st.SearchStrategy[Shape], least: int, most: int) -> st.SearchStrategy[tuple[Shape, ...]]:
    """Several bottoms of one shape."""
    return st.tuples(shape, st.integers(least, most)).map(lambda drawn: (drawn[0],) * drawn[1])


def neuron(**options: list[list[str]]) -> Kind:
    """An element-wise layer."""
    return Kind(alone(ANY), options, in_place=True)


def labelled(shape: st.SearchStrategy[Shape], more: tuple[Shape, ...] = ()) -> st.SearchStrategy[tuple[Shape, ...]]:
    """Scores with their classes along axis 1, and one label for each position."""
    return shape.map(lambda one: (one, (*one[:1], 1, *one[2:]), *more))


def recurrent(states: int) -> Kind:
    """x over time, where it goes on, and perhaps a static input and states."""

    def bottoms(drawn: tuple[int, int, int, bool, int, int]) -> tuple[Shape, ...]:
        steps, streams, values, static, exposed, size = drawn
        return (
            (steps, streams, values),
            (steps, streams),
            *([(streams, 2)] if static else []),
            *([(1, streams, size)] * exposed),
        )

    shapes = st.tuples(SIZES, SIZES, SIZES, st.booleans(), st.sampled_from([0, states]), st.integers(1, 2))
    return Kind(shapes.map(bottoms), RECURRENT, tops=st.sampled_from([1, 1 + states]), indices={1: 2})


CONVOLUTION = {
    "convolution_param": [
        *WINDOW,
        ["num_output: 2", "num_output: 4"],
        ["", "dilation: 2", "dilation: 0"],
        ["", "group: 2"],
        ["", "bias_term: false"],
        ["", "axis: 1", "axis: 2", "axis: -2"],
    ]
}
SCORES = {"multi_stage_meanfield_param": [["num_iterations: 2", "num_iterations: 3", ""], ["", "theta_beta: 0.5"]]}
REGIONS = st.tuples(
    st.tuples(st.just(2), st.just(4), st.integers(2, 5), st.integers(2, 5)), st.tuples(SIZES, st.just(5))
)
CLASSES = st.lists(SIZES, min_size=1, max_size=3).map(lambda sizes: (sizes[0], 3, *sizes[1:]))

KINDS: dict[str, Kind] = {
    "AbsVal": Kind(alone(ANY)),
    "Accuracy": Kind(
        labelled(CLASSES),
        {"accuracy_param": [["", "top_k: 2", "top_k: 0", "top_k: 4"], ["", "ignore_label: 1"]]},
        st.integers(1, 2),
        {1: 3},
    ),
    "ArgMax": Kind(alone(ANY), {"argmax_param": [AXES, ["", "top_k: 2"], ["", "out_max_val: true"]]}),
    "AutoCrop": Kind(
        IMAGES.map(lambda shape: (tuple(size + 2 for size in shape), shape)),
        {"crop_param": [["offset: 1", "offset: 2", "offset: 1 offset: 0", "offset: 3"]]},
    ),
    "Axpy": Kind(IMAGES.map(lambda shape: (shape[:2], shape, shape))),
    "BN": Kind(
        alone(IMAGES),
        {"bn_param": [["scale_filler { value: 1 }", "bn_mode: INFERENCE", "frozen: true", "frozen: true eps: 0.1"]]},
        in_place=True,
        phases=(TEST, TRAIN),
    ),
    "BNLL": neuron(),
    "BatchNorm": Kind(
        alone(ANY),
        {
            "batch_norm_param": [
                ["", "use_global_stats: true", "use_global_stats: false"],
                ["", "eps: 0.1"],
                ["", "moving_average_fraction: 0.5"],
            ]
        },
        in_place=True,
        phases=(TEST, TRAIN),
    ),
    "BatchReindex": Kind(ANY.flatmap(lambda one: SIZES.map(lambda count: (one, (count,)))), indices={1: 1}),
    "Bias": Kind(alone(ANY), {"bias_param": [AXES, ["", "num_axes: 0", "num_axes: 2", "num_axes: -1"]]}, in_place=True),
    "BorderCopy": Kind(
        alone(st.tuples(SIZES, SIZES, st.integers(4, 6), st.integers(4, 6))),
        {
            "border_copy_param": [
                ["start: 0", "start: 1", "start: 0 start: 2"],
                ["end: 0", "end: 1 end: 0"],
                ["copies: 0", "copies: 1", "copies: 3 copies: 1"],
            ]
        },
    ),
    "Clip": neuron(clip_param=[["min: -0.5", "min: 0.2"], ["max: 0.7", "max: 0", ""]]),
    "Concat": Kind(alike(ANY, 1, 3), {"concat_param": [[*AXES, "concat_dim: 1"]]}),
    "ContrastiveLoss": Kind(
        st.tuples(SIZES, SIZES).map(lambda shape: (shape, shape, shape[:1])),
        {"contrastive_loss_param": [["", "margin: 4"], ["", "legacy_version: true"]]},
        indices={2: 2},
    ),
    "Convolution": Kind(alone(SPATIAL), CONVOLUTION),
    "ConvolutionDepthwise": Kind(
        alone(IMAGES), {"convolution_param": [*WINDOW, ["", "dilation: 2"], ["", "bias_term: false"]]}
    ),
    "Crop": Kind(
        ANY.map(lambda shape: (tuple(size + 2 for size in shape), shape)),
        {"crop_param": [AXES, ["", "offset: 1", "offset: 2", "offset: 1 offset: 0"]]},
    ),
    "Deconvolution": Kind(alone(SPATIAL), CONVOLUTION),
    "DetectionOutput": Kind(
        st.just(((2, 8), (2, 4), (1, 2, 8))),
        {
            "detection_output_param": [
                ["num_classes: 2", ""],
                ["", "confidence_threshold: 0.3", "confidence_threshold: 9"],
                ["", "code_type: CENTER_SIZE", "share_location: false"],
                ["", "keep_top_k: 1"],
            ]
        },
    ),
    "DepthwiseConvolution": Kind(alone(SPATIAL), CONVOLUTION),
    "Dropout": neuron(dropout_param=[["", "dropout_ratio: 0.3", "dropout_ratio: 1"]]),
    "ELU": neuron(elu_param=[["", "alpha: 0.3", "alpha: -0.5"]]),
    "Eltwise": Kind(
        alike(ANY, 2, 3),
        {
            "eltwise_param": [
                ["", "operation: PROD", "operation: MAX"],
                ["", "coeff: 2 coeff: -1"],
                ["", "stable_prod_grad: false"],
            ]
        },
        in_place=True,
    ),
    "Embed": Kind(
        alone(ANY), {"embed_param": [["num_output: 2"], ["input_dim: 3"], ["", "bias_term: false"]]}, indices={0: 3}
    ),
    "EuclideanLoss": Kind(alike(ANY, 2, 2)),
    "Exp": neuron(exp_param=[["", "base: 2"], ["", "scale: 0.5", "scale: 0"], ["", "shift: 1"]]),
    "Filter": Kind(alike(ANY, 1, 2).map(lambda many: (*many, many[0][:1])), tops=st.integers(1, 2)),
    "Flatten": Kind(alone(ANY), {"flatten_param": [AXES, ["", "end_axis: 0", "end_axis: -2"]]}),
    "HingeLoss": Kind(
        CLASSES.map(lambda shape: (shape, shape[:1])), {"hinge_loss_param": [["", "norm: L2"]]}, indices={1: 3}
    ),
    "Im2col": Kind(
        alone(SPATIAL), {"convolution_param": [*WINDOW, ["", "dilation: 2", "dilation: 0"], ["", "axis: 2"]]}
    ),
    "InfogainLoss": Kind(
        labelled(CLASSES, ((1, 1, 3, 3),)),
        {"loss_param": NORMALISERS[:2], "infogain_loss_param": [["", "axis: 1"]]},
        indices={1: 3},
    ),
    "InnerProduct": Kind(
        alone(ANY),
        {"inner_product_param": [["num_output: 2"], AXES, ["", "transpose: true"], ["", "bias_term: false"]]},
    ),
    "Interp": Kind(
        alone(IMAGES),
        {
            "interp_param": [
                ["", "height: 3 width: 5", "height: 1 width: 2"],
                ["", "zoom_factor: 2", "shrink_factor: 2", "shrink_factor: 2 zoom_factor: 3"],
                ["", "pad_beg: -1", "pad_end: -1"],
            ]
        },
    ),
    "LRN": Kind(
        alone(IMAGES),
        {
            "lrn_param": [
                ["", "local_size: 1", "local_size: 3"],
                ["", "alpha: 0.5"],
                ["", "beta: -0.5"],
                ["", "norm_region: WITHIN_CHANNEL"],
                ["", "k: 2"],
            ]
        },
        in_place=True,
    ),
    "LSTM": recurrent(2),
    "Log": neuron(log_param=[["", "base: 2"], ["scale: 0.1", "scale: 0"], ["shift: 5"]]),
    "MVN": Kind(
        alone(ANY),
        {"mvn_param": [["", "normalize_variance: false"], ["", "across_channels: true"], ["", "eps: 1e-05"]]},
        in_place=True,
    ),
    "MultiStageMeanfield": Kind(IMAGES.map(lambda one: (one, one, (one[0], 3, *one[2:]))), SCORES),
    "MultinomialLogisticLoss": Kind(CLASSES.map(lambda shape: (shape, shape[:1])), indices={1: 3}),
    "PReLU": neuron(prelu_param=[["", "channel_shared: true"]]),
    "Normalize": Kind(alone(ANY), {"norm_param": [["", "across_spatial: false"], ["", "eps: 0.1"]]}),
    "PSROIPooling": Kind(
        REGIONS,
        {"psroi_pooling_param": [["spatial_scale: 1", "spatial_scale: 0.7"], ["output_dim: 1"], ["group_size: 2", ""]]},
        indices={1: 2},
    ),
    "Permute": Kind(alone(ANY), {"permute_param": [["", "order: 0", "order: 1 order: 0", "order: 2"]]}),
    "Padding": Kind(alone(IMAGES), {"padding_param": [["", "pad_beg: 1", "pad_end: 2", "pad_beg: -1"]]}),
    "Pooling": Kind(
        alone(IMAGES),
        {
            "pooling_param": [
                *WINDOW,
                ["", "pool: AVE", "pool: STOCHASTIC"],
                ["", "global_pooling: true"],
                ["", "round_mode: FLOOR"],
            ]
        },
    ),
    "Power": neuron(
        power_param=[["", "power: 2", "power: 0", "power: 3"], ["", "scale: 0.5", "scale: 0"], ["", "shift: 4"]]
    ),
    "RNN": recurrent(1),
    "PriorBox": Kind(
        IMAGES.map(lambda one: (one, (1, 3, 20, 30))),
        {
            "prior_box_param": [
                ["min_size: 4", "min_size: 4.5 max_size: 7", ""],
                ["", "aspect_ratio: 2"],
                ["", "clip: true"],
            ]
        },
    ),
    "ROIPooling": Kind(
        REGIONS, {"roi_pooling_param": [["pooled_h: 2", "pooled_h: 1", ""], ["pooled_w: 2"]]}, indices={1: 2}
    ),
    "ReLU": neuron(relu_param=[["", "negative_slope: 0.2", "negative_slope: -0.5"]]),
    "ReLU6": neuron(relu6_param=[["", "negative_slope: 0.2"]]),
    "Reduction": Kind(
        alone(ANY),
        {"reduction_param": [AXES, ["", "operation: ASUM", "operation: SUMSQ", "operation: MEAN"], ["", "coeff: -2"]]},
    ),
    "Reshape": Kind(
        alone(ANY),
        {"reshape_param": [["shape { dim: 0 dim: -1 }", "shape { dim: -1 }", "shape { }"], AXES, ["", "num_axes: 1"]]},
    ),
    "SPP": Kind(alone(IMAGES), {"spp_param": [["pyramid_height: 1", "pyramid_height: 2"], ["", "pool: AVE"]]}),
    "Scale": Kind(
        alone(ANY),
        {"scale_param": [AXES, ["", "num_axes: 0", "num_axes: 2", "num_axes: -1"], ["", "bias_term: true"]]},
        in_place=True,
    ),
    "SegAccuracy": Kind(
        IMAGES.map(lambda shape: ((shape[0], 3, *shape[2:]), (shape[0], 1, *shape[2:]))),
        {"seg_accuracy_param": [["", "ignore_label: 1", "ignore_label: [0, 1]"]]},
        indices={1: 2},
    ),
    "ShuffleChannel": Kind(alone(IMAGES), {"shuffle_channel_param": [["", "group: 2"]]}),
    "Sigmoid": neuron(),
    "SigmoidCrossEntropyBalanceLoss": Kind(alike(ANY, 2, 2), indices={1: 2}),
    "SigmoidCrossEntropyLoss": Kind(alike(ANY, 2, 2), {"loss_param": NORMALISERS}, indices={1: 2}),
    "Slice": Kind(alone(ANY), {"slice_param": [[*AXES, "slice_dim: 1"], ["", "slice_point: 1"]]}, st.integers(1, 3)),
    "SmoothL1Loss": Kind(
        st.one_of(alike(st.tuples(SIZES, SIZES), 2, 2), alike(IMAGES, 4, 4)),
        {"smooth_l1_loss_param": [["", "sigma: 2"]]},
    ),
    "Softmax": Kind(alone(ANY), {"softmax_param": [AXES]}, in_place=True),
    "SoftmaxWithLoss": Kind(
        labelled(CLASSES), {"loss_param": NORMALISERS, "softmax_param": [["", "axis: 1"]]}, indices={1: 3}
    ),
    "Swish": neuron(swish_param=[["", "beta: 2"]]),
    "TanH": neuron(),
    "Threshold": neuron(threshold_param=[["", "threshold: 0.3"]]),
    "Tile": Kind(alone(ANY), {"tile_param": [AXES, ["tiles: 1", "tiles: 3"]]}),
    "Unpooling": Kind(
        alone(IMAGES),
        {
            "unpooling_param": [
                ["unpool: MAX", "unpool: AVE"],
                ["kernel_size: 2", "kernel_size: 3", ""],
                ["stride: 2", ""],
                ["unpool_size: 5", "unpool_h: 3 unpool_w: 6"],
            ]
        },
    ),
    "Upsample": Kind(alone(IMAGES), {"upsample_param": [["scale: 2", "scale: 3", ""]]}),
}
WITHOUT_NUMBERS = {"Parameter", "Silence", "Split"}  # nothing to draw


@dataclass
class Drawn:
    """A net of one layer `l` whose differentiable bottoms are learned through a Scale, with a loss on every top."""

    text: str
    phase: int
    bottoms: dict[str, Tensor]
    in_place: bool
    learned: tuple[str, ...]  # bottoms with a gradient


def draw_layer(data: st.DataObject, type: str) -> Drawn:
    """Draw a layer of a type: its bottoms' shapes and values, its options, its tops."""
    kind, cls = KINDS[type], REGISTRY[type]
    shapes = data.draw(kind.shapes)
    options = " ".join(
        f"{message} {{ {' '.join(data.draw(st.sampled_from(group)) for group in groups)} }}"
        for message, groups in kind.options.items()
    )
    tops = [f"y{i}" for i in range(data.draw(kind.tops))]
    in_place = kind.in_place and data.draw(st.booleans())
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    # Caffe has no gradient through the states at a recurrent layer's ends.
    states = len(getattr(cls, "states", ())) if "expose_hidden" in options else 0
    closed = states or (1 if type == "Filter" else 0)
    blocked = {*cls.undifferentiable, *kind.indices, *range(len(shapes) - closed, len(shapes))}
    lines, bottoms, names = [], {}, []
    for position, shape in enumerate(shapes):
        count = kind.indices.get(position)
        if count is not None:
            values = torch.randint(0, count, shape, generator=generator).float()
        elif type == "Filter" and position == len(shapes) - 1:
            values = torch.ones(shape)
            values[1:] = torch.randint(0, 2, values[1:].shape, generator=generator).float()
        else:
            values = torch.randn(shape, generator=generator)
            values = values.abs() + 0.1 if type in ("MultinomialLogisticLoss", "Pooling") else values
        sizes = " ".join(f"dim: {size}" for size in shape)
        bottoms[f"x{position}"] = values
        lines.append(
            f'layer {{ name: "x{position}" type: "Input" top: "x{position}" input_param {{ shape {{ {sizes} }} }} }}'
        )
        if position not in blocked:
            lines.append(
                f'layer {{ name: "s{position}" type: "Scale" bottom: "x{position}" top: "z{position}" '
                "scale_param { axis: 0 num_axes: 0 } }"
            )
        names.append(f"{'x' if position in blocked else 'z'}{position}")
    if in_place:
        tops[0] = names[0]
    listed = " ".join([*(f'bottom: "{name}"' for name in names), *(f'top: "{top}"' for top in tops)])
    lines.append(f'layer {{ name: "l" type: "{type}" {listed} {options} }}')
    if not cls.loss:
        lines += [
            f'layer {{ name: "q{i}" type: "Power" bottom: "{top}" top: "r{i}" loss_weight: {1 + i} '
            "power_param { power: 2 scale: 0.7 } }"
            for i, top in enumerate(tops[:1] if states else tops)
            if type not in ("Accuracy", "ArgMax", "SegAccuracy", "Threshold")
        ]
    learned = tuple(f"x{i}" for i in range(len(shapes)) if i not in blocked)
    return Drawn("\n".join(lines), data.draw(st.sampled_from(kind.phases)), bottoms, in_place, learned)


def fill(net: Net) -> None:
    """Give the layer's parameters numbers; a BatchNorm's are positive."""
    layer = net.layer("l")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for blob in layer.blobs:
            blob.copy_(torch.randn(blob.shape, generator=generator) * 0.5)
            if layer.layer_type in ("BN", "BatchNorm"):
                blob.abs_().add_(0.5)


def run_core(net: Net, bottoms: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted loss, and every output."""
    layer = net.layer("l")
    if hasattr(layer, "reset"):
        layer.reset()
    out = net(bottoms, keep=tuple(net.loss_weights))
    total = sum((weight * out[name].sum() for name, weight in net.loss_weights.items()), torch.zeros(()))
    return total, out


def close(ours: object, theirs: object, tolerance: float = 1e-4) -> None:
    """Compare to a share of the largest number."""
    a, b = (torch.as_tensor(values, dtype=torch.float64).detach() for values in (ours, theirs))
    largest = float(b[b.isfinite()].abs().max()) if b[b.isfinite()].numel() else 1.0
    torch.testing.assert_close(a, b, atol=tolerance * max(largest, 0.1), rtol=0, equal_nan=True)


def check_gradients(drawn: Drawn, param: caffe_pb2.NetParameter) -> None:
    """Central differences along a random direction, in float64."""
    net = Net(param, drawn.phase).double()
    fill(net)
    layer = net.layer("l")
    leaves = {name: value.double().requires_grad_(name in drawn.learned) for name, value in drawn.bottoms.items()}
    wanted = [*(leaves[name] for name in drawn.learned), *(blob for blob in layer.blobs if blob.requires_grad)]
    total, _ = run_core(net, leaves)
    if not total.requires_grad or not total.isfinite():
        return
    gradients = torch.autograd.grad(total, wanted, allow_unused=True)
    generator = torch.Generator().manual_seed(6)
    ways = [torch.randn(leaf.shape, generator=generator, dtype=torch.float64) for leaf in wanted]
    slope = sum(float((g * way).sum()) for g, way in zip(gradients, ways, strict=True) if g is not None)
    step, ends = 1e-6, []
    with torch.no_grad():
        for sign in (1, -1):
            for leaf, way in zip(wanted, ways, strict=True):
                leaf.add_(way, alpha=sign * step)
            ends.append(float(run_core(net, leaves)[0]))
            for leaf, way in zip(wanted, ways, strict=True):
                leaf.sub_(way, alpha=sign * step)
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-3, abs=2e-3)


def check_face(drawn: Drawn, core: Net, folder: Path) -> None:
    """The face has the core's tops, and its gradients where the layer is not in place."""
    (folder / "net.prototxt").write_text(drawn.text)
    net = caffe.Net(str(folder / "net.prototxt"), drawn.phase)
    for index, blob in enumerate(core.layer("l").blobs):
        net.params["l"][index].data[...] = blob.detach().numpy()
    leaves = {name: value.clone().requires_grad_(name in drawn.learned) for name, value in drawn.bottoms.items()}
    for name, value in leaves.items():
        net.blobs[name].data[...] = value.detach().numpy()
    total, out = run_core(core, leaves)
    close(net._forward(0, len(net.layers) - 1), total)
    for name in net.outputs:
        close(np.array(net.blobs[name].data), out[name])
    if drawn.in_place or not total.requires_grad:
        return  # in place gradients are Caffe's in the face alone
    blobs = [blob for blob in core.layer("l").blobs if blob.requires_grad]
    gradients = torch.autograd.grad(total, [*(leaves[name] for name in drawn.learned), *blobs], allow_unused=True)
    net._backward(len(net.layers) - 1, 0)
    faces = [net.blobs[f"z{name[1:]}"].diff for name in drawn.learned]
    learned = [index for index, blob in enumerate(core.layer("l").blobs) if blob.requires_grad]
    faces += [net.params["l"][index].diff for index in learned]
    for ours, theirs in zip(faces, gradients, strict=True):
        close(np.array(ours), torch.zeros(ours.shape) if theirs is None else theirs)


def test_every_type_is_drawn() -> None:
    assert sorted(chain(KINDS, WITHOUT_NUMBERS, OUTSIDE)) == known_types()


@pytest.mark.parametrize("type", KINDS)
@settings(
    derandomize=True,
    max_examples=8,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_drawn_layers(type: str, data: st.DataObject, tmp_path: Path) -> None:
    drawn = draw_layer(data, type)
    try:
        param = parse_text(drawn.text, caffe_pb2.NetParameter)
        net = Net(param, drawn.phase)
    except FcnCaffeError:
        (tmp_path / "net.prototxt").write_text(drawn.text)
        with pytest.raises(FcnCaffeError):
            caffe.Net(str(tmp_path / "net.prototxt"), drawn.phase)
        return
    fill(net)
    double = Net(param, drawn.phase).double()
    fill(double)
    with torch.no_grad():
        _, single = run_core(net, drawn.bottoms)
        _, precise = run_core(double, {name: value.double() for name, value in drawn.bottoms.items()})
    for name in net.graph.outputs:
        close(single[name], precise[name])
    fill(net)
    check_face(drawn, net, tmp_path)
    check_gradients(drawn, param)
