"""Nets in several threads and processes.

A pass keeps its blobs to itself, so several threads may run one net at once. Where a layer remembers something from
pass to pass, data and recurrent layers do, the passes take turns. Two threads must not train the same weights: their
gradients would be added up in one place.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fcn_caffe.errors import GraphError, SolverError

__all__ = ["Turn", "training_alone"]


class Turn:
    """A lock that is taken for one pass. A copy of a net has a lock of its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a Python layer may run its own net

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Refuse the block to a thread while another is in it: both would write to the blobs of one net.

        Args:
            name: of the net.

        Raises:
            GraphError: another thread is in it.
        """
        if not self._lock.acquire(blocking=False):
            raise GraphError(
                f"net '{name}' is run by another thread now, and both would write to its blobs. Give each thread a Net "
                "of its own, with the same weights by share_with, or let them run it one after the other."
            )
        try:
            yield
        finally:
            self._lock.release()

    def __reduce__(self) -> tuple[type[Turn], tuple[()]]:
        return Turn, ()


# By the memory of a blob that is trained now: the thread, how many blocks it is in, and the net.
_trained: dict[int, tuple[int, int, str]] = {}
_trained_lock = threading.Lock()


@contextmanager
def training_alone(blobs: Iterable[Tensor], net: str) -> Iterator[None]:
    """Keep other threads from training blobs that this one trains in the block.

    Args:
        blobs: what the block changes.
        net: the name of their net.

    Raises:
        SolverError: another thread trains one of them now.
    """
    places = {blob.untyped_storage().data_ptr() for blob in blobs}
    own = threading.get_ident()
    with _trained_lock:
        for place in places:
            thread, _, other = _trained.get(place, (own, 0, net))
            if thread != own:
                raise SolverError(
                    f"net '{net}' shares weights with net '{other}', which another thread trains now: their gradients "
                    "would be mixed. Train one after the other, or give each net its own weights."
                )
        for place in places:
            _, blocks, name = _trained.get(place, (own, 0, net))
            _trained[place] = (own, blocks + 1, name)
    try:
        yield
    finally:
        with _trained_lock:
            for place in places:
                _, blocks, name = _trained.pop(place)
                if blocks > 1:
                    _trained[place] = (own, blocks - 1, name)


def _use_one_thread() -> None:
    """In a forked child: compute in one thread, since the others of OpenMP are not there and would be waited for."""
    global _trained_lock
    _trained_lock = threading.Lock()  # a thread of the parent may have held it
    _trained.clear()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)
