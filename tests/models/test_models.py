"""The paper's nets: built in every form, equal to the released layers field by field, their files up to date."""

from __future__ import annotations

import ast
from functools import lru_cache

import numpy as np
import pytest
import torch
from oracle import cases, load
from places import ROOT

from fcn_caffe import TEST, TRAIN, GraphError, Net
from fcn_caffe.commands.make_nets import main as make_nets
from fcn_caffe.models import (
    NETS,
    PUBLISHED,
    RECIPES,
    DataSource,
    Start,
    Vgg,
    classifier,
    fcn,
    how_to_get,
    make_net,
    starts_of,
)
from fcn_caffe.models.files import all_files
from fcn_caffe.net.graph import filter_net
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.stage import start_from
from fcn_caffe.weights.surgery import transplant, upsample_filter
from fcn_caffe.weights.transfer import save_weights

SIZE = 61  # of the images the nets are built with here


@lru_cache
def files():
    return all_files()


def layers(name, phase=TRAIN, stages=()):
    """The layers of a state without what makes one file hold all states: what the released file of that state has."""
    kept = filter_net(make_net(name), phase, stages).layer
    for layer in kept:
        for field in ("include", "exclude", "phase"):
            layer.ClearField(field)
    return {layer.name: layer for layer in kept}


def layer(text):
    return parse_text(text, caffe_pb2.LayerParameter)


@pytest.mark.parametrize("path", files())
def test_files_are_as_make_nets_writes_them(path):
    assert (ROOT / path).read_text(encoding="utf-8") == files()[path], "run tools/make_nets.py"


def test_make_nets_writes_and_checks(tmp_path, capsys):
    assert make_nets(["--out", str(tmp_path), "--check"]) == 1
    assert not list(tmp_path.iterdir())
    assert make_nets(["--out", str(tmp_path)]) == 0
    assert make_nets(["--out", str(tmp_path), "--check"]) == 0
    changed = tmp_path / "nets/voc-fcn8s.prototxt"
    changed.write_text(changed.read_text().replace("offset: 31", "offset: 30"))
    assert make_nets(["--out", str(tmp_path), "--check"]) == 1
    assert str(changed) in capsys.readouterr().err


PARAMETERS = {
    "voc-fcn32s": 136152917,
    "voc-fcn8s": 134489759,
    "voc-fcn8s-atonce": 134490527,
    "nyud-fcn32s-color-hha": 275402448,
}


@pytest.mark.parametrize("name", NETS)
def test_builds_in_every_form_and_scores_every_pixel(name):
    net = make_net(name)
    channels = {"color": 3, "depth": 1, "hha": 3, "data": 3}
    data = next(layer for layer in net.layer if layer.type == "Python")
    shapes = {top: (1, channels.get(top, 1), SIZE, SIZE + 9) for top in data.top}
    for phase in (TRAIN, TEST):
        built = Net(net, phase, device="meta", input_shapes=shapes)
        assert all(shape == () for shape in (built.blob_shapes[top] for top in built.graph.outputs))
        for score, label in RECIPES[name].heads:
            assert built.blob_shapes[score][2:] == built.blob_shapes[label][2:]
        assert "Dropout" in {node.type for node in built.graph.nodes}
    deploy = Net(net, TEST, stages=["deploy"], device="meta")
    assert set(deploy.graph.outputs) == {score for score, _ in RECIPES[name].heads}
    assert not {"Dropout", "SoftmaxWithLoss", "Python"} & {node.type for node in deploy.graph.nodes}
    count = sum(blob.numel() for blobs in deploy.params.values() for blob in blobs)
    assert count == PARAMETERS.get(name, count) and deploy.name == name


