"""Give every reader its share of a number of spoilt files, and report what they did.

    PYTHONPATH=.:tests python -m campaign.run --inputs 1000000 --out FOLDER [--hours H] [--seed S]
        [--processes P] [--only TEXT]
    PYTHONPATH=.:tests python -m campaign.run --add REPORT.json ... --out FOLDER

Each reader runs in processes forked from this one, hundreds of files in each. Inputs that reach new lines of the
package join the corpus and are spoilt further. A process that dies or hangs is replaced, and the file it read is kept
in FOLDER/failures, as is one of each failure. FOLDER/report.json and report.txt say the rest: they are written every
half minute, and at the end, which time, Ctrl-C or SIGTERM may bring. --add sums the reports of several runs, with
other seeds or of other readers. Linux only.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import mmap
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mutations import mutate

from campaign.guards import PACKAGE, Failure, Watch, limit_worker, try_file
from campaign.lines import Lines, Tracer, lines_of
from campaign.readers import Reader, make_readers

CHUNK = 500  # files that one process reads: small, so that all readers have had their turn when time is up
STILL = 300.0  # seconds without a new file after which a process counts as hung
TELL = 30.0  # seconds between reports
STOP = 30.0  # seconds that processes have to write what they found when the campaign is stopped
TRACED = 3  # one file in so many is traced
Made = tuple[Reader, Path, Path, list[bytes]]
_PREFIX, _LOCK = "campaign-", "lock"  # of the folder that all is read in
KEPT = 500  # files in a reader's corpus, beyond those it began with


@dataclass
class Work:
    """A reader, its folder and file, its corpus, and what has come out so far."""

    reader: Reader
    folder: Path
    path: Path
    corpus: list[bytes]
    left: int
    chunk: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0

    def add_failure(self, failure: Failure, data: bytes, count: int, folder: Path) -> None:
        """Count a failure; keep the first file of each kind and place."""
        key = failure.kind, failure.where
        if key not in self.failures:
            name = "".join(letter if letter.isalnum() else "-" for letter in f"{self.reader.name} {failure.kind}")
            file = folder / f"{name}-{len(self.failures)}"
            file.write_bytes(data)
            self.failures[key] = {"kind": failure.kind, "where": failure.where, "words": failure.words, "count": 0}
            self.failures[key]["file"] = file.name
        self.failures[key]["count"] += count


@dataclass
class Process:
    """A process that reads: where it says how far it is and what it found, how far it was and when."""

    work: Work
    progress: mmap.mmap
    answer: Path
    moved: float
    at: int = 0


# -- in a process of its own ---------------------------------------------------------------------------------------


def _read_many(work: Work, count: int, seed: str, known: Lines, progress: mmap.mmap, answer: Path) -> None:
    """Read `count` spoilt files, and write what came out to `answer`."""
    random, corpus = Random(seed), list(work.corpus)
    counts: Counter[str] = Counter()
    failures: dict[tuple[str, str], tuple[Failure, str, int]] = {}
    fresh: list[str] = []
    watch, tracer = Watch(work.folder, work.reader), Tracer(known)
    began = time.process_time()
    for number in range(count):
        if progress[8]:  # the campaign is stopped
            break
        base, other = random.choice(corpus), random.choice(corpus)
        steps = [
            (random.choice(work.reader.ways), random.getrandbits(32)) for _ in range(random.choice((1, 1, 2, 3, 4)))
        ]
        progress[9] = 1
        data = mutate(base, other, steps)
        progress[9] = 0
        work.path.write_bytes(data)
        progress[:8] = struct.pack("<Q", number + 1)
        if number % TRACED == 0:
            with tracer:
                outcome, found = try_file(watch, work.path, len(data))
            if tracer.found_new and len(data) < 2**17:
                corpus.append(data)
                fresh.append(data.hex())
        if number % TRACED or any(failure.kind == "hang" for failure in found):  # which tracing may be to blame for
            outcome, found = try_file(watch, work.path, len(data))
        counts[outcome] += 1
        for failure in found:
            first, kept, times = failures.get((failure.kind, failure.where), (failure, data.hex(), 0))
            failures[failure.kind, failure.where] = first, kept, times + 1
    told = {
        "counts": counts,
        "fresh": fresh,
        "lines": {name: sorted(lines) for name, lines in tracer.new.items()},
        "failures": [(vars(failure), data, times) for failure, data, times in failures.values()],
        "seconds": time.process_time() - began,
    }
    answer.write_text(json.dumps(told))


def _begin(work: Work, count: int, seed: str, known: Lines, answer: Path) -> tuple[int, mmap.mmap]:
    """Fork a process that reads `count` files; return its id and where it says how far it is."""
    progress = mmap.mmap(-1, 10)  # the files read, whether to stop, whether a file is being spoilt
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child:
        return child, progress
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process says when to stop
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        empty = work.folder.with_name(f"{work.folder.name}-empty")
        empty.mkdir(exist_ok=True)
        os.chdir(empty)
        limit_worker()
        _read_many(work, count, seed, known, progress, answer)
        status = 0
    except BaseException as error:
        answer.with_suffix(".error").write_text(repr(error))
        raise
    finally:
        os._exit(status)


# -- in the first process ------------------------------------------------------------------------------------------


class Campaign:
    """All readers, what each has left, and the processes that work.

    Args:
        made: The readers, each with its folder, its file and its corpus.
        folder: Where processes leave their answers.
        out: Where the report goes.
        inputs: How many files in all.
        seed: What decides which.
    """

    def __init__(self, made: Iterable[Made], folder: Path, out: Path, inputs: int, seed: int) -> None:
        self.folder, self.out, self.seed = folder, out, seed
        (out / "failures").mkdir(parents=True, exist_ok=True)
        made = list(made)
        shares = sum(reader.share for reader, *_ in made)
        self.work = [Work(*parts, max(1, round(inputs * parts[0].share / shares))) for parts in made]
        self.lines: Lines = {}
        self.running: dict[int, Process] = {}
        self.stopped = False
        self.began = time.time()

    def run(self, processes: int, until: float) -> None:
        """Read all files, or as many as there is time for."""
        waiting, told, still = list(self.work), time.time(), STILL
        while waiting or self.running:
            if time.time() - told > TELL:
                print(_progress(self.report()), flush=True)
                told = time.time()
            while waiting and len(self.running) < processes and not self.stopped:
                self._start(waiting.pop(0))
            if (self.stopped or time.time() >= until) and waiting + list(self.running):
                self.stopped, still = True, STOP
                waiting.clear()
                for process in self.running.values():
                    process.progress[8] = 1
            time.sleep(0.02)
            for child, process in list(self.running.items()):
                done, status = os.waitpid(child, os.WNOHANG)
                at = struct.unpack("<Q", process.progress[:8])[0]
                if done:
                    del self.running[child]
                    self._take(process, at, status)
                    if process.work.left > 0 and not self.stopped:
                        waiting.append(process.work)
                elif at != process.at:
                    process.at, process.moved = at, time.time()
                elif time.time() - process.moved > still:
                    os.kill(child, signal.SIGKILL)

    def _start(self, work: Work) -> None:
        """Let a process read the next of a reader's files."""
        count = min(CHUNK, work.left)
        answer = self.folder / f"answer-{self.work.index(work)}.json"
        known = {name: set(lines) for name, lines in self.lines.items()}
        child, progress = _begin(work, count, f"{self.seed}/{work.reader.name}/{work.chunk}", known, answer)
        work.chunk += 1
        self.running[child] = Process(work, progress, answer, time.time())

    def stop(self, *_: object) -> None:
        """Let the processes write what they have found, and start no more."""
        self.stopped = True

    def _take(self, process: Process, at: int, status: int) -> None:
        """Add what a process found; or, where it died, the file that it read."""
        work, answer = process.work, process.answer
        if status:
            error = answer.with_suffix(".error")
            words = error.read_text() if error.exists() else ""
            error.unlink(missing_ok=True)
            kind = "campaign" if words or process.progress[9] else "crash"  # its own
            ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {status >> 8}"
            failure = Failure(kind, work.reader.name, f"{ended} {words}".strip())
            work.add_failure(failure, work.path.read_bytes(), 1, self.out / "failures")
            work.counts["lost"] += at
            work.left -= max(20, at)  # one that dies at once does not begin a million times
            return
        told = json.loads(answer.read_text())
        work.counts.update(told["counts"])
        work.left -= sum(told["counts"].values())
        work.seconds += told["seconds"]
        work.corpus += [bytes.fromhex(data) for data in told["fresh"]][: max(0, KEPT - len(work.corpus))]
        for name, lines in told["lines"].items():
            self.lines.setdefault(name, set()).update(lines)
        for failure, data, times in told["failures"]:
            work.add_failure(Failure(**failure), bytes.fromhex(data), times, self.out / "failures")

    def report(self) -> dict[str, Any]:
        """Say what came out, and write it as JSON and as a table."""
        reached = sum(map(len, self.lines.values()))
        readers = {
            work.reader.name: {
                **{key: work.counts[key] for key in ("accepted", "refused", "lost")},
                "corpus": len(work.corpus),
                "milliseconds": round(1000 * work.seconds / max(1, work.counts.total()), 2),
                "failures": list(work.failures.values()),
            }
            for work in self.work
        }
        told = {
            "inputs": sum(work.counts.total() for work in self.work),
            "wanted": sum(work.counts.total() + max(0, work.left) for work in self.work),
            "seed": str(self.seed),
            "hours": round((time.time() - self.began) / 3600, 3),
            "processor_hours": round(sum(work.seconds for work in self.work) / 3600, 3),
            "lines_reached": reached,
            "lines_there": _lines_there(self.lines),
            "failures": _kinds(readers),
            "versions": _versions(),
            "readers": readers,
            "lines": {name: " ".join(map(str, sorted(lines))) for name, lines in sorted(self.lines.items())},
        }
        _write(told, self.out)
        return told


