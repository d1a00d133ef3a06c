"""The order of stages: what a solver starts from, what that starts from, and which of them are still to be trained.

A stage is a solver file, `solvers/NAME.prototxt`. Its result is `weights/NAME.caffemodel`, and its `weights:` field
names the result of the stage before it. The two folders lie side by side, at the top or in a task's own folder; a
solver outside a folder `solvers` has `weights/` beside it. Paths are relative to the working directory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fcn_caffe.errors import SolverError
from fcn_caffe.models import RECIPES, Start, starts_of
from fcn_caffe.models.published import PUBLISHED, how_to_get
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.training.solver import read_solver
from fcn_caffe.training.solver.settings import candidate_paths, find_file
from fcn_caffe.weights.formats import format_of

SOLVERS, WEIGHTS = "solvers", "weights"
ITERATION = "_iter_"  # between a snapshot's prefix and its iteration, as Caffe names snapshots


@dataclass(frozen=True)
class Stage:
    """One solver file, and how far it is trained.

    starts: the weight files it starts from, and how. step: after how many iterations each it is scored. last: the
    iteration it ends at.
    """

    name: str
    solver: Path
    param: Any
    starts: tuple[Start, ...]
    step: int
    last: int

    @property
    def result(self) -> Path:
        """Where the best snapshot goes, and where the next stage looks."""
        folder = self.solver.parent
        root = folder.parent if folder.name == SOLVERS else folder
        return root / WEIGHTS / f"{self.name}.caffemodel"

    @property
    def prefix(self) -> Path:
        """What every snapshot's path starts with."""
        return Path(self.param.snapshot_prefix or f"snapshot/{self.name}/train")

    @property
    def folder(self) -> Path:
        """Where snapshots, the log and the scores lie."""
        return self.prefix.parent

    def snapshot(self, iteration: int, suffix: str = ".caffemodel") -> Path:
        """The file of one snapshot."""
        return self.prefix.with_name(f"{self.prefix.name}{ITERATION}{iteration}{self._ending(suffix)}")

    def _ending(self, suffix: str) -> str:
        """A file's ending in the solver's snapshot_format; random states have one form."""
        hdf5 = self.param.snapshot_format == caffe_pb2.SolverParameter.HDF5 and suffix != ".rngstate"
        return f"{suffix}.h5" if hdf5 else suffix

    @property
    def sources(self) -> list[Path]:
        """The weight files it starts from."""
        return [Path(start.weights) for start in self.starts]

    @property
    def net(self) -> Path:
        """The net file, found as `candidate_paths` says; as the solver names it where it is not there."""
        named = Path(self.param.net or self.param.train_net)
        return find_file(named, self.solver) or named

    def weights(self) -> list[Path]:
        """The weight files of the snapshots there are."""
        return sorted(self.folder.glob(f"{self.prefix.name}{ITERATION}*{self._ending('.caffemodel')}"))

    def forget_snapshots(self) -> None:
        """Remove the snapshots there are; the result in weights/ stays."""
        for iteration in self.snapshots():
            for suffix in (".solverstate", ".rngstate", ".caffemodel"):
                self.snapshot(iteration, suffix).unlink(missing_ok=True)

    def snapshots(self) -> list[int]:
        """Iterations of the whole snapshots there are, in order. The state is written last, so it tells."""
        ending = self._ending(".solverstate")
        found = self.folder.glob(f"{self.prefix.name}{ITERATION}*{ending}")
        numbers = (path.name[len(self.prefix.name + ITERATION) : -len(ending)] for path in found)
        return sorted(int(number) for number in numbers if number.isdigit())


def read_stage(solver: str | os.PathLike[str], steps: int | None = None, max_iter: int | None = None) -> Stage:
    """Read a solver file as a stage.

    The steps are those of the reference for its solvers; for others, a step is what `snapshot` says and there are as
    many as `max_iter` holds. steps, max_iter: at most so many steps; so many iterations in all instead.
    Raises: SolverError when there is no such file or nothing to do; PrototxtError.
    """
    path = Path(solver)
    if not path.is_file():
        near = ", ".join(sorted(known.stem for known in Path(SOLVERS).glob("*.prototxt")))
        raise SolverError(f"{path}: no such solver file. {SOLVERS}/ has: {near or 'none'}.")
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
    files = (part.strip() for entry in param.weights for part in entry.split(","))
    starts = tuple(starts_of(path.stem, str(_weights_path(file, path))) for file in files if file)
    return Stage(path.stem, path, param, starts, step, total if steps is None else min(steps * step, total))


def _weights_path(name: str, solver: Path) -> Path:
    """The weight file that a solver names: where it is, else where a stage makes it, else as it is named."""
    paths = candidate_paths(name, solver)
    return next((path for path in paths if available(path) or _made_by(path) is not None), Path(name))


