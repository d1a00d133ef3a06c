"""What is killed: small runs of nine tools, in a folder that has something to lose, and the run that comes after."""

from __future__ import annotations

import functools
import io
import shutil
import zipfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from small_stages import write_stages

from fcn_caffe.data import prepare
from fcn_caffe.net.net import Net
from fcn_caffe.proto.phases import TEST
from fcn_caffe.weights.record import Preprocessing, write_preprocessing
from fcn_caffe.weights.transfer import net_weights, save_weights

DEPLOY = """
name: "deploy"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 14 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "score" type: "Convolution" bottom: "conv" top: "score" convolution_param {
  num_output: 2 kernel_size: 1 weight_filler { type: "gaussian" std: 0.1 } } }
"""


@dataclass(frozen=True)
class Case:
    """A tool's run that is killed.

    Attributes:
        tool: the tool, a module of `fcn_caffe.commands`.
        words: its command line; it runs in the folder.
        prepare: fills the folder with what the tool reads, and what it finds there.
        again: the command line of the run after, where it is another.
        weight: how many kills of a hundred are its own.
        streams: ends of names of files that grow line by line as the run goes on, whose last line a kill may cut.
    """

    tool: str
    words: tuple[str, ...]
    prepare: Callable[[Path], object]
    again: tuple[str, ...] = ()
    weight: int = 10
    streams: tuple[str, ...] = ()

    def run(self, words: tuple[str, ...]) -> int:
        """Run the tool in this process."""
        status: int = import_module(f"fcn_caffe.commands.{self.tool}").main(list(words))
        return status


def _stages(folder: Path) -> None:
    write_stages(folder)
    for solver in sorted((folder / "solvers").iterdir()):
        solver.write_text(
            solver.read_text().replace("display: 1", "")
        )  # a net whose features nobody reads says them all
    solver = folder / "solvers" / "coarse.prototxt"
    (folder / "one.prototxt").write_text(solver.read_text().replace("snapshot/coarse/train", "one/train"))
    for name in ("one", "snapshot/coarse", "weights"):  # of earlier runs
        (folder / name).mkdir(parents=True)
    (folder / "one" / "other_iter_2.caffemodel").write_bytes(b"of another run")
    (folder / "snapshot" / "coarse" / "notes.txt").write_text("mine")
    (folder / "weights" / "mine.caffemodel").write_bytes(b"mine")


def _net(folder: Path) -> None:
    """A net with its weights; and exports and ported weights of an earlier one, to be replaced."""
    write_stages(folder)
    (folder / "deploy.prototxt").write_text(DEPLOY)
    net = Net(folder / "deploy.prototxt", TEST)
    weights = net_weights(net)
    record = Preprocessing("BGR", (1.0, 2.0, 3.0))
    for name in ("net.caffemodel", "plain.caffemodel"):
        save_weights(folder / name, weights)
    write_preprocessing(folder / "net.caffemodel", record)
    for name in ("ported.safetensors", "ported.npz"):
        save_weights(folder / name, {layer: [blob * 2 for blob in blobs] for layer, blobs in weights.items()})
        write_preprocessing(folder / name, Preprocessing("BGR", (9.0, 9.0, 9.0)))
    for name in ("net.onnx", "net.xml", "net.bin", "scores.json", "classes.csv", "confusion.png"):
        (folder / name).write_bytes(b"of an earlier run")
    (folder / "out").mkdir()
    (folder / "out" / "0.png").write_bytes(b"of an earlier run")
    (folder / "list.txt").write_text("".join(f"images/{index}.png {index % 2}\n" for index in range(6)))


