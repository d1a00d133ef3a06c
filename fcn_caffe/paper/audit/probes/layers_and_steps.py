"""What this package makes of a file's own layers and solver: run small, beside arithmetic that is written out here.

A file may say what the paper says and still be run otherwise, so claims about files ask both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fcn_caffe.host.glog import silenced
from fcn_caffe.net.net import Net
from fcn_caffe.paper.result import relative
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.training.solver import Solver
from fcn_caffe.weights.surgery import interp

__all__ = ["ALIGNED", "dropped", "learned", "loss_apart", "plain_apart", "ramp_apart", "seen", "started", "step_apart"]

ALIGNED = 0.01  # pixels: what a ramp may be off by, over thousands of sums in float32
_SIZE, _MARGIN = (288, 320), 96  # of the ramp's image, and where the padding around it is seen
_WIDE = 800  # of the image that is looked over: what the middle sees, and more
_DOWN, _ALONG = 3.0, 1.0  # how steep the ramp is
_RATE, _STEPS, _TARGET, _START = 0.1, 4, 3.0, (1.0, 0.5)  # of the small regression, where it ends and begins
_PASSES = 100  # more images a step are not run: the table of solvers asks for no such
_VOID = 255
# What a small net of one's own takes the place of, and what starts the process's random numbers anew.
_REPLACED = (
    *("net", "train_net", "test_net", "net_param", "train_net_param", "test_net_param", "train_state", "test_state"),
    *("weights", "test_iter", "test_interval", "test_initialization", "snapshot", "display", "debug_info"),
    "random_seed",
)


def _alone(layer: Any, *shapes: Sequence[int]) -> Any:
    """A net of one layer, whose bottoms are given, in any phase."""
    net = caffe_pb2.NetParameter()
    bottoms = [f"bottom{index}" for index in range(len(shapes))]
    given = net.layer.add(name="input", type="Input", top=bottoms)
    for shape in shapes:
        given.input_param.shape.add(dim=shape)
    made = net.layer.add()
    made.CopyFrom(layer)
    for rule in ("include", "exclude", "phase", "bottom", "top"):
        made.ClearField(rule)
    made.bottom.extend(bottoms)
    made.top.append("made")
    return net


def loss_apart(layer: Any, normalize: bool) -> float:
    """How far a softmax loss and its gradient, as run, are from the sum of -log p over labelled pixels.

    normalize: whether that is divided by the number of labelled pixels, or by that of images, here 2.
    """
    generator = torch.Generator().manual_seed(0)
    score = torch.randn((2, 5, 6, 7), generator=generator)
    label = torch.randint(0, 5, (2, 1, 6, 7), generator=generator).float()
    label[0, 0, 1:4] = _VOID
    given = score.clone().requires_grad_()
    loss, _ = Net(_alone(layer, score.shape, label.shape), TRAIN).forward_loss({"bottom0": given, "bottom1": label})
    loss.backward()  # type: ignore[no-untyped-call]
    exact = score.double().exp() / score.double().exp().sum(1, keepdim=True)
    counted = (label != _VOID).double()
    true = torch.zeros_like(exact).scatter_(1, torch.where(label == _VOID, 0, label).long(), 1)
    divisor = float(counted.sum()) if normalize else 2.0
    wanted = -((true * exact.log()).sum(1, keepdim=True) * counted).sum() / divisor
    slope = (exact - true) * counted / divisor
    if given.grad is None:
        return float("inf")
    return max(relative(loss.detach().double(), wanted), relative(given.grad.double(), slope))


def plain_apart(layer: Any, kernel: int = 1, stride: int = 1, alpha: float = 0.0) -> float:
    """How far a ReLU, a pool of largest values or an LRN over five channels, as run, is from its definition.

    kernel, stride: of the pool, whose last windows hang over the border where they would not reach it. alpha: of LRN.
    """
    bottom = 100 * torch.randn((1, 8, 10, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = Net(_alone(layer, bottom.shape), TEST)(bottom0=bottom.clone())["made"]
    if layer.type == "ReLU":
        wanted = torch.where(bottom > 0, bottom, 0)
    elif layer.type == "LRN":
        near = [bottom[:, max(0, at - 2) : at + 3].square().sum(1) for at in range(bottom.shape[1])]
        wanted = bottom / (1 + alpha / 5 * torch.stack(near, 1)) ** 0.75
    else:
        rows, columns = (range(0, size - kernel + stride, stride) for size in bottom.shape[2:])
        largest = [
            bottom[:, :, down : down + kernel, right : right + kernel].amax((2, 3))
            for down in rows
            for right in columns
        ]
        wanted = torch.stack(largest, -1).reshape(1, bottom.shape[1], len(rows), len(columns))
    return relative(found, wanted)


def dropped(layer: Any) -> tuple[float, float, float]:
    """Of values of 1: the share that training makes zero, what the others become, and the largest change in testing."""
    ones = torch.ones((1, 1, 200, 200))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        trained = Net(_alone(layer, ones.shape), TRAIN)(bottom0=ones.clone())["made"]
        tested = Net(_alone(layer, ones.shape), TEST)(bottom0=ones.clone())["made"]
    kept = trained[trained != 0]
    rest = float(kept.mean()) if kept.numel() and bool((kept == kept[0]).all()) else float("nan")
    return 1 - kept.numel() / ones.numel(), rest, float((tested - ones).abs().max())


def started(layer: Any, channels: int = 4) -> float:
    """The one number that all blobs of a layer hold before any weights are copied; NaN where they hold several."""
    net = Net(_alone(layer, (1, channels, 3, 3)), TRAIN)
    values = [blob.detach().flatten() for blobs in net.params.values() for blob in blobs]
    least, most = torch.aminmax(torch.cat(values)) if values else (torch.zeros(()), torch.ones(()))
    return float(least) if least == most else float("nan")


def learned(solver: Any, rates: Sequence[Any], fixed: Sequence[Any] = ()) -> tuple[Tensor, Tensor]:
    """A weight and its bias after each step of a small regression that a solver's own fields train.

    The net fits w x + b, x = 1, to a number, by half the square of what is missing. rates, fixed: the ParamSpecs of the
    layer that learns, and of one after it that multiplies by 1 and should stay so. The rate is 0.1 in place of the
    solver's, at which nothing would be seen to move. Shapes: (steps, 2), and (steps) of the factor that is fixed.
    """
    param = caffe_pb2.SolverParameter()
    param.CopyFrom(solver)
    for name in _REPLACED:
        param.ClearField(name)
    param.base_lr, param.solver_mode = _RATE, caffe_pb2.SolverParameter.CPU
    net = param.net_param
    data = net.layer.add(name="data", type="DummyData", top=["x", "target"])
    for value in (1.0, _TARGET):
        data.dummy_data_param.shape.add(dim=[1, 1, 1, 1])
        data.dummy_data_param.data_filler.add(type="constant", value=value)
    fit = net.layer.add(name="fit", type="Convolution", bottom=["x"], top=["fit"], param=rates)
    factor = net.layer.add(name="factor", type="Deconvolution", bottom=["fit"], top=["factor"], param=fixed)
    for layer, fillers in ((fit, _START), (factor, (1.0, 0.0))):
        options = layer.convolution_param
        options.num_output, options.bias_term = 1, layer is fit
        options.kernel_size.append(1)
        options.weight_filler.type, options.weight_filler.value = "constant", fillers[0]
        options.bias_filler.type, options.bias_filler.value = "constant", fillers[1]
    net.layer.add(name="loss", type="EuclideanLoss", bottom=["factor", "target"], top=["loss"])
    with silenced():
        run = Solver(param)
        path, factors = [], []
        for _ in range(_STEPS):
            run.step(1)
            path.append(torch.cat([blob.detach().flatten() for blob in run.net.params["fit"]]))
            factors.append(run.net.params["factor"][0].detach().flatten()[0].clone())
    return torch.stack(path), torch.stack(factors)


def step_apart(
    solver: Any,
    rates: Sequence[Any],
    fixed: Sequence[Any],
    momentum: float,
    decay: float,
    multipliers: Sequence[tuple[float, float]],
) -> float:
    """How far `learned` is from V = m V + rate (G + decay W), W = W - V; infinite where the fixed factor moved.

    G is the mean over the images of a step. multipliers: of rate and decay, of the weight and of the bias.
    """
    if solver.iter_size > _PASSES:
        return float("inf")
    found, factors = learned(solver, rates, fixed)
    values, history, path = list(_START), [0.0, 0.0], []
    for _ in range(_STEPS):
        missing = sum(values) - _TARGET
        for index, (rate, decayed) in enumerate(multipliers):
            pull = missing + decay * decayed * values[index]
            history[index] = momentum * history[index] + _RATE * rate * pull
        values = [value - moved for value, moved in zip(values, history, strict=True)]
        path.append(list(values))
    return relative(found.double(), torch.tensor(path).double()) if bool((factors == 1).all()) else float("inf")


def ramp_apart(net: Any) -> dict[str, float]:
    """How many pixels each score of a net in its deploy form lies off the pixel that it is of.

    A ramp over the image should be a ramp over the scores, at the same pixels, whatever windows are between. So the
    net keeps its windows, paddings and crops; every layer becomes one channel that passes on the middle of its window,
    pools give means, and the paths that are added are counted.
    """
    passing = _of_one_channel(net, _SIZE)
    interp(passing)
    with torch.no_grad():
        for node in passing.graph.nodes:
            blobs = passing.params.get(node.name, [])
            if node.type == "Scale" and blobs:
                blobs[0].fill_(1)
            if node.type == "Convolution":
                window = torch.ones(())
                for size in blobs[0].shape[2:]:
                    window = window[..., None] * _middle(size)
                blobs[0].zero_()[0, 0] = window
        rows, columns = (torch.arange(float(size)) for size in _SIZE)
        ramp = _DOWN * rows[:, None] + _ALONG * columns
        images = {blob: ramp.expand(passing.blob_shapes[blob]).contiguous() for blob in passing.graph.inputs}
        flat = passing({blob: torch.ones_like(image) for blob, image in images.items()})
        scores = passing(images)
    inside = tuple(slice(_MARGIN, size - _MARGIN) for size in _SIZE)
    found = {}
    for blob, score in scores.items():
        there = score.shape[2:] == ramp.shape
        off = score[0, 0][inside] / flat[blob][0, 0][inside] - ramp[inside] if there else torch.tensor(float("inf"))
        found[blob] = float(off.abs().max())
    return found


def seen(net: Any, blob: str) -> tuple[int, int]:
    """How many rows and columns of the image the middle of a blob depends on, by its gradient, at most 800.

    The net, in its deploy form, keeps its windows and paddings; each of its weights is 1, so that no path is lost.
    """
    summing = _of_one_channel(net, (_WIDE, _WIDE), blob)
    with torch.no_grad():
        for blobs in summing.params.values():
            blobs[0].fill_(1)
    image = torch.ones(summing.blob_shapes[summing.graph.inputs[0]], requires_grad=True)
    made = summing({summing.graph.inputs[0]: image})[blob]
    (slope,) = torch.autograd.grad(made[0, 0, made.shape[2] // 2, made.shape[3] // 2], image)
    there = slope[0, 0] != 0
    return int(there.any(1).sum()), int(there.any(0).sum())


def _of_one_channel(net: Any, size: Sequence[int], until: str | None = None) -> Net:
    """A deployed net of the same windows that only adds: one channel a layer, means for pools, nothing normalised."""
    made = caffe_pb2.NetParameter()
    made.CopyFrom(net)
    if until is not None:
        last = max(index for index, layer in enumerate(made.layer) if until in layer.top)
        del made.layer[last + 1 :]
    for layer in made.layer:
        for shape in layer.input_param.shape:
            shape.dim[2:] = size
        if layer.type in ("Convolution", "Deconvolution"):
            layer.convolution_param.num_output = layer.convolution_param.group = 1
            layer.convolution_param.ClearField("weight_filler")
            layer.convolution_param.ClearField("bias_filler")
        if layer.type == "Pooling":
            layer.pooling_param.pool = caffe_pb2.PoolingParameter.AVE
        if layer.type == "LRN":
            layer.lrn_param.alpha, layer.lrn_param.k = 0, 1
    return Net(made, TEST, stages=("deploy",))


def _middle(size: int) -> Tensor:
    """The middle of a window along an axis: one tap, or half of each of two."""
    taps = torch.zeros(size)
    taps[(size - 1) // 2] += 0.5
    taps[size // 2] += 0.5
    return taps