RELEASED = {
    ("voc-fcn8s", "data", TRAIN): """name: "data" type: "Python" top: "data" top: "label" python_param {
        module: "voc_layers" layer: "SBDDSegDataLayer"
        param_str: "{'sbdd_dir': '../data/sbdd/dataset', 'seed': 1337, 'split': 'train', "
                   "'mean': (104.00699, 116.66877, 122.67892)}" }""",
    ("voc-fcn8s", "data", TEST): """name: "data" type: "Python" top: "data" top: "label" python_param {
        module: "voc_layers" layer: "VOCSegDataLayer"
        param_str: "{'voc_dir': '../data/pascal/VOC2011', 'seed': 1337, 'split': 'seg11valid', "
                   "'mean': (104.00699, 116.66877, 122.67892)}" }""",
    ("voc-fcn8s", "conv1_1", TRAIN): """name: "conv1_1" type: "Convolution" bottom: "data" top: "conv1_1"
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 64 pad: 100 kernel_size: 3 stride: 1 }""",
    ("voc-fcn8s", "relu1_1", TRAIN): 'name: "relu1_1" type: "ReLU" bottom: "conv1_1" top: "conv1_1"',
    ("voc-fcn8s", "pool1", TRAIN): """name: "pool1" type: "Pooling" bottom: "conv1_2" top: "pool1"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 }""",
    ("voc-fcn8s", "fc6", TRAIN): """name: "fc6" type: "Convolution" bottom: "pool5" top: "fc6"
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 4096 pad: 0 kernel_size: 7 stride: 1 }""",
    ("voc-fcn8s", "drop7", TRAIN): """name: "drop7" type: "Dropout" bottom: "fc7" top: "fc7"
        dropout_param { dropout_ratio: 0.5 }""",
    ("voc-fcn8s", "score_fr", TRAIN): """name: "score_fr" type: "Convolution" bottom: "fc7" top: "score_fr"
        param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
        convolution_param { num_output: 21 pad: 0 kernel_size: 1 }""",
    ("voc-fcn8s", "upscore2", TRAIN): """name: "upscore2" type: "Deconvolution" bottom: "score_fr" top: "upscore2"
        param { lr_mult: 0 } convolution_param { num_output: 21 bias_term: false kernel_size: 4 stride: 2 }""",
    ("voc-fcn8s", "score_pool4c", TRAIN): """name: "score_pool4c" type: "Crop" bottom: "score_pool4"
        bottom: "upscore2" top: "score_pool4c" crop_param { axis: 2 offset: 5 }""",
    ("voc-fcn8s", "fuse_pool3", TRAIN): """name: "fuse_pool3" type: "Eltwise" bottom: "upscore_pool4"
        bottom: "score_pool3c" top: "fuse_pool3" eltwise_param { operation: SUM }""",
    ("voc-fcn8s", "score", TRAIN): """name: "score" type: "Crop" bottom: "upscore8" bottom: "data" top: "score"
        crop_param { axis: 2 offset: 31 }""",
    ("voc-fcn8s", "loss", TRAIN): """name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
        loss_param { ignore_label: 255 normalize: false }""",
    ("voc-fcn8s-atonce", "scale_pool3", TRAIN): """name: "scale_pool3" type: "Scale" bottom: "pool3"
        top: "scale_pool3" param { lr_mult: 0 } scale_param { filler { type: "constant" value: 0.0001 } }""",
    ("voc-fcn-alexnet", "conv1", TRAIN): """name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 96 pad: 100 kernel_size: 11 group: 1 stride: 4 }""",
    ("voc-fcn-alexnet", "fc7", TRAIN): """name: "fc7" type: "Convolution" bottom: "fc6" top: "fc7"
        convolution_param { num_output: 4096 pad: 0 kernel_size: 1 group: 1 stride: 1 }""",
    ("voc-fcn-alexnet", "norm2", TRAIN): """name: "norm2" type: "LRN" bottom: "pool2" top: "norm2"
        lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }""",
    ("voc-fcn-alexnet", "upscore", TRAIN): """name: "upscore" type: "Deconvolution" bottom: "score_fr" top: "upscore"
        param { lr_mult: 0 } convolution_param { num_output: 21 bias_term: false kernel_size: 63 stride: 32 }""",
    ("voc-fcn-alexnet", "loss", TRAIN): """name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label"
        top: "loss" loss_param { ignore_label: 255 normalize: true }""",
    ("nyud-fcn32s-color-d", "data", TEST): """name: "data" type: "Concat" bottom: "color" bottom: "depth" top: "data"
        """,
    ("nyud-fcn32s-color-hha", "score_fused", TRAIN): """name: "score_fused" type: "Eltwise" bottom: "score_frcolor"
        bottom: "score_frhha" top: "score_fused" eltwise_param { operation: SUM coeff: 0.5 coeff: 0.5 }""",
    ("siftflow-fcn16s", "upscore16_geo", TRAIN): """name: "upscore16_geo" type: "Deconvolution" bottom: "fuse_pool4_geo"
        top: "upscore16_geo" param { lr_mult: 0 }
        convolution_param { num_output: 3 bias_term: false kernel_size: 32 stride: 16 }""",
    ("siftflow-fcn16s", "loss_geo", TRAIN): """name: "loss_geo" type: "SoftmaxWithLoss" bottom: "score_geo"
        bottom: "geo" top: "loss_geo" loss_param { ignore_label: 255 normalize: false }""",
}  # fmt: skip


