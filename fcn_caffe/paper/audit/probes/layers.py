"""What this package makes of a file's own layers and solver: run small, beside arithmetic that is written out here.

A file may say what the paper says and still run otherwise, so claims about files ask both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fcn_caffe.host.glog import silence_log
from fcn_caffe.net.net import Net
from fcn_caffe.paper.result import relative
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST, TRAIN
from fcn_caffe.training.solver import Solver
from fcn_caffe.weights.surgery import interp

__all__ = [
    "ALIGNED",
    "count_pixels_seen",
    "dropout_effect",
    "initial_value",
    "layer_distance",
    "loss_distance",
    "ramp_offsets",
    "step_distance",
    "train_regression",
]

ALIGNED = 0.01  # pixels that a ramp may be off by: float32, over thousands of sums
_SIZE, _MARGIN = (288, 320), 96  # of the ramp's image, and of its border, where the padding around it is seen
_WIDE = 800  # of the image whose pixels are counted: more than any score depends on
_DOWN, _ALONG = 3.0, 1.0  # the slopes of the ramp
_RATE, _STEPS, _TARGET, _START = (
    0.1,
    4,
    3.0,
    (1.0, 0.5),
)  # of the small regression; where it begins
_PASSES = 100  # a larger iter_size is reported, not run: no released solver uses it
_VOID = 255
# Fields of a solver that the small regression replaces, and random_seed, which would restart the process's own.
_REPLACED = (
    *("net", "train_net", "test_net", "net_param", "train_net_param", "test_net_param", "train_state", "test_state"),
    *("weights", "test_iter", "test_interval", "test_initialization", "snapshot", "display", "debug_info"),
    "random_seed",
)


def _net_of_layer(layer: caffe_pb2.LayerParameter, *shapes: Sequence[int]) -> caffe_pb2.NetParameter:
    """A net of one layer in any phase, its bottoms of these shapes, its top "top"."""
    net = caffe_pb2.NetParameter()
    bottoms = [f"bottom{index}" for index in range(len(shapes))]
    inputs = net.layer.add(name="input", type="Input", top=bottoms)
    for shape in shapes:
        inputs.input_param.shape.add(dim=shape)
    copy = net.layer.add()
    copy.CopyFrom(layer)
    for rule in ("include", "exclude", "phase", "bottom", "top"):
        copy.ClearField(rule)
    copy.bottom.extend(bottoms)
    copy.top.append("top")
    return net


# -- layers ------------------------------------------------------------------------------------------------------------


def loss_distance(layer: caffe_pb2.LayerParameter, normalize: bool) -> float:
    """Measure how far a softmax loss and its gradient, as run, are from the sum of -log p over labelled pixels.

    Args:
        layer: a SoftmaxWithLoss.
        normalize: divide the sum by the number of labelled pixels, else by that of images, here 2.

    Returns: the larger of both relative differences; infinite where no gradient comes.
    """
    generator = torch.Generator().manual_seed(0)
    score = torch.randn((2, 5, 6, 7), generator=generator)
    label = torch.randint(0, 5, (2, 1, 6, 7), generator=generator).float()
    label[0, 0, 1:4] = _VOID
    bottom = score.clone().requires_grad_()
    net = Net(_net_of_layer(layer, score.shape, label.shape), TRAIN)
    loss, _ = net.forward_loss({"bottom0": bottom, "bottom1": label})
    loss.backward()  # type: ignore[no-untyped-call]
    exact = score.double().exp() / score.double().exp().sum(1, keepdim=True)
    counted = (label != _VOID).double()
    true = torch.zeros_like(exact).scatter_(1, torch.where(label == _VOID, 0, label).long(), 1)
    divisor = float(counted.sum()) if normalize else 2.0
    wanted = -((true * exact.log()).sum(1, keepdim=True) * counted).sum() / divisor
    gradient = (exact - true) * counted / divisor
    if bottom.grad is None:
        return float("inf")
    return max(relative(loss.detach().double(), wanted), relative(bottom.grad.double(), gradient))


def layer_distance(layer: caffe_pb2.LayerParameter, kernel: int = 1, stride: int = 1, alpha: float = 0.0) -> float:
    """Measure how far a ReLU, a max pool or an LRN over five channels, as run, is from its definition.

    Args:
        layer: the layer.
        kernel: the pool's window; the last one hangs over the border where it would not reach it.
        stride: of the pool.
        alpha: of the LRN.
    """
    bottom = 100 * torch.randn((1, 8, 10, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        top = Net(_net_of_layer(layer, bottom.shape), TEST)(bottom0=bottom.clone())["top"]
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
    return relative(top, wanted)


def dropout_effect(layer: caffe_pb2.LayerParameter) -> tuple[float, float, float]:
    """Run a Dropout over ones.

    Returns: the share that is zero in training, the value of the others (NaN where they differ), and the largest
        change in testing.
    """
    ones = torch.ones((1, 1, 200, 200))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        train = Net(_net_of_layer(layer, ones.shape), TRAIN)(bottom0=ones.clone())["top"]
        test = Net(_net_of_layer(layer, ones.shape), TEST)(bottom0=ones.clone())["top"]
    kept = train[train != 0]
    rest = float(kept.mean()) if kept.numel() and bool((kept == kept[0]).all()) else float("nan")
    return 1 - kept.numel() / ones.numel(), rest, float((test - ones).abs().max())


def initial_value(layer: caffe_pb2.LayerParameter, channels: int = 4) -> float:
    """Read the one number that fills all blobs of a layer before weights are copied; NaN where there are several."""
    net = Net(_net_of_layer(layer, (1, channels, 3, 3)), TRAIN)
    values = [blob.detach().flatten() for blobs in net.params.values() for blob in blobs]
    least, most = torch.aminmax(torch.cat(values)) if values else (torch.zeros(()), torch.ones(()))
    return float(least) if least == most else float("nan")


# -- steps of a solver -------------------------------------------------------------------------------------------------


def train_regression(
    solver: caffe_pb2.SolverParameter,
    rates: Iterable[caffe_pb2.ParamSpec],
    fixed: Iterable[caffe_pb2.ParamSpec] = (),
) -> tuple[Tensor, Tensor]:
    """Train a small regression by a solver's own fields.

    The net fits w x + b, x = 1, to a number, by half the square of the difference. The rate is 0.1 in place of the
    solver's, at which no weight would move visibly.

    Args:
        solver: the fields.
        rates: the ParamSpecs of the layer that learns.
        fixed: those of a layer after it, which multiplies by 1 and should stay so.

    Returns: weight and bias after each step, (steps, 2), and the factor that should stay, (steps,).
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
    with silence_log():
        run = Solver(param)
        path, factors = [], []
        for _ in range(_STEPS):
            run.step(1)
            path.append(torch.cat([blob.detach().flatten() for blob in run.net.params["fit"]]))
            factors.append(run.net.params["factor"][0].detach().flatten()[0].clone())
    return torch.stack(path), torch.stack(factors)


