"""This project against the same net by hand in PyTorch and against other engines: time, memory, agreement, in one run.

    python benchmarks/peers.py [--net NAME] [--threads N] [--json FILE] [--rounds 5] [--size 500] [--python PATH]

Nets: the FCNs of benchmarks/by_hand.py, and `small`: 20 small convolutions with their ReLU, 40 layers in all. Every
measurement is a process of its own; in each round each engine has its turn, and figures are medians of the rounds.
Engines that are not installed are left out (`pip install -e ".[peers]"`); `--python`, which may be repeated, names a
Python with others, such as Caffe or an older OpenCV. ratio: processor time to by hand. peak_bytes: how far memory
grows in a pass, above what the engine holds before; a training step's has gradients and history before it already.
`--large` also runs an image of 8000x6000 against one of 2000x1500, as `infer` does: ratio is then by the pixel.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peer_engines
import torch
from by_hand import SMALL, TABLE, Forms, HandWrittenStep, OurStep
from torch import Tensor

from fcn_caffe import Net
from fcn_caffe.evaluation.infer import Segmenter
from fcn_caffe.net.rewrite.borders import borders_once
from fcn_caffe.net.rewrite.ready import ready_net
from fcn_caffe.proto import write_text
from fcn_caffe.weights.transfer import net_weights, save_weights

BY_HAND, OURS = "by hand", "fcn_caffe"
LARGE, REFERENCE = (6000, 8000), (1500, 2000)  # height, width


@dataclass(frozen=True)
class Case:
    """What is measured: an engine, what it does, in which mode, and the Python that runs it."""

    engine: str
    what: str
    mode: str
    python: str = sys.executable

    @property
    def key(self) -> str:
        return f"{self.engine} {self.what} {self.mode} {self.python}".replace("/", "_")


# -- our forms ------------------------------------------------------------------------------------------------

FORWARDS: dict[str, Callable[[Net, tuple[int, ...]], Net]] = {
    "plain": lambda net, shape: net,
    "default": lambda net, shape: borders_once(net),
    "frozen": lambda net, shape: borders_once(net).frozen(),
    "fast": lambda net, shape: borders_once(net).tuned(shape),
}
STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "default": {"rewrite": ready_net},
    "fast": {"rewrite": ready_net, "fast": True},
    "checkpoint": {"rewrite": ready_net, "checkpoint": True},
}


def our_forward(forms: Forms, mode: str) -> Callable[[], Tensor]:
    hand, data = forms.hand(), forms.data()
    if mode == BY_HAND:
        return lambda: hand(data)  # type: ignore[no-any-return]
    net = FORWARDS[mode](forms.net(hand), tuple(data.shape))
    (name,) = net.graph.outputs
    return lambda: net(data=data)[name]


def our_step(forms: Forms, mode: str) -> Callable[[int], float]:
    hand, data, label = forms.hand(), forms.data(), forms.label()
    if mode == BY_HAND:
        return HandWrittenStep(hand, forms.solver(hand), data, label)
    return OurStep(forms.solver(hand, **STEPS[mode]), data, label)


def run_case(arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one case of ours or by hand, in this process; write its answer to the folder."""
    torch.set_num_threads(arguments.threads)
    logging.getLogger("fcn_caffe.solver").addHandler(logging.NullHandler())
    forms, (engine, what, mode) = forms_of(arguments), arguments.case
    mode = BY_HAND if engine == BY_HAND else mode
    if what == "memory":
        return run_large(forms, LARGE if mode == "8000x6000" else REFERENCE)
    answer: Any
    if what == "step":
        step = our_step(forms, mode)
        torch.manual_seed(0)
        step(1)  # makes the history
        figures = peer_engines.measure(lambda: step(1), arguments.repeat)
        answer = np.array([step(1)])
    else:
        forward = our_forward(forms, mode)
        with torch.no_grad():
            figures = peer_engines.measure(forward, arguments.repeat)
            answer = forward().numpy()
    np.save(arguments.folder / f"{arguments.key}.npy", answer)
    return figures


def run_large(forms: Forms, size: tuple[int, int]) -> dict[str, float]:
    """Segment an image of a size once."""
    net = borders_once(forms.net(forms.hand()))
    (name,) = net.graph.outputs
    segment = Segmenter(net, (104.0, 117.0, 123.0), name)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return peer_engines.measure(lambda: segment(image), 0)


def forms_of(arguments: argparse.Namespace) -> Forms:
    return Forms(arguments.net, arguments.size, arguments.width)


# -- the files that other engines read ------------------------------------------------------------------------


def write_models(arguments: argparse.Namespace) -> None:
    """Write the net by hand as ONNX and, where pnnx is there, for ncnn; our form as prototxt and caffemodel."""
    forms, folder = forms_of(arguments), arguments.folder
    hand, data = forms.hand(), forms.data()
    np.save(folder / "image.npy", data.numpy())
    net = forms.net(hand)
    (folder / "net.prototxt").write_text(write_text(net.param))
    save_weights(folder / "net.caffemodel", net_weights(net), net.name)
    if importlib.util.find_spec("onnxscript"):
        names = {"input_names": ["data"], "output_names": ["score"]}
        torch.onnx.export(hand, (data,), folder / "net.onnx", dynamo=True, external_data=False, verbose=False, **names)
    if tool := pnnx_tool():
        torch.jit.trace(hand, data).save(str(folder / "net.pt"))
        shape = f"inputshape=[{','.join(map(str, data.shape))}]"
        subprocess.run([tool, "net.pt", shape, "fp16=0"], cwd=folder, check=True, capture_output=True)


