"""A net as a module like any other: its call, and PyTorch's tools on voc-fcn8s with a sixteenth of its channels."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import input_layer, layer, make_net, narrow_net, randomise
from torch import Tensor, nn

from fcn_caffe import TRAIN, GraphError, LayerError, Net
from fcn_caffe.net.module import NetModule, to_identifiers
from fcn_caffe.net.training_runner import Thrift
from fcn_caffe.weights.surgery import interp

SIZES = ((2, 40, 56), (1, 33, 47), (3, 64, 32), (1, 71, 90))
ANY_SIZE = {"data": dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)}

quiet = pytest.mark.filterwarnings("ignore")  # PyTorch's own, of its compilers


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(1)
    net = Net(narrow_net("voc-fcn8s"), input_shapes={"data": (1, 3, 48, 40)})
    interp(net)
    return net


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.randn(count, 3, height, width) for count, height, width in SIZES]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def agrees(function: Callable[[Tensor], Tensor], net: Net, images: list[Tensor]) -> None:
    """Compare the scores of a function with the net's; a score is not nearly zero."""
    with torch.no_grad():
        for image in images:
            score = net(image)["score"]
            assert score.abs().max() > 0.1 and score.shape[-2:] == image.shape[-2:]
            torch.testing.assert_close(function(image), score, rtol=0, atol=1e-6 * score.abs().max().item())


# -- calling a net -------------------------------------------------------------------------------------------------

TWO = (input_layer("colour", 1, 2, 4, 4), input_layer("depth/1", 1, 2, 4, 4), layer("sum", "Eltwise", "colour depth/1"))


def test_a_net_takes_its_inputs_by_position_or_by_name() -> None:
    net, (a, b) = make_net(*TWO), torch.randn(2, 3, 2, 5, 5)
    for blobs in (
        net(a, b),
        net(a, **{"depth/1": b}),
        net({"colour": a, "depth/1": b}),
        net(inputs={"colour": a, "depth/1": b}),
        net(colour=a, **{"depth/1": b}),
        net(a.numpy(), b.numpy()),
    ):
        assert blobs.keys() == {"sum"} and torch.equal(blobs["sum"], a + b)
    assert torch.equal(net(a, b, keep=["colour"])["colour"], a)
    assert torch.equal(net({"colour": a, "depth/1": b}, ["colour"])["colour"], a)
    net.inputs["depth/1"] = b
    assert torch.equal(net(a)["sum"], a + b)


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        (3, {}, "net '' was given 3 inputs by position and takes 2 by position: colour, depth/1."),
        (2, {"colour": 0}, "net '' was given 'colour' twice: by position and by name."),
        (2, {"color": 0}, "net '' has no blob 'color'. Did you mean 'colour'? Its inputs: colour, depth/1."),
    ],
)
def test_a_call_that_cannot_be_says_why(arguments: int, named: dict[str, int], message: str) -> None:
    x = torch.zeros(1, 2, 4, 4)
    with pytest.raises(GraphError) as caught:
        make_net(*TWO)(*[x] * arguments, **dict.fromkeys(named, x))
    assert str(caught.value) == message


def test_other_calls_that_cannot_be() -> None:
    net, x = make_net(*TWO), torch.zeros(1, 2, 4, 4)
    with pytest.raises(LayerError, match=r"input blob 'depth/1' was not given"):
        net(x)
    with pytest.raises(GraphError, match=r"a mapping of inputs, or None, and more by position"):
        net({"colour": x}, x)
    with pytest.raises(GraphError, match=r"blob 'colour' was given as str, wanted a tensor or an array"):
        net("image.png", x)
    with pytest.raises(GraphError, match=r"takes none, it has no Input layer"):
        make_net(layer("d", "DummyData", more="dummy_data_param { shape { dim: 1 } }"))(x)


# -- as a module ---------------------------------------------------------------------------------------------------


def test_a_module_takes_and_gives_tensors() -> None:
    net, (a, b) = (
        make_net(*TWO, layer("twice", "Power", "sum", more="power_param { scale: 2 }")),
        torch.ones(2, 1, 2, 4, 4),
    )
    module = net.as_module()
    assert str(inspect.signature(module.forward)) == "(colour, depth_1)"
    assert module.input_names == ("colour", "depth/1") and module.output_names == ("twice",)
    for top in (module(a, b), module(colour=a, depth_1=b), module(a, depth_1=b)):
        assert torch.equal(top, 2 * (a + b))
    twice, whole = net.as_module(("twice", "sum"))(a, b)
    assert torch.equal(twice, 2 * whole) and torch.equal(whole, a + b)
    assert isinstance(net.as_module(["sum"])(a, b), Tensor)


