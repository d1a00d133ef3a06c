"""pycaffe's solvers: Caffe's training loop over nets whose blobs a script writes before a step and reads after it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn, Protocol, runtime_checkable

from torch import Tensor

from fcn_caffe.host.ranks import Share
from fcn_caffe.net.net import Net as CoreNet
from fcn_caffe.proto import caffe_pb2
from fcn_caffe.pycaffe import modes
from fcn_caffe.pycaffe.arguments import PathLike, check_file
from fcn_caffe.pycaffe.blob import Vec
from fcn_caffe.pycaffe.errors import raise_as_raised
from fcn_caffe.pycaffe.install import find_caffe
from fcn_caffe.pycaffe.memory import ParamDiff
from fcn_caffe.pycaffe.net import Net
from fcn_caffe.training.solver import Solver as CoreSolver
from fcn_caffe.training.solver import read_solver
from fcn_caffe.training.solver.signals import Effect


@runtime_checkable
class Together(Protocol):
    """What lets a solver train with those of other processes: `caffe.NCCL`."""

    def join_solver(self) -> None:
        """Let the solver train with the others."""


class _FaceSolver(CoreSolver):
    """The core's training loop; its nets run through their faces."""

    def __init__(self, param: caffe_pb2.SolverParameter, path: PathLike) -> None:
        super().__init__(param, device=modes.current_device(), path=path)
        if modes.solver_count() > 1:
            self.net.take_share(Share(modes.solver_rank(), modes.solver_count()))
        self.faces = {id(net): Net.over(net) for net in (self.net, *self.test_nets)}
        self.on_start: list[Callable[[], Any]] = []
        self.on_gradients: list[Callable[[], Any]] = []

    def signals(self, interrupt: Effect = "stop", hang_up: Effect = "snapshot") -> AbstractContextManager[None]:
        """Nothing is caught: in a script Ctrl-C is a KeyboardInterrupt."""
        return nullcontext()

    def _diffs(self) -> list[ParamDiff]:
        memories = [blob.diff_memory for blobs in self.faces[id(self.net)].params.values() for blob in blobs]
        return [memory for memory in memories if isinstance(memory, ParamDiff)]

    def _forward_backward(self) -> dict[str, Tensor]:
        self.faces[id(self.net)].clear_param_diffs()
        for call in self.on_start:
            call()
        return super()._forward_backward()

    def _clear_gradients(self) -> None:
        """They are cleared before `on_start` is called, as in Caffe."""

    def _pass(self) -> tuple[float, dict[str, Tensor]]:
        face = self.faces[id(self.net)]
        last = len(face.layers) - 1
        loss = face.run_forward(0, last)
        face.run_backward(last, 0)
        return loss, self._outputs(self.net)

    def _evaluate(self, net: CoreNet, with_loss: bool) -> tuple[float, dict[str, Tensor]]:
        face = self.faces[id(net)]
        loss = face.run_forward(0, len(face.layers) - 1)
        return loss, {name: blob.clone() for name, blob in self._outputs(net).items()}

    def _outputs(self, net: CoreNet) -> dict[str, Tensor]:
        executor = self.faces[id(net)].executor
        return {name: executor.blobs[name].data_memory.tensor(net.device) for name in net.graph.outputs}

    def _update(self) -> None:
        for call in self.on_gradients:
            call()
        self._apply_update()

    def apply_update(self) -> None:
        """Change the weights by their diffs, at the rate of this iteration; the diffs then are what was taken away."""
        self._follow_net()
        self.rate = self.learning_rate(self.iter)
        self._apply_update()

    def _apply_update(self) -> None:
        self._to_device()
        for diff in self._diffs():
            diff.flush()
        super()._update()
        waiting = {id(item.blob) for item in self.net.learnable_params if item.blob.requires_grad}

        def taken_away(owner: Tensor) -> Tensor:
            if id(owner) in waiting:
                waiting.discard(id(owner))
                return self.optimizer.last_update(owner)
            assert owner.grad is not None
            return owner.grad

        for diff in self._diffs():
            diff.show_update(taken_away)

    def _to_device(self) -> None:
        """Histories follow the weights, which follow the mode."""
        for param, state in self.optimizer.state.items():
            state["history"] = [history.to(param.device) for history in state["history"]]


