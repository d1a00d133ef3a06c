"""Interrupt every tool at random instants, its start-up too, and count how it ends.

    python tests/reliability/interrupts.py [--runs N] [--starts N] [--longest SECONDS] [--seed S] [TOOL ...]

Most runs are children of a process that has imported everything, as in kills.py; some are begun with Python itself,
as `tools/NAME.py` or as `python -m fcn_caffe NAME`.
Each has a fresh copy of a small folder. The instant is one of the run's own processor time, however busy the machine
is. Half of the signals are SIGINT, the others SIGTERM; of every three runs one gets a second SIGINT a moment later.
What must hold: the process ends within two seconds, in which the time does not count that its main thread was ready
and had no core (Linux counts that in /proc/PID/schedstat); its status says the signal; there is no traceback; and no
file under its final name is other than that of a whole run.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from reliability.kill_cases import Case, write_archives  # noqa: E402
from reliability.kills import is_left, run_here, send_after, spawn, warm_up  # noqa: E402
from small_stages import write_stages  # noqa: E402

from fcn_caffe import commands  # noqa: E402
from fcn_caffe.net.net import Net  # noqa: E402
from fcn_caffe.weights.transfer import net_weights, save_weights  # noqa: E402

SECONDS = 2.0
START = 2.0  # seconds in which Python starts and imports a tool
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STREAMS = ("log.txt", "scores.csv", "run.jsonl", ".log")  # grow line by line

DEPLOY = """
name: "deploy"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 14 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 0.1 } } }
NORM
layer { name: "score" type: "Convolution" bottom: "conv" top: "score" convolution_param {
  num_output: 2 kernel_size: 1 weight_filler { type: "gaussian" std: 0.1 } } }
"""
NORM = """
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
"""
CLASSIFIER = """
name: "classifier"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.1 } } }
"""
EDGES = """
layer { name: "data" type: "Python" top: "data" top: "label" python_param { module: "folder_layers"
  layer: "FolderSegData" param_str: "{'images': 'images', 'labels': 'labels', 'split': 'val.txt', 'outlines': True}" } }
layer { name: "edge" type: "Convolution" bottom: "data" top: "new-score-weighting"
  convolution_param { num_output: 1 kernel_size: 1 } }
