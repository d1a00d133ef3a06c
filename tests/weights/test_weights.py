"""Binary weights: reading every form, writing what protobuf and Caffe read, copying into nets, corrupt files."""

from __future__ import annotations

import errno
import os
import struct
import warnings
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import needs_data
from places import GOLDEN, SHARED

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2, parse_text, wire, wire_writer
from fcn_caffe.weights import transfer as weights_module
from fcn_caffe.weights.transfer import BlobCounts, copy_weights, load_weights, net_weights, save_weights

FORMATS = GOLDEN / "formats"
ORACLE = SHARED / "oracle"


def stub_net(**shapes: list[tuple[int, ...]]) -> Any:
    params = {name: [torch.zeros(shape) for shape in blobs] for name, blobs in shapes.items()}
    return SimpleNamespace(name="stub", params=params)


def saved(tmp_path: Path, text: str) -> Path:
    """A caffemodel that protobuf wrote from the text form."""
    path = tmp_path / "net.caffemodel"
    path.write_bytes(parse_text(text, caffe_pb2.NetParameter).SerializeToString())
    return path


def length_delimited(number: int, data: bytes) -> bytes:
    return wire_writer._varint(number << 3 | 2) + wire_writer._varint(len(data)) + data


def in_net(blob: bytes) -> bytes:
    """A net with one layer "a" that holds one blob message."""
    return length_delimited(100, length_delimited(1, b"a") + length_delimited(7, blob))


# -- reading ---------------------------------------------------------------------------------------------------------


def test_modern_and_v1_files_hold_the_same_weights() -> None:
    modern, v1 = load_weights(FORMATS / "modern.caffemodel"), load_weights(FORMATS / "v1.caffemodel")
    assert {name: [blob.shape for blob in blobs] for name, blobs in modern.items()} == {
        "conv": [(4, 3, 3, 3), (4,)],
        "ip": [(5, 64), (5,)],
    }
    assert [blob.shape for blob in v1["ip"]] == [(1, 1, 5, 64), (1, 1, 1, 5)]
    for name, blobs in modern.items():
        for have, old in zip(blobs, v1[name], strict=True):
            assert have.dtype == np.float32
            assert np.array_equal(have.ravel(), old.ravel())
    message = caffe_pb2.NetParameter.FromString((FORMATS / "modern.caffemodel").read_bytes())
    for layer in message.layer:
        for blob, array in zip(layer.blobs, modern.get(layer.name, []), strict=True):
            assert np.array_equal(np.array(blob.data, np.float32), array.ravel())


def test_arrays_are_views_of_the_file_and_private(tmp_path: Path) -> None:
    path = tmp_path / "a.caffemodel"
    save_weights(path, {"a": [np.arange(6, dtype=np.float32)]})
    before = path.read_bytes()
    first, second = load_weights(path)["a"][0], load_weights(path)["a"][0]
    assert not first.flags.owndata
    first[:] = 7
    assert list(second) == [0, 1, 2, 3, 4, 5]
    assert path.read_bytes() == before


def test_loaded_arrays_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.caffemodel"
    save_weights(path, {"a": [np.arange(3, dtype=np.float32)]})
    array = load_weights(path)["a"][0]
    save_weights(path, {"a": [np.zeros(3, np.float32)]})
    path.unlink()
    assert list(array) == [0, 1, 2]


@pytest.mark.parametrize("layer", [
    'layer { name: "a" type: "Convolution" blobs { %s } }',
    'layers { name: "a" type: CONVOLUTION blobs { %s } }',
    'layers { layer { name: "a" type: "conv" blobs { %s } } }',
])  # fmt: skip
@pytest.mark.parametrize(("blob", "shape"), [
    ("shape { dim: 2 dim: 3 } data: [1, 2, 3, 4, 5, 6]", (2, 3)),
    ("num: 1 channels: 1 height: 2 width: 3 data: [1, 2, 3, 4, 5, 6]", (1, 1, 2, 3)),
    ("shape { dim: 6 } double_data: [1, 2, 3, 4, 5, 6] diff: [9, 9]", (6,)),
])  # fmt: skip
def test_every_form_of_layer_and_blob(tmp_path: Path, layer: str, blob: str, shape: tuple[int, ...]) -> None:
    array = load_weights(saved(tmp_path, layer % blob))["a"][0]
    assert array.shape == shape and array.dtype == np.float32
    assert list(array.ravel()) == [1, 2, 3, 4, 5, 6]


