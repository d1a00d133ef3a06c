"""Weights in every form: in and out, Caffe's own HDF5, damaged and hostile files, the twelve pairs."""

from __future__ import annotations

import os
import random
import resource
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import oracle
import pytest
import torch
from helpers import input_layer, layer, make_net, randomise
from needs import needs_data, needs_szip
from places import GOLDEN, ROOT, SHARED

from fcn_caffe import DataError, Net, PrototxtError, WeightsError
from fcn_caffe.proto import caffe_pb2, parse_text, wire, wire_writer
from fcn_caffe.proto.blob_file import read_blob
from fcn_caffe.proto.files import read_message
from fcn_caffe.proto.upgrade import upgrade_net
from fcn_caffe.training.solver import Solver
from fcn_caffe.weights.formats import hdf5
from fcn_caffe.weights.formats.arrays import LEGACY_TORCH_MAGIC
from fcn_caffe.weights.transfer import ABSENT, copy_weights, load_weights, net_weights, save_weights

FORMATS = GOLDEN / "formats"
REAL = SHARED / "data" / "caffe"
ENDINGS = (".caffemodel", ".caffemodel.h5", ".safetensors", ".pth", ".npz")
WEIGHTS = {
    "conv/1x1": [np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1), np.float32([1, -1])],
    "scalar": [np.array(3, np.float32)],
    "ünï.code": [np.zeros((2, 0), np.float32), np.float32([[7]])],
}


def same(have: dict[str, list[np.ndarray]], wanted: dict[str, list[np.ndarray]]) -> bool:
    return have.keys() == wanted.keys() and all(
        ours.shape == theirs.shape and ours.dtype == np.float32 and np.array_equal(ours, theirs)
        for name in wanted
        for ours, theirs in zip(have[name], wanted[name], strict=True)
    )


def expected() -> dict[str, np.ndarray]:
    with np.load(FORMATS / "expected.npz") as file:
        return {name: file[name] for name in file.files}


# -- other Caffes' files, and files that are something else ---------------------------------------------------------


def raw_blob(values: np.ndarray, type_number: int) -> bytes:
    """A BlobProto as NVIDIA's Caffe writes it: the shape, the type's number, the bytes."""
    data = values.tobytes()
    return caffe_pb2.BlobProto(shape={"dim": values.shape}).SerializeToString() + (
        bytes([10 << 3, type_number, 12 << 3 | 2]) + wire_size(len(data)) + data
    )


def wire_size(size: int) -> bytes:
    return bytes([size & 0x7F | 0x80, size >> 7]) if size > 0x7F else bytes([size])


def raw_net(blob: bytes) -> bytes:
    layer = b"\x0a\x01c" + b"\x3a" + wire_size(len(blob)) + blob
    return b"\xa2\x06" + wire_size(len(layer)) + layer


@pytest.mark.parametrize(("dtype", "number"), [("<f8", 0), ("<f4", 1), ("<f2", 2)])
def test_raw_blobs_of_nvidias_caffe(dtype: str, number: int, tmp_path: Path) -> None:
    values = np.linspace(-2, 2, 18).astype(dtype).reshape(2, 9)
    path = tmp_path / "raw.caffemodel"
    path.write_bytes(raw_net(raw_blob(values, number)))
    assert same(load_weights(path), {"c": [values.astype(np.float32)]})
    (tmp_path / "mean.binaryproto").write_bytes(raw_blob(values, number))
    assert np.array_equal(read_blob(tmp_path / "mean.binaryproto"), values.astype(np.float32))
    path.write_bytes(raw_net(raw_blob(values, 3)))
    with pytest.raises(WeightsError, match=r"raw data of type 3; expected double \(0\), float \(1\) or float16 \(2\)"):
        load_weights(path)


def test_a_published_half_precision_file() -> None:
    path = GOLDEN / "reports" / "half_precision_blobs" / "half.caffemodel"
    assert same(load_weights(path), {"c": [np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)]})


