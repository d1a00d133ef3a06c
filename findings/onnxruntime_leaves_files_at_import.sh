#!/bin/sh
# A good guess: `import onnxruntime` loads a library and does nothing more: it writes no file and starts no thread before there is
# a session, as NumPy, PyTorch and OpenVINO do; telemetry was a matter of Windows for years.
# What happens: since 1.29 the official Linux builds have telemetry, on by default. The import of 1.32's wheel writes `.ses` into
# TMPDIR, within a second a `deviceid` and a database of events into ~/.cache/Microsoft/DeveloperTools/.onnxruntime, and has a
# thread more. With ORT_DISABLE_TELEMETRY=1 there is none of these; onnxruntime.disable_telemetry_events() comes after the import,
# which is too late for the files. Tests that look for files left behind and homes that are read-only meet it first.
# What we do about it: `export` sets ORT_DISABLE_TELEMETRY before it imports the engine, unless it is set.
# Source: ONNX Runtime's pull request 27379 and docs/Privacy.md. Seen with onnxruntime 1.32.0 on Linux, x86-64.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
import subprocess
import sys
from pathlib import Path


def import_it(name, statement="import onnxruntime", **more):
    """The files that a process leaves in a home and a folder for temporary files of its own, and how many threads it had."""
    place = Path(name).absolute()
    for folder in ("home", "temporary"):
        (place / folder).mkdir(parents=True)
    environment = {"HOME": str(place / "home"), "TMPDIR": str(place / "temporary"), "PATH": os.environ["PATH"], **more}
    code = f"{statement}\nimport os, time; time.sleep(3); print(len(os.listdir('/proc/self/task')))"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    files = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    return files, int(run.stdout.split()[-1])


plain, threads = import_it("plain")
late, _ = import_it("late", "import onnxruntime; onnxruntime.disable_telemetry_events()")
quiet, fewer = import_it("quiet", ORT_DISABLE_TELEMETRY="1")
numpy, one = import_it("numpy", "import numpy", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
print("onnxruntime 1.32.0")
print(f"import onnxruntime:           {threads} threads, {plain}")
print(f"then disable_telemetry_events: {late}")
print(f"with ORT_DISABLE_TELEMETRY=1: {fewer} threads, {quiet}")
print(f"import numpy:                 {one} thread, {numpy}")
assert not numpy and not quiet and threads > fewer
cache = "home/.cache/Microsoft/DeveloperTools/.onnxruntime"
for files in (plain, late):
    assert {f"{cache}/deviceid", f"{cache}/onnxruntime.db", "temporary/.ses"} <= set(files), files
PYTHON
