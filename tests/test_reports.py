"""Small inputs after public bug reports: each does what Caffe does, or says what to do."""

from pathlib import Path

import pytest
import torch
from places import GOLDEN

import fcn_caffe.pycaffe as caffe
from fcn_caffe import TRAIN, Net
from fcn_caffe.doctor import examine
from fcn_caffe.errors import FcnCaffeError, LayerError
from fcn_caffe.training.solver import Solver
from fcn_caffe.weights.transfer import load_weights

REPORTS = GOLDEN / "reports"

FORK_LAYERS = {
    "ConvolutionDepthwise": 'Write type: "Convolution" with num_output and group equal to the channels of the bottom.',
    "DepthwiseConvolution": 'Write type: "Convolution": its options and weights are the same.',
    "norm": "(Normalize, with norm_param): the type is of SSD's, NVIDIA's, Intel's and happynear's Caffe",
    "relu6": "Write ReLU, then Clip with clip_param { min: 0 max: 6 }.",
    "roi": "(ROIPooling, with roi_pooling_param): the type is of Fast R-CNN's, Faster R-CNN's, R-FCN's",
}
# The fault in a file, what it becomes by its message, and what the message then says of.
MIXED = {
    "a": ("type: CONVOLUTION", 'type: "Convolution"'),
    "b": ('type: "CONVOLUTION"', 'type: "Convolution"'),
    "c": ("param { lr_mult: 1 }", "blobs_lr: 1"),
    "d": ("blobs_lr: 1", "param { lr_mult: 1 }"),
    "e": (
        'weight_filler { type: "xavier" } inner_product_param { num_output: 2 }',
        'inner_product_param { num_output: 2 weight_filler { type: "xavier" } }',
    ),
}


def refusal(path: Path, strict: bool = False) -> str:
    with pytest.raises(FcnCaffeError) as caught:
        Net(path, strict=strict)
    return str(caught.value)


@pytest.mark.parametrize("name", FORK_LAYERS)
def test_layers_of_forks_are_named_as_such(name: str) -> None:
    message = refusal(REPORTS / "misleading_hint_fork_layer" / f"{name}.prototxt", strict=True)
    assert FORK_LAYERS[name] in message and "Did you mean" not in message


@pytest.mark.parametrize("name", MIXED)
def test_mixed_spellings_lead_to_a_file_that_works(name: str, tmp_path: Path) -> None:
    path = REPORTS / "old_type_name_in_new_layer" / f"{name}.prototxt"
    wrong, right = MIXED[name]
    message = refusal(path)
    for word in right.replace("{", " ").replace("}", " ").replace(":", " ").split():
        if word in ("param", "lr_mult", '"Convolution"', "blobs_lr", "inner_product_param"):
            assert word in message
    mended = tmp_path / "net.prototxt"
    mended.write_text(path.read_text().replace(wrong, right))
    assert Net(mended).blob_shapes["c"] is not None


def test_ceil_mode_is_read() -> None:
    assert Net(REPORTS / "pooling_ceil_mode" / "net.prototxt").blob_shapes["p"] == (1, 1, 56, 56)


def test_an_input_without_a_shape_is_named_itself(tmp_path: Path) -> None:
    path = REPORTS / "input_without_shape" / "net.prototxt"
    assert refusal(path).startswith(
        "layer 'image' (Input): no shape is given, and layer 'c' (Convolution) needs one (layer 'c' (Convolution): "
    )
    assert refusal(path).endswith("with the sizes of 'image'. Input reads no files: its data_param does nothing.")
    assert Net(path, input_shapes={"image": (1, 3, 8, 8)}).blob_shapes["c"] == (1, 2, 6, 6)
    # Caffe builds a net whose layers can do without.
    alone = tmp_path / "alone.prototxt"
    alone.write_text('layer { name: "x" type: "Input" top: "x" } layer { name: "r" type: "ReLU" bottom: "x" top: "r" }')
    assert Net(alone).blob_shapes["r"] == ()
    shaped = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
    alone.write_text(shaped + 'layer { name: "r" type: "Input" bottom: "x" }')
    assert refusal(alone).startswith("layer 'r' (Input): takes 0 bottom blob(s), got 1 (x)")


MEMORY = """layer { name: "m" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 2 channels: 1 height: 2 width: 2 } include { phase: TEST } }
layer { name: "d" type: "DummyData" top: "data" top: "label" include { phase: TRAIN }
  dummy_data_param { shape { dim: 2 dim: 1 dim: 2 dim: 2 } shape { dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_a_memory_data_test_net_says_which_net_and_which_call(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(MEMORY)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 test_interval: 1 test_iter: 1\n'
        f'snapshot_prefix: "{tmp_path}/x"'
    )
    for step in (Solver(solver).step, caffe.get_solver(str(solver)).step):
        with pytest.raises(LayerError, match=r"^test net #0: layer 'm'.*net\.set_input_arrays\(data, labels\)"):
            step(1)


def test_layers_of_one_name_run() -> None:
    net = Net(REPORTS / "duplicate_layer_names" / "net.prototxt")
    image = torch.rand(1, 1, 8, 8)
    window = torch.nn.functional.conv2d(image, torch.ones(2, 1, 3, 3), padding=1)  # both are cut back to the image
    blobs = net(image=image, keep=("a_cut", "b_cut"))
    assert torch.allclose(blobs["a_cut"], window, atol=1e-5) and torch.allclose(blobs["sum"], 2 * window, atol=1e-5)


def test_v1_crop_derives_its_offset() -> None:
    net = Net(REPORTS / "v1_crop" / "net.prototxt")
    blobs = net(image=torch.rand(1, 1, 16, 16), keep=("a",))
    assert torch.equal(blobs["c"], blobs["a"][:, :, 1:17, 1:17])


def test_a_crop_without_an_offset_runs_with_0_and_doctor_says_10() -> None:
    path = REPORTS / "crop_without_offset" / "net.prototxt"
    blobs = Net(path)(image=torch.rand(1, 3, 32, 32), keep=("up",))
    assert torch.equal(blobs["p"], torch.sigmoid(blobs["up"][:, :, :32, :32]))
    (finding,) = [item for item in examine(path).findings if item.check == "crop offset"]
    assert "the coordinate map gives 10" in finding.problem and "--fix OUT" in finding.advice


def test_half_precision_blobs_are_read() -> None:
    weights = load_weights(REPORTS / "half_precision_blobs" / "half.caffemodel")
    assert weights["c"][0].tolist() == [[[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]]


def test_batch_statistics_run() -> None:
    assert Net(REPORTS / "batchnorm_batch_statistics_in_test" / "net.prototxt", TRAIN).blob_shapes["b"] == (1, 4, 6, 6)
