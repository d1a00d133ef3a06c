"""Rules of forks' layers by arithmetic, where no golden case shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import input_layer, layer, make_net, randomise
from torch import Tensor

from fcn_caffe import TEST, TRAIN, DataError, LayerError, Net, WeightsError
from fcn_caffe.weights.transfer import copy_weights


def one(shape: tuple[int, ...], type: str, more: str, phase: int = TEST, **options: object) -> Net:
    """A net of one layer `l` over `x`."""
    return make_net(input_layer("x", *shape), layer("l", type, "x", more=more), phase=phase, **options)


def gradient(net: Net, follows: bool = False, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The top `l`, and the gradient of its sum weighed by 0, 1, 2 … to `x`."""
    net.layer("l").follows_caffe = follows
    x = inputs["x"].clone().requires_grad_()
    top = net({**inputs, "x": x})["l"]
    (found,) = torch.autograd.grad((top * torch.arange(top.numel()).reshape(top.shape)).sum(), [x])
    return top.detach(), found


# -- Interp, Padding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "sizes"),
    [
        ("shrink_factor: 2", (3, 4)),
        ("zoom_factor: 3", (13, 19)),
        ("zoom_factor: 1", (5, 7)),
        ("zoom_factor: 2 height: 3 width: 3", (9, 13)),
        ("shrink_factor: 2 height: 3 width: 3", (3, 4)),
        ("shrink_factor: 2 zoom_factor: 2 height: 6 width: 8", (6, 8)),
        ("shrink_factor: 2 zoom_factor: 3", (7, 10)),
        ("zoom_factor: 2 pad_beg: -1 pad_end: -1", (5, 9)),
        ("shrink_factor: 2 pad_end: -1", (2, 3)),
    ],
)
def test_sizes_of_interp(more: str, sizes: tuple[int, int]) -> None:
    net = one((1, 2, 5, 7), "Interp", f"interp_param {{ {more} }}")
    assert net.blob_shapes["l"] == (1, 2, *sizes)
    x = torch.randn(1, 2, 5, 7)
    cut = x[:, :, 1:, 1:] if "pad_beg" in more else x
    cut = cut[:, :, :-1, :-1] if "pad_end" in more else cut
    top = net(x=x)["l"]
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            spots = [
                place * (have - 1) / (want - 1) if want > 1 else 0.0
                for place, have, want in zip((i, j), cut.shape[2:], sizes, strict=True)
            ]
            (a, b), (u, v) = [int(spot) for spot in spots], [spot - int(spot) for spot in spots]
            below, right = min(a + 1, cut.shape[2] - 1), min(b + 1, cut.shape[3] - 1)
            wanted = (1 - u) * ((1 - v) * cut[..., a, b] + v * cut[..., a, right])
            wanted = wanted + u * ((1 - v) * cut[..., below, b] + v * cut[..., below, right])
            torch.testing.assert_close(top[..., i, j], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("type", "more", "message"),
    [
        ("Interp", "", "gives no size"),
        ("Interp", "interp_param { height: 3 }", "gives no size"),
        ("Interp", "interp_param { zoom_factor: 2 pad_beg: 1 }", "only crop"),
        ("Interp", "interp_param { zoom_factor: 0 }", "factors are at least 1"),
        ("Interp", "interp_param { zoom_factor: 2 pad_beg: -9 }", "leave nothing"),
        ("Interp", "interp_param { height: 0 width: 3 }", "sizes must be positive"),
        ("Padding", "padding_param { pad_beg: -1 pad_end: 1 }", "must both pad or both crop"),
        ("Padding", "padding_param { pad_beg: -5 }", "cannot have pads"),
        ("ShuffleChannel", "shuffle_channel_param { group: 3 }", "must divide the channels"),
        ("Upsample", "", "needs upsample_param { scale: … }"),
        ("Unpooling", "unpooling_param { kernel_size: 2 }", "unpool_size must be given"),
        ("Unpooling", "unpooling_param { unpool_size: 4 }", "kernel_size must be given"),
        ("Unpooling", "unpooling_param { kernel_size: 2 pad: 1 unpool_size: 4 }", "takes no pad"),
        ("Unpooling", "unpooling_param { kernel_size: 2 unpool_h: 4 }", "give unpool_size, or unpool_h and unpool_w"),
        ("Dropout", "dropout_param { scale_train: false dropout_ratio: 1 }", "above 0 and below 1"),
    ],
)
def test_options_that_do_not_fit(type: str, more: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        one((1, 4, 5, 4), type, more)


@pytest.mark.parametrize(
    ("type", "shape"),
    [
        *(("Interp", (4, 4)), ("BN", (4, 4)), ("ConvolutionDepthwise", (4, 4)), ("ShuffleChannel", (4,))),
        *(("Unpooling", (1, 2, 2, 2, 3)), ("Upsample", (4, 4))),
    ],
)
def test_bottoms_of_other_axes(type: str, shape: tuple[int, ...]) -> None:
    more = "interp_param { zoom_factor: 2 } bn_param { eps: 1 } shuffle_channel_param { group: 2 }"
    more += " upsample_param { scale: 2 } unpooling_param { kernel_size: 2 unpool_size: 4 }"
    with pytest.raises(LayerError, match=r"needs (a )?4-D bottom|must divide"):
        one(shape, type, f"{more} convolution_param {{ kernel_size: 1 }}")


@pytest.mark.parametrize("type", ["InfogainLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss"])
def test_a_normalization_of_another_loss(type: str) -> None:
    inputs = input_layer("x", 4, 3) + input_layer("y", 4, 3) + input_layer("h", 1, 1, 3, 3)
    bottoms = "x y h" if type == "InfogainLoss" else "x y"
    with pytest.raises(LayerError, match=r"takes no normalization PRE_FIXED, which is SmoothL1Loss's\. Write FULL"):
        make_net(inputs, layer("l", type, bottoms, more="loss_param { normalization: PRE_FIXED }"))


@pytest.mark.parametrize("fork", ["bvlc", "nvidia"])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_batch_norm_of_one_axis_or_none(shape: tuple[int, ...], fork: str) -> None:
    """Caffe takes such a bottom for one channel."""
    net = make_net(
        input_layer("x", *shape), layer("l", "BatchNorm", "x", more="batch_norm_param { }"), phase=TRAIN, fork=fork
    )
    x = torch.rand(shape)
    torch.testing.assert_close(net(x=x)["l"], (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt())


def test_padding() -> None:
    x = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(
        one((1, 2, 3, 4), "Padding", "padding_param { pad_beg: 1 pad_end: 2 }")(x=x)["l"], F.pad(x, (1, 2, 1, 2))
    )
    assert one((1, 2, 3, 4), "Padding", "padding_param { pad_end: -2 }")(x=x)["l"].equal(x[:, :, :1, :2])


# -- BN and BatchNorm --------------------------------------------------------------------------------------------------


def test_segnet_bn_by_batch_in_both_phases_and_inference() -> None:
    x = torch.randn(2, 3, 4, 5) * 3 + 1
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    for phase in (TRAIN, TEST):
        net = one(tuple(x.shape), "BN", 'top: "m" top: "v" bn_param { bn_mode: LEARN }', phase)
        randomise(net)
        scale, shift = net.params["l"]
        out = net({"x": x}, keep=["m", "v"])
        wanted = scale * (x - mean) / (variance + 1e-9).sqrt() + shift
        torch.testing.assert_close(out["l"], wanted)
        torch.testing.assert_close(out["m"], mean)
        torch.testing.assert_close(out["v"], variance)
    assert [blob.lr_mult for blob in net.learnable_params] == [1, 1]
    plain = one(tuple(x.shape), "BN", "bn_param { bn_mode: INFERENCE }")
    randomise(plain)
    torch.testing.assert_close(plain(x=x)["l"], plain.params["l"][0] * x + plain.params["l"][1])
    single = one((1, 3, 1, 1), "BN", "bn_param { bn_mode: LEARN }")
    randomise(single)
    top, found = gradient(single, x=torch.ones(1, 3, 1, 1))
    assert top.equal(single.params["l"][1].detach()) and not found.any()


def test_segnet_bn_in_place_reads_what_it_has_overwritten() -> None:
    text = (
        input_layer("x", 1, 2, 2, 2),
        layer("p", "Power", "x"),
        layer("l", "BN", "p", "p", "bn_param { bn_mode: INFERENCE }"),
    )
    x = torch.randn(1, 2, 2, 2)
    for follows in (False, True):
        net = make_net(*text)
        randomise(net)
        net.layer("l").follows_caffe = follows
        scale, shift = net.params["l"]
        y = scale * x + shift
        found = torch.autograd.grad(net(x=x)["p"].sum(), [scale, shift])
        torch.testing.assert_close(found[0], (y if follows else x).sum((0, 2, 3), keepdim=True).detach())
        torch.testing.assert_close(found[1], torch.full((1, 2, 1, 1), 4.0))


def test_pspnet_bn() -> None:
    x = torch.randn(2, 3, 4, 5) * 3 + 1
    frozen = one(tuple(x.shape), "BN", "bn_param { frozen: true eps: 0.5 slope_filler { value: 2 } }", TRAIN)
    assert [blob.reshape(-1)[0].item() for blob in frozen.params["l"]] == [2, 0, 0, 1]
    assert not any(item.lr_mult for item in frozen.learnable_params)
    top, found = gradient(frozen, x=x)
    torch.testing.assert_close(top, 2 * x / 1.5**0.5)
    torch.testing.assert_close(found, 2 / 1.5**0.5 * torch.arange(x.numel()).reshape(x.shape))
    cudnn = one(tuple(x.shape), "BN", "bn_param { engine: CUDNN eps: 1e-9 momentum: 0.75 }", TRAIN)
    cudnn(x=x)
    torch.testing.assert_close(cudnn.params["l"][2], 0.25 * x.mean((0, 2, 3), keepdim=True))
    torch.testing.assert_close(cudnn.params["l"][3], 0.25 * x.var((0, 2, 3), keepdim=True))
    assert [item.lr_mult for item in cudnn.learnable_params] == [1, 1, 0, 0]


def test_pspnet_bn_of_its_first_nets() -> None:
    x = torch.randn(2, 3, 4, 5)
    net = one(tuple(x.shape), "BN", "bn_param { scale_filler { value: 2 } moving_average: true decay: 0.25 }", TRAIN)
    assert net.params["l"][0].flatten().tolist() == [2, 2, 2]
    net(x=x)
    torch.testing.assert_close(net.params["l"][2], 0.25 * x.mean((0, 2, 3), keepdim=True))
    with pytest.raises(LayerError, match="moving_average: false is of a BN without running statistics"):
        one(tuple(x.shape), "BN", "bn_param { moving_average: false }")


def test_pspnet_bn_takes_tsns_blobs_of_fewer_axes() -> None:
    net = one((2, 3, 4, 5), "BN", "bn_param { frozen: true }")
    for shape in ((1, 3), (3,)):
        numbers = np.random.rand(4, 3).astype(np.float32)
        copy_weights(net, {"l": [row.reshape(shape) for row in numbers]})
        assert [blob.flatten().tolist() for blob in net.params["l"]] == numbers.tolist()
    with pytest.raises(WeightsError, match="the net wants 1x3x1x1"):
        copy_weights(net, {"l": [np.zeros((3, 1), np.float32)] * 4})


def test_pspnet_bn_in_test_has_the_batch_gradient_where_caffe_is_followed() -> None:
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    net = one(tuple(x.shape), "BN", "bn_param { eps: 0.1 }").double()
    for index, blob in enumerate(net.params["l"]):
        blob.data.copy_(torch.rand(1, 3, 1, 1) + index)
    slope, _, mean, variance = (blob.detach() for blob in net.params["l"])
    upper = torch.arange(x.numel()).reshape(x.shape)
    deviation = (variance + 0.1).sqrt()
    torch.testing.assert_close(gradient(net, x=x)[1], slope / deviation * upper)
    normal, scaled = (x - mean) / deviation, slope * upper
    wanted = scaled - scaled.mean((0, 2, 3), keepdim=True)
    wanted = (wanted - normal * (scaled * normal).mean((0, 2, 3), keepdim=True)) / deviation
    torch.testing.assert_close(gradient(net, follows=True, x=x)[1], wanted)


def test_nvidias_batch_norm_copies_twice_then_averages() -> None:
    net = one((4, 2, 3, 3), "BatchNorm", "batch_norm_param { scale_bias: true moving_average_fraction: 0.75 }", TRAIN)
    assert [blob.reshape(-1)[0].item() for blob in net.params["l"]] == [0, 0, 1, 1, 0]
    assert [item.lr_mult for item in net.learnable_params] == [0, 0, 0, 1, 1]
    passes = [torch.randn(4, 2, 3, 3) * (index + 1) for index in range(3)]
    means = [x.mean((0, 2, 3)) for x in passes]
    variances = [x.var((0, 2, 3), correction=0) + 1e-5 for x in passes]
    for x in passes[:2]:
        net(x=x)
    torch.testing.assert_close(net.params["l"][0], means[1])
    net(x=passes[2])
    torch.testing.assert_close(net.params["l"][0], 0.75 * means[1] + 0.25 * means[2])
    torch.testing.assert_close(net.params["l"][1], 0.75 * variances[1] + 0.25 * variances[2])
    assert net.params["l"][2].item() == 1
    three = one((4, 2, 3, 3), "BatchNorm", "", fork="nvidia")
    three.params["l"][1].data.fill_(4)
    torch.testing.assert_close(three(x=passes[0])["l"], passes[0] / (4 + 1e-5) ** 0.5)
    assert three.layer("l").blob_names == ["mean", "variance", "scale_factor"]


def test_intels_batch_norm() -> None:
    x = torch.randn(2, 3, 2, 2)
    for more, count in (("relu: true", 5), ("bias_term: false", 4), ("use_weight_bias: false", 3)):
        net = one(tuple(x.shape), "BatchNorm", f"batch_norm_param {{ engine: MKL2017 {more} }}")
        blobs = net.params["l"]
        assert len(blobs) == count
        for index, blob in enumerate(blobs):
            blob.data.fill_(index + 1.0)  # mean 1 / 3, variance 2 / 3
        wanted = (x - 1 / 3) / (2 / 3 + 1e-5) ** 0.5
        wanted = wanted * 4 if count > 3 else wanted
        torch.testing.assert_close(net(x=x)["l"], (wanted + 5).relu() if count > 4 else wanted)
    assert len(one(tuple(x.shape), "BatchNorm", "batch_norm_param { engine: CAFFE }").params["l"]) == 3


# -- the way back from pooling -----------------------------------------------------------------------------------------

MASKED = (input_layer("x", 1, 1, 2, 2), input_layer("m", 1, 1, 2, 2))


def test_upsample_puts_the_last_of_several_values() -> None:
    net = make_net(*MASKED, layer("l", "Upsample", "x m", "l", "upsample_param { upsample_h: 3 upsample_w: 2 }"))
    x, mask = torch.tensor([[[[1.0, 2], [3, 4]]]]), torch.tensor([[[[5.0, 0], [0, 3]]]])
    top, found = gradient(net, x=x, m=mask)
    assert top.flatten().tolist() == [3, 0, 0, 4, 0, 1]
    assert found.flatten().tolist() == [5, 0, 0, 3]
    torch.manual_seed(1)
    many = make_net(
        input_layer("y", 3, 4, 41, 43),
        layer("p", "Pooling", "y", "p m", "pooling_param { kernel_size: 3 stride: 2 }"),
        layer("l", "Upsample", "p m", "l", "upsample_param { upsample_h: 41 upsample_w: 43 }"),
    )(y=torch.randn(3, 4, 41, 43))
    assert many["l"].max() > 0 and not many["l"].isnan().any()


@pytest.mark.parametrize("place", [-1.0, 16.0])
def test_a_place_outside_of_the_top(place: float) -> None:
    net = make_net(*MASKED, layer("l", "Upsample", "x m", "l", "upsample_param { scale: 2 }"))
    with pytest.raises(LayerError, match=f"index {place:.0f} is outside the 4x4 places of a plane, 0 to 15"):
        net(x=torch.ones(1, 1, 2, 2), m=torch.full((1, 1, 2, 2), place))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("scale: 1", "the scale must be above 1"),
        ("scale_h: 2", "give scale_h and scale_w, or scale"),
        ("scale: 3 pad_out_h: true", "are for a scale of 2"),
        ("upsample_h: 1 upsample_w: 4", "must be above 1"),
    ],
)
def test_upsample_refuses(more: str, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        make_net(*MASKED, layer("l", "Upsample", "x m", "l", f"upsample_param {{ {more} }}"))
    with pytest.raises(LayerError, match="both must be N x C x H x W, alike"):
        make_net(MASKED[0], input_layer("m", 1, 1, 2, 3), layer("l", "Upsample", "x m", "l"))


def test_upsample_of_one_bottom_repeats() -> None:
    x = torch.randn(1, 2, 2, 3)
    top, found = gradient(one((1, 2, 2, 3), "Upsample", "upsample_param { scale: 3 }"), x=x)
    assert top.equal(x.repeat_interleave(3, 2).repeat_interleave(3, 3))
    upper = torch.arange(float(top.numel())).reshape(top.shape)
    torch.testing.assert_close(found, F.avg_pool2d(upper, 3) * 9)


def test_unpooling_without_a_mask_and_over_windows() -> None:
    x = torch.tensor([[[[1.0, 2], [3, 4]]]])
    more = "kernel_size: 3 stride: 2 unpool_h: 4 unpool_w: 2"
    top, found = gradient(one((1, 1, 2, 2), "Unpooling", f"unpooling_param {{ unpool: MAX {more} }}"), x=x)
    assert top.flatten().tolist() == [1, 2, 0, 0, 3, 4, 0, 0]  # the second column is held within the top
    assert found.flatten().tolist() == [0, 1, 4, 5]
    upper = torch.arange(16.0).reshape(4, 4)
    more = "kernel_size: 3 stride: 2 unpool_size: 4"
    tile = one((1, 1, 2, 2), "Unpooling", f"unpooling_param {{ unpool: TILE {more} }}")
    top, found = gradient(tile, x=x)
    assert top[0, 0].tolist() == [[1, 1, 3, 2], [1, 1, 3, 2], [4, 4, 10, 6], [3, 3, 7, 4]]
    sums = torch.tensor([[upper[:3, :3].sum(), upper[:3, 2:].sum()], [upper[2:, :3].sum(), upper[2:, 2:].sum()]])
    areas = torch.tensor([[9.0, 6], [6, 4]])
    assert found[0, 0].equal(sums)
    torch.testing.assert_close(gradient(tile, follows=True, x=x)[1][0, 0], sums / areas)
    average = one((1, 1, 2, 2), "Unpooling", f"unpooling_param {{ unpool: AVE {more} }}")
    top, found = gradient(average, x=x)
    torch.testing.assert_close(found[0, 0], sums / areas)
    torch.testing.assert_close(top[0, 0, 2, 2], (x[0, 0] / areas).sum())
    assert average(x=x)["l"].equal(top)  # a second forward adds nothing


# -- losses ------------------------------------------------------------------------------------------------------------

SCORED = (input_layer("x", 2, 3, 2, 2), input_layer("y", 2, 1, 2, 2))
LABELS = torch.tensor([0.0, 1, 2, 9, 2, 2, 9, 1]).reshape(2, 1, 2, 2)
WEIGHTS = torch.tensor([0.5, 2, 3])


def loss(more: str, labels: Tensor, path: Path | None = None, **options: object) -> tuple[float, float]:
    """The loss of random scores, and the same over the sum of weighed losses by torch."""
    net = make_net(*SCORED, layer("l", "SoftmaxWithLoss", "x y", "l", more), path=path, **options)
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    total = F.cross_entropy(x, labels[:, 0].long(), WEIGHTS, ignore_index=9, reduction="sum")
    return float(net(x=x, y=labels)["l"]), float(total)


def test_segnet_weights_divide_by_pixels() -> None:
    weights = "weight_by_label_freqs: true class_weighting: [0.5, 2, 3] ignore_label: 9"
    for more, divisor in (("", 6), ("normalize: true", 6), ("normalize: false", 2), ("normalization: FULL", 8)):
        ours, total = loss(f"loss_param {{ {weights} {more} }}", LABELS)
        assert ours == pytest.approx(total / divisor, rel=1e-5)
    assert np.isnan(loss(f"loss_param {{ {weights} }}", torch.full_like(LABELS, 9))[0])
    assert loss(f"loss_param {{ {weights} normalization: VALID }}", torch.full_like(LABELS, 9))[0] == 0
    with pytest.raises(LayerError, match="class_weighting is given 1 times for 3 classes"):
        loss("loss_param { weight_by_label_freqs: true class_weighting: 1 }", LABELS)
    with pytest.raises(LayerError, match="label 9 is outside the 3 classes"):
        loss("loss_param { weight_by_label_freqs: false }", LABELS)


def test_deeplab_weights_divide_by_weights(tmp_path: Path) -> None:
    more = 'softmaxloss_param { weight_source: "w.txt" ignore_label: 9 ignore_label: 1 }'
    path = tmp_path / "net.prototxt"
    (tmp_path / "w.txt").write_text("0.5\n2\n3\n")
    ours, _ = loss(more, LABELS, path)
    _, total = loss(more, torch.where(LABELS == 1, 9, LABELS), path)
    assert ours == pytest.approx(total / (0.5 + 3 + 3 + 3), rel=1e-5)
    (tmp_path / "w.txt").write_text("0.5 -2 3")
    with pytest.raises(LayerError, match="give one a class, 0 or above"):
        loss(more, LABELS, path)
    (tmp_path / "w.txt").write_text("half")
    with pytest.raises(DataError, match="is no list of class weights"):
        loss(more, LABELS, path)


def test_balanced_losses_at_other_targets() -> None:
    x, y = torch.randn(2, 1, 2, 3), torch.tensor([1.0, 0, 0, 0.5, 0, 1, 1, 1, 0.5, 0.5, 0, 1]).reshape(2, 1, 2, 3)
    text = (input_layer("x", 2, 1, 2, 3), input_layer("y", 2, 1, 2, 3))
    for fork, negatives, others in (("hed", 1, True), ("rcf", 1.1, False)):
        net = make_net(*text, layer("l", "SigmoidCrossEntropyLoss", "x y", "l", f'fork: "{fork}"'))
        ones, zeros = (y == 1).sum((1, 2, 3), keepdim=True), (y == 0).sum((1, 2, 3), keepdim=True)
        weights = ((y == 1) * zeros + negatives * (y == 0) * ones) / (ones + zeros)
        each = F.binary_cross_entropy_with_logits(x, y, reduction="none")
        for follows in (False, True):
            net.layer("l").follows_caffe = follows
            leaf = x.clone().requires_grad_()
            top = net(x=leaf, y=y)["l"]
            assert float(top.detach()) == pytest.approx(float((weights * each).sum() / 2), rel=1e-5)
            slope = torch.where((y == 0.5) & torch.tensor(follows and others), 1, weights) * (x.sigmoid() - y) / 2
            torch.testing.assert_close(torch.autograd.grad(top, [leaf])[0], slope)
    assert np.isnan(float(net(x=x, y=torch.full_like(y, 0.5))["l"]))
    with pytest.raises(LayerError, match="give one target per score"):
        make_net(text[0], input_layer("y", 2, 5), layer("l", "SigmoidCrossEntropyBalanceLoss", "x y", "l"))


def test_deepskeleton() -> None:
    x, y = torch.randn(2, 1, 2, 3), torch.randint(0, 3, (2, 1, 2, 3)).float()
    text = (input_layer("x", 2, 1, 2, 3), input_layer("y", 2, 1, 2, 3))
    values = [
        float(make_net(*text, layer("l", "SigmoidCrossEntropyLoss", "x y", "l"), fork=fork)(x=x, y=target)["l"])
        for fork, target in (("deepskeleton", y), ("hed", (y > 0).float()))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    scores = torch.randn(2, 3, 2, 2)
    labels = torch.tensor([0.0, 1, 2, 9, 7, 2, 0, 1]).reshape(2, 1, 2, 2)  # 7 is beyond the classes: 0
    more = "loss_param { ignore_label: 9 normalize: false }"
    net = make_net(*SCORED, layer("l", "SoftmaxWithLoss", "x y", "l", more), fork="deepskeleton", phase=TRAIN)
    clean = torch.where(labels == 7, 0, labels)[:, 0].long()
    each = F.cross_entropy(scores, clean, ignore_index=9, reduction="none")
    share = ((clean == 1) | (clean == 2), clean == 0)
    ones, zeros = int(share[0].sum()), int(share[1].sum())
    wanted = (zeros * each[share[0]].sum() + ones * each[share[1]].sum()) / (ones + zeros) / 2
    assert float(net(x=scores, y=labels)["l"]) == pytest.approx(float(wanted), rel=1e-5)
    # Where Caffe is followed the gradient's counts run over the pictures so far: 2 and 1, then 4 and 3.
    net.layer("l").follows_caffe = True
    leaf = scores.clone().requires_grad_()
    (found,) = torch.autograd.grad(net(x=leaf, y=labels)["l"], [leaf])
    factors = torch.tensor([[1 / 3, 2 / 3], [3 / 7, 4 / 7]])
    factor = torch.where(share[0], factors[:, :1, None], torch.where(share[1], factors[:, 1:, None], 0))
    onehot = F.one_hot(torch.where(clean == 9, 0, clean), 3).movedim(-1, 1)
    torch.testing.assert_close(found, (scores.softmax(1) - onehot) * factor[:, None] / 2)
    normal = make_net(*SCORED, layer("l", "SoftmaxWithLoss", "x y", "l"), fork="deepskeleton", phase=TRAIN)
    with pytest.raises(LayerError, match="Write normalize: false"):
        normal(x=leaf, y=labels)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_segnets_accuracy() -> None:
    text = (*SCORED, layer("a", "Accuracy", "x y", "a c"))
    x = torch.zeros(2, 3, 2, 2)
    x[0, 1] = 1  # class 1 in the first picture; all equal in the second: class 2
    labels = torch.tensor([1.0, 1, 0, 9, 2, 2, 9, 1]).reshape(2, 1, 2, 2)
    net = make_net(*text, fork="segnet")
    out = net(x=x, y=labels)
    assert float(out["a"]) == pytest.approx(4 / 8)  # both 9 are wrong
    assert out["c"].shape == (3, 1, 1, 1) and out["c"].flatten().tolist() == pytest.approx([0, 2 / 3, 1])
    ignoring = make_net(
        *SCORED, layer("a", "Accuracy", "x y", "a c", "accuracy_param { ignore_label: 9 }"), fork="enet"
    )
    labels[labels == 0] = 9
    assert ignoring(x=x, y=labels)["c"].flatten().tolist() == pytest.approx([1, 2 / 3, 1])  # no 0 is there: 1
    with pytest.raises(LayerError, match="label 9 is outside"):
        make_net(*text)(x=x, y=labels)


def test_seg_accuracy_accumulates() -> None:
    text = (input_layer("x", 1, 3, 1, 4), input_layer("y", 1, 1, 1, 4))
    x = F.one_hot(torch.tensor([0, 1, 1, 0]), 3).T.reshape(1, 3, 1, 4).float()
    y = torch.tensor([0.0, 1, 0, 255]).reshape(1, 1, 1, 4)
    more = "seg_accuracy_param { ignore_label: 255 reset: %s }"
    for reset in ("true", "false"):
        net = make_net(*text, layer("a", "SegAccuracy", "x y", "a", more % reset))
        first = net(x=x, y=y)["a"].flatten().tolist()
        assert first == pytest.approx([2 / 3, (1 / 2 + 1) / 2, (1 / 2 + 1 / 2 + 1) / 3])
        right = F.one_hot(torch.tensor([2, 2, 2, 2]), 3).T.reshape(1, 3, 1, 4).float()
        second = net(x=right, y=torch.full((1, 1, 1, 4), 2.0))["a"].flatten().tolist()
        assert second == pytest.approx([1, 1, 1] if reset == "true" else [6 / 7, (1 / 2 + 1 + 1) / 3, 2 / 3])
    ignored = make_net(*text, layer("a", "SegAccuracy", "x y", "a", more % "true"))
    assert ignored(x=x, y=torch.full((1, 1, 1, 4), 255.0))["a"].flatten().tolist() == [0, 0, 1]
    assert ignored(x=torch.zeros(1, 3, 1, 4), y=torch.full((1, 1, 1, 4), 2.0))["a"][0, 0, 0, 0] == 1  # ties: the larger
    with pytest.raises(LayerError, match="label 3 is outside the 3 classes"):
        ignored(x=x, y=torch.full((1, 1, 1, 4), 3.0))
    with pytest.raises(LayerError, match="give N x C x H x W and N x 1 x H x W"):
        make_net(text[0], input_layer("y", 1, 4), layer("a", "SegAccuracy", "x y", "a"))


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_dropouts_of_forks() -> None:
    x = torch.ones(1, 1, 100, 100)
    shape, ratio = tuple(x.shape), "dropout_ratio: 0.25"
    for phase in (TRAIN, TEST):
        net = one(shape, "Dropout", f"dropout_param {{ sample_weights_test: true {ratio} }}", phase)
        top, other = net(x=x)["l"], net(x=x)["l"]
        torch.testing.assert_close(top.unique(), torch.tensor([0, 4 / 3]))
        assert not top.equal(other)
        assert float(top.mean()) == pytest.approx(1, abs=0.05)
    plain = one(shape, "Dropout", f"dropout_param {{ sample_weights_test: false {ratio} }}")
    assert plain(x=x)["l"].equal(x)
    unscaled = one(shape, "Dropout", f"dropout_param {{ scale_train: false {ratio} }}", TRAIN)
    torch.testing.assert_close(unscaled(x=x)["l"].unique(), torch.tensor([0.0, 1]))
    top, found = gradient(one(shape, "Dropout", f"dropout_param {{ scale_train: false {ratio} }}"), x=x)
    torch.testing.assert_close(top, 0.75 * x)
    torch.testing.assert_close(found.flatten()[:3], torch.tensor([0, 0.75, 1.5]))
    scaled = one(shape, "Dropout", f"dropout_param {{ scale_train: true {ratio} }}")
    assert scaled(x=x)["l"].equal(x)


def test_relu6() -> None:
    x = torch.tensor([-2.0, 0, 3, 6, 8])
    top, found = gradient(one((5,), "ReLU6", ""), x=x)
    assert top.tolist() == [0, 0, 3, 6, 6] and found.tolist() == [0, 0, 2, 0, 0]
    top, found = gradient(one((5,), "ReLU6", "relu6_param { negative_slope: 0.5 }"), x=x)
    assert top.tolist() == [-1, 0, 3, 6, 6] and found[[2, 3, 4]].tolist() == [2, 0, 0]


def test_depthwise_types() -> None:
    x = torch.randn(2, 4, 5, 5)
    more = "convolution_param { num_output: 9 group: 3 kernel_size: 3 pad: 1 stride: 2 }"
    net = one(tuple(x.shape), "ConvolutionDepthwise", more)  # neither number is read
    randomise(net)
    weight, bias = net.params["l"]
    assert weight.shape == (4, 1, 3, 3)
    torch.testing.assert_close(net(x=x)["l"], F.conv2d(x, weight, bias, 2, 1, groups=4))
    full = one(tuple(x.shape), "DepthwiseConvolution", "convolution_param { num_output: 6 kernel_size: 3 }")
    assert full.params["l"][0].shape == (6, 4, 3, 3)


def test_axpy_and_shuffle() -> None:
    a, x, y = torch.randn(2, 6), torch.randn(2, 6, 3, 2), torch.randn(2, 6, 3, 2)
    text = (input_layer("a", 2, 6), input_layer("x", 2, 6, 3, 2), input_layer("y", 2, 6, 3, 2))
    net = make_net(*text, layer("l", "Axpy", "a x y", "l"))
    torch.testing.assert_close(net(a=a, x=x, y=y)["l"], a[:, :, None, None] * x + y)
    with pytest.raises(LayerError, match="give a as N x C"):
        make_net(*text, layer("l", "Axpy", "x a y", "l"))
    shuffled = one((2, 6, 3, 2), "ShuffleChannel", "shuffle_channel_param { group: 2 }")(x=x)["l"]
    assert shuffled.equal(x[:, [0, 3, 1, 4, 2, 5]])
