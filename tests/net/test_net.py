"""Running nets: sizes, freeing, sharing, gradients where Caffe has them, and being an ordinary module."""

from __future__ import annotations

import copy
import re
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net, randomise

from fcn_caffe import TEST, TRAIN, FcnCaffeError, GraphError, LayerError, Net
from fcn_caffe.net.coord_map import crop_offset, receptive_field
from fcn_caffe.proto import caffe_pb2

DATA = input_layer("data", 1, 3, 8, 8)
CONV = "convolution_param { num_output: 2 kernel_size: 3 pad: 1 %s }"
LABEL = input_layer("label", 1, 1, 8, 8)


def conv(name: str, bottom: str, more: str = "", options: str = "") -> str:
    return layer(name, "Convolution", bottom, more=f"{more} {CONV % options}")


def test_any_input_size_without_rebuilding() -> None:
    net = make_net(
        DATA, conv("a", "data"), layer("p", "Pooling", "a", more="pooling_param { kernel_size: 2 stride: 2 }")
    )
    for height, width in ((8, 8), (9, 13), (2, 31)):
        (top,) = net(data=torch.zeros(2, 3, height, width)).values()
        assert top.shape == (2, 2, (height + 1) // 2, (width + 1) // 2)


def test_an_array_without_axes_has_none_in_the_net() -> None:
    net = make_net(input_layer("scale"), layer("twice", "Power", "scale", more="power_param { scale: 2 }"))
    assert net(scale=np.array(3, np.float32))["twice"].shape == ()


def test_keep_and_inputs() -> None:
    net = make_net(DATA, conv("a", "data"), layer("r", "ReLU", "a", "a"), conv("b", "a"))
    randomise(net)
    x = torch.randn(1, 3, 8, 8)
    assert set(net(data=x)) == {"b"}
    kept = net({"data": x}, keep=["a", "data"])
    assert set(kept) == {"a", "b", "data"}
    assert (kept["a"] >= 0).all(), "a blob changed in place is seen in its last state"
    net.inputs["data"] = x
    assert torch.equal(net()["b"], kept["b"])
    with pytest.raises(GraphError, match=r"has no blob 'dta'\. Did you mean 'data'\? Its inputs: data"):
        net(dta=x)
    with pytest.raises(GraphError, match="blob 'data' was given as list"):
        net(data=[1.0])
    net.inputs.clear()
    with pytest.raises(LayerError, match=r"layer 'data' \(Input\): input blob 'data' was not given"):
        net()


@pytest.mark.parametrize("shape", ["dim: 9223372036854775807 dim: 1", "dim: 4294967296 " * 3])
def test_sizes_that_nothing_holds_are_refused_with_a_cure(shape: str) -> None:
    with pytest.raises(LayerError, match=r"layer 'd' \(DummyData\): .*overflowed.* Make the layer's sizes smaller\.$"):
        make_net(layer("d", "DummyData", more=f"dummy_data_param {{ shape {{ {shape} }} }}"), device="meta")


def test_a_lattice_of_layers_takes_no_longer_than_a_chain() -> None:
    """From its end to its start there are 2^200 ways; whoever walked each would not come back."""
    diamonds = [
        part
        for index in range(200)
        for part in (layer(f"r{index}", "ReLU", f"b{index}"), layer(f"b{index + 1}", "Eltwise", f"b{index} r{index}"))
    ]
    net = make_net(DATA, layer("b0", "ReLU", "data"), *diamonds, device="meta")
    assert crop_offset(net.graph, "b200", "data") == [0]
    assert receptive_field(net.graph, "b200").size == 1


def test_a_failing_layer_names_itself_and_the_shapes() -> None:
    net = make_net(DATA, conv("a", "data"))
    with pytest.raises(LayerError, match=r"layer 'a' \(Convolution\): failed on data 1x3x8x8: "):
        net(data=torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    with pytest.raises(LayerError, match=r"layer 'a' \(Convolution\): failed on data 1x4x8x8: "):
        net(data=torch.zeros(1, 4, 8, 8))


def test_blobs_are_freed_after_their_last_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make_net(DATA, conv("a", "data"), conv("b", "a"), conv("c", "b"), conv("d", "c"))
    alive: list[weakref.ref[torch.Tensor]] = []
    counts = []

    def watch(module: torch.nn.Module, args: object, top: torch.Tensor) -> None:
        alive.append(weakref.ref(top))
        counts.append(sum(ref() is not None for ref in alive))

    for name in "abcd":
        net.layer(name).register_forward_hook(watch)
    with torch.no_grad():
        net(data=torch.zeros(1, 3, 8, 8))
    assert counts == [1, 2, 2, 2], "at most a layer's bottom and top are alive"


def test_the_input_a_person_gave_is_never_overwritten() -> None:
    net = make_net(DATA, layer("r", "ReLU", "data", "data"), layer("s", "ReLU", "data"))
    x = torch.full((1, 3, 8, 8), -1.0)
    net(data=x)
    assert (x == -1).all()


def test_two_tops_of_a_loss_need_a_weight_each() -> None:
    """Caffe gives a loss one weight by default, and wants as many as there are tops."""
    text = (input_layer("x", 2, 3), input_layer("t", 2), layer("l", "SoftmaxWithLoss", "x t", "loss prob", "%s"))
    cure = r"loss_weight is 1 by default, of one top, for 2 tops. Give it once a top: `loss_weight: 1 loss_weight: 0`."
    with pytest.raises(LayerError, match=cure):
        make_net(*text[:2], text[2] % "")
    assert make_net(*text[:2], text[2] % "loss_weight: 1 loss_weight: 0").loss_weights == {"loss": 1}


def test_shared_params_are_one_blob_and_gather_both_gradients() -> None:
    spec = 'param { name: "w" %s }'
    options = "bias_term: false"
    net = make_net(
        input_layer("data", 1, 2, 8, 8),
        conv("a", "data", spec % "lr_mult: 3", options),
        conv("b", "a", spec % "", options),
    )
    randomise(net)
    assert net.params["a"][0] is net.params["b"][0]
    assert [(item.layer, item.lr_mult) for item in net.learnable_params] == [("a", 3.0)]
    x = torch.randn(1, 2, 8, 8)
    net(data=x)["b"].sum().backward()
    weight = net.params["a"][0].detach().clone().requires_grad_()
    torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, weight, padding=1), weight, padding=1).sum().backward()
    assert torch.allclose(net.params["a"][0].grad, weight.grad)


