"""Nets of other Caffes: one message names all that Caffe 1.0 has not, whose it is and what to do; or it is kept."""

from pathlib import Path

import pytest

import fcn_caffe.data.layers  # noqa: F401  # registers
from fcn_caffe import Net
from fcn_caffe.commands import draw_net, upgrade_net
from fcn_caffe.errors import LayerError, PrototxtError
from fcn_caffe.layers import known_types
from fcn_caffe.proto import caffe_pb2, parse_text, write_text
from fcn_caffe.proto.files import write_message
from fcn_caffe.proto.fork_fields import FIELDS, VALUES
from fcn_caffe.proto.forks import LAYERS, RUNS, V1_WORDS
from fcn_caffe.proto.kept import has_forks, kept_lines
from fcn_caffe.proto.layer_types import OPTIONS, modern_name
from fcn_caffe.proto.schema import FORKS, describe
from fcn_caffe.proto.upgrade import upgrade_net as upgrade

SSD = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "n1" type: "Normalize" bottom: "data" top: "n1" norm_param { across_spatial: false } }
layer { name: "n2" type: "Normalize" bottom: "n1" top: "n2" norm_param { across_spatial: false } }
layer { name: "six" type: "ReLU6" bottom: "n2" top: "six" }
layer { name: "c" type: "Convolution" bottom: "six" top: "c" convolution_param {
  num_output: 2 kernel_size: 3 hole: 2 engine: MKL2017 } }
