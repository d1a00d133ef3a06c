"""Coordinate maps against the paper's numbers, against what the layers really do, and where there is none."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from helpers import input_layer, layer, make_net, net_param

from fcn_caffe import GraphError
from fcn_caffe.models import NETS
from fcn_caffe.models import make_net as reference_net
from fcn_caffe.net import net as net_module
from fcn_caffe.net.coord_map import coord_map_from_to, crop, crop_offset, receptive_field
from fcn_caffe.net.net_spec import NetSpec
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P
from fcn_caffe.weights.surgery import interp

# Table of reference-nets.md: the last deconvolution and the crop before the loss.
LAST = {"32s": 19, "16s": 27, "8s": 31}


@pytest.mark.parametrize("name", NETS)
def test_offsets_are_the_papers(name):
    net = reference_net(name)
    wanted = {}
    for crop_layer in net.layer:
        if crop_layer.type == "Crop":
            stem = crop_layer.name.removesuffix("_sem").removesuffix("_geo").replace("_semc", "c").replace("_geoc", "c")
            wanted[crop_layer.name] = {"score_pool4c": 5, "score_pool3c": 9}.get(stem)
    finest = next((number for size, number in LAST.items() if f"fcn{size}" in name), None)
    last = {"alexnet": 18, "googlenet": 16}.get(name.split("-")[-1], finest)
    wanted = {crop_name: number or last for crop_name, number in wanted.items()}
    assert wanted
    for crop_layer in net.layer:
        if crop_layer.type == "Crop":
            assert list(crop_layer.crop_param.offset) == [wanted[crop_layer.name]]
            assert crop_layer.crop_param.axis == 2
            assert crop_offset(net, *crop_layer.bottom) == [wanted[crop_layer.name]]  # from the finished net too


def test_receptive_fields_of_the_papers_table():
    for name, blob, size in (("voc-fcn-alexnet", "fc7", 355), ("voc-fcn32s", "fc7", 404)):
        field = receptive_field(reference_net(name), blob)
        assert (field.size, field.stride) == (size, 32)
    # The paper's 907 is the classifier's, with the average pooling that the FCN leaves out.
    net = reference_net("voc-fcn-googlenet")
    pool = net.layer.add(name="pool", type="Pooling", bottom=["inception_5b/output"], top=["pool"])
    pool.pooling_param.kernel_size, pool.pooling_param.stride, pool.pooling_param.pool = 7, 1, P.Pooling.AVE
    assert receptive_field(net, "pool").size == 907
    assert receptive_field(net, "pool", "data").stride == 32


WINDOWS = {
    "conv": ("Convolution", "convolution_param { num_output: 1 kernel_size: 5 stride: 2 pad: 1 }"),
    "dilated": ("Convolution", "convolution_param { num_output: 1 kernel_size: 3 dilation: 3 pad: 2 }"),
    "even": ("Convolution", "convolution_param { num_output: 1 kernel_size: 4 stride: 3 }"),
    "pool": ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 }"),
    "deconv": ("Deconvolution", "convolution_param { num_output: 1 kernel_size: 4 stride: 2 pad: 1 }"),
    "odd deconv": ("Deconvolution", "convolution_param { num_output: 1 kernel_size: 5 stride: 3 }"),
}


@pytest.mark.parametrize("first", WINDOWS)
@pytest.mark.parametrize("second", WINDOWS)
def test_maps_say_where_the_layers_look(first, second):
    """The gradient of one output pixel is centred where the map says, and as wide as the receptive field.

    Every kernel averages, and the upsampling is bilinear, which keeps straight lines straight: the centre is exact.
    """
    (type1, options1), (type2, options2) = WINDOWS[first], WINDOWS[second]
    text = input_layer("data", 1, 1, 96, 96) + layer("a", type1, "data", more=options1)
    text += layer("up", type2, "a", more=options2)
    net = make_net(text)
    with torch.no_grad():
        for blobs in net.params.values():
            blobs[0].fill_(1.0)
    interp(net, [node.name for node in net.graph.nodes if node.type == "Deconvolution"])
    found, field = coord_map_from_to(net_param(text), "up", "data"), receptive_field(net_param(text), "up")
    rows = torch.arange(96, dtype=torch.float32)
    widths = []
    middle = net.blob_shapes["up"][2] // 2
    for row in range(middle - 2, middle + 3):
        x = torch.zeros(1, 1, 96, 96, requires_grad=True)
        net(data=x)["up"][0, 0, row, row].backward()
        weight = x.grad[0, 0].sum(1)
        centre = (rows * weight).sum() / weight.sum()
        assert centre.item() == pytest.approx(float(found.scale[0] * row + found.offset[0]), abs=1e-4)
        seen = weight.nonzero()
        widths.append((seen.max() - seen.min()).item() + 1)
    # A stride after an upsampling may never start where a window covers most pixels.
    assert max(widths) <= field.size if "deconv" in first else max(widths) == field.size
    assert field.stride == found.scale[0]


def test_height_and_width_apart():
    options = "convolution_param { num_output: 1 kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 2 }"
    found = coord_map_from_to(
        net_param(input_layer("data", 1, 1, 9, 9), layer("a", "Convolution", "data", more=options)), "data", "a"
    )
    assert found.scale == (Fraction(1, 2), 1) and found.offset == (Fraction(-1, 2), 0)


def test_a_crop_made_from_tops_gets_its_axis_and_offset():
    n = NetSpec()
    n.data = L.Input(input_param={"shape": {"dim": [1, 1, 20, 20]}}, include={"phase": 0})
    n.conv = L.Convolution(n.data, num_output=1, kernel_size=5, pad=6, in_place=False)
    n.relu = L.ReLU(n.conv, in_place=True)
    n.score = crop(n.relu, n.data)
    assert n.to_proto().layer[3].crop_param == type(n.to_proto().layer[3].crop_param)(axis=2, offset=[4])
    assert "offset: 4" in str(n.to_proto())


def test_offsets_that_differ_by_axis_are_given_for_each():
    options = "convolution_param { num_output: 1 kernel_size: 3 pad_h: 2 pad_w: 4 }"
    net = net_param(input_layer("data", 1, 1, 9, 9), layer("a", "Convolution", "data", more=options))
    assert crop_offset(net, "a", "data") == [1, 3]


@pytest.mark.parametrize(
    ("options", "wanted"), [("axis: 2 offset: 3", (-3,)), ("axis: 1 offset: 0 offset: 3 offset: 4", (-3, -4)),
                            ("axis: 3 offset: 2", (0, -2)), ("axis: -1 offset: 2", (0, -2)), ("", (0,))]
)  # fmt: skip
def test_a_crop_moves_by_its_own_offset(options, wanted):
    net = net_param(
        input_layer("data", 1, 1, 9, 9),
        input_layer("small", 1, 1, 3, 3),
        layer("a", "Crop", "data small", more=f"crop_param {{ {options} }}"),
    )
    assert coord_map_from_to(net, "data", "a").offset == wanted


def test_few_crops_of_a_large_net_are_looked_at(monkeypatch):
    asked = []
    monkeypatch.setattr(net_module, "crop_offset", lambda graph, *blobs: asked.append(blobs) or [0])
    monkeypatch.setattr(net_module, "_MOST_WALKS", 100)
    make_net(input_layer("data", 1, 1, 9, 9), *(layer(f"c{index}", "Crop", "data data") for index in range(24)))
    assert len(asked) == 1 + 100 // 26


CONV = "convolution_param {{ num_output: 1 kernel_size: {} stride: {} }}"
NONE = {
    "scales": (
        layer("conv", "Convolution", "data", more=CONV.format(3, 2)),
        "crop of 'conv' to 'data': a pixel of 'data' is 1/2 pixels of 'conv'. Upsample or pool",
    ),
    "fraction": (
        layer("conv", "Deconvolution", "data", more=CONV.format(4, 1)),
        "crop of 'conv' to 'data': the offset would be 3/2, no whole number.",
    ),
    "negative": (
        layer("conv", "Convolution", "data", more=CONV.format(5, 1)),
        "crop of 'conv' to 'data': the offset would be -2; there is nothing before the first pixel.",
    ),
    "apart": (
        input_layer("conv", 1, 1, 8, 8),
        "blobs 'data' and 'conv' have no common ancestor that coordinate maps reach.",
    ),
    "blocked": (
        layer("flat", "Flatten", "data") + layer("conv", "ReLU", "flat"),
        "no common ancestor that coordinate maps reach. The way is blocked by layer 'flat' (Flatten).",
    ),
    "global": (
        layer("conv", "Pooling", "data", more="pooling_param { global_pooling: true }"),
        "The way is blocked by layer 'conv' (Pooling).",
    ),
    "an axis beyond all blobs": (
        layer("conv", "Crop", "data data", more="crop_param { axis: 1000 offset: 1 }"),
        "The way is blocked by layer 'conv' (Crop).",
    ),
    "unknown": ("", "has no blob 'conv'"),
}


@pytest.mark.parametrize("case", NONE)
def test_no_offset(case):
    text, message = NONE[case]
    with pytest.raises(GraphError) as caught:
        crop_offset(net_param(input_layer("data", 1, 1, 9, 9), text), "conv", "data")
    assert message in str(caught.value)


def test_no_receptive_field_through_a_layer_without_a_map():
    text = layer("flat", "Flatten", "data") + layer("conv", "ReLU", "flat")
    with pytest.raises(GraphError, match=r"'conv': its receptive field in the input is not known \(layer 'flat'"):
        receptive_field(net_param(input_layer("data", 1, 1, 9, 9), text), "conv")