def test_names_become_identifiers() -> None:
    blobs = ["data", "data/1", "data.1", "class", "2x", "self", "", "bild-größe"]
    assert to_identifiers(blobs) == ("data", "data_1", "data_1_", "class_", "_2x", "self_", "_", "bild_größe")
    assert all(name.isidentifier() for name in to_identifiers(blobs))


def test_only_what_the_outputs_need_runs() -> None:
    net = make_net(
        input_layer("data", 1, 3, 4, 4),
        input_layer("label", 1, 1, 4, 4),
        layer("score", "Convolution", "data", more="convolution_param { num_output: 2 kernel_size: 1 }"),
        layer("relu", "ReLU", "score", "score"),
        layer("loss", "SoftmaxWithLoss", "score label"),
        phase=TRAIN,
    )
    randomise(net)
    data, label = torch.randn(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    scores = net.as_module("score")
    assert scores.input_names == ("data",) and scores.training
    assert torch.equal(scores(data), net(data, label, keep=["score"])["score"])
    assert torch.equal(net.as_module()(data, label), net(data, label)["loss"])
    scores.eval()
    assert net.training and not scores.net.training and not scores.training


def test_in_the_place_of_a_data_layer_only_what_is_read_is_an_input() -> None:
    net = make_net(
        layer("all", "HDF5Data", "", "data label", 'hdf5_data_param { source: "gone" batch_size: 1 }'),
        layer("score", "Convolution", "data", more="convolution_param { num_output: 2 kernel_size: 1 }"),
        layer("loss", "SoftmaxWithLoss", "score label"),
        input_shapes={"data": (1, 3, 4, 4), "label": (1, 1, 4, 4)},
    )
    data, label = torch.randn(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    scores = net.as_module("score")
    assert scores.input_names == ("data",)
    assert torch.equal(scores(data), net(data, label, keep=["score"])["score"])
    assert net.as_module().input_names == ("data", "label") and net.as_module("label").input_names == ("label",)
    assert torch.equal(net.as_module("label")(label), label)


def test_one_blob_is_kept_by_its_name_alone() -> None:
    net = make_net(input_layer("data", 1, 1, 2, 2), layer("pool4", "ReLU", "data"), layer("out", "ReLU", "pool4"))
    assert set(net(torch.zeros(1, 1, 2, 2), keep="pool4")) == {"pool4", "out"}
    with pytest.raises(GraphError, match=r"has no blob 'pol4'\. Did you mean 'pool4'\?"):
        net(torch.zeros(1, 1, 2, 2), keep="pol4")


def test_blobs_that_are_made_late_are_given(net: Net, images: list[Tensor]) -> None:
    frozen = net.frozen()
    assert "conv1_1" in frozen.late_steps or frozen.steps != net.steps
    for blob in ("conv1_2", "fc6", "pool3"):
        with torch.no_grad():
            torch.testing.assert_close(frozen.as_module(blob)(images[0]), net(images[0], keep=[blob])[blob])


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ("scor", "net '' has no blob 'scor' to give out. Did you mean 'score'? Its outputs: score."),
        ((), "net '' as a module has no outputs. Name some: net.as_module(outputs=('score',))."),
    ],
)
def test_outputs_that_cannot_be(outputs: str | tuple[str, ...], message: str) -> None:
    with pytest.raises(GraphError) as caught:
        make_net(input_layer("data", 1, 1, 1, 1), layer("score", "ReLU", "data")).as_module(outputs)
    assert str(caught.value) == message


def test_a_net_without_inputs_says_the_cure() -> None:
    dummy = "dummy_data_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } }"
    text = (layer("images", "DummyData", top="data", more=dummy), layer("score", "ReLU", "data"))
    with pytest.raises(GraphError) as caught:
        make_net(*text).as_module()
    assert str(caught.value) == (
        "net '' takes no inputs: its blobs come from layer 'images' (DummyData). Build the deploy form, "
        "Net(…, stages=('deploy',)), if it has one, or say what comes from outside: "
        "Net(…, input_shapes={'data': (1, 3, 500, 500)})."
    )
    module = make_net(*text, input_shapes={"data": (1, 3, 4, 4)}).as_module()
    assert module(torch.ones(2, 3, 5, 5)).shape == (2, 3, 5, 5)