def test_permissive_sharing_looks_at_the_owner_in_another_shape() -> None:
    options = "inner_product_param { num_output: %d bias_term: false }"
    net = make_net(
        input_layer("x", 2, 6),
        input_layer("y", 2, 3),
        layer("a", "InnerProduct", "x", more='param { name: "w" } ' + options % 4),
        layer("b", "InnerProduct", "y", more='param { name: "w" share_mode: PERMISSIVE } ' + options % 8),
    )
    randomise(net)
    tops = net(x=torch.ones(2, 6), y=torch.ones(2, 3))
    owner = net.params["a"][0]
    assert torch.allclose(tops["b"], torch.ones(2, 3) @ owner.reshape(8, 3).t())
    tops["b"].sum().backward()
    assert torch.equal(owner.grad, torch.full((4, 6), 2.0))


def test_lr_mult_zero_has_no_gradient_and_nothing_below_it_is_kept() -> None:
    still = "param { lr_mult: 0 } param { lr_mult: 0 }"
    net = make_net(DATA, conv("a", "data", still), conv("b", "a"), phase=TRAIN)
    assert [item.blob.requires_grad for item in net.learnable_params] == [False, False, True, True]
    blobs = net(data=torch.zeros(1, 3, 8, 8), keep=["a"])
    assert not blobs["a"].requires_grad and blobs["b"].requires_grad


def test_propagate_down_false_stops_the_gradient() -> None:
    net = make_net(DATA, conv("a", "data"), conv("b", "a", "propagate_down: false"))
    randomise(net)
    net(data=torch.randn(1, 3, 8, 8))["b"].sum().backward()
    assert net.params["a"][0].grad is None and net.params["b"][0].grad is not None


def test_force_backward_reaches_the_inputs() -> None:
    net = make_net("force_backward: true", DATA, conv("a", "data"))
    randomise(net)
    blobs = net(data=torch.randn(1, 3, 8, 8), keep=["data"])
    (grad,) = torch.autograd.grad(blobs["a"].sum(), blobs["data"])
    assert grad.abs().sum() > 0


