"""SIGINT asks a solver to snapshot and stop, SIGHUP to snapshot and go on, as Caffe's tools do."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

Effect = Literal["stop", "snapshot", "none"]
_Handler = Callable[[int, FrameType | None], None] | signal.Handlers


class Requests:
    """What signals have asked the training loop to do, and it has not done yet."""

    def __init__(self) -> None:
        self.snapshot = False
        self.stop = False
        self._catching = False

    @contextmanager
    def catch(self, interrupt: Effect = "stop", hang_up: Effect = "snapshot") -> Iterator[None]:
        """Turn SIGINT and SIGHUP into requests while the block runs. A second one to stop interrupts at once.

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
        handlers: dict[int, _Handler] = {signal.SIGINT: effects[interrupt]}
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
            is_left, self.stop, self.snapshot = self.stop, False, False
        if is_left:
            signal.raise_signal(signal.SIGINT)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = True

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        self.snapshot = True