def _write(told: dict[str, Any], out: Path) -> None:
    """Write a report, each file whole: a campaign may be killed at any time."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("report.json", json.dumps(told, indent=1) + "\n"), ("report.txt", _table(told))):
        (out / f"{name}.new").write_text(text)
        (out / f"{name}.new").replace(out / name)


def _kinds(readers: dict[str, Any]) -> dict[str, int]:
    return dict(Counter(failure["kind"] for each in readers.values() for failure in each["failures"]))


def _progress(told: dict[str, Any]) -> str:
    return (
        f"{time.strftime('%H:%M:%S')} {told['inputs']:,} of {told['wanted']:,} inputs, "
        f"{told['lines_reached']:,} lines, failures {told['failures'] or 'none'}"
    )


def add_reports(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of several reports, by reader; lines that several reached count once, versions are the last's."""
    readers: dict[str, dict[str, Any]] = {}
    lines: Lines = {}
    for report in reports:
        for name, text in report["lines"].items():
            lines.setdefault(name, set()).update(map(int, text.split()))
        for name, each in report["readers"].items():
            sums = readers.setdefault(name, {"accepted": 0, "refused": 0, "lost": 0, "corpus": 0, "milliseconds": 0.0})
            before, new = _inputs(sums), _inputs(each)
            sums["milliseconds"] = (sums["milliseconds"] * before + each["milliseconds"] * new) / max(1, before + new)
            for key in ("accepted", "refused", "lost"):
                sums[key] += each[key]
            sums["corpus"] = max(sums["corpus"], each["corpus"])
            found = sums.setdefault("failures", [])
            for failure in each["failures"]:
                same = [one for one in found if (one["kind"], one["where"]) == (failure["kind"], failure["where"])]
                if same:
                    same[0]["count"] += failure["count"]
                else:
                    found.append(dict(failure))
    for sums in readers.values():
        sums["milliseconds"] = round(sums["milliseconds"], 2)
    added = ("inputs", "wanted", "hours", "processor_hours")
    return {
        **{key: round(sum(report[key] for report in reports), 3) for key in added},
        "seed": ", ".join(dict.fromkeys(report["seed"] for report in reports)),
        "lines_reached": sum(map(len, lines.values())),
        "lines_there": _lines_there(lines),
        "failures": _kinds(readers),
        "versions": reports[-1]["versions"],
        "readers": readers,
        "lines": {name: " ".join(map(str, sorted(reached))) for name, reached in sorted(lines.items())},
    }


