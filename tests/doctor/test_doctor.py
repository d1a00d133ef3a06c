"""The preflight: every fault it knows, made on purpose, is found with its layer; what is shipped has none."""

import json
import re

import numpy as np
import pytest
from datum_fixtures import write_pairs
from helpers import input_layer, layer
from places import ROOT

from fcn_caffe import Net
from fcn_caffe.commands.doctor import main
from fcn_caffe.doctor import ERROR, NOTE, WARNING, examine
from fcn_caffe.errors import PrototxtError, SolverError, WeightsError
from fcn_caffe.weights.record import Preprocessing, write_preprocessing
from fcn_caffe.weights.surgery import interp
from fcn_caffe.weights.transfer import net_weights, save_weights

SHIPPED = sorted((ROOT / "nets").glob("*.prototxt")) + sorted((ROOT / "solvers").glob("*.prototxt"))
FILLED = 'weight_filler { type: "xavier" }'
FROZEN = "param { lr_mult: 0 }"


def data(classes=None, module="shapes_layers"):
    return f"""layer {{ name: "data" type: "Python" top: "data" top: "label" python_param {{
      module: "{module}" layer: "ShapesSegData" param_str: "{{'split': 'train', 'size': 48, 'count': 4}}" }} }}"""


def convolution(name, bottom, more=FILLED, classes=6, kernel=1, pad=0, outside=""):
    options = f"convolution_param {{ num_output: {classes} kernel_size: {kernel} pad: {pad} {more} }} {outside}"
    return layer(name, "Convolution", bottom, more=options)


def upsampling(name, bottom, more="bias_term: false", outside=FROZEN, classes=6):
    options = f"convolution_param {{ num_output: {classes} kernel_size: 4 stride: 2 {more} }} {outside}"
    return layer(name, "Deconvolution", bottom, more=options)


POOL = layer("pool", "Pooling", "conv", more="pooling_param { kernel_size: 2 stride: 2 }")


def net_text(score="", up=None, offset=1, loss="normalize: true ignore_label: 255", conv=FILLED, source=None):
    """A small FCN of stride 2 on the generated images: convolution, pool, score at zero, upsampling, crop, loss."""
    return "\n".join(
        [
            source or data(),
            convolution("conv", "data", conv, 8, 3, 1),
            POOL,
            convolution("score_fr", "pool", score),
            up or upsampling("upscore", "score_fr"),
            layer("score", "Crop", "upscore data", more=f"crop_param {{ axis: 2 offset: {offset} }}"),
            layer("loss", "SoftmaxWithLoss", "score label", more=f"loss_param {{ {loss} }}"),
        ]
    )


def solver_text(net="net.prototxt", lr=1e-3, momentum=0.9, more=""):
    return (
        f'net: "{net}" base_lr: {lr} momentum: {momentum} lr_policy: "fixed" max_iter: 10\n'
        f'snapshot: 5 snapshot_prefix: "snapshot/x"\n{more}'
    )


@pytest.fixture
def at(tmp_path):
    """Examine a net's text, in a solver where one is given; extra files beside it are there already."""

    def run(net, solver=None, **options):
        (tmp_path / "net.prototxt").write_text(net)
        if solver is None:
            return examine(tmp_path / "net.prototxt", **options)
        (tmp_path / "solver.prototxt").write_text(solver)
        return examine(tmp_path / "solver.prototxt", **options)

    return run


def found(examination, level, check):
    return [str(finding) for finding in examination.findings if (finding.level, finding.check) == (level, check)]