def step_distance(
    solver: caffe_pb2.SolverParameter,
    rates: Iterable[caffe_pb2.ParamSpec],
    fixed: Iterable[caffe_pb2.ParamSpec],
    momentum: float,
    decay: float,
    multipliers: Sequence[tuple[float, float]],
) -> float:
    """Measure how far `train_regression` is from V = m V + rate (G + decay W), W = W - V.

    G is the mean gradient over the images of a step.

    Args:
        solver: as `train_regression` takes it.
        rates: as `train_regression` takes them.
        fixed: as `train_regression` takes them.
        momentum: m.
        decay: the weight decay.
        multipliers: of rate and decay, of the weight and of the bias.

    Returns: the relative difference; infinite where the fixed factor moves or iter_size is too large to run.
    """
    if solver.iter_size > _PASSES:
        return float("inf")
    path, factors = train_regression(solver, rates, fixed)
    values, history, wanted = list(_START), [0.0, 0.0], []
    for _ in range(_STEPS):
        difference = sum(values) - _TARGET
        for index, (rate, decays) in enumerate(multipliers):
            gradient = difference + decay * decays * values[index]
            history[index] = momentum * history[index] + _RATE * rate * gradient
        values = [value - moved for value, moved in zip(values, history, strict=True)]
        wanted.append(list(values))
    return relative(path.double(), torch.tensor(wanted).double()) if bool((factors == 1).all()) else float("inf")


# -- alignment and receptive fields ------------------------------------------------------------------------------------


def ramp_offsets(net: caffe_pb2.NetParameter) -> dict[str, float]:
    """Measure how many pixels each score of a net in its deploy form lies off its own pixel.

    A ramp over the image should be a ramp over the scores, at the same pixels, whatever windows are between. So the
    net keeps its windows, paddings and crops; every layer becomes one channel that passes on the middle of its window,
    pools take means, and the paths that are added up are counted.
    """
    passing = _one_channel_net(net, _SIZE)
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
    offsets = {}
    for blob, score in scores.items():
        fits = score.shape[2:] == ramp.shape
        off = score[0, 0][inside] / flat[blob][0, 0][inside] - ramp[inside] if fits else torch.tensor(float("inf"))
        offsets[blob] = float(off.abs().max())
    return offsets


def count_pixels_seen(net: caffe_pb2.NetParameter, blob: str) -> tuple[int, int]:
    """Count the rows and columns of the image that the middle of a blob depends on, by its gradient; at most 800.

    The net, in its deploy form, keeps its windows and paddings; each of its weights is 1, so that no path is lost.
    """
    summing = _one_channel_net(net, (_WIDE, _WIDE), blob)
    with torch.no_grad():
        for blobs in summing.params.values():
            blobs[0].fill_(1)
    image = torch.ones(summing.blob_shapes[summing.graph.inputs[0]], requires_grad=True)
    top = summing({summing.graph.inputs[0]: image})[blob]
    (gradient,) = torch.autograd.grad(top[0, 0, top.shape[2] // 2, top.shape[3] // 2], image)
    depends = gradient[0, 0] != 0
    return int(depends.any(1).sum()), int(depends.any(0).sum())


def _one_channel_net(net: caffe_pb2.NetParameter, size: Sequence[int], until: str | None = None) -> Net:
    """A deployed net with the same windows that only adds: one channel a layer, means for pools, nothing normalised."""
    copy = caffe_pb2.NetParameter()
    copy.CopyFrom(net)
    if until is not None:
        last = max(index for index, layer in enumerate(copy.layer) if until in layer.top)
        del copy.layer[last + 1 :]
    for layer in copy.layer:
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
    return Net(copy, TEST, stages=("deploy",))


def _middle(size: int) -> Tensor:
    """The middle of a window along an axis: one tap, or half of each of two."""
    taps = torch.zeros(size)
    taps[(size - 1) // 2] += 0.5
    taps[size // 2] += 0.5
    return taps
