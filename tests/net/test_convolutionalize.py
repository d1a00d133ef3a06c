"""Classifiers as fully convolutional nets: the same numbers, on every form of classifier, or a reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from classifiers import ALEXNET, GOOGLENET, caffenet, conv, converted, full, googlenet, pool, relu, vgg16
from helpers import input_layer, layer, net_param

from fcn_caffe import Net
from fcn_caffe.errors import GraphError, LayerError, WeightsError
from fcn_caffe.net.graph import filter_net, read_net
from fcn_caffe.net.rewrite.convolution_proof import answers_on, fill_at_random, prove, prove_places
from fcn_caffe.net.rewrite.convolutionalize import convolutional_weights, convolutionalize
from fcn_caffe.net.rewrite.deploy_form import deploy_form, keep_outputs
from fcn_caffe.proto import write_text
from fcn_caffe.proto.phases import TRAIN
from fcn_caffe.weights.surgery import transplant
from fcn_caffe.weights.transfer import net_weights


def test_a_chain_of_three_inner_products_and_its_places():
    conversion, classifier, net = converted(*ALEXNET)
    assert {name: tuple(blobs[0].shape) for name, blobs in net.params.items()} == {
        "conv1": (4, 3, 5, 5),
        "conv2": (6, 2, 3, 3),
        "fc6": (8, 6, 5, 5),
        "fc7": (7, 8, 1, 1),
        "fc8": (5, 7, 1, 1),
    }
    assert [node.type for node in net.graph.nodes if node.name == "drop6"] == ["Dropout"]
    # Nothing pads and every window is whole: each place of a larger image is the classifier's answer on its crop.
    places = prove_places(conversion, classifier, net)
    assert not isinstance(places, str) and len(places) == 4
    image = torch.randn(1, 3, 41, 41)
    wanted = torch.stack(
        [
            torch.cat([classifier(data=image[:, :, y : y + 33, x : x + 33])["prob"] for x in (0, 4, 8)])
            for y in (0, 4, 8)
        ]
    )
    assert torch.allclose(net(data=image)["prob"][0, :, :3].permute(1, 2, 0), wanted, atol=1e-6)
    (answer,) = answers_on(conversion, (65, 33))
    assert (answer.size, answer.stride, answer.field) == ((9, 1), 4, 33)


def test_a_wrong_order_of_the_numbers_fails_the_proof():
    conversion, classifier, net = converted(*ALEXNET)
    with torch.no_grad():
        weight = net.params["fc6"][0]
        weight.copy_(weight.flip(3).clone())
    with pytest.raises(WeightsError, match=r"proof failed: 'fc6' is off by .* Nothing was written"):
        prove(conversion, classifier, net)
    with torch.no_grad():
        for blobs in [*classifier.params.values(), *net.params.values()]:
            for blob in blobs:
                blob.zero_()
    with pytest.raises(WeightsError, match="the proof says nothing: 'fc8' is zero"):
        prove(conversion, classifier, net)
    with pytest.raises(WeightsError, match="proof failed: 'fc8' is not finite"):
        fill_at_random(classifier)
        transplant(net, convolutional_weights(conversion, net_weights(classifier)))
        classifier.params["fc8"][1].data[0] = torch.nan
        prove(conversion, classifier, net)


def test_a_padded_net_is_not_compared_at_places():
    text = [
        conv("conv1", "data", 4, 3, "pad: 1"),
        pool("pool1", "conv1", "kernel_size: 2 stride: 2"),
        full("fc6", "pool1", 6),
        full("fc7", "fc6", 3),
    ]
    conversion, classifier, net = converted(input_layer("data", 1, 3, 8, 8), *text)
    assert "layer 'conv1' (Convolution) pads" in str(prove_places(conversion, classifier, net))
    text[0] = conv("conv1", "data", 4, 3)  # now pool1 reads 7 x 7: its last window is cut off
    assert "layer 'pool1' (Pooling) cuts its last window off" in str(
        prove_places(*converted(input_layer("data", 1, 3, 9, 9), *text))
    )
    assert answers_on(conversion, (32, 16))[0].size == (13, 5)


OPTIONS = (
    'param { name: "w" lr_mult: 2 decay_mult: 3 } param { lr_mult: 4 }',
    'weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.1 }',
)


def test_options_are_kept_and_kernels_need_not_be_square():
    conversion, _, net = converted(
        input_layer("data", 1, 2, 5, 3),
        full("fc", "data", 4, OPTIONS[1], OPTIONS[0]),
        full("last", "fc", 2, "bias_term: false"),
    )
    made = {it.name: it for it in conversion.net.layer}
    options = made["fc"].convolution_param
    assert (options.kernel_h, options.kernel_w, options.num_output) == (5, 3, 4) and not options.kernel_size
    assert options.weight_filler.type == "xavier" and options.bias_filler.value == pytest.approx(0.1)
    assert [(it.name, it.lr_mult, it.decay_mult) for it in made["fc"].param] == [("w", 2, 3), ("", 4, 1)]
    assert len(net.params["last"]) == 1 and list(made["last"].convolution_param.kernel_size) == [1]


@pytest.mark.parametrize("second", [False, True])
def test_transposed_weights_are_turned_back(second):
    _, classifier, net = converted(
        input_layer("data", 1, 2, 3, 4),
        full("a", "data", 5, "transpose: true"),
        full("b", "a", 3, f"transpose: {str(second).lower()}"),
    )
    assert classifier.params["a"][0].shape == (24, 5) and net.params["a"][0].shape == (5, 2, 3, 4)


def test_three_spatial_axes():
    *_, net = converted(input_layer("data", 1, 2, 3, 4, 5), conv("c", "data", 3, 2), full("fc", "c", 4))
    assert net.params["fc"][0].shape == (4, 3, 2, 3, 4)


@pytest.mark.parametrize(
    "flattening",
    [
        layer("flat", "Flatten", "conv"),
        layer("flat", "Reshape", "conv", more="reshape_param { shape { dim: 0 dim: -1 } }"),
        layer("flat", "Reshape", "conv", more="reshape_param { shape { dim: 0 dim: -1 dim: 1 dim: 1 } }"),
        layer("flat", "Reshape", "conv", more="reshape_param { shape { dim: 2 dim: 27 } }"),
    ],
)
def test_flattening_goes(flattening):
    conversion, *_ = converted(
        input_layer("data", 2, 3, 5, 5),
        conv("conv", "data", 3, 3),
        flattening,
        relu("relu", "flat"),
        full("fc", "flat", 4),
        layer("shape", "Reshape", "fc", more="reshape_param { shape { dim: 0 dim: 4 dim: 1 } }"),
        layer("prob", "Softmax", "shape"),
    )
    assert [it.name for it in conversion.net.layer] == ["data", "conv", "relu", "fc", "prob"]
    assert conversion.net.layer[2].bottom == conversion.net.layer[2].top == ["conv"]


def test_layers_that_count_channels_from_the_end():
    conversion, *_ = converted(
        input_layer("data", 2, 3, 5, 5),
        full("fc", "data", 4),
        layer("bn", "BatchNorm", "fc"),
        layer("scale", "Scale", "bn", more="scale_param { axis: -1 num_axes: -1 bias_term: true }"),
        layer("prelu", "PReLU", "scale"),
        full("other", "data", 3),
        layer("both", "Concat", "prelu other", more="concat_param { axis: -1 }"),
        layer("cut", "Slice", "both", "one two", "slice_param { axis: -1 slice_point: 2 }"),
        layer("prob", "Softmax", "two", more="softmax_param { axis: -1 }"),
        layer("best", "ArgMax", "one"),
        layer("double", "Eltwise", "one one"),
        layer("mul", "Scale", "one double", more="scale_param { axis: 0 }"),
    )
    made = {it.name: it for it in conversion.net.layer}
    assert (made["scale"].scale_param.axis, made["scale"].scale_param.num_axes) == (1, 1)
    assert made["both"].concat_param.axis == made["cut"].slice_param.axis == made["prob"].softmax_param.axis == 1
    assert made["best"].argmax_param.axis == 1
    # The new net takes any size.
    larger = Net(conversion.net, device="meta", input_shapes={"data": (1, 3, 7, 6)})
    assert larger.blob_shapes["prob"] == (1, 5, 3, 2) and larger.blob_shapes["best"] == (1, 1, 3, 2)


def test_shared_parameters_stay_shared():
    named = 'param { name: "w" } param { name: "b" }'
    conversion, _, net = converted(
        input_layer("data", 1, 2, 4, 4),
        full("a", "data", 32, "", named),
        full("b", "a", 32, "", named),
    )
    assert net.params["a"][0].shape == (32, 2, 4, 4) and net.params["b"][0].shape == (32, 32, 1, 1)
    assert net.params["a"][0].data_ptr() == net.params["b"][0].data_ptr()
    assert [it.param[0].share_mode for it in conversion.net.layer[1:]] == [0, 1]


def test_a_suffix_renames_layers_and_their_blobs():
    conversion, _, net = converted(*ALEXNET, suffix="-conv")
    assert list(conversion.layers.values()) == ["fc6-conv", "fc7-conv", "fc8-conv"]
    assert [node.bottoms for node in net.graph.nodes if node.name in ("relu6", "fc7-conv")] == [("fc6-conv",)] * 2
    assert net.graph.outputs == ("prob",)
    with pytest.raises(GraphError, match="has a layer or blob 'fc6x' already"):
        converted(input_layer("data", 1, 1, 3, 3), full("fc6", "data", 2), full("fc6x", "fc6", 2), suffix="x")


# -- stock classifiers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("param", "kernels", "size", "field"),
    [
        (caffenet(), {"fc6": (4096, 256, 6, 6), "fc7": (4096, 4096, 1, 1), "fc8": (1000, 4096, 1, 1)}, 10, 355),
        (vgg16(), {"fc6": (4096, 512, 7, 7), "fc7": (4096, 4096, 1, 1), "fc8": (1000, 4096, 1, 1)}, 10, 404),
        (googlenet(), {"loss3/classifier": (1000, 1024, 1, 1)}, 9, 907),
        (googlenet(whole=True), {"loss3/classifier": (1000, 1024, 1, 1)}, 9, 907),
    ],
    ids=["CaffeNet", "VGG-16", "GoogLeNet", "GoogLeNet, global pooling"],
)
def test_stock_classifiers_have_the_papers_figures(param, kernels, size, field):
    """On 500 x 500 AlexNet gives 10 x 10 (section 3.1); receptive fields 355, 404, 907 and stride 32 (Table 1)."""
    conversion = convolutionalize(param)
    net = Net(conversion.net, device="meta")
    assert {name: tuple(net.params[name][0].shape) for name in conversion.layers} == kernels
    assert net.blob_shapes["prob"] == (1, 1000, 1, 1)
    (answer,) = answers_on(conversion, (500, 500))
    assert (answer.size, answer.stride, answer.field) == ((size, size), 32, field)


@pytest.mark.parametrize("param", [caffenet(16), vgg16(32)], ids=["CaffeNet", "VGG-16"])
def test_narrow_classifiers_have_the_same_numbers(param):
    converted(write_text(param))


def test_auxiliary_heads_and_labels():
    deployed, dropped = deploy_form(filter_net(net_param(*GOOGLENET)))
    assert dropped == ["aux/loss", "loss", "top-1"]
    assert list(deployed.layer[0].input_param.shape[0].dim) == [1, 3, 15, 15] and deployed.layer[0].top == ["data"]
    conversion, _, net = converted(*GOOGLENET)
    assert net.graph.outputs == ("aux/classifier", "classifier")
    assert net.params["aux/fc"][0].shape == (6, 9, 2, 2)
    pooling = next(it.pooling_param for it in conversion.net.layer if it.name == "pool5")
    assert (pooling.kernel_size, pooling.stride, pooling.global_pooling) == (7, 1, False)
    # Both heads answer on an image of any size.
    larger = Net(conversion.net, device="meta", input_shapes={"data": (1, 3, 31, 25)})
    assert larger.blob_shapes["classifier"] == (1, 3, 9, 6) and larger.blob_shapes["aux/classifier"] == (1, 3, 4, 3)
    one = Net(keep_outputs(deployed, ["classifier"]), device="meta")
    assert one.graph.outputs == ("classifier",) and "aux/fc" not in one.params and "4a/1x1" in one.params
    with pytest.raises(GraphError, match=r"has no blob 'prob'\. Its outputs: aux/classifier, classifier"):
        keep_outputs(deployed, ["prob"])


V1 = """
name: "old" input: "data" input_dim: 2 input_dim: 1 input_dim: 8 input_dim: 8
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2
         convolution_param { num_output: 3 kernel_size: 3 } }
