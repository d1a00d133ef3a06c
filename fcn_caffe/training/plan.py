"""Plans: the stages that lead to a solver's net, in order, and which of them have to be trained.

A stage is a solver file, `solvers/NAME.prototxt`. Its result is `weights/NAME.caffemodel`. Its `weights:` field names
the result of the stage before it. The folders solvers/ and weights/ lie side by side; a solver outside a folder
`solvers` has weights/ beside itself, and one of an installed package has it at the root. Relative paths start from the
root of the stage's Paths.
"""

from __future__ import annotations

import filecmp
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fcn_caffe.errors import SolverError
from fcn_caffe.host.paths import Paths, is_installed
from fcn_caffe.host.tables import Table, print_tables
from fcn_caffe.models import RECIPES, Start, starts_of
from fcn_caffe.models.published import PUBLISHED, how_to_get
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.training.solver import read_solver
from fcn_caffe.training.solver.settings import candidate_paths, find_file, weight_names
from fcn_caffe.weights.formats import format_of
from fcn_caffe.weights.record import remove_weights
from fcn_caffe.weights.transfer import BlobCounts

SOLVERS, WEIGHTS = "solvers", "weights"
ITERATION = "_iter_"  # between a snapshot's prefix and its iteration, as Caffe names snapshots


@dataclass(frozen=True)
class Stage:
    """One solver file and how far it is trained.

    Attributes:
        name: the solver file's name without its ending.
        solver: the solver file.
        param: what it says.
        starts: the weight files that training starts from, and how each is copied.
        step: the number of iterations from one scoring to the next.
        last: the iteration that training ends at.
        paths: what relative paths start from.
    """

    name: str
    solver: Path
    param: caffe_pb2.SolverParameter
    starts: tuple[Start, ...]
    step: int
    last: int
    paths: Paths = field(default_factory=Paths)

    @property
    def result(self) -> Path:
        """The weight file that the best snapshot is copied to and that the next stage starts from."""
        folder = self.solver.parent
        root = folder.parent if folder.name == SOLVERS else folder
        if is_installed(self.solver):
            root = self.paths.root  # nothing is written into the package
        return root / WEIGHTS / f"{self.name}.caffemodel"

    @property
    def prefix(self) -> Path:
        """The path that every snapshot's name begins with."""
        return self.paths.from_root(self.param.snapshot_prefix or f"snapshot/{self.name}/train")

    @property
    def folder(self) -> Path:
        """The folder of the snapshots, the log and the scores."""
        return self.prefix.parent

    def snapshot(self, iteration: int, suffix: str = ".caffemodel") -> Path:
        """Return the path of one snapshot's file with this ending."""
        return self.prefix.with_name(f"{self.prefix.name}{ITERATION}{iteration}{self._ending(suffix)}")

    def _ending(self, suffix: str) -> str:
        """Return a file's ending in the solver's snapshot_format; random states have only one form."""
        hdf5 = self.param.snapshot_format == caffe_pb2.SolverParameter.HDF5 and suffix != ".rngstate"
        return f"{suffix}.h5" if hdf5 else suffix

    @property
    def sources(self) -> list[Path]:
        """The weight files that training starts from."""
        return [Path(start.weights) for start in self.starts]

    @property
    def net(self) -> Path:
        """The net's file, found as `candidate_paths` says; as the solver names it where it is not there."""
        name = self.param.net or self.param.train_net
        return find_file(name, self.solver, self.paths) or self.paths.from_root(name)

    def blob_counts(self) -> BlobCounts:
        """Return how many blobs layers have in the files that training starts from, as far as these are there."""
        return BlobCounts([path for path in self.sources if path.is_file()])

    def weights(self) -> list[Path]:
        """List the weight files of the snapshots on disk."""
        return sorted(self.folder.glob(f"{self.prefix.name}{ITERATION}*{self._ending('.caffemodel')}"))

    def forget_snapshots(self) -> None:
        """Delete the snapshots on disk. The result in weights/ stays."""
        iterations = self.snapshots()
        self.remove_states()
        for iteration in iterations:
            remove_weights(self.snapshot(iteration))

    def remove_states(self, before: float = math.inf) -> None:
        """Delete the solver states and random states on disk, those of earlier iterations than `before`.

        Solver states go first: without its own a snapshot counts no more, and a kill may come in between.
        """
        for suffix in (".solverstate", ".rngstate"):
            for iteration in self._iterations(suffix):
                if iteration < before:
                    self.snapshot(iteration, suffix).unlink(missing_ok=True)

    @property
    def scores(self) -> Path:
        """The table of its scores."""
        return self.folder / "scores.csv"

    def snapshots(self) -> list[int]:
        """List the iterations of the complete snapshots on disk, in order."""
        return self._iterations(".solverstate")  # written last: where it is there, the other files are

    def _iterations(self, suffix: str) -> list[int]:
        ending = self._ending(suffix)
        files = self.folder.glob(f"{self.prefix.name}{ITERATION}*{ending}")
        numbers = (path.name[len(self.prefix.name + ITERATION) : -len(ending)] for path in files)
        return sorted(int(number) for number in numbers if number.isdecimal())