def test_scalar_blob_and_layer_without_blobs(tmp_path: Path) -> None:
    found = load_weights(saved(tmp_path, 'layer { name: "s" blobs { shape { } data: 5 } } layer { name: "relu" }'))
    assert found["s"][0].shape == () and found["s"][0] == 5
    assert list(found) == ["s"]


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 129, 5000])
@pytest.mark.parametrize(("number", "form"), [(5, "<f"), (8, "<d")])
def test_unpacked_values_as_old_writers_left_them(tmp_path: Path, count: int, number: int, form: str) -> None:
    wire_type = 5 if form == "<f" else 1
    values = np.arange(count) - 5.0
    run = [bytes([number << 3 | wire_type]) + struct.pack(form, value) for value in values]
    blob = b"".join(run) + length_delimited(7, length_delimited(1, wire_writer._varint(count)))
    path = tmp_path / "a.caffemodel"
    path.write_bytes(in_net(blob))
    assert np.array_equal(load_weights(path)["a"][0], values)


def test_data_in_pieces_and_unpacked_dims(tmp_path: Path) -> None:
    shape = length_delimited(7, b"\x08\x02\x08\x03")
    packed = length_delimited(5, struct.pack("<2f", 1, 2))
    loose = b"".join(b"\x2d" + struct.pack("<f", value) for value in (3, 4, 5))
    path = tmp_path / "a.caffemodel"
    path.write_bytes(in_net(packed + loose + shape + length_delimited(5, struct.pack("<f", 6))))
    assert load_weights(path)["a"][0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_file_over_protobufs_two_gigabytes(tmp_path: Path) -> None:
    path, count = tmp_path / "big.caffemodel", 600_000_000
    shape = length_delimited(7, length_delimited(1, wire_writer._varint(count)))
    blob_size = 1 + 5 + 4 * count + len(shape)
    blob = b"\x3a" + wire_writer._varint(blob_size)
    layer = length_delimited(1, b"a") + blob
    with open(path, "wb") as file:
        file.write(wire_writer._varint(802) + wire_writer._varint(len(layer) + blob_size) + layer)
        file.write(b"\x2a" + wire_writer._varint(4 * count))
        file.seek(4 * count - 4, os.SEEK_CUR)  # a hole: the file takes no room
        file.write(struct.pack("<f", 7) + shape)
    array = load_weights(path)["a"][0]
    assert array.shape == (count,) and array[-1] == 7 and array[0] == 0


@pytest.mark.parametrize("name", ["adam", "sgd_multistep"])
def test_solver_states(name: str, tmp_path: Path) -> None:
    path = needs_data(f"oracle/states/{name}_iter_5.solverstate")
    state = wire.read_solver_state(path)
    message = caffe_pb2.SolverState.FromString(path.read_bytes())
    assert (state.iter, state.learned_net, state.current_step) == (5, message.learned_net, message.current_step)
    for blob, array in zip(message.history, state.history, strict=True):
        assert tuple(blob.shape.dim) == array.shape
        assert np.array_equal(np.array(blob.data, np.float32), array.ravel())
    again = tmp_path / "again.solverstate"
    with atomic_write(again) as file:
        wire_writer.write_solver_state(file, state.iter, state.learned_net, state.history, state.current_step)
    assert caffe_pb2.SolverState.FromString(again.read_bytes()) == message


# -- bad files -------------------------------------------------------------------------------------------------------


def test_truncation_is_an_error_or_a_shorter_net(tmp_path: Path) -> None:
    whole = (FORMATS / "modern.caffemodel").read_bytes()
    complete = load_weights(FORMATS / "modern.caffemodel")
    path = tmp_path / "cut.caffemodel"
    sizes = [*range(1, 150), *range(150, len(whole), 13), len(whole) - 1]
    errors = 0
    for size in sizes:
        path.write_bytes(whole[:size])
        try:
            found = load_weights(path)
        except WeightsError as error:
            errors += 1
            assert str(error).startswith(f"{path}: byte ")
        else:  # cut between two layers, where nothing tells
            assert all(len(found[name]) == len(complete[name]) for name in found)
    assert errors > 0.9 * len(sizes)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 2101), value=st.integers(0, 255))
