"""Old forms of nets and solvers, made modern."""

from __future__ import annotations

from typing import Any

import pytest
from places import GOLDEN

from fcn_caffe.errors import PrototxtError
from fcn_caffe.proto import caffe_pb2, parse_text, read_text
from fcn_caffe.proto.upgrade import modern_type, upgrade_net, upgrade_solver

FORMATS = GOLDEN / "formats"


def net(text: str) -> Any:
    return upgrade_net(parse_text(text, caffe_pb2.NetParameter), "x.prototxt")


def read_form(form: str) -> Any:
    return upgrade_net(read_text(FORMATS / f"{form}.prototxt", caffe_pb2.NetParameter))


@pytest.mark.parametrize("form", ["input", "v1", "v0"])
def test_all_forms_of_one_net_become_equal(form: str) -> None:
    wanted, have = read_form("modern"), read_form(form)
    assert have.name == wanted.name == "small"
    assert not have.layers and not have.input and not have.input_dim and not have.input_shape
    wanted.layer[0].name = "input"  # what Caffe calls the layer it makes
    wanted.layer[1].convolution_param.ClearField("group")
    if form == "input":
        have.layer[1].convolution_param.ClearField("group")
    else:
        multipliers = [(spec.lr_mult, spec.decay_mult) for spec in have.layer[1].param]
        assert multipliers == [(1, 1), (2, 0)]
        have.layer[1].ClearField("param")
    assert list(have.layer) == list(wanted.layer)


def test_modern_net_is_left_alone() -> None:
    path = FORMATS / "modern.prototxt"
    assert read_form("modern") == read_text(path, caffe_pb2.NetParameter)


# Caffe's names for the enum; the rest of the 41 follow from capitalised words.
TYPES = {
    "NONE": "", "ABSVAL": "AbsVal", "ARGMAX": "ArgMax", "BNLL": "BNLL", "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution", "DECONVOLUTION": "Deconvolution", "DUMMY_DATA": "DummyData", "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss", "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output", "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData", "INFOGAIN_LOSS": "InfogainLoss", "INNER_PRODUCT": "InnerProduct", "LRN": "LRN",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss", "MVN": "MVN", "RELU": "ReLU", "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss", "SOFTMAX_LOSS": "SoftmaxWithLoss", "TANH": "TanH",
    "WINDOW_DATA": "WindowData", "MEMORY_DATA": "MemoryData", "HINGE_LOSS": "HingeLoss", "POOLING": "Pooling",
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), TYPES.items())
def test_v1_type_names(old: str, new: str) -> None:
    assert modern_type(caffe_pb2.V1LayerParameter.LayerType.Value(old)) == new


def test_v1_layer_carries_everything() -> None:
    made = net(
        """layers { name: "a" type: CONVOLUTION bottom: "x" top: "y" param: "w" param: "b" blob_share_mode: PERMISSIVE
        blobs_lr: 0 blobs_lr: 2 weight_decay: 1 loss_weight: 3 include { phase: TRAIN } exclude { stage: "s" }
        blobs { num: 1 channels: 1 height: 1 width: 1 data: 5 }
        transform_param { scale: 2 } loss_param { ignore_label: 255 } convolution_param { num_output: 3 } }"""
    )
    wanted = parse_text(
        """layer { name: "a" type: "Convolution" bottom: "x" top: "y" loss_weight: 3
        param { name: "w" share_mode: PERMISSIVE lr_mult: 0 decay_mult: 1 } param { name: "b" lr_mult: 2 }
        include { phase: TRAIN } exclude { stage: "s" } blobs { num: 1 channels: 1 height: 1 width: 1 data: 5 }
        transform_param { scale: 2 } loss_param { ignore_label: 255 } convolution_param { num_output: 3 } }""",
        caffe_pb2.NetParameter,
    )
    assert made == wanted


def test_v0_data_layer_and_padding() -> None:
    made = net(
        """layers { layer { name: "d" type: "images" source: "list" batchsize: 4 cropsize: 8 mirror: true scale: 0.5
          meanfile: "m" shuffle_images: true new_height: 9 rand_skip: 2 } top: "data" }
        layers { layer { name: "pad" type: "padding" pad: 2 } bottom: "data" top: "padded" }
        layers { layer { name: "c" type: "conv" num_output: 4 kernelsize: 5 stride: 3 group: 2 biasterm: false
          weight_filler { type: "xavier" } } bottom: "padded" top: "c" }"""
    )
    wanted = parse_text(
        """layer { name: "d" type: "ImageData" top: "data"
          transform_param { crop_size: 8 mirror: true scale: 0.5 mean_file: "m" }
          image_data_param { source: "list" batch_size: 4 shuffle: true new_height: 9 rand_skip: 2 } }
        layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4
          kernel_size: 5 stride: 3 group: 2 bias_term: false pad: 2 weight_filler { type: "xavier" } } }""",
        caffe_pb2.NetParameter,
    )
    assert made == wanted


