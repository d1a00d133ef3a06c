"""Patchwise training is loss sampling: the identity, and what sampling costs and gains in training.

Source: Long et al., sections 3.4 and 4.3, Figure 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from statistics import fmean as mean

import numpy as np
import torch
from torch import Tensor

from fcn_caffe.data.sets import altering_layers
from fcn_caffe.net.coord_map import receptive_field
from fcn_caffe.net.net import Net
from fcn_caffe.net.net_spec import NetSpec, Top
from fcn_caffe.net.net_spec import layers as L
from fcn_caffe.net.net_spec import params as P
from fcn_caffe.net.rewrite.convolution_proof import fill_at_random
from fcn_caffe.paper.experiments.miniature import miniature
from fcn_caffe.paper.experiments.sampling_nets import sample_loss, with_change, with_data_options
from fcn_caffe.paper.result import Curve, Result, relative
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TRAIN

__all__ = ["SHARES", "running_mean", "sampling"]

SHARES = (1.0, 0.5, 0.25)  # of the loss that is kept
ITERATIONS, BATCH = 80, 4  # of the whole images' run; a sampled one has BATCH / share images a pass
RATE = 0.02
SMOOTH = 20  # iterations that a point of the curves is the mean of
FASTER = 0.9  # a mean loss below this share of the whole images' would be faster convergence

_CLASSES, _PLACES, _SIDE = 4, 6, 3  # of the small net: its map is 6x6, sampled in cells of 3x3
_VOID = altering_layers.VOID


def sampling(seed: int = 0, scale: float = 1.0) -> Result:
    """Compare the gradients of patches and of a sampled loss; then train FCN-32s on all, half and a quarter of it.

    The trained nets start from the classifier; each sees as much loss an iteration.

    Args:
        seed: of weights, images and samples.
        scale: share of the iterations.
    """
    result = Result(
        "sampling", "3.4, 4.3", "patches are a sample of the loss: no faster an iteration, and slower in time"
    )
    _identities(result, seed)
    runs = {share: _train(share, seed, scale) for share in SHARES}
    _compare(result, runs)
    return result


# -- the identity -------------------------------------------------------------------------------------------------


def _small_net(images: int, places: int, normalization: int = P.Loss.NONE) -> caffe_pb2.NetParameter:
    """A net without padding, of stride 4: a place of its map is the answer to a patch of its receptive field alone."""
    side = _field() + 4 * (places - 1)
    n = NetSpec()
    n.data = L.Input(input_param={"shape": [{"dim": [images, 3, side, side]}]})
    n.label = L.Input(input_param={"shape": [{"dim": [images, 1, places, places]}]})
    n.score = _scores(n)
    n.loss = L.SoftmaxWithLoss(n.score, n.label, loss_param={"ignore_label": _VOID, "normalization": normalization})
    net: caffe_pb2.NetParameter = n.to_proto()
    return net


def _scores(n: NetSpec) -> Top:
    n.conv1 = L.Convolution(n.data, num_output=6, kernel_size=5, stride=2)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=2, stride=2, round_mode=P.Pooling.FLOOR)
    n.conv2 = L.Convolution(n.pool1, num_output=8, kernel_size=3)
    n.relu2 = L.ReLU(n.conv2, in_place=True)
    scores: Top = L.Convolution(n.relu2, num_output=_CLASSES, kernel_size=1)
    return scores


def _field() -> int:
    n = NetSpec()
    n.data = L.Input(input_param={"shape": [{"dim": [1, 3, 64, 64]}]})
    n.score = _scores(n)
    return receptive_field(n.to_proto(), "score", "data").size


def _gradient(net: Net, data: Tensor, label: Tensor) -> Tensor:
    """The gradient of the loss by all weights, as one vector."""
    loss, _ = net.forward_loss({"data": data, "label": label})
    blobs = [item.blob for item in net.learnable_params]
    return torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, blobs)])


def _identities(result: Result, seed: int) -> None:
    whole = Net(_small_net(2, _PLACES), TRAIN)
    fill_at_random(whole, seed)
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(whole.blob_shapes["data"], generator=generator)
    label = torch.randint(_CLASSES, whole.blob_shapes["label"], generator=generator).float()
    full = _gradient(whole, data, label)

    options = {"keep": 0.5, "cell": 1, "seed": seed}
    sampled = Net(with_change(_small_net(2, _PLACES), "LossSampling", ["label"], ["label"], options), TRAIN)
    sampled.share_with(whole)
    masked = _gradient(sampled, data, label)
    sampled.load_data_state({"loss_sampling": {"seed": seed, "pass": 0}})
    kept = (sampled({"data": data, "label": label}, keep=["label"])["label"] != _VOID).nonzero()
    field = _field()
    patches = torch.stack(
        [data[image, :, 4 * row : 4 * row + field, 4 * column : 4 * column + field] for image, _, row, column in kept]
    )
    answers = torch.stack([label[tuple(place)] for place in kept])
    patchwise = Net(_small_net(len(kept), 1), TRAIN)
    patchwise.share_with(whole)
    result.equal(
        "gradient of patches, each by itself, beside that of a whole image's loss sampled at their places",
        relative(masked, _gradient(patchwise, patches, answers.reshape(-1, 1, 1, 1))),
    )
    result.remarks.append(f"the identity is tried on {len(kept)} patches of {field}x{field} of 2 random images")
    result.equal(
        "mean gradient over all samples of 4 cells, beside share x the whole one's",
        relative(_expected(whole, data, label, 0.25), 0.25 * full),
    )
    every = Net(with_change(_small_net(2, _PLACES), "LossSampling", ["label"], ["label"], {"keep": 1}), TRAIN)
    every.share_with(whole)
    result.equal("gradient with a share of 1 beside the whole one's", relative(_gradient(every, data, label), full), 0)


def _expected(net: Net, data: Tensor, label: Tensor, share: float) -> Tensor:
    """The gradients of every choice among 2x2 cells, weighed by how likely it is."""
    total = torch.zeros(())
    for choice in product((False, True), repeat=4):
        kept = np.array(choice).reshape(1, 2, 2).repeat(len(label), 0)
        sample = torch.from_numpy(altering_layers.ignore_cells(label.numpy(), kept, _SIDE))
        chance = share ** sum(choice) * (1 - share) ** (4 - sum(choice))
        total = total + chance * _gradient(net, data, sample)
    return total


# -- training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """One run: seconds and loss of each iteration, and the loss on the scenes that are scored."""

    seconds: list[float]
    losses: list[float]
    on_val: float

    def iterations_until(self, seconds: float) -> int:
        """Count the iterations that were done by then."""
        return sum(end <= seconds for end in self.seconds)


def _train(share: float, seed: int, scale: float) -> Training:
    """Train FCN-32s on this share of the loss."""
    mini = miniature(seed, scale)
    net = with_data_options(mini.net("shapes-fcn32s"), batch=round(BATCH / share))
    if share < 1:
        net = sample_loss(net, share)
    solver = mini.solver("shapes-fcn32s")
    solver.base_lr, solver.lr_policy = RATE, "fixed"
    solver.max_iter, solver.average_loss = mini.iterations(ITERATIONS), 1
    run = mini.train(net, solver, mini.stage("shapes-classifier").weights)
    return Training(run.seconds, [loss for _, loss in run.curve], float(run.scores.loss or 0))


def _compare(result: Result, runs: dict[float, Training]) -> None:
    whole = runs[1.0]
    iterations = len(whole.losses)
    late, last = 2 * iterations // 3, whole.seconds[-1]
    for share, run in runs.items():
        name = _name(share)
        result.measure(f"{name}: mean loss a pixel, all iterations", mean(run.losses))
        result.measure(f"{name}: mean loss a pixel, last third", mean(run.losses[late:]))
        result.measure(f"{name}: loss a pixel on the val scenes at the end", run.on_val)
        result.measure(f"{name}: seconds an iteration", run.seconds[-1] / iterations)
        if share == 1:
            continue
        ratio = mean(run.losses) / mean(whole.losses)
        result.measure(
            f"{name}: mean loss / whole images', all iterations", ratio, f"at least {FASTER:g}", ratio >= FASTER
        )
        slower = run.seconds[-1] / last
        result.measure(f"{name}: time / whole images'", slower, "above 1", slower > 1)
        done = run.iterations_until(last)
        result.measure(
            f"{name}: iterations done in the whole images' time", done, f"below {iterations}", done < iterations
        )
    result.curves = list(_curves(runs))
    result.remarks.append(
        f"{iterations} iterations of FCN-32s on generated scenes, from the classifier; {BATCH} whole images each, "
        f"or {', '.join(f'{round(BATCH / share)} at {_name(share)}' for share in SHARES[1:])}; "
        "the loss is that of the pixels trained on, and noisy"
    )


def _name(share: float) -> str:
    return "whole images" if share == 1 else f"{share:.0%} sampling"


def _curves(runs: dict[float, Training]) -> Iterator[Curve]:
    smooth = {share: running_mean(run.losses) for share, run in runs.items()}
    y = f"training loss a pixel (nats, mean of up to {SMOOTH} iterations)"
    steps = {_name(share): [(float(at), loss) for at, loss in enumerate(losses, 1)] for share, losses in smooth.items()}
    yield Curve("Loss sampling, by iteration", "iteration", y, steps)
    times = {_name(share): list(zip(runs[share].seconds, losses, strict=True)) for share, losses in smooth.items()}
    yield Curve("Loss sampling, by time", "training time (seconds)", y, times)


def running_mean(losses: list[float]) -> list[float]:
    """Average each loss with those before it, at most SMOOTH together."""
    return [mean(losses[max(0, at - SMOOTH) : at]) for at in range(1, len(losses) + 1)]