def test_loss_is_the_weighted_sum_of_tops() -> None:
    net = make_net(
        DATA,
        LABEL,
        conv("a", "data"),
        layer("l", "SoftmaxWithLoss", "a label", more="loss_weight: 0.5"),
        layer("m", "SoftmaxWithLoss", "a label"),
        layer("n", "ReLU", "a", more="loss_weight: 0.25"),
        phase=TRAIN,
    )
    randomise(net)
    assert net.loss_weights == {"l": 0.5, "m": 1.0, "n": 0.25}
    loss, blobs = net.forward_loss({"data": torch.randn(1, 3, 8, 8), "label": torch.ones(1, 1, 8, 8)})
    assert torch.allclose(loss, 0.5 * blobs["l"] + blobs["m"] + 0.25 * blobs["n"].sum())
    with pytest.raises(GraphError, match="has no loss"):
        make_net(DATA, conv("a", "data")).forward_loss({"data": torch.zeros(1, 3, 8, 8)})


@pytest.mark.parametrize("value", [5, -2, -100])
def test_a_label_out_of_range_is_an_error_not_a_crash(value: int) -> None:
    net = make_net(
        DATA,
        LABEL,
        conv("a", "data"),
        layer("l", "SoftmaxWithLoss", "a label", more="loss_param { ignore_label: 255 }"),
    )
    label = torch.zeros(1, 1, 8, 8)
    label[0, 0, 2, 3] = value
    with pytest.raises(LayerError, match=rf"label {value} is outside the 2 classes \(0 to 1\)"):
        net(data=torch.zeros(1, 3, 8, 8), label=label)
    assert net(data=torch.zeros(1, 3, 8, 8), label=torch.full((1, 1, 8, 8), 255.0))["l"] == 0, "all ignored: divisor 1"


def test_a_probability_that_underflows_costs_what_it_costs_in_caffe() -> None:
    text = input_layer("score", 1, 2, 1, 3), input_layer("label", 1, 1, 1, 3)
    net = make_net(
        *text, layer("l", "SoftmaxWithLoss", "score label", more="loss_param { ignore_label: 7 }"), phase=TRAIN
    )
    score = torch.tensor([[[[500.0, 0.0, 500.0]], [[0.0, 0.0, 0.0]]]], requires_grad=True)
    loss = net(score=score, label=torch.tensor([1.0, 0.0, 7.0]).reshape(1, 1, 1, 3))["l"]
    # -log FLT_MIN = 87.3365, log 2 and an ignored place, over two that count.
    assert loss.item() == pytest.approx((87.33654 + 0.6931472) / 2)
    (grad,) = torch.autograd.grad(loss, score)
    assert torch.allclose(grad[0, :, 0], torch.tensor([[0.5, -0.25, 0.0], [-0.5, 0.25, 0.0]]))


def test_input_shapes_replace_a_data_layer() -> None:
    text = layer("data", "Python", "", "data label", 'python_param { module: "absent_data" layer: "Absent" }')
    param = (text, conv("a", "data"), layer("l", "SoftmaxWithLoss", "a label"))
    net = make_net(*param, phase=TRAIN, input_shapes={"data": (1, 3, 5, 6), "label": (1, 1, 5, 6)})
    assert net.graph.inputs == ("data", "label") and net.blob_shapes["a"] == (1, 2, 5, 6)
    with pytest.raises(GraphError, match="input_shapes names label"):
        make_net(DATA, conv("a", "data"), input_shapes={"label": (1,)})


def test_phase_sets_the_mode_and_the_mode_rules_dropout() -> None:
    text = (DATA, layer("d", "Dropout", "data"))
    x = torch.ones(1, 3, 8, 8)
    train, test = make_net(*text, phase=TRAIN), make_net(*text, phase=TEST)
    assert train.training and not test.training
    assert torch.equal(test(data=x)["d"], x)
    values = set(train(data=x)["d"].unique().tolist())
    assert values == {0.0, 2.0}
    assert torch.equal(train.eval()(data=x)["d"], x)


def test_a_layers_own_phase_outlasts_the_nets() -> None:
    x = torch.ones(1, 3, 8, 8)
    for own, phase, dropped in (("TRAIN", TEST, True), ("TEST", TRAIN, False)):
        text = layer("d", "Dropout", "data", more=f"phase: {own}"), layer("plain", "Dropout", "data")
        net = make_net(DATA, *text, phase=phase)
        for mode in (False, True):
            blobs = net.train(mode)(data=x)
            assert bool((blobs["d"] == 0).any()) is dropped
            assert bool((blobs["plain"] == 0).any()) is mode


def test_batch_norm_of_one_value_a_channel_is_zero_as_in_caffe() -> None:
    net = make_net(input_layer("data", 1, 3), layer("b", "BatchNorm", "data"), phase=TRAIN)
    x = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    top = net(data=x)["b"]
    assert not top.any() and not torch.autograd.grad(top.sum(), x)[0].any()
    mean, variance, factor = net.params["b"]
    assert torch.equal(mean, x[0]) and not variance.any() and factor == 1


