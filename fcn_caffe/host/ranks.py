"""The processes of one run, as torchrun starts them: which of them this one is, and what they do together.

Rank 0 is the one that writes and speaks. Nothing that comes from another process is unpickled: numbers travel as
tensors, everything else as JSON.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from fcn_caffe.errors import FcnCaffeError, RanksError
from fcn_caffe.host.interrupts import ended_by, exit_status

__all__ = ["ALONE", "Ranks", "Share", "explain_lost_ranks", "is_launched", "join_ranks", "joined_ranks"]

_MOST_ELEMENTS = 1 << 24  # of gradients that travel in one tensor: 64 MiB
_SECONDS_TO_EXIT = 60  # then a failed process whose NCCL hangs is killed
_PATIENCE = timedelta(minutes=30)  # what one process may do alone, such as a large snapshot, while others wait


@dataclass(frozen=True)
class Share:
    """Which samples of a stream one of `count` processes takes.

    Attributes:
        rank: the number of the process.
        count: how many there are.
        whole: batches stay as they are, and the process takes every count-th batch, as in a test. Else it makes its
            batches of every count-th sample, as Caffe's data layers do with several solvers.
    """

    rank: int = 0
    count: int = 1
    whole: bool = False

    def places(self, size: int) -> range:
        """Return where the process's batch of `size` lies in the count * size samples that all take together."""
        if self.whole:
            return range(self.rank * size, (self.rank + 1) * size)
        return range(self.rank, self.count * size, self.count)


