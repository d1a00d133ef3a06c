"""What a doubter would try: more ways to spoil a net or solver are named, and the same said otherwise still holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_paper_claims import DIFFERING, ROOT, STATIC_IDS, found_by, layer, linked, others, spoil

from fcn_caffe import GraphError
from fcn_caffe.net.coord_map import crop_offset
from fcn_caffe.net.graph import Graph, read_net
from fcn_caffe.paper.audit.claims import CHECKS, STATIC
from fcn_caffe.paper.audit.files import AuditedFiles

V32, V16, AT = "nets/voc-fcn32s", "nets/voc-fcn16s", "nets/voc-fcn8s-atonce"
ALEX, GOOGLE, S32 = "nets/voc-fcn-alexnet", "nets/voc-fcn-googlenet", "solvers/voc-fcn32s"
LATE, EARLY = "nets/nyud-fcn32s-color-hha", "nets/nyud-fcn32s-color-d"
DATA = r'(SBDDSegDataLayer"\n    param_str: ")[^\n]*'
EXCLUDED = r"  exclude \{[^}]*\}\n"


@pytest.fixture(scope="module")
def ours():
    audited = AuditedFiles(ROOT)
    for name in STATIC_IDS:
        CHECKS[name].run(audited)
    return audited


@pytest.fixture
def copy(tmp_path):
    return linked(tmp_path)


def block(name):
    return rf'(layer \{{\n  name: "{name}".*?\n\}}\n)'


def extra(kind, blob, more=""):
    return f'layer {{ name: "extra" type: "{kind}" bottom: "{blob}" top: "{blob}" {more} }}\n'


# File, what is replaced, by what; words of one row of a claim that differs.
BREAKS = [
    (V32, block("relu3_1") + block("conv3_2"), r"\2\1", "relu3_1"),
    (V32, block("conv3_2"), r"\1\1", "conv3_2"),
    (V32, block("relu3_2"), r"\1\1", "relu3_2"),
    (V32, layer("conv3_1", 'top: "conv3_1"'), r"\1" 'top: "elsewhere"', "conv3_1"),
    (V32, layer("conv3_3", 'bottom: "conv3_2"'), r"\1" 'bottom: "conv3_1"', "conv3_3"),
    (V32, layer("conv3_2", r"  param \{.*?\}\n  param \{.*?\}\n"), r"\1", "conv3_2"),
    (V32, layer("conv3_2", "lr_mult: 1"), r'\1name: "w" lr_mult: 1', "conv3_2"),
    (V32, layer("conv3_2", "  convolution_param"), r"\1param { lr_mult: 5 } convolution_param", "conv3_2"),
    (V32, layer("conv3_2", "num_output"), r"\1bias_term: false num_output", "conv3_2"),
    (V32, layer("conv3_2", "num_output"), r"\1dilation: 2 num_output", "conv3_2"),
    (V32, layer("conv3_2", "kernel_size: 3"), r"\1kernel_h: 3 kernel_w: 5", "conv3_2"),
    (V32, layer("conv3_2", "kernel_size: 3"), r"\1kernel_size: [3, 3, 3] stride: [1, 1]", "conv3_2"),
    (V32, layer("conv3_2", "num_output"), r"\1stride: 0 num_output", "conv3_2"),
    (V32, layer("conv3_2", "num_output: 256"), r"\1num_output: 4294967295", "conv3_2"),
    (V32, layer("conv3_2", "lr_mult: 1"), r"\1lr_mult: nan", "conv3_2"),
    (V32, block("conv3_1"), r"\1" + extra("BatchNorm", "conv3_1"), "extra"),
    (V32, block("score_fr"), r"\1" + extra("ReLU", "score_fr"), "extra"),
    (V32, block("input"), r"\1" + extra("Power", "data", "power_param { scale: 0.004 }"), "extra"),
    (V32, layer("relu3_1", 'type: "ReLU"'), r'\1type: "ReLU" relu_param { negative_slope: 0.1 }', "relu3_1"),
    (V32, layer("relu3_1", 'type: "ReLU"'), r'\1type: "ReLU" include { min_level: 1 }', "relu3_1"),
    (V32, layer("pool2", "stride: 2"), r"\1stride: 0", "pool2"),
    (V32, layer("pool2", "stride: 2"), r"\1stride: 2 round_mode: FLOOR", "pool2"),
    (V32, layer("pool2", "kernel_size: 2"), r"\1kernel_h: 2 kernel_w: 3", "pool2"),
    (V32, layer("pool2", " *kernel_size: 2\n"), r"\1", "pool2"),
    (V32, layer("drop6", "dropout_ratio: 0.5"), r"\1dropout_ratio: 0.2", "drop6"),
    (V32, layer("drop6", EXCLUDED), r"\1", "drop6"),
    (V32, layer("upscore", "kernel_size: 64"), r"\1kernel_size: 63", "upscore"),
    (V32, layer("upscore", "    bias_term: false\n"), r"\1", "upscore"),
    (V32, layer("upscore", "num_output"), r'\1weight_filler { type: "bilinear" } group: 21 num_output', "upscore"),
    (V32, layer("score", "axis: 2"), r"\1axis: 3", "voc-fcn32s, score"),
    (V32, layer("score", "offset: 19"), r"\1offset: 19 offset: 20", "voc-fcn32s, score"),
    (V32, layer("score", '  bottom: "data"\n'), r"\1", "voc-fcn32s, score"),
    (V32, layer("loss", "normalize: false"), r"\1normalization: VALID", "loss"),
    (V32, layer("loss", "normalize: false"), r"\1normalization: FULL", "loss"),
    (V32, layer("loss", "  loss_param"), r"\1  loss_weight: 0\n  loss_param", "loss"),
    (V32, layer("loss", 'bottom: "score"'), r'\1propagate_down: false bottom: "score"', "loss"),
    (V32, "phase: TRAIN", "phase: TEST", "voc-fcn32s, data"),
    (V32, 'stage: "deploy"\n  }\n  input_param', 'stage: "train"\n  }\n  input_param', "input"),
    (V32, DATA, r'\1{"', "voc-fcn32s, data"),
    (V32, DATA, r'\1[1, 2]"', "voc-fcn32s, data"),
    (V32, "'seed': 1337", "'seed': 1337, 'randomize': False", "voc-fcn32s, data"),
    (V32, 'layer: "SBDDSegDataLayer"', 'layer: "VOCSegDataLayer"', "voc-fcn32s, data"),
    (V32, "dim: 3\n", "dim: 4\n", "input"),
    (V32, r"\A.*\Z", 'name: "x"', "voc-fcn32s, built: has no layers"),
    (V16, layer("fuse_pool4", "operation: SUM"), r"\1operation: MAX", "fuse_pool4"),
    (V16, layer("upscore16", "stride: 16"), r"\1stride: 32", "its stride beside that of voc-fcn32s: 32, 32"),
    (V16, '"Crop"', '"Slice"', "score_pool4c"),
    (AT, layer("scale_pool4", "lr_mult: 0"), r"\1lr_mult: 1", "scale_pool4"),
    (AT, layer("score_pool4", 'bottom: "scale_pool4"'), r'\1bottom: "pool4"', "score_pool4"),
    (ALEX, block("pool1") + block("norm1"), r"\2\1", "voc-fcn-alexnet, "),
    (ALEX, layer("norm1", "beta: 0.75"), r"\1beta: 0.75 norm_region: WITHIN_CHANNEL", "norm1"),
    (GOOGLE, 'type: "Concat"', 'type: "Concat" concat_param { axis: 2 }', "inception_3a/output"),
    (LATE, layer("conv1_1color", 'bottom: "color"'), r'\1bottom: "hha"', "conv1_1color"),
    (EARLY, "'color', 'depth'", "'depth', 'color'", "nyud-fcn32s-color-d, color"),
    (S32, 'net: "nets/voc-fcn32s', 'net: "nets/voc-fcn16s', "voc-fcn32s, net"),
    (S32, "base_lr: 1e-10", "base_lr: nan", "voc-fcn32s, base_lr"),
    (S32, "base_lr: 1e-10", "base_lr: 1e-10 gamma: 0.1", "voc-fcn32s, gamma"),
    (S32, "base_lr: 1e-10", 'base_lr: 1e-10 regularization_type: "L1"', "regularization_type"),
    (S32, "base_lr: 1e-10", 'base_lr: 1e-10 train_state { stage: "deploy" }', "train_state"),
    (S32, "base_lr: 1e-10", "base_lr: 1e-10 solver_type: ADAM", "voc-fcn32s, type"),
    (S32, 'net: "nets/voc-fcn32s.prototxt"', 'net_param { name: "inside" }', "a net written inside the solver"),
    (S32, 'weights: "[^\n]*', "", "voc-fcn32s, weights"),
    ("solvers/nyud-fcn32s-color-hha", '("[^"]*color.caffemodel")(.*?)("[^"]*hha.caffemodel")', r"\3\2\1", "weights"),
    ("solvers/cvpr-fcn16s", "base_lr: 1e-06", "base_lr: 0", "cvpr-fcn16s, base_lr"),
    # What a solver adds to its own state, and a phase of a layer's own.
    (V32, "layer {", 'state { stage: "deploy" }\nlayer {', "voc-fcn32s, data"),
    (V32, "layer {", "state { phase: TEST }\nlayer {", "voc-fcn32s, data"),
    (V32, layer("drop6", 'type: "Dropout"'), r'\1type: "Dropout" phase: TEST', "drop6"),
    (V32, layer("data", 'type: "Python"'), r'\1type: "Python" phase: TEST', "voc-fcn32s, data"),
    # The right value in a message that layers of this type do not read.
    (V32, layer("loss", r"loss_param \{\n    ignore_label: 255"),
     r"\1accuracy_param { ignore_label: 255 } loss_param { ignore_label: 0", "loss"),
    (ALEX, layer("norm1", r"alpha: 0.0001(.*?)\}"), r"\1alpha: 0.001\2} elu_param { alpha: 0.0001 }", "norm1"),
    (V32, r'"voc_layers"(.*?)"\{', r""""nyud_layers"\1"{'module': 'voc_layers', """, "voc-fcn32s, data"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "named"), BREAKS, ids=range(len(BREAKS)))