def test_floats_come_before_raw_data(tmp_path: Path) -> None:
    blob = caffe_pb2.BlobProto(data=[1, 2]).SerializeToString() + raw_blob(np.float16([3, 4]), 2)
    (tmp_path / "both.caffemodel").write_bytes(raw_net(blob))
    assert same(load_weights(tmp_path / "both.caffemodel"), {"c": [np.float32([1, 2])]})


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
OTHER_FILES = [
    (LFS, "is a Git LFS pointer, not the file itself. Run `git lfs pull`"),
    (b"\n<!DOCTYPE html>\n<html>", "is a web page, not the file itself. Download the file by its own link"),
    (b"<html lang=en>", "is a web page"),
    (b"\x1f\x8b\x08\x00", "is a gzip archive. Unpack it"),
    (b"a.caffemodel".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive. Unpack it"),
]


@pytest.mark.parametrize(("content", "message"), OTHER_FILES, ids=[message[:12] for _, message in OTHER_FILES])
@pytest.mark.parametrize("ending", [".caffemodel", ".caffemodel.h5", ".npz", ""])
def test_files_that_are_something_else(content: bytes, message: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{ending}"
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    with pytest.raises(PrototxtError) as other:
        Net(path)
    assert str(other.value).startswith(f"{path}: {message}")
    with pytest.raises(DataError) as data:
        read_blob(path)
    assert str(data.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("name", ["states/adam_iter_5.solverstate", "formats/h5_iter_4.solverstate.h5"])
def test_a_solver_state_is_no_weights(name: str) -> None:
    with pytest.raises(
        WeightsError, match=r"is a solver state, of iteration [45], not weights\. Its weights are in .*iter_"
    ):
        load_weights(GOLDEN / name)


@pytest.mark.parametrize(
    "name", ["states/adam_iter_5.caffemodel", "formats/v1.caffemodel", "formats/h5_iter_4.caffemodel.h5"]
)
def test_weights_are_no_solver_state(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.solverstate{'.h5' if name.endswith('.h5') else ''}"
    path.write_bytes((GOLDEN / name).read_bytes())
    read = hdf5.read_solver_state if name.endswith(".h5") else wire.read_solver_state
    with pytest.raises(WeightsError, match=r"is weights, not a solver state\. To start from weights"):
        read(path)


# -- in and out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"net{ending}"
    save_weights(path, WEIGHTS, "name", {"conv/1x1": "Convolution"})
    found = load_weights(path)
    assert same(found, WEIGHTS)
    if ending != ".caffemodel.h5":  # HDF5 as Caffe writes it keeps names in their order, not ours
        assert list(found) == list(WEIGHTS)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["lenet_iter_10000", "x.caffemodel", "x.bin"])
def test_the_content_tells_the_form(tmp_path: Path, ending: str, name: str) -> None:
    save_weights(tmp_path / f"net{ending}", WEIGHTS)
    os.rename(tmp_path / f"net{ending}", tmp_path / name)
    assert same(load_weights(tmp_path / name), WEIGHTS)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, ">f4"])
def test_other_dtypes_become_float32(tmp_path: Path, ending: str, dtype: Any) -> None:
    array = np.array([[1, 2], [3, -4]], dtype).T
    save_weights(tmp_path / f"net{ending}", {"a": [array]})
    assert same(load_weights(tmp_path / f"net{ending}"), {"a": [array.astype(np.float32)]})


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1.0, 1e300]), r"net\.\S+: layer 'a' blob 0 holds 1e\+300, which is beyond float32\."),
        (np.array([1j]), "layer 'a' blob 0 holds complex128, wanted float32 or what becomes it."),
        (np.array(["x"], object), "layer 'a' blob 0 holds object"),
        (torch.ones(1), "layer 'a' blob 0 is Tensor, wanted a NumPy array"),
    ],
)
def test_what_float32_cannot_hold(tmp_path: Path, ending: str, array: np.ndarray, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        save_weights(tmp_path / f"net{ending}", {"a": [array]})
    assert not os.listdir(tmp_path)


def test_infinities_and_not_numbers_stay(tmp_path: Path) -> None:
    save_weights(tmp_path / "a.npz", {"a": [np.array([np.inf, -np.inf, np.nan])]})
    np.testing.assert_array_equal(load_weights(tmp_path / "a.npz")["a"][0], [np.inf, -np.inf, np.nan])


def test_doubles_in_files_of_others(tmp_path: Path) -> None:
    wanted = {"a": [np.float32([1.5, -2])]}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data/a/0"] = np.float64([1.5, -2])
    torch.save({"a/0": torch.tensor([1.5, -2], dtype=torch.bfloat16)}, tmp_path / "a.pth")
    np.savez_compressed(tmp_path / "a.npz", **{"a/0": np.float16([1.5, -2])})
    for name in ("a.h5", "a.pth", "a.npz"):
        assert same(load_weights(tmp_path / name), wanted), name


def test_compressed_files_of_others(tmp_path: Path) -> None:
    wanted = {"a": [np.linspace(-1, 1, 5000, dtype=np.float32).reshape(50, 100)], "b": [np.zeros(70000, np.float32)]}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, blobs in wanted.items():
            file.create_dataset(f"data/{name}/0", data=blobs[0], compression="gzip", shuffle=True)
    np.savez_compressed(tmp_path / "a.npz", **{f"{name}/0": blobs[0] for name, blobs in wanted.items()})
    for name in ("a.h5", "a.npz"):
        assert same(load_weights(tmp_path / name), wanted), name


def test_a_missing_library_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(tmp_path / "a.safetensors", {"a": [np.zeros(1, np.float32)]})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    message = r"safetensors: needs the library safetensors\. Run `pip install fcn-caffe\[safetensors\]`\."
    for name in ("a.safetensors", "b.safetensors"):
        with pytest.raises(WeightsError, match=message):
            load_weights(tmp_path / name) if name[0] == "a" else save_weights(tmp_path / name, {})


def test_order_of_fortran_arrays(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    for ending in ENDINGS:
        save_weights(tmp_path / f"net{ending}", {"a": [array]})
        assert load_weights(tmp_path / f"net{ending}")["a"][0].tolist() == [[0, 1, 2], [3, 4, 5]], ending


# -- our nets' and torch's own naming --------------------------------------------------------------------------------


def normalised(**options: Any) -> Net:
    return make_net(
        input_layer("data", 1, 3, 4, 4),
        layer("conv", "Convolution", "data", more="convolution_param { num_output: 2 kernel_size: 1 }"),
        layer("norm", "BatchNorm", "conv"),
        layer("affine", "Scale", "norm", more="scale_param { bias_term: true }"),
        **options,
    )


@pytest.mark.parametrize("form", ["pth", "old pth", "safetensors", "npz"])
@pytest.mark.parametrize("prefix", ["layers.", ""])
def test_a_nets_state_dict(tmp_path: Path, form: str, prefix: str) -> None:
    net, other = normalised(), normalised()
    randomise(net)
    state = OrderedDict((name.replace("layers.", prefix, 1), blob) for name, blob in net.state_dict().items())
    path = tmp_path / f"net.{form.split()[-1]}"
    if form == "safetensors":
        import safetensors.torch

        safetensors.torch.save_file(state, path)
    elif form == "npz":
        np.savez(path, **{name: blob.numpy() for name, blob in state.items()})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "pth")
    copy_weights(other, load_weights(path), strict=True)
    for name, blobs in net.params.items():
        assert all(torch.equal(a, b) for a, b in zip(blobs, other.params[name], strict=True)), name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"features.0.weight": torch.zeros(2), "features.0.bias": torch.zeros(2)},
         "holds 'features.0.weight', 'features.0.bias'; wanted LAYER/0, LAYER/1"),
        ({"a/0": torch.zeros(2), "b.weight": torch.zeros(2)}, "holds 'a/0', 'b.weight'; wanted LAYER/0"),
        ({"epoch": 3, "state_dict": {"a/0": torch.zeros(2)}},
         "wanted a dict of tensors, as a state_dict is, found 'epoch' (int), 'state_dict' (dict). Save the state_dict"),
        ({}, "holds nothing; wanted LAYER/0"),
        ([torch.zeros(2)], "holds a list, wanted a dict of tensors"),
        ({"a/0": torch.zeros(2).to_sparse()}, "holds 'torch._utils._rebuild_sparse_tensor', "),
        ({"a/0": torch.zeros(2, dtype=torch.complex64)}, "holds 'torch.ComplexFloatStorage', wanted"),
        ({"a/300": torch.zeros(2)}, "layer 'a' has a blob 300: no layer has that many."),
        (torch.nn.Linear(2, 2), "holds 'torch.nn.modules.linear.Linear', "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("new", [True, False])
def test_other_files_of_torch_say_what_they_hold(tmp_path: Path, content: Any, message: str, new: bool) -> None:
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)