def test_data_transforms_move() -> None:
    made = net('layers { type: DATA data_param { source: "db" scale: 0.1 mean_file: "m" crop_size: 3 mirror: true } }')
    wanted = """layer { type: "Data" transform_param { scale: 0.1 mean_file: "m" crop_size: 3 mirror: true }
        data_param { source: "db" } }"""
    assert made == parse_text(wanted, caffe_pb2.NetParameter)


def test_transforms_in_the_options_of_a_modern_layer_stay_and_count_for_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Caffe moves them for V1 layers of the type that has the options."""
    text = 'layer { name: "d" type: "Data" data_param { source: "db" scale: 0.1 mirror: true } }'
    assert net(text) == parse_text(text, caffe_pb2.NetParameter)
    assert "layer 'd' (Data): data_param { scale }, data_param { mirror } has no effect, as in Caffe" in caplog.text
    other = net("layers { type: IMAGE_DATA data_param { scale: 0.1 } }")
    assert not other.layer[0].HasField("transform_param")


def test_an_unread_option_of_v0_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    made = net('layers { layer { name: "a" type: "relu" pad: 1 } bottom: "x" top: "a" }')
    assert made.layer[0].type == "ReLU"
    assert "layer 'a' (relu) does not read `pad`: it has no effect, as in Caffe." in caplog.text


def test_a_number_below_0_where_later_messages_have_none() -> None:
    with pytest.raises(PrototxtError, match=r"layer 'a' \(images\): new_height is -1\. Give 0 or more\."):
        net('layers { layer { name: "a" type: "images" new_height: -1 } top: "a" }')


def test_input_shape_counts_before_input_dim(caplog: pytest.LogCaptureFixture) -> None:
    made = net('input: "a" input_shape { dim: 2 } input_dim: [1, 2, 3, 4] input_shape { dim: 5 }')
    assert [list(shape.dim) for shape in made.layer[0].input_param.shape] == [[2]]
    assert "input_shape counts" in caplog.text and "more shapes than its 1 input" in caplog.text


def test_multipliers_of_fewer_than_three_params_stay() -> None:
    text = 'layer { type: "BatchNorm" param { lr_mult: 1 } }'
    assert net(text) == parse_text(text, caffe_pb2.NetParameter)


def test_batch_norm_multipliers_become_zero() -> None:
    made = net('layer { type: "BatchNorm" param { lr_mult: 1 } param { name: "v" } param { decay_mult: 3 } }')
    assert [(spec.name, spec.lr_mult, spec.decay_mult) for spec in made.layer[0].param] == [
        ("", 0, 0),
        ("v", 0, 0),
        ("", 0, 0),
    ]


def test_two_inputs_in_one_layer() -> None:
    made = net('input: "a" input: "b" input_dim: [1, 2, 3, 4, 5, 6, 7, 8] layer { name: "l" }')
    assert [list(shape.dim) for shape in made.layer[0].input_param.shape] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert list(made.layer[0].top) == ["a", "b"]
    assert made.layer[1].name == "l"


@pytest.mark.parametrize(
    ("old", "new"),
    [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("ADAGRAD", "AdaGrad"), ("RMSPROP", "RMSProp"),
     ("ADADELTA", "AdaDelta"), ("ADAM", "Adam")],
)  # fmt: skip
def test_solver_type(old: str, new: str) -> None:
    solver = upgrade_solver(parse_text(f"solver_type: {old}", caffe_pb2.SolverParameter))
    assert solver == parse_text(f'type: "{new}"', caffe_pb2.SolverParameter)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('input: "a" input_dim: 1', "has 1 input_dim for 1 input, expected 4."),
        ('input: "a"', "has 0 input_shape for 1 input. Give each input its shape."),
        ('layers { layer { name: "a" type: "cnov" } }', "layer 'a' has the unknown type \"cnov\". Correct it."),
        (
            'layers { layer { name: "p" type: "padding" } bottom: "x" top: "p" } '
            'layers { layer { name: "a" type: "relu" } bottom: "p" top: "a" }',
            "layer 'a' (relu) reads the padding layer 'p'; only conv and pool can.",
        ),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(PrototxtError) as caught:
        net(text)
    assert str(caught.value) == f"x.prototxt: {message}"


def test_refused_solver() -> None:
    both = parse_text('type: "SGD" solver_type: SGD', caffe_pb2.SolverParameter)
    with pytest.raises(PrototxtError, match="both `type` and the old `solver_type`"):
        upgrade_solver(both)
