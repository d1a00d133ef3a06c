"""Nets run part by part give the numbers of the whole: the paper's nets, awkward windows, and what is refused."""

from functools import partial

import pytest
import torch

from fcn_caffe import Net
from fcn_caffe.errors import GraphError
from fcn_caffe.models.nets import NETS
from fcn_caffe.models.nets import make_net as paper_net
from fcn_caffe.net.strips import Strips
from tests.helpers import input_layer, layer, make_net, randomise

WIDE = 61  # more channels than any of the paper's nets has classes
PLENTY = 1 << 30


def narrow(name, width=6):
    """Return a paper's net with few channels, filled at random."""
    param = paper_net(name)
    for each in param.layer:
        options = each.convolution_param
        if options.num_output > WIDE:
            options.num_output = width * options.group
        if each.type in ("Convolution", "Deconvolution"):
            options.weight_filler.Clear()
            options.weight_filler.type = "msra"
    return param


def read(blob, rows, columns):
    return blob[:, :, rows[0] : rows[1], columns[0] : columns[1]]


def least(net, shapes, wanted, widest=None):
    """Return a run in parts in about as little memory as can be: a row or two at once."""
    budget = 1 << 12 if len(net.steps) < 10 else 1 << 19
    while True:
        try:
            return Strips(net, shapes, wanted, budget, widest)
        except GraphError as error:
            assert "do not fit" in str(error)
            budget += budget // 4


def largest_error(net, size, widest=None, make=least):
    """Return the largest difference of all parts to the whole, relative to the largest value, and their number."""
    torch.manual_seed(0)
    inputs = {
        name: torch.randn(*net.blob_shapes[name][:2], *size, dtype=torch.float64) * 50 for name in net.graph.inputs
    }
    wanted = [name for name in net.graph.outputs if len(net.blob_shapes[name]) == 4]
    whole = {name: blob.clone() for name, blob in net(inputs).items()}
    run = make(net, {name: tuple(blob.shape) for name, blob in inputs.items()}, wanted, widest=widest)
    left = {name: torch.full_like(whole[name], torch.nan) for name in wanted}
    count = 0
    for piece in run.pieces({name: partial(read, blob) for name, blob in inputs.items()}):
        place = read(left[piece.blob], piece.rows, piece.columns)
        assert place.isnan().all(), "a place was given twice"
        place.copy_(piece.values)
        count += 1
    with torch.no_grad():
        error = max(float((left[name] - whole[name]).abs().max() / whole[name].abs().max()) for name in wanted)
    return error, count


@pytest.mark.parametrize("index", range(len(NETS)), ids=list(NETS))
def test_every_net_of_the_paper_is_the_same_in_parts(index):
    """In double precision, so that a wrong border cannot hide behind rounding."""
    net = Net(narrow(list(NETS)[index]), stages=("deploy",)).double()
    size = 70 + 7 * index % 32, 96 + 11 * index % 32
    error, count = largest_error(net, size, 45, partial(Strips, budget=PLENTY))
    assert error < 1e-13 and count >= 3
    if index % 3 == 0:
        error, count = largest_error(net, size, 80)
        assert error < 1e-13 and count >= 2


def test_float32_agrees_within_a_millionth():
    net = Net(narrow("voc-fcn8s"), stages=("deploy",))
    blob = torch.rand(1, 3, 75, 110) * 255
    whole = net(data=blob)["score"].detach()
    run = least(net, {"data": (1, 3, 75, 110)}, ["score"], 64)
    for piece in run.pieces({"data": partial(read, blob)}):
        difference = (piece.values - read(whole, piece.rows, piece.columns)).abs().max()
        assert difference <= 1e-6 * whole.abs().max()


WINDOWS = {
    "strided": "kernel_size: 3 stride: 3 pad: 2",
    "dilated": "kernel_size: 3 dilation: 2 pad: 2",
    "oblong": "kernel_h: 5 kernel_w: 2 pad_h: 2 pad_w: 1 stride_h: 2 stride_w: 1",
    "all padding": "kernel_size: 2 pad: 7",
}
POOLS = {
    "ceil": "pool: MAX kernel_size: 2 stride: 2",
    "overlapping": "pool: MAX kernel_size: 3 stride: 2",
    "padded": "pool: MAX kernel_size: 3 stride: 1 pad: 1",
    "average": "pool: AVE kernel_size: 3 stride: 2 pad: 1",
    "average with a far pad": "pool: AVE kernel_size: 5 stride: 2 pad: 4",
    "gaps": "pool: MAX kernel_size: 2 stride: 3",
}


