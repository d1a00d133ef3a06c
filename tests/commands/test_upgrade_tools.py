"""upgrade_net and upgrade_solver: text and binary, every old form, and files that are modern or broken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from needs import needs_data
from places import GOLDEN, SHARED

from fcn_caffe import PrototxtError
from fcn_caffe.commands import upgrade_net, upgrade_solver
from fcn_caffe.proto import caffe_pb2, parse_text, read_text
from fcn_caffe.proto.files import read_message
from fcn_caffe.weights.transfer import load_weights

FORMATS = GOLDEN / "formats"
REAL = SHARED / "data" / "caffe"


def same_layers(ours: caffe_pb2.NetParameter, theirs: caffe_pb2.NetParameter) -> bool:
    """Whether both compute the same: names, wiring and options, not multipliers or the Input layer's name."""
    for net in (ours, theirs):
        for layer in net.layer:
            layer.ClearField("param")
            if layer.type == "Input":
                layer.name = "data"
            if layer.type == "Convolution":
                layer.convolution_param.ClearField("group")
    return list(ours.layer) == list(theirs.layer)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("v0", "upgraded 8 V0 layers; net-level input data"),
        ("v1", "upgraded 7 V1 layers; net-level input data"),
        ("input", "upgraded net-level input data"),
    ],
)
def test_old_text(form: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = FORMATS / f"{form}.prototxt", tmp_path / "new.prototxt"
    before = source.read_bytes()
    assert upgrade_net.main([str(source), str(target)]) == 0
    assert capsys.readouterr().out == f"{source}: {said}\nwrote {target} (text)\n"
    assert source.read_bytes() == before
    made, modern = (read_text(path, caffe_pb2.NetParameter) for path in (target, FORMATS / "modern.prototxt"))
    assert same_layers(made, modern)


def test_modern_text_keeps_every_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "net.prototxt"
    source.write_bytes(b"# a comment\n" + (FORMATS / "modern.prototxt").read_bytes())
    for target in (tmp_path / "copy.prototxt", source):
        assert upgrade_net.main([str(source), str(target)]) == 0
        assert "is modern already\nwrote " in capsys.readouterr().out
        assert target.read_bytes().startswith(b"# a comment\n")


def test_over_the_input(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    shutil.copy(FORMATS / "v1.prototxt", path)
    assert upgrade_net.main([str(path), str(path)]) == 0
    assert not read_text(path, caffe_pb2.NetParameter).layers
    assert os.listdir(tmp_path) == [path.name]


def test_binary_nets_keep_their_blobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new.caffemodel"
    assert upgrade_net.main([str(FORMATS / "v1.caffemodel"), str(target)]) == 0
    out = capsys.readouterr().out
    assert "upgraded 2 V1 layers\n" in out and "(binary)" in out
    made = caffe_pb2.NetParameter.FromString(target.read_bytes())
    assert not made.layers and {layer.type for layer in made.layer} >= {"Convolution", "InnerProduct"}
    old, new = load_weights(FORMATS / "v1.caffemodel"), load_weights(target)
    assert old.keys() == new.keys()
    for name, blobs in old.items():
        assert all(np.array_equal(a, b) for a, b in zip(blobs, new[name], strict=True))


def test_text_and_binary_on_demand(tmp_path: Path) -> None:
    text, binary = tmp_path / "a.prototxt", tmp_path / "a.binary"
    assert upgrade_net.main([str(FORMATS / "v0.prototxt"), str(binary), "--binary"]) == 0
    assert read_message(binary, caffe_pb2.NetParameter)[1]
    assert upgrade_net.main([str(binary), str(text), "--text"]) == 0
    assert read_text(text, caffe_pb2.NetParameter) == caffe_pb2.NetParameter.FromString(binary.read_bytes())


def test_data_transforms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layers { name: "d" type: DATA top: "d" data_param { source: "x" scale: 0.5 mirror: true } }\n'
    )
    assert upgrade_net.main([str(tmp_path / "net.prototxt"), str(tmp_path / "new.prototxt")]) == 0
    assert "upgraded 1 V1 layer; transforms in the data options of d\n" in capsys.readouterr().out
    (data,) = read_text(tmp_path / "new.prototxt", caffe_pb2.NetParameter).layer
    assert (data.transform_param.scale, data.transform_param.mirror) == (0.5, True)
    assert not data.data_param.HasField("scale")


def test_batch_norm_and_the_transforms_of_modern_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "Data" top: "d" data_param { source: "x" scale: 0.5 mirror: true } }\n'
        'layer { name: "n" type: "BatchNorm" bottom: "d" top: "n" param { lr_mult: 1 } param { } param { } }\n'
    )
    assert upgrade_net.main([str(tmp_path / "net.prototxt"), str(tmp_path / "new.prototxt")]) == 0
    assert "upgraded multipliers of BatchNorm in n\n" in capsys.readouterr().out
    data, norm = read_text(tmp_path / "new.prototxt", caffe_pb2.NetParameter).layer
    assert (data.data_param.scale, data.HasField("transform_param")) == (0.5, False)
    assert "layer 'd' (Data): data_param { scale }, data_param { mirror } has no effect" in caplog.text
    assert [(param.lr_mult, param.decay_mult) for param in norm.param] == [(0, 0)] * 3
    assert upgrade_net.main([str(tmp_path / "new.prototxt"), str(tmp_path / "again.prototxt")]) == 0
    assert "is modern already" in capsys.readouterr().out


