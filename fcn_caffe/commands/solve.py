"""Train a net, and first the coarser nets that it starts from, where their weights are not there yet.

`solve solvers/voc-fcn8s.prototxt` follows the solver's `weights:` down to the classifier and runs the stages that are
missing. Without a solver it runs the embedded example, which needs no data and no weights: `shapes`, in minutes.
Each stage NAME leaves its snapshots, log.txt, scores.csv and the record that `report` makes a page of in
snapshot/NAME/, and its best in weights/.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    DATA_HELP,
    TENSORBOARD_HELP,
    add_deterministic_option,
    add_ranks_options,
    add_reading_options,
    add_speed_options,
    add_thrift_options,
    new_parser,
    paths_with_data,
    positive,
    training_choices,
    use_deterministic,
    use_reading_options,
)
from fcn_caffe.errors import SolverError
from fcn_caffe.host.interrupts import exit_status
from fcn_caffe.host.paths import Paths, checkout, shipped
from fcn_caffe.host.program import tool_words

if TYPE_CHECKING:
    from fcn_caffe.host.progress import Screen
    from fcn_caffe.host.ranks import Ranks
    from fcn_caffe.training.plan import Plan, Planned, Stage
    from fcn_caffe.training.stage import Training

DEFAULT = "solvers/shapes-fcn8s.prototxt"


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    options = new_parser("solve", __doc__)
    add = options.add_argument
    add("solver", nargs="?", default=DEFAULT, help="solver prototxt (default: %(default)s)")
    add(
        "--from",
        dest="begin",
        metavar="STAGE_OR_WEIGHTS",
        help="train this stage and all after it again; or start from this weight file instead of what the solver names",
    )
    add("--steps", type=positive, help="train so many steps of each stage at most (a step ends with scoring)")
    add("--max-iter", type=positive, help="train each stage for so many iterations instead of the solver's")
    add("--resume", action="store_true", help="go on from the newest snapshot, bit for bit as if never stopped")
    add("--patience", type=positive, metavar="TESTS", help="end a stage after so many tests without a better mean IU")
    add("--gate", action="store_true", help="stop at a stage that is not better than the one it started from")
    add("--device", help="cpu, cuda or cuda:N (default: what the solver says)")
    add("--tensorboard", type=Path, metavar="DIR", help=TENSORBOARD_HELP)
    add_thrift_options(options)
    add_ranks_options(options)
    add("--data", type=Path, metavar="DIR", help=DATA_HELP)
    add_speed_options(options)
    add_deterministic_option(options)
    add("--ignore-preprocessing", action="store_true", help="start even from weights made for other inputs")
    add("--dry-run", action="store_true", help="print which stages would run and what is missing; write nothing")
    add_reading_options(options)
    return options


def _find_solver(solver: Path, data: Path | None) -> tuple[Path, Paths]:
    """Find the solver that is asked for, and where its relative paths start, as Caffe's users work.

    Returns:
        The solver's path, and Paths whose root is the working directory where it has the solver; else the folder that
        holds the solver's `solvers/`; else the checkout, for a solver that comes with it. An installed package's
        solvers run in the working directory: nothing is written into the package.
    """
    own = None if solver.is_file() else shipped(solver)
    if own is not None:
        solver, root = own, checkout() or Path()
    elif solver.parent.name == "solvers" and solver.is_file() and not Path("solvers", solver.name).is_file():
        solver = Path(os.path.abspath(solver))
        root = solver.parent.parent
    else:
        solver, root = Path(os.path.relpath(solver)), Path()
    if root.absolute() == Path.cwd():
        root = Path()
    else:
        print(f"working in {root}", flush=True)
    return solver, paths_with_data(data, root)


def _print_scores(stages: Sequence[Stage]) -> None:
    """Print the best scores of each stage: as a table on a terminal, else in Markdown."""
    from fcn_caffe.host.tables import print_tables
    from fcn_caffe.training.stage import best_scores

    table = best_scores(stages)
    head, *rows = (f"| {' | '.join(cells)} |" for cells in (table.columns, *table.rows))
    markdown = "\n".join([head, "|---" * len(table.columns) + "|", *rows])
    print_tables(f"\n{markdown}\n", [table])


def _train(
    planned: Planned,
    arguments: argparse.Namespace,
    words: Sequence[str],
    screen: Screen,
    ranks: Ranks,
    older: Sequence[Stage],
) -> int:
    """Run one stage with its log, its record and its bar; returns 0, or the signal that stopped it.

    Snapshots of `older` stages go once this one can begin.
    """
    from fcn_caffe.host.progress import duration, logging_to, report

    stage = planned.stage
    with logging_to(stage.folder / "log.txt", screen) if ranks.is_first else nullcontext():
        started = time.monotonic()
        report(str(planned))
        with ranks.all_or_none():
            training = _make_training(planned, arguments, ranks, older)
        if ranks.is_first:
            bar = screen.start(stage.name, stage.last)
            training.solver.on_step.append(lambda solver: bar.update(solver.iter, solver.smoothed_loss, solver.rate))
            with _watch(training, arguments, words):
                done = training.run()
        else:
            done = training.run()
        report(f"{stage.name}: {'done' if done else 'stopped'} after {duration(time.monotonic() - started)}")
    return training.solver.stopped_by


def _make_training(planned: Planned, arguments: argparse.Namespace, ranks: Ranks, older: Sequence[Stage]) -> Training:
    from fcn_caffe.training.stage import Training

    return Training(
        planned.stage,
        arguments.device,
        resume=planned.action == "resume",
        patience=arguments.patience,
        older=older,
        **training_choices(arguments, ranks),
    )


@contextmanager
def _watch(training: Training, arguments: argparse.Namespace, words: Sequence[str]) -> Iterator[None]:
    """Keep the record of a stage in the block, and TensorBoard's files if they are asked for."""
    from fcn_caffe.training.run_record import RunRecord

    record = RunRecord(training, [*tool_words("solve", processes=training.ranks.count), *words])
    training.on_scores.append(record.add_scores)
    with ExitStack() as stack:
        if arguments.tensorboard is not None:
            from fcn_caffe.training.event_files import EventFiles

            scored = bool(training.scores.at(training.solver.iter))
            folder = arguments.tensorboard / training.stage.name
            events = stack.enter_context(EventFiles(folder, training.solver, scored=scored))
            training.on_scores.append(events.add_scores)
        yield
    record.end(training.is_done)