@pytest.mark.parametrize(("name", "which", "phase"), RELEASED)
def test_layers_are_the_released_ones_field_by_field(name, which, phase):
    assert layers(name, phase)[which] == layer(RELEASED[name, which, phase])


ORDER = {
    "voc-fcn8s": """data conv1_1 relu1_1 conv1_2 relu1_2 pool1 conv2_1 relu2_1 conv2_2 relu2_2 pool2 conv3_1 relu3_1
        conv3_2 relu3_2 conv3_3 relu3_3 pool3 conv4_1 relu4_1 conv4_2 relu4_2 conv4_3 relu4_3 pool4 conv5_1 relu5_1
        conv5_2 relu5_2 conv5_3 relu5_3 pool5 fc6 relu6 drop6 fc7 relu7 drop7 score_fr upscore2 score_pool4
        score_pool4c fuse_pool4 upscore_pool4 score_pool3 score_pool3c fuse_pool3 upscore8 score loss""",
    "voc-fcn-alexnet": """data conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2 conv3 relu3 conv4 relu4 conv5 relu5
        pool5 fc6 relu6 drop6 fc7 relu7 drop7 score_fr upscore score loss""",
}


@pytest.mark.parametrize("name", ORDER)
def test_layers_in_the_released_order(name):
    assert list(layers(name)) == ORDER[name].split()
    deployed = ["input", *(it for it in ORDER[name].split()[1:-1] if not it.startswith("drop"))]
    assert list(layers(name, TEST, ["deploy"])) == deployed


ORACLES = {
    "fcn32s": "voc-fcn32s",
    "fcn16s": "voc-fcn16s",
    "fcn8s": "voc-fcn8s",
    "fcn8s_atonce": "voc-fcn8s-atonce",
    "alexnet": "voc-fcn-alexnet",
    "two_head": "siftflow-fcn16s",
    "late_fusion": "nyud-fcn32s-color-hha",
}


def test_every_narrow_net_is_compared():
    assert sorted(ORACLES) == cases("nets")


