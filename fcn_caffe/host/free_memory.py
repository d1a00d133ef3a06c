"""How much memory there is to take, so that a net beyond it is refused instead of ending the process."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

_MEMINFO, _CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


def free_bytes(device: torch.device) -> int | None:
    """The bytes that `device` can still give: what the system calls available, or the driver free.

    None where the system does not say, and for the meta device, which holds nothing.
    """
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        # torch keeps what its tensors gave back, and will give it out again.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    known = [count for count in (_available(), _limit()) if count is not None]
    return min(known, default=None)


def _available() -> int | None:
    with suppress(OSError):
        for line in _MEMINFO.read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with suppress(OSError, ValueError, AttributeError):  # a system without that file: all there is, if it says
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _limit() -> int | None:
    """What a container may have at most; that file says "max" where there is no limit."""
    with suppress(OSError, ValueError):
        return int(_CONTAINER.read_text("ascii"))
    return None


def show_bytes(count: int) -> str:
    """A number of bytes as a person reads it: 12.5 GiB."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} PiB"