layers { name: "ip" type: INNER_PRODUCT bottom: "conv" top: "ip" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
         inner_product_param { num_output: 4 } }
layers { name: "prob" type: SOFTMAX bottom: "ip" top: "prob" }
"""


def test_old_nets(tmp_path):
    (tmp_path / "old.prototxt").write_text(V1)
    deployed, _ = deploy_form(read_net(tmp_path / "old.prototxt", TRAIN))
    made = convolutionalize(deployed).net.layer[2]
    assert [(it.lr_mult, it.decay_mult) for it in made.param] == [(1, 1), (2, 0)]


SOURCES = [
    ('type: "ImageData" image_data_param { new_height: 6 new_width: 5 }', [1, 3, 6, 5]),
    (
        'type: "ImageData" image_data_param { new_height: 6 new_width: 5 } transform_param { crop_size: 4 }',
        [1, 3, 4, 4],
    ),
    ('type: "DenseImageData" dense_image_data_param { new_height: 6 new_width: 5 is_color: false }', [1, 1, 6, 5]),
    (
        'type: "DenseImageData" dense_image_data_param { new_height: 6 new_width: 5 crop_height: 4 crop_width: 3 }',
        [1, 3, 4, 3],
    ),
    ('type: "ImageSegData" top: "dim" transform_param { crop_height: 4 crop_width: 3 }', [1, 3, 4, 3]),
    ('type: "ImageLabelmapData" image_data_param { new_height: 6 new_width: 5 }', [1, 3, 6, 5]),
    ('type: "MemoryData" memory_data_param { batch_size: 8 channels: 2 height: 7 width: 6 }', [1, 2, 7, 6]),
    ('type: "DummyData" dummy_data_param { shape { dim: 8 dim: 2 dim: 5 dim: 4 } shape { dim: 8 } }', [1, 2, 5, 4]),
    ('type: "Data" transform_param { crop_size: 5 force_gray: true }', [1, 1, 5, 5]),
    ('type: "Input" input_param { shape { dim: 8 dim: 2 dim: 5 dim: 4 } shape { dim: 8 } }', [8, 2, 5, 4]),
]


@pytest.mark.parametrize(("source", "shape"), SOURCES, ids=[source[7:17] for source, _ in SOURCES])
def test_data_layers_become_inputs(source, shape):
    net = net_param(
        f'layer {{ name: "d" top: "data" top: "label" {source} }}',
        full("fc", "data", 2),
        layer("loss", "SoftmaxWithLoss", "fc label"),
    )
    deployed, dropped = deploy_form(filter_net(net))
    assert (deployed.layer[0].type, list(deployed.layer[0].top), dropped) == ("Input", ["data"], ["loss"])
    assert [list(it.dim) for it in deployed.layer[0].input_param.shape] == [shape]


def test_channels_come_from_the_first_weights():
    net = filter_net(net_param(DATA_LAYER, conv("c", "data", 4, 3, "group: 2"), full("fc", "c", 2)))
    deployed, _ = deploy_form(net, (9, 8), {"c": [np.zeros((4, 3, 3, 3), np.float32)]})
    assert list(deployed.layer[0].input_param.shape[0].dim) == [1, 6, 9, 8]
    assert list(deploy_form(net, (5, 9, 8))[0].layer[0].input_param.shape[0].dim) == [1, 5, 9, 8]


def test_an_output_without_coordinates_is_not_compared_at_places():
    made = converted(IMAGE, full("fc", "data", 5), layer("best", "ArgMax", "fc"))
    assert "layer 'best' (ArgMax)" in str(prove_places(*made))
    assert answers_on(made[0], (8, 8))[0].stride is None


# -- refusals -----------------------------------------------------------------------------------------------------

IMAGE = input_layer("data", 2, 3, 4, 4)
FLAT = IMAGE + layer("flat", "Flatten", "data")
DATA_LAYER = 'layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "x" } }'
REFUSED = [
    (
        IMAGE + full("fc", "data", 2, "axis: 2"),
        LayerError,
        "layer 'fc' (InnerProduct): cannot be made convolutional: axis 2 multiplies the last 2",
    ),
    (input_layer("data", 2, 9) + full("fc", "data", 2), GraphError, "has no input of N x C x H x W"),
    (IMAGE + input_layer("v", 2, 9) + full("fc", "v", 2), LayerError, "bottom 'v' is 2x9 and never was a map"),
    (IMAGE + conv("c", "data", 2, 3), GraphError, "no global pooling: it is fully convolutional already"),
    (
        IMAGE + layer("r", "Reshape", "data", more="reshape_param { shape { dim: 0 dim: 12 dim: 4 } }"),
        LayerError,
        "cannot be made convolutional: makes 2x12x4 of 2x3x4x4",
    ),
    (
        FLAT + layer("bn", "BatchNorm", "flat") + full("fc", "bn", 2),
        LayerError,
        "layer 'bn' (BatchNorm): cannot be made convolutional: reads 'data' (2x48) and tells its values apart",
    ),
    (
        FLAT + layer("t", "Tile", "flat", more="tile_param { tiles: 2 }"),
        LayerError,
        "layer 't' (Tile): cannot be made convolutional: reads 'data' (2x48), a map in the convolutional net",
    ),
    (
        FLAT + relu("r", "flat") + full("fc", "flat", 2) + conv("c", "data", 2, 3),
        LayerError,
        "'data' has other readers and layer 'r' (ReLU) overwrites it",
    ),
    (
        IMAGE + full("fc", "data", 2) + layer("s", "Scale", "fc", more="scale_param { axis: 0 num_axes: 2 }"),
        LayerError,
        "axis 0 has a number for each image",
    ),
    (
        IMAGE + full("fc", "data", 2) + layer("a", "ArgMax", "fc", more="argmax_param { out_max_val: true }"),
        LayerError,
        "out_max_val without an axis gives pairs",
    ),
    (
        IMAGE
        + full("a", "data", 48, "", 'param { name: "w" }')
        + full("b", "a", 48, "transpose: true", 'param { name: "w" }'),
        LayerError,
        "shares param 'w' with layer 'a', one of them transposed",
    ),
    (
        DATA_LAYER + full("fc", "data", 2),
        LayerError,
        "layer 'd' (Data): does not say how large the image is: it has no crop_size. Give --input",
    ),
]


@pytest.mark.parametrize(("text", "error", "message"), REFUSED, ids=[message[:40] for *_, message in REFUSED])
def test_refusals(text, error, message):
    with pytest.raises(error) as raised:
        convolutionalize(deploy_form(filter_net(net_param(text)))[0])
    assert message in str(raised.value)


def test_layers_of_forks_keep_their_numbers():
    """PSPNet's BN, a depthwise convolution and ReLU6, as in MobileNets of TSN's Caffe; SegNet's BN sees all places."""
    text = [
        input_layer("data", 1, 3, 9, 9),
        conv("conv1", "data", 6, 3),
        layer("bn1", "BN", "conv1", "conv1", "bn_param { momentum: 0.9 }"),
        layer("dw", "ConvolutionDepthwise", "conv1", "dw", "convolution_param { kernel_size: 3 num_output: 6 }"),
        full("fc2", "dw", 5),
        layer("relu2", "ReLU6", "fc2", "fc2"),
        full("fc3", "fc2", 3),
    ]
    conversion, classifier, net = converted(*text)
    assert all(answer.relative < 1e-5 for answer in prove(conversion, classifier, net))
    places = prove_places(conversion, classifier, net)
    assert not isinstance(places, str) and len(places) == 4
    text[2] = layer("bn1", "BN", "conv1", "conv1", "bn_param { bn_mode: LEARN }")
    assert "(BN) normalises by the statistics of all places" in str(prove_places(*converted(*text)))
