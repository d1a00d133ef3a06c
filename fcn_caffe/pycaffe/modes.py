"""The switches of Caffe's module: mode and device, seed, log, solver count; and its Timer."""

from __future__ import annotations

import logging
import sys
import time

import torch

from fcn_caffe.errors import FcnCaffeError
from fcn_caffe.host.devices import without_cuda
from fcn_caffe.host.glog import logger, say, show_log
from fcn_caffe.layers.base import known_types


class _State:
    """The values of the set_… functions."""

    gpu = False
    device = 0
    noticed = False  # whether the notice that there is no CUDA was printed
    solver_count = 1
    solver_rank = 0
    multiprocess = False


def set_mode_cpu() -> None:
    """Compute on the CPU from the next forward on."""
    _State.gpu = False


def set_mode_gpu() -> None:
    """Compute on the CUDA device that `set_device` chose, from the next forward on.

    Without CUDA the CPU goes on computing; a notice on stderr says so once.
    """
    if torch.cuda.is_available():
        _State.gpu = True
        return
    if not _State.noticed:
        _State.noticed = True
        print(f"caffe.set_mode_gpu: {without_cuda()}: running on the CPU.", file=sys.stderr)


def set_device(device_id: int) -> None:
    """Choose the CUDA device by number. Without CUDA the number is only remembered.

    Raises:
        FcnCaffeError: no device has the number.
    """
    number = int(device_id)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number < 0 or (count and number >= count):
        last = f"cuda:0 to cuda:{count - 1}" if count else "numbers from 0"
        raise FcnCaffeError(f"caffe.set_device({number}): there is no such device. Choose from {last}.")
    _State.device = number


def current_device() -> torch.device:
    """Return the torch device of the mode and the device number."""
    return torch.device("cuda", _State.device) if _State.gpu else torch.device("cpu")


def set_random_seed(seed: int) -> None:
    """Seed fillers, dropout and data layers. NumPy's and Python's random numbers are the script's own."""
    torch.manual_seed(seed)


def layer_type_list() -> list[str]:
    """Return the known layer types, sorted."""
    return known_types()


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Show log lines on stderr, from a glog level up: 0 INFO, 1 WARNING, 2 ERROR, 3 FATAL."""
    show_log()
    logger.setLevel(logging.INFO + 10 * min(max(int(level), 0), 3))


def log(message: str) -> None:
    """Log a line as INFO."""
    show_log()
    say("_caffe.cpp:50", str(message))


def set_multiprocess(multiprocess: bool) -> None:
    """Remember whether each solver has a process of its own; here each of several has."""
    _State.multiprocess = bool(multiprocess)


def solver_count() -> int:
    """Return how many solvers train together."""
    return _State.solver_count


def set_solver_count(count: int) -> None:
    """Say how many solvers train together: data layers that are built then take their share of the samples."""
    _State.solver_count = int(count)


def solver_rank() -> int:
    """Return the number of this process's solver among those that train together."""
    return _State.solver_rank


def set_solver_rank(rank: int) -> None:
    """Remember the number of this process's solver among those that train together; 0 is the root."""
    _State.solver_rank = int(rank)


class Timer:
    """A stopwatch; on a GPU it waits for all queued work."""

    def __init__(self) -> None:
        self._start_time: float | None = None
        self._lapse = 0.0

    def _now(self) -> float:
        if _State.gpu:
            torch.cuda.synchronize(current_device())
        return time.perf_counter()

    def start(self) -> None:
        """Start anew."""
        self._start_time = self._now()

    def stop(self) -> None:
        """Stop; `ms` keeps its value."""
        if self._start_time is not None:
            self._lapse, self._start_time = self._now() - self._start_time, None

    @property
    def ms(self) -> float:
        """Milliseconds between start and stop; a running watch is stopped."""
        self.stop()
        return self._lapse * 1e3