@pytest.mark.parametrize("case", ORACLES)
def test_wired_as_the_nets_that_caffe_ran(case):
    """Same layers in the same wiring as the narrow nets; only widths, and what the narrow nets leave unsaid, differ."""

    def plain(layer):
        kept = caffe_pb2.LayerParameter()
        kept.CopyFrom(layer)
        convolution = kept.convolution_param
        convolution.ClearField("num_output")
        for field, default in (("stride", 1), ("pad", 0)):
            if list(getattr(convolution, field)) == [default]:
                convolution.ClearField(field)
        if convolution.group == 1:
            convolution.ClearField("group")
        if not convolution.ListFields():
            kept.ClearField("convolution_param")
        if layer.type == "ReLU":
            kept.name = f"relu of {layer.top[0]}"
        if layer.type == "Scale":  # the narrow net has its constant 0.01 from the oracle's rule
            kept.ClearField("scale_param")
        return kept

    narrow = parse_text(str(load("nets")[f"{case}/prototxt"]), caffe_pb2.NetParameter)
    ours = [plain(it) for it in layers(ORACLES[case]).values() if it.type not in ("Python", "Dropout")]
    theirs = [plain(it) for it in narrow.layer if it.type != "Input"]
    assert {it.name: it for it in ours} == {it.name: it for it in theirs} and len(ours) == len(theirs)


def test_data_layers_options_are_the_papers():
    for name in NETS:
        for phase in (TRAIN, TEST):
            data = next(it for it in layers(name, phase).values() if it.type == "Python")
            options = ast.literal_eval(data.python_param.param_str)
            assert options["seed"] == 1337
            splits = dict.fromkeys(("voc", "cvpr"), ("train", "seg11valid")) | {"pascalcontext": ("train", "val")}
            assert options["split"] == splits.get(name.split("-")[0], ("trainval", "test"))[phase]
            if name.startswith("nyud"):
                assert len(options["tops"]) == len(data.top)