def _own_images(folder: Path) -> None:
    """Ten labelled images, and the task that was made of six of them."""
    generator = np.random.default_rng(0)
    for part in ("images", "labels", "first/images", "first/labels"):
        (folder / part).mkdir(parents=True)
    for index in range(10):
        label = generator.choice(np.array([0, 1, 2, 255], np.uint8), (20, 24))
        image = generator.integers(0, 255, (20, 24, 3)).astype(np.uint8)
        for top in ("", "first")[: 2 if index < 6 else 1]:
            Image.fromarray(image).save(folder / top / "images" / f"{index}.png")
            Image.fromarray(label).save(folder / top / "labels" / f"{index}.png")
    words = ("--images", "images", "--labels", "labels", "--trunk", "narrow", "--name", "own")
    first = [str(folder / "first" / word) if word in ("images", "labels") else word for word in words]
    with redirect_stdout(io.StringIO()):
        import_module("fcn_caffe.commands.new_task").main([*first, "--out", str(folder / "task")])
    shutil.rmtree(folder / "first")
    (folder / "task" / "weights" / "own.caffemodel").write_bytes(b"trained")


def write_archives(folder: Path) -> None:
    """SIFT Flow's archive in small. Its splits have other sizes than the published ones."""
    scenes = "spatial_envelope_256x256_static_8outdoorcategories"
    picture, label, geometry = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.new("RGB", (5, 4), (90, 60, 30)).save(picture, "JPEG")
    scipy.io.savemat(label, {"S": np.resize(np.array([0, 33, 1], np.uint8), (4, 5))})
    scipy.io.savemat(geometry, {"S": np.resize(np.array([-1, 3], np.int16), (4, 5))})
    names = [f"coast_{index}" for index in range(12)]
    (folder / "archives").mkdir()
    with zipfile.ZipFile(folder / "archives" / "SiftFlowDataset.zip", "w") as archive:
        archive.writestr("SiftFlowDataset/TestSet1.txt", "".join(f"{scenes}\\{name}.jpg\n" for name in names[:3]))
        for name in names:
            archive.writestr(f"SiftFlowDataset/Images/{scenes}/{name}.jpg", picture.getvalue())
            archive.writestr(f"SiftFlowDataset/SemanticLabels/{scenes}/{name}.mat", label.getvalue())
            archive.writestr(f"SiftFlowDataset/GeoLabels/{scenes}/{name}.mat", geometry.getvalue())
    (folder / "data" / "sift-flow").mkdir(parents=True)
    (folder / "data" / "sift-flow" / "mine.txt").write_text("mine")
    small = functools.partial(prepare.data_set.Job, counts={"trainval": 9, "test": 3})
    prepare.Job = small  # type: ignore[misc, assignment]


_SEG = ("--net", "deploy.prototxt", "--weights", "net.caffemodel")
_MEAN = ("--mean", "1", "2", "3")
_TASK = ("--images", "images", "--labels", "labels", "--trunk", "narrow", "--name", "own", "--out", "task")
_DATA = ("siftflow", "--data", "data", "--archives", "archives", "--no-checksum")
_SCORES = ("--json", "scores.json", "--per-class", "classes.csv", "--confusion", "confusion.png")

CASES = {
    "train": Case("train", ("--solver", "one.prototxt"), _stages, ("--solver", "one.prototxt", "--resume"), 16),
    "solve": Case(
        *("solve", ("solvers/fine.prototxt",), _stages, ("solvers/fine.prototxt", "--resume"), 14),
        streams=("log.txt", "run.jsonl"),
    ),
    "score": Case(
        "score", ("nets/coarse.prototxt", "--weights", "plain.caffemodel", *_SCORES, "--save-predictions", "out"), _net
    ),
    "infer": Case("infer", (*_SEG, *_MEAN, "--out", "out", "--probabilities", "npz", "images"), _net, weight=12),
    "port_weights": Case("port_weights", ("net.caffemodel", "ported.safetensors"), _net),
    "get_data": Case("get_data", _DATA, write_archives, weight=12),
    "convert_imageset": Case("convert_imageset", ("./", "list.txt", "database"), _net),
    "new_task": Case("new_task", (*_TASK, "--force"), _own_images, weight=12),
    "export": Case("export", ("deploy.prototxt", "net.onnx", *_SEG[2:], "--fixed"), _net, weight=3),
}