@pytest.mark.parametrize(
    ("tensors", "named", "message"),
    [
        (0, (), "net '' takes colour, depth_1 as a module: colour, depth_1 was not given."),
        (1, (), "net '' takes colour, depth_1 as a module: depth_1 was not given."),
        (3, (), "net '' takes colour, depth_1 as a module, and 3 were given by position."),
        (
            1,
            ("colour",),
            "net '' takes colour, depth_1 as a module, and 'colour' was given twice: by position and by name.",
        ),
        (1, ("depth1",), "net '' takes colour, depth_1 as a module, not 'depth1'. Did you mean 'depth_1'?"),
    ],
)
def test_a_call_of_a_module_that_cannot_be(tensors: int, named: tuple[str, ...], message: str) -> None:
    x = torch.zeros(1, 2, 4, 4)
    with pytest.raises(GraphError) as caught:
        make_net(*TWO).as_module()(*[x] * tensors, **dict.fromkeys(named, x))
    assert str(caught.value) == message


def test_parameters_and_their_names_are_the_nets(net: Net) -> None:
    module = net.as_module()
    ours, theirs = dict(module.named_parameters()), dict(net.named_parameters())
    assert ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)
    assert module.state_dict().keys() == net.state_dict().keys()
    other = copy.deepcopy(net).double().as_module()
    other.load_state_dict(module.state_dict())
    assert module.float() is module and other.net.device == net.device


# -- PyTorch's tools -----------------------------------------------------------------------------------------------


@quiet
def test_exports_for_any_size_and_batch(net: Net, images: list[Tensor]) -> None:
    program = torch.export.export(net.as_module(), (images[0],), dynamic_shapes=ANY_SIZE)
    assert program.graph_signature.user_inputs == ("data",)
    assert program.state_dict.keys() == net.state_dict().keys()
    agrees(program.module(), net, images)
    file = io.BytesIO()
    torch.export.save(program, file)
    agrees(torch.export.load(io.BytesIO(file.getvalue())).module(), net, images[1:2])


@quiet
def test_a_crop_is_not_bound_to_sizes_that_it_cuts() -> None:
    net = make_net(
        input_layer("data", 1, 2, 9, 9),
        layer("pool", "Pooling", "data", more="pooling_param { kernel_size: 2 stride: 2 }"),
        layer("up", "Deconvolution", "pool", more="convolution_param { num_output: 2 kernel_size: 2 stride: 2 }"),
        layer("crop", "Crop", "up data"),
    )
    randomise(net)
    module = net.as_module()
    for sample in ((2, 2, 9, 11), (2, 2, 8, 10)):
        program = torch.export.export(module, (torch.randn(sample),), dynamic_shapes=ANY_SIZE)
        # PyTorch 2.13 keeps as a guard whether a slice was the whole of its tensor; the graph does not depend on it.
        has_guards = "check_guards" in inspect.signature(program.module).parameters
        function = program.module(**{"check_guards": False} if has_guards else {})
        for height, width in ((8, 10), (8, 7), (13, 12)):  # even sizes are not cut
            image = torch.randn(1, 2, height, width)
            assert torch.equal(function(image), module(image))


@quiet
@pytest.mark.parametrize("strict", [False, True])
def test_exports_inputs_by_name(strict: bool) -> None:
    net, (a, b) = make_net(*TWO), torch.randn(2, 3, 2, 5, 5)
    sizes = dict.fromkeys((0, 2), torch.export.Dim.AUTO)
    arguments = {"colour": a, "depth_1": b}
    program = torch.export.export(
        net.as_module(), (), arguments, dynamic_shapes=dict.fromkeys(arguments, sizes), strict=strict
    )
    assert program.graph_signature.user_inputs == ("colour", "depth_1")
    assert torch.equal(program.module()(colour=a[:2, :, 1:], depth_1=b[:2, :, 1:]), (a + b)[:2, :, 1:])


@quiet
@pytest.mark.usefixtures("fresh_compiler")
def test_compiles_without_a_break(net: Net, images: list[Tensor]) -> None:
    agrees(torch.compile(net.as_module(), backend="eager", fullgraph=True, dynamic=True), net, images)


@quiet
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.needs_program("g++"))])
def test_other_backends_compile(backend: str) -> None:
    scale = layer("scale", "Scale", "colour", more="scale_param { axis: 0 num_axes: 0 filler { value: 3 } }")
    net, (a, b) = make_net(TWO[0], scale, TWO[1], layer("sum", "Eltwise", "scale depth/1")), torch.randn(2, 3, 2, 5, 5)
    for function in (net.as_module(), net)[: 1 if backend == "inductor" else 2]:  # it takes 5 s for each
        top = torch.compile(function, backend=backend, fullgraph=True)(a, b)
        top = top if isinstance(top, Tensor) else top["sum"]
        torch.testing.assert_close(top, 3 * a + b)
        top.sum().backward()
        assert net.layers["scale"].weight.grad == pytest.approx(a.sum().item(), rel=1e-4)
        net.zero_grad()


