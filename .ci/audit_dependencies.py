"""Asks pip-audit for known weaknesses of the versions in constraints.txt; `make check` runs it.

What cannot be asked for is no weakness and no all-clear: it is said, and the check goes on, as without a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 5  # names of packages in the line on what was not checked


def main(arguments: Sequence[str]) -> int:
    """Check the pinned versions.

    Args:
        arguments: the command that stands for pip-audit; by default this Python's module.

    Returns:
        1 for a weakness that is known, else 0.
    """
    command = arguments or (sys.executable, "-m", "pip_audit")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--timeout=15", "--format=json"]
        run = subprocess.run(
            [*command, *options, f"--output={report}", f"--requirement={ROOT / 'constraints.txt'}"],
            capture_output=True,
            text=True,
        )
        if not report.is_file():
            reason = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
            print(f"dependencies: NOT CHECKED for known weaknesses: pip-audit gave no report ({reason}).")
            return 0
        return judge(json.loads(report.read_text(encoding="utf-8")))


def judge(report: Mapping[str, Any]) -> int:
    """Print what a report of pip-audit says, and return 1 if it knows a weakness."""
    packages: list[dict[str, Any]] = report["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    found = [(package, weakness) for package in packages for weakness in package.get("vulns", ())]
    for package, weakness in found:
        fixed = ", ".join(weakness["fix_versions"]) or "no version yet"
        print(
            f"{package['name']} {package['version']}: {weakness['id']}, fixed in {fixed}. Raise it in constraints.txt."
        )
    if skipped:
        names = ", ".join(skipped[:SHOWN]) + (f" and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else "")
        print(f"dependencies: NOT CHECKED for known weaknesses, as the index of them does not answer for {names}.")
    if len(skipped) < len(packages):
        print(f"dependencies: {len(packages) - len(skipped)} versions checked, {len(found)} known weaknesses.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
