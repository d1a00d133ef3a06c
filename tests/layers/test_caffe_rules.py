"""What Caffe runs at the edges of its checks, with the numbers that follow from its rules."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from helpers import randomise
from test_layer_rules import give, one_layer
from torch import Tensor

from fcn_caffe import TRAIN, LayerError
from fcn_caffe.layers.fillers import fill
from fcn_caffe.proto import caffe_pb2

# -- convolution ---------------------------------------------------------------------------------------------------


def convolution_by_loops(
    x: Tensor, weight: Tensor, stride: int, pad: int, dilation: int, sizes: tuple[int, ...]
) -> Tensor:
    """The sum over channels and taps, one output after another; what lies outside of the bottom is 0."""
    top = np.zeros((x.shape[0], weight.shape[0], *sizes), np.float32)
    for n, o in np.ndindex(*top.shape[:2]):
        for place in np.ndindex(*sizes):
            for c, tap in product(range(x.shape[1]), np.ndindex(*weight.shape[2:])):
                at = tuple(p * stride + t * dilation - pad for p, t in zip(place, tap, strict=True))
                if all(0 <= a < size for a, size in zip(at, x.shape[2:], strict=True)):
                    top[(n, o, *place)] += float(x[(n, c, *at)]) * float(weight[(o, c, *tap)])
    return torch.from_numpy(top)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "pad", "dilation", "sizes"),
    [
        ((2, 2, 2, 4), 3, 2, 0, 1, (1, 1)),  # (2 - 3) / 2 is 0 in C++
        ((1, 2, 3), 5, 3, 0, 1, (1,)),
        ((1, 1, 2, 2, 2, 3), 2, 1, 1, 1, (3, 3, 3, 4)),
        ((1, 2, 3, 3), 2, 1, 0, 0, (3, 3)),  # every tap reads the same element
        ((2, 3), 1, 1, 0, 1, ()),
    ],
)
def test_convolutions_at_the_edges(
    shape: tuple[int, ...], kernel: int, stride: int, pad: int, dilation: int, sizes: tuple[int, ...]
) -> None:
    options = f"kernel_size: {kernel} stride: {stride} pad: {pad} dilation: {dilation}"
    net = one_layer("Convolution", shape, options=f"convolution_param {{ num_output: 2 {options} }}")
    weight, bias = net.layer("l").blobs
    with torch.no_grad():
        weight.normal_()
        bias.normal_()
    x = torch.randn(shape, requires_grad=True)
    top = give(net, x)
    expected = convolution_by_loops(x.detach(), weight.detach(), stride, pad, dilation, sizes)
    expected += bias.detach().reshape(-1, *(1,) * len(sizes))
    torch.testing.assert_close(top.detach(), expected, atol=1e-5, rtol=1e-5)
    top.square().sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape and weight.grad is not None and weight.grad.any()


@pytest.mark.parametrize(("shape", "group"), [((1, 2, 2, 2, 2, 3), 1), ((2, 4), 2), ((1, 2, 2, 2, 1, 2), 2)])
def test_a_deconvolution_is_the_transpose_of_its_convolution(shape: tuple[int, ...], group: int) -> None:
    options = f"kernel_size: 3 stride: 2 pad: 1 group: {group} bias_term: false"
    up = one_layer("Deconvolution", shape, options=f"convolution_param {{ num_output: 4 {options} }}")
    x = torch.randn(shape)
    down_shape = up.blob_shapes["l"]
    down = one_layer("Convolution", down_shape, options=f"convolution_param {{ num_output: {shape[1]} {options} }}")
    with torch.no_grad():
        up.layer("l").blobs[0].normal_()
        down.layer("l").blobs[0].copy_(up.layer("l").blobs[0])
    y = torch.randn(down_shape)
    torch.testing.assert_close((give(up, x) * y).sum(), (give(down, y) * x).sum(), atol=1e-4, rtol=1e-4)


def test_im2col_of_a_small_input_and_of_dilation_0() -> None:
    columns = give(
        one_layer("Im2col", (1, 1, 2, 4), options="convolution_param { kernel_size: 3 stride: 2 }"),
        torch.arange(8.0).reshape(1, 1, 2, 4),
    )
    assert columns.flatten().tolist() == [0, 1, 2, 4, 5, 6, 0, 0, 0]
    net = one_layer("Im2col", (1, 1, 3), options="convolution_param { kernel_size: 2 dilation: 0 }")
    assert give(net, torch.tensor([[[1.0, 2, 3]]])).tolist() == [[[1, 2, 3], [1, 2, 3]]]


@pytest.mark.parametrize(
    ("type", "shapes", "options", "top", "message"),
    [
        ("Convolution", [(1, 1, 3, 3), (1, 1, 4, 4)], "num_output: 1 kernel_size: 2", "l m", "must have one shape"),
        ("Convolution", [(1, 1, 3, 3)], "num_output: 1 kernel_size: 6 stride: 3", "l", "too small"),
        ("Im2col", [(2, 3)], "kernel_size: 1", "l", "none are left"),
        ("Convolution", [(1, 1, 3, 3)], "num_output: 1 kernel_size: 1", "x0", "does not allow in-place"),
    ],
)
def test_convolutions_that_caffe_refuses(
    type: str, shapes: list[tuple[int, ...]], options: str, top: str, message: str
) -> None:
    with pytest.raises(LayerError, match=message):
        one_layer(type, *shapes, options=f"convolution_param {{ {options} }}", top=top)


# -- shapes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "top"), [((4,), (4, 1, 1, 1)), ((2, 3), (2, 3, 1, 1)), ((2, 3, 4), (2, 3, 4, 1)), ((2, 3, 4, 5),) * 2]
)
def test_mvn_gives_four_axes(shape: tuple[int, ...], top: tuple[int, ...]) -> None:
    net = one_layer("MVN", shape)
    x = torch.randn(shape, requires_grad=True)
    y = give(net, x)
    assert net.blob_shapes["l"] == tuple(y.shape) == top
    y.sum().backward()
    assert x.grad is not None and x.grad.shape == shape


def test_flatten_with_its_end_one_before_its_axis_puts_an_axis_in() -> None:
    net = one_layer("Flatten", (2, 3, 4), options="flatten_param { axis: 1 end_axis: 0 }")
    assert net.blob_shapes["l"] == (2, 1, 3, 4)
    assert give(net, torch.ones(2, 3, 4)).shape == (2, 1, 3, 4)
    with pytest.raises(LayerError, match="end_axis 0 comes before axis 2"):
        one_layer("Flatten", (2, 3, 4), options="flatten_param { axis: 2 end_axis: 0 }")


def test_crop_to_a_blob_with_more_axes() -> None:
    net = one_layer("Crop", (1, 3, 5), (1, 2, 4, 9), options="crop_param { axis: 1 offset: 1 }")
    assert give(net, torch.arange(15.0).reshape(1, 3, 5), torch.ones(1, 2, 4, 9)).tolist() == [
        [[6, 7, 8, 9], [11, 12, 13, 14]]
    ]
    with pytest.raises(LayerError, match="the second must have as many axes"):
        one_layer("Crop", (1, 3, 5), (1, 2), options="crop_param { axis: 1 }")


@pytest.mark.parametrize(
    ("options", "shape"),
    [("kernel_size: 2 kernel_h: 3", (1, 1, 3, 3)), ("kernel_h: 3 kernel_w: 1", (1, 1, 2, 4))],
)
def test_pooling_takes_kernel_size_beside_one_side(options: str, shape: tuple[int, ...]) -> None:
    net = one_layer("Pooling", (1, 1, 4, 4), options=f"pooling_param {{ {options} }}")
    assert net.blob_shapes["l"] == shape


@pytest.mark.parametrize(
    "options",
    [
        "kernel_size: 2 kernel_h: 3 kernel_w: 3",
        "kernel_h: 3",
        "",
        "kernel_size: 2 stride_h: 2",
        "kernel_size: 2 pad_w: 1",
    ],
)
def test_pooling_sizes_that_caffe_refuses(options: str) -> None:
    with pytest.raises(LayerError, match=r"give (kernel_size|stride|pad), or"):
        one_layer("Pooling", (1, 1, 4, 4), options=f"pooling_param {{ {options} }}")


def test_a_stride_beyond_what_pytorch_takes_is_that_of_one_window() -> None:
    """PyTorch's own gradient fails there."""
    x = torch.randn(2, 3, 4, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for stride in (7, 2**31):
        options = f"convolution_param {{ num_output: 2 kernel_size: 3 pad: 1 stride: {stride} }}"
        net = one_layer("Convolution", x.shape, options=options)
        randomise(net)
        top = give(net, bottom := x.clone().requires_grad_())
        top.sum().backward()
        found.append((top, bottom.grad, *(blob.grad for blob in net.params["l"])))
    for long, short in zip(*found, strict=True):
        torch.testing.assert_close(long, short)


def test_a_convolution_of_no_items_along_no_axes() -> None:
    net = one_layer("Convolution", (0, 3), options="convolution_param { num_output: 2 }")
    assert give(net, torch.ones(0, 3)).shape == (0, 2)


def test_a_uniform_filler_whose_ends_are_too_far_apart() -> None:
    with pytest.raises(LayerError, match=r"min -3e\+38 and max 3e\+38 are further apart than numbers go"):
        one_layer("PReLU", (1, 2), options='prelu_param { filler { type: "uniform" min: -3e38 max: 3e38 } }')


def test_a_scale_with_a_bias_checks_its_axis_though_the_scale_is_a_scalar() -> None:
    one_layer("Scale", (2, 3), (), options="scale_param { axis: 5 }")
    with pytest.raises(LayerError, match="axis 5 is out of range"):
        one_layer("Scale", (2, 3), (), options="scale_param { axis: 5 bias_term: true }")


def test_accuracy_of_none_at_the_top() -> None:
    net = one_layer("Accuracy", (1, 2), (1,), options="accuracy_param { top_k: 0 }")
    assert float(give(net, torch.tensor([[1.0, 0]]), torch.zeros(1))) == 0


# -- in place ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", [10, 2, 30]),  # the first is set to 0 before it is read
        ("coeff: 2 coeff: 3", [30, 6, 90]),
        ("operation: MAX", [10, 2, 30]),  # the first is -FLT_MAX by then
        ("operation: PROD", [10, 10, 90]),
    ],
)
def test_eltwise_in_place(options: str, expected: list[float]) -> None:
    net = one_layer("Eltwise", (3,), (3,), options=f"eltwise_param {{ {options} }}", top="x0")
    bottoms = {"x0": torch.tensor([1.0, 5, 3]), "x1": torch.tensor([10.0, 2, 30])}
    assert net(bottoms, keep=("x0",))["x0"].tolist() == expected


