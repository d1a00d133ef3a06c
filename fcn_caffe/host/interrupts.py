"""How Ctrl-C and SIGTERM end a command: in order where that takes less than two seconds, and at once where it does not.

They raise KeyboardInterrupt in the main thread, so that every block cleans up. Python runs no handler while a layer
computes or a file is compressed, and a block may be slow to clean up: a thread hears the signal at once, and ends the
process `PATIENCE` seconds later. Files have their names when they are whole, so nothing half-written is left.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["PATIENCE", "end_silently", "ended_by", "exit_status", "interrupt", "listening", "message"]

PATIENCE = 1.5  # seconds
_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_WORDS = {int(signal.SIGTERM): "terminated"}


def exit_status(number: int) -> int:
    """Return the exit status of a command that a signal ended: what a shell reports for a process that it killed."""
    return 128 + number


def end_silently() -> None:
    """Let Ctrl-C end this process without a traceback while it starts, if it is one of our commands.

    There is nothing to clean up yet. In a script of the user's Ctrl-C stays what it was; also where it is ignored.
    """
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _is_command() -> bool:
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    with suppress(FileNotFoundError):  # the working folder was removed
        program = os.path.abspath(program) if program else ""
    folder, name = os.path.split(program)
    if name == "-m":  # Python has not found the module yet, whose package this is
        return sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] == ["fcn_caffe"]
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if name == "__main__.py":  # python -m fcn_caffe, as torchrun starts it
        return folder == package
    return name in ("fcn-caffe", "fcn-caffe.exe") or folder == os.path.join(os.path.dirname(package), "tools")


class _Listener:
    """What hears the signals of this process, and ends it when it does not end by itself."""

    def __init__(self) -> None:
        import threading

        self.process = os.getpid()
        self.ending = 0  # by which signal
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._wait, name="interrupts", daemon=True).start()

    def _wait(self) -> None:
        import time

        while heard := os.read(self._read, 1):
            number = self.ending or heard[0]
            if self.ending or signal.getsignal(number) == self.handle:
                time.sleep(PATIENCE)
                _exit(number)
        os.close(self._read)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt for the first signal; those after it have nothing to add."""
        if os.getpid() != self.process:  # forked
            os._exit(exit_status(number))
        if not self.ending:
            self.end(number)
            if _is_importing(frame):  # libraries are half there: what runs at their end may fail
                _exit(number)
            raise KeyboardInterrupt

    def end(self, number: int) -> None:
        """Give the process `PATIENCE` seconds."""
        self.ending = number
        with suppress(BlockingIOError):
            os.write(self._write, bytes([number]))

    def close(self) -> None:
        """Hear no more."""
        signal.set_wakeup_fd(-1)
        os.close(self._write)


_listener: _Listener | None = None


@contextmanager
def listening() -> Iterator[None]:
    """Hear Ctrl-C and SIGTERM in the block, which is a command's work.

    In processes that are not our commands, and where a block of this kind is around, this does nothing: there
    KeyboardInterrupt is as Python has it. A signal that is ignored, as nohup asks, stays so.
    """
    global _listener
    if _listener is not None or signal.getsignal(signal.SIGINT) is signal.default_int_handler or not _is_command():
        yield
        return
    _listener = _Listener()
    heard = [number for number in _NUMBERS if signal.getsignal(number) is signal.SIG_DFL]
    for number in heard:
        signal.signal(number, _listener.handle)
    try:
        yield
    finally:
        for number in heard:
            # At its end Python takes handlers away, but leaves what is ignored: later signals have nothing to add.
            signal.signal(number, signal.SIG_IGN if _listener.ending else signal.SIG_DFL)
        if not _listener.ending:  # else the process has its seconds, also for what Python does at exit
            _listener.close()
            _listener = None


def interrupt(number: int) -> None:
    """End the command from the handler of a signal.

    Raises:
        KeyboardInterrupt: always.
    """
    if _listener is not None:
        _listener.end(number)
    raise KeyboardInterrupt


def ended_by() -> int:
    """Return the number of the signal that KeyboardInterrupt comes from."""
    return (_listener is not None and _listener.ending) or signal.SIGINT


def message(number: int) -> str:
    """Return what a command says that a signal ended."""
    return _WORDS.get(number, "interrupted")


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _exit(number: int) -> None:
    """End the process, without what Python does at exit."""
    with suppress(Exception):
        sys.stdout.flush()
    if os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK") == "0":  # of torchrun's processes one says it
        with suppress(OSError):
            os.write(2, f"{message(number)}\n".encode())
    os._exit(exit_status(number))
