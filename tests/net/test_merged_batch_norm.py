"""Batch normalisations in convolutions: every kind, before and behind; or the reason why one stays."""

from __future__ import annotations

import pytest
import torch
from helpers import input_layer, layer, make_net, net_param

from fcn_caffe import GraphError, Net, WeightsError
from fcn_caffe.net.rewrite.merged_batch_norm import Merger, merge_batch_norm
from fcn_caffe.net.rewrite.merger_proof import prove_merger

IMAGE = input_layer("x", 2, 6, 36, 38)
CONV = layer("c", "Convolution", "x", more="convolution_param { num_output: 4 kernel_size: 3 pad: 1 group: 2 }")
BARE = CONV.replace("group: 2", "bias_term: false")
KINDS = {
    "bvlc": layer("n", "BatchNorm", "c", "c"),
    "bvlc scale": layer("n", "BatchNorm", "c") + layer("s", "Scale", "n", "n", "scale_param { bias_term: true }"),
    "bvlc scale bias": layer("n", "BatchNorm", "c") + layer("s", "Scale", "n", "n") + layer("b", "Bias", "n", "n"),
    "nvidia": layer("n", "BatchNorm", "c", more="batch_norm_param { scale_bias: true eps: 1e-3 }"),
    "intel": layer("n", "BatchNorm", "c", more="batch_norm_param { engine: MKLDNN relu: true }"),
    "intel without bias": layer("n", "BatchNorm", "c", more="batch_norm_param { engine: MKL2017 bias_term: false }"),
    "pspnet": layer("n", "BN", "c", more="bn_param { momentum: 0.95 eps: 1e-3 }"),
    "segnet": layer("n", "BN", "c", "c", more="bn_param { bn_mode: INFERENCE }"),
}
MAKERS = {
    "convolution": CONV,
    "no bias": BARE,
    "dilated": CONV.replace("pad: 1", "pad: 2 dilation: 2"),
    "depthwise": layer("c", "ConvolutionDepthwise", "x", more="convolution_param { kernel_size: 3 num_output: 6 }"),
    "deconvolution": CONV.replace('"Convolution"', '"Deconvolution"').replace("group: 2", "group: 2 stride: 2"),
    "inner product": layer("c", "InnerProduct", "x", more="inner_product_param { num_output: 5 }"),
    "transposed": layer("c", "InnerProduct", "x", more="inner_product_param { num_output: 5 transpose: true }"),
}


def filled(*text: str, **options: object) -> Net:
    """A net whose statistics are such as training leaves: variances and factors above 0."""
    net = make_net(*text, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in net.layers_in_order:
            for name, blob in zip(one.blob_names, one.blobs, strict=True):
                positive = name in ("variance", "scale_factor")
                values = torch.rand(blob.shape, generator=generator) + 0.5
                blob.copy_(values if positive else torch.randn(blob.shape, generator=generator) * 0.4)
    return net


def merge(*text: str, **options: object) -> tuple[Merger, Net]:
    """Merge and prove; return the merger and the net."""
    net = filled(*text, **options)
    merger = merge_batch_norm(net)
    proof = prove_merger(net, merger)
    assert len(proof.sizes) == (1 if any(word in "".join(text) for word in ("InnerProduct", "axis: 2")) else 2)
    assert all(one.relative < 1e-5 for one in proof.differences)
    return merger, net


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maker", MAKERS)
def test_a_batch_norm_goes_into_the_layer_before_it(kind: str, maker: str):
    rest = layer("r", "ReLU", "n" if 'top: "n"' in KINDS[kind] else "c", "out")
    if maker in ("inner product", "transposed") and kind in ("pspnet", "segnet"):
        with pytest.raises(Exception, match="needs a 4-D bottom"):
            make_net(IMAGE, MAKERS[maker], KINDS[kind])
        return
    merger, net = merge(IMAGE, MAKERS[maker], KINDS[kind], rest)
    assert merger.kept == [] and len(merger.merged) == 1
    assert [one.type for one in merger.net.layer if one.name not in ("x", "c")] == ["ReLU"] * (1 + (kind == "intel"))
    assert [len(blobs) for blobs in merger.weights.values()] == [2]
    assert merger.net.layer[1].name == "c" and merger.net.layer[1].type == net.layer("c").layer_type


BEHIND = {
    "convolution": 'type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 group: 2 dilation: 2 }',
    "bare": 'type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 stride: 2 bias_term: false }',
    "deconvolution": 'type: "Deconvolution" convolution_param { num_output: 4 kernel_size: 1 group: 2 }',
    "inner product": 'type: "InnerProduct" inner_product_param { num_output: 4 }',
    "transposed": 'type: "InnerProduct" inner_product_param { num_output: 4 transpose: true bias_term: false }',
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "intel"])
@pytest.mark.parametrize("reader", BEHIND)
def test_a_batch_norm_goes_into_the_layer_behind_it(kind: str, reader: str):
    first = layer("p", "Pooling", "x", "c", "pooling_param { kernel_size: 2 stride: 2 }")
    top = "n" if 'top: "n"' in KINDS[kind] else "c"
    merger, _ = merge(IMAGE, first, KINDS[kind], f'layer {{ name: "out" bottom: "{top}" top: "out" {BEHIND[reader]} }}')
    assert merger.kept == [] and merger.merged[0].endswith("behind it")
    assert [one.name for one in merger.net.layer] == ["x", "p", "out"]
    assert list(merger.weights) == ["out"] and len(merger.weights["out"]) == 2


