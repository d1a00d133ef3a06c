"""pycaffe's Net: Caffe's numbers through blobs, live arrays, and every method."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer
from oracle import arrays, assert_close, cases, draw, load

import fcn_caffe.pycaffe as caffe
import fcn_caffe.pycaffe.memory as memory_module
from fcn_caffe import GraphError, LayerError
from fcn_caffe.layers.base import REGISTRY, Layer, register


@pytest.fixture(params=["one memory", "two memories"])
def memories(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two, arrays are copies that count as the newest once they are handed out, as they are of a GPU."""
    if request.param == "two memories":
        monkeypatch.setattr(memory_module, "can_be_array", lambda tensor: False)


def golden_net(text: str, phase: int, folder: Path) -> caffe.Net:
    path = folder / "net.prototxt"
    path.write_text(text)
    return caffe.Net(str(path), phase)


def draw_params(net: caffe.Net) -> None:
    for name, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            blob.data[...] = draw(name, net.layer_dict[name].type, index, tuple(blob.shape))


@pytest.mark.parametrize("case", cases("layers"))
def test_layers_equal_caffe(case: str, tmp_path: Path, memories: None) -> None:
    data = load("layers")
    phase = caffe.TRAIN if str(data[f"{case}/phase"]) in ("TRAIN", "0") else caffe.TEST
    net = golden_net(str(data[f"{case}/prototxt"]), phase, tmp_path)
    for index, array in enumerate(arrays(data, f"{case}/param")):
        net.params["l"][index].data[...] = array
    for index, array in enumerate(arrays(data, f"{case}/bottom")):
        name = f"raw{index}" if f"raw{index}" in net.blobs else f"x{index}"
        net.blobs[name].reshape(*array.shape)
        net.blobs[name].data[...] = array
    net.forward()
    tops = net.top_names["l"]
    for top, expected in zip(tops, arrays(data, f"{case}/top"), strict=True):
        assert_close(net.blobs[top].data, expected, 2e-5, f"{case} {top}")
    for index, array in enumerate(arrays(data, f"{case}/param_after")):
        assert_close(net.params["l"][index].data, array, 2e-5, f"{case} param {index} after")
    diffs = arrays(data, f"{case}/top_diff")
    for top, diff in zip(tops, diffs, strict=False):
        net.blobs[top].diff[...] = diff
    if not any(key.startswith((f"{case}/bottom_diff/", f"{case}/param_diff/")) for key in data):
        return  # Caffe has no backward
    net.backward()
    for key, expected in data.items():
        if key.startswith(f"{case}/bottom_diff/"):
            assert_close(net.blobs[f"x{key.rsplit('/', 1)[1]}"].diff, expected, 2e-5, key)
        if key.startswith(f"{case}/param_diff/"):
            assert_close(net.params["l"][int(key.rsplit("/", 1)[1])].diff, expected, 2e-5, key)


@pytest.mark.parametrize("case", cases("nets"))
def test_nets_equal_caffe(case: str, tmp_path: Path, memories: None) -> None:
    data = load("nets")
    net = golden_net(str(data[f"{case}/prototxt"]), caffe.TRAIN, tmp_path)
    draw_params(net)
    for key in data:
        if key.startswith(f"{case}/input/"):
            name = key.rsplit("/", 1)[1]
            net.blobs[name].reshape(*data[key].shape)
            net.blobs[name].data[...] = data[key]
    net.forward()
    checked = 0
    for key, expected in data.items():
        if key.startswith(f"{case}/blob/"):
            assert_close(net.blobs[key.rsplit("/", 1)[1]].data, expected, 1e-4, key)
            checked += 1
    net.backward()
    for key, expected in data.items():
        if key.startswith(f"{case}/diff/"):
            layer, index = key.removeprefix(f"{case}/diff/").rsplit("/", 1)
            assert_close(net.params[layer][int(index)].diff, expected, 1e-4, key)
            checked += 1
    assert checked > 3


# -- a small net of our own ---------------------------------------------------------------------------------------

DATA = input_layer("data", 2, 3, 5, 4)
CONV = "convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: 'gaussian' std: 0.3 } }"
IP = "inner_product_param { num_output: 1 }"
DEEP = (
    'name: "deep" force_backward: true',
    DATA,
    layer("conv1", "Convolution", "data", more=CONV),
    layer("relu1", "ReLU", "conv1", "conv1"),
    layer("pool", "Pooling", "conv1", more="pooling_param { kernel_size: 2 pool: AVE }"),
    layer("ip", "InnerProduct", "conv1", more="inner_product_param { num_output: 3 weight_filler { type: 'xavier' } }"),
)