SOLVERS = {  # base_lr, momentum, iter_size, max_iter, snapshot, test_iter, starts from, steps x step
    "voc-fcn32s": (1e-10, 0.99, 1, 100000, 4000, 736, ["vgg16fc"], 25, 4000),
    "voc-fcn16s": (1e-12, 0.99, 1, 100000, 4000, 736, ["voc-fcn32s"], 25, 4000),
    "voc-fcn8s": (1e-14, 0.99, 1, 100000, 4000, 736, ["voc-fcn16s"], 25, 4000),
    "voc-fcn8s-atonce": (1e-10, 0.99, 1, 300000, 4000, 736, ["vgg16fc"], 75, 4000),
    "voc-fcn-alexnet": (1e-4, 0.9, 20, 100000, 4000, 736, ["caffenetfc"], 25, 4000),
    "voc-fcn-googlenet": (5e-5, 0.9, 20, 100000, 4000, 736, ["googlenetfc"], 25, 4000),
    "cvpr-fcn32s": (1e-4, 0.9, 20, 100000, 4000, 736, ["vgg16fc"], 25, 4000),
    "cvpr-fcn16s": (1e-6, 0.9, 20, 100000, 4000, 736, ["cvpr-fcn32s"], 25, 4000),
    "cvpr-fcn8s": (1e-8, 0.9, 20, 100000, 4000, 736, ["cvpr-fcn16s"], 25, 4000),
    "cvpr-fcn-alexnet": (1e-3, 0.9, 20, 100000, 4000, 736, ["caffenetfc"], 25, 4000),
    "cvpr-fcn-googlenet": (5e-5, 0.9, 20, 100000, 4000, 736, ["googlenetfc"], 25, 4000),
    "nyud-fcn32s-color": (1e-10, 0.99, 1, 300000, 2000, 654, ["vgg16fc"], 50, 2000),
    "nyud-fcn32s-hha": (1e-10, 0.99, 1, 300000, 2000, 654, ["vgg16fc"], 50, 2000),
    "nyud-fcn32s-color-d": (1e-10, 0.99, 1, 300000, 2000, 654, ["vgg16fc"], 50, 2000),
    "nyud-fcn32s-color-hha": (
        1e-12, 0.99, 1, 300000, 2000, 654, ["nyud-fcn32s-color", "nyud-fcn32s-hha"], 50, 2000,
    ),
    "nyud-fcn16s-hha": (1e-12, 0.99, 1, 300000, 2000, 654, ["nyud-fcn32s-hha"], 50, 2000),
    "nyud-fcn16s-rgb-hha": (1e-14, 0.99, 1, 300000, 2000, 654, ["nyud-fcn32s-color-hha"], 50, 2000),
    "siftflow-fcn32s": (1e-10, 0.99, 1, 300000, None, 200, ["vgg16fc"], 50, 2000),
    "siftflow-fcn16s": (1e-12, 0.99, 1, 300000, None, 200, ["siftflow-fcn32s"], 50, 2000),
    "siftflow-fcn8s": (1e-12, 0.99, 1, 300000, None, 200, ["siftflow-fcn16s"], 50, 2000),
    "pascalcontext-fcn32s": (1e-10, 0.99, 1, 300000, 4000, 5105, ["vgg16fc"], 50, 8000),
    "pascalcontext-fcn16s": (1e-12, 0.99, 1, 300000, 4000, 5105, ["pascalcontext-fcn32s"], 50, 8000),
    "pascalcontext-fcn8s": (1e-14, 0.99, 1, 300000, 4000, 5105, ["pascalcontext-fcn16s"], 50, 8000),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_solvers_are_those_of_the_table(name):
    lr, momentum, iter_size, max_iter, snapshot, test_iter, starts, steps, step = SOLVERS[name]
    param = parse_text(files()[f"solvers/{name}.prototxt"], caffe_pb2.SolverParameter)
    wanted = caffe_pb2.SolverParameter(
        net=f"nets/{name}.prototxt",
        base_lr=lr,
        momentum=momentum,
        iter_size=iter_size,
        max_iter=max_iter,
        test_iter=[test_iter],
        weights=[f"weights/{start}.caffemodel" for start in starts],
        lr_policy="fixed",
        weight_decay=2e-4 if name == "cvpr-fcn-googlenet" else 5e-4,
        average_loss=20,
        display=20,
        test_initialization=False,
        test_interval=999999999,
        snapshot_prefix=f"snapshot/{name}/train",
    )
    if snapshot is not None:
        wanted.snapshot = snapshot
    assert param == wanted
    assert (RECIPES[name].steps, RECIPES[name].step) == (steps, step)
    assert RECIPES.keys() == NETS.keys() == SOLVERS.keys()


def test_weights_say_how_they_start_a_stage():
    start = starts_of("nyud-fcn32s-color-hha", "elsewhere/nyud-fcn32s-hha.caffemodel")
    assert start == Start("elsewhere/nyud-fcn32s-hha.caffemodel", "hha", "transplant")
    assert starts_of("voc-fcn8s", "other.caffemodel") == Start("other.caffemodel", "", "copy")
    assert starts_of("mine", "weights/voc-fcn32s.caffemodel") == Start("weights/voc-fcn32s.caffemodel", "", "copy")
    depth = starts_of("nyud-fcn32s-color-d", "mine/nyud-fcn32s-color.caffemodel")
    assert depth == Start("mine/nyud-fcn32s-color.caffemodel", "", "copy", ("conv1_1_bgrd", "conv1_1"))


def test_a_missing_file_is_told_with_its_origin():
    assert "VGG_ILSVRC_16_layers.caffemodel" in how_to_get("weights/vgg16fc.caffemodel")
    line = how_to_get("weights/voc-fcn32s.caffemodel")
    assert "fcn32s-heavy-pascal.caffemodel" in line and "fcn-caffe solve solvers/voc-fcn32s.prototxt" in line
    assert "no solver makes it" in how_to_get("weights/mine.caffemodel")
    starts = {start.weights.removeprefix("weights/") for recipe in RECIPES.values() for start in recipe.starts}
    assert starts <= PUBLISHED.keys() | {"cvpr-fcn32s.caffemodel", "cvpr-fcn16s.caffemodel"}
    assert how_to_get("weights/cvpr-fcn16s.caffemodel").endswith(
        "is not there. Train it with `fcn-caffe solve solvers/cvpr-fcn16s.prototxt`."
    )


CVPR = [name for name in NETS if name.startswith("cvpr-")]


@pytest.mark.parametrize("name", CVPR)
def test_the_text_of_cvpr_2015(name):
    """A loss averaged over pixels, doubled bias rates, zero scores, dropout, and only the last upsampling fixed."""
    net = layers(name)
    released = layers(name.replace("cvpr", "voc"))
    assert net.keys() == released.keys() and net["loss"].loss_param.normalize
    assert "drop6" in net or "pool5/drop_7x7_s1" in net
    for layer_name, it in net.items():
        if it.type == "Convolution":
            assert [param.lr_mult for param in it.param] == [1, 2], layer_name
            assert it.convolution_param == released[layer_name].convolution_param
        if it.type == "Convolution" and layer_name.startswith("score"):
            assert it.convolution_param.weight_filler.type == "constant"  # Caffe's default: zero
            assert it.convolution_param.weight_filler.value == 0
    rates = [it.param[0].lr_mult for it in net.values() if it.type == "Deconvolution"]
    assert rates == [1] * (len(rates) - 1) + [0]


def test_a_learned_upsampling_is_not_set_back_to_bilinear(tmp_path):
    """As between cvpr-fcn16s and 8s; what is fixed is bilinear whatever the file holds."""
    up = "convolution_param {{ num_output: 2 bias_term: false kernel_size: 4 stride: 2 }} param {{ lr_mult: {} }}"
    text = (
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }'
        f'layer {{ name: "up1" type: "Deconvolution" bottom: "data" top: "up1" {up.format(1)} }}'
        f'layer {{ name: "up2" type: "Deconvolution" bottom: "up1" top: "up2" {up.format(0)} }}'
        f'layer {{ name: "up3" type: "Deconvolution" bottom: "up2" top: "up3" {up.format(1)} }}'
    )
    net = Net(parse_text(text, caffe_pb2.NetParameter))
    before = {name: [np.full((2, 2, 4, 4), 5, np.float32)] for name in ("up1", "up2")}
    save_weights(tmp_path / "before.caffemodel", before)
    start_from(net, [Start(str(tmp_path / "before.caffemodel"))])
    bilinear = torch.from_numpy(upsample_filter(4))
    assert (net.params["up1"][0] == 5).all()
    for name in ("up2", "up3"):
        assert torch.equal(net.params[name][0][0, 0], bilinear) and not net.params[name][0][0, 1].any()


