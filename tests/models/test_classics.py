"""The classics: built in every form, published layers field by field, a training step, the table, the doctor."""

from __future__ import annotations

from pathlib import Path

import nets_table
import numpy as np
import pytest
import torch

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.data.sets.folder_layers import outlines
from fcn_caffe.data.sets.spatial_dropout import SpatialDropoutLayer
from fcn_caffe.doctor import ERROR, WARNING, examine
from fcn_caffe.errors import DataError
from fcn_caffe.layers.python import Blob
from fcn_caffe.models.classics import CLASSICS, classic_net
from fcn_caffe.models.classics.encoder_decoder import unpool_sizes
from fcn_caffe.net.coord_map import crop_offset
from fcn_caffe.net.graph import filter_net
from fcn_caffe.proto import caffe_pb2, parse_text, write_text
from fcn_caffe.weights.surgery import interp, upsampling_layers

# Of images in a training step, where they need not be the published ones.
SIZES = {
    "camvid-segnet-basic": (72, 96),  # odd halves on the way down, as of 360 x 480
    "camvid-segnet": (72, 96),
    "voc-deeplab1-largefov": (65, 49),
    "voc-deeplab2-largefov": (65, 49),
    "voc-deeplab2-aspp": (65, 49),
    "voc-dilation8": (41, 57),
    "bsds-hed": (43, 59),
    "voc-crfrnn": (33, 40),
    "cityscapes-enet": (64, 96),
}
# BN of a 1x1 map has one value in a batch of 1, and nothing to learn from it.
BATCHES = {"voc-deconvnet": 2, "ade20k-pspnet50": 2}
COUNTS = {  # of classes
    "camvid": 11,
    "voc": 21,
    "cells": 2,
    "bsds": 2,
    "ade20k": 150,
    "cityscapes": 19,
}


