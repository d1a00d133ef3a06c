"""Runs of several processes that meet over a file: functions that a test calls in each of them.

The processes are forked from one that has imported PyTorch already, so that a run of four costs little.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import h5py  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import torch

from fcn_caffe import commands
from fcn_caffe.errors import DataError, FcnCaffeError
from fcn_caffe.evaluation.details import Details
from fcn_caffe.evaluation.score import score_heads
from fcn_caffe.host.ranks import ALONE, Ranks, join_ranks, silence_others
from fcn_caffe.net.demand import training_demand
from fcn_caffe.proto import caffe_pb2, parse_text
from fcn_caffe.training.solver import Solver, settings
from fcn_caffe.weights.transfer import net_weights

Array = npt.NDArray[Any]
Weights = dict[str, list[Array]]

# This file it does not find; optimizers import the last two.
PRELOADED = [
    *("h5py", "fcn_caffe.training.stage", "fcn_caffe.doctor.stages", "fcn_caffe.evaluation.score"),
    *("torch._dynamo", "torch.distributed.optim"),
]
ROWS = 48
NET = """
name: "tiny"
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label" hdf5_data_param {{
  source: "{folder}/list.txt" batch_size: {batch} shuffle: {shuffle} }} }}
layer {{ name: "c1" type: "Convolution" bottom: "data" top: "c1"
  param {{ lr_mult: 1 }} param {{ lr_mult: 2 decay_mult: 0 }}
  convolution_param {{ num_output: 6 kernel_size: 3 pad: 1 weight_filler {{ type: "xavier" }} }} }}
{middle}
layer {{ name: "score" type: "Convolution" bottom: "c1" top: "score"
  convolution_param {{ num_output: 3 kernel_size: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss"
  loss_param {{ ignore_label: 255 }} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "score" bottom: "label" top: "accuracy" include {{ phase: TEST }}
  accuracy_param {{ ignore_label: 255 }} }}
"""
BATCH_NORM = 'layer { name: "bn" type: "BatchNorm" bottom: "c1" top: "c1" }'
DROPOUT = 'layer { name: "drop" type: "Dropout" bottom: "c1" top: "c1" }'
RATES = {"SGD": 0.1, "Nesterov": 0.1, "AdaGrad": 0.02, "RMSProp": 0.01, "AdaDelta": 1.0, "Adam": 0.01}


def write_rows(folder: Path) -> None:
    """Write images and labels, some of them void, as HDF5; more void in some than in others."""
    generator = np.random.default_rng(1)
    images = generator.standard_normal((ROWS, 2, 5, 6)).astype(np.float32)
    labels = (images[:, :1] > 0) + (images[:, 1:] > 0.5).astype(np.float32)
    labels[generator.random(labels.shape) < np.linspace(0, 0.7, ROWS)[:, None, None, None]] = 255
    with h5py.File(folder / "rows.h5", "w") as file:
        file["data"], file["label"] = images, labels
    (folder / "list.txt").write_text(f"{folder}/rows.h5\n")


def solver_of(
    folder: Path, rule: str = "SGD", *, batch: int = 1, middle: str = "", shuffle: bool = False, more: str = ""
) -> caffe_pb2.SolverParameter:
    """Return a solver over the rows of `write_rows`."""
    momentum = {"SGD": 0.9, "Nesterov": 0.9, "AdaDelta": 0.95, "Adam": 0.9}.get(rule, 0)
    param: caffe_pb2.SolverParameter = parse_text(
        f'type: "{rule}" base_lr: {RATES[rule]} momentum: {momentum} weight_decay: 0.01 lr_policy: "fixed" '
        f'random_seed: 5 snapshot_prefix: "{folder}/run" snapshot_after_train: false delta: 1e-3 {more}',
        caffe_pb2.SolverParameter,
    )
    text = NET.format(folder=folder, batch=batch, middle=middle, shuffle=str(shuffle).lower())
    param.net_param.CopyFrom(parse_text(text, caffe_pb2.NetParameter))
    return param


# -- processes ---------------------------------------------------------------------------------------------------


def in_ranks(count: int, function: Callable[..., Any], *arguments: object, **options: object) -> list[Any]:
    """Call function(ranks, *arguments, **options) in `count` processes; return what each returned, or its error."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        return _in_processes(count, _run, lambda rank: (rank, count, meeting, partial(function, **options), arguments))


def _in_processes(count: int, target: Callable[..., None], arguments: Callable[[int], tuple[object, ...]]) -> list[Any]:
    """Call target(send, *arguments(rank)) in a process for each rank; return what each sent."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [context.Process(target=target, args=(send, *arguments(rank))) for rank, (_, send) in enumerate(pipes)]
    for process in processes:
        process.start()
    for _, send in pipes:
        send.close()
    results = [_received(receive) for receive, _ in pipes]
    for process in processes:
        process.join(60)
        process.kill()
    return results


def _received(receive: Any) -> Any:
    try:
        return receive.recv() if receive.poll(120) else "no answer"
    except EOFError:
        return "died"


def _run(
    send: Any, rank: int, count: int, meeting: str, function: Callable[..., Any], arguments: Sequence[object]
) -> None:
    torch.set_num_threads(1)
    try:
        with join_ranks(rank, count, meeting) as ranks:
            if rank:
                with silence_others():
                    result = function(ranks, *arguments)
            else:
                result = function(ranks, *arguments)
    except FcnCaffeError as error:
        result = f"{type(error).__name__}: {error}"
    except SystemExit as error:
        result = f"exit {error.code}"
    send.send(result)
    send.close()


# -- what they do ------------------------------------------------------------------------------------------------


def train(
    ranks: Ranks, text: bytes, steps: int, resume: str | None = None, snapshot: bool = False, **options: Any
) -> tuple[Weights, list[float], Any]:
    """Train; return the weights, the losses, and where the data are."""
    solver = Solver(caffe_pb2.SolverParameter.FromString(text), device="cpu", ranks=ranks, **options)
    if resume is not None:
        solver.restore(resume)
    losses: list[float] = []
    solver.on_step.append(lambda solver: losses.append(solver.loss))
    solver.step(steps)
    if snapshot:
        solver.snapshot()
    return net_weights(solver.net), losses, solver.net.data_state()


def train_alone(param: caffe_pb2.SolverParameter, steps: int, **options: Any) -> tuple[Weights, list[float], Any]:
    """Train in this process."""
    return train(ALONE, param.SerializeToString(), steps, **options)


def train_all(ranks: Ranks, texts: Sequence[bytes], steps: int) -> list[tuple[Weights, list[float], Any]]:
    """Train with one solver after the other."""
    return [train(ranks, text, steps) for text in texts]


def share_history(
    ranks: Ranks, texts: Sequence[bytes], steps: int
) -> list[tuple[Weights, Weights, bytes, bytes, int, list[int], bool]]:
    """Train with each solver, its history shared out, and again as it is.

    Return the weights and the solver states of both, the bytes of history that this process had and that each was said
    to have, and whether every step could be seen in every blob.
    """
    found = []
    for text in texts:
        ends = []
        for is_shared in (True, False):
            solver = Solver(
                caffe_pb2.SolverParameter.FromString(text), device="cpu", ranks=ranks, shard_history=is_shared
            )
            solver.step(1)
            before = [item.blob._version for item in solver.net.learnable_params]
            solver.step(steps - 1)
            seen = [item.blob._version for item in solver.net.learnable_params]
            path = solver.snapshot()
            ends.append((net_weights(solver.net), path.read_bytes() if ranks.is_first else b""))
            if is_shared:
                assert solver._shared is not None and not solver.optimizer.state
                kept = [one for each in solver._shared.own.state.values() for one in each["history"]]
                mine, said = sum(one.nbytes for one in kept), solver._shared.bytes_of_ranks()
                is_seen = all(one < other for one, other in zip(before, seen, strict=True))
                need = training_demand(solver.net, solver.param.type).to_come(solver.device)
                with mock.patch.object(settings, "free_bytes", lambda device: need - sum(said) + mine):  # noqa: B023
                    solver.refuse_too_large()
        (weights, state), (plain_weights, plain_state) = ends
        found.append((weights, plain_weights, state, plain_state, mine, said, is_seen))
    return found


def average(ranks: Ranks) -> list[Array]:
    """Average what differs in memory between the ranks: strided, in another memory format, without a gradient."""
    values = torch.arange(24.0).reshape(1, 2, 3, 4) + ranks.rank
    strided = torch.full((4, 6), -1.0)
    view = strided[:, ::2]
    view.copy_(torch.arange(12.0).reshape(4, 3) * (ranks.rank + 1))
    other = values.to(memory_format=torch.channels_last) if ranks.rank else values.clone()
    ranks.average([view, other, torch.ones(3, dtype=torch.float64) * ranks.rank])
    return [view.numpy(), other.contiguous().numpy(), strided[:, 1::2].numpy()]


def messages(ranks: Ranks) -> tuple[Any, Any, list[float]]:
    """Exchange what JSON holds."""
    every = ranks.gather({"rank": ranks.rank, "text": "ü" * ranks.rank})
    return every, ranks.from_first([ranks.rank]), ranks.mean([3.0 * ranks.rank])


def fail_together(ranks: Ranks, cases: Sequence[tuple[Sequence[int], str]]) -> list[str]:
    """Let some ranks fail in a block that all have to come through, while the others gather; say how each ended."""
    ends = []
    for failing, text in cases:
        try:
            with ranks.all_or_none():
                if ranks.rank in failing:
                    raise DataError(text)
                ranks.from_first(ranks.rank)
            ends.append("through")
        except (DataError, SystemExit) as error:
            ends.append(f"{type(error).__name__}: {error}")
    return ends


def die_in_step(ranks: Ranks, text: bytes, rank: int, step: int) -> int:
    """Train; one rank's data end early."""
    solver = Solver(caffe_pb2.SolverParameter.FromString(text), device="cpu", ranks=ranks)

    def fail(solver: Solver) -> None:
        if solver.iter == step and ranks.rank == rank:
            raise DataError("image 7 is not there.")

    solver.on_step.append(fail)
    solver.step(20)
    return solver.iter


def interrupt(ranks: Ranks, text: bytes, rank: int) -> tuple[int, bool, list[str]]:
    """Train; SIGTERM reaches one rank, twice."""
    solver = Solver(caffe_pb2.SolverParameter.FromString(text), device="cpu", ranks=ranks)
    snapshots: list[str] = []
    solver.on_snapshot.append(lambda solver, state: snapshots.append(state.name))

    def send(solver: Solver) -> None:
        if solver.iter == 3 and ranks.rank == rank:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)

    solver.on_step.append(send)
    with solver.signals():
        solver.step(20)
    return solver.iter, solver.stopped, snapshots


def test_and_score(ranks: Ranks, text: bytes, passes: int) -> tuple[dict[str, Any], dict[str, Any], Any, Any]:
    """Train a little, test, score; return outputs, scores, the statistics that were scored with, where data are."""
    solver = Solver(caffe_pb2.SolverParameter.FromString(text), device="cpu", ranks=ranks)
    solver.step(3)
    solver.agree_on_statistics()
    outputs = solver.test()
    net = solver.test_nets[0]
    scores = score_heads(net, passes, {"score": "label"}, details=Details((), True, 0), ranks=ranks)["score"]
    statistics = [blob.tolist() for blob in net.params.get("bn", ())]
    found = {"confusion": scores.confusion, "loss": scores.loss, "intervals": scores.intervals}
    return outputs, found, statistics, net.data_state()


# -- commands ----------------------------------------------------------------------------------------------------


def command_in_ranks(
    count: int, words: Sequence[str], folder: Path, interrupt_at: Path | None = None, first: int = 0
) -> list[tuple[int, str, str]]:
    """Run `fcn-caffe WORDS` in `count` processes, as torchrun does; return status, stdout and stderr of each.

    Once the file `interrupt_at` is there, every process from `first` on gets SIGINT.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def arguments(rank: int) -> tuple[object, ...]:
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
        environment = {name: str(value) for name, value in {**variables, "MASTER_PORT": port}.items()}
        return environment, list(words), str(folder), interrupt_at if rank >= first else None

    return _in_processes(count, _command, arguments)


def _command(send: Any, environment: dict[str, str], words: list[str], folder: str, interrupt_at: Path | None) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    torch.set_num_threads(1)
    if interrupt_at is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the forkserver ignores it
        threading.Thread(target=_interrupt_at, args=(interrupt_at,), daemon=True).start()
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status: object = commands.main(words)
        except SystemExit as error:
            status = error.code
    send.send((status, out.getvalue(), err.getvalue()))
    send.close()


def _interrupt_at(file: Path) -> None:
    while not file.exists():
        time.sleep(0.01)
    signal.raise_signal(signal.SIGINT)