def make(folder: Path, *text: str, phase: int = caffe.TEST, **options: object) -> caffe.Net:
    path = folder / "net.prototxt"
    path.write_text("\n".join(text))
    return caffe.Net(str(path), phase, **options)


@pytest.fixture
def deep(tmp_path: Path) -> caffe.Net:
    torch.manual_seed(3)
    net = make(tmp_path, *DEEP)
    net.blobs["data"].data[...] = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    return net


def test_names_show_splits_as_caffe_makes_them(deep: caffe.Net) -> None:
    split = "conv1_relu1_0_split"
    assert list(deep._layer_names) == ["data", "conv1", "relu1", split, "pool", "ip"]
    assert list(deep.blobs) == ["data", "conv1", f"{split}_0", f"{split}_1", "pool", "ip"]
    assert [made.type for made in deep.layers][3] == "Split" and len(deep.layers) == 6
    assert deep.layer_dict["conv1"].type == "Convolution" and list(deep.layer_dict) == list(deep._layer_names)
    assert len(deep.layer_dict["conv1"].blobs) == 2 and len(deep.layers[0].blobs) == 0
    assert list(deep.params) == ["conv1", "ip"] and deep.params["ip"][0] is deep.layers[5].blobs[0]
    assert (deep.inputs, deep.outputs) == (["data"], ["ip", "pool"])
    assert deep.top_names[split] == [f"{split}_0", f"{split}_1"] and deep.bottom_names["pool"] == [f"{split}_0"]
    assert list(deep._top_ids(3)) == [2, 3] and list(deep._bottom_ids(5)) == [3]
    assert list(deep._inputs) == [0] and sorted(deep._outputs) == [4, 5] and deep.name == "deep"
    assert isinstance(deep.blobs, OrderedDict) and isinstance(deep.params, OrderedDict)


def test_blobs_tell_their_size(deep: caffe.Net) -> None:
    blob = deep.blobs["conv1"]
    assert list(blob.shape) == [2, 4, 3, 2] and blob.shape == (2, 4, 3, 2) and tuple(blob.shape)[1] == 4
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 4, 3, 2, 48)
    assert deep.params["ip"][1].num == 3 and deep.params["ip"][1].width == 1
    assert blob.data.dtype == np.float32 and blob.diff.shape == (2, 4, 3, 2)
    blob.reshape(1, 1, 1, 1, 2)
    with pytest.raises(ValueError, match="at most 4 axes"):
        _ = blob.num
    with pytest.raises(RuntimeError, match="takes sizes only"):
        blob.reshape(shape=(1, 2))
    with pytest.raises(ValueError, match="negative"):
        blob.reshape(1, -1)
    with pytest.raises(AttributeError):
        blob.data = np.zeros(3)
    with pytest.raises(ValueError, match="parameter blob of 3x24 cannot be reshaped"):
        deep.params["ip"][0].reshape(1)


def test_reshaping_keeps_numbers_as_far_as_they_go(deep: caffe.Net) -> None:
    blob = deep.blobs["data"]
    blob.reshape(1, 1, 2, 2)
    blob.data[...] = [[[[1, 2], [3, 4]]]]
    blob.reshape(4)
    assert blob.data.tolist() == [1, 2, 3, 4]
    blob.reshape(2)
    blob.reshape(4)
    assert blob.data.tolist() == [1, 2, 3, 4]
    assert blob.diff.shape == (4,) and not blob.diff.any()
    blob.reshape(1000)
    assert blob.data.shape == (1000,)


def test_data_and_diff_are_the_memory_that_layers_compute_in(deep: caffe.Net) -> None:
    data = deep.blobs["data"].data
    assert np.shares_memory(data, deep.blobs["data"].data)
    first = deep.forward()["ip"].copy()
    data[...] *= 2
    second = deep.forward()["ip"].copy()
    assert not np.allclose(first, second)
    steps = {step.node.name: step for step in deep.executor.steps}
    seen = []
    steps["conv1"].layer.register_forward_pre_hook(lambda module, bottoms: seen.append(bottoms[0].data_ptr()))
    deep.forward()
    assert seen == [data.ctypes.data]  # what was written is what the layer reads, without a copy
    weight = deep.params["conv1"][0]
    assert weight.data.ctypes.data == deep.core.params["conv1"][0].data_ptr()
    weight.data[...] = 0
    deep.params["conv1"][1].data[...] = 0
    deep.forward()
    assert not deep.blobs["conv1"].data.any()
    deep.backward(ip=np.ones((2, 3), np.float32), pool=np.zeros((2, 4, 2, 1), np.float32))
    diff = deep.params["ip"][1].diff
    assert diff.ctypes.data == deep.core.params["ip"][1].grad.data_ptr() and diff.tolist() == [2, 2, 2]