def narrow(name: str) -> caffe_pb2.NetParameter:
    """Return a classic with a sixteenth of its channels, filled so that every layer passes something on.

    ENet is narrow as it is, and its masks need the widths that it has.
    """
    net = classic_net(name)
    share = 1 if name == "cityscapes-enet" else 16
    classes = COUNTS[name.partition("-")[0]]
    for layer in net.layer:
        options = layer.convolution_param
        if layer.type in ("Convolution", "Deconvolution"):
            if options.num_output not in (1, classes):
                options.num_output = max(3, options.num_output // share)
            if options.weight_filler.type == "constant" and options.weight_filler.value == 0:
                options.weight_filler.type = "msra"
    return net


def input_shapes(
    net: caffe_pb2.NetParameter, channels: int, height: int, width: int, batch: int = 1
) -> dict[str, tuple[int, ...]]:
    """Return a shape for each top of the data layers."""
    shapes: dict[str, tuple[int, ...]] = {"data": (batch, channels, height, width), "label": (batch, 1, height, width)}
    return shapes | ({"data_dim": (batch, 1, 1, 2)} if "data_dim" in net.layer[0].top else {})


def training_net(name: str) -> tuple[Net, dict[str, torch.Tensor]]:
    """Return a narrow net of the TRAIN phase and a random input for it."""
    param = narrow(name)
    deploy = next(layer for layer in param.layer if layer.type == "Input").input_param.shape[0].dim
    shapes = input_shapes(param, deploy[1], *SIZES.get(name, deploy[2:]), BATCHES.get(name, 1))
    torch.manual_seed(3)
    built = Net(param, TRAIN, input_shapes=shapes)
    inputs = {top: torch.randn(shape) * 50 for top, shape in shapes.items()}
    inputs["label"] = torch.randint(COUNTS[name.partition("-")[0]], shapes["label"]).float()
    return built, inputs


@pytest.mark.parametrize("name", CLASSICS)
def test_scores_every_pixel_in_every_form(name: str) -> None:
    net, scores = classic_net(name), CLASSICS[name].scores
    deploy = Net(net, TEST, stages=("deploy",), device="meta")
    channels, *size = deploy.blob_shapes["data"][1:]
    classes = 1 if name == "bsds-hed" else COUNTS[name.partition("-")[0]]
    wanted = [388, 388] if name == "cells-unet" else size  # the paper's: unpadded
    assert list(deploy.blob_shapes[scores]) == [1, classes, *wanted]
    assert not {"Dropout", "Python", "SoftmaxWithLoss"} & {node.type for node in deploy.graph.nodes}
    shapes = input_shapes(net, channels, *size)
    for phase in (TRAIN, TEST):
        built = Net(net, phase, device="meta", input_shapes=shapes)
        losses = [blob for blob in built.graph.outputs if "loss" in blob]
        assert losses and all(built.blob_shapes[blob] == () for blob in losses)
        assert built.blob_shapes[scores] == deploy.blob_shapes[scores]


@pytest.mark.parametrize("name", CLASSICS)
def test_a_training_step_reaches_every_layer_that_learns(name: str) -> None:
    net, inputs = training_net(name)
    interp(net, [layer for layer in upsampling_layers(net) if not net.params[layer][0].any()])
    loss, _ = net.forward_loss(inputs)
    loss.backward()
    assert torch.isfinite(loss)
    for item in net.learnable_params:
        if item.lr_mult:
            gradient = item.blob.grad
            assert gradient is not None and torch.isfinite(gradient).all(), item
    still = [
        layer
        for layer, blobs in net.params.items()
        if blobs[0].grad is not None and not blobs[0].grad.any() and net.layer(layer).param.type == "Convolution"
    ]
    # The trunk gets nothing through scores that start at zero; nor do places that see one value only.
    assert len(still) <= {"bsds-hed": 0}.get(name, 1), still


PUBLISHED = {
    ("camvid-segnet-basic", "conv1_bn"): """name: "conv1_bn" type: "BN" bottom: "conv1" top: "conv1" bn_param {
        scale_filler { type: "constant" value: 1 } shift_filler { type: "constant" value: 0.001 } }""",
    ("camvid-segnet-basic", "upsample4"): """name: "upsample4" type: "Upsample" bottom: "pool4" bottom: "pool4_mask"
        top: "upsample4" upsample_param { scale: 2 pad_out_h: true }""",
    ("camvid-segnet", "pool5"): """name: "pool5" type: "Pooling" bottom: "conv5_3" top: "pool5" top: "pool5_mask"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 }""",
    ("camvid-segnet", "conv2_1_D"): """name: "conv2_1_D" type: "Convolution" bottom: "conv2_2_D" top: "conv2_1_D"
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 64 pad: 1 kernel_size: 3 weight_filler { type: "msra" } }""",
    ("voc-deconvnet", "unpool3"): """name: "unpool3" type: "Unpooling" bottom: "deconv4_3" bottom: "pool3_mask"
        top: "unpool3" unpooling_param { unpool: MAX kernel_size: 2 stride: 2 unpool_size: 56 }""",
    ("voc-deeplab1-largefov", "conv5_2"): """name: "conv5_2" type: "Convolution" bottom: "conv5_1" top: "conv5_2"
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 512 pad: 2 kernel_size: 3 dilation: 2 }""",
    ("voc-deeplab1-largefov", "pool4"): """name: "pool4" type: "Pooling" bottom: "conv4_3" top: "pool4"
        pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 1 }""",
    ("voc-deeplab1-largefov", "fc6"): """name: "fc6" type: "Convolution" bottom: "pool5a" top: "fc6"
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 1024 pad: 12 kernel_size: 3 dilation: 12 }""",
    ("voc-dilation8", "fc6"): """name: "fc6" type: "Convolution" bottom: "conv5_3" top: "fc6"
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 4096 kernel_size: 7 dilation: 4 }""",
    ("bsds-hed", "conv5_1"): """name: "conv5_1" type: "Convolution" bottom: "pool4" top: "conv5_1"
        param { lr_mult: 100 decay_mult: 1 } param { lr_mult: 200 decay_mult: 0 }
        convolution_param { num_output: 512 pad: 1 kernel_size: 3 stride: 1 }""",
    ("bsds-hed", "new-score-weighting"): """name: "new-score-weighting" type: "Convolution" bottom: "concat-upscore"
        top: "new-score-weighting" param { lr_mult: 0.001 decay_mult: 1 } param { lr_mult: 0.002 decay_mult: 0 }
        convolution_param { num_output: 1 kernel_size: 1 weight_filler { type: "constant" value: 0.2 } }""",
    ("ade20k-pspnet50", "conv5_3_pool2_interp"): """name: "conv5_3_pool2_interp" type: "Interp"
        bottom: "conv5_3_pool2_conv" top: "conv5_3_pool2_interp" interp_param { height: 60 width: 60 }""",
    ("ade20k-pspnet50", "conv5_3_pool3"): """name: "conv5_3_pool3" type: "Pooling" bottom: "conv5_3"
        top: "conv5_3_pool3" pooling_param { pool: AVE kernel_size: 20 stride: 20 }""",
    ("cityscapes-icnet", "sub24_sum"): """name: "sub24_sum" type: "Eltwise" bottom: "conv3_1_sub2_proj"
        bottom: "conv_sub4" top: "sub24_sum" """,
    ("cityscapes-enet", "conv2_3_1"): """name: "conv2_3_1" type: "Convolution" bottom: "conv2_3_1_a" top: "conv2_3_1"
        convolution_param { num_output: 32 bias_term: true pad: 1 weight_filler { type: "msra" }
        kernel_h: 1 kernel_w: 5 }""",
}  # fmt: skip


@pytest.mark.parametrize(("name", "which"), PUBLISHED)
def test_layers_are_the_published_ones_field_by_field(name: str, which: str) -> None:
    (layer,) = (layer for layer in classic_net(name).layer if layer.name == which)
    assert layer == parse_text(PUBLISHED[name, which], caffe_pb2.LayerParameter)


def test_crops_are_the_coordinate_maps() -> None:
    for name, wanted in {
        "bsds-hed": [34, 34, 34, 34, 34],
        "cells-unet": [4, 16, 40, 88],
        "voc-dilation8": [None],
    }.items():
        net = filter_net(classic_net(name), TEST, ("deploy",))
        crops = [layer for layer in net.layer if layer.type == "Crop"]
        for layer, offset in zip(crops, wanted, strict=True):
            derived = crop_offset(net, *layer.bottom)
            assert list(layer.crop_param.offset) == derived
            assert name == "voc-dilation8" or name == "bsds-hed" or derived == [offset]


def test_unets_label_is_cut_where_its_scores_lie() -> None:
    net = classic_net("cells-unet")
    (cut,) = (layer for layer in net.layer if layer.name == "label_cut")
    deploy = filter_net(net, TEST, ("deploy",))
    assert list(cut.crop_param.offset) == crop_offset(deploy, "data", "conv_u0d-score")


@pytest.mark.parametrize("page", nets_table.PAGES, ids=lambda page: page.name)
def test_the_pages_have_the_nets_of_now(page: Path) -> None:
    assert nets_table.written(page) == nets_table.table(page), "run python tests/nets_table.py"


@pytest.mark.parametrize("name", CLASSICS)
def test_the_doctor_finds_nothing(name: str, tmp_path: Path) -> None:
    net = narrow(name)
    path = tmp_path / "net.prototxt"
    path.write_text(write_text(net), encoding="utf-8")
    found = [item for item in examine(path, size=SIZES.get(name)).findings if item.level in (ERROR, WARNING)]
    assert not found


def test_sizes_before_each_pooling() -> None:
    assert unpool_sizes(360, 4) == [360, 180, 90, 45]
    assert unpool_sizes(45, 2) == [45, 23]


def test_outlines_are_where_classes_meet_and_void() -> None:
    label = np.array([[0, 0, 1], [0, 0, 1], [255, 2, 2]], np.uint8)
    assert outlines(label, 255).tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert not outlines(np.full((2, 3), 4, np.uint8), 255).any()


def spatial_dropout(text: str, bottoms: int = 1) -> tuple[SpatialDropoutLayer, list[Blob], list[Blob]]:
    layer, bottom = SpatialDropoutLayer(), [Blob((2, 30, 2, 2)) for _ in range(bottoms)]
    layer.param_str = text
    top = [Blob()]
    layer.setup(bottom, top)
    layer.reshape(bottom, top)
    return layer, bottom, top


def test_spatial_dropout_drops_whole_channels_and_their_gradients() -> None:
    torch.manual_seed(1)
    layer, bottom, top = spatial_dropout("{'phase': 'TRAIN', 'p': '0.4'}")
    bottom[0].data[...] = 3
    layer.forward(bottom, top)
    kept = top[0].data[:, :, 0, 0] != 0
    assert 0 < kept.sum() < kept.size and not np.array_equal(kept[0], kept[1])
    assert np.allclose(top[0].data, np.where(kept[:, :, None, None], 3 / 0.6, 0))
    top[0].diff = np.ones((2, 30, 2, 2), np.float32)
    layer.backward(top, [True], bottom)
    assert np.allclose(bottom[0].diff, np.where(kept[:, :, None, None], 1 / 0.6, 0))


def test_spatial_dropout_scales_alone_in_another_phase() -> None:
    layer, bottom, top = spatial_dropout("{'phase': 'TEST', 'p': 0.5}")
    bottom[0].data[...] = 3
    layer.forward(bottom, top)
    assert (top[0].data == 6).all()


@pytest.mark.parametrize("text", ["{'p': 0}", "{'p': 1}", "{'p': 'much'}", "{'p': None}", "{}", "{'p': 0.1, 'q': 1}"])
def test_spatial_dropout_refuses(text: str) -> None:
    with pytest.raises(DataError):
        spatial_dropout(text)


def test_spatial_dropout_takes_one_blob() -> None:
    with pytest.raises(DataError, match="takes one blob"):
        spatial_dropout("{'p': 0.1}", bottoms=2)
