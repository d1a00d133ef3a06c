"""Train one stage: start it from weights, train in steps, score after each step and keep the best snapshot."""

from __future__ import annotations

import csv
import math
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcn_caffe.errors import FcnCaffeError, SolverError
from fcn_caffe.evaluation.infer import net_mean
from fcn_caffe.evaluation.metrics import METRICS, NAMES, Scores
from fcn_caffe.evaluation.net_inputs import source_preprocessing, trained_preprocessing
from fcn_caffe.evaluation.samples import Sample, Samples
from fcn_caffe.evaluation.score import OnSample, heads, is_scored_without_absent, score_heads
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.progress import report
from fcn_caffe.host.ranks import ALONE, Ranks
from fcn_caffe.host.tables import Table
from fcn_caffe.models import Start
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.training.plan import Stage, classifier_of
from fcn_caffe.training.solver import Solver
from fcn_caffe.training.solver.one_run import only_run
from fcn_caffe.weights.blobs import Fit, fit
from fcn_caffe.weights.record import recorded, remove_weights
from fcn_caffe.weights.surgery import interp, transplant, upsampling_layers, widen
from fcn_caffe.weights.transfer import CopyReport, Weights, copy_weights, load_weights, net_weights, save_weights

MOST_ITERATIONS = 2**31 - 1  # an int32 of caffe.proto
COLUMNS = ("iteration", "head", *METRICS, "loss")

OnStep = Callable[[Solver], None]
OnScores = Callable[["Scoring"], None]


@dataclass(frozen=True)
class Row:
    """One line of scores.csv: the metrics and the test loss of one head at one iteration."""

    iteration: int
    head: str
    pixel_accuracy: float
    mean_accuracy: float
    mean_iu: float
    frequency_weighted_iu: float
    loss: float


@dataclass(frozen=True)
class Scoring:
    """What is known of a stage after one scoring.

    Attributes:
        iteration: how far the stage was trained.
        scores: of each head.
        is_best: whether no earlier scoring of the stage was as good.
        first: the first images that were scored, by this process.
        ends: `best` and `worst` images, as `Sample.record` has them.
    """

    iteration: int
    scores: Mapping[str, Scores]
    is_best: bool
    first: Sequence[Sample]
    ends: Mapping[str, Sequence[Mapping[str, Any]]]


def _iteration(text: str) -> int:
    iteration = int(text)
    if not 0 <= iteration <= MOST_ITERATIONS:
        raise ValueError(f"an iteration of {iteration.bit_length()} bits")
    return iteration


@dataclass
class ScoreTable:
    """The rows of scores.csv. The file is rewritten whole each time, so that no line is ever cut short."""

    path: Path
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> ScoreTable:
        """Read a file, or start an empty table where there is none.

        Raises:
            SolverError: the file is not a table of scores.
        """
        if not path.is_file():
            return cls(path)
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows = [
                    Row(
                        _iteration(line["iteration"]),
                        line["head"],
                        *(float(line[name]) for name in (*METRICS, "loss")),
                    )
                    for line in csv.DictReader(file)
                ]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
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
        """Delete the rows after an iteration, to which training goes back."""
        self.rows = [row for row in self.rows if row.iteration <= iteration]

    def at(self, iteration: int) -> list[Row]:
        """List the rows of one iteration, one for each head."""
        return [row for row in self.rows if row.iteration == iteration]

    def mean_iu(self, iteration: int) -> float:
        """Return the mean IU at an iteration, averaged over the heads."""
        return float(np.mean([row.mean_iu for row in self.at(iteration)]))

    def best(self) -> int | None:
        """Return the iteration of the highest mean IU, the first of equals; None where nothing was scored."""
        iterations = dict.fromkeys(row.iteration for row in self.rows)
        return max(iterations, key=self.mean_iu, default=None)

    def tests_since_best(self) -> int:
        """Return how many times the net was scored since its best."""
        best = self.best()
        return len({row.iteration for row in self.rows if best is not None and row.iteration > best})


