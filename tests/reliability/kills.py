"""Kill runs of the tools at random instants; what was there is whole, and the next run ends as if none was killed.

    python tests/reliability/kills.py --kills 1000 --seed 1        (also `make kills`; outside CI, which takes a share)
    python tests/reliability/kills.py --every                      (before every change of the file system, in turn)

Half of the kills come at a random moment of processor time, from outside; half before a random change of the file
system (a file opened for writing, a rename, a removal, a folder), since chance would not meet the moments between two
renames. A run is a child of a process that has imported everything, so that it takes a fraction of a second.

After each kill: every file that was there has its bytes, or all the bytes that the run was to give it, or lies where
the next run puts it back; no file has a final name before it is whole. After the next run: every file has the bytes of
a run that nobody killed, and nothing is left beside.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from reliability.kill_cases import CASES, Case

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.copyfile"}
_LEFT = (".partial", ".replaced", ".lock")

Files = dict[str, str]


@dataclass
class Reference:
    """A run that nobody killed.

    Attributes:
        before: the files that it finds, by path: their hashes.
        after: those that it leaves.
        renamed: by path, the hashes of files that were renamed to it.
        changes: how many changes of the file system it makes.
        seconds: its processor time.
    """

    before: Files
    after: Files
    renamed: dict[str, set[str]]
    changes: int
    seconds: float


@dataclass
class Tally:
    """What came of the kills of one tool."""

    kills: int = 0
    late: int = 0
    between: int = 0
    left: int = 0
    failures: list[str] = field(default_factory=list)


def files_in(folder: Path, streams: tuple[str, ...] = ()) -> Files:
    """Hash every file in a folder, by its path there, but for streams."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(streams or ("\0",))
    }


def is_left(path: str) -> bool:
    """Say whether a path is one of those that a killed run may leave: hidden, with an ending of ours."""
    return any(part.startswith(".") and part.endswith(_LEFT) for part in Path(path).parts)


def spawn(case: Case, words: tuple[str, ...], folder: Path, before: Callable[[], object] = int) -> int:
    """Run a tool in a child, in a folder; return the child's number. before: called in the child."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.chdir(folder / "work")
        tempfile.tempdir = str(folder / "temporary")
        for descriptor in (1, 2):
            os.dup2(os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        torch.set_num_threads(1)
        before()
        status = case.run(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def watch_changes(call: Callable[[str, tuple[object, ...]], None]) -> None:
    """Call a function before every change of the file system in this process."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if is_write or event in _CHANGES:
            call(event, arguments)

    sys.addaudithook(hook)


def make_fresh(top: Path) -> None:
    """Make the folder `work` of a run anew, from `template` beside it, with an empty `temporary` and `said.txt`."""
    for name in ("work", "temporary"):
        shutil.rmtree(top / name, ignore_errors=True)
    shutil.copytree(top / "template", top / "work", symlinks=True)
    (top / "temporary").mkdir()
    (top / "said.txt").write_bytes(b"")


class Killer:
    """The kills of one tool.

    Args:
        case: the tool's run.
        top: an empty folder to work in.
    """

    def __init__(self, case: Case, top: Path) -> None:
        self.case, self.top, self.tally = case, top, Tally()
        self.template = top / "template"
        self.template.mkdir()
        case.prepare(self.template)
        self.reference = self._run_whole()

    def _run_whole(self) -> Reference:
        """Run the tool to its end, and note what takes its place by a rename."""
        make_fresh(self.top)
        notes, work = self.top / "notes.jsonl", self.top / "work"
        started = os.times().children_user + os.times().children_system

        def note(event: str, arguments: tuple[object, ...]) -> None:
            line: dict[str, str] = {}
            if event == "os.rename":
                source, target = (Path(os.path.abspath(os.fspath(name))) for name in arguments[:2])  # type: ignore[call-overload]
                inside = files_in(source) if source.is_dir() else {"": hashlib.sha256(source.read_bytes()).hexdigest()}
                line = {os.path.relpath(target / name if name else target, work): sum for name, sum in inside.items()}
            os.write(file, (json.dumps(line) + "\n").encode())

        file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        child = spawn(self.case, self.case.words, self.top, lambda: watch_changes(note))
        status = os.waitpid(child, 0)[1]
        os.close(file)
        if status:
            raise SystemExit(f"{self.case.tool}: a run that nobody kills ends with {status}: {self._said()}")
        ended = os.times().children_user + os.times().children_system
        lines = [json.loads(line) for line in notes.read_text().splitlines()]
        renamed: dict[str, set[str]] = {}
        for line in lines:
            for name, sum in line.items():
                renamed.setdefault(name, set()).add(sum)
        after = files_in(work, self.case.streams)
        return Reference(files_in(self.template), after, renamed, len(lines), ended - started)

    def kill(self, chance: random.Random) -> None:
        """Kill one run at a random instant: before a change of the file system, or after some processor time."""
        if self.tally.kills % 2:
            self.kill_before(chance.randrange(self.reference.changes))
            return
        make_fresh(self.top)
        moment = chance.uniform(0, self.reference.seconds)
        child = spawn(self.case, self.case.words, self.top)
        send_after(child, moment)
        self._look(child, f"after {moment:.4f} s")

    def kill_before(self, number: int) -> None:
        """Kill one run before its change of this number."""
        make_fresh(self.top)
        child = spawn(self.case, self.case.words, self.top, lambda: _die_at(number))
        self._look(child, f"before change {number}")

    def _look(self, child: int, instant: str) -> None:
        """Wait for the end of a run, look at what it leaves, run the tool again and look at what that leaves."""
        status = os.waitpid(child, 0)[1]
        self.tally.kills += 1
        self.tally.late += not os.WIFSIGNALED(status)
        problems = self._look_after_kill()
        again = self.case.again or self.case.words
        status = os.waitpid(spawn(self.case, again, self.top), 0)[1]
        if status and files_in(self.top / "work", self.case.streams) != self.reference.after:
            problems.append(f"the next run ends with {status}: {self._said()}")
        else:  # convert_imageset refuses to write a database that is there
            problems += self._look_at_end()
        self.tally.failures += [f"killed {instant}: {problem}" for problem in problems]

    def _look_after_kill(self) -> list[str]:
        found, reference = files_in(self.top / "work", self.case.streams), self.reference
        left = [path for path in found if is_left(path)]
        between = any(".replaced" in path for path in left)
        self.tally.left += bool(left or any((self.top / "temporary").iterdir()))
        self.tally.between += between
        problems = []
        for path, sum in found.items():
            allowed = {reference.before.get(path), reference.after.get(path), *reference.renamed.get(path, ())}
            if not is_left(path) and sum not in allowed:
                problems.append(f"{path} is neither what was there nor whole")
        for path in reference.before:
            if path not in found and path in reference.after and not between:
                problems.append(f"{path} is gone")
        return problems

    def _look_at_end(self) -> list[str]:
        found = files_in(self.top / "work", self.case.streams)
        problems = [f"{path} is left" for path in found if is_left(path)]
        problems += [f"{path.name} is left in the system's folder" for path in (self.top / "temporary").iterdir()]
        wanted = self.reference.after
        for path in sorted(found.keys() | wanted.keys()):
            if not is_left(path) and found.get(path) != wanted.get(path):
                problems.append(f"{path} is not as without a kill")
        return problems

    def _said(self) -> str:
        return (self.top / "said.txt").read_text(errors="replace")[-600:]


