"""Where engines part from Caffe, our files have Caffe's numbers in each of them, from the smallest size on."""

from __future__ import annotations

import pytest
import torch
from engine_runs import ENGINES, answer, compare, difference, export, open_onnx_everywhere
from helpers import input_layer, layer, make_net, randomise

from fcn_caffe.export.onnx_file import write_onnx
from fcn_caffe.export.portable import make_portable
from fcn_caffe.export.program import trace
from fcn_caffe.export.program_file import open_program, write_program
from fcn_caffe.export.sizes import find_sizes

pytestmark = [pytest.mark.needs_package(name) for name in ("onnxscript", "onnxruntime", "openvino", "cv2")]

# What ONNX Runtime, OpenVINO and OpenCV compute each in its own way, where a file leaves it to them.
TRAPS = {
    "a last window beyond the image": ("Pooling", "pooling_param { kernel_size: 2 stride: 3 pad: 1 }"),
    "the same, with the places": ("Pooling", "pooling_param { kernel_size: 2 stride: 3 pad: 1 }"),
    "the divisor at the corner": ("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"),
    "the divisor of half a window": ("Pooling", "pooling_param { pool: AVE kernel_size: 2 stride: 2 }"),
    "a stochastic pool": ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }"),
    "a pyramid": ("SPP", "spp_param { pyramid_height: 2 pool: AVE }"),
    "LRN": ("LRN", "lrn_param { local_size: 5 alpha: 0.5 k: 2 }"),
    "LRN within a channel": ("LRN", "lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL }"),
    "a deconvolution cut at its ends": (
        "Deconvolution",
        "convolution_param { num_output: 4 group: 2 kernel_size: 4 stride: 2 pad: 1 }",
    ),
    "a dilated deconvolution": (
        "Deconvolution",
        "convolution_param { num_output: 2 kernel_size: 3 stride: 2 pad: 2 dilation: 2 }",
    ),
    "a constant plane": ("MVN", ""),
    "the norm of zeros": ("Normalize", "norm_param { across_spatial: false }"),
    "a shift that is nearly 0": ("Power", "power_param { power: -0.5 shift: 1e-10 }"),
    "equal values": ("ArgMax", "argmax_param { axis: 1 top_k: 2 }"),
    "a frozen shape": ("Tile", "tile_param { axis: 0 tiles: 2 }"),
    # At the declared size each pool has one window, and nothing is between the two copied rows.
    "one window": ("Pooling", "pooling_param { kernel_size: 2 stride: 1 }"),
    "one window, with the places": ("Pooling", "pooling_param { kernel_size: 2 stride: 1 }"),
    "the mean of one": ("Pooling", "pooling_param { pool: AVE kernel_size: 2 stride: 1 }"),
    "the expectation of one": ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 1 }"),
    "a pyramid of maxima": ("SPP", "spp_param { pyramid_height: 2 }"),
    "a border": ("BorderCopy", "border_copy_param { start: 0 end: 0 copies: 3 copies: 2 }"),
}
# The crop cuts nothing at the declared size; the halves are of a size that is computed.
CHAIN = (
    layer("half", "Pooling", "x", more="pooling_param { kernel_size: 2 stride: 2 }"),
    layer("up", "Deconvolution", "half", more="convolution_param { num_output: 2 kernel_size: 2 stride: 2 }"),
    layer("crop", "Crop", "up x"),
    layer("halves", "Slice", "up", "left right", "slice_param { axis: 3 }"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All the forms as branches of one net: exporting takes a second, whatever is exported."""
    text, outputs = [input_layer("x", 1, 4, 2, 2), *CHAIN], ["crop", "left", "right"]
    for place, (name, (type, options)) in enumerate(TRAPS.items()):
        tops = f"t{place} mask{place}" if "places" in name else f"t{place}"
        text.append(layer(f"l{place}", type, "x", tops, options))
        outputs += tops.split()
    net, folder = make_net(*text), tmp_path_factory.mktemp("files")
    randomise(net)
    program = trace(make_portable(net), outputs, {}, find_sizes(net, ["x"]))
    write_program(program, folder / "a.pt2", "{}")
    write_onnx(program, folder / "a.onnx", {}, 18)
    others = open_onnx_everywhere((folder / "a.onnx").read_bytes(), outputs)
    return net, outputs, {ENGINES[0]: open_program(folder / "a.pt2").run, **others}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [(1, 4, 2, 2), (2, 4, 2, 5), (1, 4, 4, 4), (3, 4, 11, 7)], ids=str)
def test_each_engine_has_caffes_numbers(runs, engine, size):
    net, outputs, engines = runs
    x = torch.rand(size, generator=torch.Generator().manual_seed(0)) + 0.1
    x[:, 1] = x[:, 3]  # of equal values the last is the larger
    x[:, 0] = x[..., 0, 0] = 0
    if size[2] == 4:
        assert net(x=x)["t0"].shape == (1, 4, 2, 2)
    assert compare(net, {engine: engines[engine]}, {"x": x}, outputs) == {engine: ""}


def test_what_is_not_rewritten_is_wrong_in_two_engines_of_three():
    """Why `make_portable` is there; where this fails, an engine has come round."""
    options = "pooling_param { kernel_size: 2 stride: 3 pad: 1 }"
    net = make_net(input_layer("x", 2, 4, 9, 10), layer("y", "Pooling", "x", more=options))
    _, file = export(net, {"x": torch.rand(2, 4, 9, 10)}, ["y"])
    found = compare(net, open_onnx_everywhere(file, ["y"]), {"x": torch.rand(1, 4, 4, 4)}, ["y"])
    assert found["ONNX Runtime"] == ""
    assert found["OpenVINO"] == found["OpenVINO IR"] == "shape (1, 4, 3, 3) for (1, 4, 2, 2)"
    assert found["OpenCV 5"]


def test_statistics_of_a_large_image_far_from_zero():
    """Engines add up a plane in few float32 sums: a plain mean is 3e-6 off, and normalised values are 3e-4."""
    net = make_net(
        input_layer("x", 1, 2, 360, 480),
        layer("batch", "BatchNorm", "x", more="batch_norm_param { use_global_stats: false }"),
        layer("image", "MVN", "x"),
        layer("mean", "Pooling", "x", more="pooling_param { pool: AVE global_pooling: true }"),
    )
    outputs = ["batch", "image", "mean"]
    x = 123.68 + 2 * torch.rand(1, 2, 360, 480, generator=torch.Generator().manual_seed(0)) - 1
    wanted = answer(net.double(), {"x": x.double()}, outputs)
    _, file = export(make_portable(net.float()), {"x": torch.rand(2, 2, 9, 10)}, outputs)
    found = {
        name: difference(run({"x": x.numpy()}), wanted) for name, run in open_onnx_everywhere(file, outputs).items()
    }
    assert found == dict.fromkeys(ENGINES[1:], "")