def alarms(examination):
    return [str(finding) for finding in examination.findings if finding.level != NOTE]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_false_alarms_on_what_is_shipped(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    examination = examine(path)
    assert alarms(examination) == []
    assert found(examination, NOTE, "memory")


def test_a_sound_solver_passes_every_check(at):
    examination = at(net_text(), solver_text())
    assert alarms(examination) == [] and examination.not_checked == []


def test_weights_and_the_solver_tell_forks_apart(at, tmp_path):
    bn = layer("bn", "BN", "conv")
    net = net_text().replace(POOL, bn + POOL.replace('bottom: "conv"', 'bottom: "bn"'))
    assert ["--fork segnet" in problem for problem in found(at(net, solver_text()), ERROR, "build")] == [True, True]
    assert not found(at(net, solver_text(more='fork: "segnet"')), ERROR, "build")
    numbers = [np.ones((1, 8, 1, 1), np.float32)] * 4
    save_weights(tmp_path / "w.caffemodel", {"bn": numbers})
    for examination in (
        at(net, solver_text(more='weights: "w.caffemodel"')),
        at(net, solver_text(), weights=tmp_path / "w.caffemodel"),
        at(net, weights=tmp_path / "w.caffemodel"),
    ):
        assert not found(examination, ERROR, "build")


# -- dead layers -----------------------------------------------------------------------------------------------------


def test_zero_convolution_below_a_zero_one(at):
    hidden = net_text().replace('bottom: "pool"', 'bottom: "hidden"')
    hidden = hidden.replace(
        convolution("score_fr", "hidden", ""), convolution("hidden", "pool", "") + convolution("score_fr", "hidden", "")
    )
    first, second = found(at(hidden, solver_text()), ERROR, "dead layers")
    assert "layer 'hidden' (Convolution): its weights are zero and get no gradient" in first
    assert "layer 'score_fr' (Convolution) above it is zero too" in first and "weight_filler" in first
    assert "layer 'score_fr'" in second and "its bottom 'hidden' is zero too" in second


def test_zero_under_relu_gets_no_gradient(at):
    relu = layer("relu", "ReLU", "conv", "conv")
    text = net_text(conv="").replace(POOL, relu + POOL)
    assert any("layer 'conv'" in line for line in found(at(text, solver_text()), ERROR, "dead layers"))


def hidden(block, last="hidden"):
    """The sound net with layers between pool and score."""
    score = convolution("score_fr", "pool", "")
    return net_text().replace(score, block + convolution("score_fr", last, ""))


def test_zero_under_batch_norm_and_absolute_value(at):
    """BatchNorm makes zero of zero, Caffe's slope of both rectifiers there is zero."""
    normed = layer("norm", "BatchNorm", "hidden", "hidden") + layer("scale", "Scale", "hidden", "hidden")
    above = layer("rectify", "ReLU", "hidden", "hidden")
    for filler, dead in (("", ["hidden", "score_fr"]), (FILLED, [])):
        examination = at(hidden(convolution("hidden", "pool", filler, 8) + normed + above), solver_text())
        assert [line.split("'")[1] for line in found(examination, ERROR, "dead layers")] == dead
    rectified = upsampling("upscore", "rectify").replace('bottom: "score_fr"', 'bottom: "rectify"')
    (line,) = found(
        at(net_text(up=layer("rectify", "AbsVal", "score_fr") + rectified), solver_text()), ERROR, "dead layers"
    )
    assert "layer 'score_fr'" in line and "layer 'rectify' (AbsVal) above it lets none through at zero" in line


def test_shared_weights_are_zero_where_their_owner_is(at):
    names = "param { name: 'w' } param { name: 'b' }"
    for filler, dead in (("", ["one", "two", "score_fr"]), (FILLED, [])):
        block = convolution("one", "pool", filler, 8, outside=names) + convolution("two", "one", "", 8, outside=names)
        lines = found(at(hidden(block, "two"), solver_text()), ERROR, "dead layers")
        assert [line.split("'")[1] for line in lines] == dead


def test_a_filler_of_no_width_is_zero(at):
    block = convolution("hidden", "pool", 'weight_filler { type: "uniform" min: 0 max: 0 }', 8)
    assert len(found(at(hidden(block), solver_text()), ERROR, "dead layers")) == 2


def test_training_that_starts_from_diverged_weights(at, tmp_path):
    (tmp_path / "net.prototxt").write_text(net_text())
    arrays = net_weights(Net(tmp_path / "net.prototxt"))
    arrays["conv"][0][0] = np.nan
    save_weights(tmp_path / "start.npz", arrays)
    (line,) = found(at(net_text(), solver_text(more='weights: "start.npz"')), ERROR, "dead layers")
    assert "layer 'conv' (Convolution): the weights hold NaN" in line


def test_a_rectified_score_names_the_rectifier(at):
    text = net_text().replace(
        'layer { name: "loss"', layer("rectify", "ReLU", "score", "score") + 'layer { name: "loss"'
    )
    examination = at(text, solver_text())
    (line,) = found(examination, ERROR, "dead layers")
    assert "layer 'score_fr'" in line and "layer 'rectify' (ReLU) above it lets none through" in line
    assert "give them as --weights" in found(examination, NOTE, "weights")[0]


def test_a_layer_of_a_linear_layers_name(at):
    text = net_text().replace(
        'layer { name: "loss"', layer("score_fr", "ReLU", "score", "score") + 'layer { name: "loss"'
    )
    assert found(at(text, solver_text()), NOTE, "interpolation")  # it is examined, whichever layer the name means


def test_unset_interpolation(at):
    fixed = at(net_text(up=upsampling("deconv", "score_fr").replace('top: "deconv"', 'top: "upscore"')), solver_text())
    frozen, starved = sorted(found(fixed, ERROR, "dead layers"))
    assert "layer 'deconv' (Deconvolution): its weights are zero and lr_mult is 0" in frozen
    assert "surgery.interp" in frozen
    assert "layer 'score_fr' (Convolution)" in starved and "layer 'deconv' (Deconvolution) above it is zero" in starved
    named = at(net_text(), solver_text())
    assert "upscore: zero until they are set" in found(named, NOTE, "interpolation")[0]


def test_learned_interpolation_comes_from_the_stage_before(at, tmp_path):
    """solve keeps what was learned: zeros in the file are zeros in the net, where a fixed layer is set again."""
    for outside in ("", FROZEN):
        text = net_text(up=upsampling("upscore", "score_fr", outside=outside))
        (tmp_path / "net.prototxt").write_text(text)
        save_weights(tmp_path / "start.npz", net_weights(Net(tmp_path / "net.prototxt")))
        examination = at(text, solver_text(more='weights: "start.npz"'))
        dead = [line.split("'")[1] for line in found(examination, ERROR, "dead layers")]
        assert dead == ([] if outside else ["score_fr", "upscore"])


def test_a_score_layer_at_zero_under_interpolation_learns(at):
    assert found(at(net_text(score=""), solver_text()), ERROR, "dead layers") == []


@pytest.mark.parametrize(
    ("more", "outside", "alarm"),
    [
        ('bias_term: false weight_filler { type: "bilinear" }', FROZEN, True),
        ('bias_term: false group: 6 weight_filler { type: "bilinear" }', FROZEN, False),
    ],
)
def test_bilinear_filler_without_group(at, more, outside, alarm):
    lines = found(at(net_text(up=upsampling("upscore", "score_fr", more, outside))), WARNING, "interpolation")
    assert bool(lines) == alarm
    assert all("sums the classes" in line and "group: 6" in line for line in lines)


def test_interpolation_of_another_number_of_channels(at):
    lines = found(at(net_text(up=upsampling("upscore", "score_fr", classes=7))), ERROR, "interpolation")
    assert lines and "6 channels to 7" in lines[0]


@pytest.mark.parametrize(("kernel", "offset", "wrong"), [(8, 3, True), (2, 0, True), (3, 1, False)])
def test_interpolation_of_another_factor_than_its_stride(at, kernel, offset, wrong):
    text = net_text(up=upsampling("upscore", "score_fr").replace("kernel_size: 4", f"kernel_size: {kernel}"))
    lines = found(at(text.replace("offset: 1", f"offset: {offset}")), WARNING, "interpolation")
    assert bool(lines) == wrong
    assert all(f"kernel of {kernel} upsamples by" in line and "Set kernel_size: 4" in line for line in lines)


def test_frozen_at_random(at):
    text = (
        net_text()
        .replace("pad: 1", "pad: 1")
        .replace(convolution("conv", "data", FILLED, 8, 3, 1), convolution("conv", "data", FILLED, 8, 3, 1, FROZEN))
    )
    lines = found(at(text, solver_text()), WARNING, "dead layers")
    assert len(lines) == 1 and "layer 'conv' (Convolution): is frozen (lr_mult 0) at random numbers (xavier" in lines[0]


def test_weights_of_zeros_and_classes_summed(at, tmp_path):
    (tmp_path / "net.prototxt").write_text(net_text())
    net = Net(tmp_path / "net.prototxt")
    weights = tmp_path / "trained.npz"
    save_weights(weights, net_weights(net))
    zeros = found(at(net_text(), weights=weights), ERROR, "dead layers")
    assert [line.split("'")[1] for line in zeros] == ["score_fr", "upscore"]
    interp(net)
    arrays = net_weights(net)
    arrays["score_fr"][0] += 1
    save_weights(weights, arrays)
    assert alarms(at(net_text(), weights=weights)) == []
    kernel = arrays["upscore"][0][0, 0].copy()
    arrays["upscore"][0][:] = kernel
    save_weights(weights, arrays)
    assert "sums the classes" in found(at(net_text(), weights=weights), ERROR, "interpolation")[0]


# -- rates -----------------------------------------------------------------------------------------------------------

SUMMED, MEAN = "normalize: false ignore_label: 255", "normalize: true ignore_label: 255"


@pytest.mark.parametrize(
    ("lr", "momentum", "loss", "level"),
    [
        (1e-10, 0.99, MEAN, ERROR),
        (1e-10, 0.9, MEAN, ERROR),
        (1e-2, 0.9, SUMMED, ERROR),
        (1e-4, 0.9, SUMMED, WARNING),
        (1e-8, 0.99, SUMMED, None),
        (1e-3, 0.9, MEAN, None),
        (0.03, 0.9, MEAN, None),
        (1e-10, 0.99, "normalization: NONE ignore_label: 255", None),
        (1e-2, 0.9, "normalization: NONE ignore_label: 255", ERROR),
        (1e-2, 0.9, "normalization: FULL ignore_label: 255", None),
        (0, 0.9, MEAN, ERROR),
        (1e-3, 1, MEAN, ERROR),
    ],
)
def test_rate_against_normalisation(at, lr, momentum, loss, level):
    examination = at(net_text(loss=loss), solver_text(lr=lr, momentum=momentum))
    levels = {finding.level for finding in examination.findings if finding.check == "rate"} - {NOTE}
    assert levels == ({level} if level else set())


def test_equivalent_rate_is_said(at):
    line = found(at(net_text(loss=SUMMED), solver_text(lr=1e-7)), NOTE, "rate")[0]
    assert "summed over 48x48 pixels acts as 0.0002304 with a loss normalised" in line


@pytest.mark.parametrize(
    ("lr", "classes", "loss", "level"),
    [
        (1e-2, 1, "normalize: false", ERROR),
        (1e-6, 1, "normalize: false", None),
        (1e-10, 1, "normalization: VALID", ERROR),
        (1e-5, 80, "normalize: false", None),  # each class has a loss of its own
    ],
)
def test_rate_of_a_sigmoid_loss(at, lr, classes, loss, level):
    loss_layer = layer("loss", "SigmoidCrossEntropyLoss", "score target", more=f"loss_param {{ {loss} }}")
    score = input_layer("data", 1, 3, 48, 48) + convolution("score", "data", classes=classes)
    text = score + input_layer("target", 1, classes, 48, 48) + loss_layer
    examination = at(text, solver_text(lr=lr))
    levels = {finding.level for finding in examination.findings if finding.check == "rate"} - {NOTE}
    assert levels == ({level} if level else set())


@pytest.mark.parametrize(("lr", "wrong"), [(1e-10, True), (1e-4, False)])
def test_rate_of_a_rule_with_its_own_scale(at, lr, wrong):
    examination = at(net_text(), solver_text(lr=lr, more='type: "Adam" momentum2: 0.999'))
    assert bool(found(examination, ERROR, "rate")) == wrong


# -- what training refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"fixed"', '"fixd"', "Did you mean 'fixed'"),
        ('lr_policy: "fixed"', "", "lr_policy is not set"),
        ('"fixed"', '"step" gamma: 0.1', "needs stepsize"),
        ("max_iter", 'train_net: "net.prototxt" max_iter', "named by net and train_net"),
        ("max_iter", 'test_net: "net.prototxt" max_iter', "test_iter is given 0 times for 1 test nets"),
    ],
)
def test_a_solver_that_training_refuses(at, old, new, told):
    (line,) = found(at(net_text(), solver_text().replace(old, new)), ERROR, "solver")
    assert "solver.prototxt: training refuses it" in line and told in line


