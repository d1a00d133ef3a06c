"""Surgery on nets: what is copied, reinterpreted, left behind, refused; and what the nets then compute."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net, randomise

from fcn_caffe import WeightsError
from fcn_caffe.weights.surgery import expand_score, interp, transplant, upsample_filter, upsampling_layers, widen
from fcn_caffe.weights.transfer import net_weights

FULL = "inner_product_param { num_output: 5 }"
CONV = "convolution_param {{ num_output: {} kernel_size: {} }}"


def classifier():
    net = make_net(
        input_layer("data", 1, 3, 4, 4),
        layer("fc", "InnerProduct", "data", more=FULL),
        layer("old", "InnerProduct", "fc", more=FULL),
    )
    randomise(net)
    return net


def convolutional(name="fc", outputs=5, kernel=4, bias=True, **options):
    text = CONV.format(outputs, kernel) if bias else CONV.format(outputs, kernel).replace("{", "{ bias_term: false", 1)
    return make_net(
        input_layer("data", 1, 3, 4, 4),
        layer(name, "Convolution", "data", more=text),
        layer("new", "Convolution", name, more=CONV.format(2, 1)),
        **options,
    )


@pytest.mark.parametrize("by_weights", [True, False])
@pytest.mark.parametrize("suffix", ["", "color"])
def test_transplant_makes_inner_products_convolutions(by_weights, suffix):
    source, net = classifier(), convolutional("fc" + suffix)
    report = transplant(net, net_weights(source) if by_weights else source, suffix)
    x = torch.randn(1, 3, 4, 4)
    wanted = source(data=x, keep=["fc"])["fc"]
    assert torch.allclose(net(data=x, keep=["fc" + suffix])["fc" + suffix].flatten(), wanted.flatten(), atol=1e-5)
    assert report.copied == ["fc" + suffix] and report.coerced == [f"fc{suffix} blob 0 5x48 to 5x3x4x4"]
    assert report.ignored == ["old"] and report.missing == ["new"]


def test_transplant_leaves_behind_what_the_layer_lacks():
    net = convolutional(bias=False)
    assert transplant(net, classifier()).coerced == ["fc blob 0 5x48 to 5x3x4x4", "fc blob 1 5 dropped"]


def test_transplant_takes_old_four_dimensional_blobs():
    net = convolutional()
    old = {"fc": [np.ones((1, 1, 5, 48), np.float32), np.full((1, 1, 1, 5), 2, np.float32)]}
    transplant(net, old)
    assert net.params["fc"][0].eq(1).all() and net.params["fc"][1].eq(2).all()


def test_transplant_refuses_other_counts_and_changes_nothing():
    net = convolutional(kernel=3)
    randomise(net)
    before = {name: [blob.clone() for blob in blobs] for name, blobs in net.params.items()}
    weights = {"new": [np.zeros((2, 5, 1, 1), np.float32), np.zeros(2, np.float32)], **net_weights(classifier())}
    with pytest.raises(
        WeightsError, match="layer 'fc' blob 0: the source has 5x48, the net wants 5x3x3x3: 240 numbers"
    ):
        transplant(net, weights)
    assert all(a.equal(b) for name in before for a, b in zip(before[name], net.params[name], strict=True))
    with pytest.raises(WeightsError, match=r"layer 'fc': the source has 1 blob\(s\), the net wants 2"):
        transplant(net, {"fc": [np.zeros((5, 27), np.float32)]})


def deconvolution(name="upscore", channels=3, more="", size=4, outputs=None):
    kernel = more or f"kernel_size: {size}"
    options = f"convolution_param {{ num_output: {outputs or channels} bias_term: false stride: 2 {kernel} }}"
    return make_net(
        input_layer("data", 1, channels, 6, 6),
        layer("refine", "Deconvolution", "data", more=CONV.format(2, 3)),
        layer(name, "Deconvolution", "data", more=options),
    )


@pytest.mark.parametrize("more", ["", "kernel_size: 4 group: 3"])
def test_interp_interpolates_each_channel(more):
    net = deconvolution(more=more)
    randomise(net)
    other = net.params["refine"][0].clone()
    assert interp(net) == ["upscore"]
    x = torch.randn(1, 3, 6, 6)
    wanted = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(net(data=x)["upscore"][:, :, 3:-3, 3:-3], wanted[:, :, 2:-2, 2:-2], atol=1e-6)
    assert net.params["refine"][0].equal(other)  # no `up` in its name


def test_interp_of_named_layers():
    net = deconvolution("refined")
    assert interp(net) == []
    assert interp(net, ["refined"]) == interp(net, "refined") == ["refined"]
    assert net.params["refined"][0][1, 1].detach().numpy() == pytest.approx(upsample_filter(4))
    with pytest.raises(
        WeightsError, match=r"layer 'missing' is not a Deconvolution of the net\. It has refine, refined"
    ):
        interp(net, ["missing"])


def test_kernels():
    assert upsample_filter(4)[0] == pytest.approx(np.array([0.25, 0.75, 0.75, 0.25]) * 0.25)
    assert upsample_filter(3)[1] == pytest.approx([0.5, 1, 0.5])
    assert upsample_filter(64).dtype == np.float32 and upsample_filter(64).sum() == pytest.approx(32 * 32)


def test_interp_refuses_what_it_cannot_fill():
    with pytest.raises(WeightsError, match="layer 'upscore': weight 3x2x4x4 maps 3 channels to 2"):
        interp(deconvolution(outputs=2))
    with pytest.raises(WeightsError, match="layer 'upscore': the kernel is 4x6; interpolation needs a square one"):
        interp(deconvolution(more="kernel_h: 4 kernel_w: 6"))


def test_expand_score_keeps_the_old_classes_first():
    small, large = convolutional(), convolutional(outputs=7)
    randomise(small)
    randomise(large, 1)
    last = [blob[5:].clone() for blob in large.params["fc"]]
    expand_score(large, "fc", small, "fc")
    for new, old, kept in zip(large.params["fc"], small.params["fc"], last, strict=True):
        assert new[:5].equal(old) and new[5:].equal(kept)
    with pytest.raises(WeightsError, match="layer 'fc' blob 0: 7x3x4x4 of 'fc' does not expand to 5x3x4x4"):
        expand_score(small, "fc", large, "fc")
    with pytest.raises(WeightsError, match=r"layer 'score': the source has no blobs of it\. It has fc, new"):
        expand_score(small, "fc", large, "score")


def test_widen_sees_more_channels_and_answers_the_same():
    old = convolutional()
    randomise(old)
    new = make_net(input_layer("data", 1, 4, 4, 4), layer("wide", "Convolution", "data", more=CONV.format(5, 4)))
    randomise(new, 1)
    report = widen(new, "wide", net_weights(old), "fc")
    assert report.copied == ["wide"] and report.coerced == [
        "wide blob 0 5x3x4x4 to 5x4x4x4, 1 channel(s) of zero added"
    ]
    x = torch.randn(1, 4, 4, 4)
    assert torch.allclose(new(data=x)["wide"], old(data=x[:, :3], keep=["fc"])["fc"], atol=1e-5)
    with pytest.raises(WeightsError, match="layer 'fc': 5x4x4x4 of 'wide' does not widen to 5x3x4x4"):
        widen(old, "fc", new, "wide")


def wide_net(more="", channels=5, type="Convolution"):
    options = f"convolution_param {{ num_output: 4 kernel_size: 3 {more} }}"
    return make_net(input_layer("data", 1, channels, 6, 6), layer("wide", type, "data", more=options))


def narrow_weights():
    generator = np.random.default_rng(0)
    return {"conv": [generator.normal(size=(4, 3, 3, 3)).astype(np.float32), np.arange(4, dtype=np.float32)]}


def test_new_channels_take_the_mean_of_the_old_ones():
    new, old = wide_net(), narrow_weights()
    report = widen(new, "wide", old, "conv", "mean")
    weight, bias = (blob.detach().numpy() for blob in new.params["wide"])
    assert np.array_equal(weight[:, :3], old["conv"][0]) and np.array_equal(bias, old["conv"][1])
    mean = old["conv"][0].mean(1)
    assert np.array_equal(weight[:, 3], mean) and np.array_equal(weight[:, 4], mean) and mean.any()
    assert report.coerced == ["wide blob 0 4x3x3x3 to 4x5x3x3, 2 channel(s) of the mean of the 3 old ones added"]


def test_new_channels_are_scaled_or_given():
    new, old = wide_net(), narrow_weights()
    assert "times 0.5 added" in str(widen(new, "wide", old, "conv", "mean", 0.5))
    assert np.array_equal(new.params["wide"][0].detach().numpy()[:, 4], old["conv"][0].mean(1) * 0.5)
    given = np.ones((4, 2, 3, 3))
    assert "2 channel(s) of given filters times -2 added" in str(widen(new, "wide", old, "conv", given, -2))
    assert (new.params["wide"][0][:, 3:] == -2).all()
    assert widen(wide_net(channels=3), "wide", old, "conv", "mean").coerced == []


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        ({}, {"added": "grey"}, "new channels cannot be 'grey'. Give 'zero', 'mean' or their filters"),
        ({}, {"added": np.ones((4, 1, 3, 3))}, "filters are 4x1x3x3, 4x2x3x3 is wanted: outputs x new channels x"),
        ({}, {"added": "mean", "scale": float("nan")}, "cannot be scaled by nan"),
        ({"channels": 2}, {}, "4x3x3x3 of 'conv' does not widen to 4x2x3x3"),
        ({"channels": 10, "more": "group: 2"}, {}, "'wide' (Convolution) has groups"),
        ({"channels": 4, "type": "Deconvolution"}, {}, "'wide' (Deconvolution) has groups, or outputs before inputs"),
    ],
)
def test_widen_refuses(net, options, message):
    net = wide_net(**net)
    with pytest.raises(WeightsError, match=re.escape(message)):
        widen(net, "wide", narrow_weights(), "conv", **options)
    assert not net.params["wide"][0].any()


def test_a_net_without_memory_is_refused():
    net = convolutional(device="meta")
    with pytest.raises(WeightsError, match="meta device"):
        transplant(net, classifier())
    with pytest.raises(WeightsError, match="meta device"):
        expand_score(net, "fc", convolutional(), "fc")


def test_a_deconvolution_that_is_learned_from_its_filler_is_not_interpolation():
    """U-Net's upconv halves the channels: it cannot be set to interpolation, and has a filler of its own."""

    def up(name, outputs, filler=""):
        more = f"convolution_param {{ num_output: {outputs} kernel_size: 2 stride: 2 weight_filler {{ {filler} }} }}"
        return layer(name, "Deconvolution", "data", more=more)

    msra = 'type: "msra"'
    net = make_net(input_layer("data", 1, 4, 3, 3), up("upconv", 2, msra), up("up_same", 4, msra), up("up_zero", 2))
    assert upsampling_layers(net) == ["up_same", "up_zero"]
