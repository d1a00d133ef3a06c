"""Colour and depth in one net: how color-d's solve starts it, its four channels, and the conventions of its inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from helpers import make_net
from PIL import Image
from places import SHARED

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.commands import solve
from fcn_caffe.commands.doctor import main as doctor
from fcn_caffe.data.sets.nyud_layers import HHA_MEAN, LOG_DEPTH_MEAN, MEAN
from fcn_caffe.models import RECIPES, solver_param
from fcn_caffe.models import make_net as reference_net
from fcn_caffe.proto import write_text
from fcn_caffe.training.stage import start_from
from fcn_caffe.weights.transfer import load_weights, save_weights

NAME = "nyud-fcn32s-color-d"
VGG = "weights/vgg16fc.caffemodel"
SAMPLES = SHARED / "data" / "samples" / "HHA"
SHAPES = {"color": (1, 3, 32, 40), "depth": (1, 1, 32, 40)}
samples = pytest.mark.needs_data("data/samples/HHA")


def narrow_net(width=4):
    """color-d with every layer but the scores of a few channels."""
    param = reference_net(NAME)
    for layer in param.layer:
        if layer.type == "Convolution" and not layer.name.startswith("score"):
            layer.convolution_param.num_output = width
    return param


def vgg(width=4, dense=False):
    """Weights of a VGG-16 of few channels; dense: as the classifier, whose fc6 and fc7 are inner products."""
    random, weights, channels = np.random.default_rng(0), {}, 3
    for name in [f"conv{block}_{number}" for block in range(1, 6) for number in range(1, 3 + (block > 2))]:
        weights[name] = [random.normal(size=(width, channels, 3, 3)) * 0.2, random.normal(size=width)]
        channels = width
    for name, kernel in (("fc6", 7), ("fc7", 1)):
        filters = random.normal(size=(width, width, kernel, kernel)) * 0.1
        weights[name] = [filters.reshape(width, -1) if dense else filters, np.zeros(width)]
    if dense:
        weights["fc8"] = [np.ones((2, width)), np.zeros(2)]
    return {name: [blob.astype(np.float32) for blob in blobs] for name, blobs in weights.items()}


def nyud(folder, depth, colour=None, hha_image=None):
    """A data set of one image in NYUDv2's layout."""
    random = np.random.default_rng(1)
    for kind in ("images", "depth", "hha"):
        (folder / "data" / kind).mkdir(parents=True)
    (folder / "segmentation").mkdir()
    noise = random.integers(0, 256, (*depth.shape, 3)).astype(np.uint8)
    Image.fromarray(noise if colour is None else colour).save(folder / "data" / "images" / "img_5001.png")
    Image.fromarray(noise if hha_image is None else hha_image).save(folder / "data" / "hha" / "img_5001.png")
    Image.fromarray(depth).save(folder / "data" / "depth" / "img_5001.png")
    labels = random.integers(0, 41, depth.shape).astype(np.uint8)
    scipy.io.savemat(folder / "segmentation" / "img_5001.mat", {"segmentation": labels})
    for split in ("trainval", "test"):
        (folder / f"{split}.txt").write_text("5001\n")
    return noise


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A folder with the narrow net, its solver as released, and a data set of one image."""
    monkeypatch.chdir(tmp_path)
    for folder in ("nets", "solvers", "weights"):
        Path(folder).mkdir()
    param = narrow_net()
    for layer in param.layer:
        options = layer.python_param
        options.param_str = options.param_str.replace("../data/nyud", "nyud")
    Path(f"nets/{NAME}.prototxt").write_text(write_text(param))
    solver = solver_param(NAME)
    solver.test_iter[:] = [1]
    Path(f"solvers/{NAME}.prototxt").write_text(write_text(solver))
    nyud(tmp_path / "nyud", np.full((32, 40), 2500, np.uint16))
    return tmp_path


def check_first(arrays, old):
    """The convolution of four channels, as the reference sets it from VGG's of three."""
    weight, bias = arrays
    assert np.array_equal(weight[:, :3], old[0]) and np.array_equal(bias, old[1])
    assert np.array_equal(weight[:, 3], np.mean(old[0], axis=1)) and weight[:, 3].any()


def test_solve_starts_color_d_as_the_reference_did(task):
    old = vgg()
    save_weights(VGG, old)
    solver = Path(f"solvers/{NAME}.prototxt")
    solver.write_text(solver.read_text().replace("base_lr: 1e-10", "base_lr: 0"))
    assert "base_lr: 0\n" in solver.read_text()
    assert solve.main([str(solver), "--max-iter", "1"]) == 0
    made = load_weights(f"weights/{NAME}.caffemodel")
    check_first(made["conv1_1_bgrd"], old["conv1_1"])
    assert np.array_equal(made["conv5_3"][0], old["conv5_3"][0]) and not made["score_fr"][0].any()
    log = Path(f"snapshot/{NAME}/log.txt").read_text()
    assert "conv1_1_bgrd blob 0 4x3x3x3 to 4x4x3x3, 1 channel(s) of the mean of the 3 old ones added" in log
    assert "ignored" not in log and "missing 2, left as they are: score_fr, upscore\n" in log


