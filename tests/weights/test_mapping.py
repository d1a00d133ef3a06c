"""Weights of models written by hand on the layers of a net: by name, by order and shape, by a file of pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net
from torch import nn

from fcn_caffe import Net, WeightsError
from fcn_caffe.weights.formats import Named
from fcn_caffe.weights.mapping import MappedWeights, Pairs, map_weights, net_layers, read_pairs
from fcn_caffe.weights.transfer import copy_weights


def convolution(name: str, bottom: str, outputs: int, kernel: int, more: str = "") -> str:
    options = f"num_output: {outputs} kernel_size: {kernel} {more}"
    return layer(name, "Convolution", bottom, more=f"convolution_param {{ {options} }}")


def named_of(module: nn.Module) -> Named:
    return Named({name: tensor.numpy() for name, tensor in module.state_dict().items()})


def mapped(net: Net, module: nn.Module, pairs: Pairs | None = None) -> MappedWeights:
    return map_weights(named_of(module), net_layers(net), "hand.pth", pairs)


def pairs_of(net: Net, folder: Path, text: str) -> Pairs:
    path = folder / "pairs.txt"
    path.write_text(text)
    return read_pairs(path, net_layers(net))


def normed_net() -> Net:
    return make_net(
        input_layer("data", 2, 3, 8, 8),
        convolution("conv1", "data", 4, 3, "pad: 1 bias_term: false"),
        layer("bn_conv1", "BatchNorm", "conv1", "conv1"),
        layer("scale_conv1", "Scale", "conv1", "conv1", "scale_param { bias_term: true }"),
        layer("prelu", "PReLU", "conv1", "conv1"),
        layer("ip", "InnerProduct", "conv1", more="inner_product_param { num_output: 5 transpose: true }"),
        layer("fc", "InnerProduct", "ip", more="inner_product_param { num_output: 5 transpose: true }"),
    )


def normed_module() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.PReLU(4),
        nn.Flatten(),
        nn.Linear(256, 5),
        nn.Linear(5, 5),
    )
    with torch.no_grad():
        for _, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
    return module.eval()


def test_order_and_shape_find_every_layer() -> None:
    net, module = normed_net(), normed_module()
    found = mapped(net, module)
    assert found.report.splitlines() == [
        "conv1        <- 0.weight",
        "bn_conv1     <- 1.running_mean, 1.running_var",
        "scale_conv1  <- 1.weight, 1.bias",
        "prelu        <- 2.weight",
        "ip           <- 4.weight, 4.bias",
        "fc           <- 5.weight, 5.bias",
    ]
    report = copy_weights(net, found.weights, strict=True)
    assert len(report.copied) == 6
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(net(images)["fc"], module(images))


def test_a_batch_normalisation_without_scale_and_shift() -> None:
    net = make_net(input_layer("data", 1, 3, 2, 2), layer("bn", "BatchNorm", "data"))
    found = mapped(net, nn.Sequential(nn.BatchNorm2d(3, affine=False)))
    assert [array.tolist() for array in found.weights["bn"]] == [[0, 0, 0], [1, 1, 1], [1]]


def test_a_layer_with_all_four_blobs_takes_a_whole_batch_normalisation() -> None:
    net = make_net(input_layer("data", 1, 3, 2, 2), layer("bn", "BN", "data"), fork="pspnet")
    module = nn.Sequential(nn.BatchNorm2d(3))
    nn.init.uniform_(module[0].weight)
    found = mapped(net, module)
    assert found.report == "bn  <- 0.weight, 0.bias, 0.running_mean, 0.running_var"
    slope, _, _, variance = found.weights["bn"]
    assert slope.shape == (1, 3, 1, 1) and np.array_equal(slope.ravel(), module[0].weight.detach().numpy())
    assert variance.ravel().tolist() == [1, 1, 1]


class Fcn(nn.Module):
    """Heads in another order than the net's file, as people write them."""

    def __init__(self, **names: str) -> None:
        super().__init__()
        self.trunk = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 3)])
        modules = {
            "score_fr": nn.Conv2d(8, 2, 1),
            "score_pool": nn.Conv2d(4, 2, 1),
            "up_last": nn.ConvTranspose2d(2, 2, 8, bias=False),
            "up_first": nn.ConvTranspose2d(2, 2, 4, bias=False),
        }
        for name, module in modules.items():
            self.add_module(names.get(name, name), module)


