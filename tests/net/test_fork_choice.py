"""Which fork a layer is of: by its fields, its blobs, its neighbours, or as a person says; else it asks."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net, net_param

from fcn_caffe import TRAIN, FcnCaffeError, GraphError, LayerError, Net, PrototxtError, read_net
from fcn_caffe.commands import draw_net, infer, time_net, upgrade_net
from fcn_caffe.net.graph import filter_net
from fcn_caffe.proto import caffe_pb2, parse_text, write_text
from fcn_caffe.proto.upgrade import upgrade_net as upgrade
from fcn_caffe.training.solver import Solver
from fcn_caffe.weights.transfer import copy_weights, save_weights

IMAGE = input_layer("x", 1, 4, 6, 6)
BN = layer("b", "BN", "x")


def blobs(*text: str, **options: object) -> int:
    net = make_net(IMAGE, *text, **options)
    return len(net.layer("b").blobs)


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ("bn_param { bn_mode: INFERENCE }", 2),
        ("bn_param { scale_filler { value: 1 } }", 2),
        ("bn_param { shift_filler { value: 1 } }", 2),
        ("bn_param { slope_filler { value: 1 } }", 4),
        ("bn_param { momentum: 0.95 }", 4),
        ("bn_param { scale_filler { value: 1 } shift_filler { } moving_average: true decay: 0.05 }", 4),
        ("bn_param { frozen: true }", 4),
        ('top: "m" top: "v"', 2),
        ("param { lr_mult: 1 } param { lr_mult: 2 }", 2),
        ("param { } param { } param { } param { }", 4),
        ('fork: "ENet"', 2),
        ('fork: "icnet"', 4),
    ],
)
def test_bn_says_it_itself(more: str, count: int) -> None:
    assert blobs(layer("b", "BN", "x", more=more)) == count


def test_bn_asks(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LayerError) as caught:
        make_net(IMAGE, BN)
    assert str(caught.value) == (
        "layer 'b' (BN): forks of Caffe mean different things by this type, and the file does not say whose it is: "
        "segnet (2 blobs, no running statistics) or pspnet (4 blobs, running mean and variance). Say it: --fork "
        'segnet, Net(…, fork="segnet"), or fork: "segnet" in the layer.'
    )
    with caplog.at_level(logging.INFO, "fcn_caffe.net"):
        assert blobs(BN, fork="SegNet") == 2
        assert blobs(BN, fork="pspnet") == 4
        assert blobs(BN, blob_counts={"b": 4}) == 4
        assert blobs(BN, layer("c", "BN", "b", more="bn_param { eps: 1 }")) == 4
        assert blobs(BN, layer("c", "Interp", "b", more="interp_param { zoom_factor: 2 }")) == 4
        pool = layer("p", "Pooling", "b", "p m", "pooling_param { kernel_size: 2 stride: 2 }")
        assert blobs(BN, pool, layer("u", "Upsample", "p m", "u")) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "net '': BN as in SegNet: as asked (1 layer).",
        "net '': BN as in PSPNet: as asked (1 layer).",
        "layer 'b': BN as in PSPNet: 4 blobs.",
        "net '': BN as in PSPNet: as other BN of the net (1 layer).",
        "net '': BN as in PSPNet: eps (1 layer).",
        "net '': BN as in PSPNet: Interp in the net (1 layer).",
        "net '': BN as in SegNet: its neighbours are SegNet's (1 layer).",
    ]
    with pytest.raises(LayerError, match="Say it: --fork"):
        blobs(BN, fork="ssd")  # has no BN


def test_what_a_person_says_goes_before_the_number_of_param_blocks() -> None:
    two = layer("b", "BN", "x", more="param { } param { }")
    assert blobs(two) == 2
    assert blobs(two, fork="pspnet") == 4
    assert blobs(two, blob_counts={"b": 4}) == 4


def test_normalize_without_options_asks() -> None:
    plain, x = layer("b", "Normalize", "x"), torch.rand(1, 4, 6, 6)
    with pytest.raises(LayerError, match=r"ssd \(over the picture, times a blob\) or happynear"):
        make_net(IMAGE, plain)
    whole, place = (x.square().sum(axes, keepdim=True).sqrt() for axes in ((1, 2, 3), (1,)))
    for norm, options in (
        (whole, {"fork": "nvidia"}),
        (whole, {"blob_counts": {"b": 1}}),
        (place, {"fork": "happynear"}),
    ):
        torch.testing.assert_close(make_net(IMAGE, plain, **options)(x=x)["b"], x / norm)
    two = make_net(IMAGE, layer("b", "Normalize", "x", "b n"))({"x": x})
    torch.testing.assert_close(two["b"], x / place)
    torch.testing.assert_close(two["n"], place)
    head = layer("p", "PriorBox", "b x", "p", "prior_box_param { min_size: 2 }")
    torch.testing.assert_close(make_net(IMAGE, plain, head)({"x": x}, keep=["b"])["b"], x / whole)
    said = layer("b", "Normalize", "x", more="norm_param { }")
    assert make_net(IMAGE, said, fork="happynear").layer("b").blob_names == ["scale"]


def test_a_fork_that_nobody_knows() -> None:
    with pytest.raises(GraphError, match=r"fork 'segnot' is not known\. Did you mean 'segnet'\? Known: bvlc, cob"):
        make_net(IMAGE, BN, fork="segnot")
    with pytest.raises(GraphError, match=r"^layer 'b': fork 'segnot' is not known"):
        make_net(IMAGE, layer("b", "BN", "x", more='fork: "segnot"'))
    with pytest.raises(GraphError, match=r"^net '[^']*': fork 'segnot' is not known"):
        make_net('fork: "segnot"', IMAGE, BN)


def test_a_fork_that_nobody_knows_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(f'fork: "segnot" {IMAGE} {BN}')
    with pytest.raises(GraphError, match=rf"^{path}: net '': fork 'segnot' is not known"):
        read_net(path)
    with pytest.raises(GraphError, match=r"^solver: fork 'segnot' is not known"):
        Solver(parse_text('fork: "segnot" base_lr: 1 lr_policy: "fixed" net_param { }', caffe_pb2.SolverParameter))


def test_a_plain_net_stays_as_it_is() -> None:
    text = (
        IMAGE,
        layer("c", "Convolution", "x", more="convolution_param { num_output: 2 kernel_size: 1 }"),
        layer("d", "Crop", "c x", "d", "crop_param { offset: 0 }"),
        layer("n", "BatchNorm", "d"),
        layer("r", "Dropout", "n"),
        layer("a", "Accuracy", "r x1", "a"),
        layer("l", "SoftmaxWithLoss", "r x1", "l", "loss_param { normalize: true }"),
    )
    param = net_param(text[0], input_layer("x1", 1, 1, 6, 6), *text[1:])
    assert not any(item.fork for item in filter_net(param).layer)
    assert [item.fork for item in filter_net(param).layer if item.type == "Accuracy"] == [""]


EDGES = (
    'layer { name: "data" type: "ImageLabelmapData" top: "x" top: "y" }\n',
    layer("l", "SigmoidCrossEntropyLoss", "x y", "l"),
)
SHAPES = {"x": (2, 1, 4, 5), "y": (2, 1, 4, 5)}


def test_a_loss_of_caffe_asks_in_a_net_of_hed() -> None:
    x = torch.zeros(2, 1, 4, 5)
    y = torch.zeros(2, 1, 4, 5)
    y[:, :, 0] = 1
    with pytest.raises(LayerError, match=r"hed \(balanced\) or rcf"):
        make_net(*EDGES, input_shapes=SHAPES)
    values = {
        fork: float(make_net(*EDGES, input_shapes=SHAPES, fork=fork)({"x": x, "y": y})["l"])
        for fork in ("hed", "rcf", "deepskeleton", "osvos", "bvlc")
    }
    log2 = float(np.log(2))
    balanced = 15 / 20 * 5 * log2 + 5 / 20 * 15 * log2
    assert values["hed"] == pytest.approx(balanced) and values["deepskeleton"] == pytest.approx(balanced)
    assert values["rcf"] == pytest.approx(15 / 20 * 5 * log2 + 1.1 * 5 / 20 * 15 * log2)
    assert values["osvos"] == values["bvlc"] == pytest.approx(20 * log2)
    # RCF's own type says it; a net of Caffe 1.0 is never asked.
    auto = layer("c", "AutoCrop", "x y", "c", "crop_param { offset: 0 }")
    assert make_net(EDGES[0], auto, EDGES[1], input_shapes=SHAPES).layer("l").param.fork == "rcf"
    plain = (input_layer("x", 2, 3), input_layer("y", 2, 3), layer("l", "SigmoidCrossEntropyLoss", "x y", "l"))
    assert not make_net(*plain).layer("l").param.fork


def test_softmax_asks_where_deepskeleton_may_have_changed_it() -> None:
    loss = layer("l", "SoftmaxWithLoss", "x y", "l")
    with pytest.raises(LayerError, match="deepskeleton"):
        make_net(EDGES[0], loss, input_shapes=SHAPES)
    assert make_net(EDGES[0], loss, input_shapes=SHAPES, fork="hed").layer("l").param.fork == "bvlc"


CROPPED = (
    input_layer("x", 1, 1, 11, 12),
    layer("c", "Convolution", "x", more="convolution_param { num_output: 1 kernel_size: 3 pad: 10 }"),
    layer("p", "Pooling", "c", more="pooling_param { kernel_size: 2 stride: 2 }"),
    layer("u", "Deconvolution", "p", more="convolution_param { num_output: 1 kernel_size: 4 stride: 2 }"),
)


@pytest.mark.parametrize("fork", ["hed", "rcf", "crfrnn", "deconvnet", "longjon", "deepskeleton"])
def test_crop_without_options_is_derived_in_forks(fork: str) -> None:
    crop = layer("crop", "Crop", "u x", "crop")
    assert list(make_net(*CROPPED, crop, fork=fork).layer("crop").offsets) == [10, 10]
    assert list(make_net(*CROPPED, crop).layer("crop").offsets) == [0, 0]
    assert list(make_net(*CROPPED, crop, fork="osvos").layer("crop").offsets) == [0, 0]
    trained = CROPPED[0].replace("input_param", "include { phase: TRAIN } input_param")  # as HED's data layer is
    assert list(make_net(trained, *CROPPED[1:], crop, phase=TRAIN, fork=fork).layer("crop").offsets) == [10, 10]
    given = layer("crop", "Crop", "u x", "crop", "crop_param { offset: 3 }")
    assert list(make_net(*CROPPED, given, fork=fork).layer("crop").offsets) == [3, 3]


def test_a_crop_that_forks_would_derive_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    crops = (layer("crop", "Crop", "u x", "a"), layer("crop", "Crop", "u x", "b"))
    make_net(*CROPPED, *crops)
    assert [record.getMessage() for record in caplog.records] == [
        "layer 'crop' (Crop) has no crop_param: its offset is 0, as in Caffe 1.0. HED, CRF-RNN, DeconvNet and the "
        "first release of FCN derive it: 10 here. Where the net is theirs say --fork hed, or Net(…, fork='hed')."
    ]
    caplog.clear()
    for options in ({"fork": "hed"}, {"fork": "bvlc"}):
        make_net(*CROPPED, *crops, **options)
    make_net(*CROPPED, layer("crop", "Crop", "u x", "a", "crop_param { axis: 2 }"))
    make_net(input_layer("u", 1, 1, 3, 3), input_layer("x", 1, 1, 2, 2), crops[0])
    assert not caplog.records


def test_a_solver_says_it_for_its_nets(tmp_path: Path) -> None:
    from fcn_caffe.training import Solver

    net = tmp_path / "net.prototxt"
    net.write_text(
        'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: [2, 4, 3, 3] } } }'
        + BN
        + layer("l", "Reduction", "b", "l", "loss_weight: 1")
    )
    (tmp_path / "s.prototxt").write_text(
        f'net: "{net}" fork: "pspnet" base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "{tmp_path}/s"'
    )
    assert len(Solver(tmp_path / "s.prototxt").net.params["b"]) == 4


def test_autocrop_is_derived_always_and_upgrading_leaves_it() -> None:
    auto = layer("crop", "AutoCrop", "u x", "crop")
    assert list(make_net(*CROPPED, auto).layer("crop").offsets) == [10, 10]
    with pytest.raises(GraphError, match=r"layer 'crop' \(AutoCrop\)"):
        make_net(CROPPED[0], input_layer("u", 1, 1, 20, 20), auto)
    assert "crop_param" not in write_text(upgrade(net_param(*CROPPED, auto)))


def test_hole_is_dilation_and_written_as_it_was() -> None:
    conv = layer("c", "Convolution", "x", more="convolution_param { num_output: 1 kernel_size: 3 hole: 2 }")
    assert make_net(IMAGE, conv).blob_shapes["c"] == (1, 1, 2, 2)
    two = conv.replace("hole: 2", "hole_h: 1 hole_w: 2")
    assert make_net(IMAGE, two).blob_shapes["c"] == (1, 1, 4, 2)
    assert "hole: 2" in write_text(upgrade(net_param(IMAGE, conv)))
    for wrong in ("hole: 2 dilation: 2", "hole: 2 hole_h: 2", "hole_h: 2"):
        with pytest.raises(GraphError, match=r"layer 'c' \(Convolution\): (has both hole|give hole)"):
            make_net(IMAGE, conv.replace("hole: 2", wrong))


def test_names_of_old_layers() -> None:
    text = (
        'input: "x" input_dim: [1, 4, 6, 6]',
        'layers { name: "b" type: BN bottom: "x" top: "b" bn_param { bn_mode: LEARN } blobs_lr: [1, 1] }',
        'layers { name: "p" type: POOLING bottom: "b" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 } }',
        'layers { name: "u" type: UNPOOLING bottom: "p" bottom: "m" top: "u"',
        "unpooling_param { kernel_size: 2 stride: 2 unpool_size: 6 } }",
        'layers { name: "i" type: INTERP bottom: "u" top: "i" interp_param { zoom_factor: 2 } }',
        'layers { name: "q" type: PADDING bottom: "i" top: "q" padding_param { pad_beg: 1 } }',
        'layers { name: "y" type: DUMMY_DATA top: "y" dummy_data_param { shape { dim: [1, 1, 12, 12] } } }',
        'layers { name: "a" type: SEG_ACCURACY bottom: "q" bottom: "y" top: "a" }',
    )
    net = make_net(*text)
    assert net.blob_shapes["a"] == (1, 1, 1, 3)
    types = [item.layer_type for item in net.layers_in_order]
    assert types[1:] == ["BN", "Pooling", "Unpooling", "Interp", "Padding", "DummyData", "SegAccuracy"]
    with pytest.raises(PrototxtError, match="the type is of DeepLab's and PSPNet's Caffe"):
        net_param('layers { name: "m" type: DENSE_CRF bottom: "x" top: "m" dense_crf_param { max_iter: 1 } }')


def test_weights_say_what_batch_norm_is() -> None:
    norm = layer("n", "BatchNorm", "x")
    net = make_net(IMAGE, norm, blob_counts={"n": 5})
    assert net.layer("n").blob_names == ["mean", "variance", "scale_factor", "scale", "bias"]
    arrays = [np.full(4, 6.0), np.full(4, 12.0), np.full(1, 3.0)]
    copy_weights(net, {"n": [array.astype(np.float32) for array in arrays]})
    assert [blob.reshape(-1)[0].item() for blob in net.params["n"]] == [2, 4, 1, 1, 0]
    old = [np.full(4, 5.0), np.full(4, 7.0), np.full(4, 2.0), np.full(4, 4.0), np.full(1, 9.0)]
    copy_weights(net, {"n": [array.astype(np.float32) for array in old]})
    assert [blob.reshape(-1)[0].item() for blob in net.params["n"]] == [2, 4, 1, 5, 7]
    today = [np.full(4, 1.0), np.full(4, 2.0), np.full(1, 3.0), np.full(4, 4.0), np.full(4, 5.0)]
    copy_weights(net, {"n": [array.astype(np.float32) for array in today]})
    assert [blob.reshape(-1)[0].item() for blob in net.params["n"]] == [1, 2, 3, 4, 5]
    assert len(make_net(IMAGE, norm).layer("n").blobs) == 3
    # Intel's divides by the third blob; of its five the last may be missing.
    arrays = [np.full(4, 6.0), np.full(4, 12.0), np.full(1, 3.0), np.full(4, 4.0), np.full(4, 5.0)]
    x = torch.rand(1, 4, 6, 6)
    for count, options in ((4, {}), (5, {"fork": "intel"})):
        intel = make_net(IMAGE, norm, blob_counts={"n": count}, **options)
        copy_weights(intel, {"n": [array.astype(np.float32) for array in arrays[:count]]})
        wanted = (x - 2) / (4 + 1e-5) ** 0.5 * 4 + (5 if count == 5 else 0)
        torch.testing.assert_close(intel(x=x)["n"], wanted)


def test_commands_take_fork_and_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(IMAGE + BN)
    run = ["--iterations", "1", "--warm-up", "1"]
    assert time_net.main(["--model", str(file), *run]) == 1
    assert "Say it: --fork segnet" in capsys.readouterr().err
    assert time_net.main(["--model", str(file), "--fork", "pspnet", *run]) == 0
    assert time_net.main(["--model", str(file), *run]) == 1  # it was said for that run alone
    assert time_net.main(["--model", str(file), "--fork", "none", *run]) == 1
    assert "fork 'none' is not known" in capsys.readouterr().err
    assert time_net.main(["--model", str(file), "--fork", "pspnet", "--strict", *run]) == 1
    assert "the type is of SegNet's, ENet's and DeconvNet's (two blobs)" in capsys.readouterr().err
    shapes = ["--shapes", "--phase", "TEST", "--fork", "segnet"]
    assert draw_net.main([str(file), str(tmp_path / "net.dot"), *shapes]) == 0
    file.write_text('layer { name: "b" type: "BN" bn_param { frozen: true } }')
    assert upgrade_net.main([str(file), str(tmp_path / "out"), "--strict"]) == 1
    assert not (tmp_path / "out").exists()


def write_pspnet(folder: Path) -> None:
    """Write a net whose BN does not say whose it is, and weights of PSPNet's: slope 1, bias 1, mean 0, variance 3."""
    (folder / "net.prototxt").write_text(IMAGE + BN)
    one = np.ones((1, 4, 1, 1), np.float32)
    save_weights(folder / "w.caffemodel", {"b": [one, one, 0 * one, 3 * one]})