def test_pickles_that_call_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    class Large:
        def __reduce__(self) -> Any:
            return bytearray, (10**12,)

    for content in (Evil(), {"a/0": Evil()}, Large(), [Large()]):
        for new in (True, False):
            torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
            with pytest.raises(WeightsError, match=r"wanted a dict of tensors|speaks of 1000000000000"):
                load_weights(tmp_path / "x.pth")
    assert not (tmp_path / "made").exists()


def test_safetensors_of_unknown_order(tmp_path: Path) -> None:
    import safetensors.numpy

    values = {"layers.l.gates": np.zeros(2, np.float32), "layers.l.hidden": np.zeros(2, np.float32)}
    safetensors.numpy.save_file(values, tmp_path / "x.safetensors")
    with pytest.raises(
        WeightsError, match=r"layer 'l' has 'gates', 'hidden', whose order is not known\. Name them l/0"
    ):
        load_weights(tmp_path / "x.safetensors")


def test_safetensors_keeps_the_net_in_its_metadata(tmp_path: Path) -> None:
    from safetensors import safe_open

    save_weights(tmp_path / "a.safetensors", WEIGHTS, "fcn", {"scalar": "Scale", "relu": "ReLU"})
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        metadata = file.metadata()
    assert metadata["net"] == "fcn" and metadata["types"] == '{"scalar": "Scale"}'


# -- Caffe's HDF5 ----------------------------------------------------------------------------------------------------