layer { name: "quiet" type: "Silence" bottom: "label" }
"""

COARSE, NET = "solvers/coarse.prototxt", "nets/coarse.prototxt"
WEIGHTS, DEPLOYED = ("--weights", "coarse.caffemodel"), ("--weights", "deploy.caffemodel")

# By tool, its command line; "train" and "solve" are so long that the signal comes while they train.
CASES: dict[str, tuple[str, ...]] = {
    "solve": ("endless.prototxt",),
    "train": ("--solver", "endless.prototxt"),
    "explain_lr": (COARSE,),
    "doctor": (COARSE,),
    "report": ("snapshot/coarse", "report.html"),
    "parse_log": ("snapshot/coarse/log.txt", "."),
    "plot_training_log": ("snapshot/coarse/log.txt", "chart.png"),
    "infer": ("--net", "deploy.prototxt", *DEPLOYED, "--mean", "1", "2", "3", "--out", "out", "images"),
    "score": (NET, *WEIGHTS, "--json", "scores.json", "--save-predictions", "predictions"),
    "score_edges": ("nets/edges.prototxt", "--weights", "edges.caffemodel", "--json", "edges.json"),
    "test_net": ("-model", NET, *WEIGHTS, "-iterations", "30"),
    "extract_features": ("coarse.caffemodel", NET, "score", "features", "2", "lmdb"),
    "time_net": ("-model", "deploy.prototxt", "-iterations", "200"),
    "device_query": (),
    "new_task": ("--images", "images", "--labels", "labels", "--trunk", "narrow", "--name", "own", "--out", "task"),
    "get_data": ("siftflow", "--data", "data", "--archives", "archives", "--no-checksum"),
    "convert_imageset": ("./", "list.txt", "database"),
    "compute_image_mean": ("ready_database", "mean.binaryproto"),
    "hha": ("depth.png", "hha.png", "--focal", "100"),
    "convolutionalize": ("classifier.prototxt", "classifier.caffemodel", "full.prototxt", "full.caffemodel"),
    "merge_bn": ("norm.prototxt", "merged.prototxt", "merged.caffemodel", "--weights", "norm.caffemodel"),
    "port_weights": ("coarse.caffemodel", "ported.safetensors"),
    "draw_net": (NET, "net.svg"),
    "view": (NET, "net.html"),
    "export": ("deploy.prototxt", "deploy.onnx", *DEPLOYED),
    "upgrade_net": (NET, "upgraded.prototxt"),
    "upgrade_solver": (COARSE, "upgraded_solver.prototxt"),
    "make_nets": ("--out", "made"),
    "audit": ("--quick", "--json", "audit.json"),
    "experiment": ("fc-to-conv",),
}

WARM = {"solve": (COARSE,), "train": ("--solver", COARSE)}  # in place of those that do not end


def write_inputs(folder: Path) -> None:
    """Write all that the command lines of CASES read."""
    folder.mkdir()
    write_stages(folder)
    write_archives(folder)
    solver = (folder / COARSE).read_text().replace("max_iter: 6", "max_iter: 1000000").replace("display: 1", "")
    (folder / "endless.prototxt").write_text(solver.replace("snapshot: 2", "").replace("snapshot/coarse", "endless"))
    texts = {"deploy": DEPLOY.replace("NORM", ""), "norm": DEPLOY.replace("NORM", NORM), "classifier": CLASSIFIER}
    for name, text in texts.items():
        (folder / f"{name}.prototxt").write_text(text)
        save_weights(folder / f"{name}.caffemodel", net_weights(Net(folder / f"{name}.prototxt")))
    (folder / "nets" / "edges.prototxt").write_text(EDGES)
    blobs = [np.full((1, 3, 1, 1), 0.01, np.float32), np.zeros(1, np.float32)]
    save_weights(folder / "edges.caffemodel", {"edge": blobs})
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(500, 3000, (40, 50)).astype(np.uint16)).save(folder / "depth.png")
    (folder / "list.txt").write_text("".join(f"images/{index}.png {index % 2}\n" for index in range(6)))
    for name, *words in (("solve", COARSE), ("convert_imageset", "./", "list.txt", "ready_database")):
        run_here(Case(name, tuple(words), Path.iterdir), folder)
    shutil.copy(folder / "snapshot/coarse/train_iter_6.caffemodel", folder / "coarse.caffemodel")


def tool(name: str, *words: str) -> list[str]:
    """Return the command that runs a tool."""
    return [sys.executable, str(ROOT / "tools" / f"{name}.py"), *words]


class Cold(Case):
    """A tool that Python is started for."""

    def run(self, words: tuple[str, ...]) -> int:
        """Become the tool."""
        own = {"TMPDIR": tempfile.gettempdir(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = self.command(words)
        os.execve(command[0], command, {**os.environ, **own})

    def command(self, words: tuple[str, ...]) -> list[str]:
        """Return the command that runs the tool."""
        return tool(self.tool, *words)


class ColdModule(Cold):
    """A tool that Python is started for as torchrun starts it."""

    def command(self, words: tuple[str, ...]) -> list[str]:
        """Return the command that runs the tool."""
        return [sys.executable, "-m", "fcn_caffe", self.tool, *words]


def as_command(case: Case) -> None:
    """Let a child be what Python is when it runs the tool: its name, and the system's handlers of signals."""
    sys.argv = tool(case.tool, *case.words)[1:]
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def waited(process: int) -> float:
    """Return for how many seconds a process was ready and had no core."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9


@dataclass
class Ends:
    """How the runs of one tool have ended.

    Attributes:
        statuses: how many runs ended with each status.
        latencies: the seconds from the signal to the end of runs that it ended, but for those without a core.
        longest: the longest by the clock on the wall.
        left: how many left something beside, for the next run to take away.
        failures: what must not be, in words.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    longest: float = 0
    left: int = 0
    failures: list[str] = field(default_factory=list)

    def row(self, name: str) -> str:
        """Return the line of a Markdown table."""
        cells = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        latencies = sorted(self.latencies) or [0.0]
        late = sum(seconds > SECONDS for seconds in latencies)
        return (
            f"| {name} | {self.statuses.total()} | {cells} | {latencies[len(latencies) // 2]:.2f} "
            f"| {latencies[-1]:.2f} | {self.longest:.2f} | {late} | {self.left} | {len(self.failures)} |"
        )

    def add(self, other: Ends) -> None:
        """Count the runs of another tool in."""
        self.statuses.update(other.statuses)
        self.latencies += other.latencies
        self.longest = max(self.longest, other.longest)
        self.left += other.left
        self.failures += other.failures


