"""Train one stage: start it, train in steps, score after each, keep the best snapshot, continue where it stopped."""

from __future__ import annotations

import csv
import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from fcn_caffe.errors import SolverError
from fcn_caffe.evaluation.metrics import METRICS, NAMES
from fcn_caffe.evaluation.score import heads, leaves_out_absent, score_heads
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.progress import report
from fcn_caffe.models import Start
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.training.plan import Stage, classifier_of
from fcn_caffe.training.solver import Solver
from fcn_caffe.weights.surgery import interp, interpolated, transplant, widen
from fcn_caffe.weights.transfer import Weights, copy_weights, load_weights, net_weights, save_weights

COLUMNS = ("iteration", "head", *METRICS, "loss")

OnStep = Callable[[Solver], None]


@dataclass(frozen=True)
class Row:
    """One line of scores.csv: the metrics of one head at one iteration, and the test loss."""

    iteration: int
    head: str
    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    loss: float


@dataclass
class ScoreTable:
    """scores.csv in memory, rewritten whole each time so that it is never half a line."""

    path: Path
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> ScoreTable:
        """Read the file, or start an empty table where there is none. Raises: SolverError for another format."""
        if not path.is_file():
            return cls(path)
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = [
                    Row(int(line["iteration"]), line["head"], *(float(line[name]) for name in (*METRICS, "loss")))
                    for line in csv.DictReader(file)
                ]
        except (KeyError, TypeError, ValueError) as error:
            wanted = ", ".join(COLUMNS)
            raise SolverError(f"{path}: not a table of scores ({error}). Wanted columns: {wanted}.") from error
        return cls(path, rows)

    def write(self) -> None:
        """Write the file."""
        with atomic_write(self.path, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            # Floats are written with every digit, so that a table that was read back is the same table.
            writer.writerows(tuple(vars(row).values()) for row in self.rows)

    def forget_after(self, iteration: int) -> None:
        """Drop what was scored after an iteration that training goes back to."""
        self.rows = [row for row in self.rows if row.iteration <= iteration]

    def at(self, iteration: int) -> list[Row]:
        """The rows of one iteration, one a head."""
        return [row for row in self.rows if row.iteration == iteration]

    def mean_iu(self, iteration: int) -> float:
        """Mean IU at an iteration, averaged over the heads."""
        return float(np.mean([row.mean_iu for row in self.at(iteration)]))

    def best(self) -> int | None:
        """The iteration of the highest mean IU, the first of equals; None when nothing was scored."""
        iterations = dict.fromkeys(row.iteration for row in self.rows)
        return max(iterations, key=self.mean_iu, default=None)


@contextmanager
def undisturbed(net: Net) -> Iterator[None]:
    """Put the random states of torch, Python and NumPy, and the net's place in its data, back as they were."""
    python, numpy, data = random.getstate(), np.random.get_state(), net.data_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            net.load_data_state(data)


def start_from(net: Net, starts: Sequence[Start]) -> None:
    """Copy or transplant the weights a stage starts from into its net, and set every `up` deconvolution to bilinear
    interpolation. Inner products become convolutions where the net has those; a first convolution of more channels
    takes the mean of the old ones' filters for each. Source: the reference's solve scripts.

    An upsampling that the net learns keeps what an earlier stage learned; the reference's are all fixed.
    A convolutionalised classifier that is not there is made from the classifier, and kept.
    Raises: WeightsError when a file does not fit.
    """
    learned = {item.layer for item in net.learnable_params if item.lr_mult}
    kept: set[str] = set()
    for start in starts:
        path = Path(start.weights)
        classifier = None if path.is_file() else classifier_of(path)
        weights = load_weights(classifier or path)
        if start.how == "transplant" or classifier is not None or _dense(net, weights):
            copied = transplant(net, weights, start.suffix)
        else:
            copied = copy_weights(net, weights, path)
        narrow = None
        if start.wider is not None and start.widens(weights):
            layer, narrow = start.wider
            wide = widen(net, layer, weights, narrow, "mean")
            copied.copied, copied.coerced = copied.copied + wide.copied, copied.coerced + wide.coerced
            copied.ignored = [name for name in copied.ignored if name != narrow]
            copied.missing = [name for name in copied.missing if name != layer]
        kept.update(learned.intersection(copied.copied))
        report(f"{classifier or path}: {copied}")
        if classifier is not None:
            made = net_weights(net)
            save_weights(
                path,
                {
                    name: made.get(name, weights[name])  # the narrow layer as it was
                    for name in weights
                    if name == narrow or name in copied.copied
                },
            )
            report(f"{path}: made from {classifier}")
    interp(net, [name for name in interpolated(net) if name not in kept])


def _dense(net: Net, weights: Weights) -> bool:
    """Whether the weights have an inner product where the net has a convolution."""
    return any(
        name in net.params and net.params[name][0].ndim == 4 > arrays[0].ndim for name, arrays in weights.items()
    )


class Training:
    """One stage being trained.

    device: as Solver takes it. on_step: called after each iteration with the solver. resume: go on from the newest
    snapshot. Training that was interrupted and resumed ends in the same bytes as training that was not.
    Raises: SolverError, WeightsError, DataError.
    """

    def __init__(
        self, stage: Stage, device: str | None = None, *, on_step: OnStep | None = None, resume: bool = False
    ) -> None:
        self.stage = stage
        param = caffe_pb2.SolverParameter()
        param.CopyFrom(stage.param)
        param.ClearField("weights")  # the stage is started here, where inner products may become convolutions
        param.snapshot_prefix = str(stage.prefix)
        self.solver = Solver(param, device=device, path=stage.solver)
        if on_step is not None:
            self.solver.on_step.append(on_step)
        self.scores = ScoreTable(stage.folder / "scores.csv")
        taken = stage.snapshots()
        if resume and taken:
            state = stage.snapshot(taken[-1], ".solverstate")
            self.solver.restore(state)
            self.scores = ScoreTable.read(self.scores.path)
            self.scores.forget_after(self.solver.iter)
        else:
            start_from(self.solver.net, stage.starts)
            for iteration in taken:
                self._remove(iteration, ".solverstate", ".rngstate", ".caffemodel")

    def run(self) -> bool:
        """Train to the stage's last iteration and put the best snapshot at its result.

        Returns whether it got there. SIGINT stops it after a snapshot; then it has not.
        """
        stage, solver = self.stage, self.solver
        with solver.signals():
            while True:
                at = solver.iter
                if at and (at % stage.step == 0 or at == stage.last) and not self.scores.at(at):
                    # The snapshot comes first: should scoring be cut short, it is done again from there.
                    if at not in stage.snapshots():
                        solver.snapshot()
                    self._score()
                if at >= stage.last:
                    break
                solver.step(min(at - at % stage.step + stage.step, stage.last) - at)
                if solver.stopped:
                    return False
        self._finish()
        return True

    def _score(self) -> None:
        """Score every head on the first test net, note it, and drop the snapshots that are no longer needed."""
        net, at = self.solver.test_nets[0], self.solver.iter
        with undisturbed(net):
            found = score_heads(net, self.stage.param.test_iter[0], heads(net), leave_out_absent=leaves_out_absent(net))
        for head, scores in found.items():
            loss = math.nan if scores.loss is None else scores.loss
            metrics = scores.summary()
            self.scores.rows.append(Row(at, head, **metrics, loss=loss))
            numbers = ", ".join(f"{NAMES[name]} {value * 100:.2f}" for name, value in metrics.items())
            report(f"{self.stage.name}: iteration {at}, {head}: {numbers}, loss {loss:.6g}")
        self.scores.write()
        best = self.scores.best()
        for iteration in self.stage.snapshots():
            if iteration < at:
                self._remove(iteration, ".solverstate", ".rngstate")
        for path in self.stage.weights():
            if path not in (self.stage.snapshot(at), self.stage.snapshot(best or at)):
                path.unlink()

    def _finish(self) -> None:
        best = self.scores.best()
        assert best is not None  # the last iteration was scored
        self.stage.result.parent.mkdir(parents=True, exist_ok=True)
        with open(self.stage.snapshot(best), "rb") as source, atomic_write(self.stage.result) as file:
            shutil.copyfileobj(source, file, 1 << 20)
        report(f"{self.stage.name}: best at iteration {best}, copied to {self.stage.result}")

    def _remove(self, iteration: int, *suffixes: str) -> None:
        for suffix in suffixes:
            self.stage.snapshot(iteration, suffix).unlink(missing_ok=True)