def read_stage(
    solver: str | os.PathLike[str],
    steps: int | None = None,
    max_iter: int | None = None,
    *,
    paths: Paths | None = None,
) -> Stage:
    """Read a solver file as a stage.

    A reference solver has the reference's steps. For another one a step is `snapshot` iterations, up to `max_iter`.

    Args:
        solver: the solver's file.
        steps: the greatest number of steps.
        max_iter: the number of iterations, in place of the solver's.
        paths: what relative paths start from.
    Raises:
        SolverError: there is no such file, or nothing to train.
        PrototxtError: the file cannot be read.
    """
    paths = Paths() if paths is None else paths
    path = paths.from_root(solver)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in paths.from_root(SOLVERS).glob("*.prototxt")))
        raise SolverError(f"{path}: no such solver file. {SOLVERS}/ has: {known or 'none'}.")
    param = read_solver(path)
    recipe = RECIPES.get(path.stem)
    step = recipe.step if recipe else param.snapshot or param.max_iter
    total = recipe.steps * step if recipe else param.max_iter
    if max_iter is not None:
        param.max_iter = total = max_iter  # the rate of some policies depends on it
    if step < 1 or total < 1:
        raise SolverError(
            f"{path}: max_iter is {param.max_iter}, there is nothing to train. Set it, or give --max-iter."
        )
    step = min(step, total)
    starts = tuple(starts_of(path.stem, str(_weights_path(file, path, paths))) for file in weight_names(param))
    return Stage(path.stem, path, param, starts, step, total if steps is None else min(steps * step, total), paths)


def _weights_path(name: str, solver: Path, paths: Paths) -> Path:
    """Return the weight file that a solver names: where it is, else where a stage puts it, else as it is named."""
    for path in candidate_paths(name, solver, paths):
        if is_available(path) or _solver_of(path, solver, paths) is not None:
            return path
    return paths.from_root(name)


@dataclass(frozen=True)
class Planned:
    """A stage and what to do with it: "train", "resume", or "keep" where training it is not needed."""

    stage: Stage
    action: str

    @property
    def description(self) -> str:
        """What is done with the stage, in words."""
        stage, show = self.stage, self.stage.paths.seen_from_root
        if self.action == "keep":
            return f"{show(stage.result)} is there" if stage.result.is_file() else "not needed"
        if self.action == "resume":
            start = f"iteration {stage.snapshots()[-1]}"
        else:
            start = ", ".join(str(show(path)) for path in stage.sources) or "its fillers"
        return f"{self.action} from {start} to iteration {stage.last}, scored every {stage.step}"

    def __str__(self) -> str:
        return f"{self.stage.name:<28} {self.description}"


@dataclass
class Plan:
    """The stages from the coarsest to the one that was asked for, and the files that are missing.

    Attributes:
        stages: every stage with what to do with it, in the order of training.
        missing: one sentence for each missing weight file, which says how to get it.
    """

    stages: list[Planned] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def to_run(self) -> list[Planned]:
        """The stages that have to be trained, in order."""
        return [planned for planned in self.stages if planned.action != "keep"]

    def print(self) -> None:
        """Print the plan: as tables on a terminal, else the text that `str` gives."""
        tables = [Table(("stage", "action"), [(planned.stage.name, planned.description) for planned in self.stages])]
        if self.missing:
            tables.append(Table(("missing",), [(line,) for line in self.missing]))
        print_tables(str(self), tables)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.stages), *(f"missing: {line}" for line in self.missing)])


def make_plan(
    target: str | os.PathLike[str],
    *,
    from_stage: str | None = None,
    from_weights: str | os.PathLike[str] | None = None,
    resume: bool = False,
    steps: int | None = None,
    max_iter: int | None = None,
    paths: Paths | None = None,
) -> Plan:
    """Find the stages that a solver needs, and decide which of them have to be trained.

    A stage is trained where its result is needed and is not there.

    Args:
        target: the solver of the last stage.
        from_stage: train this stage again, and every stage after it.
        from_weights: start `target` from this weight file, and train no other stage.
        resume: continue from the snapshots on disk.
        steps: the greatest number of steps of each stage.
        max_iter: the number of iterations of each stage, in place of the solver's.
        paths: what relative paths start from.
    Raises:
        SolverError: the stage is unknown, or an unfinished run is on disk and no argument says what to do with it.
        WeightsError: `from_weights` is no weight file.
    """
    if from_stage is not None and from_weights is not None:
        raise SolverError("a plan begins at a stage or from a weight file: give one of them, not both.")
    last = read_stage(target, steps, max_iter, paths=paths)
    if from_weights is not None:
        chain, from_stage = [_with_weights(last, from_weights)], last.name
    else:
        chain = _chain(last, steps, max_iter)
        from_stage = None if from_stage is None else Path(from_stage).name
    names = [stage.name for stage in chain]
    if from_stage is not None and from_stage not in names:
        raise SolverError(f"--from {from_stage}: not a stage of {target}: {', '.join(names)}.")
    return _plan_of(chain, _trained_again(chain, from_stage), resume)