def pnnx_tool() -> str | None:
    """Return the pnnx program of the Python that runs this, or the one on PATH."""
    beside = Path(sys.executable).with_name("pnnx")
    return str(beside) if beside.exists() else shutil.which("pnnx")


# -- the table ------------------------------------------------------------------------------------------------

MODULES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino", "ncnn": "ncnn", "OpenCV": "cv2", "Caffe": "caffe"}


def has_module(python: str, module: str) -> bool:
    """Whether a Python can import a module; for Caffe it is asked, since there may be one that fails."""
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def list_cases(arguments: argparse.Namespace) -> list[Case]:
    """List what this machine can measure; `by hand` comes first, others are compared with it."""
    cases = [Case(BY_HAND, "forward", ""), *(Case(OURS, "forward", mode) for mode in FORWARDS)]
    if not arguments.ours:
        for python in (sys.executable, *arguments.python):
            cases += [
                Case(engine, "forward", "", python) for engine, module in MODULES.items() if has_module(python, module)
            ]
    cases += [Case(BY_HAND, "step", ""), *(Case(OURS, "step", mode) for mode in STEPS)]
    if arguments.large:
        cases += [Case(OURS, "memory", mode) for mode in ("2000x1500", "8000x6000")]
    return cases


def run_in_process(case: Case, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    repeat = 20 if arguments.net == SMALL else 1
    if case.engine in MODULES:
        program = [str(Path(__file__).with_name("peer_engines.py")), case.engine, folder, arguments.threads, repeat]
    else:
        program = [__file__, "--case", case.engine, case.what, case.mode, "--folder", folder, "--key", case.key]
        for option in ("net", "threads", "size", "width"):
            program += [f"--{option}", getattr(arguments, option)]
        program += ["--repeat", repeat]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    command = [case.python, *map(str, program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{case.engine} {case.what} {case.mode}: {done.stderr.strip()[-800:]}")
    if case.engine in MODULES:
        (folder / f"{case.engine}.npy").replace(folder / f"{case.key}.npy")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def measure_all(arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Give each case its turn in each round; return the rows of the table."""
    cases, taken = list_cases(arguments), {}
    if any(case.engine in MODULES for case in cases):
        write_models(argparse.Namespace(**{**vars(arguments), "folder": folder}))
    for turn in range(arguments.rounds):
        for case in cases if turn % 2 == 0 else list(reversed(cases)):
            if (case in taken and taken[case] is None) or (case.what == "memory" and turn):
                continue
            try:
                taken.setdefault(case, []).append(run_in_process(case, arguments, folder))
            except RuntimeError as error:
                print(f"left out: {error}", file=sys.stderr)
                taken[case] = None
    rows: list[dict[str, Any]] = []
    for case in cases:
        if taken[case]:
            rows.append(make_row(case, taken[case], rows, folder))
    return rows


def make_row(case: Case, figures: list[dict[str, Any]], rows: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Make the row of a case: medians of its rounds, compared with the form by hand."""
    row: dict[str, Any] = {"engine": case.engine, "what": case.what, "mode": case.mode}
    if "version" in figures[0]:
        row["engine"] += f" {figures[0]['version']}"
    for key in ("processor_s", "wall_s", "peak_bytes"):
        row[key] = statistics.median(taken[key] for taken in figures)
    row.update(ratio=None, largest_difference=None, classes_equal=None)
    if case.what == "memory":
        first = next((other for other in rows if other["what"] == "memory"), row)
        pixels = {"8000x6000": LARGE[0] * LARGE[1], "2000x1500": REFERENCE[0] * REFERENCE[1]}
        each = [one["processor_s"] / pixels[one["mode"]] for one in (row, first)]
        row["ratio"] = each[0] / each[1]
        return row
    hand = next((other for other in rows if other["engine"] == BY_HAND and other["what"] == case.what), row)
    row["ratio"] = row["processor_s"] / hand["processor_s"]
    ours, theirs = (np.load(folder / f"{key}.npy") for key in (case.key, Case(BY_HAND, case.what, "").key))
    row["largest_difference"] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if case.what == "forward":
        row["classes_equal"] = float((ours.argmax(1) == theirs.argmax(1)).mean())
    return row


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows as Markdown, as docs/speed.md has them."""
    print("| what | engine | mode | processor s | ratio to by hand | largest difference | classes equal | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        shown = [row["what"], row["engine"], row["mode"], f"{row['processor_s']:.4g}", f"{row['ratio']:.3f}"]
        shown.append("" if row["largest_difference"] is None else f"{row['largest_difference']:.1e}")
        shown.append("" if row["classes_equal"] is None else f"{100 * row['classes_equal']:.3f} %")
        shown.append(f"{row['peak_bytes'] / 1e6:.0f}")
        print("| " + " | ".join(shown) + " |")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=[*TABLE, SMALL], default="voc-fcn8s")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=500, help="the image's height and width")
    parser.add_argument("--width", type=int, default=1, help="divides the FCN's channels, for a quick look")
    parser.add_argument("--python", action="append", default=[], metavar="PATH", help="a Python with other engines")
    parser.add_argument("--ours", action="store_true", help="leave other engines out")
    parser.add_argument("--large", action="store_true", help="also an image of 8000x6000")
    # How the program calls itself for a case:
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    if arguments.case:
        print("\n" + json.dumps(run_case(arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_all(arguments, Path(folder))
    print_table(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