@pytest.mark.parametrize("rule", ["loss_weight: 0", "include { phase: TEST }"])
def test_a_train_net_without_a_loss(at, rule):
    (line,) = found(at(net_text().replace("loss_param", f"{rule} loss_param"), solver_text()), ERROR, "solver")
    assert "has no loss in TRAIN" in line


TESTS = "test_iter: 1 test_interval: 5"


def test_a_net_of_one_phase(at):
    """A net for training alone is sound where nothing is tested; a solver that tests it is not."""
    text = net_text(source=data().replace("layer {", "layer { include { phase: TRAIN }", 1))
    for examination in (at(text), at(text, solver_text()), at(text, solver_text().replace("net:", "train_net:"))):
        assert alarms(examination) == [] and "the TEST net" in dict(examination.not_checked)
    assert "TEST net cannot be built" in found(at(text, solver_text(more=TESTS)), ERROR, "build")[0]


@pytest.mark.parametrize(
    ("rule", "own", "solver"),
    [
        ("stage: 'x'", "state { stage: 'x' }", ""),
        ("stage: 'x'", "", "train_state { stage: 'x' } test_state { stage: 'x' }"),
        ("min_level: 1", "", "train_state { level: 1 } test_state { level: 1 }"),
    ],
)
def test_layers_of_a_state(at, rule, own, solver):
    text = own + net_text(source=data().replace("layer {", f"layer {{ include {{ {rule} }}", 1))
    assert alarms(at(text, solver_text(more=f"{TESTS} {solver}"))) == []