GOOGLENET = {
    "conv1/7x7_s2": 'bottom: "data" convolution_param { num_output: 64 pad: 18 kernel_size: 7 stride: 2 }',
    "inception_4e/5x5": """bottom: "inception_4e/5x5_reduce"
        convolution_param { num_output: 128 pad: 2 kernel_size: 5 stride: 1 }""",
}


def test_googlenet_is_bvlcs():
    found = layers("voc-fcn-googlenet")
    for name, text in GOOGLENET.items():
        rates = "param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }"
        assert found[name] == layer(f'name: "{name}" type: "Convolution" top: "{name}" {rates} {text}')
    assert {"conv1/relu_7x7", "conv2/relu_3x3_reduce", "pool1/norm1", "conv2/norm2", "pool4/3x3_s2"} <= found.keys()
    assert list(found["inception_3a/output"].bottom) == [
        f"inception_3a/{part}" for part in ("1x1", "3x3", "5x5", "pool_proj")
    ]
    built = Net(make_net("voc-fcn-googlenet"), TEST, stages=["deploy"], device="meta")
    widths = {name: shape[1] for name, shape in built.blob_shapes.items() if name.endswith("/output")}
    assert list(widths.values()) == [256, 480, 512, 512, 512, 528, 832, 832, 1024]
    trunk = sum(blob.numel() for name, blobs in built.params.items() if "/" in name for blob in blobs)
    assert trunk == 6998552 - 1025000  # BVLC's GoogLeNet without auxiliary heads, less its last classifier