def test_share_with_makes_one_set_of_weights() -> None:
    train = make_net(DATA, conv("a", "data"), phase=TRAIN)
    test = make_net(DATA, conv("a", "data"), conv("b", "a"))
    test.share_with(train)
    assert test.params["a"][0] is train.params["a"][0]
    assert test.learnable_params[0].blob is train.params["a"][0]
    other = make_net(DATA, layer("a", "Convolution", "data", more="convolution_param { num_output: 3 kernel_size: 3 }"))
    with pytest.raises(
        LayerError, match=r"layer 'a' \(Convolution\): cannot share blobs: this net wants 3x3x3x3, 3, net"
    ):
        other.share_with(train)


def test_it_is_an_ordinary_module() -> None:
    net = make_net(DATA, conv("conv.1/x", "data"), layer("keys", "ReLU", "conv.1/x"), conv("type", "keys"))
    randomise(net)
    other = make_net(DATA, conv("conv.1/x", "data"), layer("keys", "ReLU", "conv.1/x"), conv("type", "keys"))
    other.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(net(data=x)["type"], other(data=x)["type"])
    double = copy.deepcopy(net).double()
    assert double(data=x.double())["type"].dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(data=x)["type"].dtype == torch.bfloat16
    assert net.layer("type").name == "type" and "conv.1/x" in repr(net)
    with pytest.raises(GraphError, match="has no layer 'nope'"):
        net.layer("nope")


def test_meta_device_allocates_nothing() -> None:
    net = make_net(DATA, conv("a", "data"), device="meta")
    assert all(parameter.is_meta for parameter in net.parameters())
    assert net.blob_shapes == {"data": (1, 3, 8, 8), "a": (1, 2, 8, 8)}


def test_layers_in_float64_pass_gradcheck() -> None:
    text = (
        input_layer("data", 2, 4, 7, 6),
        input_layer("label", 2, 1, 4, 4),
        conv("c", "data", options="dilation: 1 group: 2").replace("num_output: 2", "num_output: 4"),
        layer("s", "Scale", "c", more="scale_param { bias_term: true }"),
        layer("n", "LRN", "s", more="lrn_param { local_size: 3 alpha: 0.5 }"),
        layer("b", "BatchNorm", "n"),
        layer("g", "Sigmoid", "b"),
        layer("p", "Pooling", "g", more="pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"),
        layer("d", "Deconvolution", "p", more="convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 }"),
        layer("crop", "Crop", "d p"),
        layer("e", "Eltwise", "crop p p", more="eltwise_param { coeff: 2 coeff: -1 coeff: 1 }"),
        layer("slice", "Slice", "e", "e1 e2"),
        layer("prod", "Eltwise", "e1 e2", more="eltwise_param { operation: PROD }"),
        layer("max", "Eltwise", "e1 e2", more="eltwise_param { operation: MAX }"),
        layer("cat", "Concat", "prod max"),
        layer("softmax", "Softmax", "cat"),
        layer("r", "Reshape", "cat", more="reshape_param { shape { dim: 0 dim: -1 } }"),
        layer("ip", "InnerProduct", "r", more="inner_product_param { num_output: 3 }"),
        layer("l", "SoftmaxWithLoss", "cat label", more="loss_param { ignore_label: 1 }"),
    )
    net = make_net(*text, phase=TRAIN)
    randomise(net)
    net.double()
    data = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    label = torch.randint(0, 4, net.blob_shapes["label"]).double()
    params = [item.blob for item in net.learnable_params if item.lr_mult]

    def run(data: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        tops = net(data=data, label=label)
        return tops["l"], tops["softmax"], tops["ip"]

    assert torch.autograd.gradcheck(run, (data, *params), fast_mode=True)
    assert isinstance(net, Net)


def test_a_net_beyond_the_memory_is_refused_before_it_is_taken() -> None:
    text = input_layer("data", 1, 1, 8, 8) + conv("c", "data").replace("num_output: 2", "num_output: 2147483647")
    assert make_net(text, device="meta").blob_shapes["c"][1] == 2**31 - 1
    with pytest.raises(LayerError) as caught:
        make_net(text)
    message = r"layer 'c' \(Convolution\): blob 0 \(weight\) of 2147483647x1x3x3 takes 72 GiB, 72 GiB with the blobs before it, "
    assert re.match(
        message + r"cpu has [\d.]+ .iB free\. Check the layer's sizes, or use a device with more memory\.",
        str(caught.value),
    )


def test_memory_that_a_forward_does_not_get_names_the_layer() -> None:
    filler = f"dummy_data_param {{ shape {{ dim: {2**50} }} data_filler {{ type: 'gaussian' }} }}"
    net = make_net(layer("d", "DummyData", more=filler))
    with pytest.raises(LayerError, match=r"layer 'd' \(DummyData\): failed on no bottoms: .*memory.*Make the layer's"):
        net()


NUMBERS = np.arange(192, dtype=np.float32).reshape(1, 3, 8, 8)


@pytest.mark.parametrize("kind", [">f4", "read-only"])
def test_arrays_that_pytorch_does_not_take_as_they_are(kind: str) -> None:
    net = make_net(DATA, conv("a", "data", options='weight_filler { type: "xavier" }'))
    given = NUMBERS.copy() if kind == "read-only" else NUMBERS.astype(kind)
    given.flags.writeable = kind != "read-only"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(net(data=given)["a"], net(data=NUMBERS)["a"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (NUMBERS.astype(str), r"blob 'data' was given as an array of <U\d+, which PyTorch does not have"),
        (torch.zeros(1, 3, 8, 8, device="meta"), "blob 'data' was given on the meta device"),
        (NUMBERS.astype(int), r"should be the same\. Give inputs of the net's own type: x\.float\(\)"),
        (torch.zeros(3, 8, 8), "layer 'a' .*: bottom 3x8x8 has 3 axes, the layer was built for 4"),
    ],
)
def test_inputs_that_do_not_fit(given: Any, message: str) -> None:
    with pytest.raises(FcnCaffeError, match=message):
        make_net(DATA, conv("a", "data"))(data=given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "device 'cuda:99'"),
        ({"device": "gpu0"}, "device 'gpu0' is unknown"),
        ({"phase": "TRAIN"}, r"a net's phase is TRAIN \(0\) or TEST \(1\), not 'TRAIN'"),
        ({"level": 1 << 40}, "level 1099511627776 a whole number"),
        ({"stages": [3]}, r"stages \[3\] should be names"),
    ],
)
def test_arguments_that_make_no_net(options: Any, message: str) -> None:
    with pytest.raises(FcnCaffeError, match=message):
        make_net(DATA, **options)


