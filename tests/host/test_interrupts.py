"""How Ctrl-C and SIGTERM end a command; the commands here load no PyTorch."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

COMMAND = """
import hashlib, sys, time
sys.argv[0] = "fcn-caffe"
from fcn_caffe.commands import command

@command
def main(argv):
    {}

def work():
    print("ready", flush=True)
    time.sleep(60)

sys.exit(main([]))
"""
WORK = {
    "a block that cleans up": "try: work()\n    finally: print('clean', flush=True)",
    "a block that is slow to clean up": "try: work()\n    finally: time.sleep(60)",
    "a handler that swallows it": "while True:\n        try: work()\n        except BaseException: pass",
    "a long call into C": "print('ready', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",
    "an import": "import slow",
}


def run(body: str, numbers: list[int], folder: Path) -> tuple[int, str, str]:
    """Run a command, send it signals once it works; return its status and what it printed after that."""
    (folder / "slow.py").write_text(
        "import time\ntry: print('ready', flush=True); time.sleep(60)\nexcept BaseException: print('swallowed')"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(folder)!r})\n{COMMAND.format(body)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for number in numbers:
            process.send_signal(number)
        out, told = process.communicate(timeout=60)
    return process.returncode, out, told


@pytest.mark.parametrize("work", WORK)
def test_it_ends(work: str, tmp_path: Path) -> None:
    number, status, word = signal.SIGINT, 130, "interrupted\n"
    if "slow" in work or "C" in work:
        number, status, word = signal.SIGTERM, 143, "terminated\n"
    out = {"a block that cleans up": "clean\n", "a handler that swallows it": "ready\n"}.get(work, "")
    assert run(WORK[work], [number], tmp_path) == (status, out, word)


def test_of_processes_that_have_not_met_rank_0_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, told in (("0", "interrupted\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert run(WORK["an import"], [signal.SIGINT], tmp_path) == (130, "", told)


def test_signals_after_the_first_add_nothing(tmp_path: Path) -> None:
    numbers = [signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGINT]
    status, out, told = run(WORK["a block that cleans up"], numbers, tmp_path)
    assert (status, told) in {(130, "interrupted\n"), (143, "terminated\n")}  # two that are pending come in any order
    assert out == "clean\n"


@pytest.mark.parametrize(
    ("program", "before", "during"),
    [
        ("fcn-caffe", "signal.default_int_handler", "SIG_DFL"),
        (str(ROOT / "fcn_caffe" / "__main__.py"), "signal.default_int_handler", "SIG_DFL"),
        ("__main__.py", "signal.default_int_handler", "default_int_handler"),
        ("mine.py", "signal.default_int_handler", "default_int_handler"),
        ("fcn-caffe", "signal.SIG_IGN", "SIG_IGN"),
    ],
)
def test_start_up(program: str, before: str, during: str) -> None:
    """Of our commands alone, and not where it is ignored, Ctrl-C is the system's until they work."""
    text = (
        f"import signal, sys; signal.signal(signal.SIGINT, {before}); sys.argv[0] = {program!r}\n"
        "import fcn_caffe; from fcn_caffe.host.interrupts import listening\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "with listening(): pass\n"
        "assert signal.getsignal(signal.SIGINT) == before\n"
        "print(getattr(before, 'name', getattr(before, '__name__', '')))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.stdout == f"{during}\n", done.stderr
