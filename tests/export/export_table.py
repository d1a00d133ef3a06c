"""docs/export_layers.md: layers by engines. `python tests/export/export_table.py` runs every case and writes it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[1]))

from engine_runs import ENGINES, compare, open_all
from layer_cases import CASES, WITHOUT_GRADIENT, build
from places import ROOT

from fcn_caffe import FcnCaffeError, Net
from fcn_caffe.export.portable import why_not
from fcn_caffe.layers.base import REGISTRY

PAGE = ROOT / "docs" / "export_layers.md"
HEAD = f"""\
# Layers in exported files

What becomes of each layer in a file that `fcn-caffe export` writes, as it was run: the cases of `tests/layer_cases.py`
in torch.export's program (.pt2), in the ONNX file in ONNX Runtime, OpenVINO and OpenCV 5 (its new engine), and in the
IR that OpenVINO makes of that. *Yes*: the numbers of this package, within 1e-5 of the largest, at two sizes that the
file was not traced at. Losses and measures are not here: an exported net has none.

*Sizes* says what the file takes besides the size that it was traced at: *any* number of images, height and width; other
numbers of *images* alone; or, with some options, *that* alone, as the number of steps of an LSTM or RNN. `fcn-caffe
export` says it of each net.

OpenCV 5 computes means over images, rows and columns wrong at some sizes (`findings/opencv_mean_over_images.sh`): hence
its other numbers where a batch's statistics are asked for.

An LRN of even `local_size` is in no file, as it is in no net: Caffe refuses it.

Written by `python tests/export/export_table.py`; a test runs some rows again and compares.

| type | sizes | {" | ".join(ENGINES)} |
|---|---|{"---|" * len(ENGINES)}
"""
ALL = {**CASES, **WITHOUT_GRADIENT}
TYPES = [
    type
    for type in sorted(ALL)
    if not REGISTRY[type].loss and type not in ("Accuracy", "SegAccuracy", "Silence", "Parameter")
]
SIZES = ("any", "images", "that")


def row(type: str) -> str:
    """Run the cases of a type, and return its row."""
    sizes, wrong, reason = set[str](), {engine: list[tuple[str, str]]() for engine in ENGINES}, ""
    for case in ALL[type]:
        net, inputs = build(type, *case)
        net.eval()
        options = " ".join(case[1].partition("{")[2].rpartition("}")[0].split())
        reasons = [why for step in net.steps if (why := why_not(step.layer))]
        if reasons:
            reason = reasons[0]
            found = dict.fromkeys(ENGINES, "refused")
        else:
            found, taken = run_case(net, inputs)
            sizes.add(taken)
        for engine in ENGINES:
            if found[engine]:
                wrong[engine].append((options, in_words(found[engine])))
    if not sizes:
        return f"| {type} | – | {' | '.join([f'no: {reason}'] + ['no'] * (len(ENGINES) - 1))} |"
    cells = [cell(wrong[engine], len(ALL[type])) for engine in ENGINES]
    return f"| {type} | {' or '.join(sorted(sizes, key=SIZES.index))} | {' | '.join(cells)} |"


def cell(wrong: Sequence[tuple[str, str]], cases: int) -> str:
    """Say what an engine makes of a type, of the options it gets wrong, and how: "yes" only where a case is right."""
    if len(wrong) == cases:
        return f"no: {' or '.join(dict.fromkeys(problem for _, problem in wrong))}"
    return "; ".join(["yes", *(f"not with `{options}`: {problem}" for options, problem in wrong)])


def in_words(problem: str) -> str:
    """Say in a table what `compare` says of a machine's numbers."""
    return {"off": "other numbers", "shape": "another shape", "refused": "no file has it"}.get(
        problem.split()[0], "an error"
    )


def run_case(net: Net, inputs: Mapping[str, Tensor]) -> tuple[dict[str, str], str]:
    """Export a net and run it at two sizes: what is wrong by engine, and which of `SIZES` it takes."""
    outputs = [top for node in net.graph.nodes if node.name == "l" for top in node.tops]
    smallest = {name: resized(blob, 0, 0) for name, blob in inputs.items()}
    if not takes(net, smallest, outputs):  # 1 is there for a reason
        smallest = dict(inputs)
    for taken, samples in zip(SIZES[:2], ((5, 5), (5, 0)), strict=True):
        # A net is traced where its blobs have no sizes of 1, which PyTorch takes as fixed.
        sample, other = ({name: resized(blob, *more) for name, blob in smallest.items()} for more in _pairs(samples))
        if not takes(net, sample, outputs) or not takes(net, other, outputs):
            continue
        engines = open_all(net, sample, outputs)
        found, more = (compare(net, engines, each, outputs) for each in (smallest, other))
        if not any("Expected input" in result["torch.export"] for result in (found, more)):
            return {engine: found[engine] or more[engine] for engine in ENGINES}, taken
    engines = open_all(net, smallest, outputs)
    return compare(net, engines, smallest, outputs), SIZES[2]


def _pairs(sample: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The sample's growth, and a smaller one."""
    return sample, (min(sample[0], 1), min(sample[1], 1))


def takes(net: Net, inputs: Mapping[str, Tensor], outputs: list[str]) -> bool:
    """Whether a net takes inputs of these sizes."""
    with suppress(FcnCaffeError), torch.no_grad():
        net(inputs, keep=outputs)
        return True
    return False


def resized(blob: Tensor, images: int, more: int) -> Tensor:
    """Return a blob of the same values, repeated: axes but the channels of at least 2, and of some more."""
    if blob.ndim == 4:
        N, _, H, W = (max(2, size) for size in blob.shape)
        shape: tuple[int, ...] = (N + images, blob.shape[1], H + more, W + 2 * more)
    else:
        shape = tuple(max(2, size) + images if axis == 0 else size for axis, size in enumerate(blob.shape))
    return torch.from_numpy(np.resize(blob.numpy(), shape))


def read_rows() -> dict[str, str]:
    """Return the page's rows, by type."""
    text = PAGE.read_text(encoding="utf-8").partition("---|\n")[2]
    return {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()}


if __name__ == "__main__":  # with types: their rows alone
    rows = read_rows() if PAGE.exists() else {}
    rows |= {type: row(type) for type in sys.argv[1:] or TYPES}
    PAGE.write_text(HEAD + "".join(f"{rows[type]}\n" for type in TYPES), encoding="utf-8")