def test_any_damaged_byte_is_read_or_a_weights_error(tmp_path_factory: Any, position: int, value: int) -> None:
    data = bytearray((FORMATS / "modern.caffemodel").read_bytes())
    data[position] = value
    path = tmp_path_factory.getbasetemp() / "damaged.caffemodel"
    path.write_bytes(data)
    try:
        load_weights(path)
    except WeightsError as error:
        assert "byte" in str(error)


@pytest.mark.parametrize(("data", "message"), [
    (b"", "the file is empty."),
    (b"\xa2\x06\x7f\x0a", "byte 0: field 100 needs 127 bytes, the file has 1 left. The file is truncated or corrupt."),
    (in_net(length_delimited(7, b"\x08\x03") + length_delimited(5, bytes(8))),
     "byte 8: layer 'a' blob 0 has shape 3, which takes 3 values; 2 are stored. The file is truncated or corrupt."),
    (in_net(length_delimited(5, bytes(8))),
     "byte 8: layer 'a' blob 0 has shape (scalar), which takes 1 values; 2 are stored. "
     "The file is truncated or corrupt."),
    (in_net(length_delimited(7, b"\x08\x03") + length_delimited(5, bytes(7))),
     "byte 14: the data of layer 'a' blob 0 is 7 bytes, not a multiple of 4. The file is truncated or corrupt."),
    (in_net(b"\x2a\x20" + bytes(8)),
     "byte 8: field 5 needs 32 bytes, the file has 8 left. The file is truncated or corrupt."),
    (in_net(length_delimited(7, length_delimited(1, b"\x00" + b"\xff" * 8 + b"\x7f"))),
     "byte 8: layer 'a' blob 0 has shape 0x9223372036854775807, which no array can have. "
     "The file is truncated or corrupt."),
    (in_net(length_delimited(7, b"\x08\x01" * 100) + length_delimited(5, bytes(4))),
     "byte 13: layer 'a' blob 0 has more than 32 axes. The file is truncated or corrupt."),
    (b"\x08\x05", "is a solver state, of iteration 5, not weights. The weights are in a file of their own; to go on "
     "with training give the state as --snapshot, or to Solver.restore."),
    (b"\x80" * 11, "byte 0: a number is longer than 10 bytes. The file is truncated or corrupt."),
    (b"<!DOCTYPE html><html></html>", "is a web page, not the file itself. Download the file by its own link "
     '(on GitHub: "Raw").'),
])  # fmt: skip
def test_corrupt_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert str(caught.value).removesuffix(" Copy it again.") == f"{path}: {message}"


def test_missing_file_and_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.caffemodel: cannot be read: No such file or directory\."):
        load_weights(tmp_path / "none.caffemodel")
    with pytest.raises(WeightsError, match=r"x\.onnx: the ending names no weight format\. Known: .*\.caffemodel"):
        save_weights("x.onnx", {})


# -- writing ---------------------------------------------------------------------------------------------------------


def test_protobuf_reads_what_is_written_and_so_do_we(tmp_path: Path) -> None:
    path = tmp_path / "a.caffemodel"
    strided = np.arange(12, dtype=np.float64).reshape(3, 4)[:, ::2]
    arrays = {"a": [np.float32(strided), np.float32([1, 2])], "ünï": [np.array(3, np.float32)], "wide": [strided.T]}
    save_weights(path, arrays, "net", {"a": "InnerProduct"})
    message = caffe_pb2.NetParameter.FromString(path.read_bytes())
    assert message.name == "net"
    assert [(layer.name, layer.type) for layer in message.layer] == [("a", "InnerProduct"), ("ünï", ""), ("wide", "")]
    assert message.SerializeToString() == path.read_bytes()  # fields in the order that Caffe writes them
    again = load_weights(path)
    for name, blobs in arrays.items():
        for wanted, have in zip(blobs, again[name], strict=True):
            assert have.shape == wanted.shape and np.array_equal(have, wanted)