@quiet
def test_traces(net: Net, images: list[Tensor]) -> None:
    traced = torch.jit.trace(net.as_module(), images[0])
    assert [value.debugName() for value in traced.graph.inputs()][1:] == ["data"]
    agrees(traced, net, [images[0], images[0] + 1])


def test_copies(net: Net, images: list[Tensor]) -> None:
    module = net.as_module()
    twin = copy.deepcopy(module)
    agrees(twin, net, images[:1])
    with torch.no_grad():
        twin.layers["score_fr"].bias += 1
    assert not torch.equal(twin(images[1]), module(images[1]))
    agrees(module, net, images[:1])
    assert copy.copy(module).net is module.net and repr(twin) == repr(module)


@pytest.mark.parametrize("whole", [False, True])
def test_is_saved_and_loaded(net: Net, images: list[Tensor], tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "net.pth"
    if whole:
        torch.save(net.as_module(), path)
        loaded: NetModule = torch.load(path, weights_only=False)
    else:
        torch.save(net.as_module().state_dict(), path)
        loaded = copy.deepcopy(net).as_module()
        nn.init.zeros_(loaded.layers["fc6"].weight)
        loaded.load_state_dict(torch.load(path))
    agrees(loaded, net, images[:2])
    assert str(inspect.signature(loaded.forward)) == "(data)"
    torch.save(net, path)
    again = torch.load(path, weights_only=False)
    agrees(lambda image: again(image)["score"], net, images[:1])


@quiet
def test_trains_under_ddp(net: Net, images: list[Tensor], tmp_path: Path) -> None:
    plain = copy.deepcopy(net).train()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for function in (module := copy.deepcopy(net).train().as_module(), copy.deepcopy(module.net)):
            wrapped = nn.parallel.DistributedDataParallel(function)
            scores = wrapped(images[1])
            (scores if isinstance(scores, Tensor) else scores["score"]).square().mean().backward()
            plain.zero_grad()
            plain(images[1])["score"].square().mean().backward()
            for (name, ours), theirs in zip(function.named_parameters(), plain.parameters(), strict=True):
                assert (ours.grad is None) == (theirs.grad is None), name
                if ours.grad is not None and theirs.grad is not None:
                    torch.testing.assert_close(ours.grad, theirs.grad)
            assert any(ours.grad is not None and ours.grad.any() for ours in function.parameters())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("as_module", [False, True])
def test_runs_in_bfloat16(net: Net, images: list[Tensor], as_module: bool) -> None:
    half = copy.deepcopy(net)
    function = half.as_module() if as_module else half
    function.to(torch.bfloat16)
    assert all(parameter.dtype == torch.bfloat16 for parameter in half.parameters())
    top = function(images[0].bfloat16())
    assert_near(top if isinstance(top, Tensor) else top["score"], net(images[0])["score"])


def test_runs_under_autocast(net: Net, images: list[Tensor]) -> None:
    module = net.as_module()
    with torch.autocast("cpu", torch.bfloat16):
        top, blobs = module(images[0]), net(images[0], keep=["conv1_1"])
    assert blobs["conv1_1"].dtype == torch.bfloat16
    for score in (top, blobs["score"]):
        assert_near(score, net(images[0])["score"])
    top.float().square().mean().backward()
    grads = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert grads and all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)
    net.zero_grad()


def assert_near(score: Tensor, expected: Tensor) -> None:
    """Compare scores of bfloat16, which has 8 bits, through 21 layers."""
    assert score.dtype == torch.bfloat16
    assert (score - expected).abs().max() < 0.03 * expected.abs().max()


def test_a_runner_of_its_own_runs(net: Net, images: list[Tensor]) -> None:
    thrifty = copy.deepcopy(net).train()
    thrifty.make_runner = Thrift(checkpoint=True)
    plain = copy.deepcopy(net).train()
    grads = []
    for it in (thrifty, plain):
        torch.manual_seed(0)
        it.as_module()(images[1]).sum().backward()
        grads.append(it.layers["conv1_1"].weight.grad)
    assert np.array_equal(*grads) and grads[0].any()