def test_googlenets_scores_cover_images_of_every_size():
    net = Net(make_net("voc-fcn-googlenet"), TEST, stages=["deploy"], device="meta")
    for size in [*range(1, 40), 63, 64, 65, 127, 128, 129, 499]:
        assert net(data=torch.empty(1, 3, size, size + 3, device="meta"))["score"].shape == (1, 21, size, size + 3)


TINY = Vgg((1, 1, 1, 1, 1), (4, 4, 6, 6, 8), 10, 3, filler="msra")
PICTURES = DataSource("m", ("Train", {}), ("Test", {}), {"data": 3})


@pytest.mark.parametrize(("kernel", "stride"), [(1, 32), (3, 16), (4, 8), (7, 8)])
def test_an_fcn_for_any_task(kernel, stride):
    trunk = Vgg((1, 2, 1, 2, 1), (4, 4, 6, 6, 8), 10, kernel, filler="xavier", rate=0)
    param = fcn("mine", PICTURES, 5, stride, trunk, normalize=True)
    net, shapes = Net(param, TEST, stages=["deploy"]), Net(param, TEST, stages=["deploy"], device="meta")
    for size in range(1, 70):
        assert shapes(data=torch.empty(1, 3, size, 50, device="meta"))["score"].shape == (1, 5, size, 50)
    offsets = {it.name: list(it.crop_param.offset) for it in param.layer if it.type == "Crop"}
    assert offsets["score"] == [{32: 19, 16: 27, 8: 31}[stride]]
    learned = {item.layer for item in net.learnable_params if item.lr_mult}
    assert learned == {name for name in net.params if name.startswith("score")}
    assert all(net.params[name][0].count_nonzero() for name in ("conv1_1", "fc6", "fc7"))
    assert not any(net.params[name][0].count_nonzero() for name in learned)


@pytest.mark.parametrize(("kernel", "stride"), [(0, 32), (2, 16), (3, 8)])
def test_a_kernel_too_small_for_the_skips_is_refused(kernel, stride):
    with pytest.raises(GraphError, match=f"stride {stride} needs an fc6 kernel of at least {kernel + 1}, got {kernel}"):
        fcn("mine", PICTURES, 5, stride, Vgg((1,) * 5, (4,) * 5, 10, kernel))


def test_a_classifier_convolutionalised_by_transplant_gives_its_own_scores():
    """With the same padding, the FCN's one score of an image of the classifier's size is the classifier's."""
    torch.manual_seed(0)
    size = 32 * TINY.fc_kernel
    param = classifier("c", PICTURES, 5, TINY)
    for it in param.layer:
        if it.type == "Input":
            it.input_param.shape[0].dim[2:] = [size, size]
    small = Net(param, TEST, stages=["deploy"])
    with torch.no_grad():
        for blob in small.parameters():
            blob.normal_(0, 0.3)
    large = fcn("f", PICTURES, 5, 32, TINY)
    first = next(it for it in large.layer if it.name == "conv1_1")
    first.convolution_param.pad[:] = [1]  # no more than the classifier's
    del large.layer[[it.name for it in large.layer].index("upscore") :]
    net = Net(large, TEST, stages=["deploy"])
    weights = {name: [blob.detach().numpy() for blob in blobs] for name, blobs in small.params.items()}
    weights["score_fr"] = [weights["score"][0][:, :, None, None], weights.pop("score")[1]]
    report = transplant(net, weights)
    assert "fc6 blob 0 10x72 to 10x8x3x3" in report.coerced
    image = torch.randn(1, 3, size, size)
    found = net(data=image)["score_fr"]
    wanted = small(data=image)["score"]
    assert found.shape == (1, 5, 1, 1)
    assert np.allclose(found.flatten().detach(), wanted.flatten().detach(), rtol=1e-4, atol=1e-5)
