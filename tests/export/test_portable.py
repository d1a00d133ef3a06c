"""Nets in arithmetic that every engine has: the same numbers as before, and what cannot be exported is named."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from helpers import input_layer, layer, make_net, randomise
from oracle import arrays, assert_close, cases, load

from fcn_caffe import TEST, TRAIN, LayerError, Net
from fcn_caffe.export.portable import make_portable, refuse_unexportable
from fcn_caffe.proto import caffe_pb2, parse_text

DATA = load("layers")


@pytest.mark.parametrize("case", [case for case in cases("layers") if str(DATA[f"{case}/phase"]) == "TEST"])
def test_equals_caffe(case: str) -> None:
    net = Net(parse_text(str(DATA[f"{case}/prototxt"]), caffe_pb2.NetParameter), TEST)
    with torch.no_grad():
        for blob, value in zip(net.layer("l").blobs, arrays(DATA, f"{case}/param"), strict=True):
            blob.copy_(torch.from_numpy(value))
    fed = dict(zip(net.graph.inputs, arrays(DATA, f"{case}/bottom"), strict=True))
    node = next(node for node in net.graph.nodes if node.name == "l")
    blobs = make_portable(net)({name: torch.from_numpy(value) for name, value in fed.items()}, keep=node.tops)
    for top, expected in zip(node.tops, arrays(DATA, f"{case}/top"), strict=False):
        assert_close(blobs[top], expected, 1e-5, f"{case} {top}")


@pytest.mark.parametrize("kind", ["MAX", "AVE", "STOCHASTIC", "MASK"])
def test_pools_of_every_geometry(kind: str) -> None:
    """One portable layer for all sizes: windows that start past the image, strides above the kernel, both roundings."""
    tried = 0
    for kernel, stride, pad, rounding in product((1, 2, 3), (1, 2, 3), (0, 1, 2), ("CEIL", "FLOOR")):
        if pad >= kernel or (pad and kind == "STOCHASTIC"):
            continue
        pool = "MAX" if kind == "MASK" else kind
        options = f"pool: {pool} kernel_size: {kernel} stride: {stride} pad: {pad} round_mode: {rounding}"
        tops = "p mask" if kind == "MASK" else "p"
        net = make_net(input_layer("x", 1, 2, 6, 7), layer("p", "Pooling", "x", tops, f"pooling_param {{ {options} }}"))
        portable = make_portable(net)
        for height, width in product(range(kernel, 8), (4, 5, 6)):
            x = torch.rand(2, 2, height, width) + 0.1
            expected = net(x=x)
            blobs = portable(x=x)
            for name, blob in expected.items():
                known = ~blob.isnan()  # a window without a place in image or pad has the average 0 / 0 in Caffe
                torch.testing.assert_close(blobs[name][known], blob[known], msg=lambda text, o=options: f"{o}: {text}")
                tried += 1
    assert tried > 100


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_pyramids_of_every_size(pool: str) -> None:
    net = make_net(
        input_layer("x", 1, 2, 9, 9), layer("s", "SPP", "x", more=f"spp_param {{ pyramid_height: 3 pool: {pool} }}")
    )
    portable = make_portable(net)
    for height, width in product(range(7, 14), (9, 12)):
        if height != 9:  # of which some bins would be empty in Caffe
            x = torch.randn(2, 2, height, width)
            torch.testing.assert_close(portable(x=x), net(x=x), msg=f"{height}x{width}")


def test_deconvolutions_are_cut_after_all_is_spread() -> None:
    options = "num_output: 4 kernel_h: 4 kernel_w: 3 stride: 2 pad_h: 2 pad_w: 1 group: 2 dilation: 2"
    net = make_net(
        input_layer("x", 2, 2, 5, 6), layer("d", "Deconvolution", "x", more=f"convolution_param {{ {options} }}")
    )
    randomise(net)
    x = torch.randn(3, 2, 4, 7)
    torch.testing.assert_close(make_portable(net)(x=x), net(x=x))


def test_a_layer_that_no_file_holds_is_named() -> None:
    net = make_net(
        input_layer("x", 1, 3, 8, 8),
        input_layer("rois", 1, 5),
        layer("pool", "ROIPooling", "x rois", more="roi_pooling_param { pooled_h: 2 pooled_w: 2 }"),
    )
    with pytest.raises(LayerError, match=r"exported as onnx: layer 'pool' \(ROIPooling\): which tables"):
        refuse_unexportable(net, "onnx")
    sampling = "dropout_param { sample_weights_test: true }"
    with pytest.raises(LayerError, match=r"\(Dropout\): sample_weights_test draws random numbers"):
        refuse_unexportable(make_net(input_layer("x", 1, 3), layer("y", "Dropout", "x", more=sampling)), "pt2")
    refuse_unexportable(make_net(input_layer("x", 1, 3, 8, 8), layer("y", "ReLU", "x")), "onnx")


def test_the_mode_stays() -> None:
    options = "pooling_param { kernel_size: 2 pool: STOCHASTIC }"
    net = make_net(input_layer("x", 1, 3, 8, 8), layer("y", "Pooling", "x", more=options), phase=TRAIN)
    assert make_portable(net).steps[1].layer.training
    assert not make_portable(net.eval()).steps[1].layer.training


def test_the_largest_of_single_values_is_the_first() -> None:
    options = "argmax_param { out_max_val: true }"
    net = make_net(input_layer("x", 4), layer("most", "ArgMax", "x", more=options))
    x = torch.tensor([3.0, -1.0, 0.5, 2.0])
    torch.testing.assert_close(make_portable(net)(x=x)["most"], torch.stack((torch.zeros(4), x), 1)[..., None])