"""


def refusal(text: str, message: type = caffe_pb2.NetParameter, strict: bool = True) -> str:
    with pytest.raises(PrototxtError) as caught:
        parse_text(text, message, "x.prototxt", strict=strict)
    return str(caught.value)


def test_the_tables_are_of_other_caffes_alone() -> None:
    assert set(known_types()) >= set(OPTIONS)
    assert set(LAYERS) & set(known_types()) == RUNS
    assert set(V1_WORDS.values()) <= set(LAYERS)
    assert not set(V1_WORDS) & set(caffe_pb2.V1LayerParameter.LayerType.keys())
    for message, fields in FIELDS.items():
        assert not set(fields) & set(describe(getattr(caffe_pb2, message).DESCRIPTOR).fields), message
    for words in VALUES.values():
        assert not set(words) & {"DEFAULT", "CAFFE", "CUDNN", "FULL", "VALID", "NONE", "BATCH_SIZE"}
    for type, options in OPTIONS.items():
        assert not options or options in caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name, type


def test_all_of_a_net_is_one_message() -> None:
    assert refusal(SSD) == (
        "x.prototxt:2:63: 4 layers have what Caffe 1.0 has not:\n"
        "  line 2: layers 'n1' and 'n2' (Normalize, with norm_param): the type is of SSD's, NVIDIA's, Intel's and "
        "happynear's Caffe, not of Caffe 1.0. Take it out where it is not needed, or register the type from Python "
        "(docs/howto/own_layer.md).\n"
        "  line 4: layer 'six' (ReLU6): the type is of MobileNet's Caffe, not of Caffe 1.0. Write ReLU, then Clip with "
        "clip_param { min: 0 max: 6 }.\n"
        "  line 5: layer 'c' (Convolution): convolution_param.hole is of DeepLab v1's Caffe, not of Caffe 1.0. "
        "Write dilation: with the same number. convolution_param.engine: MKL2017 is of Intel's Caffe, not of Caffe "
        "1.0. Leave it out: numbers are equal up to rounding."
    )


@pytest.mark.parametrize("type", sorted(set(LAYERS) - RUNS - {"MatWrite"}))  # it is left out
def test_a_foreign_type_is_never_taken_for_another(type: str) -> None:
    with pytest.raises(LayerError) as caught:
        Net(parse_text(f'layer {{ name: "x" type: "{type}" top: "x" }}', caffe_pb2.NetParameter))
    message = str(caught.value)
    assert message.startswith(f"layer 'x' ({type}): the type is of ") and "Caffe, not of Caffe 1.0. " in message
    assert "Did you mean" not in message


@pytest.mark.parametrize("type", ["GlobalContextThing", "Convolution2000", "PoolingWithSwitches"])
def test_a_type_of_nobody_is_not_taken_for_another(type: str) -> None:
    with pytest.raises(LayerError, match="No fork that is known here has it, either") as caught:
        Net(parse_text(f'layer {{ name: "x" type: "{type}" top: "x" }}', caffe_pb2.NetParameter))
    assert "Did you mean" not in str(caught.value)
    assert "neither of Caffe 1.0 nor of a fork" in refusal(f'layer {{ own_param {{ a: 1 }} name: "x" type: "{type}" }}')


def test_two_foreign_types_without_fields() -> None:
    text = 'layer { name: "a" type: "Mish" top: "a" } layer { name: "b" type: "Nms" bottom: "a" top: "b" }'
    with pytest.raises(
        LayerError, match=r"^2 layers have what Caffe 1.0 has not:\n  layer 'a' \(Mish\).*\n  layer 'b'"
    ):
        Net(parse_text(text, caffe_pb2.NetParameter))


def test_strict_refuses_what_runs() -> None:
    text = """layer { name: "a" type: "Input" top: "a" input_param { shape { dim: [1, 2, 3, 3] } } }
    layer { name: "b" type: "ReLU6" bottom: "a" top: "b" }
    layer { name: "c" type: "Dropout" bottom: "b" top: "c" dropout_param { scale_train: false } }"""
    param = parse_text(text, caffe_pb2.NetParameter)
    assert Net(param).blob_shapes["c"] == (1, 2, 3, 3)
    with pytest.raises(LayerError) as caught:
        Net(param, strict=True)
    message = str(caught.value)
    assert "layer 'b' (ReLU6): the type is of MobileNet's Caffe, not of Caffe 1.0. Write ReLU, then Clip" in message
    assert "layer 'c' (Dropout): dropout_param.scale_train is of Fast R-CNN's, Faster R-CNN's and R-FCN's" in message


@pytest.mark.parametrize(
    ("message", "field"), [(message, field) for message, fields in FIELDS.items() for field in fields]
)
def test_a_foreign_field_is_named_as_such(message: str, field: str) -> None:
    text = refusal(f"{field}: 1", getattr(caffe_pb2, message))
    assert f"{field} is of " in text or f"with {field}): the type is of " in text or "neither of" in text
    assert "Did you mean" not in text and " Caffe, not of Caffe 1.0. " in text


@pytest.mark.parametrize(
    "value",
    ["1", "-inf", "\"a\" 'b'", "[1, 2, 3]", "{ }", "{ a: 1 b { c: [1] } d < e: 'x' > }", "{ a: MAX; b: 1, c { } }"],
)
def test_foreign_fields_are_kept(value: str) -> None:
    colon = "" if value.startswith("{") else ":"
    text = f'layer {{ name: "x" proposal_param{colon} {value} type: "Proposal" }} layer {{ name: "y" type: "ReLU" }}'
    net = parse_text(text, caffe_pb2.NetParameter, keep_foreign=True)
    assert [has_forks(layer) for layer in net.layer] == [True, False]
    assert "proposal_param" in refusal(text)
    written = write_text(net)
    again = parse_text(written, caffe_pb2.NetParameter, keep_foreign=True)
    assert write_text(again) == written
    assert kept_lines(again.layer[0]) == kept_lines(net.layer[0])


def test_old_layers_of_other_caffes_are_upgraded() -> None:
    text = """layers { name: "up" type: INTERP bottom: "x" top: "up" interp_param { zoom_factor: 8 } blobs_lr: 1 }
    layers { name: "c" type: CONVOLUTION bottom: "up" top: "c" convolution_param { hole: 2 } }"""
    net = upgrade(parse_text(text, caffe_pb2.NetParameter, keep_foreign=True))
    assert write_text(net) == (
        'layer {\n  name: "up"\n  type: "Interp"\n  bottom: "x"\n  top: "up"\n  param {\n    lr_mult: 1\n  }\n'
        "  interp_param {\n    zoom_factor: 8\n  }\n}\n"
        'layer {\n  name: "c"\n  type: "Convolution"\n  bottom: "up"\n  top: "c"\n'
        "  convolution_param {\n    hole: 2\n  }\n}\n"
    )
    assert "layer 'up' (Interp, with interp_param): the type is of DeepLab's, PSPNet's and ICNet's" in refusal(text)


def test_what_is_no_field_of_anybody_stays_an_error_when_kept() -> None:
    for text in (
        "layer { nme: 1 }",
        'layer { type: "ReLU" own_param { } }',
        "layer { own_param { } }",
        "layer { bn_param }",
    ):
        with pytest.raises(PrototxtError):
            parse_text(text, caffe_pb2.NetParameter, keep_foreign=True)


def test_kept_fields_cannot_be_binary(tmp_path: Path) -> None:
    net = parse_text(SSD, caffe_pb2.NetParameter, keep_foreign=True)
    with pytest.raises(PrototxtError, match=r"cannot be written as binary.*Write text\."):
        write_message(tmp_path / "net", net, binary=True)
    assert not list(tmp_path.iterdir())


def test_tools_draw_and_write_such_nets(tmp_path: Path) -> None:
    source = tmp_path / "ssd.prototxt"
    source.write_text(f'input: "x" input_shape {{ dim: 1 }}\n{SSD}')
    assert draw_net.main([str(source), str(tmp_path / "ssd.dot")]) == 0
    assert "n1 (Normalize)" in (tmp_path / "ssd.dot").read_text()
    assert upgrade_net.main([str(source), str(tmp_path / "out.prototxt")]) == 0
    written = (tmp_path / "out.prototxt").read_text()
    assert written.count("  norm_param {\n    across_spatial: false\n  }\n") == 2
    assert "    hole: 2\n    engine: MKL2017\n" in written and "ReLU6" in written


def test_ceil_mode_is_round_mode() -> None:
    def mode(text: str) -> int:
        return parse_text(text, caffe_pb2.PoolingParameter).round_mode

    assert (mode("ceil_mode: true"), mode("ceil_mode: false"), mode("ceil_mode: 0")) == (0, 1, 1)
    for text in (
        "ceil_mode: false round_mode: FLOOR",
        "round_mode: FLOOR ceil_mode: false",
        "ceil_mode: 1 ceil_mode: 1",
    ):
        assert "round_mode" in refusal(text, caffe_pb2.PoolingParameter)


def test_fields_of_forks_are_read_and_written() -> None:
    """One of each kind: of a layer, of Caffe's own messages, a word of an enum; strict refuses all of them."""
    text = """layer {
  name: "bn"
  type: "BN"
  bn_param {
    bn_mode: INFERENCE
    frozen: true
  }
}
layer {
  name: "loss"
  type: "SoftmaxWithLoss"
  loss_param {
    normalization: PRE_FIXED
    weight_by_label_freqs: true
    class_weighting: 0.5
    class_weighting: 2
  }
}
fork: "segnet"
"""
    net = parse_text(text, caffe_pb2.NetParameter)
    assert write_text(net) == text
    assert net.layer[0].bn_param.eps == pytest.approx(1e-5) and net.layer[1].loss_param.normalization > FORKS
    assert has_forks(net) and has_forks(net.layer[1]) and not has_forks(net.layer[0].bn_param)
    message = refusal(text.replace('fork: "segnet"', ""))
    assert "BN, with bn_param" in message and "loss_param.normalization: PRE_FIXED is of R-FCN's" in message
    assert "loss_param.weight_by_label_freqs, loss_param.class_weighting are of SegNet's and ENet's" in message


