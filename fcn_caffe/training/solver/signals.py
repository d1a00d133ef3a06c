"""SIGINT asks a solver to snapshot and stop, SIGHUP to snapshot and go on, as Caffe's tools do; SIGTERM to stop too."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from fcn_caffe.host.interrupts import interrupt as end
from fcn_caffe.host.ranks import ALONE, Ranks

Effect = Literal["stop", "snapshot", "none"]
_ECHO = 5.0
_Handler = Callable[[int, FrameType | None], None] | signal.Handlers


class Requests:
    """What signals have asked the training loop to do, and it has not done yet.

    A signal counts once the processes of the run `agree`: it may reach one of them first, or alone. In a run of several
    it may also come twice, from the terminal and from torchrun: so only a signal that comes `_ECHO` seconds after the
    first interrupts at once. SIGTERM asks to stop, since schedulers and torchrun end processes with it.

    Args:
        ranks: the processes.

    Attributes:
        snapshot: whether a snapshot is asked for.
        stop: SIGTERM or SIGINT, which also stands for SIGHUP, where a signal asks to stop; else 0.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self.snapshot = False
        self.stop = 0
        self._ranks = ranks
        self._heard_snapshot = False
        self._heard_stop, self._heard_at = 0, 0.0
        self._catching = False

    @property
    def heard(self) -> list[float]:
        """What signals have asked of this process: to stop, the signal's number or 0; to snapshot, 1 or 0."""
        return [float(self._heard_stop), float(self._heard_snapshot)]

    def agree(self) -> None:
        """Let what signals have asked of any process count for all."""
        heard = self.heard
        self.take([heard] if self._ranks.count == 1 else self._ranks.gather_numbers(heard))

    def take(self, heard: Iterable[Sequence[float]]) -> None:
        """Let what each process has heard count."""
        for stop, snapshot in heard:
            self.stop, self.snapshot = self.stop or int(stop), self.snapshot or bool(snapshot)

    def serve_stop(self) -> None:
        """Forget the request to stop."""
        self.stop = self._heard_stop = 0

    def serve_snapshot(self) -> None:
        """Forget the request for a snapshot."""
        self.snapshot = self._heard_snapshot = False

    @contextmanager
    def catch(self, interrupt: Effect = "stop", hang_up: Effect = "snapshot") -> Iterator[None]:
        """Turn SIGINT, SIGTERM and SIGHUP into requests while the block runs. A second one to stop interrupts at once.

        Only the main thread can catch signals: elsewhere, and inside another such block, this does nothing. A request
        to stop that is left at the end of the block goes to the handler that was there before.

        Args:
            interrupt: what SIGINT asks for.
            hang_up: what SIGHUP asks for.
        """
        if self._catching or threading.current_thread() is not threading.main_thread():
            yield
            return
        effects: dict[Effect, _Handler] = {"stop": self._interrupt, "snapshot": self._hang_up, "none": signal.SIG_IGN}
        handlers: dict[int, _Handler] = {signal.SIGINT: effects[interrupt], signal.SIGTERM: self._interrupt}
        if hasattr(signal, "SIGHUP"):  # Windows has none
            handlers[signal.SIGHUP] = effects[hang_up]
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        self._catching = True
        try:
            yield
        finally:
            self._catching = False
            for number, handler in before.items():
                # None stands for a handler that was not set from Python and cannot be put back from it.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            left = self.stop or self._heard_stop
            self.serve_stop()
            self.serve_snapshot()
        if left:
            signal.raise_signal(left)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._heard_stop:
            self._heard_stop, self._heard_at = signal.SIGTERM if number == signal.SIGTERM else signal.SIGINT, now
        elif self._ranks.count == 1 or now - self._heard_at > _ECHO:
            end(number)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        self._heard_snapshot = True