def _with_weights(stage: Stage, weights: str | os.PathLike[str]) -> Stage:
    """Return the stage as it starts from one given file."""
    weights = stage.paths.from_root(weights)
    if not weights.is_file():
        raise SolverError(f"--from {weights}: no such weight file.")
    format_of(weights)  # refuse a net, given by mistake, before anything runs
    return replace(stage, starts=(starts_of(stage.name, str(weights)),))


def _trained_again(chain: Sequence[Stage], begin: str | None) -> set[str]:
    """Return the names of a stage and of those that start from its result, directly or not."""
    names: set[str] = set()
    results: set[Path] = set()
    for stage in chain:
        if stage.name == begin or results.intersection(stage.sources):
            names.add(stage.name)
            results.add(stage.result)
    return names


def _plan_of(chain: Sequence[Stage], again: set[str], resume: bool) -> Plan:
    """Decide what to do with each stage of a chain, from the last to the first that is needed."""
    plan, needed = Plan(), {chain[-1].name}
    names = {stage.result: stage.name for stage in chain}
    for stage in reversed(chain):
        is_wanted = stage.name in needed and (stage.name in again or not stage.result.is_file())
        action = _action(stage, resume, stage.name in again) if is_wanted else "keep"
        plan.stages.insert(0, Planned(stage, action))
        if action == "train":
            needed |= {names[path] for path in stage.sources if path in names}
            absent = [path for path in stage.sources if path not in names and not is_available(path)]
            lines = (how_to_get(stage.paths.seen_from_root(path)) for path in absent)
            plan.missing += [line for line in lines if line not in plan.missing]
    return plan


def _chain(last: Stage, steps: int | None, max_iter: int | None) -> list[Stage]:
    """List a stage and those below it, each after the stages that it starts from."""
    stages: dict[str, Stage] = {}

    def visit(stage: Stage, above: tuple[str, ...]) -> None:
        if stage.name in above:
            raise SolverError(f"{stage.solver}: starts from itself, through {' <- '.join((*above, stage.name))}.")
        for path in stage.sources:
            solver = _solver_of(path, stage.solver, stage.paths)
            if solver is not None and path.stem not in stages:
                visit(read_stage(solver, steps, max_iter, paths=stage.paths), (*above, stage.name))
        stages.setdefault(stage.name, stage)

    visit(last, ())
    return list(stages.values())


def _solver_of(weights: Path, named_by: Path, paths: Paths) -> Path | None:
    """Return the solver file whose result a weight file is. named_by: the solver that starts from it."""
    if weights.parent.name != WEIGHTS or weights.suffix != ".caffemodel":
        return None
    root, file = weights.parent.parent, f"{weights.stem}.prototxt"
    solvers = [root / SOLVERS / file]
    if root.name != SOLVERS:  # the result of a solver in a folder `solvers` goes beside that folder
        solvers.append(root / file)
    if is_installed(named_by) and weights.parent == paths.from_root(WEIGHTS):
        solvers.append(named_by.with_name(file))
    return next((solver for solver in solvers if solver.is_file()), None)


def _action(stage: Stage, resume: bool, again: bool) -> str:
    """Choose what to do with a stage that is needed. again: it is trained although its result may be there."""
    iterations = stage.snapshots()
    if not iterations:
        return "train"
    if resume:
        # A stage that was trained again to its end, before the interruption came, has its new result already.
        last = iterations[-1]
        is_finished = again and last >= stage.last and _is_scored(stage, last) and _is_result_of(stage)
        return "keep" if is_finished else "resume"
    if again:
        return "train"
    folder = stage.paths.seen_from_root(stage.folder)
    raise SolverError(
        f"{folder}/ holds an unfinished run of {stage.name}, at iteration {iterations[-1]} of {stage.last}. "
        f"Add --resume to go on with it, or --from {stage.name} to train it again from the start."
    )


def _is_scored(stage: Stage, iteration: int) -> bool:
    """Say whether the table of scores has an iteration: the same run, made before, left the same result."""
    if not stage.scores.is_file():
        return False
    with open(stage.scores, encoding="utf-8", errors="replace") as table:
        return any(line.startswith(f"{iteration},") for line in table)


def _is_result_of(stage: Stage) -> bool:
    """Say whether a stage's result is one of its snapshots, not of an earlier run. Clocks can be turned back."""
    return stage.result.is_file() and any(filecmp.cmp(path, stage.result, shallow=False) for path in stage.weights())


def classifier_of(weights: Path) -> Path | None:
    """Return the file that a published classifier comes as, beside the name that the nets know it by.

    Returns:
        The path, or None where the weights are no published classifier's.
    """
    entry = PUBLISHED.get(weights.name)
    if entry is None or weights.stem in RECIPES:
        return None
    return weights.with_name(entry.published)


def is_available(weights: Path) -> bool:
    """Say whether a weight file is there, or the classifier that it is made from."""
    classifier = classifier_of(weights)
    return weights.is_file() or (classifier is not None and classifier.is_file())
