"""What is checked and built around a release: known weaknesses of our needs, archives that are the same each time."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

from places import ROOT

CI = ROOT / ".ci"
AUDIT = CI / "audit_dependencies.py"


def audit(folder: Path, report: object) -> tuple[int, str]:
    """Run the check with a program that stands for pip-audit and leaves this report; None for none."""
    program = folder / "pip_audit.py"
    program.write_text(
        "import sys\n"
        f"report = {json.dumps(report)!r}\n"
        "place = next(word for word in sys.argv if word.startswith('--output='))\n"
        "assert any(word.endswith('constraints.txt') for word in sys.argv)\n"
        "if report == 'null': sys.exit('no route to host')\n"
        "open(place.partition('=')[2], 'w').write(report)\n"
    )
    run = subprocess.run([sys.executable, AUDIT, sys.executable, program], capture_output=True, text=True)
    assert not run.stderr
    return run.returncode, run.stdout


WEAK = {"name": "pillow", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}]}
SOUND = {"name": "numpy", "version": "2.0", "vulns": []}
UNKNOWN = [{"name": f"package{index}", "skip_reason": "not found"} for index in range(7)]


def test_a_known_weakness_fails_the_check_and_says_what_to_raise(tmp_path: Path) -> None:
    status, said = audit(tmp_path, {"dependencies": [SOUND, WEAK]})
    assert status == 1
    assert "pillow 1.0: PYSEC-1, fixed in 1.1, 2.0. Raise it in constraints.txt.\n" in said
    assert "2 versions checked, 1 known weaknesses" in said


def test_sound_versions_pass_it(tmp_path: Path) -> None:
    assert audit(tmp_path, {"dependencies": [SOUND]}) == (0, "dependencies: 1 versions checked, 0 known weaknesses.\n")


def test_what_could_not_be_asked_for_is_said_and_is_no_all_clear(tmp_path: Path) -> None:
    status, said = audit(tmp_path, {"dependencies": UNKNOWN})
    assert status == 0 and "NOT CHECKED" in said and "package4 and 2 more" in said and "checked, 0" not in said
    status, said = audit(tmp_path, {"dependencies": [*UNKNOWN[:1], WEAK]})
    assert status == 1 and "NOT CHECKED" in said and "1 versions checked, 1 known" in said
    status, said = audit(tmp_path, None)
    assert status == 0 and said.count("\n") == 1 and "NOT CHECKED" in said and "no route to host" in said


def test_an_archive_is_the_same_whenever_and_by_whomever_it_is_packed(tmp_path: Path) -> None:
    pack, sums = runpy.run_path(str(CI / "release.py"))["pack"], set()
    for turn in range(2):
        folder = tmp_path / str(turn) / "fcn_caffe-1"
        folder.mkdir(parents=True)
        for name in ("b.py", "a.py") if turn else ("a.py", "b.py"):
            (folder / name).write_text(name)
            os.utime(folder / name, (turn * 1000, turn * 1000))
            (folder / name).chmod(0o600 if turn else 0o664)
        (folder / "run").write_text("#!/bin/sh\n")
        (folder / "run").chmod(0o700 if turn else 0o775)
        path = tmp_path / f"{turn}.tar.gz"
        pack(folder, path, 1_700_000_000)
        sums.add(hashlib.sha256(path.read_bytes()).hexdigest())
        with tarfile.open(path) as archive:
            modes = {info.name: (info.mode, info.mtime, info.uid) for info in archive}
    assert len(sums) == 1
    assert modes == {
        "fcn_caffe-1": (0o755, 1_700_000_000, 0),
        "fcn_caffe-1/a.py": (0o644, 1_700_000_000, 0),
        "fcn_caffe-1/b.py": (0o644, 1_700_000_000, 0),
        "fcn_caffe-1/run": (0o755, 1_700_000_000, 0),
    }