@contextmanager
def keep_random_state(net: Net) -> Iterator[None]:
    """Put the random states of torch, Python and NumPy, and the net's place in its data, back after the block."""
    python, numpy, data = random.getstate(), np.random.get_state(), net.data_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            net.load_data_state(data)


def _known_mean(stage: Stage) -> tuple[float, ...] | None:
    """Return the BGR mean that the stage's data layer subtracts; None where it is not known, or is not all it does."""
    try:
        return net_mean(stage.net, stage.paths)
    except FcnCaffeError:
        return None


def start_from(net: Net, starts: Sequence[Start]) -> None:
    """Fill a stage's net from the weight files that it starts from; interpolate in its `up` deconvolutions.

    An upsampling that the net learns keeps the weights of an earlier stage; every other one becomes bilinear.
    A convolutional classifier that is not on disk is made from the classifier it is published as, and saved.

    Raises:
        WeightsError: a file cannot be read, or does not fit.
    Source: the reference's solve scripts, whose upsampling is always fixed.
    """
    learned = {item.layer for item in net.learnable_params if item.lr_mult}
    kept: set[str] = set()
    for start in starts:
        kept |= learned.intersection(_copy_start(net, start).copied)
    interp(net, [name for name in upsampling_layers(net) if name not in kept])


def _copy_start(net: Net, start: Start) -> CopyReport:
    """Copy one weight file into the net, from the published classifier where the file itself is not there."""
    path = Path(start.weights)
    classifier = None if path.is_file() else classifier_of(path)
    weights = load_weights(classifier or path)
    if start.how == "transplant" or classifier is not None or _has_inner_products(net, weights):
        copied = transplant(net, weights, start.suffix)
    else:
        copied = copy_weights(net, weights, path)
    names = set(copied.copied)
    if start.wider is not None and start.can_widen(weights):
        layer, narrow = start.wider
        _widen(net, layer, weights, narrow, copied)
        names = {narrow, *copied.copied}
    report(f"{classifier or path}: {copied}")
    if classifier is not None:
        convolutional = net_weights(net)
        # The net has no narrow layer: that one stays as it was.
        whole = {name: convolutional.get(name, weights[name]) for name in weights if name in names}
        with recorded(path, source_preprocessing(classifier)) as place:
            save_weights(place, whole)
        report(f"{path}: made from {classifier}")
    return copied


def _has_inner_products(net: Net, weights: Weights) -> bool:
    """Say whether the weights have an inner product where the net has a convolution; old files give it 4 axes, too."""
    return any(
        name in net.params
        and net.params[name][0].ndim == 4
        and (arrays[0].ndim < 4 or (arrays[0].shape[:2] == (1, 1) and fit(arrays[0], net.params[name][0]) is Fit.COUNT))
        for name, arrays in weights.items()
    )


def _widen(net: Net, layer: str, weights: Weights, narrow: str, copied: CopyReport) -> None:
    """Fill a layer from one of fewer channels, with the mean filter for each channel more; add it to the report."""
    wide = widen(net, layer, weights, narrow, "mean")
    copied.copied, copied.coerced = copied.copied + wide.copied, copied.coerced + wide.coerced
    copied.ignored = [name for name in copied.ignored if name != narrow]
    copied.missing = [name for name in copied.missing if name != layer]


def best_scores(stages: Sequence[Stage]) -> Table:
    """Return the best scores of each stage, in per cent, one row for each head that is scored."""
    rows = []
    for stage in stages:
        scores = ScoreTable.read(stage.scores)
        for row in scores.at(scores.best() or 0):
            head = f" ({row.head})" if row.head != "score" else ""
            rows.append((stage.name + head, *(f"{getattr(row, name) * 100:.1f}" for name in METRICS)))
    return Table(("stage", *NAMES.values()), rows)


class _Stopped(Exception):
    """A signal ends the scoring."""