def _inputs(each: dict[str, Any]) -> int:
    return int(each["accepted"] + each["refused"] + each["lost"])


def _lines_there(reached: Lines) -> int:
    """The lines of all functions in the files that were reached."""
    total = 0
    for name in reached:
        waiting = [compile(Path(PACKAGE, name).read_text(encoding="utf-8"), name, "exec")]
        lines: set[int] = set()
        while waiting:
            code = waiting.pop()
            inner = [constant for constant in code.co_consts if isinstance(constant, type(code))]
            waiting += inner
            if code.co_name not in ("<module>",):
                lines |= lines_of(code)
        total += len(lines)
    return total


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for name in ("fcn-caffe", "torch", "numpy", "scipy", "protobuf", "pillow", "h5py", "safetensors", "onnx", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _table(told: dict[str, Any]) -> str:
    lines = [f"{'reader':<30}{'inputs':>9}{'accepted':>10}{'corpus':>8}{'ms':>8}{'failures':>10}"]
    for name, each in told["readers"].items():
        words = f"{_inputs(each):>9,}{each['accepted']:>10,}{each['corpus']:>8}{each['milliseconds']:>8}"
        lines.append(f"{name:<30}{words}{len(each['failures']):>10}")
    lines.append(
        f"{told['inputs']:,} inputs, seed {told['seed']}, {told['hours']} hours ({told['processor_hours']} of a "
        f"processor), {told['lines_reached']:,} of {told['lines_there']:,} lines reached in the files "
        f"read with. Failures by kind: {told['failures'] or 'none'}."
    )
    lines.append(", ".join(f"{name} {version}" for name, version in told["versions"].items()))
    for name, each in told["readers"].items():
        for failure in each["failures"]:
            lines.append(f"{name}: {failure['kind']} at {failure['where']} ({failure['count']}): {failure['words']}")
    return "\n".join(lines) + "\n"


def clear_dead(place: Path) -> None:
    """Remove the folders of campaigns that were killed: no process holds their locks any more."""
    for folder in place.glob(f"{_PREFIX}*"):
        try:
            with open(folder / _LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
        except OSError:  # a living one's, another user's, or none of a campaign
            continue


def main() -> int:
    """Run the campaign, or add reports; return 1 where something failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--inputs", type=int, default=1_000_000)
    options.add_argument("--hours", type=float, default=24.0, help="stop after this long")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--only", default="", help="a part of the readers' names")
    options.add_argument("--add", type=Path, nargs="+", metavar="REPORT.json", help="add these reports; run nothing")
    options.add_argument("--out", type=Path, required=True, help="the folder of the report")
    arguments = options.parse_args()
    if arguments.add:
        told = add_reports([json.loads(path.read_text()) for path in arguments.add])
        _write(told, arguments.out)
        print(_table(told), end="")
        return 1 if told["failures"] else 0
    logging.disable()  # every odd rate and every restored state says so
    warnings.simplefilter("ignore")
    # Memory where there is a folder in memory: a million files are written.
    place = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
    clear_dead(place)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as folder, open(Path(folder, _LOCK), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until this process, and those that it forks, are gone
        made = [parts for parts in make_readers(Path(folder)) if arguments.only in parts[0].name]
        campaign = Campaign(made, Path(folder), arguments.out, arguments.inputs, arguments.seed)
        signal.signal(signal.SIGINT, campaign.stop)
        signal.signal(signal.SIGTERM, campaign.stop)
        campaign.run(arguments.processes, time.time() + 3600 * arguments.hours)
        told = campaign.report()
    print(_table(told), end="")
    return 1 if told["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
