"""How much memory is free, so that a net that needs more is refused and does not end the process; giving it back."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch

_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")

# Of a control group: what it may use at most, what it uses, and which line says what of that could be given back.
_VERSION_2 = "memory.max", "memory.current", "inactive_file"
_VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


def free_bytes(device: torch.device) -> int | None:
    """Return how many bytes of a device are free, as the system or the driver says.

    On a CPU it is the least of what the system has, what is left to each control group that the process is in (a
    container, a job of a scheduler), and what is left of its address space (`ulimit -v`).

    Returns:
        None where the system does not say, and for the meta device, which holds nothing.
    """
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        # torch keeps the memory of deleted tensors and uses it again.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    known = [count for count in (_available(), _left_to_groups(), _left_of_addresses()) if count is not None]
    return min(known, default=None)


def most_free() -> int | None:
    """Return how many bytes this process can still have in memory, see `free_bytes`."""
    return free_bytes(torch.device("cpu"))


def resident_bytes() -> int | None:
    """Return how many bytes this process has in memory; None where the system does not say."""
    return _number(_PROC / "self" / "status", "VmRSS:", 1024)


def _available() -> int | None:
    with suppress(OSError, ValueError, AttributeError):
        known = _number(_PROC / "meminfo", "MemAvailable:", 1024)
        # A system without that file: all memory, free or not.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if known is None else known
    return None


def _left_to_groups() -> int | None:
    """What is left to the control groups of this process; the file of the limit says "max" where there is none."""
    left: list[int] = []
    with suppress(OSError, ValueError):
        for line in (_PROC / "self" / "cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root, names = (_GROUPS / "memory", _VERSION_1) if controllers else (_GROUPS, _VERSION_2)
            # Inside a container the path may be that of the host: then only the root is there.
            folder = root / path.lstrip("/")
            left += [_left_to_group(group, *names) for group in (folder, *folder.parents) if group.is_relative_to(root)]
    return min((count for count in left if count >= 0), default=None)


def _left_to_group(folder: Path, limit: str, used: str, cache: str) -> int:
    """What is left to one control group; -1 where it has no limit."""
    most, now = _number(folder / limit), _number(folder / used)
    if most is None:
        return -1
    return max(0, most - (now or 0) + (_number(folder / "memory.stat", cache) or 0))


def _left_of_addresses() -> int | None:
    limit = _number(_PROC / "self" / "limits", "Max address space")
    used = _number(_PROC / "self" / "status", "VmSize:", 1024)
    return None if limit is None or used is None else max(0, limit - used)


def _number(path: Path, name: str = "", unit: int = 1) -> int | None:
    """Return the number behind a name at a line's start in a file of the kernel; None where there is none."""
    with suppress(OSError, ValueError, IndexError):
        for line in path.read_text("utf-8").splitlines():
            if line.startswith(name):
                return int(line[len(name) :].split()[0]) * unit
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
