"""The campaign's share of a test run: every reader, seeded, in its own process; `make campaign` runs a million."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT, TESTS

pytestmark = pytest.mark.needs_linux  # the limits that each file runs under


def run_module(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the tests in a process of its own."""
    with process(*command) as started:
        words, errors = started.communicate()
    return subprocess.CompletedProcess(command, started.returncode, words, errors)


def process(*command: str) -> subprocess.Popen[str]:
    """Start a module of the tests."""
    return process_of("-m", *command)


def process_of(*command: str) -> subprocess.Popen[str]:
    """Start a Python that finds the tests."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(TESTS)))}
    return subprocess.Popen(
        (sys.executable, *command), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_no_spoilt_file_does_what_it_must_not(tmp_path: Path) -> None:
    run = run_module("campaign.run", "--inputs", "1500", "--out", str(tmp_path))
    words = run.stdout + run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    # Whether a sentence says what to do is told by its words: the campaign lists those that a person should look at.
    assert set(report["failures"]) <= {"no cure"}, words
    assert report["inputs"] >= 1400
    # It reaches what is behind the parsers, and no reader refuses all or takes all.
    assert report["lines_reached"] > 1500, words
    outcomes = {name: (each["accepted"], each["refused"]) for name, each in report["readers"].items()}
    assert sum(accepted for accepted, _ in outcomes.values()) > 150, outcomes
    assert sum(refused for _, refused in outcomes.values()) > 500, outcomes


@pytest.mark.slow
def test_the_watch_sees_each_misdeed(tmp_path: Path) -> None:
    """A reader that misbehaves in each way is reported for it, with the file that it read."""
    run_module("campaign.misdeeds", str(tmp_path / "out"))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    found = {name: [failure["kind"] for failure in each["failures"]] for name, each in report["readers"].items()}
    assert len(found) == 11
    found["writes"].remove("PermissionError")  # nothing is written: the watch refuses
    assert found == {name: [name] for name in found}
    assert len(list((tmp_path / "out" / "failures").iterdir())) == len(found) + 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_campaign_keeps_its_report(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    with process("campaign.run", "--only", "list: split", "--inputs", "100000000", "--out", str(out)) as campaign:
        while not list(out.glob("*")) and campaign.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)
        campaign.send_signal(number)
        words, _ = campaign.communicate()
    report = json.loads((out / "report.json").read_text())
    assert campaign.returncode == 0, words
    assert 0 < report["inputs"] < report["wanted"] == 100_000_000
    assert f"{report['inputs']:,} inputs, seed 0" in words


def test_the_folder_of_a_killed_campaign_is_cleared(tmp_path: Path) -> None:
    import fcntl  # of Linux, as the campaign

    from campaign.run import clear_dead

    for name in ("dead", "alive", "other"):
        (tmp_path / f"campaign-{name}").mkdir()
        if name != "other":
            (tmp_path / f"campaign-{name}" / "lock").touch()
    with open(tmp_path / "campaign-alive" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clear_dead(tmp_path)
    assert sorted(place.name for place in tmp_path.iterdir()) == ["campaign-alive", "campaign-other"]


def test_what_a_file_leaves_is_not_counted_for_the_next(tmp_path: Path) -> None:
    """In a process of its own, for a watch cannot be taken off."""
    words = """if True:
        import sys, tempfile
        from pathlib import Path
        from campaign.guards import Watch, try_file
        from campaign.misdeeds import MISDEEDS, _prepare
        from campaign.readers import Reader
        folder = Path(sys.argv[1])
        path = _prepare(folder)
        reads = iter([MISDEEDS["leaves"], len])
        watch = Watch(folder, Reader("x", _prepare, lambda path: next(reads)(str(path)), ()))
        print([[failure.kind for failure in try_file(watch, path, 9)[1]] for _ in range(2)])
    """
    with process_of("-c", words, str(tmp_path)) as started:
        found, errors = started.communicate()
    assert found == "[['leaves'], []]\n", errors


def test_reports_are_added_by_reader(tmp_path: Path) -> None:
    failure = {"kind": "hang", "where": "a.py:3", "words": "x", "count": 2, "file": "a"}
    for seed, failures, lines in (
        (1, [], {"errors.py": "1 2"}),
        (2, [failure], {"errors.py": "2 3"}),
        (3, [failure], {}),
    ):
        each = {"accepted": seed, "refused": 10, "lost": 0, "corpus": 1, "milliseconds": 2.0, "failures": failures}
        readers = {"net": each} | ({"log": each} if seed == 3 else {})
        told = {"inputs": 10 + seed, "wanted": 20, "seed": str(seed), "hours": 0.5, "processor_hours": 0.25}
        told |= {"versions": {}, "readers": readers, "lines": lines}
        (tmp_path / f"{seed}.json").write_text(json.dumps(told))
    reports = [str(tmp_path / f"{seed}.json") for seed in (1, 2, 3)]
    assert run_module("campaign.run", "--out", str(tmp_path), "--add", *reports).returncode == 1
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["inputs"], told["seed"], told["hours"], told["lines_reached"]) == (36, "1, 2, 3", 1.5, 3)
    assert (told["readers"]["net"]["accepted"], told["readers"]["net"]["refused"]) == (6, 30)
    assert [failure["count"] for failure in told["readers"]["net"]["failures"]] == [4]
    assert told["readers"]["log"]["accepted"] == 3
    assert told["failures"] == {"hang": 2}