def test_both_sides_of_one_convolution_and_a_scale_without_shift():
    pad = 'layer { name: "d" type: "Convolution" bottom: "s" top: "d" convolution_param { num_output: 3 kernel_size: 3 '
    before = layer("n", "BatchNorm", "x") + layer("s", "Scale", "n")
    merger, _ = merge(IMAGE, before, pad + "} }", layer("m", "BatchNorm", "d", "d"))
    assert merger.merged == [
        "n (BatchNorm), s (Scale) into d (Convolution) behind it",
        "m (BatchNorm) into d (Convolution) before it",
    ]
    net = filled(IMAGE, before, pad + "pad: 1 } }")
    net.layer("n").mean.data.zero_()  # no shift: the padding sees what it saw
    assert prove_merger(net, merge_batch_norm(net)).differences


PSPNET = layer("p", "ReLU", "x", "c") + KINDS["pspnet"]
SHARING = CONV.replace("top:", 'param { name: "w" } top:')
NOT_MERGED = {
    "layer 'o' (ReLU) reads the top of layer 'c'": CONV + layer("n", "BatchNorm", "c") + layer("o", "ReLU", "c"),
    "layer 'p' (ReLU) is no Convolution, Deconvolution or InnerProduct; behind it, no layer reads its top": PSPNET,
    "behind it, several layers read its top": PSPNET + layer("a", "AbsVal", "n") + layer("e", "ELU", "n"),
    "normalises by the batch in TEST, too: write": CONV + KINDS["segnet"].replace("INFERENCE", "LEARN"),
    "use_global_stats: false": CONV + layer("n", "BatchNorm", "c", more="batch_norm_param { use_global_stats: false }"),
    "it has a loss_weight": CONV + KINDS["pspnet"].replace('top: "n"', 'top: "n" loss_weight: 1'),
    "layer 'c' (Convolution) has a loss_weight": CONV.replace('top: "c"', 'top: "c" loss_weight: 1')
    + layer("n", "BatchNorm", "c"),
    "it has 2 tops": CONV + layer("n", "BN", "c", "n o", "bn_param { bn_mode: INFERENCE }"),
    "layer 'c' (Convolution) shares param 'w' with another layer": SHARING
    + KINDS["bvlc"]
    + SHARING.replace('"c"', '"d"'),
    "layer 'c' (Convolution) convolves 2 blobs with one weight": CONV.replace(
        'bottom: "x" top: "c"', 'bottom: "x" bottom: "x" top: "c" top: "d"'
    )
    + KINDS["bvlc"],
    "'d' pads with zeros, which the shift would have to reach": PSPNET
    + CONV.replace('"c"', '"d"').replace('"x"', '"n"'),
    "'d' sums other numbers of taps at other places, the shift with them": PSPNET
    + layer("d", "Deconvolution", "n", more="convolution_param { num_output: 4 kernel_size: 2 }"),
    "its ReLU comes between": layer("p", "ReLU", "x", "c")
    + KINDS["intel"]
    + layer("d", "Convolution", "n", more="convolution_param { num_output: 4 kernel_size: 1 }"),
    "'d' multiplies along axis 2, the channels are axis 1": PSPNET
    + layer("d", "InnerProduct", "n", more="inner_product_param { num_output: 4 axis: 2 }"),
    "'c' has its channels on axis 2, not 1": CONV.replace("kernel_size: 3 pad: 1 group: 2", "axis: 2 kernel_size: 3")
    + KINDS["bvlc"],
}