def test_vmap_over_what_looks_at_numbers_is_told() -> None:
    module = make_net(DATA, layer("p", "Pooling", "data", more="pooling_param { kernel_size: 2 }")).as_module("p")
    with pytest.raises(LayerError, match=r"vmap.* Leave out vmap: a net takes all items of a batch at once\.$"):
        torch.vmap(module)(torch.zeros(2, 1, 3, 8, 8))


def test_a_net_is_made_from_nothing_but_a_net() -> None:
    with pytest.raises(GraphError, match="a net file or a NetParameter, not from SolverParameter"):
        Net(caffe_pb2.SolverParameter())  # type: ignore[arg-type]


def test_one_stage_may_be_a_name() -> None:
    staged = conv("a", "data", more='include { stage: "deploy" }')
    assert "a" in make_net(DATA, staged, stages="deploy").blob_shapes
    assert "a" not in make_net(DATA, staged, stages="deplo").blob_shapes


def test_a_layer_is_not_replaced_behind_the_nets_back() -> None:
    net = make_net(DATA, conv("a", "data"))
    with pytest.raises(GraphError, match="layer 'a' of a net cannot be replaced"):
        net.layers["a"] = torch.nn.Identity()
    with pytest.raises(GraphError, match="layer 'a' of a net cannot be replaced"):
        del net.layers["a"]


def test_blobs_that_pytorch_puts_in_are_the_nets() -> None:
    """A net on the meta device runs on the CPU once it has weights there."""
    full = make_net(DATA, conv("a", "data", options='weight_filler { type: "xavier" }'))
    net = make_net(DATA, conv("a", "data"), device="meta")
    net.load_state_dict(full.state_dict(), assign=True)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(net(data=x)["a"], full(data=x)["a"])
    assert [item.blob.device.type for item in net.learnable_params] == ["cpu", "cpu"]


def test_one_blob_to_keep_may_be_a_name() -> None:
    net = make_net(DATA, conv("a", "data"), layer("n", "Reduction", "a", more="loss_weight: 1"))
    assert "a" in net.forward_loss({"data": torch.zeros(1, 3, 8, 8)}, keep="a")[1]
