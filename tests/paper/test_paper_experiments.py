"""The paper's experiments: they hold, and they notice what is broken on purpose."""

from __future__ import annotations

import json
from math import isnan

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, net_param
from PIL import Image

from fcn_caffe import TEST, TRAIN, DataError, GraphError, LayerError, Net
from fcn_caffe.commands.experiment import main
from fcn_caffe.net.multiply_adds import multiply_adds
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random
from fcn_caffe.net.rewrite.rarefaction import rarefy, shift_and_stitch
from fcn_caffe.paper.experiments import cost, equalities
from fcn_caffe.paper.experiments.cost import alexnet_classifier, patchwise_cost
from fcn_caffe.paper.experiments.momentum import momentum_and_batch, run_sgd
from fcn_caffe.paper.experiments.registry import EXPERIMENTS
from fcn_caffe.paper.experiments.upper_bound import coarse_label, upper_bound, upper_bounds
from fcn_caffe.paper.result import DIFFERS, HOLDS, Result, relative
from fcn_caffe.weights.surgery import interp
from fcn_caffe.weights.transfer import copy_weights, net_weights

POOL = "pooling_param {{ pool: {kind} kernel_size: 3 stride: 2 {more} }}"


def strided(*text, first="stride: 2", side=41):
    """A net that begins with a strided convolution."""
    options = f"convolution_param {{ num_output: 4 kernel_size: 3 {first} }}"
    start = layer("conv1", "Convolution", "data", more=options)
    return net_param(input_layer("data", 1, 2, side, side), start, *text)


def pool(kind, more="", top="pool"):
    return layer(top, "Pooling", "conv1", more=POOL.format(kind=kind, more=more))