@pytest.mark.parametrize("why", NOT_MERGED)
def test_a_batch_norm_stays_and_says_why(why: str):
    text = NOT_MERGED[why]
    other = CONV.replace('"c"', '"other"') + layer("m", "BatchNorm", "other")
    merger, _ = merge(IMAGE, text, other)
    assert merger.merged == ["m (BatchNorm) into other (Convolution) before it"]
    (kept,) = merger.kept
    assert kept.startswith("n (B") and why in kept
    with pytest.raises(GraphError, match="no batch normalisation can be merged: n \\(B"):
        merge_batch_norm(filled(IMAGE, text))


def test_a_scale_of_another_shape_ends_a_run():
    scale = layer("s", "Scale", "n", more="scale_param { axis: 2 }")
    merger, _ = merge(IMAGE, CONV, layer("n", "BatchNorm", "c"), scale)
    assert merger.merged == ["n (BatchNorm) into c (Convolution) before it"]
    assert [one.name for one in merger.net.layer] == ["x", "c", "s"]


def test_what_cannot_be_merged_or_proved_is_refused():
    with pytest.raises(GraphError, match="has no BatchNorm, no BN"):
        merge_batch_norm(filled(IMAGE, CONV))
    twice = CONV + CONV.replace('top: "c"', 'top: "d"')
    with pytest.raises(GraphError, match="several layers named 'c' with blobs"):
        merge_batch_norm(filled(IMAGE, twice, KINDS["bvlc"]))
    net = filled(IMAGE, CONV, KINDS["bvlc"])
    net.layer("n").variance.data.fill_(-1)
    with pytest.raises(WeightsError, match=r"layer 'c' \(Convolution\): a merged weight is not finite"):
        merge_batch_norm(net)
    net = filled(IMAGE, CONV, KINDS["bvlc"])
    merger = merge_batch_norm(net)
    merger.weights["c"][1][2] += 1e-2
    with pytest.raises(WeightsError, match=r"proof failed: 'c' is off by 0\.01 where the net's largest is"):
        prove_merger(net, merger)
    net = filled(IMAGE, CONV, KINDS["bvlc"], layer("r", "ReLU", "c", "c"))
    net.layer("n").mean.data.fill_(1e4)
    with pytest.raises(WeightsError, match="the proof says nothing: 'c' is zero on random inputs"):
        prove_merger(net, merge_batch_norm(net))


def test_outputs_that_are_classes_are_compared_by_their_scores():
    net = filled(IMAGE, CONV, KINDS["bvlc"], layer("a", "ArgMax", "c", more="argmax_param { axis: 1 }"))
    proof = prove_merger(net, merge_batch_norm(net))
    assert {one.blob for one in proof.differences} == {"c"}


def test_the_net_that_is_written_is_of_no_phase_and_keeps_the_old_names():
    text = net_param(IMAGE, BARE.replace("top:", "include { phase: TEST } top:"), KINDS["bvlc scale"])
    net = Net(text)
    merger = merge_batch_norm(net)
    assert not any(one.HasField("phase") or one.include for one in merger.net.layer)
    assert merger.net.layer[1].top == ["n"] and not merger.net.layer[1].convolution_param.HasField("bias_term")
    assert Net(merger.net).graph.outputs == net.graph.outputs == ("n",)