def _die_at(number: int) -> None:
    """Kill this process before its change of this number."""
    count = iter(range(number))

    def die(event: str, arguments: tuple[object, ...]) -> None:
        if next(count, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    watch_changes(die)


def send_after(child: int, seconds: float, number: int = signal.SIGKILL) -> bool:
    """Send a child a signal when it has taken so much processor time, however busy the machine is.

    Returns:
        Whether the child was there to get it.
    """
    clock = (~child << 3) | 2  # Linux's number of a process's clock, see clock_getcpuclockid(3)
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        try:
            left = seconds - time.clock_gettime(clock)
        except OSError:
            return False
        if left <= 0:
            os.kill(child, number)
            return True
        time.sleep(max(left / 2, 0.0003))
    return False


def run_kills(
    kills: int | None, seed: int, names: list[str], report: Callable[[str], object] = print
) -> dict[str, Tally]:
    """Kill runs of each tool.

    Args:
        kills: how many, of all tools, in shares by the tools' weights; None: one before every change.
        seed: of the instants.
        names: the tools.
        report: gets a line for each tool.
    """
    torch.set_num_threads(1)
    tallies: dict[str, Tally] = {}
    left, weight = kills or 0, sum(CASES[name].weight for name in names)
    for name in names:
        started, chance = os.times(), random.Random(f"{seed} {name}")
        with tempfile.TemporaryDirectory(prefix="fcn-caffe-kills-") as folder:
            warm_up(CASES[name], Path(folder, "warm"))
            gc.freeze()  # children would copy what a collection touches
            Path(folder, "top").mkdir()
            killer = Killer(CASES[name], Path(folder, "top"))
            if kills is None:
                for number in range(killer.reference.changes):
                    killer.kill_before(number)
            else:
                share = max(1, round(left * CASES[name].weight / weight))
                left, weight = left - share, weight - CASES[name].weight
                for _ in range(share):
                    killer.kill(chance)
        tally = tallies[name] = killer.tally
        used = sum(os.times()[:4]) - sum(started[:4])
        kinds = Counter(failure.partition(": ")[2] for failure in tally.failures)
        report(
            f"{name}: {tally.kills} kills ({tally.late} after the end), {tally.left} left something beside, "
            f"{tally.between} between renames; {len(tally.failures)} failures; {killer.reference.changes} changes and "
            f"{killer.reference.seconds:.2f} s a run; {used:.0f} s in all"
            + "".join(f"\n    {count} x {kind}" for kind, count in kinds.most_common(20))
        )
    return tallies


def warm_up(case: Case, folder: Path) -> None:
    """Run a tool once here, in a folder of its own, so that children find all that it imports."""
    folder.mkdir()
    case.prepare(folder)
    run_here(case, folder)


def run_here(case: Case, folder: Path) -> None:
    """Run a tool in this process, in a folder, silently."""
    place, streams, silence = os.getcwd(), [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    try:
        os.chdir(folder)
        for descriptor in (1, 2):
            os.dup2(silence, descriptor)
        case.run(case.words)
    finally:
        sys.stdout.flush()
        os.chdir(place)
        for descriptor, stream in enumerate(streams, 1):
            os.dup2(stream, descriptor)
            os.close(stream)
        os.close(silence)


def main() -> int:
    """Run the command; 1 when a kill did harm."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=1000)
    options.add_argument("--every", action="store_true", help="one kill before every change of the file system")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--tools", nargs="+", choices=[*CASES], default=[*CASES])
    arguments = options.parse_args()
    tallies = run_kills(
        None if arguments.every else arguments.kills,
        arguments.seed,
        arguments.tools,
        lambda line: print(line, flush=True),
    )
    failures = sum(len(tally.failures) for tally in tallies.values())
    print(f"{sum(tally.kills for tally in tallies.values())} kills, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
