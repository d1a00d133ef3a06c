"""The tests that run files in several engines, in a process of their own.

Engines change what belongs to the process, and other tests interrupt: a second OpenVINO core made the next signal a
segmentation fault (see `openvino_core`).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TWO_NETS_THEN_CTRL_C = """
import gc, signal, sys
from pathlib import Path
import numpy, openvino, openvino.opset13 as ops
from fcn_caffe.export.openvino_file import open_openvino
x = ops.parameter([1, 3], numpy.float32)
openvino.save_model(openvino.Model([ops.relu(x)], [x]), sys.argv[1])
first, second = open_openvino(Path(sys.argv[1])), open_openvino(Path(sys.argv[1]))
del first
gc.collect()
del second
gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
FILES = ("engines_traps.py", "engines_sizes.py", "engines_table.py", "engines_golden.py")
PACKAGES = ("onnxscript", "onnxruntime", "openvino", "cv2")
pytestmark = [pytest.mark.needs_package(name) for name in PACKAGES]


def test_in_a_process_of_their_own() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    files = [str(Path(__file__).with_name(name)) for name in FILES]
    done = subprocess.run([*command, *files], capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]


def test_a_signal_after_two_nets_in_openvino(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO_NETS_THEN_CTRL_C, str(tmp_path / "relu.xml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
