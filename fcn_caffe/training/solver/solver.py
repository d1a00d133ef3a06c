"""The training loop: a train net, its update rule, test nets that share its weights, snapshots."""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcn_caffe.errors import LayerError, SolverError
from fcn_caffe.host.free_memory import free_bytes
from fcn_caffe.host.glog import logger, mean_outputs, number, output_lines, say, show_log
from fcn_caffe.host.paths import PathLike, Paths
from fcn_caffe.host.ranks import ALONE, Ranks
from fcn_caffe.net.net import Net
from fcn_caffe.net.own_passes import in_order, own_passes
from fcn_caffe.net.parameters import LearnableParam
from fcn_caffe.net.rewrite.ready import tuned_net
from fcn_caffe.net.turns import training_alone
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.training.solver import snapshot, together
from fcn_caffe.training.solver.deterministic import naming_the_layer
from fcn_caffe.training.solver.lr_policies import LearningRate
from fcn_caffe.training.solver.one_run import only_run
from fcn_caffe.training.solver.settings import Settings
from fcn_caffe.training.solver.signals import Effect, Requests
from fcn_caffe.weights.record import Preprocessing
from fcn_caffe.weights.transfer import copy_weights, load_weights


class Solver:
    """Caffe's training loop: `Solver("solver.prototxt").solve()` trains the net that the file names.

    Here a net learns the number 3:

    >>> from fcn_caffe.proto import caffe_pb2, parse_text
    >>> param = parse_text('''
    ...     base_lr: 0.1 lr_policy: "fixed" solver_mode: CPU
    ...     net_param {
    ...       layer { name: "data" type: "DummyData" top: "x" top: "three" dummy_data_param {
    ...         shape { dim: 1 dim: 1 } data_filler { value: 1 } data_filler { value: 3 } } }
    ...       layer { name: "number" type: "InnerProduct" bottom: "x" top: "number"
    ...         inner_product_param { num_output: 1 bias_term: false } }
    ...       layer { name: "loss" type: "EuclideanLoss" bottom: "number" bottom: "three" }
    ...     }''', caffe_pb2.SolverParameter)
    >>> solver = Solver(param)
    >>> solver.step(100)
    >>> solver.iter, round(solver.net.params["number"][0].item(), 3)
    (100, 3.0)

    `random_seed` seeds torch, NumPy and Python's random. Log lines go to logging's "fcn_caffe.training.solver", and to
    stderr where the program has not set up logging.

    Args:
        source: a solver file or a SolverParameter.
        device: "cpu", "cuda" or "cuda:N"; None follows solver_mode where CUDA is present.
        base: the same as paths=Paths(base).
        path: the file that a SolverParameter was read from.
        paths: what relative paths start from, in the solver and in its nets; the working directory by default. A file
            that is not there is looked for beside the solver file, then in the folder above it.
        checkpoint: keep few blobs for backward, and run parts of the net again there: less memory, equal gradients.
        amp: "bf16" trains with convolutions and inner products in bfloat16; weights and losses stay float32.
        rewrite: makes of each net one over the same blobs that runs instead, such as `ready_net`.
        fast: run each convolution in the quickest way that keeps scores and gradients within 1e-4 of their largest;
            see `choose_ways`.
        blob_counts: as in `Net`, in place of those of the weight files that the solver names.
        ranks: the processes that train together, each with a solver of its own. Each normalises its own batch; the
            gradients are averaged, then clipped. W processes train as one with W times the iter_size, and W times the
            clip_gradients, over the same images. Rank 0 writes the snapshots.
        sync_bn: let batch normalisations take mean and variance over the batches of all processes.
        normalize_over_ranks: divide a loss by the valid positions of all processes, not by each one's own.
        shard_history: let each process keep a share of the history, that of whole parameters: less memory, equal
            weights. A snapshot has all of it, and any number of processes goes on from there.
        check_memory: refuse a run that takes more memory than is free, before weights are filled.
    Attributes:
        net: the net that is trained.
        test_nets: the nets that are tested; they share the blobs of `net`.
        optimizer: the update rule; with `shard_history` it has no histories.
        iter: the number of updates.
        loss: the loss of the last iteration.
        smoothed_loss: the mean of the last `average_loss` losses since `step` was called.
        rate: the last learning rate.
        preprocessing: what the record beside each snapshot's weights says, as `trained_preprocessing(solver.net)`; None
            writes no record, as in Caffe.
        stopped_by: the number of the signal that ended the last `step` or `solve`, or 0.
        on_step: functions to call with the solver after each update.
        on_display: functions to call with the solver and the outputs after each display.
        before_update: functions to call with the solver before each update, when the gradients are there: sums over
            iter_size passes, averaged over the processes.
        on_test: functions to call with the solver, the test net's number and its outputs after each test.
        on_snapshot: functions to call with the solver and the solver state's path after each snapshot; on rank 0.
    Raises:
        SolverError: something in the solver is wrong; names the file.
        FcnCaffeError: a net or a weight file is wrong.
    Source: Caffe Solver, SGDSolver.
    """

    _prefix: ExitStack | None = None  # closed, it gives the snapshot prefix up

    def __init__(
        self,
        source: PathLike | caffe_pb2.SolverParameter,
        device: str | torch.device | None = None,
        base: str | Path | None = None,
        path: PathLike | None = None,
        *,
        paths: Paths | None = None,
        checkpoint: bool = False,
        amp: str | None = None,
        rewrite: Callable[[Net], Net] = lambda net: net,
        fast: bool = False,
        blob_counts: Mapping[str, int] | None = None,
        ranks: Ranks = ALONE,
        sync_bn: bool = False,
        normalize_over_ranks: bool = False,
        shard_history: bool = False,
        check_memory: bool = False,
    ) -> None:
        show_log()
        if paths is None:
            paths = Paths() if base is None else Paths(Path(base))
        self._settings = settings = Settings(source, paths, path)
        self.param, self.ranks = settings.param, ranks
        self.learning_rate = LearningRate(self.param, settings.place)
        self.device = ranks.device(settings.device(device))
        if (seed := together.common_seed(self.param.random_seed, ranks)) >= 0:
            snapshot.seed(seed)
        self._checkpoint, self._is_fast = checkpoint, fast
        counts = settings.blob_counts() if blob_counts is None else blob_counts
        self._make_nets(rewrite, counts, amp, shard_history, check_memory)
        self.iter, self.rate = 0, float(self.param.base_lr)
        self.loss = self.smoothed_loss = math.nan
        self.preprocessing: Preprocessing | None = None
        self.on_step: list[Callable[[Solver], None]] = []
        self.on_display: list[Callable[[Solver, dict[str, Any]], None]] = []
        self.before_update: list[Callable[[Solver], None]] = []
        self.on_test: list[Callable[[Solver, int, dict[str, Any]], None]] = []
        self.on_snapshot: list[Callable[[Solver, Path], None]] = []
        self._requests, self._is_joined = Requests(ranks), ranks.count == 1
        self._over_ranks = {"norms": sync_bn, "losses": normalize_over_ranks}
        self._snapshot_iter, self._warned_of_loss, self.stopped_by = -1, False, 0
        for path in settings.weights():
            self._start_from(path)
        together.draw_apart(ranks)

    def _make_nets(
        self, rewrite: Callable[[Net], Net], counts: Mapping[str, int], amp: str | None, shard: bool, check: bool
    ) -> None:
        """Make the nets and the update rule; with `check` refuse what does not fit before weights are filled."""
        settings = self._settings
        free = free_bytes(self.device) if check else None
        self.net: Net = rewrite(settings.train_net(self.device, counts, filled=False))
        self._be_thrifty(amp)
        self.optimizer, self._trained = settings.update_rule(self.net), self.net.learnable_params
        self._shared = settings.share_history(self.optimizer, self.ranks) if shard else None
        self.test_nets: list[Net] = []
        if free is not None:
            self.refuse_too_large(free)
        self.net.fill()
        self.test_nets = [rewrite(net) for net in settings.test_nets(self.device, counts)]
        for test_net in self.test_nets:
            test_net.share_with(self.net)
        if check:
            self.refuse_too_large()

    def _be_thrifty(self, amp: str | None) -> None:
        if self._checkpoint or amp is not None:
            self.net.make_runner = self._settings.thrift(self.net, self._checkpoint, amp)
        if self._is_fast and amp is not None:
            raise self._settings.error("the ways that fast chooses from are for float32: leave out amp, or fast.")

    def _start_from(self, path: Path) -> None:
        weights = load_weights(path)
        say("solver.cpp:431", f"Finetuning from {path}")
        logger.info("%s", copy_weights(self.net, weights, path))
        for test_net in self.test_nets:
            own = {layer: blobs for layer, blobs in weights.items() if layer not in self.net.params}
            copy_weights(test_net, own, path)

    @property
    def stopped(self) -> bool:
        """Whether a signal ended the last `step` or `solve`."""
        return self.stopped_by != 0

    # -- training ---------------------------------------------------------------------------------------------

    def signals(self, interrupt: Effect = "stop", hang_up: Effect = "snapshot") -> AbstractContextManager[None]:
        """Return a block in which signals steer the training; `solve` opens one itself.

        By default SIGINT makes a snapshot and stops, SIGHUP makes a snapshot and goes on; SIGTERM always stops, after a
        snapshot. A second signal to stop interrupts at once. After the block the earlier handlers are back.

        Args:
            interrupt: what SIGINT does: stop, snapshot or none.
            hang_up: what SIGHUP does.
        """
        return self._requests.catch(interrupt, hang_up)

    def solve(self, resume: PathLike | None = None) -> None:
        """Train to max_iter; then snapshot, display and test where they are due.

        SIGINT ends it early and sets `stopped`.

        Args:
            resume: a solver state to continue from.
        """
        if self.param.snapshot or self.param.snapshot_after_train:
            self.keep_prefix()
        with self.signals(), ExitStack() as stack:
            stack.callback(self.give_up_prefix)
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
                losses.append(self.ranks.mean([self._evaluate(self.net, with_loss=True)[0]])[0])
                self.smoothed_loss = math.fsum(losses) / len(losses)
                say("solver.cpp:312", f"Iteration {self.iter}, loss = {number(self.smoothed_loss)}")
            if self.param.test_interval and self.iter % self.param.test_interval == 0:
                self._test_all()
                if self._requests.stop:  # it cut the last test short; the snapshot is written
                    self._stop()
                    say("solver.cpp:295", "Optimization stopped early.")
                    return
            say("solver.cpp:317", "Optimization Done.")

    def keep_prefix(self) -> None:
        """Keep the snapshot prefix for this process, until `give_up_prefix` or as long as the solver lives.

        Raises:
            SolverError: another process has it.
        """
        if self._prefix is not None:
            return
        stack = ExitStack()
        with self.ranks.all_or_none():
            if self.ranks.is_first:
                stack.enter_context(only_run(self._settings.snapshot_prefix))
        self._prefix = stack
        weakref.finalize(self, stack.close)

    def give_up_prefix(self) -> None:
        """Let other processes have the snapshot prefix."""
        if self._prefix is not None:
            self._prefix.close()
            self._prefix = None

    def refuse_too_large(self, before: int | None = None) -> None:
        """Refuse a net that takes more memory than is free.

        before: what was free before the net was made, where its weights are not filled yet.
        Raises: SolverError, which says how much.
        """
        elsewhere = 0
        if self._shared is not None:
            every = self._shared.bytes_of_ranks()
            elsewhere = sum(every) - every[self.ranks.rank]
        self._settings.refuse_too_large(self.net, self._checkpoint, elsewhere, self.test_nets, before)

    def choose_ways(self) -> None:
        """With `fast`, choose the ways of the convolutions for the weights that are in now; say what they cost.

        `step` and `solve` do it before they train. Once: a solver keeps its ways.
        """
        if self._is_fast:
            self._is_fast = False
            with self.ranks.first_before_others():  # it measures, and keeps what it found in a file
                self.net = tuned_net(self.net, logger.info)
                self.test_nets = [tuned_net(net, logger.info) for net in self.test_nets]

    def use_ranks(self, ranks: Ranks) -> None:
        """Train with the solvers of other processes from the next iteration on."""
        self.ranks, self._requests, self._is_joined = ranks, Requests(ranks), ranks.count == 1
        together.draw_apart(ranks)

    def _join(self) -> None:
        """Start from what rank 0 has, before the first iteration and after a restore."""
        if not self._is_joined:
            self._is_joined = True
            together.use_ranks(self.ranks, self.net, **self._over_ranks)
            together.join(self.ranks, self.net, self.test_nets, self.optimizer if self._shared is None else None)

    def step(self, count: int) -> None:
        """Run `count` iterations, with the tests, displays and snapshots that are due. SIGINT ends it early.

        Raises:
            SolverError: another process trains with this solver's snapshot_prefix.
        """
        if self.param.snapshot:
            self.keep_prefix()
        self._step(count)

    def _step(self, count: int) -> deque[float]:
        self.choose_ways()
        self._join()
        with training_alone((item.blob for item in self._follow_net()), self.net.name):
            return self._step_alone(count)

    def _follow_net(self) -> list[LearnableParam]:
        """Train the blobs that the net has now, and return them: `share_with` and PyTorch may have put others in."""
        learnable = self.net.learnable_params
        pairs = zip(self._trained, learnable, strict=True)
        others = {id(old.blob): new.blob for old, new in pairs if old.blob is not new.blob}
        if others:
            if self._shared is not None:
                raise self._settings.error(
                    "blobs of the net were replaced after its history was shared out. Write into the blobs, or make "
                    "the solver anew."
                )
            self.optimizer.follow(others)
            self._trained = learnable
        return learnable

    def _step_alone(self, count: int) -> deque[float]:
        self._requests.agree()
        param, stop = self.param, self.iter + count
        losses: deque[float] = deque(maxlen=param.average_loss)
        self.stopped_by = 0
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
            if displays:
                timer = self._display(together.mean_of_outputs(self.ranks, mean_outputs(outputs, 1)), *timer)
            else:
                self.rate = self.learning_rate(self.iter)
            del outputs
            self._update()
            self.iter += 1
            for call in self.on_step:
                call(self)
            if self.ranks.count == 1:  # several have agreed with their losses
                self._requests.agree()
            if (param.snapshot and self.iter % param.snapshot == 0) or self._requests.snapshot:
                self._requests.serve_snapshot()
                self.snapshot()
            if self._requests.stop:
                self._stop()
                break
        return losses

    def _forward_backward(self) -> dict[str, Tensor]:
        """Run iter_size passes, sum their gradients and average their losses; return the outputs of the last."""
        self._clear_gradients()
        total = 0.0
        for _ in range(self.param.iter_size):
            loss, outputs = self._pass()
            total += loss
        self.loss = self._mean_loss(total / self.param.iter_size)
        if not math.isfinite(self.loss) and not self._warned_of_loss:
            self._warned_of_loss = True
            logger.warning(
                "Iteration %d: loss is %g. Training goes on; lower base_lr if this stays.", self.iter, self.loss
            )
        return outputs

    def _mean_loss(self, loss: float) -> float:
        """Return the mean of the processes' losses; what signals have asked of any counts for all."""
        if self.ranks.count == 1:
            return loss
        every = self.ranks.gather_numbers([loss, *self._requests.heard])
        self._requests.take(heard for _, *heard in every)
        return (
            math.fsum(one[0] for one in every) / len(every) if all(math.isfinite(one[0]) for one in every) else math.nan
        )

    # These four run nets and change weights. The pycaffe face overrides them: it runs its own nets, layer by layer.

    def _clear_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _pass(self) -> tuple[float, dict[str, Tensor]]:
        """Run the train net forward and backward once; return its loss and its outputs."""
        if not self.net.loss_weights:
            return 0.0, {name: blob.detach() for name, blob in self.net().items()}
        loss, blobs = self.net.forward_loss()
        if loss.requires_grad:
            with naming_the_layer(self.net):
                loss.backward()  # type: ignore[no-untyped-call]
        if self.net.debug is not None:
            self.net.debug.backward_done()
        return float(loss.detach()), {name: blobs[name].detach() for name in self.net.graph.outputs}

    def _evaluate(self, net: Net, with_loss: bool) -> tuple[float, dict[str, Tensor]]:
        """Run a net forward once; return its loss, NaN if not asked for, and its outputs."""
        with torch.no_grad():
            if not with_loss or not net.loss_weights:
                return 0.0 if with_loss else math.nan, net()
            loss, blobs = net.forward_loss()
            return float(loss), blobs

    def _update(self) -> None:
        """Update the weights from their gradients, averaged over the processes, at `rate`."""
        self.ranks.average(self.optimizer.gradients())
        for call in self.before_update:
            call(self)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        (self._shared or self.optimizer).step()

    def _display(self, outputs: dict[str, Any], start: float, first: int) -> tuple[float, int]:
        """Ask for the rate; log loss, outputs and rate; return the time and the iteration to count from next time."""
        lapse = time.perf_counter() - start
        speed = (self.iter - first) / (lapse or 1)
        say(
            "solver.cpp:239",
            f"Iteration {self.iter} ({number(speed)} iter/s, {number(lapse)}s/{self.param.display} iters), "
            f"loss = {number(self.smoothed_loss)}",
        )
        for line in output_lines("Train", outputs, self.net.loss_weights):
            say("solver.cpp:258", line)
        self.rate = self.learning_rate(self.iter)
        say("sgd_solver.cpp:112", f"Iteration {self.iter}, lr = {number(self.rate)}")
        for call in self.on_display:
            call(self, outputs)
        return time.perf_counter(), self.iter

    def _stop(self) -> None:
        """Serve a signal: write a snapshot, unless this iteration has one, and stop."""
        if self._snapshot_iter != self.iter:
            self.snapshot()
        self.stopped_by = self._requests.stop
        self._requests.serve_stop()

    def stop_if_asked(self) -> bool:
        """Stop if a signal has asked for it, and return whether: for other work than steps, at a snapshot."""
        self._requests.agree()
        self.stopped_by = self._requests.stop
        if self.stopped_by:  # else a signal that came after they agreed would be forgotten
            self._requests.serve_stop()
        return self.stopped

    # -- testing ----------------------------------------------------------------------------------------------

    def test(self, index: int = 0) -> dict[str, Any]:
        """Run test net `index` for its test_iter passes; log the mean of each output.

        Returns:
            The mean of each output: a float for a single number, else an array of its shape. Empty where SIGINT
            ended the test early.
        Raises:
            SolverError: there is no such test net.
        """
        if not 0 <= index < len(self.test_nets):
            raise SolverError(f"test net {index} is not there: the solver has {len(self.test_nets)}.")
        net, count = self.test_nets[index], self.param.test_iter[index]
        say("solver.cpp:341", f"Iteration {self.iter}, Testing net (#{index})")
        sums: dict[str, Tensor] = {}
        losses: list[float] = []
        together_until = count - count % self.ranks.count  # as long as every process has a pass
        for number_of_pass in own_passes(net, count, self.ranks):
            if number_of_pass < together_until:
                self._requests.agree()
            if self._requests.stop:
                say("solver.cpp:354", "Test interrupted.")
                return {}
            try:
                total, blobs = self._evaluate(net, with_loss=self.param.test_compute_loss)
            except LayerError as error:
                raise error.named(f"test net #{index}") from error.__cause__
            losses.append(total)
            for name in net.graph.outputs:
                sums[name] = sums[name] + blobs[name] if name in sums else blobs[name]
        if self.param.test_compute_loss:
            say("solver.cpp:384", f"Test loss: {number(sum(in_order(losses, self.ranks)) / count)}")
        outputs = mean_outputs(together.add_outputs(self.ranks, sums, net), count)
        for line in output_lines("Test", outputs, net.loss_weights):
            say("solver.cpp:397", line)
        for call in self.on_test:
            call(self, index, outputs)
        return outputs

    def agree_on_statistics(self) -> None:
        """Before a test: give every process the running statistics of rank 0, which are those that a snapshot keeps."""
        if self.ranks.count > 1:
            self.ranks.copy_from_first(together.statistics(self.net))

    def _test_all(self) -> None:
        self.agree_on_statistics()
        before = snapshot.random_states(self.net, self.test_nets, self.iter)
        for index in range(len(self.test_nets)):
            self.test(index)
            if self._requests.stop:
                # Resumed training tests at this iteration again, and must see the same random numbers.
                snapshot.set_random_states(before, self.net, self.test_nets)
                return

    # -- snapshots --------------------------------------------------------------------------------------------

    def snapshot(self) -> Path:
        """Write PREFIX_iter_N.caffemodel, PREFIX_iter_N.rngstate and PREFIX_iter_N.solverstate.

        With snapshot_format HDF5 the first and the last end in .h5. The snapshot is whole, or not there; earlier ones
        stay. The prefix's folder is made if need be.

        Returns:
            The solver state's path.
        Raises:
            SolverError: the snapshot cannot be written.
        """
        self._follow_net()
        prefix = self._settings.snapshot_prefix
        hdf5 = self.param.snapshot_format == caffe_pb2.SolverParameter.HDF5
        model, _, state = snapshot.snapshot_paths(prefix, self.iter, hdf5)
        form, lines = ("HDF5", (463, 285)) if hdf5 else ("binary proto", (454, 273))
        say(f"solver.cpp:{lines[0]}", f"Snapshotting to {form} file {model}")
        say(f"sgd_solver.cpp:{lines[1]}", f"Snapshotting solver state to {form} file {state}")
        progress = snapshot.Progress(self.iter, self.learning_rate.current_step)
        others = self.ranks.gather(snapshot.process_states(self.net.device))[1:]
        with self._shared.gathered() if self._shared else nullcontext(), self.ranks.all_or_none():
            if self.ranks.is_first:
                with only_run(prefix):
                    snapshot.write(
                        *(prefix, self.net, self.test_nets, self.optimizer, progress, hdf5, self.param.snapshot_diff),
                        preprocessing=self.preprocessing,
                        others=others,
                    )
                for call in self.on_snapshot:
                    call(self, state)
        self._snapshot_iter = self.iter
        return state

    def restore(self, path: PathLike) -> None:
        """Continue from a solver state: weights, histories, iteration, random states and data order.

        Training then goes on to the bit as if it had not stopped. Caffe's own states have no random states: from
        one of those, everything but data order and dropout continues.

        Raises:
            SolverError, WeightsError: the state cannot be read or does not fit; nothing has changed.
        """
        self._follow_net()
        path = self._settings.paths.from_root(path)
        saved = snapshot.read(path, self.net, self.optimizer, self._settings.paths)
        own = None if self._shared is None else self._shared.own
        saved.put(self.net, self.test_nets, self.optimizer, self.ranks.rank, own)
        self._is_joined = self.ranks.count == 1
        self.iter, self.learning_rate.current_step = saved.state.iter, saved.state.current_step
        self._snapshot_iter = self.iter
        say("sgd_solver.cpp:326", f"Restoring previous solver status from {path}")
        if saved.random_states is None:
            logger.warning(
                "%s: no random states beside it (.rngstate, which Caffe does not write): "
                "data order and dropout start anew.",
                path,
            )
