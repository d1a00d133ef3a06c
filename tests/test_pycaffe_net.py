"""pycaffe's Net: Caffe's numbers through blobs, live arrays, and every method."""

from __future__ import annotations

from pathlib import Path

import pytest
from oracle import arrays, assert_close, cases, draw, load

import fcn_caffe.pycaffe as caffe


def golden_net(text: str, phase: int, folder: Path) -> caffe.Net:
    path = folder / "net.prototxt"
    path.write_text(text)
    return caffe.Net(str(path), phase)


def draw_params(net: caffe.Net) -> None:
    for name, blobs in net.params.items():
        for index, blob in enumerate(blobs):
            blob.data[...] = draw(name, net.layer_dict[name].type, index, tuple(blob.shape))


@pytest.mark.parametrize("case", cases("layers"))
def test_layers_equal_caffe(case: str, tmp_path: Path) -> None:
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
    net.backward()
    for key, expected in data.items():
        if key.startswith(f"{case}/bottom_diff/"):
            assert_close(net.blobs[f"x{key.rsplit('/', 1)[1]}"].diff, expected, 2e-5, key)
        if key.startswith(f"{case}/param_diff/"):
            assert_close(net.params["l"][int(key.rsplit("/", 1)[1])].diff, expected, 2e-5, key)


@pytest.mark.parametrize("case", cases("nets"))
def test_nets_equal_caffe(case: str, tmp_path: Path) -> None:
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