def test_the_classifier_that_color_d_makes_convolutional_keeps_its_first_layer(task):
    """vgg16fc is kept for other stages too, whose first convolution has VGG's name."""
    dense = vgg(dense=True)
    save_weights("weights/VGG_ILSVRC_16_layers.caffemodel", dense)
    assert solve.main([f"solvers/{NAME}.prototxt", "--max-iter", "1"]) == 0
    made = load_weights(VGG)
    assert list(made) == [name for name in dense if name != "fc8"] and made["fc6"][0].shape == (4, 4, 7, 7)
    assert np.array_equal(made["conv1_1"][0], dense["conv1_1"][0])


@pytest.mark.parametrize("wide", [True, False])
def test_other_weights_widen_unless_they_are_wide(tmp_path, wide):
    old = vgg()
    first = old.pop("conv1_1")
    given = np.full((4, 4, 3, 3), 7, np.float32)
    if wide:
        old["conv1_1_bgrd"] = [given, first[1]]
    save_weights(tmp_path / "mine.caffemodel", {"conv1_1": first, **old})
    net = Net(narrow_net(), TEST, stages=["deploy"], input_shapes=SHAPES)
    (start,) = RECIPES[NAME].starts
    start_from(net, [start._replace(weights=str(tmp_path / "mine.caffemodel"))])
    arrays = [blob.detach().numpy() for blob in net.params["conv1_1_bgrd"]]
    if wide:
        assert (arrays[0] == 7).all()
    else:
        check_first(arrays, first)


def test_doctor_sees_the_widened_layer(task, capsys):
    save_weights(VGG, vgg())
    doctor([f"solvers/{NAME}.prototxt"])
    said = capsys.readouterr().out
    assert "fills 15 layers" in said and "dead" not in said


def test_four_channels_of_the_data_layer(task):
    """Blue, green, red, log depth, each less its mean: what `data` concatenates in training and testing."""
    noise = np.array(Image.open("nyud/data/images/img_5001.png"))
    for phase in (TRAIN, TEST):
        with torch.no_grad():
            blobs = Net(f"nets/{NAME}.prototxt", phase)(keep=["data", "label"])
        data = blobs["data"][0].numpy()
        assert data.shape == (4, 32, 40) and blobs["label"].shape == (1, 1, 32, 40)
        assert np.allclose(data[:3], noise[:, :, ::-1].transpose(2, 0, 1) - np.reshape(MEAN, (3, 1, 1)), atol=1e-4)
        assert np.allclose(data[3], np.log(2500) - LOG_DEPTH_MEAN, atol=1e-6)


@samples
def test_depth_and_hha_of_a_real_room(tmp_path):
    """A Kinect's depth and the official HHA of it. NYUDv2 has millimetres; this image has tenths of them."""
    depth, official = (np.array(Image.open(SAMPLES / name)) for name in ("0.png", "matlab_hha.png"))
    nyud(tmp_path, depth, hha_image=official)
    tops = ("color", "depth", "hha")
    top = " ".join(f'top: "{name}"' for name in tops)
    net = make_net(
        f"""layer {{ name: "in" type: "Python" {top} python_param {{ module: "nyud_layers" layer: "NYUDSegDataLayer"
        param_str: "{{'nyud_dir': '{tmp_path}', 'split': 'test', 'tops': {list(tops)}}}" }} }}""",
        'layer { name: "data" type: "Concat" bottom: "color" bottom: "depth" top: "data" }',
    )
    with torch.no_grad():
        blobs = net(keep=["data", "hha"])
    log_depth, channels = blobs["data"][0, 3].numpy(), blobs["hha"][0].numpy()
    assert np.allclose(log_depth, np.log(depth.astype(np.float64)) - LOG_DEPTH_MEAN, atol=1e-5)
    # In millimetres the mean of a room's log depth is near the data set's.
    assert abs(log_depth.mean() - np.log(10)) < 0.5
    assert np.allclose(channels + np.reshape(HHA_MEAN, (3, 1, 1)), official.transpose(2, 0, 1), atol=1e-4)
    # As stored, disparity comes first: 31000 over centimetres.
    assert np.abs(channels[0] + HHA_MEAN[0] - 31000 / np.maximum(depth / 100, 100)).max() <= 0.51