@dataclass(frozen=True)
class Planned:
    """A stage and what is to be done with it: "train", "resume", or "keep" where its result is there already."""

    stage: Stage
    action: str

    def __str__(self) -> str:
        stage, starts = self.stage, ", ".join(start.weights for start in self.stage.starts) or "its fillers"
        if self.action == "keep":
            there = stage.result.is_file()
            return f"{stage.name:<28} {f'{stage.result} is there' if there else 'not needed'}"
        taken = stage.snapshots()
        onward = f" from iteration {taken[-1]}" if self.action == "resume" else f" from {starts}"
        return f"{stage.name:<28} {self.action}{onward} to iteration {stage.last}, scored every {stage.step}"


@dataclass
class Plan:
    """Stages from the coarsest to the one asked for, and what is missing before they can run."""

    stages: list[Planned] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def to_run(self) -> list[Planned]:
        """The stages that are to be trained, in order."""
        return [planned for planned in self.stages if planned.action != "keep"]

    def __str__(self) -> str:
        return "\n".join([*map(str, self.stages), *(f"missing: {line}" for line in self.missing)])


def make_plan(
    target: str | os.PathLike[str],
    *,
    begin: str | None = None,
    resume: bool = False,
    steps: int | None = None,
    max_iter: int | None = None,
) -> Plan:
    """Find the stages below a solver and decide which of them run: those whose result is needed and not there.

    begin: a weight file, which `target` then starts from; or the name of a stage, which is trained again with
    everything after it. resume: go on from the snapshots there are.
    Raises: SolverError for an unknown stage, or an unfinished run of which neither resume nor begin speaks.
    """
    first = read_stage(target, steps, max_iter)
    if begin is not None and Path(begin).suffix:
        if not Path(begin).is_file():
            raise SolverError(f"--from {begin}: no such weight file.")
        format_of(begin)  # a net given by mistake is said before anything runs
        # The file may be the result of any stage: what made it does not matter now.
        first, begin = replace(first, starts=(starts_of(first.name, begin),)), first.name
        chain = [first]
    else:
        chain = _chain(first, steps, max_iter)
        begin = begin and Path(begin).name
    if begin is not None and begin not in {stage.name for stage in chain}:
        raise SolverError(f"--from {begin}: not a stage of {target}: {', '.join(stage.name for stage in chain)}.")
    made = {stage.result: stage for stage in chain}
    again: set[str] = set()
    for stage in chain:
        if stage.name == begin or any(path in made and made[path].name in again for path in stage.sources):
            again.add(stage.name)
    plan, needed = Plan(), {first.name}
    for stage in reversed(chain):
        wanted = stage.name in needed and (stage.name in again or not stage.result.is_file())
        plan.stages.insert(0, Planned(stage, _action(stage, resume, stage.name in again) if wanted else "keep"))
        if plan.stages[0].action == "train":
            needed |= {made[path].name for path in stage.sources if path in made}
            absent = [path for path in stage.sources if path not in made and not available(path)]
            plan.missing += [line for line in map(how_to_get, absent) if line not in plan.missing]
    return plan


def _chain(first: Stage, steps: int | None, max_iter: int | None) -> list[Stage]:
    """The stages below a stage, and it, each after those it starts from."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage, above: tuple[str, ...]) -> None:
        if stage.name in above:
            raise SolverError(f"{stage.solver}: starts from itself, through {' <- '.join((*above, stage.name))}.")
        for path in stage.sources:
            solver = _made_by(path)
            if solver is not None and path.stem not in found:
                visit(read_stage(solver, steps, max_iter), (*above, stage.name))
        found.setdefault(stage.name, stage)

    visit(first, ())
    return list(found.values())


def _made_by(weights: Path) -> Path | None:
    """The solver file whose result a weight file is."""
    if weights.parent.name != WEIGHTS or weights.suffix != ".caffemodel":
        return None
    root, file = weights.parent.parent, f"{weights.stem}.prototxt"
    solvers = [root / SOLVERS / file]
    if root.name != SOLVERS:  # the result of a solver in a folder `solvers` goes beside that folder
        solvers.append(root / file)
    return next((solver for solver in solvers if solver.is_file()), None)


def _action(stage: Stage, resume: bool, again: bool) -> str:
    taken = stage.snapshots()
    if not taken:
        return "train"
    if resume:
        # Trained again to its end before the interruption came: its result is the new one.
        finished = again and taken[-1] >= stage.last and stage.result.is_file()
        return "keep" if finished else "resume"
    if again:
        return "train"
    raise SolverError(
        f"{stage.folder}/ holds an unfinished run of {stage.name}, at iteration {taken[-1]} of {stage.last}. "
        f"Add --resume to go on with it, or --from {stage.name} to train it again from the start."
    )


def classifier_of(weights: Path) -> Path | None:
    """The file a published classifier came as, beside the name the nets know it by; None for other weights."""
    entry = PUBLISHED.get(weights.name)
    if entry is None or weights.stem in RECIPES:
        return None
    return weights.with_name(entry.source.rpartition("/")[2])


def available(weights: Path) -> bool:
    """Whether a weight file is there, or the classifier it is made from."""
    classifier = classifier_of(weights)
    return weights.is_file() or (classifier is not None and classifier.is_file())
