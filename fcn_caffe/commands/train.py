"""Train one net with one solver, as `caffe train` does. The command solve is for a whole coarse-to-fine recipe.

SIGINT (Ctrl-C) snapshots and stops, SIGHUP snapshots and goes on, unless told otherwise. SIGTERM, which schedulers send
before they kill, always snapshots and stops.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_caffe.commands import command
from fcn_caffe.commands._options import (
    TENSORBOARD_HELP,
    add_deterministic_option,
    add_device_options,
    add_ranks_options,
    add_reading_options,
    add_speed_options,
    add_state_options,
    add_thrift_options,
    names,
    net_or_solver,
    new_parser,
    requested_device,
    training_choices,
    use_deterministic,
    use_reading_options,
)
from fcn_caffe.errors import SolverError
from fcn_caffe.host.atomic import refuse_same
from fcn_caffe.host.interrupts import exit_status
from fcn_caffe.host.program import tool_words

if TYPE_CHECKING:
    from fcn_caffe.host.ranks import Ranks
    from fcn_caffe.net.net import Net
    from fcn_caffe.proto import caffe_pb2
    from fcn_caffe.training.solver import Solver
    from fcn_caffe.weights.record import Preprocessing

EFFECTS = ("stop", "snapshot", "none")


def parser() -> argparse.ArgumentParser:
    options = new_parser("train", __doc__)
    add = options.add_argument
    add("-solver", "--solver", required=True, type=net_or_solver, help="solver prototxt")
    add(
        "-weights",
        "--weights",
        type=names,
        action="extend",
        default=[],
        help="weight files to start from, separated by commas",
    )
    add("-snapshot", "--snapshot", help="solver state to go on from")
    add("--resume", action="store_true", help="go on from the newest snapshot of the solver's prefix, if there is one")
    add_device_options(options)
    add("-phase", "--phase", choices=["TRAIN"], help="accepted for Caffe's sake: training runs the TRAIN phase")
    add_state_options(options)
    add_thrift_options(options)
    add_ranks_options(options)
    add_speed_options(options)
    add_deterministic_option(options)
    for name, default in (("sigint", "stop"), ("sighup", "snapshot")):
        meaning = f"what {name.upper()} does (default: {default})"
        add(f"-{name}_effect", f"--{name}_effect", choices=EFFECTS, default=default, help=meaning)
    add("--ignore-preprocessing", action="store_true", help="start even from weights made for other inputs")
    add("--log", type=Path, help="write the log to the end of this file too; a terminal then shows a bar instead")
    add("--tensorboard", type=Path, metavar="DIR", help=TENSORBOARD_HELP)
    add_reading_options(options)
    return options


def _settings(arguments: argparse.Namespace) -> caffe_pb2.SolverParameter:
    """The solver as the options change it. Source: caffe train."""
    from fcn_caffe.training.solver import read_solver

    param: caffe_pb2.SolverParameter = read_solver(arguments.solver)
    if arguments.level or arguments.stage:
        param.train_state.level = arguments.level
        param.train_state.stage.extend(arguments.stage)
    if arguments.snapshot or arguments.weights:
        param.ClearField("weights")
    param.weights.extend(arguments.weights)
    return param


def _record(arguments: argparse.Namespace, param: caffe_pb2.SolverParameter, net: Net) -> Preprocessing:
    """Make the record of the weights that training makes; check what it starts from or goes on with.

    Raises:
        WeightsError: These weights were made for other inputs than the net gives.
    """
    from fcn_caffe.evaluation.net_inputs import refuse_other_inputs, trained_preprocessing
    from fcn_caffe.training.solver.settings import find_file, weight_names
    from fcn_caffe.training.solver.snapshot import own_weights
    from fcn_caffe.weights.record import read_preprocessing

    starts = [find_file(name, arguments.solver) or Path(name) for name in weight_names(param)]
    if arguments.snapshot:
        starts = [path for path in own_weights(Path(arguments.snapshot)) if path.is_file()][:1]
    record = trained_preprocessing(net, starts)
    for path in starts if not arguments.ignore_preprocessing else ():
        earlier = read_preprocessing(path)
        if earlier is not None:
            refuse_other_inputs(earlier, record, path, net.path or arguments.solver, starts=not arguments.snapshot)
    return record


def _command_to_resume(argv: Sequence[str], state: str, ranks: Ranks) -> str:
    """The command that goes on after an interruption: what was typed, but for what it starts from."""
    kept = [word for word in _without(argv, "weights", "snapshot") if word != "--resume"]
    return shlex.join([*tool_words("train", processes=ranks.count), *kept, "--snapshot", state])


def _without(argv: Sequence[str], *names: str) -> list[str]:
    """The words of a command line without options of these names and their values."""
    kept, skip = [], False
    for word in argv:
        name, is_joined, _ = word.lstrip("-").partition("=")
        is_named = word.startswith("-") and name in names
        if not is_named and not skip:
            kept.append(word)
        skip = is_named and not is_joined
    return kept


def _start_several(gpus: Sequence[int], argv: Sequence[str]) -> None:
    """Become torchrun with a process for each GPU. Source: caffe train -gpu 0,1."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(len(gpus))]
    words += ["-m", "fcn_caffe", "train", *_without(argv, "gpu"), "--device", "cuda"]
    os.execve(sys.executable, words, {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))})