def files_of(folder: Path) -> dict[str, int]:
    """Return the sizes of the files in a folder, by path in it, but for those that grow."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(STREAMS) and "__pycache__" not in path.parts
    }


class Target:
    """A tool that is interrupted.

    Args:
        name: The tool.
        top: A folder with `template`, of which each run gets a copy.
        longest: Seconds of a run that are shot at.
    """

    def __init__(self, name: str, top: Path, longest: float) -> None:
        self.longest = longest
        self.case, self.top, self.ends = Case(name, CASES[name], shutil.copytree), top, Ends()
        self.before = files_of(top / "template")
        self.seconds, status = self._run_whole(self.case)
        self.whole = files_of(top / "work")
        self.statuses = {status}
        if name == "get_data":
            self.statuses.add(1)  # a process of its own does not know that the archive is a small one
        if status not in (0, 128 + signal.SIGINT):
            self.ends.failures.append(f"{name} ends with {status}: {self._told()}")

    def _run_whole(self, case: Case) -> tuple[float, int]:
        """Run the tool, for `longest` at most; return its processor time and its status."""
        child, started = self._begin(case), os.times()
        send_after(child, self.longest, signal.SIGINT)
        status, ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.times()
        return sum(ended[2:4]) - sum(started[2:4]), status

    def _told(self) -> str:
        return (self.top / "said.txt").read_text(errors="replace")[-600:]

    def _begin(self, case: Case) -> int:
        for name in ("work", "temporary"):
            shutil.rmtree(self.top / name, ignore_errors=True)
        shutil.copytree(self.top / "template", self.top / "work")
        (self.top / "temporary").mkdir()
        (self.top / "said.txt").write_bytes(b"")
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the child has the system's handlers
        child = spawn(case, case.words, self.top, lambda: as_command(case))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return child

    def interrupt(self, chance: random.Random, cold: bool) -> None:
        """Run the tool, cold: from Python's start on; interrupt it at a random instant, and note how it ended."""
        number, instant = chance.choice(SIGNALS), chance.uniform(0, self.seconds + START * cold)
        kind = chance.choice((Cold, ColdModule)) if cold else Case
        child = self._begin(kind(self.case.tool, self.case.words, self.case.prepare))
        was_running = send_after(child, instant, number)
        began, without_core = time.monotonic(), waited(child)
        numbers = {number}
        if was_running and chance.random() < 1 / 3:
            time.sleep(chance.uniform(0, 0.3))
            os.kill(child, signal.SIGINT)
            numbers.add(signal.SIGINT)  # of two that are pending, Python handles this one first
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        seconds = time.monotonic() - began
        fair = seconds - (waited(child) - without_core)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        self.ends.statuses[status] += 1
        if was_running:
            self.ends.latencies.append(fair)
            self.ends.longest = max(self.ends.longest, seconds)
        for failure in self._failures(numbers, status, fair):
            self.ends.failures.append(f"{self.case.tool}, {number.name} after {instant:.3f} s: {failure}")

    def _failures(self, numbers: set[signal.Signals], status: int, seconds: float) -> Iterator[str]:
        told = self._told()
        ends = {end for number in numbers for end in (128 + number, -number)}  # -number: Python was starting
        if status not in ends | self.statuses:  # a run that has ended is whole
            yield f"status {status}: {told}"
        if "Traceback" in told and ("fcn_caffe" in told or "tools" in told):  # else Python had not come to our line
            yield f"a traceback: {told}"
        if seconds > SECONDS:
            yield f"took {seconds:.2f} s"
        found = files_of(self.top / "work")
        left = [path for path in found if is_left(path)]
        self.ends.left += bool(left or any((self.top / "temporary").iterdir()))
        for path, size in found.items():
            if path not in left and not self._is_whole(path, size):
                yield f"{path} has {size} bytes, {self.whole.get(path)} in a whole run"

    def _is_whole(self, path: str, size: int) -> bool:
        """Say whether a file is as it was, or as a whole run leaves it, or says itself that it is of a shorter one."""
        if size in (self.before.get(path), self.whole.get(path)) or "_iter_" in path:
            return True
        if path == "audit.json":
            with suppress(ValueError):
                return json.loads((self.top / "work" / path).read_text()).get("interrupted") is True
        return False


def interrupt_tool(name: str, runs: int, starts: int, longest: float, top: Path, chance: random.Random) -> Ends:
    """Interrupt a tool so often while it works, and so often from the start of Python on."""
    shutil.rmtree(top / "warm", ignore_errors=True)
    words = WARM.get(name, CASES[name])
    copy = functools.partial(shutil.copytree, top / "template", dirs_exist_ok=True)
    warm_up(Case(name, words, copy), top / "warm")
    gc.freeze()  # children would copy what a collection touches
    target = Target(name, top, longest)
    for cold in [False] * runs + [True] * starts:
        target.interrupt(chance, cold)
    return target.ends


def main(argv: Sequence[str] | None = None) -> int:
    """Interrupt the tools and print the table; 1 where something failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tools", nargs="*", metavar="TOOL", help="(default: all)")
    options.add_argument("--runs", type=int, default=16, help="of each tool at work (default: 16)")
    options.add_argument(
        "--starts", type=int, default=4, help="of each tool with Python's start (default: %(default)s)"
    )
    options.add_argument("--longest", type=float, default=0.8, help="seconds of a run shot at (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args(argv)
    unknown = (set(arguments.tools) or set(CASES)) ^ (set(arguments.tools or commands.names()))
    if unknown:
        options.error(f"no case for {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in the background without
    torch.set_num_threads(1)
    total = Ends()
    print(
        "| tool | runs | ended with | median s | longest s | by the wall | over 2 s | left something | failures |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(prefix="fcn-caffe-interrupts-") as folder:
        write_inputs(Path(folder, "template"))
        for name in arguments.tools or CASES:
            chance = random.Random(f"{arguments.seed} {name}")
            ends = interrupt_tool(name, arguments.runs, arguments.starts, arguments.longest, Path(folder), chance)
            total.add(ends)
            print(ends.row(name), flush=True)
    print(total.row("all"), *total.failures, sep="\n")
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