def one_layer(kind, options):
    field = {"Pooling": "pooling_param", "LRN": "lrn_param"}.get(kind, "convolution_param")
    more = f"{field} {{ {options} {'num_output: 2' if field == 'convolution_param' else ''} }}"
    net = make_net(input_layer("data", 2, 3, 23, 29), layer("top", kind, "data", more=more))
    randomise(net)
    return net.double()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("Convolution", options) for options in WINDOWS.values()),
        *(("Pooling", options) for options in POOLS.values()),
        ("Deconvolution", "kernel_size: 4 stride: 2 pad: 1"),
        ("Deconvolution", "kernel_size: 7 stride: 3 pad: 3"),
        ("Deconvolution", "kernel_size: 2 stride: 2"),
        ("LRN", "local_size: 5 norm_region: WITHIN_CHANNEL"),
        ("LRN", "local_size: 3"),
    ],
)
@pytest.mark.parametrize("widest", [None, 4])
def test_windows(kind, options, widest):
    error, count = largest_error(one_layer(kind, options), (23, 29), widest)
    assert error < 1e-13 and count > 3


def test_branches_of_different_delay_and_a_crop_of_one_axis():
    net = make_net(
        input_layer("data", 1, 2, 40, 40),
        layer("deep", "Convolution", "data", more="convolution_param { num_output: 2 kernel_size: 9 pad: 4 }"),
        layer("relu", "ReLU", "deep", "deep"),
        layer("both", "Concat", "deep data"),
        layer("cut", "Slice", "both", "one two", "slice_param { slice_point: 1 }"),
        layer("sum", "Convolution", "two", more="convolution_param { num_output: 1 kernel_h: 3 kernel_w: 1 }"),
        layer("left", "Crop", "one sum", more="crop_param { axis: 2 offset: 1 offset: 0 }"),
        layer("out", "Eltwise", "left sum"),
        layer("soft", "Softmax", "out"),
    )
    randomise(net)
    assert largest_error(net.double(), (40, 40), 7)[0] < 1e-13


@pytest.mark.parametrize(
    ("type", "more"),
    [
        ("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
        ("MVN", ""),
        ("InnerProduct", "inner_product_param { num_output: 2 }"),
        ("Softmax", "softmax_param { axis: 2 }"),
        ("BatchNorm", "batch_norm_param { use_global_stats: false }"),
        ("Deconvolution", "convolution_param { num_output: 1 kernel_size: 2 stride: 3 }"),
        ("Convolution", "convolution_param { num_output: 1 kernel_size: 2 dilation: 0 }"),
    ],
)
def test_what_looks_at_the_whole_image_is_refused(type, more):
    net = make_net(input_layer("data", 1, 3, 8, 8), layer("far", type, "data", more=more))
    with pytest.raises(GraphError, match=r"layer 'far' .* cannot be run in parts\. Give --tile 0 to run it whole\."):
        Strips(net, {"data": (1, 3, 8, 8)}, ["far"], PLENTY)


def test_too_little_memory_is_refused():
    net = one_layer("Convolution", WINDOWS["strided"])
    with pytest.raises(GraphError, match=r"even 11 columns in one go do not fit into 10 bytes\. Free some memory"):
        Strips(net, {"data": (2, 3, 23, 29)}, ["top"], 10)


def test_wanted_blobs_of_two_sizes_are_refused():
    pool = layer("half", "Pooling", "data", more="pooling_param { kernel_size: 2 stride: 2 }")
    net = make_net(input_layer("data", 1, 3, 8, 8), pool, layer("same", "ReLU", "data"))
    with pytest.raises(GraphError, match="half, same have 2 sizes, expected one of all"):
        Strips(net, {"data": (1, 3, 8, 8)}, ["half", "same"], PLENTY)


def test_a_failing_layer_is_named():
    net = one_layer("Convolution", WINDOWS["strided"])
    run = Strips(net, {"data": (2, 3, 23, 29)}, ["top"], PLENTY)
    with pytest.raises(GraphError, match="blob 'data' was given as str"):
        next(run.pieces({"data": lambda rows, columns: "no tensor"}))