def test_a_solver_is_told_by_its_fields_wherever_they_stand(at):
    assert found(at(net_text(), f'type: "SGD" {solver_text()}'), NOTE, "memory")
    assert found(at("# net: of a comment\n" + net_text()), NOTE, "memory")


# -- geometry and memory ---------------------------------------------------------------------------------------------


def test_wrong_crop_offset(at):
    lines = found(at(net_text(offset=0)), ERROR, "crop offset")
    assert len(lines) == 1 and "layer 'score' (Crop): offset 0 puts" in lines[0] and "map gives 1." in lines[0]


def test_wrong_crop_offset_of_a_shipped_net(at):
    text = (ROOT / "nets/voc-fcn8s.prototxt").read_text().replace("offset: 9\n", "offset: 8\n")
    (line,) = found(at(text), ERROR, "crop offset")
    assert "layer 'score_pool3c' (Crop): offset 8" in line and "gives 9" in line


def test_crop_that_does_not_fit_names_the_right_offset(at):
    examination = at(net_text(offset=40))
    assert found(examination, ERROR, "crop offset") and found(examination, ERROR, "build")


def test_memory_is_an_estimate_that_grows_with_the_images(at):
    def line(size):
        return found(at(net_text(), solver_text(), size=size), NOTE, "memory")[0]

    assert "training on 1x3x48x64" in line((48, 64)) and "An estimate" in line((48, 64))
    # conv 8, data 3, upscore 6 channels at full size, pool and score_fr at half, in floats, by hand: what is kept. The
    # peak is at the upsampling or after it, with its gradients and working memory besides.
    kept = 4 * (480 * 640 * (3 + 1 + 8) + 240 * 320 * (8 + 6) + 482 * 642 * 6)
    shown = re.search(r"blobs ([\d.]+) MiB", line((480, 640)))
    assert shown and kept / 2**20 < float(shown[1]) < 2.5 * kept / 2**20


