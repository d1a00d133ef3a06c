"""Every layer against numbers measured on BVLC Caffe: tops, bottom gradients, parameter gradients."""

from __future__ import annotations

import pytest
import torch
from oracle import arrays, assert_close, cases, load

from fcn_caffe import TEST, TRAIN, Net
from fcn_caffe.proto import caffe_pb2, parse_text

TOLERANCE = 1e-5
DATA = load("layers")


@pytest.mark.parametrize("case", cases("layers"))
def test_equals_caffe(case: str) -> None:
    phase = TRAIN if str(DATA[f"{case}/phase"]) == "TRAIN" else TEST
    net = Net(parse_text(str(DATA[f"{case}/prototxt"]), caffe_pb2.NetParameter), phase)
    params = arrays(DATA, f"{case}/param")
    layer = net.layer("l")
    assert len(layer.blobs) == len(params)
    with torch.no_grad():
        for blob, value in zip(layer.blobs, params, strict=True):
            assert tuple(blob.shape) == value.shape
            blob.copy_(torch.from_numpy(value))
    fed = dict(zip(net.graph.inputs, arrays(DATA, f"{case}/bottom"), strict=True))
    node = next(node for node in net.graph.nodes if node.name == "l")
    blobs = net({name: torch.from_numpy(value) for name, value in fed.items()}, keep=(*node.bottoms, *node.tops))
    for index, expected in enumerate(arrays(DATA, f"{case}/top")):
        assert net.blob_shapes[node.tops[index]] == expected.shape, "the shape when building"
        assert_close(blobs[node.tops[index]], expected, TOLERANCE, f"{case} top {index}")
    for index, expected in enumerate(arrays(DATA, f"{case}/param_after")):
        assert_close(layer.blobs[index], expected, TOLERANCE, f"{case} parameter {index} after forward")
    check_gradients(case, net, node.bottoms, node.tops, blobs)


def check_gradients(
    case: str, net: Net, bottoms: tuple[str, ...], tops: tuple[str, ...], blobs: dict[str, torch.Tensor]
) -> None:
    top_diffs = {key: value for key, value in DATA.items() if key.startswith(f"{case}/top_diff/")}
    bottom_diffs = {
        int(key.rsplit("/", 1)[1]): value for key, value in DATA.items() if key.startswith(f"{case}/bottom_diff/")
    }
    param_diffs = {
        int(key.rsplit("/", 1)[1]): value for key, value in DATA.items() if key.startswith(f"{case}/param_diff/")
    }
    if not top_diffs or not (bottom_diffs or param_diffs):
        return
    pairs = [(blobs[tops[int(key.rsplit("/", 1)[1])]], torch.from_numpy(value)) for key, value in top_diffs.items()]
    pairs = [(top, diff.reshape(top.shape)) for top, diff in pairs if top.requires_grad]
    params = net.layer("l").blobs
    wanted = [blobs[bottoms[i]] for i in bottom_diffs] + [params[i] for i in param_diffs]
    expected = list(bottom_diffs.values()) + list(param_diffs.values())
    names = [f"bottom {i}" for i in bottom_diffs] + [f"parameter {i}" for i in param_diffs]
    known = [(x, e, n) for x, e, n in zip(wanted, expected, names, strict=True)]
    for blob, diff, name in known:
        if not blob.requires_grad:
            assert not diff.any(), f"{case} {name}: Caffe has a gradient here"
    known = [item for item in known if item[0].requires_grad]
    if not pairs:
        assert not any(diff.any() for _, diff, _ in known), f"{case}: no gradient at all"
        return
    grads = torch.autograd.grad(
        [top for top, _ in pairs], [blob for blob, _, _ in known], [diff for _, diff in pairs], allow_unused=True
    )
    for (blob, diff, name), grad in zip(known, grads, strict=True):
        assert_close(torch.zeros_like(blob) if grad is None else grad, diff, TOLERANCE, f"{case} gradient of {name}")