def fcn_net() -> Net:
    up = "convolution_param {{ num_output: 2 kernel_size: {} bias_term: false }}"
    return make_net(
        input_layer("data", 1, 3, 9, 9),
        convolution("conv1", "data", 4, 3),
        convolution("conv2", "conv1", 4, 3),
        convolution("conv3", "conv2", 8, 3),
        convolution("score", "conv3", 2, 1),
        layer("up2", "Deconvolution", "score", more=up.format(4)),
        convolution("score_pool", "conv2", 2, 1),
        layer("up8", "Deconvolution", "up2", more=up.format(8)),
    )


def test_layers_out_of_order_are_found_by_their_shapes() -> None:
    module = Fcn()
    found = mapped(fcn_net(), module)
    lines = dict(line.split("<-") for line in found.report.splitlines())
    assert {ours.strip(): theirs.strip().split(",")[0] for ours, theirs in lines.items()} == {
        "conv1": "trunk.0.weight",
        "conv2": "trunk.1.weight",
        "conv3": "trunk.2.weight",
        "score": "score_fr.weight",
        "up2": "up_first.weight",
        "score_pool": "score_pool.weight",
        "up8": "up_last.weight",
    }
    assert np.array_equal(found.weights["up8"][0], module.up_last.weight.detach().numpy())


def alike(*names: str) -> Net:
    return make_net(
        input_layer("data", 1, 3, 9, 9),
        *(convolution(name, bottom, 3, 1) for name, bottom in zip(names, ("data", *names), strict=False)),
        convolution("last", names[-1], 2, 1),
    )


def test_names_come_before_order() -> None:
    module = nn.ModuleDict({"b": nn.Conv2d(3, 3, 1), "head": nn.Conv2d(3, 2, 1), "a": nn.Conv2d(3, 3, 1)})
    found = mapped(alike("a", "b"), module)
    assert found.report.splitlines() == [
        "a     <- a.weight, a.bias",
        "b     <- b.weight, b.bias",
        "last  <- head.weight, head.bias",
    ]
    # The last part of a name, where it is the only such.
    within = nn.ModuleDict({"backbone": module})
    assert "b     <- backbone.b.weight" in mapped(alike("a", "b"), within).report


def test_what_could_be_either_is_refused() -> None:
    module = nn.ModuleDict({"head": nn.Conv2d(3, 2, 1), "p": nn.Conv2d(3, 3, 1), "q": nn.Conv2d(3, 3, 1)})
    with pytest.raises(WeightsError) as caught:
        mapped(alike("a", "b"), module)
    assert str(caught.value) == (
        "hand.pth: 2 layers of the net and 2 of the file could be mapped in several ways. Say which is which in a file "
        "for --map, `LAYER NAME` a line, with - for none:\n"
        "  left of the net                         | left of the file\n"
        "  a (Convolution) weight 3x3x1x1, bias 3  | p weight 3x3x1x1, bias 3\n"
        "  b (Convolution) weight 3x3x1x1, bias 3  | q weight 3x3x1x1, bias 3"
    )


def test_other_shapes_are_refused_with_a_table() -> None:
    module = nn.ModuleDict({"a": nn.Conv2d(3, 3, 1), "b": nn.Conv2d(3, 3, 1, bias=False), "last": nn.Conv2d(3, 7, 1)})
    with pytest.raises(WeightsError) as caught:
        mapped(alike("a", "b"), module)
    first, *table = str(caught.value).splitlines()
    assert first.startswith("hand.pth: 2 layers of the net and 2 of the file have no counterpart. Say which")
    assert [line.split("|")[1].strip() for line in table] == [
        "left of the file",
        "b weight 3x3x1x1",
        "last weight 7x3x1x1, bias 7",
    ]
    with pytest.raises(WeightsError, match=r"0 layers of the net and 1 of the file have no counterpart") as caught:
        mapped(alike("a"), nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 9, 1)))
    assert str(caught.value).splitlines()[2] == "  nothing          | 2 weight 9x2x1x1, bias 9"


