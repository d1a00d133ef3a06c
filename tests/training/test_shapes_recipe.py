"""The embedded recipe: its files, the classifier as a convolution, and the whole chain run for an iteration each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import ROOT

from fcn_caffe import Net
from fcn_caffe.commands import solve
from fcn_caffe.models.shapes import CROP, RECIPES, SCENE, classifier, fcn, shapes_files
from fcn_caffe.proto import read_text, write_text
from fcn_caffe.weights.surgery import interp, transplant
from fcn_caffe.weights.transfer import load_weights


@pytest.mark.parametrize("path", sorted(shapes_files()))
def test_the_files_are_what_the_functions_write(path):
    message = shapes_files()[path]
    assert read_text(ROOT / path, type(message)) == message, "run tools/make_nets.py"


def deploy(net, size):
    for layer in net.layer:
        if layer.type == "Input":
            layer.input_param.shape[0].dim[2:] = [size, size]
    return net


def test_transplanted_the_fcn_sees_what_the_classifier_saw():
    torch.manual_seed(0)
    first = Net(classifier(), stages=["deploy"])
    with torch.no_grad():
        for blobs in first.params.values():
            if len(blobs) == 2:
                blobs[1].uniform_(-0.1, 0.1)  # biases that are not all zero
    param = deploy(fcn("shapes-fcn32s"), CROP)
    next(layer for layer in param.layer if layer.name == "conv1_1").convolution_param.pad[0] = 1
    next(layer for layer in param.layer if layer.name == "score").crop_param.offset[0] = 0
    second = Net(param, stages=["deploy"])
    report = transplant(second, first)
    assert report.missing == ["score_fr", "upscore"] and report.ignored == ["fc8"]
    image = torch.randn(1, 3, CROP, CROP) * 50
    was, now = (net(data=image, keep=["fc7"])["fc7"].flatten() for net in (first, second))
    assert was.abs().max() > 0.1
    torch.testing.assert_close(now, was, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["shapes-fcn32s", "shapes-fcn16s", "shapes-fcn8s"])
def test_every_size_of_image_fits(name):
    for size in range(64, 64 + 32):  # one of each remainder by the stride of pool5
        net = Net(deploy(fcn(name), size), stages=["deploy"], device="meta")
        assert net.blob_shapes["score"] == (1, 6, size, size)


@pytest.mark.parametrize("name", ["shapes-fcn32s", "shapes-fcn16s", "shapes-fcn8s"])
def test_scores_lie_over_what_they_speak_of(name):
    """The places of a head that a pixel's score is interpolated from have their mean where the pixel is."""
    net = Net(fcn(name), stages=["deploy"])
    interp(net)
    # Rows of the image between windows, and the middle of the first window: pad is 17, and fc6's window is 2x2.
    windows = {"score_fr": (32, 15.5), "score_pool4": (16, 7.5 - 16), "score_pool3": (8, 3.5 - 16)}
    for head in windows.keys() & net.params.keys():
        blobs = net(data=torch.zeros(1, 3, SCENE, SCENE), keep=[head, "score"])
        (weight,) = torch.autograd.grad(blobs["score"][0, 0, 50].sum(), blobs[head])
        rows = weight[0, 0].sum(1)
        mean = float((rows * torch.arange(len(rows))).sum() / rows.sum())
        stride, first = windows[head]
        assert stride * mean + first == pytest.approx(50, abs=0.01)


def test_the_default_runs_all_stages(tmp_path, monkeypatch, capsys):
    for path, message in shapes_files(seed=5).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        text = write_text(message).replace("'batch': 32", "'batch': 2").replace("'batch': 8", "'batch': 1")
        text = text.replace("'count': 100", "'count': 20").replace("test_iter: 10", "test_iter: 2")
        (tmp_path / path).write_text(text)
    monkeypatch.chdir(tmp_path)
    assert solve.main(["--max-iter", "1"]) == 0
    out = capsys.readouterr().out
    for name in RECIPES:
        assert (tmp_path / "weights" / f"{name}.caffemodel").is_file()
        assert (f"| {name} |" in out) == ("fcn" in name)
    assert (tmp_path / "snapshot/shapes-fcn8s/picture.png").stat().st_size > 1000
    log = (tmp_path / "snapshot/shapes-fcn32s-fixed/log.txt").read_text()
    assert "fc6 blob 0 128x256 to 128x64x2x2" in log
    # Only the last layer learns in 32s-fixed.
    before, after = (load_weights(f"weights/{name}.caffemodel") for name in list(RECIPES)[:2])
    for layer in ("conv1_1", "conv5_2", "fc6", "fc7"):
        assert np.array_equal(before[layer][0].ravel(), after[layer][0].ravel())
    assert after["score_fr"][0].any()