def test_time_net_looks_at_the_weights(tmp_path: Path) -> None:
    write_pspnet(tmp_path)
    net, weights = str(tmp_path / "net.prototxt"), str(tmp_path / "w.caffemodel")
    assert time_net.main([net, "--weights", weights, "--iterations", "1", "--warm-up", "1"]) == 0


def test_infer_looks_at_the_weights(tmp_path: Path) -> None:
    from fcn_caffe.evaluation.infer import trained_net

    write_pspnet(tmp_path)
    net = trained_net(tmp_path / "net.prototxt", tmp_path / "w.caffemodel")
    assert net.layer("b").param.fork == "pspnet"
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(net(x=x)["b"], x / (3 + 1e-5) ** 0.5 + 1)
    assert "--fork" in infer.parser().format_help() and "--strict" in infer.parser().format_help()


def test_ones_own_class_takes_the_place_of_a_forks() -> None:
    from fcn_caffe.layers.base import REGISTRY, VARIANTS, SameShapeLayer, register

    before, variants = REGISTRY["BN"], dict(VARIANTS)
    try:

        @register("BN")
        class Own(SameShapeLayer):
            """Nothing."""

            def forward(self, bottom: torch.Tensor) -> torch.Tensor:
                return bottom

        assert isinstance(make_net(IMAGE, BN, fork="segnet").layer("b"), Own)
    finally:
        REGISTRY["BN"] = before
        VARIANTS.update(variants)
    assert blobs(BN, fork="segnet") == 2


def test_strict_reads_caffe_alone(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(IMAGE + layer("d", "Dropout", "x", more="dropout_param { sample_weights_test: true }"))
    assert Net(file).layer("d").param.fork == "segnet"
    with pytest.raises(FcnCaffeError, match=r"dropout_param\.sample_weights_test is of SegNet's and ENet's Caffe"):
        Net(file, strict=True)