@pytest.mark.parametrize(("region", "power"), [("ACROSS_CHANNELS", 2), ("WITHIN_CHANNEL", 1)])
def test_lrn_in_place(region: str, power: int) -> None:
    options = f"lrn_param {{ local_size: 1 alpha: 1 beta: 0.5 norm_region: {region} }}"
    net = one_layer("LRN", (1, 1, 1, 1), options=options, top="x0")
    y = net({"x0": torch.full((1, 1, 1, 1), 3.0)}, keep=("x0",))["x0"].item()
    assert y == pytest.approx(10**-1 if power == 2 else 3 * 10**-0.5)


@pytest.mark.parametrize(
    ("type", "shapes", "options"),
    [
        ("InnerProduct", [(2, 2)], "inner_product_param { num_output: 2 }"),
        ("Pooling", [(1, 1, 2, 2)], "pooling_param { kernel_size: 1 }"),
        ("Tile", [(2, 2)], "tile_param { tiles: 1 }"),
        ("Reduction", [(2,)], ""),
        ("Concat", [(2, 2), (2, 2)], ""),
    ],
)
def test_layers_that_read_what_they_would_overwrite(type: str, shapes: list[tuple[int, ...]], options: str) -> None:
    with pytest.raises(LayerError, match=r"give the top its own name"):
        one_layer(type, *shapes, options=options, top="x0")