# -- inputs ----------------------------------------------------------------------------------------------------------

FOLDER = """layer {{ name: "data" type: "Python" top: "data" top: "label" python_param {{
  module: "folder_layers" layer: "FolderSegData"
  param_str: "{{'images': '{place}', 'labels': '{place}/labels', 'split': '{place}/list.txt' {more}}}" }} }}"""


@pytest.fixture
def folder(tmp_path):
    """Two images with labels of a value each; returns the data layer's text."""
    from PIL import Image

    (tmp_path / "labels").mkdir()
    (tmp_path / "list.txt").write_text("a\nb\n")

    def write(label, more=""):
        for name in "ab":
            Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(tmp_path / f"{name}.png")
            Image.fromarray(np.broadcast_to(label, (48, 48)).astype(np.uint8)).save(tmp_path / "labels" / f"{name}.png")
        return FOLDER.format(place=tmp_path, more=more)

    return write


def test_labels_out_of_range(at, folder):
    line = found(at(net_text(source=folder(7))), ERROR, "label ranges")[0]
    assert "holds 7" in line and "takes 0 to 5 and 255 (void)" in line


def test_void_that_the_loss_does_not_know(at, folder):
    line = found(at(net_text(source=folder(255), loss="normalize: true")), ERROR, "label ranges")[0]
    assert "holds 255" in line and "ignore_label: 255" in line


