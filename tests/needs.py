"""What a test needs besides this package: said once, so that a skipped test always says what would let it run.

As marks, `@pytest.mark.needs_data("data/samples/VOC")`, `needs_package("lmdb")`, `needs_program("dot")`, or as calls in
a test. Nothing else in these tests skips (tests/test_suite.py), so that no condition can outlive its reason.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from places import SHARED


def needs_data(place: str) -> Path:
    """The path of a file or folder of ../shared, which a clone alone lacks; skips the test where it is not there."""
    path = SHARED / place
    if not path.exists():
        pytest.skip(f"needs ../shared/{place}")
    return path


def needs_package(name: str) -> None:
    """Skip the test where an optional package is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs the Python package {name}")


def needs_program(name: str) -> None:
    """Skip the test where a program is not on the path."""
    if shutil.which(name) is None:
        pytest.skip(f"needs the program {name}")


def needs_szip() -> None:
    """Skip where HDF5 was built without szip's encoder."""
    import h5py  # type: ignore[import-untyped]

    is_there = h5py.h5z.filter_avail(h5py.h5z.FILTER_SZIP)
    if not is_there or not h5py.h5z.get_filter_info(h5py.h5z.FILTER_SZIP) & h5py.h5z.FILTER_CONFIG_ENCODE_ENABLED:
        pytest.skip("needs HDF5 with an encoder of szip")


def needs_linux() -> None:
    """Skip the test on other systems: it uses limits that Linux has."""
    if sys.platform != "linux":
        pytest.skip("needs Linux")


def needs_own_mounts() -> None:
    """Skip the test where a person may not mount a disk of their own, which Linux allows in a name space of its own."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs Linux's unshare")
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount in a name space of one's own")


def needs_cuda(there: bool = True) -> None:
    """Skip the test where there is no GPU; with False, where there is one."""
    import torch

    if torch.cuda.is_available() is not there:
        pytest.skip("needs a GPU" if there else "needs a machine without a GPU")


NEEDS: dict[str, Callable[..., object]] = {
    "needs_data": needs_data,
    "needs_package": needs_package,
    "needs_program": needs_program,
    "needs_linux": needs_linux,
    "needs_own_mounts": needs_own_mounts,
    "needs_cuda": needs_cuda,
    "needs_szip": needs_szip,
}
