"""The training loop: a train net, its update rule, test nets that share its weights, snapshots."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcn_caffe.errors import SolverError
from fcn_caffe.host.glog import logger, mean_outputs, number, output_lines, say, show_log
from fcn_caffe.host.paths import PathLike, Paths
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.training.solver import snapshot
from fcn_caffe.training.solver.lr_policies import LearningRate
from fcn_caffe.training.solver.settings import Settings
from fcn_caffe.training.solver.signals import Effect, Requests
from fcn_caffe.weights.transfer import copy_weights, load_weights


class Solver:
    """Trains the net a SolverParameter names, as Caffe's solvers do: `Solver("solver.prototxt").solve()`.

    source: a solver file or a SolverParameter. device: "cpu", "cuda", "cuda:N"; None follows solver_mode where CUDA
    is present. paths: what relative paths start from, those in the solver and in its nets too; the working directory
    by default. Files that are not there are looked for beside the solver file, then in the folder above it. base: the
    same as paths=Paths(base). path: the file that a SolverParameter was read from. random_seed seeds torch, NumPy and
    Python's random.

    net, test_nets: the nets, which share their blobs. optimizer: the update rule. iter: updates done. loss: of the
    last iteration. smoothed_loss: mean of the last average_loss ones since `step` was called. rate: the last
    learning rate. stopped: whether SIGINT ended the last `step` or `solve`.
    on_step, on_display, on_snapshot: functions to call after each update, each display and each snapshot; they get
    the solver, the solver and the outputs, the solver and the solver state's path.
    Log lines go to logging's "fcn_caffe.training.solver", and to stderr if the program has not set up logging.

    Raises: SolverError naming the file for anything wrong in the solver; the errors of Net and of weight files.
    Source: Caffe Solver, SGDSolver.
    """

    def __init__(
        self,
        source: PathLike | Any,
        device: str | torch.device | None = None,
        base: str | Path | None = None,
        path: PathLike | None = None,
        *,
        paths: Paths | None = None,
    ) -> None:
        show_log()
        if paths is None:
            paths = Paths() if base is None else Paths(Path(base))
        self._settings = settings = Settings(source, paths, path)
        self.param = settings.param
        self.learning_rate = LearningRate(self.param, settings.place)
        self.device = settings.device(device)
        if self.param.random_seed >= 0:
            snapshot.seed(self.param.random_seed)
        self.net: Net = settings.train_net(self.device)
        self.optimizer = settings.update_rule(self.net)
        self.test_nets: list[Net] = settings.test_nets(self.device)
        for test_net in self.test_nets:
            test_net.share_with(self.net)
        self.iter = 0
        self.loss = self.smoothed_loss = math.nan
        self.rate = float(self.param.base_lr)
        self.stopped = False
        self.on_step: list[Callable[[Solver], None]] = []
        self.on_display: list[Callable[[Solver, dict[str, Any]], None]] = []
        self.on_snapshot: list[Callable[[Solver, Path], None]] = []
        self._requests = Requests()
        self._snapshot_iter = -1
        self._warned_of_loss = False
        for path in settings.weights():
            self._start_from(path)

    def _start_from(self, path: Path) -> None:
        weights = load_weights(path)
        say("solver.cpp:431", f"Finetuning from {path}")
        logger.info("%s", copy_weights(self.net, weights, path))
        for test_net in self.test_nets:
            own = {layer: blobs for layer, blobs in weights.items() if layer not in self.net.params}
            copy_weights(test_net, own, path)

    # -- training ---------------------------------------------------------------------------------------------

    def signals(self, interrupt: Effect = "stop", hang_up: Effect = "snapshot") -> AbstractContextManager[None]:
        """A block in which SIGINT means snapshot and stop, SIGHUP snapshot and go on. `solve` opens one itself.

        interrupt, hang_up: what SIGINT and SIGHUP do instead: stop, snapshot or none. The handlers that were there
        are put back after it. A second signal to stop interrupts at once.
        """
        return self._requests.caught(interrupt, hang_up)

    def solve(self, resume: PathLike | None = None) -> None:
        """Train to max_iter, from a solver state if given; then snapshot, and display and test where they are due.

        Returns early, with `stopped` set, when SIGINT came.
        """
        with self.signals():
            say("solver.cpp:279", f"Solving {self.net.name}")
            say("solver.cpp:280", f"Learning Rate Policy: {self.param.lr_policy}")
            if resume is not None:
                self.restore(resume)
            losses = self._step(max(0, self.param.max_iter - self.iter))
            if self.stopped:
                say("solver.cpp:295", "Optimization stopped early.")
                return
            if self.param.snapshot_after_train and (not self.param.snapshot or self.iter % self.param.snapshot):
                self.snapshot()
            if self.param.display and self.iter % self.param.display == 0:
                losses.append(self._evaluate(self.net, with_loss=True)[0])
                self.smoothed_loss = math.fsum(losses) / len(losses)
                say("solver.cpp:312", f"Iteration {self.iter}, loss = {number(self.smoothed_loss)}")
            if self.param.test_interval and self.iter % self.param.test_interval == 0:
                self._test_all()
                if self._requests.stop:  # it cut the last test short; the snapshot is written
                    self._requests.stop, self.stopped = False, True
                    say("solver.cpp:295", "Optimization stopped early.")
                    return
            say("solver.cpp:317", "Optimization Done.")

    def step(self, count: int) -> None:
        """Do `count` iterations, with the tests, displays and snapshots that are due. Stops early on SIGINT."""
        self._step(count)

    def _step(self, count: int) -> deque[float]:
        param, stop = self.param, self.iter + count
        losses: deque[float] = deque(maxlen=param.average_loss)
        self.stopped = False
        timer = (time.perf_counter(), self.iter)
        while self.iter < stop:
            if (
                param.test_interval
                and self.iter % param.test_interval == 0
                and (self.iter > 0 or param.test_initialization)
            ):
                self._test_all()
            if self._requests.stop:
                self._stop()
                break
            displays = bool(param.display and self.iter % param.display == 0)
            if self.net.debug is not None:
                self.net.debug.enabled = displays and param.debug_info
            outputs = self._forward_backward()
            losses.append(self.loss)
            self.smoothed_loss = math.fsum(losses) / len(losses)
            self.rate = self.learning_rate(self.iter)
            if displays:
                timer = self._display(mean_outputs(outputs, 1), *timer)
            del outputs
            self._update()
            self.iter += 1
            for call in self.on_step:
                call(self)
            if (param.snapshot and self.iter % param.snapshot == 0) or self._requests.snapshot:
                self._requests.snapshot = False
                self.snapshot()
            if self._requests.stop:
                self._stop()
                break
        return losses

    def _forward_backward(self) -> dict[str, Tensor]:
        """iter_size passes; gradients are summed, `loss` is their mean. Returns the outputs of the last."""
        self._clear_gradients()
        total = 0.0
        for _ in range(self.param.iter_size):
            loss, outputs = self._pass()
            total += loss
        self.loss = total / self.param.iter_size
        if not math.isfinite(self.loss) and not self._warned_of_loss:
            self._warned_of_loss = True
            logger.warning(
                "Iteration %d: loss is %g. Training goes on; lower base_lr if this stays.", self.iter, self.loss
            )
        return outputs

    # These four are where nets are run and weights changed: the pycaffe face runs its own nets, layer by layer.

    def _clear_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _pass(self) -> tuple[float, dict[str, Tensor]]:
        """Forward and backward of the train net once: its loss and its outputs."""
        loss, blobs = self.net.forward_loss()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.net.debug is not None:
            self.net.debug.backward_done()
        return float(loss.detach()), {name: blobs[name].detach() for name in self.net.graph.outputs}

    def _evaluate(self, net: Net, with_loss: bool) -> tuple[float, dict[str, Tensor]]:
        """Forward of a net once: its loss, NaN if not asked for, and its outputs."""
        with torch.no_grad():
            if not with_loss:
                return math.nan, net()
            loss, blobs = net.forward_loss()
            return float(loss), blobs

    def _update(self) -> None:
        """Change the weights by their gradients, at `rate`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.step()

    def _display(self, outputs: dict[str, Any], started: float, first: int) -> tuple[float, int]:
        """Log loss, outputs and rate; returns the time and the iteration to count from next time."""
        lapse = time.perf_counter() - started
        speed = (self.iter - first) / (lapse or 1)
        say(
            "solver.cpp:239",
            f"Iteration {self.iter} ({number(speed)} iter/s, {number(lapse)}s/{self.param.display} iters), "
            f"loss = {number(self.smoothed_loss)}",
        )
        for line in output_lines("Train", outputs, self.net.loss_weights):
            say("solver.cpp:258", line)
        say("sgd_solver.cpp:112", f"Iteration {self.iter}, lr = {number(self.rate)}")
        for call in self.on_display:
            call(self, outputs)
        return time.perf_counter(), self.iter

    def _stop(self) -> None:
        """Do what SIGINT asks: snapshot, unless this iteration's is written, and stop."""
        if self._snapshot_iter != self.iter:
            self.snapshot()
        self._requests.stop = False
        self.stopped = True

    # -- testing ----------------------------------------------------------------------------------------------

    def test(self, index: int = 0) -> dict[str, Any]:
        """Run test net `index` for its test_iter passes; return and log the mean of each output.

        Values: a float for a single number, else an array of the output's shape. Empty when SIGINT cut it short.
        Raises: SolverError if there is no such test net.
        """
        if not 0 <= index < len(self.test_nets):
            raise SolverError(f"test net {index} is not there: the solver has {len(self.test_nets)}.")
        net, count = self.test_nets[index], self.param.test_iter[index]
        say("solver.cpp:341", f"Iteration {self.iter}, Testing net (#{index})")
        sums: dict[str, Tensor] = {}
        loss = 0.0
        for _ in range(count):
            if self._requests.stop:
                say("solver.cpp:354", "Test interrupted.")
                return {}
            total, blobs = self._evaluate(net, with_loss=self.param.test_compute_loss)
            loss += total
            for name in net.graph.outputs:
                sums[name] = sums[name] + blobs[name] if name in sums else blobs[name]
        if self.param.test_compute_loss:
            say("solver.cpp:384", f"Test loss: {number(loss / count)}")
        outputs = mean_outputs(sums, count)
        for line in output_lines("Test", outputs, net.loss_weights):
            say("solver.cpp:397", line)
        return outputs

    def _test_all(self) -> None:
        before = snapshot.random_states(self.net, self.test_nets, self.iter)
        for index in range(len(self.test_nets)):
            self.test(index)
            if self._requests.stop:
                # Resumed training tests at this iteration again: let it find what this test found.
                snapshot.set_random_states(before, self.net, self.test_nets)
                return

    # -- snapshots --------------------------------------------------------------------------------------------

    def snapshot(self) -> Path:
        """Write PREFIX_iter_N.caffemodel, .rngstate and .solverstate; return the path of the last.

        With snapshot_format HDF5 the first and last end in .h5.
        Whole or not at all; earlier snapshots stay. The prefix's folder is made if need be.
        Raises: SolverError when it cannot be written.
        """
        prefix = self._settings.snapshot_prefix
        hdf5 = self.param.snapshot_format == caffe_pb2.SolverParameter.HDF5
        model, _, state = snapshot.snapshot_paths(prefix, self.iter, hdf5)
        form, lines = ("HDF5", (463, 285)) if hdf5 else ("binary proto", (454, 273))
        say(f"solver.cpp:{lines[0]}", f"Snapshotting to {form} file {model}")
        say(f"sgd_solver.cpp:{lines[1]}", f"Snapshotting solver state to {form} file {state}")
        progress = snapshot.Progress(self.iter, self.learning_rate.current_step)
        snapshot.write(prefix, self.net, self.test_nets, self.optimizer, progress, hdf5)
        self._snapshot_iter = self.iter
        for call in self.on_snapshot:
            call(self, state)
        return state

    def restore(self, path: PathLike) -> None:
        """Continue from a solver state: weights, histories, iteration, random states and data order.

        Training then goes on to the bit as if it had not stopped. Caffe's own states have no random states: from
        one of those, everything but data order and dropout continues.
        Raises: SolverError or WeightsError; nothing has changed then.
        """
        path = self._settings.paths.from_root(path)
        found = snapshot.read(path, self.net, self.optimizer, self._settings.paths)
        found.put(self.net, self.test_nets, self.optimizer)
        self.iter, self.learning_rate.current_step = found.state.iter, found.state.current_step
        self._snapshot_iter = self.iter
        say("sgd_solver.cpp:326", f"Restoring previous solver status from {path}")
        if found.random_states is None:
            logger.warning(
                "%s: no random states beside it (.rngstate, which Caffe does not write): "
                "data order and dropout start anew.",
                path,
            )