def _compare(stage: Stage, before: dict[Path, Stage], gate: bool) -> None:
    """Say it when a stage is not better than the stage it started from: something is wrong with it then.

    Raises:
        SolverError: So it is, and there is a gate.
    """
    from fcn_caffe.doctor.stages import is_segmentation
    from fcn_caffe.training.stage import ScoreTable

    for path in stage.sources:
        if path not in before:
            continue
        own, coarse = (ScoreTable.read(each.scores) for each in (stage, before[path]))
        if own.best() is None or coarse.best() is None or not is_segmentation(before[path]):
            continue
        after, start = own.mean_iu(own.best() or 0), coarse.mean_iu(coarse.best() or 0)
        if after > start:
            continue
        text = (
            f"{stage.name} scores {after * 100:.1f} mean IU, not better than the {start * 100:.1f} of "
            f"{before[path].name} that it started from. Its base_lr may be too high, or it was trained too little."
        )
        if gate:
            raise SolverError(f"--gate: {text} Train it again with --from {stage.name}, or go on without --gate.")
        print(f"warning: {text}", file=sys.stderr)


def _command_to_resume(arguments: argparse.Namespace, argv: Sequence[str], ranks: Ranks) -> str:
    """The command that goes on after an interruption."""
    words = tool_words("solve", processes=ranks.count)
    return shlex.join([*words, *argv, *([] if arguments.resume else ["--resume"])])


def _make_plan(arguments: argparse.Namespace, solver: Path, paths: Paths) -> Plan:
    from fcn_caffe.training.plan import make_plan

    # A stage has a name without an ending, a weight file has one.
    begin: str | None = arguments.begin
    from_weights = Path(begin).absolute() if begin is not None and Path(begin).suffix else None
    return make_plan(
        solver,
        from_stage=begin if from_weights is None else None,
        from_weights=from_weights,
        resume=arguments.resume,
        steps=arguments.steps,
        max_iter=arguments.max_iter,
        paths=paths,
    )


