"""Interrupt every tool at random instants, its start-up too, and count how it ends.

python tests/reliability/interrupts.py [--runs N] [--seed S] [TOOL ...]

Each run is a process of its own in a fresh copy of a small folder. Half of the signals are SIGINT, the others SIGTERM;
of every three runs one gets a second SIGINT a moment later. What must hold: the process ends within two seconds, its
status says the signal, there is no traceback, and no file under its final name is other than that of a whole run.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from small_stages import write_stages  # noqa: E402

from fcn_caffe import commands  # noqa: E402
from fcn_caffe.net.net import Net  # noqa: E402
from fcn_caffe.weights.transfer import net_weights, save_weights  # noqa: E402

SECONDS = 2.0
LONGEST = 20.0  # seconds of a run that are shot at
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
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param { num_output: 5 } }
"""

COARSE, NET = "solvers/coarse.prototxt", "nets/coarse.prototxt"
WEIGHTS = ("--weights", "coarse.caffemodel")

# By tool, its command line; "train" and "solve" are so long that the signal comes while they train.
CASES: dict[str, tuple[str, ...]] = {
    "solve": (COARSE, "--max-iter", "1000000", "--steps", "1000000"),
    "train": ("--solver", "endless.prototxt"),
    "explain_lr": (COARSE,),
    "doctor": (COARSE,),
    "report": ("snapshot/coarse", "report.html"),
    "parse_log": ("snapshot/coarse/log.txt", "."),
    "plot_training_log": ("snapshot/coarse/log.txt", "chart.png"),
    "infer": ("--net", "deploy.prototxt", "--weights", "deploy.caffemodel", "--out", "out", "images"),
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
    "export": ("deploy.prototxt", "deploy.onnx", "--weights", "deploy.caffemodel"),
    "upgrade_net": (NET, "upgraded.prototxt"),
    "upgrade_solver": (COARSE, "upgraded_solver.prototxt"),
    "make_nets": ("--out", "made"),
    "audit": ("--quick", "--json", "audit.json"),
    "experiment": ("fc-to-conv",),
}


def write_inputs(folder: Path) -> None:
    """Write all that the command lines of CASES read."""
    write_stages(folder)
    solver = (folder / COARSE).read_text().replace("max_iter: 6", "max_iter: 1000000").replace("display: 1", "")
    (folder / "endless.prototxt").write_text(solver.replace("snapshot: 2", ""))
    texts = {"deploy": DEPLOY.replace("NORM", ""), "norm": DEPLOY.replace("NORM", NORM), "classifier": CLASSIFIER}
    for name, text in texts.items():
        (folder / f"{name}.prototxt").write_text(text)
        save_weights(folder / f"{name}.caffemodel", net_weights(Net(folder / f"{name}.prototxt")))
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(500, 3000, (40, 50)).astype(np.uint16)).save(folder / "depth.png")
    (folder / "list.txt").write_text("".join(f"images/{index}.png {index % 2}\n" for index in range(6)))
    for words in (
        ("solve", COARSE),
        ("convert_imageset", "./", "list.txt", "ready_database"),
    ):
        subprocess.run(tool(*words), cwd=folder, check=True, capture_output=True)
    shutil.copy(folder / "snapshot/coarse/train_iter_6.caffemodel", folder / "coarse.caffemodel")


def tool(name: str, *words: str) -> list[str]:
    """Return the command that runs a tool."""
    return [sys.executable, str(ROOT / "tools" / f"{name}.py"), *words]


@dataclass
class Ends:
    """How the runs of one tool have ended.

    Attributes:
        statuses: how many runs ended with each status.
        latencies: the seconds from the signal to the end, of runs that it ended.
        failures: what must not be, in words.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def row(self, name: str) -> str:
        """Return the line of a Markdown table."""
        cells = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        latencies = sorted(self.latencies) or [0.0]
        late = sum(seconds > SECONDS for seconds in latencies)
        return (
            f"| {name} | {sum(self.statuses.values())} | {cells} | {latencies[len(latencies) // 2]:.2f} "
            f"| {latencies[-1]:.2f} | {late} | {len(self.failures)} |"
        )


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
        inputs: The folder that its runs get a copy of.
    """

    def __init__(self, name: str, inputs: Path) -> None:
        self.command, self.name, self.inputs, self.ends = tool(name, *CASES[name]), name, inputs, Ends()
        self.before = files_of(inputs)
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(inputs, copy, dirs_exist_ok=True)
            began = time.monotonic()
            process = subprocess.Popen(self.command, cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                process.communicate(timeout=LONGEST)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                process.communicate()
            self.seconds, self.whole = time.monotonic() - began, files_of(Path(copy))
            self.status = process.returncode  # get_data's is 1: it finds no archives

    def interrupt(self, chance: random.Random) -> None:
        """Run the tool, interrupt it at a random instant, and note how it ended."""
        number = chance.choice([signal.SIGINT, signal.SIGTERM])
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(self.inputs, copy, dirs_exist_ok=True)
            instant = chance.uniform(0, self.seconds)
            process = subprocess.Popen(
                self.command, cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            time.sleep(instant)
            was_running = process.poll() is None
            began = time.monotonic()
            process.send_signal(number)
            if chance.random() < 1 / 3:
                time.sleep(chance.uniform(0, 0.3))
                process.send_signal(signal.SIGINT)
            _, told = process.communicate()
            seconds = time.monotonic() - began
            self.ends.statuses[process.returncode] += 1
            if was_running:
                self.ends.latencies.append(seconds)
            for failure in self._failures(number, process.returncode, told, seconds, Path(copy)):
                self.ends.failures.append(f"{self.name}, {number.name} after {instant:.2f} s: {failure}")

    def _failures(self, number: int, status: int, told: str, seconds: float, folder: Path) -> Iterator[str]:
        # A second signal that comes before Python is ready is SIGINT's; a run that has ended is whole.
        if status not in (128 + number, -number, -signal.SIGINT, self.status, 0):
            yield f"status {status}: {told[-300:]}"
        if "Traceback" in told and ("fcn_caffe" in told or "tools" in told):  # else Python had not come to our line
            yield f"a traceback: {told[-600:]}"
        if seconds > SECONDS:
            yield f"took {seconds:.2f} s"
        for path, size in files_of(folder).items():
            if Path(path).name.endswith(".partial") or any(part.endswith(".partial") for part in Path(path).parts):
                continue  # the next run takes it away
            if size not in (self.before.get(path), self.whole.get(path)) and "_iter_" not in path:
                yield f"{path} has {size} bytes, {self.whole.get(path)} in a whole run"


def main(argv: Sequence[str] | None = None) -> int:
    """Interrupt the tools and print the table; 1 where something failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tools", nargs="*", metavar="TOOL", help="(default: all)")
    options.add_argument("--runs", type=int, default=10, help="of each tool (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args(argv)
    unknown = (set(arguments.tools) or set(CASES)) ^ (set(arguments.tools or commands.names()))
    if unknown:
        options.error(f"no case for {', '.join(sorted(unknown))}")
    chance, failures = random.Random(arguments.seed), []
    print("| tool | runs | ended with | median s | longest s | over 2 s | failures |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder))
        for name in arguments.tools or CASES:
            target = Target(name, Path(folder))
            for _ in range(arguments.runs):
                target.interrupt(chance)
            failures += target.ends.failures
            print(target.ends.row(name), flush=True)
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