@pytest.mark.parametrize("old", ["SGD", "NESTEROV", "ADAGRAD", "RMSPROP", "ADADELTA", "ADAM"])
@pytest.mark.parametrize("form", ["text", "binary"])
def test_solvers(old: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "old", tmp_path / "new"
    text = f'net: "net.prototxt" base_lr: 0.01 solver_type: {old}'
    if form == "text":
        source.write_text(text)
    else:
        source.write_bytes(parse_text(text, caffe_pb2.SolverParameter).SerializeToString())
    assert upgrade_solver.main([str(source), str(target)]) == 0
    assert capsys.readouterr().out == f"{source}: upgraded solver_type {old}\nwrote {target} ({form})\n"
    made, binary = read_message(target, caffe_pb2.SolverParameter)
    assert binary == (form == "binary")
    assert made.type.upper() == old and not made.HasField("solver_type") and made.net == "net.prototxt"


def test_modern_solver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").write_text("type: 'Adam' # mine\n")
    assert upgrade_solver.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "is modern already" in capsys.readouterr().out
    assert (tmp_path / "b").read_text() == "type: 'Adam' # mine\n"


def test_binary_that_looks_like_text(tmp_path: Path) -> None:
    """A train_net of 32 letters: its tag and length are a line feed and a space."""
    solver = caffe_pb2.SolverParameter(train_net="n" * 32)
    (tmp_path / "a").write_bytes(solver.SerializeToString())
    assert read_message(tmp_path / "a", caffe_pb2.SolverParameter) == (solver, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"layer { nme: 1 }", ':1:9: Layer has no field "nme"'),
        ("layér { }".encode(), ":1:1: "),
        (b"\x00\x01\x02", "is not a binary NetParameter ("),
        (b"\xa2\x06\x7f\x0a", "is not a binary NetParameter ("),
        (b'layer { name: "a" } layers { name: "b" }', "has both `layer` and the old `layers`:"),
        (b'layers { layer { type: "warp" name: "w" } }', "layer 'w' has the unknown type \"warp\"."),
    ],
)
def test_broken_nets_are_one_line_and_write_nothing(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "net"
    source.write_bytes(content)
    assert upgrade_net.main([str(source), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {source}") and message in error and error.count("\n") == 1
    assert os.listdir(tmp_path) == ["net"]


def test_a_binary_name_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "net.binaryproto"
    net = caffe_pb2.NetParameter(name="net", layer=[caffe_pb2.LayerParameter(name="nam", top=["top"])])
    path.write_bytes(net.SerializeToString())
    assert read_message(path, caffe_pb2.NetParameter) == (net, True)
    for field in ("name", "top"):
        path.write_bytes(net.SerializeToString().replace(field[:3].encode(), b"\xff\xfe\xfd"))
        with pytest.raises(PrototxtError, match=f"has a {field} that is not UTF-8 text"):
            read_message(path, caffe_pb2.NetParameter)


def test_places_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = FORMATS / "v1.prototxt"
    assert upgrade_net.main([str(tmp_path / "none"), str(tmp_path / "out")]) == 1
    assert upgrade_net.main([str(net), str(tmp_path / "none" / "out")]) == 1
    error = capsys.readouterr().err
    assert "none: cannot be read: No such file or directory." in error
    assert "none/out: there is no folder" in error and "Make it first." in error
    with pytest.raises(PrototxtError, match="cannot be read"):
        read_message(tmp_path, caffe_pb2.NetParameter)


def test_the_lenet_of_2014(tmp_path: Path) -> None:
    folder = needs_data("data/caffe/lenet_v1")
    for name in ("lenet.prototxt", "lenet_train.prototxt", "lenet_test.prototxt", "lenet_iter_10000"):
        assert upgrade_net.main([str(folder / name), str(tmp_path / name)]) == 0
        message, binary = read_message(tmp_path / name, caffe_pb2.NetParameter)
        assert binary == (name == "lenet_iter_10000")
        assert not message.layers and [layer.type for layer in message.layer].count("InnerProduct") == 2
    old, new = load_weights(folder / "lenet_iter_10000"), load_weights(tmp_path / "lenet_iter_10000")
    assert list(old) == ["conv1", "conv2", "ip1", "ip2"] == list(new)
    assert all(np.array_equal(a, b) for name in old for a, b in zip(old[name], new[name], strict=True))
    assert upgrade_solver.main([str(folder / "lenet_solver.prototxt"), str(tmp_path / "solver")]) == 0