def _newest_snapshot(param: caffe_pb2.SolverParameter, solver: str) -> str:
    """The newest solver state that the solver has written; empty where there is none."""
    from fcn_caffe.training.solver.settings import Settings

    prefix = Settings(param, path=solver).snapshot_prefix
    found = [path for path in prefix.parent.glob("*") if path.name.startswith(f"{prefix.name}_iter_")]
    states = [path for path in found if path.name.endswith((".solverstate", ".solverstate.h5"))]
    numbers = {path.name.removeprefix(f"{prefix.name}_iter_").partition(".")[0]: path for path in states}
    newest = max((number for number in numbers if number.isdecimal()), key=int, default=None)
    return "" if newest is None else str(numbers[newest])


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when training came to its end, 130 or 143 when SIGINT or SIGTERM stopped it."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(words)
    use_reading_options(arguments)
    use_deterministic(arguments)
    if arguments.snapshot and arguments.weights:
        raise SolverError("give --snapshot to go on with training or --weights to start from, not both.")
    if arguments.snapshot and not Path(arguments.snapshot).is_file():
        raise SolverError(f"{arguments.snapshot}: no such solver state. Check the path.")
    if arguments.log is not None:
        refuse_same([arguments.log], [arguments.solver, arguments.snapshot, *arguments.weights])
    if arguments.resume and arguments.snapshot:
        raise SolverError("give --snapshot to go on from one snapshot or --resume to go on from the newest, not both.")

    if arguments.tensorboard is not None:
        from fcn_caffe.training.event_files import check_tensorboard

        check_tensorboard(arguments.tensorboard)
    from fcn_caffe.host.devices import gpu_numbers
    from fcn_caffe.host.ranks import is_launched, joined_ranks

    if arguments.gpu and not is_launched() and len(gpus := gpu_numbers(arguments.gpu)) > 1:
        _start_several(gpus, words)
    with joined_ranks() as ranks:
        return _train(arguments, words, ranks)


def _make_solver(arguments: argparse.Namespace, ranks: Ranks) -> Solver:
    from fcn_caffe.training.solver import Solver

    param = _settings(arguments)
    solver = Solver(
        param,
        requested_device(arguments),
        path=arguments.solver,
        **training_choices(arguments, ranks),
        check_memory=True,
    )
    solver.preprocessing = _record(arguments, param, solver.net)
    return solver


def _events(folder: Path | None, solver: Solver) -> AbstractContextManager[object]:
    """Write a solver's run for TensorBoard in a block, if a folder is given; rank 0 does."""
    if folder is None or not solver.ranks.is_first:
        return nullcontext()
    from fcn_caffe.training.event_files import EventFiles

    return EventFiles(folder, solver)


def _train(arguments: argparse.Namespace, words: Sequence[str], ranks: Ranks) -> int:
    from fcn_caffe.training.solver.one_run import only_run
    from fcn_caffe.training.solver.settings import Settings

    with ExitStack() as stack:
        with ranks.all_or_none():
            if ranks.is_first:
                settings = Settings(_settings(arguments), path=arguments.solver)
                stack.enter_context(only_run(settings.snapshot_prefix))
        return _train_alone(arguments, words, ranks)


def _train_alone(arguments: argparse.Namespace, words: Sequence[str], ranks: Ranks) -> int:
    """Train, while no other run may have the solver's snapshot_prefix."""
    from fcn_caffe.host.glog import say
    from fcn_caffe.host.progress import Screen, logging_to

    screen = Screen()
    with logging_to(arguments.log, screen) if arguments.log and ranks.is_first else nullcontext():
        with ranks.all_or_none():
            if arguments.resume:
                newest = _newest_snapshot(_settings(arguments), arguments.solver)
                arguments.snapshot = ranks.from_first(newest) or None
                arguments.weights = [] if arguments.snapshot else arguments.weights
            solver = _make_solver(arguments, ranks)
        snapshots = [arguments.snapshot]
        solver.on_snapshot.append(lambda solver, state: snapshots.append(str(state)))
        gpu = solver.device.type == "cuda"
        say("caffe.cpp:197", f"Using GPUs {solver.device.index}" if gpu else "Use CPU.")
        if arguments.log and ranks.is_first:
            bar = screen.start(Path(arguments.solver).stem, solver.param.max_iter)
            solver.on_step.append(lambda solver: bar.update(solver.iter, solver.smoothed_loss, solver.rate))
        if arguments.snapshot:
            say("caffe.cpp:245", f"Resuming from {arguments.snapshot}")
        say("caffe.cpp:248", "Starting Optimization")
        with _events(arguments.tensorboard, solver), solver.signals(arguments.sigint_effect, arguments.sighup_effect):
            solver.solve(arguments.snapshot)
        if solver.stopped_by:
            print(
                f"stopped at iteration {solver.iter}. To go on: {_command_to_resume(words, snapshots[-1], ranks)}",
                file=sys.stderr,
            )
            return exit_status(solver.stopped_by)
        say("caffe.cpp:259", "Optimization Done.")
    return 0