def test_fields_of_another_caffe_that_nest_without_end_are_refused() -> None:
    """As lines of text, each indented by its depth, they would take the square of the file."""
    depth = 200
    with pytest.raises(PrototxtError, match=r"1:\d+: is 100 messages deep, which no net is\. Take"):
        parse_text(f"layer {{ type: 'X' {'x_param { ' * depth}{'}' * depth} }}", caffe_pb2.NetParameter)


def test_what_changes_no_number_is_said_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    text = """default_forward_type: FLOAT16 layer { name: "c" type: "Convolution" forward_type: FLOAT
    convolution_param { num_output: 1 kernel_size: 1 engine: MKL2017 conv_algos_override: "1,1" } }"""
    net = parse_text(text, caffe_pb2.NetParameter, "x.prototxt")
    assert [record.getMessage() for record in caplog.records] == [
        "x.prototxt: ignored, as it changes no number here: default_forward_type (NVIDIA's), forward_type (NVIDIA's), "
        "convolution_param.engine: MKL2017 (Intel's), convolution_param.conv_algos_override (NVIDIA's)."
    ]
    plain = 'layer { name: "c" type: "Convolution" convolution_param { num_output: 1 kernel_size: 1 } }'
    assert net == parse_text(plain, caffe_pb2.NetParameter)
    assert not has_forks(net)
    kept = write_text(parse_text(text, caffe_pb2.NetParameter, keep_foreign=True))
    assert "engine: MKL2017" in kept and "forward_type: FLOAT\n" in kept
    assert "relu is of Intel's" in refusal(
        'layer { type: "Convolution" convolution_param { relu: true } }', strict=False
    )