def test_labels_all_void(at, folder):
    assert "are all void (255)" in found(at(net_text(source=folder(255))), ERROR, "label ranges")[0]


def test_masks_of_0_and_255(at, folder):
    half = np.where(np.arange(48) < 20, 0, 255)[None]
    text = net_text(source=folder(half)).replace("num_output: 6", "num_output: 2")
    assert "0/255 masks" in found(at(text), WARNING, "label ranges")[0]


def test_masks_for_a_sigmoid_loss(at, folder):
    half = np.where(np.arange(48) < 20, 0, 255)[None]
    text = net_text(source=folder(half), loss="normalization: VALID").replace("num_output: 6", "num_output: 1")
    (line,) = found(at(text.replace("SoftmaxWithLoss", "SigmoidCrossEntropyLoss")), ERROR, "label ranges")
    assert "holds 255" in line and "takes 0 to 1" in line and "map 255 to 1" in line and "classes" not in line


def test_labels_of_other_layers_are_not_checked_but_said(at):
    moved = net_text().replace('bottom: "label"', 'bottom: "moved"')
    examination = at(moved.replace(POOL, POOL + layer("moved", "Power", "label")), solver_text())
    assert alarms(examination) == [] and "'moved' are made by other layers" in examination.not_checked[0][1]


@pytest.mark.parametrize(
    ("name", "right", "wrong", "level"),
    [
        ("siftflow-fcn32s", "num_output: 33", "num_output: 34", WARNING),
        ("siftflow-fcn32s", "num_output: 3\n", "num_output: 2\n", ERROR),
        ("pascalcontext-fcn32s", "num_output: 60", "num_output: 59", ERROR),
        ("nyud-fcn32s-color", "num_output: 40", "num_output: 41", WARNING),
    ],
)
def test_class_counts_of_the_papers_data_sets(at, name, right, wrong, level):
    """Each label of a data layer has its own count, and the data set need not be here."""
    text = (ROOT / f"nets/{name}.prototxt").read_text()
    assert len(found(at(text.replace(right, wrong)), level, "class counts")) == 1


def test_class_counts(at, folder, tmp_path):
    fewer = at(net_text().replace("num_output: 6", "num_output: 5"))
    assert "score 'score' has 5 classes, module shapes_layers (CLASSES) has 6" in found(fewer, ERROR, "class counts")[0]
    more = at(net_text(source=folder(1, ", 'classes': 4")))
    assert "data layer 'data' has 4: the others are never seen" in found(more, WARNING, "class counts")[0]
    (tmp_path / "classes.txt").write_text("".join(f"{index}: c{index}\n" for index in range(8)))
    assert "classes.txt has 8" in found(at(net_text()), ERROR, "class counts")[0]


def test_a_missing_data_set_is_no_fault_but_said(at, folder, tmp_path):
    text = net_text(source=folder(1))
    (tmp_path / "list.txt").unlink()
    examination = at(text, solver_text())
    assert alarms(examination) == []
    assert examination.not_checked[0][0].startswith("label ranges")