def _print_what_is_missing(plan: Plan) -> list[str]:
    """Return everything that keeps a plan from being run, printing what the plan itself has not said."""
    from fcn_caffe.doctor.stages import problems

    others = [str(problem) for problem in problems([planned.stage for planned in plan.to_run])]
    for line in others:
        print(f"missing: {line}", flush=True)
    return [*plan.missing, *others]


def _check_inputs(plan: Iterable[Planned], paths: Paths) -> None:
    """Refuse weights that were made for other inputs: what stages start from, and what they go on with.

    Raises:
        WeightsError: There are such.
    """
    from fcn_caffe.evaluation.net_inputs import check_preprocessing
    from fcn_caffe.training.plan import classifier_of

    for planned in plan:
        stage = planned.stage
        if planned.action == "resume":
            check_preprocessing(stage.snapshot(stage.snapshots()[-1]), stage.net, paths=paths, trains=True)
            continue
        for source in stage.sources:
            made_from = None if source.is_file() else classifier_of(source)
            check_preprocessing(made_from or source, stage.net, starts=True, paths=paths, trains=True)


def _run(plan: Plan, arguments: argparse.Namespace, words: Sequence[str], ranks: Ranks) -> int:
    """Run the stages of a plan; returns 0, or the signal that stopped one."""
    from fcn_caffe.host.atomic import clear_leftovers
    from fcn_caffe.host.progress import Screen
    from fcn_caffe.training.solver.one_run import clear_killed_run, only_run

    with ranks.all_or_none():
        for planned in plan.stages if ranks.is_first else ():
            if planned.action == "keep":  # one that was killed at its very end
                clear_killed_run(planned.stage.prefix)
                clear_leftovers(planned.stage.result.parent)
                continue
            with only_run(planned.stage.prefix):
                pass  # no other run has it
    # All go when the first stage begins: a later one's old snapshots would pass for finished if this run is interrupted
    # and resumed.
    older = [planned.stage for planned in plan.to_run[1:] if planned.action == "train"]
    screen, stages = Screen(), {planned.stage.result: planned.stage for planned in plan.stages}
    for planned in plan.stages:
        if planned.action != "keep":
            if stopped_by := _train(planned, arguments, words, screen, ranks, older):
                return stopped_by
            older = []
        elif not arguments.gate:
            continue  # a gate is not opened by running the command once more
        with ranks.all_or_none():
            if ranks.is_first:
                _compare(planned.stage, stages, arguments.gate)
    return 0


def _show_scores(plan: Plan) -> None:
    """Print the table of all stages that segment, and draw their picture."""
    from fcn_caffe.doctor.stages import is_segmentation
    from fcn_caffe.training.stage_picture import draw_stages

    stages = [planned.stage for planned in plan.stages if is_segmentation(planned.stage)]
    _print_scores(stages)
    # The ablation that trains the last layer alone has its row in the table; the picture shows the recipe.
    picture = draw_stages([stage for stage in stages if not stage.name.endswith("-fixed")])
    if picture is not None:
        print(f"picture: {picture}")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all stages are there, 130 or 143 when SIGINT or SIGTERM stopped it."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    use_reading_options(arguments)
    use_deterministic(arguments)
    from fcn_caffe.host.ranks import joined_ranks

    with joined_ranks() as ranks:
        return _solve(arguments, words, ranks)


def _solve(arguments: argparse.Namespace, words: Sequence[str], ranks: Ranks) -> int:
    with ranks.all_or_none():
        solver, paths = _find_solver(Path(arguments.solver), arguments.data)
        plan = _make_plan(arguments, solver, paths)
        plan.print()
        missing = _print_what_is_missing(plan)
        if missing and not arguments.dry_run:
            raise SolverError("cannot start: " + "; ".join(missing))
        if not arguments.ignore_preprocessing and not arguments.dry_run:
            _check_inputs(plan.to_run, paths)
        if arguments.tensorboard is not None and not arguments.dry_run:
            from fcn_caffe.training.event_files import check_tensorboard

            check_tensorboard(arguments.tensorboard)
    if arguments.dry_run:
        return 0
    if stopped_by := _run(plan, arguments, words, ranks):
        print(f"stopped. To go on: {_command_to_resume(arguments, words, ranks)}", file=sys.stderr)
        return exit_status(stopped_by)
    if ranks.is_first:
        _show_scores(plan)
    return 0