# -- values --------------------------------------------------------------------------------------------------------


def test_a_product_without_the_stable_gradient_divides() -> None:
    bottoms = [torch.tensor([0.0, 2], requires_grad=True), torch.tensor([3.0, 4], requires_grad=True)]
    net = one_layer("Eltwise", (2,), (2,), options="eltwise_param { operation: PROD stable_prod_grad: false }")
    give(net, *bottoms).sum().backward()
    slopes = [bottom.grad.tolist() if bottom.grad is not None else None for bottom in bottoms]
    assert slopes == [pytest.approx([torch.nan, 4], nan_ok=True), [0, 2]]


def test_batch_norm_without_eps_in_training() -> None:
    net = one_layer("BatchNorm", (3, 1), options="batch_norm_param { eps: 0 }", phase=TRAIN)
    y = give(net, torch.tensor([[1.0], [2], [6]]))
    assert y.flatten().tolist() == pytest.approx([-2 / 14**0.5 * 3**0.5, -1 / 14**0.5 * 3**0.5, 3 / 14**0.5 * 3**0.5])
    lone = one_layer("BatchNorm", (1, 2), options="batch_norm_param { eps: 0 }", phase=TRAIN)
    assert give(lone, torch.ones(1, 2)).isnan().all()


def test_batch_norm_of_no_values_keeps_its_statistics() -> None:
    net = one_layer("BatchNorm", (0, 2, 3), phase=TRAIN)
    assert give(net, torch.ones(0, 2, 3)).shape == (0, 2, 3)
    assert all((blob == 0).all() for blob in net.params["l"])