def test_written_as_caffe_wrote_it(tmp_path: Path) -> None:
    path = tmp_path / "a.caffemodel"
    save_weights(path, load_weights(FORMATS / "modern.caffemodel"))
    wanted = caffe_pb2.NetParameter.FromString((FORMATS / "modern.caffemodel").read_bytes())
    have = caffe_pb2.NetParameter.FromString(path.read_bytes())
    assert [list(layer.blobs) for layer in have.layer] == [list(layer.blobs) for layer in wanted.layer if layer.blobs]


def test_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.caffemodel"
    save_weights(path, {"a": [np.ones(3, np.float32)]})
    before = path.read_bytes()

    def full(file: Any, *_: Any) -> None:
        file.write(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(wire_writer, "write_net", full)
    with pytest.raises(WeightsError, match=r"cannot be written: No space left on device\. Nothing was replaced\."):
        save_weights(path, {"a": [np.zeros(3, np.float32)]})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.caffemodel"]


def test_saving_into_no_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be written: No such file or directory"):
        save_weights(tmp_path / "none" / "a.caffemodel", {})


def test_atomic_write_keeps_links_and_text(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with atomic_write(tmp_path / "link.txt", "w") as file:
        file.write("né")
        assert (tmp_path / "real.txt").read_text() == "old"
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text(encoding="utf-8") == "né"


def test_an_error_of_atomic_write_names_what_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "gone" / "x.txt", "w"):
        pass
    assert caught.value.filename == str(tmp_path / "gone" / "x.txt")


# -- copying into nets -----------------------------------------------------------------------------------------------


def test_report_names_what_happened() -> None:
    net = stub_net(conv=[(4, 3, 3, 3), (4,)], ip=[(5, 64), (5,)], new=[(2,)])
    found = load_weights(FORMATS / "v1.caffemodel")
    found["extra"] = [np.zeros(1, np.float32)]
    report = copy_weights(net, found)
    assert str(report).splitlines() == [
        "copied 2: conv, ip",
        "coerced 3: conv blob 1 1x1x1x4 to 4; ip blob 0 1x1x5x64 to 5x64; ip blob 1 1x1x1x5 to 5",
        "ignored 1 the net does not have: extra",
        "missing 1, left as they are: new",
    ]
    for name in ("conv", "ip"):
        for blob, array in zip(net.params[name], found[name], strict=True):
            assert np.array_equal(blob.numpy().ravel(), array.ravel())


@pytest.mark.parametrize("form", ["modern", "input", "v1", "v0"])
@pytest.mark.parametrize("weights", ["modern", "v1"])
def test_real_net_gives_caffes_output(form: str, weights: str) -> None:
    path = needs_data("oracle/formats/expected.npz")
    expected = np.load(path)
    net = Net(FORMATS / f"{form}.prototxt")
    copy_weights(net, load_weights(FORMATS / f"{weights}.caffemodel"))
    with torch.no_grad():
        prob = net(data=torch.from_numpy(expected["data"]))["prob"].numpy()
    names = [name for name in expected.files if name.startswith("prob")]
    wanted = expected[next(name for name in names if form in name and weights in name)]
    assert np.abs(prob - wanted).max() < 1e-5


def test_net_weights_round_trip(tmp_path: Path) -> None:
    net, other = Net(FORMATS / "modern.prototxt"), Net(FORMATS / "modern.prototxt")
    with torch.no_grad():
        for blobs in net.params.values():
            for blob in blobs:
                blob.uniform_()
    save_weights(tmp_path / "a.caffemodel", net_weights(net), net.name)
    report = copy_weights(other, load_weights(tmp_path / "a.caffemodel"), strict=True)
    assert report.copied == list(net.params) and not report.missing
    for name, blobs in net.params.items():
        assert all(torch.equal(a, b) for a, b in zip(blobs, other.params[name], strict=True))


@pytest.mark.parametrize(("have", "want", "message"), [
    ((4096, 25088), (4096, 512, 7, 7), "layer 'fc6' blob 0 is 4096x25088, the net wants 4096x512x7x7. "
     "Same count: use transplant, or rename the layer to learn it from scratch."),
    ((21, 4096, 1, 1), (2, 4096, 1, 1), "layer 'fc6' blob 0 is 21x4096x1x1, the net wants 2x4096x1x1. "
     "The weights have 21 outputs, the net 2; if classes differ, rename the layer to learn it from scratch."),
    ((21, 21, 4, 4), (2, 2, 4, 4), "layer 'fc6' blob 0 is 21x21x4x4, the net wants 2x2x4x4. "
     "The weights have 21 outputs, the net 2; if classes differ, rename the layer to learn it from scratch."),
    ((2, 3, 1, 1), (2, 3), "layer 'fc6' blob 0 is 2x3x1x1, the net wants 2x3. "
     "Same count: use transplant, or rename the layer to learn it from scratch."),
    ((2, 4), (2, 3), "layer 'fc6' blob 0 is 2x4, the net wants 2x3. Rename the layer to learn it from scratch."),
    ((), (2, 3), "layer 'fc6' blob 0 is (scalar), the net wants 2x3. Rename the layer to learn it from scratch."),
])  # fmt: skip
def test_shapes_that_do_not_fit(have: tuple[int, ...], want: tuple[int, ...], message: str) -> None:
    net = stub_net(first=[(2,)], fc6=[want])
    arrays = {"first": [np.ones(2, np.float32)], "fc6": [np.broadcast_to(np.float32(1), have)]}
    with pytest.raises(WeightsError) as caught:
        copy_weights(net, arrays, "vgg16.caffemodel")
    assert str(caught.value) == f"vgg16.caffemodel: {message}"
    assert net.params["first"][0].tolist() == [0, 0]  # nothing was copied


def test_number_of_blobs_and_count_of_problems() -> None:
    net = stub_net(a=[(2,), (2,)], b=[(3,)])
    with pytest.raises(WeightsError) as caught:
        copy_weights(net, {"a": [np.ones(2)], "b": [np.ones(2)]}, "x.caffemodel")
    assert str(caught.value) == (
        "x.caffemodel: layer 'a' has 1 blob, the net wants 2. Is bias_term the same? Rename the layer to learn it "
        "from scratch. (1 more blob also do not fit.)"
    )


def test_strict_wants_every_layer() -> None:
    with pytest.raises(WeightsError, match="the layers are not those of the net"):
        copy_weights(stub_net(a=[(2,)], b=[(2,)]), {"a": [np.ones(2)]}, strict=True)


def test_shared_parameters_are_not_missing() -> None:
    net = stub_net(a=[(2,)])
    net.params["sharer"] = net.params["a"]
    assert copy_weights(net, {"a": [np.ones(2, np.float32)]}).missing == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_array_into_any_dtype_without_a_warning(dtype: torch.dtype) -> None:
    read_only = np.arange(4, dtype=np.float32)
    read_only.flags.writeable = False
    net = SimpleNamespace(name="", params=OrderedDict(a=[torch.zeros(4, dtype=dtype, requires_grad=True)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy_weights(net, {"a": [read_only]})
    assert net.params["a"][0].tolist() == [0, 1, 2, 3]


def test_autograd_sees_the_write() -> None:
    """A graph that used the old values says so instead of giving a wrong gradient."""
    net = stub_net(a=[(3,)])
    parameter = net.params["a"][0].requires_grad_()
    loss = (parameter * parameter).sum()
    copy_weights(net, {"a": [np.ones(3, np.float32)]})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_net_without_memory() -> None:
    net = SimpleNamespace(name="", params={"a": [torch.zeros(2, device="meta")]})
    with pytest.raises(WeightsError, match="on the meta device"):
        copy_weights(net, {"a": [np.ones(2, np.float32)]})


def test_blobs_are_counted_when_a_number_is_asked_for(tmp_path: Path) -> None:
    counts = BlobCounts([tmp_path / "a.npz", tmp_path / "b.npz"])
    with pytest.raises(WeightsError, match=r"a\.npz"):
        len(counts)
    one = np.ones(1, np.float32)
    save_weights(tmp_path / "a.npz", {"x": [one], "y": [one, one]})
    save_weights(tmp_path / "b.npz", {"x": [one, one, one]})
    assert dict(counts) == {"x": 3, "y": 2} and len(counts) == 2
    (tmp_path / "a.npz").unlink()
    assert counts["y"] == 2


def test_all_is_what_the_module_offers() -> None:
    assert set(weights_module.__all__) == {
        "ABSENT",
        "Array",
        "BlobCounts",
        "CopyReport",
        "Weights",
        "copy_weights",
        "count_blobs",
        "load_weights",
        "net_weights",
        "save_weights",
    }