def numbers_of(kind: Any) -> tuple[Any, ...]:
    """What makes an HDF5 type the type it is."""
    if isinstance(kind, h5py.h5t.TypeStringID):
        return kind.get_size(), kind.get_strpad(), kind.get_cset(), kind.is_variable_str()
    about = kind.get_class(), kind.get_size(), kind.get_order(), kind.get_precision(), kind.get_offset()
    more = (kind.get_fields(), kind.get_ebias()) if isinstance(kind, h5py.h5t.TypeFloatID) else (kind.get_sign(),)
    return about + more


def layout(path: Path) -> dict[str, Any]:
    """Everything in an HDF5 file as Caffe's reader can see it: groups, types to the bit, shapes, values."""
    found: dict[str, Any] = {}

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group):
            found[name] = "group", dict(item.attrs)
        else:
            made, space = item.id.get_create_plist(), item.id.get_space()
            found[name] = (
                *(numbers_of(item.id.get_type()), space.get_simple_extent_type(), item.shape, made.get_layout()),
                *(made.get_nfilters(), dict(item.attrs), np.asarray(item[()]).tobytes()),
            )

    with h5py.File(path) as file:
        found["/"] = dict(file.attrs)
        file.visititems(look)
    return found


def restored(tmp_path: Path) -> tuple[Solver, dict[str, np.ndarray]]:
    """The oracle's Adam run, continued from its HDF5 snapshot at step 4."""
    golden = expected()
    param = parse_text(str(golden["resume/solver"]), caffe_pb2.SolverParameter)
    param.net_param.CopyFrom(parse_text(str(golden["resume/net"]), caffe_pb2.NetParameter))
    param.snapshot_prefix = str(tmp_path / "out" / "h5")
    solver = Solver(param, device="cpu")
    solver.restore(FORMATS / "h5_iter_4.solverstate.h5")
    return solver, golden


def test_caffes_snapshot_goes_on_as_in_caffe(tmp_path: Path) -> None:
    solver, golden = restored(tmp_path)
    assert solver.iter == 4
    start = {name: [blob.detach().numpy().copy() for blob in blobs] for name, blobs in solver.net.params.items()}
    for step in range(4, 8):
        for blob in ("data", "label"):
            solver.net.inputs[blob] = torch.from_numpy(golden[f"resume/{blob}"][step])
        solver.step(1)
    for name, blobs in solver.net.params.items():
        for index, blob in enumerate(blobs):
            wanted = golden[f"resume/param/{name}/{index}"]
            change = wanted - start[name][index]
            # The largest change is 0.004 of weights near 0.5: one bit of a weight is 1e-5 of it.
            oracle.assert_close(blob.detach().numpy() - start[name][index], change, 2e-5, f"{name}/{index}")


def test_snapshots_are_caffes_to_the_byte(tmp_path: Path) -> None:
    """What Caffe wrote, restored and written again, is the same in every group, type, shape and value."""
    solver, _ = restored(tmp_path)
    state = solver.snapshot()
    assert state == tmp_path / "out/h5_iter_4.solverstate.h5"
    assert sorted(os.listdir(tmp_path / "out")) == ["h5_iter_4.caffemodel.h5", "h5_iter_4.rngstate", state.name]
    assert layout(tmp_path / "out/h5_iter_4.caffemodel.h5") == layout(FORMATS / "h5_iter_4.caffemodel.h5")
    ours, caffes = layout(state), layout(FORMATS / "h5_iter_4.solverstate.h5")
    ours_net, caffes_net = ours.pop("learned_net"), caffes.pop("learned_net")
    assert ours == caffes
    text = str(tmp_path / "out/h5_iter_4.caffemodel.h5").encode()
    with h5py.File(state) as file:
        assert file["learned_net"][()] == text
    assert ours_net[0] == (len(text) + 1, *caffes_net[0][1:])
    assert ours_net[1:6] == caffes_net[1:6]


def test_shared_blobs_are_written_once(tmp_path: Path) -> None:
    def net() -> Net:
        shared = 'param { name: "w" } convolution_param { num_output: 3 kernel_size: 1 }'
        return make_net(
            input_layer("data", 1, 3, 4, 4),
            layer("a", "Convolution", "data", more=shared),
            layer("b", "Convolution", "a", more=shared),
        )

    first, second = net(), net()
    randomise(first)
    found = net_weights(first, shared=False)
    assert found["b"][0] is ABSENT and found["b"][1] is not ABSENT and all(blob is not ABSENT for blob in found["a"])
    for ending in (".caffemodel.h5", ".npz", ".safetensors", ".pth"):
        save_weights(tmp_path / f"net{ending}", found)
        again = load_weights(tmp_path / f"net{ending}")
        assert again["b"][0] is ABSENT and np.array_equal(again["b"][1], found["b"][1])
        assert copy_weights(second, again, strict=True).copied == ["a", "b"]
        assert all(torch.equal(x, y) for x, y in zip(first.params["b"], second.params["b"], strict=True))
    with h5py.File(tmp_path / "net.caffemodel.h5") as file:
        assert list(file["data/b"]) == ["1"]
    with pytest.raises(WeightsError, match=r"layer 'b' blob 0 was left out where it comes from, being shared"):
        save_weights(tmp_path / "net.caffemodel", found)
    apart = make_net(
        input_layer("data", 1, 3, 4, 4),
        layer("b", "Convolution", "data", more="convolution_param { num_output: 3 kernel_size: 1 }"),
    )
    with pytest.raises(WeightsError, match=r"layer 'b' has 1 blob, the net wants 2\."):
        copy_weights(apart, again)