def dense_and_stitched(param, blob, **options):
    made = rarefy(param, **options)
    net, dense = Net(param), Net(made.net)
    fill_at_random(net, 3)
    copy_weights(dense, {name: blobs for name, blobs in net_weights(net).items() if name in dense.params})
    image = torch.randn(net.blob_shapes["data"], generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        found = dense({"data": image}, keep=[blob])[blob]
    return made, found, shift_and_stitch(net, image, {blob: made.rates[blob]})[blob]


# Those that train take minutes; they have tests of their own.
QUICK = [name for name, known in EXPERIMENTS.items() if "scale" not in known.takes and name != "cost"]


@pytest.mark.parametrize("name", sorted(QUICK))
def test_experiment_holds(name, capsys):
    assert main([name]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{name} (section ") and said.endswith("verdict: holds\n")


@pytest.mark.parametrize("kind", ["MAX", "AVE"])
@pytest.mark.parametrize("side", [40, 41, 42, 43])
def test_rarefied_pooling_is_stitched_to_the_last_pixel(kind, side):
    made, found, stitched = dense_and_stitched(strided(pool(kind, "round_mode: FLOOR"), side=side), "pool")
    assert made.inexact == [] and made.rates["pool"] == 4
    assert found.shape == stitched.shape
    assert relative(found, stitched) < 1e-6


def test_windows_that_hang_over_are_left_out():
    _, found, stitched = dense_and_stitched(strided(pool("MAX")), "pool")
    rows, columns = found.shape[2:]
    assert stitched.shape[2] > rows
    assert relative(found, stitched[:, :, :rows, :columns]) < 1e-6


def test_a_rarefied_net_is_the_old_one_at_every_stride():
    param = equalities.strided_net()
    made = rarefy(param)
    net, dense = Net(param), Net(made.net)
    fill_at_random(net)
    copy_weights(dense, {name: blobs for name, blobs in net_weights(net).items() if name in dense.params})
    image = torch.randn(net.blob_shapes["data"])
    with torch.no_grad():
        assert relative(dense(data=image)["score"][:, :, ::8, ::8], net(data=image)["score"]) < 1e-5
    # Names and weights stay, and all layers are Caffe's own.
    assert set(net.params) <= set(dense.params)
    assert {node.type for node in dense.graph.nodes} <= {
        "Input",
        "Convolution",
        "ReLU",
        "LRN",
        "Pooling",
        "Crop",
        "Eltwise",
        "Concat",
    }


def test_one_layer_alone():
    param = strided(pool("MAX", "round_mode: FLOOR"))
    made, found, _ = dense_and_stitched(param, "pool", layers=["pool"])
    assert made.rates == {"data": 1, "conv1": 1, "pool": 2} and made.steps == ["pool: stride 2 removed"]
    # The convolution strides as before, so every second place is the old net's.
    _, both, _ = dense_and_stitched(param, "pool")
    assert relative(both[:, :, ::2, ::2], found) == 0


def test_a_wrong_dilation_is_noticed(monkeypatch):
    def wrong(param, until=None, layers=None):
        made = rarefy(param, until, layers)
        next(it for it in made.net.layer if it.name == "fc").convolution_param.dilation[:] = [7]
        next(it for it in made.net.layer if it.name == "fc").convolution_param.pad[:] = [7]
        return made

    monkeypatch.setattr(equalities, "rarefy", wrong)
    result = equalities.rarefaction()
    assert result.verdict == DIFFERS
    assert [row.what.split(",")[0] for row in result.rows if not row.holds] == ["fc", "score"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (pool("MAX", "pad: 1"), "padded MAX"),
        (pool("STOCHASTIC"), "at random"),
        (layer("pool", "Pooling", "conv1", "pool mask", POOL.format(kind="MAX", more="")), "mask"),
        (layer("pool", "Pooling", "conv1", more="pooling_param { global_pooling: true }"), "whole map"),
        (layer("fc", "InnerProduct", "conv1", more="inner_product_param { num_output: 2 }"), "until"),
        (layer("n", "LRN", "conv1", more="lrn_param { norm_region: WITHIN_CHANNEL }"), "until"),
        (layer("up", "Deconvolution", "conv1", more="convolution_param { num_output: 2 kernel_size: 2 }"), "until"),
    ],
)
def test_what_has_no_rarefied_form_is_refused(text, reason):
    with pytest.raises(LayerError, match=reason):
        rarefy(strided(text))


def test_until_and_wrong_names():
    up = layer("up", "Deconvolution", "conv1", more="convolution_param { num_output: 2 kernel_size: 2 }")
    assert [it.name for it in rarefy(strided(up), until="conv1").net.layer] == ["data", "conv1"]
    with pytest.raises(GraphError, match="no blob 'x'"):
        rarefy(strided(), until="x")
    with pytest.raises(GraphError, match="no Convolution or Pooling 'x'"):
        rarefy(strided(), layers=["x"])
    with pytest.raises(LayerError, match="choose it too"):
        rarefy(strided(pool("MAX")), layers=["conv1"])
    join = layer("join", "Eltwise", "conv1 other")
    other = layer("other", "Convolution", "data", more="convolution_param { num_output: 4 kernel_size: 3 stride: 2 }")
    with pytest.raises(GraphError, match="'conv1' 2, 'other' 1"):
        rarefy(strided(other, join), layers=["conv1"])


def test_upsampling_notices_other_weights(monkeypatch):
    monkeypatch.setattr(equalities, "transplant", lambda *_: None)
    assert equalities.upsampling((2,)).rows[0].holds is False


def test_a_skip_with_weights_is_noticed(monkeypatch):
    def spoilt(net):
        if "score_pool4" in net.params:
            torch.nn.init.constant_(net.params["score_pool4"][0], 1e-3)
        return interp(net)

    monkeypatch.setattr(equalities, "interp", spoilt)
    result = equalities.zero_init_skip()
    assert result.verdict == DIFFERS and not result.rows[0].holds


def test_cost_counts_and_measures():
    result = patchwise_cost(scale=16, repeats=1)
    rows = {row.what: row for row in result.rows}
    assert rows["side of the map"].holds
    assert rows["crops / at once, in multiply-adds"].value > 5
    assert all(row.value > 0 and not isnan(row.value) for row in result.rows)


def test_cost_on_another_image_is_not_the_papers_map(monkeypatch):
    monkeypatch.setattr(cost, "_IMAGE", 300)
    assert patchwise_cost(scale=16, repeats=1).verdict == DIFFERS


def test_multiply_adds_of_alexnet():
    # CaffeNet's: 724 million a crop of 227x227.
    assert multiply_adds(Net(alexnet_classifier(227), device="meta")) == 724406816


def test_momentum_by_hand():
    one = torch.ones(2, 1, dtype=torch.float64)
    path = run_sgd(one, torch.tensor([2.0, 3.0], dtype=torch.float64), 0.1, 0.5, 1)
    # W1 = 0.2; V2 = 0.5 (-0.2) + 0.1 (0.2 - 3) = -0.38
    assert path[:, 0].tolist() == pytest.approx([0.2, 0.58])
    assert run_sgd(one, torch.tensor([2.0, 3.0], dtype=torch.float64), 0.1, 0.5, 2)[0, 0] == pytest.approx(0.5)


def test_momentum_of_one_image_is_the_batch_itself():
    rows = momentum_and_batch(batch=1).rows
    assert rows[0].value == 0.9 and rows[1].value == 0


def test_coarse_labels_by_hand():
    label = np.array([[0, 1, 2, 2, 1], [1, 1, 255, 255, 1], [2, 2, 255, 255, 0]])
    wanted = [[1, 1, 2, 2, 1], [1, 1, 2, 2, 1], [2, 2, 0, 0, 0]]
    assert coarse_label(label, 2, 3).tolist() == wanted
    assert upper_bounds([label], 3, [1])[1] == 1
    # counted pixels: class 0 is hit once of twice, and missed once as 1; the others are right everywhere else
    assert upper_bounds([label], 3, [2])[2] == pytest.approx((1 / 2 + 5 / 6 + 1) / 3)


def test_upper_bounds_of_a_folder(tmp_path, capsys):
    label = np.zeros((140, 150), np.uint8)
    label[20:90, 30:100] = 1
    label[100:] = 255
    Image.fromarray(label).save(tmp_path / "one.png")
    assert main(["upper-bound", "--labels", str(tmp_path), "--classes", "2", "--json"]) in (0, 1)
    record = json.loads(capsys.readouterr().out)
    assert len(record["rows"]) == 6 and record["rows"][-1]["value"] > 95
    assert "1 label images" in record["remarks"][0]
    label[0, 0] = 7
    Image.fromarray(label).save(tmp_path / "two.png")
    assert main(["upper-bound", "--labels", str(tmp_path), "--classes", "2"]) == 1
    assert "two.png: labels 7" in capsys.readouterr().err
    for folder, classes, reason in ((tmp_path, None, "--classes"), (tmp_path / "x", 2, "no such folder")):
        with pytest.raises(DataError, match=reason):
            upper_bound(folder, classes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no label image"):
        upper_bound(tmp_path / "empty", 2)
    (tmp_path / "two.png").unlink()
    Image.fromarray(np.full((9, 9), 255, np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="every pixel is void"):
        upper_bound(tmp_path, 2)


def test_experiments_on_files_of_ones_own(tmp_path, capsys):
    path = tmp_path / "net.prototxt"
    pooled = layer("pool", "Pooling", "data", more=POOL.format(kind="MAX", more=""))
    full = layer("fc", "InnerProduct", "pool", more="inner_product_param { num_output: 2 }")
    path.write_text(input_layer("data", 1, 3, 11, 11) + pooled + full)
    assert main(["fc-to-conv", "--net", str(path)]) == 0
    out = tmp_path / "dense.prototxt"
    assert main(["rarefaction", "--net", str(path), "--until", "pool", "--seed", "5", "--out", str(out)]) == 0
    assert [Net(out, phase).blob_shapes["pool"] for phase in (TRAIN, TEST)] == [(1, 3, 9, 9)] * 2
    assert "pool, 4 shifts" in capsys.readouterr().out
    assert main(["rarefaction", "--net", str(path)]) == 1
    assert "'fc' (InnerProduct)" in capsys.readouterr().err
    assert main(["rarefaction", "--net", str(path), "--until", "data"]) == 1
    assert "has no stride" in capsys.readouterr().err


def test_the_command_lists_and_refuses(capsys):
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(EXPERIMENTS)
    refused = {
        ("x",): "unknown experiment 'x'",
        (): "name an",
        ("cost", "--until", "a"): "no --until",
        ("upper-bound", "--classes", "3"): "with --labels",
    }
    for argv, reason in refused.items():
        with pytest.raises(SystemExit):
            main(list(argv))
        assert reason in capsys.readouterr().err


def test_a_result_without_a_check_does_not_hold():
    result = Result("x", "0", "nothing")
    result.measure("a number", 3)
    assert result.verdict == DIFFERS
    result.equal("a difference", float("nan"))
    assert result.verdict == DIFFERS and "NO" in str(result)
    assert relative(torch.tensor([float("nan")]), torch.zeros(1)) == float("inf")
    good = Result("x", "0", "nothing")
    good.equal("a difference", 0, 0)
    assert good.verdict == HOLDS
