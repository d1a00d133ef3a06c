"""Kill training in several ranks at random instants; it ends by itself, and goes on to the bits of one never killed.

    python tests/reliability/rank_kills.py [--kills 20] [--seed 1] [--ranks 2] [--tool solve]

By turns rank 0, the last rank, and all of them at once get SIGKILL at a random moment of processor time. The ranks
that are left have to end with an error; one that still waits for the first meeting gets SIGTERM after ten seconds, as
torchrun sends it, and has to end within three. Then the tool runs again, with `--resume` and as many ranks. Every file
then has the bytes of a run that nobody killed, and nothing is left beside. Ranks are children of a process that has
imported everything, with the variables that torchrun sets.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import random
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from reliability.kill_cases import CASES, Case
from reliability.kills import files_in, is_left, make_fresh, send_after, spawn, warm_up

_ENDS = {0, 1, 128 + signal.SIGTERM, -signal.SIGTERM}  # of ranks whose run is over


def start_ranks(case: Case, words: tuple[str, ...], top: Path, count: int) -> list[int]:
    """Start the ranks of a run in a folder; return the numbers of their processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = []
    for rank in range(count):
        variables = {name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
        children.append(spawn(case, words, top, functools.partial(os.environ.update, variables)))
    return children


def wait_for(children: list[int], patience: float = 120) -> list[int]:
    """Return the exit status of each process, negative where a signal ended it.

    What does not end in `patience` seconds gets SIGTERM, and SIGALRM, which ends it, three seconds later.
    """

    def send(number: int) -> None:
        for child in children:
            if is_there(child):
                os.kill(child, number)

    timers = [threading.Timer(patience, send, [signal.SIGTERM]), threading.Timer(patience + 3, send, [signal.SIGALRM])]
    for timer in timers:
        timer.start()
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for timer in timers:
        timer.cancel()
    return statuses


def is_there(child: int) -> bool:
    """Say whether a process of ours has not ended yet."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


class Kills:
    """Kills of one tool's runs, in a folder to work in."""

    def __init__(self, case: Case, top: Path, count: int) -> None:
        self.case, self.top, self.count = case, top, count
        (top / "template").mkdir()
        case.prepare(top / "template")
        make_fresh(self.top)
        started = os.times()
        statuses = wait_for(start_ranks(case, case.words, top, count))
        if any(statuses):
            raise SystemExit(f"{case.tool}: ranks that nobody kills end with {statuses}: {self._said()}")
        self.seconds = (sum(os.times()[2:4]) - sum(started[2:4])) / count
        self.after = files_in(top / "work", case.streams)

    def _said(self) -> str:
        return (self.top / "said.txt").read_text(errors="replace")[-1200:]

    def kill(self, victims: list[int], moment: float) -> tuple[bool, list[str]]:
        """Kill ranks of one run, let the others end, run again; say whether it came in time, and what went wrong."""
        make_fresh(self.top)
        children = start_ranks(self.case, self.case.words, self.top, self.count)
        was_there = send_after(children[victims[0]], moment)
        for victim in victims[1:]:
            if was_there and is_there(children[victim]):
                os.kill(children[victim], signal.SIGKILL)
        statuses = wait_for(children, patience=10)
        problems = []
        for rank, status in enumerate(statuses):
            if was_there and rank not in victims and status not in _ENDS:
                problems.append(f"rank {rank} ends with {status}: {self._said()}")
        (self.top / "said.txt").write_bytes(b"")
        statuses = wait_for(start_ranks(self.case, self.case.again, self.top, self.count))
        if any(statuses):
            problems.append(f"the ranks that go on end with {statuses}: {self._said()}")
        found = files_in(self.top / "work", self.case.streams)
        for path in sorted(found.keys() | self.after.keys()):
            if is_left(path) or found.get(path) != self.after.get(path):
                problems.append(f"{path} is {'left' if is_left(path) else 'not as without a kill'}")
        return was_there, problems


def main() -> int:
    """Run the command; 1 when a kill did harm."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--ranks", type=int, default=2)
    options.add_argument("--tool", choices=["solve", "train"], default="solve")
    arguments = options.parse_args()
    chance, count = random.Random(arguments.seed), arguments.ranks
    in_time = failures = 0
    with tempfile.TemporaryDirectory(prefix="fcn-caffe-kills-") as folder:
        warm_up(CASES[arguments.tool], Path(folder, "warm"))
        gc.freeze()  # children would copy what a collection touches
        Path(folder, "top").mkdir()
        kills = Kills(CASES[arguments.tool], Path(folder, "top"), count)
        for number in range(arguments.kills):
            victims = [[0], [count - 1], [*range(count)]][number % 3]
            moment = chance.uniform(0, kills.seconds)
            was_there, problems = kills.kill(victims, moment)
            in_time, failures = in_time + was_there, failures + bool(problems)
            for problem in problems:
                print(f"ranks {victims} killed after {moment:.3f} s: {problem}", flush=True)
    print(f"{arguments.tool}: {arguments.kills} kills in {count} ranks ({in_time} in time), {failures} with harm")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