def test_preprocessing_record(at, tmp_path):
    (tmp_path / "net.prototxt").write_text(net_text())
    net = Net(tmp_path / "net.prototxt")
    interp(net)
    save_weights(tmp_path / "start.npz", net_weights(net))
    solver = solver_text(more='weights: "start.npz"')
    (tmp_path / "solver.prototxt").write_text(solver)
    assert "has no record" in dict(at(net_text(), solver).not_checked)["mean and channel order"]
    write_preprocessing(tmp_path / "start.npz", Preprocessing("RGB", (1.0, 2.0, 3.0), scale=1.0))
    line = found(at(net_text(), solver), ERROR, "mean and channel order")[0]
    assert "channels RGB, not BGR" in line and "mean 1 2 3, not" in line


def test_weights_that_do_not_fit(at, tmp_path):
    (tmp_path / "net.prototxt").write_text(net_text().replace("num_output: 6", "num_output: 4"))
    save_weights(tmp_path / "start.caffemodel", net_weights(Net(tmp_path / "net.prototxt")))
    first, _ = found(at(net_text(), solver_text(more='weights: "start.caffemodel"')), ERROR, "weights")
    assert "layer 'score_fr': blob 0 is 4x8x1x1" in first and "the net wants 6x8x1x1" in first and "rename" in first
    save_weights(tmp_path / "other.npz", {"fc": [np.ones(3, np.float32)]})
    assert "has no layer of the net" in found(at(net_text(), weights=tmp_path / "other.npz"), ERROR, "weights")[0]


@pytest.mark.parametrize(
    ("mine", "theirs", "bottom", "told"),
    [("group: 2", "", "pool", "group: 1"), ("", "group: 4", "pool", "group: 4"), ("", "", "data", "surgery.widen")],
)
def test_advice_on_weights_of_other_channels(at, tmp_path, mine, theirs, bottom, told):
    def text(options, channels=3):
        block = convolution("hidden", bottom, f"{FILLED} {options}", 8)
        return input_layer("data", 1, channels, 48, 48) + convolution("pool", "data", FILLED, 8) + block

    (tmp_path / "net.prototxt").write_text(text(theirs))
    arrays = net_weights(Net(tmp_path / "net.prototxt"))
    save_weights(tmp_path / "start.npz", {"hidden": arrays["hidden"]})
    channels = 3 if bottom == "pool" else 6
    line = found(at(text(mine, channels), weights=tmp_path / "start.npz"), ERROR, "weights")[0]
    assert "layer 'hidden': blob 0" in line and told in line


def test_weights_that_are_elsewhere(at):
    examination = at(net_text(conv=""), solver_text(more='weights: "nowhere.caffemodel"'))
    assert alarms(examination) == []
    assert (
        "weights, dead layers",
        "nowhere.caffemodel, which the solver starts from, is not here",
    ) in examination.not_checked


def test_sizes_of_a_missing_data_set(at, folder, tmp_path):
    """The other phase's images say the size; with neither, weights that follow from it are not judged."""
    source = folder(1)
    dense = layer("fc", "InnerProduct", "data", more=f"inner_product_param {{ num_output: 2 {FILLED} }}")
    text = source + dense
    (tmp_path / "net.prototxt").write_text(text)
    save_weights(tmp_path / "w.npz", net_weights(Net(tmp_path / "net.prototxt")))
    gone = text.replace("list.txt", "gone.txt")
    examination = at(gone, weights=tmp_path / "w.npz")
    assert alarms(examination) == []
    assert "weights of layer 'fc'" in dict(examination.not_checked)
    absent = source.replace("list.txt", "gone.txt").replace("layer {", "layer { include { phase: TRAIN }", 1)
    here = source.replace("layer {", "layer { include { phase: TEST }", 1)
    examination = at(absent + here + dense, weights=tmp_path / "w.npz")
    assert alarms(examination) == [] and "weights of layer 'fc'" not in dict(examination.not_checked)


# -- the command -----------------------------------------------------------------------------------------------------