def test_pairs_say_what_shapes_do_not(tmp_path: Path) -> None:
    module = nn.ModuleDict({"head": nn.Conv2d(3, 2, 1), "p": nn.Conv2d(3, 3, 1), "q": nn.Conv2d(3, 3, 1)})
    net = alike("a", "b")
    for text in (
        "a q\n",
        "a q # crossed\n\nb p\n",
        "a/0 q.weight\na.bias q.bias\n",
        "layers.a.weight q.weight\na/1 q.bias",
    ):
        found = mapped(net, module, pairs_of(net, tmp_path, text))
        assert np.array_equal(found.weights["a"][0], module["q"].weight.detach().numpy())
        assert np.array_equal(found.weights["b"][1], module["p"].bias.detach().numpy())
    some = mapped(net, module, pairs_of(net, tmp_path, "a -\nb p\n- q\n"))
    assert some.weights.keys() == {"b", "last"}
    statistics = nn.ModuleDict({"n": nn.BatchNorm2d(3)})
    net = make_net(input_layer("data", 1, 3, 2, 2), layer("bn", "BatchNorm", "data"))
    text = "bn.mean n.running_mean\nbn.variance n.running_var\n- n.weight\n- n.bias"
    assert [len(array) for array in mapped(net, statistics, pairs_of(net, tmp_path, text)).weights["bn"]] == [3, 3, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a q r", "pairs.txt:1: wanted two words, a layer or blob of the net and a name in the file, found 3."),
        ("\n- -", "pairs.txt:2: wanted two words, a layer or blob of the net and a name in the file, found 2."),
        ("aa q", "pairs.txt:1: the net has no 'aa'."),
        ("a/0 -", "pairs.txt:1: a layer keeps its values as a whole: write `a -`."),
        ("a qq", "pairs.txt: hand.pth has no 'qq'."),
        ("a head", "pairs.txt: a (Convolution) weight 3x3x1x1, bias 3 does not fit 'head' of hand.pth."),
        ("a.bias head.bias", "pairs.txt: a.bias is 3, 'head.bias' of hand.pth 2."),
        ("a.bias q", "pairs.txt: a.bias is 3, 'q' of hand.pth a layer."),
        ("a.bias q.bias\n- q.weight", "mapped in part: a"),
    ],
)
def test_pairs_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    module = nn.ModuleDict({"head": nn.Conv2d(3, 2, 1), "p": nn.Conv2d(3, 3, 1), "q": nn.Conv2d(3, 3, 1)})
    net = alike("a", "b")
    with pytest.raises(WeightsError) as caught:
        mapped(net, module, pairs_of(net, tmp_path, text))
    assert message in str(caught.value)


def test_a_missing_file_of_pairs(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.txt: cannot be read: No such file"):
        read_pairs(tmp_path / "none.txt", [])


def test_shared_blobs_are_not_looked_for() -> None:
    shared = 'param { name: "w" } convolution_param { num_output: 3 kernel_size: 1 }'
    net = make_net(
        input_layer("data", 1, 3, 2, 2),
        layer("a", "Convolution", "data", more=shared),
        layer("b", "Convolution", "a", more=shared),
    )
    assert [it.wanted for it in net_layers(net)] == [("weight", "bias"), ("bias",)]
    kernel, first, second = np.ones((3, 3, 1, 1), "f"), np.zeros(3, "f"), np.ones(3, "f")
    found = map_weights(Named({"x.weight": kernel, "x.bias": first, "y.bias": second}), net_layers(net), "hand.pth")
    copy_weights(net, found.weights)
    assert net.params["b"][1].tolist() == [1, 1, 1] and net.params["b"][0] is net.params["a"][0]


def test_our_own_names_keep_our_own_forms() -> None:
    net = normed_net()
    arrays = {f"module.layers.{key}": tensor.numpy() for key, tensor in net.layers.state_dict().items()}
    own = {name.removeprefix("module."): array for name, array in arrays.items()}
    found = map_weights(Named(own), net_layers(net), "own.pth")
    assert found.report.splitlines()[-1] == "fc           <- layers.fc.weight, layers.fc.bias"
    assert np.array_equal(found.weights["fc"][0], own["layers.fc.weight"])
    # A program says how a weight is used: 5 x 5 there is outputs x inputs.
    dotted = {name.removeprefix("layers."): array for name, array in own.items()}
    program = map_weights(
        Named(dotted | {"ip.weight": dotted["ip.weight"].T}, is_program=True), net_layers(net), "a.onnx"
    )
    assert np.array_equal(program.weights["fc"][0], dotted["fc.weight"].T)
