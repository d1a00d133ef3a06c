"""The tests that run files in several engines, in a process of their own.

A process that had run them ended with a segmentation fault when Python was interrupted later (onnxruntime 1.32.0,
OpenVINO 2026.4.1, OpenCV 5.0.0, torch 2.13.0), and other tests interrupt.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("onnxscript", "onnxruntime", "openvino", "cv2")
pytestmark = [pytest.mark.needs_package(name) for name in PACKAGES]


@pytest.mark.parametrize("file", ["engines_traps.py", "engines_sizes.py", "engines_table.py"])
def test_in_a_process_of_its_own(file: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, str(Path(__file__).with_name(file))], capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]