def test_a_spoiled_file_is_named(ours, copy, file, old, new, named):
    spoil(copy, file, old, new)
    found = found_by(copy, STATIC_IDS, others(ours, file))
    assert any(named in row for rows in found.values() for row in rows), found


# The same net or solver in other words.
SAME = [
    (V32, layer("conv3_1", "kernel_size: 3"), r"\1kernel_h: 3 kernel_w: 3"),
    (V32, layer("conv1_1", "pad: 100"), r"\1pad: [100, 100]"),
    (V32, layer("conv3_1", "num_output"), r"\1bias_term: true group: 1 stride: 1 dilation: 1 axis: 1 num_output"),
    (V32, layer("conv3_1", "num_output: 256"), r"\1engine: CUDNN num_output: 0x100"),
    (V32, layer("conv3_1", "    lr_mult: 1\n    decay_mult: 1\n"), r"\1"),
    (V32, layer("conv3_1", 'type: "Convolution"'), r"\1type: 'Convo' " '"lution"  # { not a block'),
    (V32, layer("relu3_1", 'type: "ReLU"'), r'\1type: "ReLU" relu_param { engine: CAFFE }'),
    (V32, layer("score_fr", "num_output"), r'\1weight_filler { type: "constant" value: 0 } num_output'),
    (V32, layer("pool2", "kernel_size: 2"), r"\1kernel_h: 2 kernel_w: 2 pad_h: 0 pad_w: 0"),
    (V32, layer("pool2", "stride: 2"), r"\1stride_h: 2 stride_w: 2 pad: 0"),
    (V32, layer("drop6", "dropout_ratio: 0.5"), r"\1"),
    (V32, layer("score", "axis: 2"), r"\1axis: -2"),
    (V32, layer("score", "offset: 19"), r"\1offset: [19, 19]"),
    (V32, layer("loss", "normalize: false"), r"\1normalization: BATCH_SIZE"),
    (V32, layer("loss", "  loss_param"), r"\1loss_weight: 1 softmax_param { axis: 1 } loss_param"),
    (V32, layer("loss", EXCLUDED), r'\1  include { not_stage: "deploy" }\n'),
    (V32, r"'seed': 1337, 'split': 'train'", "'split': 'train', 'seed': 1337"),
    (V32, r"\(104.00699, 116.66877, 122.67892\)", "[104.00699, 116.66877, 122.67892]"),
    (V32, r"\.\./data/sbdd/dataset", "/mnt/sbdd"),
    (V32, "layer {", 'state { stage: "mine" }\nlayer {'),
    (V32, layer("data", 'type: "Python"'), r'\1type: "Python" phase: TRAIN'),
    (V32, layer("loss", 'type: "SoftmaxWithLoss"'), r'\1type: "SoftmaxWithLoss" propagate_down: [true, false]'),
    (V32, layer("conv3_1", 'type: "Convolution"'), r'\1type: "Convolution" propagate_down: true'),
    (V32, layer("conv3_1", "num_output"), r"\1axis: -3 force_nd_im2col: true num_output"),
    (V32, layer("loss", "  loss_param"), r"\1softmax_param { axis: -3 } loss_param"),
    (AT, layer("scale_pool4", "scale_param {"), r"\1scale_param { axis: -3 "),
    (V32, "\n", "\r\n"),
    (V32, "^", "\ufeff"),
    (V16, layer("fuse_pool4", "operation: SUM"), r"\1coeff: 1 coeff: 1 stable_prod_grad: false"),
    (V16, layer("fuse_pool4", r"  eltwise_param \{.*?\n  \}\n"), r"\1"),
    (LATE, layer("input", r"(shape \{.*?\}\n) *shape \{.*?\}\n"), r"\1\2"),
    (GOOGLE, 'type: "Concat"', 'type: "Concat" concat_param { concat_dim: 1 }'),
    (S32, "base_lr: 1e-10", 'base_lr: 0.0000000001 type: "SGD" regularization_type: "L2" clip_gradients: -1'),
    (S32, "iter_size: 1", "random_seed: 7 solver_mode: CPU"),
    (S32, 'net: "', 'net: "./'),
    (S32, 'net: "', 'net: "../'),
    (S32, 'net: ("[^"]*")', r"train_net: \1 test_net: \1"),
    ("solvers/nyud-fcn32s-color-hha", 'color.caffemodel"\nweights: "', "color.caffemodel, ./"),
    ("solvers/cvpr-fcn32s", "weight_decay: 0.0005", "weight_decay: 0.0002"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new"), SAME, ids=range(len(SAME)))
def test_the_same_in_other_words_holds(ours, copy, file, old, new):
    spoil(copy, file, old, new)
    found = found_by(copy, STATIC_IDS, others(ours, file))
    assert set(found) == DIFFERING, found
    assert len(found["T1.rf"]) == 1


@pytest.mark.parametrize(
    ("folder", "spoiled"),
    [*(("nets", how) for how in ("", "folder", "loop", "gone", "\x00\xff", "layer {" * 900)), ("solvers", "gone"),
     ("solvers", "")],
)  # fmt: skip
def test_where_nothing_can_be_read_nothing_holds(copy, folder, spoiled):
    """Claims of files differ when all files of their kind are spoiled; no check holds for want of rows."""
    for path in (copy / folder).iterdir():
        path.unlink()
        if spoiled == "folder":
            path.mkdir()
        elif spoiled == "loop":
            path.symlink_to(path)
        elif spoiled != "gone":
            path.write_bytes(spoiled.encode("latin-1"))
    found = found_by(copy, STATIC_IDS, {})
    of_solvers = {"REL.rate", "REL.momentum", "REL.decay", "REL.policy", "REL.length", "REL.test", "REL.average"}
    of_solvers |= {"REL.starts"}
    both = {"REL.order", "S4.3.sgd", "S4.3.nets", "S4.1.googlenet", "T4.nets"}
    wanted = of_solvers | both if folder == "solvers" else set(STATIC_IDS) - of_solvers
    if folder == "solvers" and spoiled == "":
        wanted -= {"REL.policy"}  # an empty solver has SGD and no more
    assert wanted - set(found) == set()
    assert all(CHECKS[name].kind == STATIC and rows for name, rows in found.items())


def test_a_window_without_a_map_is_refused(tmp_path):
    text = (ROOT / f"{V32}.prototxt").read_text()
    for old, new in (("stride: 2", "stride: 0"), ("kernel_size: 7", "kernel_size: [7, 7, 7] stride: 1")):
        path = tmp_path / "net.prototxt"
        path.write_text(re.sub(old, new, text, count=1))
        with pytest.raises(GraphError, match=r"have no coordinate map\. Kernel and stride should be 1 or more"):
            crop_offset(Graph.from_param(read_net(Path(path), 0)), "upscore", "data")