class Training:
    """The training of one stage: `Training(stage).run()`.

    Training that was interrupted and resumed ends in the same bytes as training that was not.

    Args:
        stage: what to train.
        device: the device, as Solver takes it.
        on_step: a function that gets the solver after each iteration.
        resume: continue from the newest snapshot.
        checkpoint: as Solver takes it.
        amp: as Solver takes it.
        rewrite: as Solver takes it.
        fast: as Solver takes it.
        ranks: as Solver takes them; rank 0 writes the files.
        sync_bn: as Solver takes it.
        normalize_over_ranks: as Solver takes it.
        shard_history: as Solver takes it.
        patience: end the stage early, when it was scored so many times without a better mean IU; never where None.
        older: other stages whose snapshots go once this one can begin.
    Attributes:
        on_scores: functions to call after each scoring; on rank 0.
        is_done: whether `run` came to the stage's end.
    Raises:
        SolverError, WeightsError, DataError: the stage cannot start.
    """

    def __init__(
        self,
        stage: Stage,
        device: str | None = None,
        *,
        on_step: OnStep | None = None,
        resume: bool = False,
        checkpoint: bool = False,
        amp: str | None = None,
        rewrite: Callable[[Net], Net] = lambda net: net,
        fast: bool = False,
        ranks: Ranks = ALONE,
        sync_bn: bool = False,
        normalize_over_ranks: bool = False,
        shard_history: bool = False,
        patience: int | None = None,
        older: Sequence[Stage] = (),
    ) -> None:
        self.stage, self.ranks, self.patience, self.older = stage, ranks, patience, older
        self.on_scores, self.is_done = list[OnScores](), False
        param = caffe_pb2.SolverParameter()
        param.CopyFrom(stage.param)
        param.ClearField("weights")  # start_from copies them, and turns inner products into convolutions
        param.snapshot_prefix = str(stage.prefix)
        self.solver = Solver(
            param,
            device=device,
            path=stage.solver,
            paths=stage.paths,
            checkpoint=checkpoint,
            amp=amp,
            rewrite=rewrite,
            blob_counts=stage.blob_counts(),
            fast=fast,
            ranks=ranks,
            sync_bn=sync_bn,
            normalize_over_ranks=normalize_over_ranks,
            shard_history=shard_history,
            check_memory=True,
        )
        if on_step is not None:
            self.solver.on_step.append(on_step)
        self.scores = ScoreTable(stage.scores)
        self._mean = _known_mean(stage)
        self._start(resume)

    def _start(self, resume: bool) -> None:
        """Fill the net, while no other run may have the stage's snapshots."""
        self.solver.keep_prefix()
        try:
            starts = self._fill(self.ranks.from_first(self.stage.snapshots()) if resume else [])
            self.solver.preprocessing = self.preprocessing = trained_preprocessing(self.solver.net, starts)
            self.solver.choose_ways()
        except BaseException:
            self.solver.give_up_prefix()
            raise

    def _fill(self, iterations: Sequence[int]) -> list[Path]:
        """Start from the newest of the snapshots, else as the stage says; return the files of weights."""
        stage = self.stage
        if iterations:
            self._forget(self.older)
            self.solver.restore(stage.snapshot(iterations[-1], ".solverstate"))
            self.scores = ScoreTable.read(self.scores.path)
            self.scores.forget_after(self.solver.iter)
            if self.ranks.is_first and self.scores.at(self.solver.iter):
                self._tidy(self.solver.iter)  # as far as a kill left it undone
            return [*stage.sources, stage.snapshot(iterations[-1])]
        with self.ranks.first_before_others():  # it may write weights that others then read
            start_from(self.solver.net, stage.starts)
        self._forget([*self.older, stage])  # only now: weights that do not fit destroy no older run
        if self.ranks.is_first:
            self.scores.path.unlink(missing_ok=True)  # an earlier run's rows would pass for this one's, if it resumes
        return stage.sources

    def _forget(self, stages: Sequence[Stage]) -> None:
        for stage in stages if self.ranks.is_first else ():
            with only_run(stage.prefix):
                stage.forget_snapshots()

    def run(self) -> bool:
        """Train to the stage's last iteration, or until patience ends, and copy the best snapshot to the result.

        Returns:
            True at the end; False where a signal stopped the training, after a snapshot.
        """
        try:
            self.is_done = self._run()
        finally:
            self.solver.give_up_prefix()
        return self.is_done

    def _run(self) -> bool:
        stage, solver = self.stage, self.solver
        with solver.signals():
            while True:
                at = solver.iter
                if at and (at % stage.step == 0 or at == stage.last) and not self.scores.at(at):
                    # The snapshot comes first: if scoring is interrupted, it is repeated from there.
                    if not self.ranks.from_first(at in stage.snapshots()):
                        solver.snapshot()
                    try:
                        self._score()
                    except _Stopped:
                        return False
                if at >= stage.last or self._is_out_of_patience():
                    break
                solver.step(min(at - at % stage.step + stage.step, stage.last) - at)
                if solver.stopped:
                    return False
        with self.ranks.all_or_none():
            if self.ranks.is_first:
                self._finish()
        return True

    def _is_out_of_patience(self) -> bool:
        if self.patience is None or self.scores.tests_since_best() < self.patience:
            return False
        report(
            f"{self.stage.name}: ends at iteration {self.solver.iter} of {self.stage.last}: no better mean IU in "
            f"{self.scores.tests_since_best()} tests"
        )
        return True

    def _score(self) -> None:
        """Score every head on the first test net, write the table, and delete the snapshots that are not needed."""
        net, at, passes = self.solver.test_nets[0], self.solver.iter, self.stage.param.test_iter[0]
        labels = heads(net) or {"score": "label"}
        samples = Samples(net, *next(iter(labels.items())), self._mean)
        self.solver.agree_on_statistics()
        with keep_random_state(net):
            scores_of = score_heads(
                *(net, passes, labels),
                leave_out_absent=is_scored_without_absent(net),
                on_sample=self._until_stopped(samples, passes),
                ranks=self.ranks,
            )
        for head, scores in scores_of.items():
            loss = math.nan if scores.loss is None else scores.loss
            metrics = scores.summary()
            self.scores.rows.append(Row(at, head, **metrics, loss=loss))
            numbers = ", ".join(f"{NAMES[name]} {value * 100:.2f}" for name, value in metrics.items())
            report(f"{self.stage.name}: iteration {at}, {head}: {numbers}, loss {loss:.6g}")
        ends = samples.record(self.ranks)
        with self.ranks.all_or_none():
            if self.ranks.is_first:
                scoring = Scoring(at, scores_of, self.scores.best() == at, samples.first, ends)
                for call in self.on_scores:
                    call(scoring)
                self.scores.write()  # after them: a run that is killed before this scores again when it goes on
                self._tidy(at)

    def _until_stopped(self, call: OnSample, passes: int) -> OnSample:
        """Return a function that calls another, or ends the scoring when a signal asks to stop."""
        together_until = passes - passes % self.ranks.count  # as long as every process has a pass

        def sample(number: int, blobs: Mapping[str, Tensor], answers: Mapping[str, Tensor]) -> None:
            if number < together_until and self.solver.stop_if_asked():
                raise _Stopped
            call(number, blobs, answers)

        return sample

    def _tidy(self, at: int) -> None:
        """Delete the snapshots but the newest, at iteration `at`, and the weights of the best."""
        best = self.scores.best()
        self.stage.remove_states(before=at)
        for path in self.stage.weights():
            if path not in (self.stage.snapshot(at), self.stage.snapshot(best or at)):
                remove_weights(path)

    def _finish(self) -> None:
        best = self.scores.best()
        assert best is not None  # the last iteration was scored
        self.stage.result.parent.mkdir(parents=True, exist_ok=True)
        with recorded(self.stage.result, self.preprocessing) as place:
            shutil.copyfile(self.stage.snapshot(best), place)
        report(f"{self.stage.name}: best at iteration {best}, copied to {self.stage.result}")