@pytest.mark.parametrize(
    ("first", "write"),
    [
        (
            'layer { name: "r" type: "ReLU" bottom: "x" top: "r" }',
            'layer { name: "m" type: "MatWrite" bottom: "x" mat_write_param { prefix: "a" } }',
        ),
        (
            'layers { name: "r" type: RELU bottom: "x" top: "r" }',
            'layers { name: "m" type: MAT_WRITE bottom: "x" mat_write_param { prefix: "a" } }',
        ),
    ],
)
def test_layers_that_only_write_a_file_are_left_out(first: str, write: str, caplog: pytest.LogCaptureFixture) -> None:
    net = parse_text(write + first, caffe_pb2.NetParameter, "x.prototxt")
    assert net == parse_text(first, caffe_pb2.NetParameter)
    (record,) = caplog.records
    assert "x.prototxt: ignored, as it changes no number here: " in record.getMessage()
    assert "layers of type MatWrite (DeepLab's, PSPNet's)" in record.getMessage()
    assert "of DeepLab's and PSPNet's Caffe" in refusal(write)
    kept = parse_text(write, caffe_pb2.NetParameter, keep_foreign=True)
    assert 'prefix: "a"' in write_text(kept)
    with pytest.raises(PrototxtError, match="relu is of Intel's"):
        parse_text(write + first.replace("top", "convolution_param { relu: true } top"), caffe_pb2.NetParameter)


HINTS = [
    (
        "layer { type: CONVOLUTION }",
        'type is a quoted string, got "CONVOLUTION". Write type: "Convolution". CONVOLUTION is of the old `layers`.',
    ),
    ("layer { type: Convolution }", 'type is a quoted string, got "Convolution". Write type: "Convolution".'),
    ("layer { type: RELU }", 'Write type: "ReLU".'),
    (
        "layers { type: 'BatchNorm' }",
        "The old `layers` have no BatchNorm: write `layer` for `layers` in the whole file",
    ),
    ("layers { type: CONVOLUTIN }", 'Did you mean "CONVOLUTION"?'),
    ("layers { param { lr_mult: 1 } }", "In `layers` it is a name to share by; multipliers are blobs_lr: …"),
    ("layers { param: { lr_mult: 1 } }", "In `layers` it is a name to share by; multipliers are blobs_lr: …"),
    ("layers { type: CONVOLUTION lr_mult: 1 }", "In `layers` it is blobs_lr: …, one for each blob."),
    ("layers { batch_norm_param { } }", "It is of `layer`: write `layer` for `layers` in the whole file"),
    ("layer { blobs_lr: 1 }", "It is of the old `layers`: write param { lr_mult: … }, one for each blob."),
    ("layer { weight_decay: 1 }", "It is of the old `layers`: write param { decay_mult: … }, one for each blob."),
    ("layer { lr_mult: 1 }", "It goes into param { lr_mult: … }, one for each blob."),
    (
        "layer { convolution_param { lr_mult: 1 } }",
        "It goes into param { lr_mult: … } of the layer, beside the options,",
    ),
    ("layer { type: 'InnerProduct' weight_filler { } }", "It goes into inner_product_param { … }."),
    ("layers { type: INNER_PRODUCT num_output: 3 }", "It goes into inner_product_param { … }."),
    ("layer { kernel_size: 3 }", "It goes into convolution_param or pooling_param { … }."),
    ("layer { type: 'ImageData' crop_size: 3 }", "It goes into image_data_param { … }."),
    ("layer { type: 'Data' data_param { mean_value: 3 } }", "It goes into transform_param { … } of the layer."),
    (
        "layer { }\n\nlayers { }",
        "3:8: a net has both `layer` and the old `layers`: here is `layers`, and line 1 has `layer`.",
    ),
    (
        "layers { }\nlayer { }",
        "2:7: a net has both `layer` and the old `layers`: here is `layer`, and line 1 has `layers`.",
    ),
    ("input_dim: 1, 3", 'input_dim takes one value at a time, got "3" behind it. Write input_dim: [a, b], or'),
]


@pytest.mark.parametrize(("text", "hint"), HINTS, ids=[text for text, _ in HINTS])
def test_hints_where_old_and_new_spelling_meet(text: str, hint: str) -> None:
    assert hint in refusal(text)


def test_a_solver_names_one_device() -> None:
    assert refusal("device_id: 0,1", caffe_pb2.SolverParameter) == (
        'x.prototxt:1:14: device_id takes one value, got "1" behind it. Training runs on one device here: name one.'
    )


@pytest.mark.parametrize("word", ["CONVOLUTION", "conv", "SOFTMAX_LOSS", "Tanh", "hdf5_data"])
def test_an_older_word_for_a_type_says_the_type(word: str) -> None:
    with pytest.raises(LayerError, match=f'Write type: "{modern_name(word)}"'):
        Net(parse_text(f'layer {{ name: "x" type: "{word}" top: "x" }}', caffe_pb2.NetParameter))