class Ranks:
    """The processes of a run. `ALONE` is a run of one, where every method is free.

    All processes have to call the same methods in the same order.

    Args:
        rank: the number of this process.
        count: how many there are.
        local: the number of this process on its machine: that of its GPU.
    Raises:
        RanksError: every method that waits for others, when one of them is gone.
    """

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0) -> None:
        self.rank, self.count, self.local = rank, count, local

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks to the person."""
        return self.rank == 0

    def share(self) -> Share:
        """Return which samples this process trains on."""
        return Share(self.rank, self.count)

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process where the run's is `device`: the GPU of its number on its machine.

        Raises:
            RanksError: the machine has too few GPUs.
        """
        if self.count == 1 or device.type != "cuda":
            return device
        gpus = torch.cuda.device_count()
        if self.local >= gpus:
            raise RanksError(
                f"process {self.local} of this machine ({socket.gethostname()}) has no GPU: there are {gpus}. "
                f"Use torchrun --nproc-per-node {gpus}, or --device cpu."
            )
        return torch.device("cuda", self.local)

    # -- numbers ----------------------------------------------------------------------------------------------

    def mean(self, numbers: Sequence[float]) -> list[float]:
        """Return the mean of each number over the processes, the same on all of them."""
        columns = zip(*self.gather_numbers(numbers), strict=True)
        return [sum(column) / self.count for column in columns]

    def gather_numbers(self, numbers: Sequence[float]) -> list[list[float]]:
        """Return the numbers of each process, in the order of ranks."""
        if self.count == 1:
            return [list(numbers)]
        mine = torch.tensor(numbers, dtype=torch.float64)
        every = [torch.empty_like(mine) for _ in range(self.count)]
        with explain_lost_ranks():
            dist.all_gather(every, mine)
        return [one.tolist() for one in every]

    def gather(self, value: object) -> list[Any]:
        """Return what each process gave, in the order of ranks: anything that JSON holds.

        Raises:
            SystemExit: another process has failed in `all_or_none`, and tells why.
        """
        if self.count == 1:
            return [value]
        every = self._exchange({"value": value})
        if any("value" not in one for one in every):
            raise SystemExit(1)
        return [one["value"] for one in every]

    def _exchange(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        mine = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        sizes = [int(size) for (size,) in self.gather_numbers([mine.numel()])]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: mine.numel()] = mine
        every = [torch.empty_like(padded) for _ in range(self.count)]
        with explain_lost_ranks():
            dist.all_gather(every, padded)
        return [json.loads(bytes(one[:size].tolist())) for one, size in zip(every, sizes, strict=True)]

    def from_first(self, value: object) -> Any:  # noqa: ANN401 (as JSON has it)
        """Return what rank 0 gave; JSON has to hold it."""
        return value if self.count == 1 else self.gather(value if self.is_first else None)[0]

    # -- tensors ----------------------------------------------------------------------------------------------

    def add(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes; every process gets the same bits."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        if self.count > 1:
            with explain_lost_ranks():
                dist.all_reduce(total)
        return total

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes; every process gets the same bits.

        Tensors travel packed into few contiguous ones: gloo takes a strided view's memory as if it were contiguous,
        and processes may hold one gradient in two memory formats.
        """
        if self.count == 1:
            return
        for pack in _packs(tensors):
            flat = (
                pack[0] if len(pack) == 1 and pack[0].is_contiguous() else torch.cat([one.reshape(-1) for one in pack])
            )
            with explain_lost_ranks():
                dist.all_reduce(flat)
            flat.div_(self.count)
            if flat is not pack[0]:
                for tensor, part in zip(pack, torch.split(flat, [one.numel() for one in pack]), strict=True):
                    tensor.copy_(part.view(tensor.shape))

    @torch.no_grad()
    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Give each tensor the values that rank 0 has."""
        if self.count == 1:
            return
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            with explain_lost_ranks():
                dist.broadcast(whole, 0)
            if whole.data_ptr() != tensor.data_ptr():
                tensor.copy_(whole)
            else:
                increment_version(tensor)  # else who keeps what was made of it does not see the change

    def send_to_first(self, tensor: Tensor, owner: int) -> Tensor:
        """Return on rank 0 the tensor of rank `owner`, elsewhere one's own; all are of one shape."""
        if not owner or self.rank not in (0, owner):
            return tensor
        whole = tensor.detach().contiguous()
        with explain_lost_ranks():
            if self.is_first:
                dist.recv(whole, owner)
            else:
                dist.send(whole, 0)
        return whole

    # -- turns ------------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Wait until every process is here."""
        self.gather(None)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Let rank 0 run the block before the others do: it may write a file that they read."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Run the block on every process; where one fails, all end. In it, processes may `gather`, and what uses it.

        A process raises its own error, but for one that a process before it has too: that ends quietly, so that a
        person reads each error once.

        Raises:
            FcnCaffeError: what the block raised here.
            SystemExit: another process tells why.
        """
        try:
            yield
        except (RanksError, SystemExit):
            raise
        except (FcnCaffeError, OSError) as error:
            failed = str(error)
            if self.count == 1 or self._exchange({"failed": failed}).index({"failed": failed}) == self.rank:
                raise
            raise SystemExit(1) from None
        self.wait()


ALONE = Ranks()


def _packs(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Give runs of tensors of one type and device, of at most _MOST_ELEMENTS; a larger one comes alone."""
    pack: list[Tensor] = []
    size = 0
    for tensor in tensors:
        is_alike = bool(pack) and (pack[0].dtype, pack[0].device) == (tensor.dtype, tensor.device)
        if pack and (not is_alike or size + tensor.numel() > _MOST_ELEMENTS):
            yield pack
            pack, size = [], 0
        pack.append(tensor)
        size += tensor.numel()
    if pack:
        yield pack


@contextmanager
def explain_lost_ranks() -> Iterator[None]:
    """Turn what PyTorch raises when a process is gone into one sentence."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # "[file:line] Read error [address]: Connection reset by peer. This is typically …"
        first = re.sub(r"^\[[^]]*\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
        raise RanksError(
            f"another process of this run is gone ({first}). Its own message says why; start again, solve and train "
            "with --resume."
        ) from error


# -- starting and ending -----------------------------------------------------------------------------------------


def is_launched() -> bool:
    """Say whether torchrun, or a launcher that sets the same variables, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ


@contextmanager
def join_ranks(rank: int, count: int, meeting: str = "env://", local: int = 0) -> Iterator[Ranks]:
    """Meet the other processes of a run for the block; NCCL carries what is on GPUs, gloo the rest.

    Of the processes that a signal ends, only the first raises KeyboardInterrupt, so that a person reads of it once.

    Args:
        rank: the number of this process.
        count: how many there are.
        meeting: where they meet: what `init_process_group` calls init_method.
        local: the number of this process on its machine.
    Raises:
        RanksError: the others do not come.
        SystemExit: a signal ends this process, and another process says so.
    """
    # Its functions hold the group that is there when they are imported, by a default argument (torch 2.13). Optimizers
    # import it: then the group would outlive its destruction, and its threads would run on while Python ends.
    import torch.distributed.nn.functional

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    if torch.cuda.is_available() and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    try:
        meeting_store, _, _ = next(rendezvous(meeting, rank, count, timeout=_PATIENCE))
        store = _fresh(meeting_store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise RanksError(f"the {count} processes of this run do not meet at {meeting} ({error}).") from error
    try:
        yield Ranks(rank, count, local)
    except BaseException as error:
        # The process ends. NCCL would wait here for the others, which wait for this one. At exit PyTorch aborts it,
        # which may hang too: then torchrun would not learn that this process has failed.
        if backend == "gloo":
            dist.destroy_process_group()
        else:
            atexit.register(signal.alarm, _SECONDS_TO_EXIT)
        if isinstance(error, KeyboardInterrupt) and not _is_first_interrupted(store, rank):
            raise SystemExit(exit_status(ended_by())) from None
        raise
    dist.destroy_process_group()


def _is_first_interrupted(store: Store, rank: int) -> bool:
    """Say whether no other process has asked this before."""
    try:
        return store.add("interrupted", 1) == 1
    except RuntimeError:  # who keeps the store is gone: rank 0, which has said why then, or what started all processes
        return rank == 0


def _fresh(store: Store) -> Store:
    """Return the store without what processes before a restart have left there.

    With one torchrun (2.13) the same store serves every attempt, and gloo finds the addresses of dead processes in it.
    Several torchruns, which may count their restarts apart, make a new one.
    """
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        return store
    return PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Meet the processes that torchrun has started with this one, for a block; `ALONE` without torchrun.

    In the block, processes but rank 0 print and log nothing but errors.

    Raises:
        RanksError: the variables that torchrun sets make no sense, or the others do not come.
    """
    if not is_launched():
        yield ALONE
        return
    try:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_RANK", "0"))
    except ValueError as error:
        raise RanksError(f"RANK, WORLD_SIZE and LOCAL_RANK should be whole numbers ({error}). Use torchrun.") from None
    if not 0 <= rank < count:
        raise RanksError(f"RANK is {rank} of WORLD_SIZE {count}. Use torchrun, which sets both.")
    if count == 1:
        yield ALONE
        return
    with join_ranks(rank, count, local=local) as ranks:
        if ranks.is_first:
            yield ranks
            return
        with silence_others():
            yield ranks


@contextmanager
def silence_others() -> Iterator[None]:
    """Print and log nothing in the block: rank 0 says it. Errors are told by who catches them."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        logging.disable(level)
