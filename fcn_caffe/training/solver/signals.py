"""SIGINT asks a solver to snapshot and stop, SIGHUP to snapshot and go on, as Caffe's tools do."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal

Effect = Literal["stop", "snapshot", "none"]


class Requests:
    """What signals have asked for and the training loop has not done yet."""

    def __init__(self) -> None:
        self.snapshot = False
        self.stop = False
        self._catching = False

    @contextmanager
    def caught(self, interrupt: Effect = "stop", hang_up: Effect = "snapshot") -> Iterator[None]:
        """Turn SIGINT and SIGHUP into requests while the block runs; a second one to stop interrupts at once.

        Only the main thread can catch signals: elsewhere, and inside another such block, this does nothing.
        A SIGINT that nobody served by the end of the block is passed on to the handler of before.
        """
        if self._catching or threading.current_thread() is not threading.main_thread():
            yield
            return
        effects = {"stop": self._interrupt, "snapshot": self._hang_up, "none": signal.SIG_IGN}
        handlers: dict[int, Any] = {signal.SIGINT: effects[interrupt]}
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
            unserved, self.stop, self.snapshot = self.stop, False, False
        if unserved:
            signal.raise_signal(signal.SIGINT)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        self.snapshot = True
