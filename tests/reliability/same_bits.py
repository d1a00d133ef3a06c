"""Whole runs of tools, compared byte by byte: a Markdown table of the files that differ.

python tests/reliability/same_bits.py

Each tool runs twice alike, with two threads, without reading ahead, with loading processes, and resumed. Images are so
large that PyTorch shares the work of a layer out to threads.
"""

from __future__ import annotations

import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from reliability.kill_cases import DEPLOY, Case  # noqa: E402
from reliability.kills import Files, files_in, warm_up  # noqa: E402
from small_stages import write_stages  # noqa: E402

from fcn_caffe.net.net import Net  # noqa: E402
from fcn_caffe.proto.phases import TEST  # noqa: E402
from fcn_caffe.weights.transfer import net_weights, save_weights  # noqa: E402

TIMES = 10  # as high and as wide as those of small_stages
STREAMS = ("log.txt", "run.jsonl", ".lock")  # with times of day
NET, SEED = "nets/coarse.prototxt", "'seed': 3"
NORM = """
layer { name: "norm" type: "BatchNorm" bottom: "score" top: "norm" }
layer { name: "scale" type: "Scale" bottom: "norm" top: "scale" scale_param { bias_term: true } }
"""

WORDS = {
    "solve": ("solvers/coarse.prototxt",),
    "train": ("--solver", "solvers/coarse.prototxt"),
    "infer": (
        *("--net", "deploy.prototxt", "--weights", "deploy.caffemodel", "--mean", "1", "2", "3"),
        *("--probabilities", "npz", "--out", "out", "images"),
    ),
    "score": (NET, "--weights", "deploy.caffemodel", "--json", "scores.json", "--save-predictions", "out"),
    "export": ("deploy.prototxt", "net.onnx", "--weights", "deploy.caffemodel"),
    "merge_bn": (
        *("norm.prototxt", "merged.prototxt", "merged.caffemodel"),
        *("--weights", "norm.caffemodel", "--input-size", "120x140"),
    ),
    "new_task": (
        *("--images", "images", "--labels", "labels"),
        *("--trunk", "narrow", "--name", "own", "--out", "task"),
    ),
}


@dataclass(frozen=True)
class Way:
    """One way to run the tools.

    Attributes:
        threads: of PyTorch.
        options: more options, by tool.
        layer: what the data layer's param_str says besides.
        resumed: whether the second half is a run of its own.
    """

    threads: int = 1
    options: dict[str, tuple[str, ...]] | None = None
    layer: str = ""
    resumed: bool = False

    def is_for(self, tool: str) -> bool:
        """Say whether a tool has this way."""
        if self.options is not None:
            return tool in self.options
        training = tool in ("solve", "train")
        return training if self.resumed else training or tool == "score" if self.layer else True


WAYS = {
    "again": Way(),
    "2 threads": Way(threads=2),
    "2 threads, again": Way(threads=2),
    "without reading ahead": Way(layer="'prefetch': 0"),
    "2 loading processes": Way(layer="'workers': 2"),
    "2 `--workers`": Way(options={"infer": ("--workers", "2")}),
    "resumed": Way(resumed=True),
}


def write_inputs(folder: Path) -> None:
    """Write nets, weights, images and labels."""
    write_stages(folder)
    for path in (*(folder / "images").iterdir(), *(folder / "labels").iterdir()):
        image = Image.open(path)
        image.resize((image.width * TIMES, image.height * TIMES), Image.Resampling.NEAREST).save(path)
    (folder / "deploy.prototxt").write_text(DEPLOY)
    torch.manual_seed(0)
    weights = net_weights(Net(folder / "deploy.prototxt", TEST))
    (folder / "norm.prototxt").write_text(DEPLOY + NORM)
    statistics = [np.linspace(-1, 1, 2), np.linspace(0.5, 2, 2), np.ones(1)]
    norm = {"norm": [blob.astype(np.float32) for blob in statistics], "scale": [np.full(2, 0.7, np.float32)] * 2}
    save_weights(folder / "norm.caffemodel", {**weights, **norm})
    save_weights(folder / "deploy.caffemodel", weights)  # also of nets/coarse.prototxt, whose layers are alike


def run(tool: str, way: Way, prepare: Callable[[Path], object], folder: Path) -> Files:
    """Run a tool in a new folder; return the hashes of the files that are new in it."""
    torch.set_num_threads(way.threads)
    before: Files = {}

    def fill(place: Path) -> None:
        prepare(place)
        net = place / NET
        net.write_text(net.read_text().replace(SEED, f"{SEED}, {way.layer}" if way.layer else SEED))
        before.update(files_in(place))

    warm_up(Case(tool, (*WORDS[tool], *(way.options or {}).get(tool, ())), fill), folder)
    return {name: sum for name, sum in files_in(folder, STREAMS).items() if name not in before}


def resume(tool: str, first: Path, folder: Path) -> Files:
    """Run a training again from the snapshot of its fourth iteration; return the hashes of what it leaves."""
    torch.set_num_threads(1)

    def fill(place: Path) -> None:
        shutil.copytree(first, place, dirs_exist_ok=True)
        for path in (*(place / "snapshot").rglob("*_iter_6*"), *(place / "weights").glob("*")):
            path.unlink()

    warm_up(Case(tool, (*WORDS[tool], "--resume"), fill), folder)
    return files_in(folder, STREAMS)


def differing(found: Files, wanted: Files) -> list[str]:
    """Return the files that are other than those that are wanted, or not there."""
    return [name for name, sum in sorted(wanted.items()) if found.get(name) != sum]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 where runs differ that must not."""
    unequal = 0
    print(f"| tool | files | {' | '.join(WAYS)} |\n{'|---' * (len(WAYS) + 2)}|")
    with tempfile.TemporaryDirectory(prefix="fcn-caffe-same-bits-") as top:
        template = Path(top, "template")
        write_inputs(template)
        prepare = functools.partial(shutil.copytree, template, dirs_exist_ok=True)
        for tool in WORDS:
            first = Path(top, tool)
            wanted, cells, two = run(tool, Way(), prepare, first), [], {}
            for name, way in WAYS.items():
                folder = Path(top, f"{tool} {name}")
                if not way.is_for(tool):
                    cells.append("")
                    continue
                found = resume(tool, first, folder) if way.resumed else run(tool, way, prepare, folder)
                against = two if name == "2 threads, again" else wanted
                other = differing(found, against)
                if name == "2 threads":
                    two = found
                else:
                    unequal += len(other)
                cells.append(f"{len(other)} differ: {', '.join(other[:3])}" if other else "same")
            print(f"| {tool} | {len(wanted)} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nPyTorch {torch.__version__}; {unequal} files differ that must not.")
    return 1 if unequal else 0


if __name__ == "__main__":
    sys.exit(main())
