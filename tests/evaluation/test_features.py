"""tools/extract_features.py: what is written is what the net gives, whole or not at all."""

from __future__ import annotations

import errno
import os

import h5py
import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net, randomise
from needs import needs_package
from small_stages import write_stages

from fcn_caffe import DataError, GraphError, Net
from fcn_caffe.commands import extract_features as command
from fcn_caffe.data.readers.databases import read_records
from fcn_caffe.evaluation import features
from fcn_caffe.evaluation.features import as_datum, extract_features
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.weights.transfer import net_weights, save_weights

BACKEND_PACKAGES = {"lmdb": "lmdb", "leveldb": "plyvel"}


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task whose data layer gives other images each time; weights.caffemodel fits its net."""
    monkeypatch.chdir(write_stages(tmp_path))
    net = Net("nets/coarse.prototxt")
    randomise(net)
    save_weights("weights.caffemodel", net_weights(net))
    return tmp_path


def wanted(blob, batches):
    net = Net("nets/coarse.prototxt")
    randomise(net)
    with torch.no_grad():
        return np.concatenate([net(keep=[blob])[blob].numpy() for _ in range(batches)])


def run(*arguments):
    return command.main(["weights.caffemodel", "nets/coarse.prototxt", *map(str, arguments)])


def datums(path, backend):
    keys, arrays = [], []
    for key, value in read_records(path, backend):
        datum = caffe_pb2.Datum.FromString(value)
        assert not datum.data and not datum.encoded and not datum.HasField("label")
        keys.append(key)
        arrays.append(np.array(datum.float_data, np.float32).reshape(datum.channels, datum.height, datum.width))
    return keys, np.stack(arrays)


@pytest.mark.parametrize("backend", ["lmdb", "leveldb"])
def test_databases(task, backend, capsys):
    needs_package(BACKEND_PACKAGES[backend])
    before = set(task.iterdir())
    assert run("conv,score", "a,b", 3, backend) == 0
    assert "wrote 'conv' of 3 images to a" in capsys.readouterr().out
    for blob, path in (("conv", "a"), ("score", "b")):
        keys, arrays = datums(path, backend)
        assert keys == [b"0000000000", b"0000000001", b"0000000002"]
        assert np.array_equal(arrays, wanted(blob, 3))
    assert {path.name for path in set(task.iterdir()) - before} == {"a", "b"}


def test_files_by_their_endings(task):
    assert run("conv,score,label", "a.h5,b.npz,c.hdf5", 2) == 0
    with h5py.File("a.h5") as file:
        assert np.array_equal(file["conv"][:], wanted("conv", 2))
    with np.load("b.npz") as file:
        assert file.files == ["score"] and np.array_equal(file["score"], wanted("score", 2))
    with h5py.File("c.hdf5") as file:
        assert np.array_equal(file["label"][:], wanted("label", 2))


def test_batches_of_several_images(tmp_path):
    net = make_net(
        'layer { name: "d" type: "Parameter" top: "d" parameter_param { shape { dim: 3 dim: 2 } } }',
        layer("r", "ReLU", "d", "path/file"),
    )
    randomise(net)
    assert extract_features(net, ["path/file"], [tmp_path / "a.npz"], 2, ["npz"]) == [6]
    with np.load(tmp_path / "a.npz") as file:
        assert file["path/file"].shape == (6, 2) and file["path/file"].any()


@pytest.mark.parametrize(("shape", "sizes"), [((), (1, 1, 1)), ((5,), (5, 1, 1)), ((2, 3), (2, 3, 1))])
def test_fewer_axes_in_a_datum(shape, sizes):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 0.5
    datum = caffe_pb2.Datum.FromString(as_datum(array))
    assert (datum.channels, datum.height, datum.width) == sizes
    assert list(datum.float_data) == array.reshape(-1).tolist()


def net_of(shape):
    dims = " ".join(f"dim: {size}" for size in shape)
    return make_net(f'layer {{ name: "d" type: "Parameter" top: "d" parameter_param {{ shape {{ {dims} }} }} }}')


@pytest.mark.parametrize(
    ("shape", "format", "message"),
    [
        ((2, 3, 4, 5, 6), "lmdb", "has more axes than a Datum"),
        ((), "h5", "is a single value"),
    ],
)
def test_blobs_that_do_not_fit(tmp_path, shape, format, message):
    if format == "lmdb":
        needs_package("lmdb")
    net = net_of(shape) if shape else make_net(*loss_net())
    with pytest.raises(DataError, match=message):
        extract_features(net, [net.graph.outputs[0]], [tmp_path / "out"], 1, [format])
    assert not list(tmp_path.iterdir())


def loss_net():
    ones = "parameter_param { shape { dim: 2 dim: 3 } }"
    return [
        layer("a", "Parameter", more=ones),
        layer("b", "Parameter", more=ones),
        layer("loss", "EuclideanLoss", "a b"),
    ]


def test_images_of_several_sizes_make_no_array(task):
    from PIL import Image

    Image.new("RGB", (20, 16)).save("images/5.png")
    Image.new("L", (20, 16)).save("labels/5.png")
    before = set(task.iterdir())
    assert run("conv", "a.npz", 3) == 1
    assert set(task.iterdir()) == before
    needs_package("lmdb")
    assert run("conv", "a", 2, "lmdb") == 0
    assert len({value for _, value in read_records("a", "lmdb")}) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("conv,score", "a.h5", 1), "2 blobs and 1 outputs"),
        (("conv,score", "a.h5,./a.h5", 1), "./a.h5: is named twice"),
        (("none", "a.h5", 1), "has no blob 'none'. It has: data, label, conv, score, loss."),
        (("conv", "a", 1), "give a type after the batches"),
        (("conv", "images", 1, "lmdb"), "images: exists already"),
        (("conv", "images", 1, "npz"), "is a folder"),
        (("conv", "away/a.h5", 1), "there is no folder"),
        (("conv", "a.h5", 1, "h5", "GPU", 99), "device"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_runs(task, arguments, message, capsys):
    before = set(task.iterdir())
    assert run(*arguments) == 1
    assert message in capsys.readouterr().err and set(task.iterdir()) == before


def test_a_blob_the_net_lacks_is_a_graph_error(tmp_path):
    with pytest.raises(GraphError):
        extract_features(net_of((1, 2)), ["none"], [tmp_path / "a.h5"], 1, ["h5"])


def test_a_failure_midway_leaves_nothing(tmp_path):
    net = make_net(input_layer("data", 1, 2), layer("r", "ReLU", "data"))
    net.inputs["data"] = torch.ones(1, 2)
    calls = []

    def fail(module, inputs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    net.layer("r").register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        extract_features(net, ["r"], [tmp_path / "a.h5"], 3, ["h5"])
    assert not list(tmp_path.iterdir())


def test_layers_without_weights_are_told(task, capsys):
    save_weights("weights.caffemodel", {"conv": net_weights(Net("nets/coarse.prototxt"))["conv"]})
    assert run("conv", "a.h5", 1) == 0
    assert "no weights for score; they keep what their fillers gave" in capsys.readouterr().err


def test_a_full_disk_is_told_with_the_output(task, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(features._Writer, "__init__", lambda writer, file: setattr(writer, "write", full))
    assert run("conv", "conv.npz", "1") == 1
    assert capsys.readouterr().err == "error: conv.npz: No space left on device. Make room on the disk.\n"
    assert not list(task.glob("conv.npz"))


def test_what_a_killed_run_left_goes_though_its_first_output_is_refused(task, capsys):
    needs_package("lmdb")
    (task / "out" / ".b.0123abcd.partial").mkdir(parents=True)
    (task / "out" / ".b.0123abcd.partial" / "data.mdb").write_bytes(b"half")
    (task / "out" / "a").mkdir()
    assert run("conv,score", "out/a,out/b", 1, "lmdb") == 1
    assert "a: exists already. Remove it" in capsys.readouterr().err
    assert [path.name for path in (task / "out").iterdir()] == ["a"]
