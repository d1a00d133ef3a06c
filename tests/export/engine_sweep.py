"""Sends the golden cases through ONNX into an engine and says which part from the net by more than 1e-5.

    python tests/export/engine_sweep.py [RANDOM] [--every 3] [--start 0] [--only forks cases layers random nets]
        [--engine onnxruntime]

Not in CI: it takes minutes. The cases are those of tests/golden (layers, cases, forks) and, given the folder of random
cases with its replay.py, every third of these, from the START-th on. Each is compared, at its own size, with this
package's numbers, which other tests compare with Caffe's. Thirty nets go into one file; a file that cannot be made or
run is tried again by halves.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))

from engine_runs import Run, answer, difference, open_onnxruntime, open_opencv, open_openvino
from fork_cases import ForkCase, case_names
from oracle import arrays, cases, load
from places import GOLDEN

from fcn_caffe import TEST, FcnCaffeError, Net
from fcn_caffe.export.onnx_file import make_onnx
from fcn_caffe.export.portable import make_portable, why_not
from fcn_caffe.export.quiet import quiet
from fcn_caffe.export.write import OPSET
from fcn_caffe.layers.base import REGISTRY
from fcn_caffe.proto import caffe_pb2, parse_text

TOGETHER = 30
MOST_TAPS = 100  # a convolution over four axes has some nodes for each
SETS = ("forks", "cases", "layers", "random", "nets")
Open = Callable[[bytes, Sequence[str]], Run]  # takes an ONNX file and its outputs
ENGINES: dict[str, Open] = {
    "onnxruntime": lambda file, _: open_onnxruntime(file),
    "openvino": lambda file, _: open_openvino(file),
    "opencv": open_opencv,
}
Cases = Iterator[tuple[str, Net, dict[str, np.ndarray]]]  # name, net, inputs


@dataclass(frozen=True)
class Subject:
    """A net in eval, inputs for it, and the blobs to compare."""

    name: str
    net: Net
    inputs: dict[str, Tensor]
    outputs: list[str]

    def wanted(self) -> list[np.ndarray]:
        return answer(self.net, self.inputs, self.outputs)


class Many(nn.Module):
    """Several nets side by side."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        super().__init__()
        self.modules_of = nn.ModuleList(make_portable(it.net).as_module(it.outputs).eval() for it in subjects)

    def forward(self, *blobs: Tensor) -> tuple[Tensor, ...]:
        tops: list[Tensor] = []
        left = list(blobs)
        for module in self.modules_of:
            taken = [left.pop(0) for _ in module.input_names]
            found = module(*taken)
            tops += [found] if isinstance(found, Tensor) else found
        return tuple(tops)


def golden_layers() -> Cases:
    data = load("layers")
    for case in cases("layers"):
        net = Net(parse_text(str(data[f"{case}/prototxt"]), caffe_pb2.NetParameter), TEST)
        fill(net, {("l", i): value for i, value in enumerate(arrays(data, f"{case}/param"))})
        yield case, net, dict(zip(net.graph.inputs, arrays(data, f"{case}/bottom"), strict=False))


def golden_cases() -> Cases:
    with open(GOLDEN / "cases" / "cases.tsv", newline="") as table:
        names = [row["case"] for row in csv.DictReader(table, delimiter="\t") if row["caffe"] == "runs"]
    for name in names:
        folder = GOLDEN / "cases" / name
        net = Net(folder / "net.prototxt", TEST)
        with np.load(folder / "inputs.npz") as stored:
            given = dict(stored)
        params = {key.split("/", 1)[1].rpartition("/"): value for key, value in given.items() if key[:6] == "param/"}
        fill(net, {(layer, int(index)): value for (layer, _, index), value in params.items()})
        steps = {key.partition("/")[2]: value for key, value in given.items() if key.startswith("step0/")}
        yield name, net, {key: value for key, value in steps.items() if key in net.graph.inputs}


def fork_layers() -> Cases:
    for name in case_names():
        case = ForkCase(name)
        yield name, case.net(), {key: value.numpy() for key, value in case.arrays("inputs").items()}