@pytest.mark.parametrize("names", [["a/"], ["a//b"], ["/a"], ["a/./b"], ["a/../b"], ["."], ["a\0b"], ["a", "a/0"]])
def test_names_hdf5_cannot_keep(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(WeightsError, match=r"HDF5 cannot keep the layer name|takes the place of another layer's blob"):
        save_weights(tmp_path / "x.h5", {name: [np.zeros(1, np.float32)] for name in names})
    assert not os.listdir(tmp_path)


# -- nets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["modern.caffemodel", "v1.caffemodel", "modern.caffemodel.h5"])
@pytest.mark.parametrize("proto", ["modern", "v1", "v0", "input"])
def test_twelve_pairs_of_net_and_weights(proto: str, weights: str) -> None:
    golden, net = expected(), Net(FORMATS / f"{proto}.prototxt")
    copy_weights(net, load_weights(FORMATS / weights), strict=True)
    with torch.no_grad():
        prob = net(data=torch.from_numpy(golden["data"]))["prob"]
    oracle.assert_close(prob, golden[f"prob/{proto}/{weights}"], 1e-5, f"{proto} with {weights}")


# -- damaged and hostile files ---------------------------------------------------------------------------------------

SMALL = {"conv": [np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), np.float32([1, 2])], "ip": [np.float32([[3]])]}


def damaged(data: bytes, seed: int) -> bytes:
    """The bytes with some of them changed, and one time in five cut short."""
    draw, made = random.Random(seed), bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        place = draw.randrange(len(made))
        made[place] = draw.choice((draw.randrange(256), 0, 255, made[place] ^ 1 << draw.randrange(8)))
    return bytes(made[: draw.randrange(len(made))] if draw.random() < 0.2 else made)


