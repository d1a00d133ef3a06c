"""The paper's recipe in miniature: stages on the generated scenes, trained in memory, that experiments start from.

It is the recipe of models/shapes.py, trained by the package's Solver, in half the iterations.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from fcn_caffe.data.sets import shapes_scenes as scenes
from fcn_caffe.errors import SolverError
from fcn_caffe.evaluation.metrics import ConfusionMatrix, Scores
from fcn_caffe.evaluation.score import score_net
from fcn_caffe.models import shapes
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.proto.phases import TEST
from fcn_caffe.training.solver import Solver
from fcn_caffe.weights.surgery import interp, transplant, upsampling_layers
from fcn_caffe.weights.transfer import Weights, net_weights

__all__ = ["ONE_ANSWER", "SHARE", "Miniature", "Run", "begin", "miniature"]

# Of the recipe's iterations, at scale 1: all stages take about two minutes of one core, and Table 2's order stays.
SHARE = 0.5
# Mean IU in per cent that a net which answers one class everywhere cannot exceed: that class's IU is 1 at most, the
# others' are 0. Two nets below it have not learned yet; to compare them would say nothing.
ONE_ANSWER = 100 / len(scenes.CLASSES)

OnStep = Callable[[Solver], None]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        weights: what the net learned.
        curve: (iteration from 1, training loss a pixel) of every iteration; the loss is the mean of the last
            `average_loss` ones.
        seconds: since the start, one for each point of the curve: forward, backward and update, without the data layers
            and `on_step`.
        scores: on the val scenes; NaN, of no pixels, where no scores were wanted.
    """

    weights: Weights
    curve: list[tuple[int, float]]
    seconds: list[float]
    scores: Scores


def begin(net: Net, weights: Weights | None) -> None:
    """Start a net as a stage of the recipe starts.

    Weights are copied by layer name, inner products as convolutions; other upsampling layers become bilinear.

    Raises: WeightsError where a layer does not fit.
    """
    copied = set(transplant(net, weights).copied) if weights is not None else set()
    learned = {item.layer for item in net.learnable_params if item.lr_mult}
    interp(net, [name for name in upsampling_layers(net) if name not in copied & learned])


class Miniature:
    """The shapes recipe in memory: each stage is trained once, nothing is written to disk.

    Args:
        seed: of the fillers and the training images; the val scenes stay the same.
        scale: of the iterations, which are SHARE of the recipe's at scale 1; below 1 of the val scenes too.

    Raises: SolverError for a seed below 0 or a scale that is not positive and finite.
    """

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        if seed < 0 or not 0 < scale < float("inf"):
            raise SolverError(f"the miniature takes a seed of 0 or more and a scale above 0, got {seed} and {scale}.")
        self.seed, self.scale = seed, scale
        self.stages: dict[str, Run] = {}

    def iterations(self, count: float) -> int:
        """Scale a number of iterations; at least 2."""
        return max(2, round(count * self.scale))

    def net(self, name: str) -> caffe_pb2.NetParameter:
        """Make the net of a stage, for training and scoring. Raises: SolverError for an unknown stage."""
        _check(name)
        make = shapes.classifier if name == "shapes-classifier" else shapes.fcn
        net: caffe_pb2.NetParameter = make(name, shapes.SEED + self.seed)
        return net

    def solver(self, name: str) -> caffe_pb2.SolverParameter:
        """Make the solver of a stage at this scale. Raises: SolverError for an unknown stage."""
        _check(name)
        param: caffe_pb2.SolverParameter = shapes.solver(name, shapes.SEED + self.seed)
        param.max_iter = self.iterations(SHARE * param.max_iter)
        return param

    def stage(self, name: str) -> Run:
        """Train a stage of the recipe from the one before, once. Raises: SolverError for an unknown stage."""
        if name not in self.stages:
            net, solver, before = self.net(name), self.solver(name), shapes.RECIPES[name].starts_from
            start = None if before is None else self.stage(before).weights
            self.stages[name] = self.train(net, solver, start, score=before is not None)
        return self.stages[name]

    def train(
        self,
        net: caffe_pb2.NetParameter,
        solver: caffe_pb2.SolverParameter,
        start: Weights | None,
        *,
        score: bool = True,
        on_step: OnStep | None = None,
    ) -> Run:
        """Train a net to the solver's max_iter, and score it.

        The process's random states stay as they are.

        Args:
            net: the net.
            solver: its net, weights and snapshots are ignored.
            start: the weights to start from.
            score: score on the val scenes.
            on_step: called after each update.

        Raises: SolverError, WeightsError, DataError.
        """
        param = caffe_pb2.SolverParameter()
        param.CopyFrom(solver)
        for field in ("net", "weights", "test_iter", "snapshot"):
            param.ClearField(field)
        param.net_param.CopyFrom(net)
        param.display, param.snapshot_after_train = 0, False
        with _own_random_states():
            trainer = Solver(param, device="cpu")
            begin(trainer.net, start)
            curve, seconds = _run_steps(trainer, on_step)
        weights = {name: [blob.copy() for blob in blobs] for name, blobs in net_weights(trainer.net).items()}
        scores = self.score(net, weights) if score else ConfusionMatrix(len(scenes.CLASSES)).scores()
        return Run(weights, curve, seconds, scores)

    def score(self, param: caffe_pb2.NetParameter, weights: Weights) -> Scores:
        """Score a net with these weights on the val scenes. Raises: WeightsError, DataError."""
        with _own_random_states():  # fillers draw on them
            net = Net(param, TEST)
        transplant(net, weights)
        passes = round(min(self.scale, 1) * shapes.VAL_IMAGES / shapes.VAL_BATCH)
        return score_net(net, max(1, passes))


def _check(name: str) -> None:
    if name not in shapes.RECIPES:
        raise SolverError(f"the recipe has no stage {name!r}. It has {', '.join(shapes.RECIPES)}.")


def _run_steps(solver: Solver, on_step: OnStep | None) -> tuple[list[tuple[int, float]], list[float]]:
    """Train to the end. SIGINT interrupts at once, as the solver's own handlers are not installed."""
    curve: list[tuple[int, float]] = []
    seconds: list[float] = []
    spent, resumed = 0.0, 0.0

    def pause(*_: object) -> None:
        nonlocal spent
        spent += time.perf_counter() - resumed

    def go_on(*_: object) -> None:
        nonlocal resumed
        resumed = time.perf_counter()

    def note(solver: Solver) -> None:
        pause()
        curve.append((solver.iter, solver.smoothed_loss))
        seconds.append(spent)
        if on_step is not None:
            on_step(solver)
        go_on()

    solver.on_step.append(note)
    for node in solver.net.graph.nodes:
        if not node.bottoms:
            solver.net.layers[node.name].register_forward_pre_hook(pause)
            solver.net.layers[node.name].register_forward_hook(go_on)
    go_on()
    solver.step(solver.param.max_iter)
    return curve, seconds


@contextmanager
def _own_random_states() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@cache
def miniature(seed: int = 0, scale: float = 1.0) -> Miniature:
    """Return the process's miniature for a seed and a scale, so that experiments share its stages."""
    return Miniature(seed, scale)