def test_command_and_json(tmp_path, capsys):
    net, solver = tmp_path / "net.prototxt", tmp_path / "solver.prototxt"
    net.write_text(net_text(offset=0))
    solver.write_text(solver_text())
    assert main([str(solver)]) == 1
    assert "error: layer 'score' (Crop): offset 0" in capsys.readouterr().out
    assert main([str(solver), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["errors"] == 1 and record["findings"][0]["check"] == "crop offset"
    assert record["findings"][0]["level"] == "error" and record["not_checked"] == []
    net.write_text(net_text())
    assert main([str(solver), "--size", "96x96"]) == 0
    assert "solver.prototxt: 0 errors, 0 warnings" in capsys.readouterr().out


def test_a_deploy_net_and_a_net_in_the_solver(at, tmp_path):
    deploy = input_layer("data", 1, 3, 40, 40) + convolution("conv", "data", FILLED, 8, 3, 1)
    assert alarms(at(deploy)) == []
    inside = solver_text().replace('net: "net.prototxt"', f"net_param {{ {net_text(offset=0)} }}\n")
    assert found(at(net_text(), inside), ERROR, "crop offset")


def test_files_that_cannot_be_read(at, tmp_path):
    with pytest.raises(PrototxtError, match="no such net file"):
        examine(tmp_path / "nowhere.prototxt")
    with pytest.raises(SolverError, match=r"net file 'no.prototxt' is not there"):
        at(net_text(), solver_text("no.prototxt"))
    with pytest.raises(WeightsError, match="nowhere"):
        at(net_text(), weights=tmp_path / "nowhere.caffemodel")
    assert "layer 'a' (Nothing)" in found(at(layer("a", "Nothing", top="a")), ERROR, "build")[0]


# -- data layers of forks: label pictures ------------------------------------------------------------------------------


def label_pictures(folder, value, type="DenseImageData", options="", count=2):
    """Write black pictures of 48 x 48 with labels of one value; return the data layer that reads them."""
    write_pairs(folder, [np.zeros((48, 48, 3), np.uint8)] * count, [np.full((48, 48), value, np.uint8)] * count)
    message, dim = ("dense_image_data_param", "") if type == "DenseImageData" else ("image_data_param", 'top: "dim"')
    places = f'source: "{folder}/list.txt" root_folder: "{folder}/" batch_size: 1 {options}'
    return f'layer {{ name: "data" type: "{type}" top: "data" top: "label" {dim} {message} {{ {places} }} }}'


def test_the_label_behind_the_last_class_may_be_void(at, tmp_path):
    """SegNet's CamVid: 11 classes, and 11 where nothing is known."""
    text = net_text(source=label_pictures(tmp_path, 11), loss="normalize: true").replace(
        "num_output: 6", "num_output: 11"
    )
    (line,) = found(at(text), ERROR, "label ranges")
    assert "holds 11" in line and "takes 0 to 10" in line and "ignore_label: 11 }" in line
    void = text.replace("normalize: true", "ignore_label: 11")
    assert "are all void (11)" in found(at(void), ERROR, "label ranges")[0]


def test_label_pictures_that_label_type_does_not_read(at, tmp_path):
    source = label_pictures(tmp_path, 1, "ImageSegData")
    (line, *_) = found(at(net_text(source=source)), ERROR, "data")
    assert "label_type is IMAGE, the default" in line and "Write label_type: PIXEL" in line
    source = label_pictures(tmp_path, 1, "ImageSegData", "label_type: PIXEL")
    assert at(net_text(source=source)).count(ERROR) == 0


@pytest.mark.parametrize("type", ["DenseImageData", "ImageLabelmapData", "ImageSegData"])
def test_label_pictures_that_are_not_there(at, tmp_path, type):
    """The net is examined with pictures of an assumed size: labels of one channel, and ImageSegData's third top."""
    source = label_pictures(tmp_path, 1, type, "new_height: 40 new_width: 30")
    source = source.replace(f"{tmp_path}/list.txt", "none.txt").replace(f"{tmp_path}/", "")
    if type == "ImageLabelmapData":
        source = source.replace('top: "dim"', 'fork: "hed"')
    judge = layer("edges", "SigmoidCrossEntropyLoss", "score label", more='fork: "hed"')
    text = "\n".join([source, convolution("score", "data", classes=1), judge, layer("q", "Silence", "dim", "")])
    examination = at(text if type == "ImageSegData" else text[: text.index('layer { name: "q"')])
    assert examination.count(ERROR) == 0
    assert any("no such list of pictures" in why for _, why in examination.not_checked)
