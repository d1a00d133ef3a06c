"""How much memory is free, as the system, a container or nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from fcn_caffe.host import free_memory as memory
from fcn_caffe.host.free_memory import free_bytes, give_back_freed, resident_bytes, show_bytes

CPU = torch.device("cpu")


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose proc and groups are read in place of the system's own."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    return tmp_path


def test_without_the_kernels_files_all_memory_is_free(system: Path) -> None:
    everything = free_bytes(CPU)
    assert everything is None or everything > 2**20
    assert resident_bytes() is None
    assert free_bytes(torch.device("meta")) is None


def test_what_the_system_has_is_free(system: Path) -> None:
    status = "Name: python\nVmSize:    9 kB\nVmRSS:    3 kB\n"
    write(system / "proc", {"meminfo": "MemTotal: 9 kB\nMemAvailable:    4 kB\n", "self/status": status})
    assert free_bytes(CPU) == 4096
    assert resident_bytes() == 3072


@pytest.mark.parametrize(
    ("line", "files", "left"),
    [
        ("0::/job", {"job/memory.max": "max", "memory.max": "5000", "memory.current": "2000"}, 3000),
        ("0::/a/b", {"a/memory.max": "900", "a/memory.current": "1000", "a/b/memory.max": "7000"}, 0),
        (
            "0::/job",
            {"job/memory.max": "5000", "job/memory.current": "4000", "job/memory.stat": "anon 9\ninactive_file 500\n"},
            1500,
        ),
        ("0::/host/path/that/is/not/here", {"memory.max": "1234", "memory.current": "0"}, 1234),
        (
            "3:cpu:/x\n4:memory:/x\n0::/",
            {
                "memory/x/memory.limit_in_bytes": "4000",
                "memory/x/memory.usage_in_bytes": "3000",
                "memory/x/memory.stat": "cache 1\ntotal_inactive_file 100\n",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.usage_in_bytes": "10",
            },
            1100,
        ),
        ("nonsense", {"memory.max": "5"}, 1 << 30),
        ("0::/job", {"job/memory.max": "much"}, 1 << 30),
    ],
)
def test_no_more_is_free_than_a_container_has_left(
    system: Path, line: str, files: Mapping[str, str], left: int
) -> None:
    write(system / "proc", {"meminfo": f"MemAvailable: {1 << 20} kB\n", "self/cgroup": line + "\n"})
    write(system / "groups", files)
    assert free_bytes(CPU) == left


def test_no_more_is_free_than_the_address_space_has_left(system: Path) -> None:
    limits = "Limit              Soft Limit   Hard Limit   Units\nMax address space  {}  unlimited  bytes\n"
    write(system / "proc", {"meminfo": "MemAvailable: 1024 kB\n", "self/status": "VmSize: 100 kB\n"})
    write(system / "proc", {"self/limits": limits.format("unlimited")})
    assert free_bytes(CPU) == 1 << 20
    write(system / "proc", {"self/limits": limits.format(110 << 10)})
    assert free_bytes(CPU) == 10 << 10
    write(system / "proc", {"self/limits": limits.format(1 << 10)})
    assert free_bytes(CPU) == 0


def test_bytes_are_shown_in_the_unit_that_fits() -> None:
    assert [show_bytes(count) for count in (0, 1023, 1536, 72 * 2**30, 2**61)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "72 GiB",
        "2048 PiB",
    ]


def test_freed_memory_is_given_back_or_the_c_library_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Library:
        malloc_trim = staticmethod(calls.append)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    give_back_freed()
    assert calls == [0]
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    give_back_freed()
