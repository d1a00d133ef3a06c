"""The doctor on layers of Caffe's forks: statistics of a batch, masks of another pooling, offsets that are derived."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import input_layer, layer

from fcn_caffe.doctor.examine import examine
from fcn_caffe.doctor.findings import ERROR, NOTE, WARNING, Examination
from fcn_caffe.proto.dialect import use_dialect

IMAGE = input_layer("data", 1, 3, 16, 16)
POOL = 'pooling_param { pool: MAX kernel_size: 2 stride: 2 }'  # fmt: skip


@pytest.fixture
def at(tmp_path: Path):
    """Examine a net's text."""

    def run(*text: str) -> Examination:
        (tmp_path / "net.prototxt").write_text("".join(text))
        return examine(tmp_path / "net.prototxt")

    return run


def found(examination: Examination, check: str) -> list[str]:
    return [str(finding) for finding in examination.findings if finding.check == check and finding.level != NOTE]


def test_segnets_bn_takes_the_statistics_of_the_batch(at):
    bns = [layer(name, "BN", "data", name, "bn_param { scale_filler { value: 1 } }") for name in "abcde"]
    (line,) = found(at(IMAGE, *bns), "batch statistics")
    assert "layer 'a' (BN), layer 'b' (BN), layer 'c' (BN) and 2 more" in line and "bn_mode: INFERENCE" in line
    assert line.startswith(WARNING)
    loss = input_layer("label", 1, 1, 16, 16) + layer("loss", "SoftmaxWithLoss", "a label")
    (note,) = [item for item in at(IMAGE, *bns, loss).findings if item.check == "batch statistics"]
    assert note.level == NOTE  # SegNet trains and tests so
    inference = layer("a", "BN", "data", "a", "bn_param { bn_mode: INFERENCE }")
    pspnet = layer("b", "BN", "data", "b", "bn_param { momentum: 0.9 }")
    assert found(at(IMAGE, inference), "batch statistics") == found(at(IMAGE, pspnet), "batch statistics") == []


def test_a_mask_of_another_pooling(at):
    pools = layer("pool1", "Pooling", "data", "pool1 mask1", POOL) + layer("pool2", "Pooling", "pool1", "p m", POOL)
    right = layer("up2", "Upsample", "p m", "up2", "upsample_param { scale: 2 }")
    right += layer("up1", "Upsample", "up2 mask1", "up1", "upsample_param { scale: 2 }")
    assert found(at(IMAGE, pools, right), "pooling masks") == []
    wrong = right.replace("upsample_param { scale: 2 }", "upsample_param { scale: 3 }", 1).replace("mask1", "mask2")
    other = layer("pool3", "Pooling", "data", "q mask2", "pooling_param { kernel_size: 5 stride: 1 }")
    (line, *rest) = found(at(IMAGE, pools, other, wrong), "pooling masks")
    assert "layer 'up2' (Upsample): makes 12x12 by the mask of layer 'pool2' (Pooling), which has pooled 8x8" in line
    assert (
        line.startswith(ERROR) and "upsample to 8x8" in line and "makes 24x24 by the mask of layer 'pool3'" in rest[0]
    )
    unpool = layer("u", "Unpooling", "p p", "u", "unpooling_param { kernel_size: 2 stride: 2 unpool_size: 8 }")
    (line,) = found(at(IMAGE, pools, unpool), "pooling masks")
    assert (
        line.startswith(WARNING) and "its mask 'p' is the top of layer 'pool2' (Pooling), no mask of a Pooling" in line
    )


def test_a_crop_without_options_may_be_of_another_caffe(at):
    conv = layer("c", "Convolution", "data", "c", "convolution_param { num_output: 1 kernel_size: 3 stride: 2 pad: 4 }")
    up = layer("u", "Deconvolution", "c", "u", "convolution_param { num_output: 1 kernel_size: 3 stride: 2 }")
    crop = layer("crop", "Crop", "u data", "crop")
    (line,) = found(at(IMAGE, conv, up, crop), "crop offset")
    assert "no offset, which is 0," in line and "whose Crop has no options, means it: --fork hed." in line
    own = crop.replace('top: "crop"', 'top: "crop" crop_param { axis: 2 }')
    (line,) = found(at(IMAGE, conv, up, own), "crop offset")
    assert "--fork" not in line
    use_dialect("hed", False)
    try:
        assert found(at(IMAGE, conv, up, crop), "crop offset") == []
    finally:
        use_dialect("", False)