@pytest.mark.parametrize(("ratio", "message"), [("1.5", "got 1.5"), ("-0.5", "got -0.5")])
def test_dropout_ratios_that_are_no_probability(ratio: str, message: str) -> None:
    net = one_layer("Dropout", (2,), options=f"dropout_param {{ dropout_ratio: {ratio} }}", phase=TRAIN)
    with pytest.raises(LayerError, match=message):
        give(net, torch.ones(2))


def test_a_dropout_of_everything_gives_no_numbers_in_training() -> None:
    net = one_layer("Dropout", (2,), options="dropout_param { dropout_ratio: 1 }", phase=TRAIN)
    assert give(net, torch.ones(2)).isnan().all()


@pytest.mark.parametrize(
    ("filler", "message"),
    [
        ("type: 'constant' sparse: 1", "'constant' cannot be sparse"),
        ("type: 'xavier' sparse: 1", "'xavier' cannot be sparse"),
        ("type: 'gaussian' std: 0", "std must be above 0"),
        ("type: 'uniform' min: 1 max: 0", "min 1 is above its max 0"),
        ("type: 'gaussian' sparse: 3", "sparse 3 is more than the blob's 2 outputs"),
    ],
)
def test_fillers_that_caffe_refuses(filler: str, message: str) -> None:
    options = f"inner_product_param {{ num_output: 2 weight_filler {{ {filler} }} }}"
    with pytest.raises(LayerError, match=message):
        one_layer("InnerProduct", (1, 2), options=options)


def test_a_gaussian_filler_that_is_sparse_keeps_that_many_weights_an_output() -> None:
    blob = torch.empty(4, 1000)
    torch.manual_seed(0)
    fill(blob, caffe_pb2.FillerParameter(type="gaussian", sparse=1))
    assert 800 < int((blob != 0).sum()) < 1200  # each of 4000 with probability 1 / 4


@pytest.mark.parametrize(
    ("type", "options"),
    [
        ("Pooling", "pooling_param { kernel_size: 2 }"),
        ("ReLU", ""),
        ("ReLU", "relu_param { negative_slope: 0.5 }"),
        ("ELU", ""),
        ("PReLU", ""),
        ("ArgMax", ""),
        ("Convolution", "convolution_param { num_output: 2 kernel_size: 5 stride: 3 }"),
    ],
)
def test_forward_of_shapes_alone(type: str, options: str) -> None:
    net = one_layer(type, (1, 2, 4, 4), options=options)
    layer = net.layer("l").to("meta")
    layer.follows_caffe = True
    bottom = torch.empty(1, 2, 4, 4, device="meta", requires_grad=True)
    tops = layer(bottom)
    assert tuple((tops if isinstance(tops, Tensor) else tops[0]).shape) == net.blob_shapes["l"]