class Solver:
    """A solver of the type that its file names: `get_solver(file)`; paths in it are relative to the working folder.

    net, test_nets: nets that share their parameters. param: the SolverParameter.

    Raises:
        RuntimeError: the file is not there.
        FcnCaffeError: the solver or its nets are wrong.

    Source: pycaffe's Solver.
    """

    _type: str | None = None

    def __init__(self, solver_file: PathLike) -> None:
        find_caffe()
        param = read_solver(check_file(solver_file))
        if self._type is not None:
            param.type = self._type
        with raise_as_raised():
            self._core = _FaceSolver(param, solver_file)
        self._net = self._core.faces[id(self._core.net)]
        self._test_nets = Vec(self._core.faces[id(net)] for net in self._core.test_nets)

    @property
    def core(self) -> CoreSolver:
        """The solver that trains."""
        return self._core

    @property
    def net(self) -> Net:
        """The net that is trained."""
        return self._net

    @property
    def test_nets(self) -> Vec:
        """The nets that are tested; they have the trained net's parameters."""
        return self._test_nets

    @property
    def iter(self) -> int:
        """How many updates have been done."""
        return self._core.iter

    @property
    def lr(self) -> float:
        """The learning rate of the coming update.

        As in Caffe, to read it is to ask the policy: where two stepvalues are equal, each reading passes one.
        """
        return float(self._core.learning_rate(self._core.iter))

    @property
    def param(self) -> caffe_pb2.SolverParameter:
        """The solver's options."""
        return self._core.param

    def step(self, iters: int) -> None:
        """Do `iters` iterations, with the tests, displays and snapshots that are due."""
        self._core.step(int(iters))

    def solve(self, resume_file: PathLike | None = None) -> None:
        """Train to max_iter, from a solver state if given.

        Raises:
            RuntimeError: the state is not there.
        """
        self._core.solve(None if resume_file is None else check_file(resume_file))

    def snapshot(self) -> None:
        """Write weights and solver state, named by the iteration.

        Raises:
            SolverError: they cannot be written.
        """
        self._net.flush()
        self._core.snapshot()

    def restore(self, state_file: PathLike) -> None:
        """Continue from a solver state.

        Raises:
            RuntimeError: the state is not there.
            SolverError: it does not fit.
        """
        self._net.flush()
        with raise_as_raised():
            self._core.restore(check_file(state_file))

    def add_callback(
        self, on_start: Callable[[], Any] | Together, on_gradients_ready: Callable[[], Any] | None = None
    ) -> None:
        """Call `on_start` before an iteration's first forward, `on_gradients_ready` before its update.

        With a `caffe.NCCL` alone: train with the solvers of the other processes.
        """
        if on_gradients_ready is None:
            if not isinstance(on_start, Together):
                raise TypeError("add_callback takes two functions, on_start and on_gradients_ready, or a caffe.NCCL.")
            on_start.join_solver()
            return
        assert callable(on_start)
        self._core.on_start.append(on_start)
        self._core.on_gradients.append(on_gradients_ready)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:  # noqa: ANN401 (as object has it)
        raise TypeError(
            "a caffe solver is neither copied nor pickled, as in pycaffe. Write a snapshot, solver.snapshot(), and "
            "restore it in another solver."
        )

    def share_weights(self, net: Net) -> None:
        """Let another net use this solver's parameters in the layers of the same name."""
        net.share_with(self._net)

    def apply_update(self) -> None:
        """Change the weights by their diffs, at the present rate; `iter` stays."""
        self._core.apply_update()


class SGDSolver(Solver):
    """Stochastic gradient descent with momentum, whatever type the file names."""

    _type = "SGD"


class NesterovSolver(SGDSolver):
    """Nesterov's accelerated gradient, whatever type the file names."""

    _type = "Nesterov"


class AdaGradSolver(SGDSolver):
    """AdaGrad, whatever type the file names."""

    _type = "AdaGrad"


class RMSPropSolver(SGDSolver):
    """RMSProp, whatever type the file names."""

    _type = "RMSProp"


class AdaDeltaSolver(SGDSolver):
    """AdaDelta, whatever type the file names."""

    _type = "AdaDelta"


class AdamSolver(SGDSolver):
    """Adam, whatever type the file names."""

    _type = "Adam"


_CLASSES: dict[str, type[Solver]] = {
    str(cls._type): cls for cls in (SGDSolver, NesterovSolver, AdaGradSolver, RMSPropSolver, AdaDeltaSolver, AdamSolver)
}


def get_solver(solver_file: PathLike) -> Solver:
    """Make the solver of the type that a file names; errors as in `Solver`."""
    kind = read_solver(check_file(solver_file)).type
    return _CLASSES.get(kind, Solver)(solver_file)
