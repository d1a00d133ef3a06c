"""How much memory is free, as the system, a container or nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fcn_caffe.host import free_memory as memory
from fcn_caffe.host.free_memory import free_bytes, give_back_freed, show_bytes

CPU = torch.device("cpu")


def test_the_least_of_what_is_free_and_what_a_container_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, container = tmp_path / "meminfo", tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_MEMINFO", system)
    monkeypatch.setattr(memory, "_CONTAINER", container)
    everything = free_bytes(CPU)  # neither file is there
    assert everything is None or everything > 2**20
    system.write_text("MemTotal: 9 kB\nMemAvailable:    4 kB\n")
    container.write_text("max\n")
    assert free_bytes(CPU) == 4096
    container.write_text("1000\n")
    assert free_bytes(CPU) == 1000
    assert free_bytes(torch.device("meta")) is None


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
