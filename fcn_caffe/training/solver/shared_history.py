"""A solver's history, shared out over the processes of a run by PyTorch's ZeroRedundancyOptimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fcn_caffe.errors import SolverError
from fcn_caffe.host.ranks import Ranks, explain_lost_ranks
from fcn_caffe.training.solver.update_rules import UpdateRule


class SharedHistory:
    """Updates by a rule of whose histories each process keeps its share: those of whole parameters.

    A process that has all gradients clips all of them, updates its own parameters, and sends them to the others: the
    weights get the bits that the rule alone gives. PyTorch deals the parameters out, the largest first.

    Args:
        rule: the rule over all parameters. Its options count; histories it has none.
        ranks: the processes.
    Attributes:
        own: the rule over this process's parameters, with their histories.
    Raises:
        SolverError: there is nothing to share, or nobody to share it with.
    """

    own: UpdateRule

    def __init__(self, rule: UpdateRule, ranks: Ranks) -> None:
        params = rule.parameters()
        if ranks.count == 1:
            raise SolverError(
                "shard_history shares the solver's history out over several processes, and this run is one. "
                "Start it with torchrun --nproc-per-node N, or leave out --shard-history."
            )
        if not params:
            raise SolverError("shard_history has nothing to share: the net learns nothing. Leave out --shard-history.")
        if not all(param.is_contiguous() for param in params):
            raise SolverError(
                "shard_history sends parameters between processes, whose memory has to be contiguous: one is not. "
                "Leave out --shard-history."
            )
        # Here, since it takes long to import.
        from torch.distributed.optim import ZeroRedundancyOptimizer

        self._rule, self._ranks, self._params = rule, ranks, params
        self._optimizer = ZeroRedundancyOptimizer(
            [dict(group) for group in rule.param_groups],
            type(rule),
            lr=rule.defaults["lr"],
            regularization_type=rule.regularization_type,
        )
        self.own = self._optimizer.optim
        kept = {id(param) for param in self.own.parameters()}
        every = ranks.gather([id(param) in kept for param in params])
        self._owners = [owners.index(True) for owners in zip(*every, strict=True)]
        for param in self.own.parameters():  # so that they are there before the first step
            self.own.history(param)

    def bytes_of_ranks(self) -> list[int]:
        """Return how many bytes of history each process keeps."""
        totals = [0] * self._ranks.count
        for param, owner in zip(self._params, self._owners, strict=True):
            totals[owner] += self._rule.histories * param.numel() * param.element_size()
        return totals

    def step(self) -> None:
        """Update all parameters from their gradients, as the rule's own `step` does.

        Raises:
            RanksError: another process is gone.
        """
        self._rule.scale_gradients()
        for group, whole in zip(self._optimizer.param_groups, self._rule.param_groups, strict=True):
            group.update({name: value for name, value in whole.items() if name != "params"})
        with explain_lost_ranks():
            self._optimizer.step()
        increment_version(self._params)  # others' come in behind PyTorch's back; who keeps what they made looks there
        for group in self._rule.param_groups:
            group["iter"] += 1

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Give rank 0's rule all histories for a block, in the CPU's memory, as a snapshot wants them.

        PyTorch's `consolidate_state_dict` would unpickle what other processes send.

        Raises:
            RanksError: another process is gone.
        """
        for param, owner in zip(self._params, self._owners, strict=True):
            whole = list(self._sent(param, owner))
            if whole:
                self._rule.state[param]["history"] = whole
        try:
            yield
        finally:
            self._rule.state.clear()

    def _sent(self, param: Tensor, owner: int) -> Iterator[Tensor]:
        """Send the histories of a parameter to rank 0; there, give each as it comes, in the CPU's memory."""
        if self._ranks.rank not in (0, owner):
            return
        for number in range(self._rule.histories):
            is_own = owner == self._ranks.rank
            history = self.own.history(param)[number] if is_own else torch.empty_like(param, requires_grad=False)
            history = self._ranks.send_to_first(history, owner)
            if self._ranks.is_first:
                yield history.cpu()
