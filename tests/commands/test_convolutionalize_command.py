"""The command convolutionalize: files in, files out, or one line and nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from classifiers import ALEXNET, GOOGLENET
from helpers import randomise
from places import SHARED

from fcn_caffe import Net
from fcn_caffe.commands.convolutionalize import main
from fcn_caffe.net.graph import read_net
from fcn_caffe.net.rewrite.deploy_form import deploy_form
from fcn_caffe.weights.record import Preprocessing, read_preprocessing, sha256_of, write_preprocessing
from fcn_caffe.weights.transfer import load_weights, net_weights, save_weights

DATA = SHARED / "data" / "caffe" / "lenet_v1"


def files(folder, *text):
    """A classifier's files and the arguments of the command."""
    (folder / "in.prototxt").write_text("\n".join(text))
    net = Net(deploy_form(read_net(folder / "in.prototxt"))[0])
    randomise(net, 3)
    save_weights(folder / "in.caffemodel", net_weights(net))
    return [str(folder / name) for name in ("in.prototxt", "in.caffemodel", "out.prototxt", "out.caffemodel")]


def test_the_command_writes_a_net_and_its_weights(tmp_path, capsys):
    paths = files(tmp_path, *ALEXNET)
    write_preprocessing(paths[1], Preprocessing("BGR", (104.0, 117.0, 123.0)))
    assert main([*paths, "--suffix", "-conv", "--larger", "65x33"]) == 0
    said = capsys.readouterr().out
    assert "fc6: InnerProduct 8x150 -> fc6-conv: Convolution 8x6x5x5" in said
    assert "4 places are their crops' answers" in said and "prob: 9x1, stride 4, receptive field 33" in said
    old, new = load_weights(paths[1]), load_weights(paths[3])
    assert list(new) == ["conv1", "conv2", "fc6-conv", "fc7-conv", "fc8-conv"]
    assert np.array_equal(new["fc6-conv"][0].ravel(), old["fc6"][0].ravel())
    assert Net(paths[2]).graph.outputs == ("prob",)
    record = read_preprocessing(paths[3])
    assert record is not None and (record.source, record.sha256) == ("in.caffemodel", sha256_of(paths[1]))
    assert (record.channel_order, record.mean) == ("BGR", (104.0, 117.0, 123.0))


def test_the_command_without_weights(tmp_path, capsys):
    (tmp_path / "in.prototxt").write_text("\n".join(GOOGLENET).replace("crop_size: 15", ""))
    paths = [str(tmp_path / "in.prototxt"), str(tmp_path / "out.prototxt")]
    assert main([*paths, "--no-weights", "--input-size", "15x17", "--output", "classifier"]) == 0
    said = capsys.readouterr().out
    assert "left out, as a deploy form has no labels: aux/loss, loss, top-1" in said and "pads" in said
    assert [it.name for it in Path(tmp_path).iterdir() if "caffemodel" in it.name] == []
    assert Net(paths[1]).blob_shapes["data"] == (1, 3, 15, 17)


def test_the_command_refuses_and_writes_nothing(tmp_path, capsys):
    paths = files(tmp_path, *ALEXNET)
    known = sorted(tmp_path.iterdir())

    def refused(*arguments):
        assert main(list(arguments)) == 1 and sorted(tmp_path.iterdir()) == known
        return capsys.readouterr().err

    assert "is named twice and would be overwritten" in refused(*paths[:3], paths[1])
    assert "there is no folder" in refused(*paths[:3], str(tmp_path / "none" / "out.caffemodel"))
    assert "the ending names no weight format" in refused(*paths[:3], str(tmp_path / "out.weights"))
    assert "layer 'fc6' blob 0 is 8x150, the net wants 8x294" in refused(*paths, "--input-size", "41x41")
    weights = load_weights(paths[1])
    save_weights(paths[1], {name: blobs for name, blobs in weights.items() if name != "fc7"})
    assert "has no weights for layer fc7" in refused(*paths)
    with pytest.raises(SystemExit):
        main(paths[:3])


@pytest.mark.needs_data("data/caffe/lenet_v1")
@pytest.mark.parametrize(("net", "more"), [("lenet", []), ("lenet_test", ["--input-size", "28x28"])])
def test_lenet_of_2014(tmp_path, capsys, net, more):
    paths = [str(DATA / f"{net}.prototxt"), str(DATA / "lenet_iter_10000"), str(tmp_path / "o.prototxt")]
    assert main([*paths, str(tmp_path / "o.caffemodel"), *more]) == 0
    said = capsys.readouterr().out
    assert "classifier of 1x28x28 images" in said and "4 places are their crops' answers" in said
    assert "prob: 8x8, stride 4, receptive field 28" in said
