"""How much memory is free, so that a net that needs more is refused and does not end the process; giving it back."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch

_MEMINFO, _CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


def free_bytes(device: torch.device) -> int | None:
    """Return how many bytes of a device are free, as the system or the driver says.

    Returns:
        None where the system does not say, and for the meta device, which holds nothing.
    """
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        # torch keeps the memory of deleted tensors and uses it again.
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
    with suppress(OSError, ValueError, AttributeError):  # a system without that file: all memory, free or not
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _limit() -> int | None:
    """What a container may use at most; the file says "max" where there is no limit."""
    with suppress(OSError, ValueError):
        return int(_CONTAINER.read_text("ascii"))
    return None


def give_back_freed() -> None:
    """Give what is freed back to the system, where the C library can (glibc).

    Between blocks that are in use it keeps freed ones below 32 MiB, which larger blobs then find no room in.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library; on Windows a program has no such table
        ctypes.CDLL(None).malloc_trim(0)


def show_bytes(count: int) -> str:
    """Write a number of bytes for people.

    >>> show_bytes(13_421_772_800)
    '12.5 GiB'
    """
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} PiB"