def random_cases(folder: Path, every: int, start: int = 0, name: str = "random_layers") -> Cases:
    spec = importlib.util.spec_from_file_location("replay", folder / "replay.py")
    assert spec and spec.loader
    replay = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(replay)
    for place, (case, outcome, _, _) in enumerate(replay.load(name)):
        if place % every != start or outcome != "ok" or case["kind"] != "net":
            continue
        try:
            param = parse_text(case["prototxt"], caffe_pb2.NetParameter)
            net = Net(param, TEST, stages=case.get("stages", ()), level=case.get("level", 0))
        except FcnCaffeError:
            continue
        params = dict(case.get("params", {}))
        for node in net.graph.nodes:
            for index, blob in enumerate(net.layer(node.name).blobs):
                kind = "u" if node.type == "BatchNorm" else "n"
                params.setdefault((node.name, index), replay.draw(f"{node.name}/{index}", tuple(blob.shape), kind))
        fill(net, params)
        yield case["id"], net, dict(case["steps"][0].get("inputs", {})) if case.get("steps") else {}


def fill(net: Net, params: dict[tuple[str, int], np.ndarray]) -> None:
    with torch.no_grad():
        for (layer, index), value in params.items():
            net.layer(layer).blobs[index].copy_(torch.from_numpy(np.array(value, np.float32)))


def make_subject(name: str, net: Net, inputs: dict[str, np.ndarray]) -> Subject | str:
    """Return what can be compared, or in a word why nothing can."""
    net.eval()
    kinds = [type(step.layer) for step in net.steps]
    if any(why_not(step.layer) for step in net.steps):
        return "refused"
    if any(REGISTRY[kind.layer_type].loss or kind.layer_type == "Accuracy" for kind in kinds if kind.layer_type):
        return "a loss"
    if any(getattr(step.layer, "by_taps", False) and math.prod(step.layer.kernel) > MOST_TAPS for step in net.steps):
        return "of too many taps"
    made = {top: step.node.name for step in net.steps if step.bottoms for top in step.tops}
    # The random layer is called l; its top goes on into a sum, which would hide much.
    outputs = [
        top for top, layer in made.items() if (layer == "l" or top in net.graph.outputs) and top not in net.graph.inputs
    ]
    if not outputs or not net.graph.inputs:
        return "no input or output"
    module = net.as_module(outputs)
    if not {*module.input_names} <= inputs.keys():
        return "no input or output"
    fed = {key: torch.from_numpy(np.array(inputs[key], np.float32)) for key in module.input_names}
    subject = Subject(name, module.net, fed, outputs)  # without inputs that no layer reads
    wanted = subject.wanted()
    return subject if all(np.isfinite(top).all() and top.size for top in wanted) else "not finite, or empty"


def run(subjects: Sequence[Subject], engine: str = "onnxruntime") -> dict[str, str]:
    """Return what is wrong, by name; empty where nothing is."""
    blobs = [blob for it in subjects for blob in it.inputs.values()]
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(Many(subjects), tuple(blobs), strict=False)
        inputs = [f"i{place}" for place in range(len(blobs))]
        outputs = [f"o{place}" for place in range(sum(len(it.outputs) for it in subjects))]
        made = make_onnx(program, inputs, outputs, OPSET)
        session = ENGINES[engine](made.model_proto.SerializeToString(), outputs)
        tops = session(dict(zip(inputs, (blob.numpy() for blob in blobs), strict=True)))
    except Exception as error:  # of many classes
        if len(subjects) > 1:
            half = len(subjects) // 2
            return run(subjects[:half], engine) | run(subjects[half:], engine)
        return {subjects[0].name: f"{type(error).__name__}: {str(error)[:300]}"}
    found = {}
    for it in subjects:
        theirs, tops = tops[: len(it.outputs)], tops[len(it.outputs) :]
        found[it.name] = difference(theirs, it.wanted())
    return found


def sweep(what: str, nets: Cases, engine: str) -> None:
    left, subjects = Counter[str](), list[Subject]()
    for each in nets:
        made = make_subject(*each)
        if isinstance(made, Subject):
            subjects.append(made)
        else:
            left[made] += 1
    found: dict[str, str] = {}
    for start in range(0, len(subjects), TOGETHER):
        part = run(subjects[start : start + TOGETHER], engine)
        for name, problem in part.items():
            if problem:
                print(f"  {name}: {problem}", flush=True)
        found |= part
        print(f"  {what}: {len(found)} of {len(subjects)} run", flush=True)
    wrong = sum(map(bool, found.values()))
    print(f"{what}: {len(found) - wrong} of {len(found)} agree; left out: {dict(left)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("random", nargs="?", type=Path)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--engine", choices=ENGINES, default="onnxruntime")
    args = parser.parse_args()
    sets = (fork_layers(), golden_cases(), golden_layers())
    if args.random:
        names = ("random_layers", "random_nets")
        sets += tuple(random_cases(args.random, args.every, args.start, name) for name in names)
    for what, nets in zip(SETS, sets, strict=False):
        if what in args.only:
            sweep(what, nets, args.engine)