@pytest.mark.parametrize("ending", [".caffemodel.h5", ".safetensors", ".pth", ".old.pth", ".npz"])
def test_damaged_files_are_read_or_a_weights_error(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    if ending == ".old.pth":
        named = {
            f"{name}/{index}": torch.from_numpy(a) for name, blobs in SMALL.items() for index, a in enumerate(blobs)
        }
        torch.save(named, path, _use_new_zipfile_serialization=False)
    else:
        save_weights(path, SMALL)
    whole, errors = path.read_bytes(), 0
    for seed in range(300):
        path.write_bytes(damaged(whole, seed))
        try:
            found = load_weights(path)
        except WeightsError as error:
            assert str(error).startswith(f"{path}: ")
            errors += 1
        else:
            assert all(blob.dtype == np.float32 for blobs in found.values() for blob in blobs)
    assert errors > 30
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", [".caffemodel.h5", ".safetensors", ".pth", ".npz"])
def test_every_truncation_is_an_error(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x{ending}"
    save_weights(path, SMALL)
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 20, 100, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError) as caught:
            load_weights(path)
        assert str(caught.value).startswith(f"{path}: "), size


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_that_are_not_there(tmp_path: Path, ending: str) -> None:
    with pytest.raises(WeightsError, match=r"none\.\S+: cannot be read: No such file or directory\."):
        load_weights(tmp_path / f"none{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(WeightsError, match=r"folder\.\S+: cannot be read: Is a directory\."):
        load_weights(tmp_path / f"folder{ending}")
    with pytest.raises(WeightsError, match=r"cannot be written: No such file or directory\. Nothing was replaced\."):
        save_weights(tmp_path / "nowhere" / f"x{ending}", SMALL)


def hostile_contiguous(path: Path) -> None:
    with h5py.File(path, "w") as file:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        group, space = file.create_group("data/a"), h5py.h5s.create_simple((2**34,))
        h5py.h5d.create(group.id, b"0", h5py.h5t.IEEE_F32LE, space, made)


def hostile_compressed(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data/a/0", (2**36,), "f4", chunks=(2**20,), compression="gzip", fillvalue=1)


def hostile_chunk(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data/a/0", (2,), "f4", maxshape=(None,), chunks=(2**29,))


def hostile_external(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("data/a/0", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def hostile_virtual(path: Path) -> None:
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("/other.h5", "x", (4,))
        file.create_virtual_dataset("data/a/0", layout)


def hostile_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("data")["a"] = h5py.ExternalLink("/other.h5", "/a")


def hostile_cycle(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("data/a")
        file["data/a/b"] = file["data/a"]


def hostile_index(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data/a/999999999"] = np.zeros(1, np.float32)


def hostile_repeats(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data/a/0"] = np.zeros(2**17, np.float32)
        for index in range(1, 200):
            file[f"data/a/{index}"] = file["data/a/0"]


def hostile_zip_bomb(path: Path) -> None:
    np.savez_compressed(path, **{"a/0": np.zeros(2**22, np.float32)})


def hostile_npy_header(path: Path) -> None:
    entry = BytesIO()
    np.lib.format.write_array_header_1_0(entry, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/0.npy", entry.getvalue() + bytes(8))


def hostile_objects(path: Path) -> None:
    np.savez(path, **{"a/0": np.array([os.mkdir], object)})


def hostile_expanded(path: Path) -> None:
    torch.save({"a/0": torch.zeros(1).expand(2**34)}, path)


def hostile_strides(path: Path) -> None:
    torch.save({f"{index}/0": torch.zeros(2**16).expand(2**6, 2**16) for index in range(20)}, path)


def hostile_compressed_torch(path: Path) -> None:
    torch.save({"a/0": torch.zeros(2**20)}, path.with_suffix(".whole"))
    with zipfile.ZipFile(path.with_suffix(".whole")) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in whole.namelist():
            file.writestr(name, whole.read(name))
    path.with_suffix(".whole").unlink()


def hostile_doubling(path: Path) -> None:
    """A key that is a tuple of twice a tuple of twice a tuple …, 200 deep: 2 to the power of 200 to hash."""
    levels = b"".join(
        b"h%bh%b\x86q%b" % (bytes([level]), bytes([level]), bytes([level + 1])) for level in range(1, 200)
    )
    torch.save({"a/0": torch.zeros(1)}, path.with_suffix(".whole"))
    with zipfile.ZipFile(path.with_suffix(".whole")) as whole, zipfile.ZipFile(path, "w") as file:
        for name in whole.namelist():
            pickled = b"\x80\x02}q\x00(K\x01\x85q\x01" + levels + b"tK\x01s."
            file.writestr(name, pickled if name.endswith("data.pkl") else whole.read(name))
    path.with_suffix(".whole").unlink()


def hostile_header(path: Path) -> None:
    header = b'{"a/0": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


def hostile_header_size(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}" + bytes(8))


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf's wire format that has a length."""
    return wire_writer._key(number, 2) + wire_writer._varint(len(content)) + content


def hostile_axes(path: Path) -> None:
    """A blob of 20,000 BlobShapes, whose extents multiply to a number without end."""
    shape = caffe_pb2.BlobProto()
    shape.shape.dim[:] = [2**62] * 30
    layer = b"\x0a\x01a" + field(7, shape.SerializeToString() * 20_000)
    path.write_bytes(field(100, layer))


def hostile_fields(path: Path) -> None:
    path.write_bytes(field(100, b"\x0a\x01a") * 70_000)


def hostile_diamonds(path: Path) -> None:
    """A group that is twice in another, which is twice in another …: 2 to the power of 25 of them."""
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        for _ in range(25):
            group["a"] = group["b"] = inner = file.create_group(None)
            group = inner


def packed_chunk(path: Path, chunk: bytes, filters: tuple[tuple[int, tuple[int, ...]], ...]) -> None:
    """Write a blob of four numbers, in one chunk that lies there as it is."""
    storage, links = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5p.create(h5py.h5p.LINK_CREATE)
    storage.set_chunk((4,))
    links.set_create_intermediate_group(True)
    for code, options in filters:
        storage.set_filter(code, h5py.h5z.FLAG_OPTIONAL, options)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((4,))
        data_set = h5py.h5d.create(file.id, b"data/a/0", h5py.h5t.IEEE_F32LE, space, storage, links)
        data_set.write_direct_chunk((0,), chunk)


def hostile_deflate(path: Path) -> None:
    packed_chunk(path, zlib.compress(bytes(2**26)), ((1, (9,)),))


def hostile_deflate_twice(path: Path) -> None:
    packed_chunk(path, zlib.compress(zlib.compress(bytes(2**26))), ((1, (9,)), (1, (9,))))


def hostile_lzf(path: Path) -> None:
    packed_chunk(path, b"\x00\x00" + b"\xe0\xff\x00" * 400_000, ((32000, (4, 261, 16)),))


def hostile_path(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["iter"] = file["current_step"] = 1
        file.create_group("history")
        file.create_dataset("learned_net", (), f"S{2**28}")


HOSTILE = [
    (hostile_axes, "caffemodel", "layer 'a' blob 0 has more than 32 axes."),
    (hostile_fields, "caffemodel", "the file has more than 262,144 fields, as no net has."),
    (hostile_diamonds, "h5", "More than three times the file is not read"),
    (hostile_deflate, "h5", "(OSError: a chunk of 65,238 bytes unfolds to more than 16)"),
    (hostile_deflate_twice, "h5", "(OSError: its chunks are packed more than once)"),
    (hostile_lzf, "h5", "(OSError: a chunk of 1,200,002 bytes unfolds to more than 16)"),
    (hostile_path, "h5", "'learned_net' is not a path in text."),
    (hostile_contiguous, "h5", "declares 68,719,476,736 bytes and stores 0. The file is corrupt."),
    (hostile_compressed, "h5", "it declares 274,877,906,944 bytes of values, the file has"),
    (hostile_chunk, "h5", "it declares 2,147,483,640 bytes of values, the file has"),
    (hostile_external, "h5", "lies in another file, which is not opened."),
    (hostile_virtual, "h5", "lies in another file, which is not opened."),
    (hostile_link, "h5", "'a' is a link to elsewhere, which is not followed."),
    (hostile_cycle, "h5", "group 'a/b' holds itself. The file is corrupt."),
    (hostile_index, "h5", "layer 'a' has a blob 999999999: no layer has that many."),
    (hostile_repeats, "h5", "More than three times the file is not read"),
    (hostile_zip_bomb, "npz", "it declares 16,777,344 bytes of values, the file has"),
    (hostile_npy_header, "npz", "declares 4,398,046,511,104 bytes of values and has 8. The file is corrupt."),
    (hostile_objects, "npz", "holds object, wanted float32 or what becomes it."),
    (hostile_expanded, "pth", "speaks of 17179869184 values or bytes, the file has"),
    (hostile_strides, "pth", "More than three times the file is not read"),
    (hostile_compressed_torch, "pth", "is compressed, which torch.save never does."),
    (hostile_doubling, "pth", "holds a list or tuple twice, which no dict of tensors does."),
    (hostile_header, "safetensors", "cannot be read as safetensors (SafetensorError"),
    (hostile_header_size, "safetensors", "cannot be read as safetensors (SafetensorError"),
]


@pytest.mark.parametrize(("make", "ending", "message"), HOSTILE, ids=[case[0].__name__ for case in HOSTILE])
def test_hostile_files_are_refused_before_memory_is_taken(tmp_path: Path, make: Any, ending: str, message: str) -> None:
    path = tmp_path / f"x.{ending}"
    make(path)
    before, largest = path.read_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest  # in KiB
    assert grown * 1024 <= 3 * len(before) + 2**24
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf", "shuffle": True},
        {"compression": "szip"},
        {"scaleoffset": 4},
        {"fletcher32": True},
    ],
)
def test_chunks_that_hdf5_packs_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    values = np.round(np.random.default_rng(0).normal(size=(40, 30)).astype("f4"), 3)
    if options.get("compression") == "szip":
        needs_szip()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data/a/0", data=values, chunks=(16, 16), **options)
    np.testing.assert_allclose(load_weights(tmp_path / "a.h5")["a"][0], values, atol=1e-4)


def test_a_mean_of_more_axes_than_caffe_has(tmp_path: Path) -> None:
    (tmp_path / "mean").write_bytes(caffe_pb2.BlobProto(data=[1], shape={"dim": [2**62] * 5000}).SerializeToString())
    with pytest.raises(DataError, match="mean: the blob has 5,000 axes, Caffe has 32 at most"):
        read_blob(tmp_path / "mean")


def test_a_binary_net_of_more_layers_than_any(tmp_path: Path) -> None:
    hostile_fields(tmp_path / "net")
    with pytest.raises(PrototxtError, match="net: has more layers, or fields in them, than any net"):
        read_message(tmp_path / "net", caffe_pb2.NetParameter)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_may_not_grow(tmp_path: Path, ending: str) -> None:
    """The kernel refuses the write itself: RLIMIT_FSIZE, in a process of its own."""
    path = tmp_path / f"x{ending}"
    save_weights(path, SMALL)
    before = path.read_bytes()
    code = (
        "import numpy, resource, signal, sys\n"
        "from fcn_caffe.weights.transfer import WeightsError, save_weights\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for limit in (0, 600, 3000, 20000, 59000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    try: save_weights(sys.argv[1], {str(i): [numpy.ones(1500)] for i in range(10)})\n"
        "    except WeightsError as error: print(error)\n"
    )
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    run = subprocess.run([sys.executable, "-c", code, path], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert len(lines) == 5 and all(line.startswith(f"{path}: cannot be written: ") for line in lines)
    assert all("File too large" in line for line in lines)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ["net.prototxt", "NET.PROTOTXT", "x.pbtxt"])
def test_a_net_is_not_weights(name: str) -> None:
    with pytest.raises(WeightsError, match=r"is a net or a solver in text, not weights\. Give a file of weights: "):
        load_weights(name)


# -- files of other people's Caffe -----------------------------------------------------------------------------------


def real(name: str) -> Path:
    return needs_data(f"data/caffe/{name}")


def test_super_resolution_gives_caffes_output() -> None:
    net = Net(real("wechat/sr.prototxt"))
    assert not copy_weights(net, load_weights(real("wechat/sr.caffemodel"))).missing
    with np.load(real("wechat/sr_expected.npz")) as golden, torch.no_grad():
        made = net(data=torch.from_numpy(golden["data"]))["fc"]
        oracle.assert_close(made, golden["fc"], 1e-5, "fc")


def test_strict_refuses_a_net_of_another_caffe() -> None:
    with pytest.raises(PrototxtError, match=r"detect\.prototxt:2078:3: 16 layers have what Caffe 1.0 has not:\n"):
        Net(real("wechat/detect.prototxt"), strict=True)


def test_a_detector_of_ssds_caffe_finds_opencvs_boxes() -> None:
    net = Net(real("wechat/detect.prototxt"))
    assert not copy_weights(net, load_weights(real("wechat/detect.caffemodel"))).missing
    folder = real("forks/wechat_qrcode_detect")
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "expected.npz") as expected, torch.no_grad():
        found = net(data=torch.from_numpy(inputs["data"]))["detection_output"][0, 0]
        rows = expected["detection_output"][0, 0]
        oracle.assert_close(found, rows[rows.any(1)], 1e-5, "detection_output")  # OpenCV fills up with rows of zeros


def test_weights_of_2014_in_every_form(tmp_path: Path) -> None:
    weights = load_weights(real("lenet_v1/lenet_iter_10000"))
    assert [weights[name][0].shape for name in ("conv1", "ip1")] == [(20, 1, 5, 5), (1, 1, 500, 800)]
    for ending in ENDINGS:
        save_weights(tmp_path / f"net{ending}", weights)
        assert same(load_weights(tmp_path / f"net{ending}"), weights), ending
        net = Net(real("lenet_v1/lenet.prototxt"))
        report = copy_weights(net, load_weights(tmp_path / f"net{ending}"), strict=True)
        assert len(report.copied) == 4 and len(report.coerced) == 6


def test_a_solver_state_of_2014_goes_on(tmp_path: Path) -> None:
    """lenet_solver.prototxt with its data replaced by inputs, restored from the state and the weights beside it."""
    folder = real("lenet_v1")
    param = parse_text((folder / "lenet_solver.prototxt").read_text(), caffe_pb2.SolverParameter)
    net = parse_text((folder / "lenet_train.prototxt").read_text(), caffe_pb2.NetParameter)
    upgrade_net(net)
    data = next(item for item in net.layer if not item.bottom)
    data.CopyFrom(caffe_pb2.LayerParameter(name="mnist", type="Input", top=data.top))
    data.input_param.shape.add(dim=[4, 1, 28, 28])
    data.input_param.shape.add(dim=[4])
    net.layer[-1].top.append("loss")
    for field in ("train_net", "test_net", "test_iter", "test_interval"):
        param.ClearField(field)
    param.net_param.CopyFrom(net)
    param.snapshot_prefix = str(tmp_path / "lenet")
    solver = Solver(param, device="cpu")
    solver.restore(folder / "lenet_iter_10000.solverstate")
    assert solver.iter == 10000
    weights = load_weights(folder / "lenet_iter_10000")
    for name, blobs in solver.net.params.items():
        assert all(
            np.array_equal(a.detach().numpy().ravel(), b.ravel()) for a, b in zip(blobs, weights[name], strict=True)
        )
    assert any(history.any() for history in solver.optimizer.history(solver.net.learnable_params[0].blob))
    solver.net.inputs.update(data=torch.rand(4, 1, 28, 28), label=torch.zeros(4))
    solver.step(1)
    assert solver.rate == pytest.approx(0.01 * (1 + 0.0001 * 10000) ** -0.75)
    again = Solver(param, device="cpu")
    again.restore(solver.snapshot())
    assert again.iter == 10001
    for item, other in zip(solver.net.learnable_params, again.net.learnable_params, strict=True):
        assert torch.equal(item.blob, other.blob)
        assert torch.equal(solver.optimizer.history(item.blob)[0], again.optimizer.history(other.blob)[0])


def test_a_corrupt_old_torch_file_takes_no_more_memory_than_it_has_bytes(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    path.write_bytes(LEGACY_TORCH_MAGIC + b"\x80\x02X\x00\x00\x00\x20" + b"a" * 100)  # a string of 512 MiB
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"old\.pth: cannot be read as"):
            load_weights(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
