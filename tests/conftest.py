"""Signals as a terminal gives them, also where pytest runs in the background (`pytest &`, `nohup pytest`, some CIs).

A shell starts a background command with SIGINT ignored, and its children inherit that: a test that interrupts a process
would wait for ever. A signal that has a handler here is at its default in the processes that tests start.
"""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)  # still ignored in this process, as nohup asks
