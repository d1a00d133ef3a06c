"""caffe.NCCL: solvers in several processes that train one net, as pycaffe's train.py starts them.

Here NCCL itself works between GPUs, and gloo without them: the scripts run on CPUs too.
"""

from __future__ import annotations

import atexit
import secrets
import tempfile
from contextlib import ExitStack
from pathlib import Path

import torch.distributed as dist

from fcn_caffe.host.ranks import join_ranks
from fcn_caffe.pycaffe import modes
from fcn_caffe.pycaffe.solver import Solver


def has_nccl() -> bool:
    """Whether the NCCL class can be used: wherever PyTorch has torch.distributed."""
    return dist.is_available()


class NCCL:
    """The meeting of this process's solver with those of the others: `set_solver_count` and `set_solver_rank` before.

    As in Caffe: `nccl = caffe.NCCL(solver, uid)`, `nccl.bcast()`, `solver.add_callback(nccl)`, and
    `solver.net.after_backward(nccl)` where `layer_wise_reduce` is set. Gradients are averaged once, before an update;
    losses and tests are of all solvers; solver 0 writes the snapshots.

    Args:
        solver: this process's solver.
        uid: what `new_uid` gave, the same in all processes of a machine.
    Raises:
        RanksError: the other processes do not come.
    Source: pycaffe's NCCL.
    """

    def __init__(self, solver: Solver, uid: str) -> None:
        self._solver, self._stack = solver, ExitStack()
        rank, count = modes.solver_rank(), modes.solver_count()
        self._ranks = self._stack.enter_context(join_ranks(rank, count, f"file://{uid}", modes.current_device().index))
        atexit.register(self._stack.close)

    @staticmethod
    def new_uid() -> str:
        """Return a name for a meeting of processes: a file that they will make."""
        return str(Path(tempfile.gettempdir()) / f"caffe-nccl-{secrets.token_hex(8)}")

    def bcast(self) -> None:
        """Give every solver the weights of solver 0."""
        self._solver.net.flush()
        self._ranks.copy_from_first([item.blob for item in self._solver.core.net.learnable_params])

    def join_solver(self) -> None:
        """Let the solver train with the others; `Solver.add_callback` calls this."""
        self._solver.core.use_ranks(self._ranks)

    def __call__(self, layer: int) -> None:
        """Do nothing after a layer's backward: gradients are averaged once, when all passes have added to them."""
