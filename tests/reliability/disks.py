"""Run tools on a disk that is full, then on one that is read-only: refused by name, with all that was there whole.

    unshare --map-root-user --mount python tests/reliability/disks.py FOLDER

The disk is one in memory, mounted at the folder for this process alone.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from reliability.kill_cases import CASES
from reliability.kills import files_in, is_left

TOOLS = ("train", "solve", "score", "infer", "port_weights", "convert_imageset")


def fill(path: Path, left: int) -> None:
    """Fill the disk but for some bytes."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - left))


def run(tool: str) -> tuple[int, str]:
    """Run a tool here; return its status and what it said."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = CASES[tool].run(CASES[tool].words)
    return status, said.getvalue()


def check(tool: str, folder: Path, why: str) -> str:
    """Run a tool that cannot write; return what is wrong with that, empty for nothing."""
    before = files_in(folder)
    status, said = run(tool)
    after = files_in(folder, CASES[tool].streams)
    if status != 1 or "Traceback" in said or not any(f"{reason}" in said for reason in why.split("|")):
        return f"{tool} ends with {status}: {said[-500:]}"
    changed = [path for path, sum in before.items() if after.get(path, sum) != sum]
    # Whole answers that still found room stay; nothing else is new.
    new = [path for path in after.keys() - before.keys() if is_left(path) or not path.startswith("out/")]
    return f"{tool} changes {changed} and leaves {new}" if changed or new else ""


def main() -> int:
    """Run the command; prints a line for each tool and disk."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    wrong = 0
    for tool in TOOLS:
        (folder / tool).mkdir()
        CASES[tool].prepare(folder / tool)
    for state, why in (
        ("full", "No space left"),
        ("read-only", "Read-only file system|is read-only|cannot be written"),
    ):
        if state == "full":
            fill(folder / "filler", 8192)
        else:
            (folder / "filler").unlink()
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        for tool in TOOLS:
            os.chdir(folder / tool)
            problem = check(tool, folder / tool, why)
            wrong += bool(problem)
            print(f"{state}: {problem or f'{tool} is refused, and all is whole'}", flush=True)
    os.chdir("/")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