def test_with_two_memories_what_people_write_is_copied_when_a_layer_reads(
    deep: caffe.Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep.save(str(tmp_path / "w.caffemodel"))
    monkeypatch.setattr(memory_module, "can_be_array", lambda tensor: False)
    kept = deep.blobs["data"].data
    first = deep.forward()["ip"].copy()
    kept[...] *= 2  # an input that somebody keeps counts as the newest
    second = deep.forward()["ip"].copy()
    assert not np.allclose(first, second)
    weight = deep.params["conv1"][0].data
    before = weight.copy()
    weight[...] = 0
    deep.copy_from(str(tmp_path / "w.caffemodel"))  # newer than what was written
    np.testing.assert_array_equal(deep.params["conv1"][0].data, before)
    np.testing.assert_array_equal(deep.forward()["ip"], second)
    other = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    other.share_with(deep)
    other.params["conv1"][0].data[...] = 0
    other.params["conv1"][1].data[...] = 0
    deep.forward()
    assert not deep.blobs["conv1"].data.any() and not deep.params["conv1"][0].data.any()
    deep.blobs["ip"].diff[...] = 1
    deep.backward()
    deep.params["ip"][1].diff[...] += 1
    deep.backward()
    assert deep.params["ip"][1].diff.tolist() == [5, 5, 5]
    deep.clear_param_diffs()
    assert not deep.params["ip"][1].diff.any()


def test_an_array_that_is_kept_stays_live(deep: caffe.Net) -> None:
    kept = {name: (blob.data, blob.diff) for name, blob in deep.blobs.items()}
    parts = deep.blobs["ip"].data[0, 1:]
    params = [(blob.data, blob.diff) for blobs in deep.params.values() for blob in blobs]
    for scale in (1, -3):
        deep.blobs["data"].data[...] *= scale
        deep.clear_param_diffs()
        deep.forward()
        deep.blobs["ip"].diff[...] = scale
        deep.blobs["pool"].diff[...] = 0.5
        deep.backward()
        for name, (data, diff) in kept.items():
            np.testing.assert_array_equal(data, deep.blobs[name].data)
            np.testing.assert_array_equal(diff, deep.blobs[name].diff)
            assert data.any() and diff.any(), name
        np.testing.assert_array_equal(parts, deep.blobs["ip"].data[0, 1:])
        blobs = [blob for blobs in deep.params.values() for blob in blobs]
        for (data, diff), blob in zip(params, blobs, strict=True):
            assert np.shares_memory(data, blob.data) and np.shares_memory(diff, blob.diff) and diff.any()


def test_keeping_arrays_changes_no_number(deep: caffe.Net) -> None:
    def run() -> list[np.ndarray]:
        deep.clear_param_diffs()
        deep.forward()
        deep.blobs["ip"].diff[...] = 1
        deep.blobs["pool"].diff[...] = 2
        deep.backward()
        found = [blob.diff.copy() for blob in deep.blobs.values()]
        return found + [blob.diff.copy() for blobs in deep.params.values() for blob in blobs]

    free = run()
    kept = [(blob.data, blob.diff) for blob in deep.blobs.values()]
    for _ in range(2):
        for mine, theirs in zip(free, run(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert len(kept) == 6


def test_split_tops_have_their_bottoms_data_and_diffs_of_their_own(deep: caffe.Net) -> None:
    deep.forward()
    assert np.shares_memory(deep.blobs["conv1"].data, deep.blobs["conv1_relu1_0_split_1"].data)
    deep.blobs["pool"].diff[...] = 0
    deep.blobs["ip"].diff[...] = 1
    deep.backward(end="conv1_relu1_0_split")
    parts = [deep.blobs[f"conv1_relu1_0_split_{index}"].diff for index in (0, 1)]
    assert not parts[0].any() and parts[1].any()
    np.testing.assert_array_equal(deep.blobs["conv1"].diff, parts[1])
    parts[0][...] = 1
    deep.backward(start="conv1_relu1_0_split", end="conv1_relu1_0_split")
    np.testing.assert_allclose(deep.blobs["conv1"].diff, parts[1] + 1)


def test_part_of_a_net_runs_from_what_is_in_the_blobs(deep: caffe.Net) -> None:
    whole = {name: array.copy() for name, array in deep.forward(blobs=["conv1"]).items()}
    assert set(whole) == {"conv1", "ip", "pool"}
    assert set(deep.forward(end="relu1")) == {"conv1"}
    deep.blobs["conv1"].data[...] = 1
    part = deep.forward(start="conv1_relu1_0_split", end="pool")
    assert list(part) == ["pool"] and (part["pool"] == 1).all()
    np.testing.assert_array_equal(deep.blobs["ip"].data, whole["ip"])
    deep.forward(start="ip")
    expected = deep.params["ip"][0].data.sum(1) + deep.params["ip"][1].data
    np.testing.assert_allclose(deep.blobs["ip"].data[0], expected, rtol=1e-5)
    assert set(deep.backward(end="ip")) == {"conv1_relu1_0_split_1"}


def test_backward_uses_what_is_in_the_blobs_now(deep: caffe.Net) -> None:
    deep.forward()
    deep.blobs["conv1_relu1_0_split_1"].data[...] = 3
    deep.blobs["ip"].diff[...] = 1
    deep.backward(start="ip", end="ip")
    assert (deep.params["ip"][0].diff == 6).all()
    deep.params["ip"][0].data[...] = 2
    deep.backward(start="ip", end="ip")
    assert (deep.blobs["conv1_relu1_0_split_1"].diff == 6).all()


def test_a_layer_run_again_alone_is_what_backward_sees(deep: caffe.Net) -> None:
    deep.forward()
    deep.backward()
    deep.forward()  # this one keeps graphs
    deep.params["conv1"][0].data[...] = 0
    deep.params["conv1"][1].data[...] = 2
    deep.forward(end="conv1_relu1_0_split")
    deep.clear_param_diffs()
    deep.blobs["ip"].diff[...] = 1
    deep.backward(start="ip", end="ip")
    assert (deep.params["ip"][0].diff == 4).all()


def test_parameter_diffs_add_up_until_they_are_cleared(deep: caffe.Net) -> None:
    deep.forward()
    deep.blobs["ip"].diff[...] = 1
    deep.backward()
    once = deep.params["conv1"][0].diff.copy()
    deep.backward()
    np.testing.assert_allclose(deep.params["conv1"][0].diff, 2 * once, rtol=1e-6)
    deep.params["conv1"][0].diff[...] = 5
    deep.backward()
    np.testing.assert_allclose(deep.params["conv1"][0].diff, 5 + once, rtol=1e-5)
    deep.clear_param_diffs()
    assert not any(blob.diff.any() for blobs in deep.params.values() for blob in blobs)


def test_backward_without_a_graph_is_backward_with_one(tmp_path: Path) -> None:
    text = [DATA, layer("conv", "Convolution", "data", more=CONV), layer("slope", "PReLU", "conv", "conv")]
    text += [
        layer("sig", "Sigmoid", "conv", "conv"),
        layer("relu", "ReLU", "conv", "conv"),
        layer("lrn", "LRN", "conv"),
    ]
    text += [layer("loss", "EuclideanLoss", "lrn zero"), input_layer("zero", 2, 4, 3, 2)]
    text.insert(1, text.pop())
    found = []
    for phase, watched in ((caffe.TEST, False), (caffe.TRAIN, False), (caffe.TEST, True), (caffe.TRAIN, True)):
        torch.manual_seed(0)
        net = make(tmp_path, *text, phase=phase)
        net.blobs["data"].data[...] = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
        kept = [(blob.data, blob.diff) for blob in net.blobs.values() if watched]
        net.forward()
        assert any(step.record for step in net.executor.steps) == (phase == caffe.TRAIN)
        net.backward()
        found.append([blob.diff.copy() for blobs in net.params.values() for blob in blobs])
        found[-1] += [blob.diff.copy() for blob in net.blobs.values()]
        assert len(kept) == (5 if watched else 0)
    for first, *others in zip(*found, strict=True):
        for other in others:
            np.testing.assert_allclose(first, other, rtol=1e-6)
    assert found[0][0].any() and not found[0][3].any()  # data: nothing above it learns


def test_nothing_is_propagated_where_no_loss_and_no_force_backward_asks(tmp_path: Path) -> None:
    net = make(tmp_path, *DEEP[1:])
    net.blobs["ip"].diff[...] = 1
    net.forward()
    net.backward()
    assert not net.blobs["conv1"].diff.any() and not net.params["ip"][0].diff.any()


def test_fixed_parameters_have_diffs_only_with_force_backward(tmp_path: Path) -> None:
    text = [DATA, layer("conv", "Convolution", "data", more=f"param {{ lr_mult: 0 }} {CONV}")]
    text += [input_layer("zero", 2, 4, 3, 2), layer("loss", "EuclideanLoss", "conv zero")]
    for force in (False, True):
        net = make(tmp_path, f"force_backward: {str(force).lower()}", *text, phase=caffe.TRAIN)
        net.blobs["data"].data[...] = 1
        net.forward()
        net.backward()
        assert net.params["conv"][0].diff.any() == force and net.params["conv"][1].diff.any()
        assert net.blobs["data"].diff.any() == force
        assert not net.core.params["conv"][0].requires_grad


def test_a_loss_begins_with_its_weight(tmp_path: Path) -> None:
    net = make(
        tmp_path,
        input_layer("a", 1, 2),
        input_layer("b", 1, 2),
        layer("w", "Scale", "a"),
        layer("loss", "EuclideanLoss", "w b", more="loss_weight: 3"),
        phase=caffe.TRAIN,
    )
    net.blobs["a"].data[...] = [[1, 2]]
    assert float(net.blobs["loss"].diff) == 3 and net.blob_loss_weights == {"a": 0, "b": 0, "w": 0, "loss": 3}
    assert net._forward(0, 3) == pytest.approx(3 * 2.5) and net.blobs["loss"].data.shape == ()
    net.backward()
    np.testing.assert_allclose(net.blobs["w"].diff, [[3, 6]])
    net.blobs["loss"].diff[...] = 1
    net.backward()
    np.testing.assert_allclose(net.blobs["w"].diff, [[1, 2]])


def test_dropout_has_one_mask_for_both_ways(tmp_path: Path) -> None:
    text = ["force_backward: true", input_layer("x", 1, 1000), layer("drop", "Dropout", "x", "x")]
    net = make(tmp_path, *text, phase=caffe.TRAIN)
    net.blobs["x"].data[...] = 1
    net.forward()
    mask = net.blobs["x"].data.copy()
    net.blobs["x"].diff[...] = 1
    net.backward()
    np.testing.assert_array_equal(net.blobs["x"].diff, mask)
    assert 300 < (mask == 2).sum() < 700


def test_sizes_follow_the_inputs(deep: caffe.Net) -> None:
    deep.blobs["data"].reshape(1, 3, 5, 4)
    deep.reshape()
    assert deep.blobs["pool"].shape == (1, 4, 2, 1) and deep.blobs["conv1_relu1_0_split_0"].shape == (1, 4, 3, 2)
    assert deep.forward()["ip"].shape == (1, 3)
    deep.blobs["data"].reshape(3, 3, 5, 4)
    assert deep.forward()["ip"].shape == (3, 3) and deep.blobs["ip"].diff.shape == (3, 3)
    deep.blobs["data"].reshape(1, 3, 9, 9)
    with pytest.raises(LayerError, match=r"layer 'ip' \(InnerProduct\)"):
        deep.forward()


def test_named_inputs_and_diffs_are_checked(deep: caffe.Net) -> None:
    with pytest.raises(Exception, match="Input blob arguments do not match net inputs"):
        deep.forward(image=np.zeros((2, 3, 5, 4)))
    with pytest.raises(Exception, match="Input is not batch sized"):
        deep.forward(data=np.zeros((1, 3, 5, 4)))
    with pytest.raises(Exception, match="Top diff arguments do not match net outputs"):
        deep.backward(ip=np.zeros((2, 3)))
    with pytest.raises(Exception, match="Diff is not batch sized"):
        deep.backward(ip=np.zeros((1, 3)), pool=np.zeros((1, 4, 2, 1)))
    with pytest.raises(ValueError, match="'conv9' is not a layer"):
        deep.forward(start="conv9")
    with pytest.raises(KeyError):
        deep.forward(blobs=["gone"])
    with pytest.raises(KeyError):
        deep.blobs["gone"]
    with pytest.raises(IndexError):
        deep._forward(0, 6)
    assert deep.forward(data=np.ones((2, 3, 5, 4)))["ip"].shape == (2, 3)


def test_forward_all_and_forward_backward_all_go_batch_by_batch(deep: caffe.Net) -> None:
    images = np.random.default_rng(1).normal(size=(5, 3, 5, 4)).astype(np.float32)
    outputs = deep.forward_all(blobs=["conv1"], data=images)
    assert {name: array.shape for name, array in outputs.items()} == {
        "conv1": (5, 4, 3, 2),
        "ip": (5, 3),
        "pool": (5, 4, 2, 1),
    }
    np.testing.assert_allclose(outputs["ip"][2:4], deep.forward(data=images[2:4])["ip"], rtol=1e-6)
    diffs = {"ip": np.ones((5, 3), np.float32), "pool": np.zeros((5, 4, 2, 1), np.float32)}
    again, gradients = deep.forward_backward_all(blobs=["conv1"], diffs=["conv1"], data=images, **diffs)
    np.testing.assert_array_equal(again["ip"], outputs["ip"])
    assert gradients["data"].shape == (5, 3, 5, 4) and gradients["conv1"].shape == (5, 4, 3, 2)
    deep.forward(data=images[:2])
    part = deep.backward(ip=diffs["ip"][:2], pool=diffs["pool"][:2])
    np.testing.assert_allclose(gradients["data"][:2], part["data"], rtol=1e-6)


def test_hooks_are_called_around_each_layer(deep: caffe.Net) -> None:
    calls: list[tuple[str, int]] = []
    for name in ("before_forward", "after_forward", "before_backward", "after_backward"):
        getattr(deep, name)(lambda index, name=name: calls.append((name, index)))
    deep.forward(start="pool")
    deep.backward(end="ip")
    assert calls == [
        *(("before_forward", 4), ("after_forward", 4), ("before_forward", 5), ("after_forward", 5)),
        *(("before_backward", 5), ("after_backward", 5)),
    ]


def test_weights_are_saved_loaded_and_shared(deep: caffe.Net, tmp_path: Path) -> None:
    deep.save(str(tmp_path / "w.caffemodel"))
    deep.save(str(tmp_path / "any.name"))
    deep.save_hdf5(str(tmp_path / "w.h5"))
    text = tmp_path / "net.prototxt"
    binary = str(tmp_path / "w.caffemodel")
    old = caffe.Net(str(text), binary, caffe.TEST)
    copied, hdf5 = (caffe.Net(str(text), caffe.TEST) for _ in range(2))
    copied.copy_from(str(tmp_path / "any.name"))
    hdf5.load_hdf5(str(tmp_path / "w.h5"))
    several = [caffe.Net(str(text), caffe.TEST, weights=binary), caffe.Net(str(text), caffe.TEST, 0, [], binary)]
    several += [old, copied, hdf5, caffe.Net(network_file=str(text), phase=caffe.TEST, level=0, weights=binary)]
    h5 = caffe.Net(str(text), caffe.TEST)
    h5.copy_from(str(tmp_path / "w.h5"))
    for net in (*several, h5):
        np.testing.assert_array_equal(net.params["conv1"][0].data, deep.params["conv1"][0].data)
    other = caffe.Net(str(text), caffe.TRAIN)
    other.share_with(deep)
    assert np.shares_memory(other.params["ip"][0].data, deep.params["ip"][0].data)
    with pytest.raises(RuntimeError, match=r"Could not open file .*gone"):
        deep.copy_from(str(tmp_path / "gone.caffemodel"))


def test_a_net_takes_pycaffes_arguments_and_no_other(tmp_path: Path) -> None:
    rules = layer("more", "ReLU", "data", more='include { stage: "big" min_level: 2 }')
    net = make(tmp_path, DATA, rules, stages=["big"], level=2)
    assert list(net._layer_names) == ["data", "more"]
    text = str(tmp_path / "net.prototxt")
    assert list(caffe.Net(text, caffe.TEST)._layer_names) == ["data"]
    with pytest.raises(RuntimeError, match="Could not open file"):
        caffe.Net(str(tmp_path / "gone.prototxt"), caffe.TEST)
    for arguments in ((text,), (text, "w", caffe.TEST, 1), (text, 7), (3, caffe.TEST)):
        with pytest.raises((TypeError, RuntimeError)):
            caffe.Net(*arguments)
    with pytest.raises(TypeError, match="got 2 arguments and stage"):
        caffe.Net(text, caffe.TEST, stage="big")


def test_net_may_be_a_base_class(tmp_path: Path) -> None:
    class Mine(caffe.Net):
        def __init__(self, file: str) -> None:
            caffe.Net.__init__(self, file, caffe.TEST)
            self.mean = 3

    (tmp_path / "net.prototxt").write_text("\n".join(DEEP))
    assert Mine(str(tmp_path / "net.prototxt")).forward()["ip"].shape == (2, 3)


def test_arrays_for_memory_data(tmp_path: Path) -> None:
    text = layer(
        "m", "MemoryData", "", "data label", "memory_data_param { batch_size: 2 channels: 1 height: 2 width: 2 }"
    )
    net = make(tmp_path, text)
    images = np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2)
    net.set_input_arrays(images, np.arange(4, dtype=np.float32))
    net.forward()
    np.testing.assert_array_equal(net.forward()["data"], images[2:])
    assert net.blobs["label"].data.tolist() == [[[[2]]], [[[3]]]] and net.inputs == []
    with pytest.raises(RuntimeError, match="first layer is a MemoryData"):
        make(tmp_path, DATA).set_input_arrays(images, np.arange(4, dtype=np.float32))


def test_views_of_a_bottom_are_not_written_through(tmp_path: Path) -> None:
    text = [input_layer("x", 1, 4, 2), layer("cut", "Slice", "x", "a b", "slice_param { axis: 1 }")]
    text += [layer("sum", "Eltwise", "a b")]
    net = make(tmp_path, "force_backward: true", *text)
    net.blobs["x"].data[...] = 1
    net.forward()
    net.blobs["a"].data[...] = 5
    assert (net.blobs["x"].data == 1).all()
    assert (net.forward(start="sum")["sum"] == 6).all()
    net.blobs["sum"].diff[...] = 2
    net.backward()
    net.blobs["a"].diff[...] = 7
    assert (net.blobs["b"].diff == 2).all() and (net.blobs["sum"].diff == 2).all()
    net.blobs["sum"].diff[...] = 3
    assert (net.blobs["b"].diff == 2).all() and (net.blobs["a"].diff == 7).all()
    net.backward(start="cut")
    assert net.blobs["x"].diff[0, :, 0].tolist() == [7, 7, 2, 2]


def test_parameters_shared_by_name_have_one_data_and_one_diff(tmp_path: Path) -> None:
    ip = "inner_product_param { num_output: 3 bias_term: false weight_filler { type: 'xavier' } } param { name: 'w' }"
    text = [input_layer("x", 1, 3), layer("one", "InnerProduct", "x", more=ip)]
    net = make(tmp_path, "force_backward: true", *text, layer("two", "InnerProduct", "one", more=ip))
    one, two = net.params["one"][0], net.params["two"][0]
    assert np.shares_memory(one.data, two.data)
    net.blobs["x"].data[...] = 1
    net.forward()
    net.blobs["two"].diff[...] = 1
    net.backward()
    assert np.shares_memory(one.diff, two.diff) and one.diff.any()


def test_an_input_that_a_layer_overwrites_stays_overwritten(tmp_path: Path) -> None:
    net = make(tmp_path, input_layer("x", 2), layer("double", "Power", "x", "x", "power_param { scale: 2 }"))
    net.blobs["x"].data[...] = 1
    net.forward()
    assert net.forward()["x"].tolist() == [4, 4]


def test_errors_in_a_layer_name_it_and_the_shapes(deep: caffe.Net) -> None:
    deep.blobs["data"].reshape(2, 2, 5, 4)
    with pytest.raises(LayerError, match=r"layer 'conv1' \(Convolution\)"):
        deep.forward()


def test_debug_info_logs_what_caffe_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fcn_caffe.solver")
    net = make(tmp_path, "debug_info: true", *DEEP)
    net.forward()
    net.blobs["ip"].diff[...] = 1
    net.backward()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("[Forward] Layer conv1_relu1_0_split, top blob" in line for line in lines) == 2
    assert any("[Backward] Layer ip, param blob 0 diff" in line for line in lines), lines


def test_debug_info_tells_of_layers_that_go_backward_and_of_blobs_as_they_then_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fcn_caffe.solver")
    text = [
        "debug_info: true",
        input_layer("x", 1, 2),
        layer("ip", "InnerProduct", "x", more=IP),
        layer("aside", "Scale", "x"),
    ]
    text += [layer("double", "Power", "ip", "ip", "power_param { scale: 2 }")]
    net = make(tmp_path, *text, layer("loss", "Reduction", "ip", more="loss_weight: 1"))
    net.blobs["x"].data[...] = [[1, 2]]
    net.forward()
    net.backward()
    lines = [message.split("] ")[-1] for message in (record.getMessage() for record in caplog.records)]
    start = lines.index("Layer loss, bottom blob ip diff: 1")
    assert "Layer x, top blob x data: 1.5" in lines[:start]
    assert lines[start + 1 : -1] == [
        "Layer double, bottom blob ip diff: 4",  # in place: its slope is squared
        "Layer ip, param blob 0 diff: 6",
        "Layer ip, param blob 1 diff: 4",
    ]
    assert lines[-1].startswith("All net params (data, diff)")


def test_constants_are_filled_once_and_what_is_written_to_them_stays(tmp_path: Path) -> None:
    shapes = "shape { dim: 2 dim: 3 } shape { dim: 2 } shape { dim: 2 }"
    fillers = "data_filler { type: 'gaussian' } data_filler { type: 'constant' value: 4 } data_filler { }"
    text = layer("d", "DummyData", "", "random four zero", f"dummy_data_param {{ {shapes} {fillers} }}")
    net = make(tmp_path, text, layer("sum", "Eltwise", "four zero"))
    assert (net.blobs["four"].data == 4).all()
    net.blobs["zero"].data[...] = [5, 6]
    first = net.forward(blobs=["random"])["random"].copy()
    assert net.forward(blobs=["random"])["sum"].tolist() == [9, 10]
    assert not np.array_equal(net.blobs["random"].data, first)


def test_backward_does_not_move_a_recurrent_state(tmp_path: Path) -> None:
    text = [input_layer("x", 2, 1, 3), input_layer("cont", 2, 1)]
    rnn = "recurrent_param { num_output: 2 weight_filler { type: 'uniform' min: -1 max: 1 } }"
    for lonely in (True, False):
        torch.manual_seed(0)
        net = make(tmp_path, "force_backward: true", *text, layer("rnn", "LSTM", "x cont", more=rnn))
        net.executor.recording = False
        for name in ("x", "cont"):
            net.blobs[name].data[...] = 1
        net.forward()
        if not lonely:
            net.blobs["rnn"].diff[...] = 1
            net.backward()
        second = net.forward()["rnn"].copy()
        if lonely:
            expected = second
    np.testing.assert_array_equal(second, expected)


def test_losses_that_name_no_top_count(tmp_path: Path) -> None:
    text = [input_layer("a", 1, 2), input_layer("b", 1, 2), layer("w", "Scale", "a")]
    net = make(tmp_path, *text, layer("loss", "EuclideanLoss", "w b", ""), phase=caffe.TRAIN)
    net.blobs["a"].data[...] = 2
    assert net._forward(0, 3) == 4 and net.outputs == [] and list(net.blobs) == ["a", "b", "w", "(automatic)"]
    net.backward()
    assert net.blobs["w"].diff.tolist() == [[2, 2]]


def test_in_place_on_a_blob_that_others_read_is_refused_as_in_caffe(tmp_path: Path) -> None:
    text = [input_layer("a", 2), layer("b", "Power", "a"), layer("r", "ReLU", "b", "b")]
    with pytest.raises(GraphError, match=r"layer 'r' \(ReLU\).*works in place on a blob that another layer reads too"):
        make(tmp_path, *text[:2], layer("c", "Power", "b"), text[2])


def test_a_layer_that_cannot_be_run_again_keeps_its_graph(tmp_path: Path) -> None:
    class Counting(Layer):
        """Multiplies by the number of times that it has run."""

        runs = 0

        def is_repeatable(self) -> bool:
            return False

        def forward(self, bottom: torch.Tensor) -> torch.Tensor:
            self.runs += 1
            return bottom * self.runs

    register("CountingOfATest")(Counting)
    text = ["force_backward: true", input_layer("x", 1, 2), layer("w", "Scale", "x")]
    text.append(layer("count", "CountingOfATest", "w"))
    try:
        net = make(tmp_path, *text)
    finally:
        del REGISTRY["CountingOfATest"]
    net.executor.recording = False  # only a layer that must records then
    for runs in (2, 3):  # the first run found the shapes
        net.forward()
        assert [step.record is not None for step in net.executor.steps] == [False, False, True]
        net.blobs["count"].diff[...] = 1
        net.executor.backward(net.executor.steps[2], torch.device("cpu"))
        assert net.blobs["w"].diff.tolist() == [[runs, runs]]
        net.executor.recording = False


def test_the_fork_is_said_or_seen_in_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(input_layer("x", 1, 3, 2, 2) + layer("b", "BN", "x"))
    with pytest.raises(LayerError, match="Say it: --fork segnet"):
        caffe.Net(str(file), caffe.TEST)
    net = caffe.Net(str(file), caffe.TEST, fork="pspnet")
    assert len(net.params["b"]) == 4
    net.save(str(tmp_path / "w.caffemodel"))
    assert len(caffe.Net(str(file), str(tmp_path / "w.caffemodel"), caffe.TEST).params["b"]) == 4
    assert len(caffe.Net(str(file), caffe.TEST, weights=str(tmp_path / "w.caffemodel")).params["b"]) == 4
    with pytest.raises(GraphError, match="fork 'psp' is not known"):
        caffe.Net(str(file), caffe.TEST, fork="psp")


def test_blobs_are_written_into_and_not_replaced(deep: caffe.Net) -> None:
    array, layer_name = np.zeros((1, 3, 8, 8)), next(iter(deep.params))
    for replace in (
        lambda: deep.blobs.__setitem__("data", array),
        lambda: deep.params.__setitem__(layer_name, [array]),
        lambda: deep.params[layer_name].__setitem__(0, array),
    ):
        with pytest.raises(TypeError, match=r"cannot be replaced.* net\.blobs\['data'\]\.data\[\.\.\.\] = array"):
            replace()


def test_a_blob_holds_no_more_than_caffes(deep: caffe.Net) -> None:
    with pytest.raises(ValueError, match="65536x32768 is 2147483648 numbers, a blob has at most 2147483647"):
        deep.blobs["data"].reshape(1 << 16, 1 << 15)


def test_a_net_is_copied_and_not_pickled(deep: caffe.Net) -> None:
    with pytest.raises(TypeError, match=r"cannot be pickled, as in pycaffe\. Save its weights"):
        pickle.dumps(deep)
    held = deep.blobs["data"].data
    held[...] = 1
    twin = copy.deepcopy(deep)
    twin.blobs["data"].data[...] = 2
    assert (held == 1).all() and (deep.blobs["data"].data == 1).all()


def test_weights_in_the_place_of_a_level_are_told(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"level must be a whole number .* got 'w\.caffemodel'"):
        caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST, "w.caffemodel")
