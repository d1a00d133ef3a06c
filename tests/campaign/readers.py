"""Every reader there is of files that may come from elsewhere: what it reads, how it is spoilt, and our own way in.

A reader is an entry of `readers()`. `prepare` makes what lies beside the file in a folder and returns the file's path;
the file's bytes, and what `seeds` adds, are what is spoilt.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, partial
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import binary_mutations
import fuzz_seeds
import h5py  # type: ignore[import-untyped]
import mutations
import numpy as np
import own_trees
import scipy.io  # type: ignore[import-untyped]
import torch
from fuzzing import golden_solver
from mutations import Mutation
from oracle import FOLDER
from PIL import Image

from campaign import oddities, structures
from fcn_caffe import TEST, TRAIN, Net, read_net
from fcn_caffe.commands.score import _check_csv
from fcn_caffe.data.layers.hdf5_data import read_data_sets
from fcn_caffe.data.own.classes import read_changes, read_class_file
from fcn_caffe.data.own.formats import detect_format, read_source
from fcn_caffe.data.own.formats.label_files import by_value
from fcn_caffe.data.own.formats.source import VOID, Reading
from fcn_caffe.data.own.label_check import Pair, look
from fcn_caffe.data.prepare.archives import unpack
from fcn_caffe.data.readers.databases import read_records, write_records
from fcn_caffe.data.readers.datum import array_of_datum, datum_of_encoded, datum_of_image, parse_datum
from fcn_caffe.data.readers.frames import count_pages, film_rate, read_film, read_pages
from fcn_caffe.data.readers.image_files import image_size, read_image, read_index_image, read_split
from fcn_caffe.data.readers.image_list import read_image_list, read_picture_pairs
from fcn_caffe.data.readers.labels import LabelMap, read_classes, read_colors, read_label, read_palette
from fcn_caffe.data.readers.mean_image import read_mean_image
from fcn_caffe.data.readers.opencv_images import Colour, read_image_bgr
from fcn_caffe.data.readers.window_list import read_windows
from fcn_caffe.data.sets.pascalcontext_layers import read_names
from fcn_caffe.data.sets.reference_layer import read_mat
from fcn_caffe.doctor.subject import read_subject
from fcn_caffe.evaluation.metrics import METRICS
from fcn_caffe.evaluation.score import class_indices
from fcn_caffe.host.films import film_writer
from fcn_caffe.host.unfolding import MOST_TIMES
from fcn_caffe.net.rewrite.tuned import _read_cache
from fcn_caffe.proto import caffe_pb2, read_text, write_text
from fcn_caffe.proto.files import read_message
from fcn_caffe.proto.upgrade import upgrade_net
from fcn_caffe.training.log_parser import parse_log
from fcn_caffe.training.report.page import write_run
from fcn_caffe.training.run_record import IMAGES, RECORD
from fcn_caffe.training.solver import Solver, snapshot
from fcn_caffe.training.solver.settings import read_solver
from fcn_caffe.training.stage import COLUMNS, ScoreTable
from fcn_caffe.weights.formats import format_of
from fcn_caffe.weights.mapping import map_weights, net_layers, read_pairs
from fcn_caffe.weights.record import Preprocessing, read_preprocessing, write_preprocessing
from fcn_caffe.weights.transfer import copy_weights, load_weights, save_weights

PIXELS = 160  # MiB that a picture within the limits may take beside its file
PACKED = 6 * MOST_TIMES  # a larger one may declare MOST_TIMES its file, and each byte takes up to six as a photograph
Seeds = Callable[[Path], Iterable[bytes]]


def _no_more(path: Path) -> tuple[bytes, ...]:
    return ()


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        name: What the report calls it.
        prepare: Makes the folder, and returns the file to spoil.
        read: Our way in; takes the file.
        ways: How the file is spoilt.
        seeds: More files of the kind, for the same place.
        share: How many inputs it gets, as a part of the sum of all shares.
        memory: MiB that it may take beside `times` the file.
        times: How many times the file it may take.
        names_files: Whether the file may name others anywhere, as a net names its data.
        target: A folder beside the file that it writes into; empty where it writes nothing.
        needs: The package that it needs.
    """

    name: str
    prepare: Callable[[Path], Path]
    read: Callable[[Path], object]
    ways: tuple[Mutation, ...]
    seeds: Seeds = _no_more
    share: int = 10
    memory: int = 24
    names_files: bool = False
    target: str = ""
    needs: str = ""
    times: int = 3


def _file(name: str, content: bytes | str) -> Callable[[Path], Path]:
    """Return what writes one file into the folder."""

    def prepare(folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return prepare


def _golden(seeds: Callable[[], dict[str, bytes]], limit: int = 20_000) -> Seeds:
    """The files of other tests that are short enough to spoil many times."""
    return lambda path: [data for data in seeds().values() if len(data) <= limit]


def _all(*reads: Callable[[Path], object]) -> Callable[[Path], object]:
    """Read a file in several ways, each of which may refuse it; the first refusal of all is raised at the end."""

    def read(path: Path) -> object:
        refusal: Exception | None = None
        for one in reads:
            try:
                one(path)
            except Exception as error:
                if not type(error).__module__.startswith("fcn_caffe"):
                    raise
                refusal = refusal or error
        if refusal is not None:
            raise refusal
        return None

    return read


# -- nets, solvers, weights ----------------------------------------------------------------------------------------


def _read_net(path: Path) -> object:
    read_text(path, caffe_pb2.NetParameter)
    return [read_net(path, phase) for phase in (TRAIN, TEST)]


def _build_net(path: Path) -> object:
    return Net(path, TEST, device="meta")


def _build_solver(path: Path) -> object:
    solver = Solver(path, device="cpu")
    return [solver.learning_rate(iteration) for iteration in (0, 7, 2**31 - 1)]


def _read_binary_net(path: Path) -> object:
    return write_text(upgrade_net(read_message(path, caffe_pb2.NetParameter)[0], path))


@lru_cache
def _solver() -> Solver:
    return Solver(golden_solver("adam"), device="cpu")


def _read_weights(path: Path) -> object:
    form = format_of(path)
    form.names(path)
    return copy_weights(_solver().net, load_weights(path), path)


def _read_named(path: Path) -> object:
    form = format_of(path)
    form.read_facts(path)
    return map_weights(form.read_named(path), net_layers(_solver().net), path) if form.has_names else None


STATE = next((FOLDER / "states").glob("adam*.solverstate"))


def _state_beside(name: str) -> Callable[[Path], Path]:
    """Put a state, its weights and its random states into the folder; return the one of that ending."""

    def prepare(folder: Path) -> Path:
        shutil.copy(STATE, folder)
        shutil.copy(STATE.with_suffix(".caffemodel"), folder)
        states = snapshot.random_states(_solver().net, [], 5)
        (folder / STATE.with_suffix(".rngstate").name).write_text(json.dumps(states))
        path = folder / STATE.with_suffix("." + name).name
        if name.endswith("h5"):
            path.write_bytes(next(iter(fuzz_seeds.states(name).values())))
        return path

    return prepare


def _restore(path: Path) -> object:
    state = path.with_suffix(".solverstate") if path.suffix in (".rngstate", ".caffemodel") else path
    _solver().restore(state)
    return None


def _weights_in(ending: str) -> Callable[[Path], Path]:
    return lambda folder: _file(f"spoilt.{ending}", next(iter(fuzz_seeds.weights(ending).values())))(folder)


def _old_torch(path: Path) -> Iterable[bytes]:
    """PyTorch's files before zip, and of a state within a dict."""
    tensors = {"conv1.weight": torch.ones(2, 1, 3, 3), "conv1.bias": torch.ones(2)}
    for content, zipped in ((tensors, False), ({"state_dict": tensors, "epoch": 3}, True)):
        space = BytesIO()
        torch.save(content, space, _use_new_zipfile_serialization=zipped)
        yield space.getvalue()
    yield from fuzz_seeds.weights("pth").values()


def _onnx(folder: Path) -> Path:
    import onnx
    from onnx import helper, numpy_helper

    arrays = {"conv.weight": np.ones((2, 3, 1, 1), "f4"), "conv.bias": np.ones(2, "f4"), "fc.w": np.ones((2, 4), "f4")}
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["a"], "/conv/Conv"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Transpose", ["fc.w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["b", "t"], ["y"], "/fc/MatMul"),
    ]
    x, y = (helper.make_tensor_value_info(name, 1, None) for name in ("x", "y"))
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors), producer_name="test")
    path = folder / "spoilt.onnx"
    onnx.save(model, path)
    return path


def _pt2(folder: Path) -> Path:
    """What torch.export writes, made by hand: tensors as bytes, their table, and the graph that uses them."""
    import zipfile

    tensors = {"first.weight": (2, 3), "first.bias": (2,), "norm.running_mean": (2,)}
    config, specs, used = {}, [], []
    path = folder / "spoilt.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/archive_format", "pt2")
        for index, (name, shape) in enumerate(tensors.items()):
            archive.writestr(f"a/data/weights/weight_{index}", np.ones(shape, "<f4").tobytes())
            meta = {
                "dtype": 7,
                "sizes": [{"as_int": size} for size in shape],
                "strides": [{"as_int": prod(shape[axis + 1 :])} for axis in range(len(shape))],
                "storage_offset": {"as_int": 0},
            }
            is_param = "running" not in name
            config[name] = {
                "path_name": f"weight_{index}",
                "is_param": is_param,
                "use_pickle": False,
                "tensor_meta": meta,
            }
            kind = "parameter" if is_param else "buffer"
            specs.append({kind: {"arg": {"name": f"p_{index}"}, f"{kind}_name": name}})
            used.append({"arg": {"as_tensor": {"name": f"p_{index}"}}})
        archive.writestr("a/data/weights/model_weights_config.json", json.dumps({"config": config}))
        graph = {"signature": {"input_specs": specs}, "graph": {"nodes": [{"inputs": used}]}}
        archive.writestr("a/models/model.json", json.dumps({"graph_module": graph}))
        archive.writestr("a/extra/fcn_caffe.json", json.dumps({"net": "x", "weights_sha256": "0"}))
    return path


def _record(folder: Path) -> Path:
    record = Preprocessing("BGR", (104.0, 116.0, 122.0), None, 1.0, ("cat", "dog"), "a.pth", "0" * 64, "torch")
    return write_preprocessing(folder / "a.caffemodel", record)


def _read_record(path: Path) -> object:
    return str(read_preprocessing(path.with_name("a.caffemodel")))


def _read_pairs(path: Path) -> object:
    return read_pairs(path, net_layers(_solver().net))


NET = """layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }
layer { name: "l" type: "Input" top: "l" input_param { shape { dim: 1 dim: 1 dim: 4 dim: 4 } } }
"""


def _weighted(folder: Path) -> Path:
    loss = 'layer { name: "s" type: "SoftmaxWithLoss" bottom: "d" bottom: "l" top: "s" fork: "deeplab1" '
    (folder / "net.prototxt").write_text(f'{NET}{loss} softmaxloss_param {{ weight_source: "weights.txt" }} }}')
    return _file("weights.txt", "1\n0.5\n2\n")(folder)


def _mean_field(folder: Path) -> Path:
    options = "num_iterations: 2 theta_alpha: 160 theta_beta: 3 theta_gamma: 3"
    layer = (
        'layer { name: "m" type: "MultiStageMeanfield" bottom: "d" bottom: "e" bottom: "f" top: "m" '
        f"multi_stage_meanfield_param {{ {options} }} }}"
    )
    inputs = "".join(NET.splitlines()[0].replace('"d"', f'"{name}"') for name in "def")
    (folder / "net.prototxt").write_text(inputs + layer)
    return _file("spatial.par", "3 3 3")(folder)


def _build_beside(path: Path) -> object:
    return Net(path.with_name("net.prototxt"), TRAIN, device="meta")


# -- images, labels, arrays ----------------------------------------------------------------------------------------

_SMALL = np.random.default_rng(0).integers(0, 256, (7, 9, 4), np.uint8)


def _saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """A small picture, as Pillow writes this kind."""
    image = Image.fromarray(_SMALL[:, :, :3]).convert("RGB")
    if mode == "P":
        image = Image.fromarray(_SMALL[:, :, 0] % 4)
        image.putpalette(list(range(12)) + [0] * 756)
    elif mode == "I;16":
        image = Image.fromarray(_SMALL[:, :, 0].astype(np.uint16) * 256)
    elif mode == "F":
        image = Image.fromarray(_SMALL[:, :, 0].astype(np.float32))
    elif mode in ("RGBA", "LA"):
        image = Image.fromarray(_SMALL).convert(mode)
    else:
        image = image.convert(mode)
    space = BytesIO()
    image.save(space, kind, **options)
    return space.getvalue()


def _pages(kind: str) -> bytes:
    first, *rest = (Image.fromarray(_SMALL[:, :, index]) for index in range(3))
    space = BytesIO()
    first.save(space, kind, save_all=True, append_images=rest)
    return space.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved("JPEG", exif=exif)


PICTURES: dict[str, tuple[Callable[[], bytes], ...]] = {
    "png": (
        *(partial(_saved, "PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
        partial(_saved, "PNG", bits=2, mode="P"),
        partial(_pages, "PNG"),
    ),
    "jpg": (
        *(partial(_saved, "JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        partial(_saved, "JPEG", progressive=True),
        _turned,
    ),
    "tif": (
        *(partial(_saved, "TIFF", mode) for mode in ("RGB", "L", "1", "P", "I;16", "F", "CMYK")),
        *(partial(_saved, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")),
        partial(_saved, "TIFF", "1", compression="group4"),
        partial(_pages, "TIFF"),
    ),
    "gif": (partial(_saved, "GIF", "P"), partial(_pages, "GIF")),
    "webp": (partial(_saved, "WEBP"), partial(_saved, "WEBP", "RGBA", lossless=True), partial(_pages, "WEBP")),
    "bmp": tuple(partial(_saved, "BMP", mode) for mode in ("RGB", "L", "P", "1", "RGBA")),
    "ppm": (*(partial(_saved, "PPM", mode) for mode in ("RGB", "L", "1", "I;16")), lambda: b"P3 2 1 9 1 2 3 4 5 6"),
    # Files of any ending are told by their content, so all that Pillow knows are read.
    "others": tuple(
        partial(_saved, kind)
        for kind in ("TGA", "PCX", "SGI", "JPEG2000", "ICO", "IM", "DDS", "PDF", "EPS", "ICNS", "QOI", "AVIF")
    ),
}


def _written(makers: Sequence[Callable[[], bytes]]) -> list[bytes]:
    """The pictures that this Pillow writes."""
    found = []
    for make in makers:
        try:
            found.append(make())
        except (OSError, KeyError, ValueError):  # a kind that it does not write
            continue
    return found


def _read_bgr(colour: Colour) -> Callable[[Path], object]:
    return lambda path: read_image_bgr(path, colour, 5, 6)


def _read_label(path: Path) -> object:
    read_palette(path)
    return look(Pair("a", path.with_name("whole.png"), path))


def _look_at_photograph(path: Path) -> object:
    return look(Pair("a", path, path.with_name("whole.png")))


def _picture(ending: str) -> Callable[[Path], Path]:
    def prepare(folder: Path) -> Path:
        (folder / "whole.png").write_bytes(_saved("PNG", "P"))
        return _file(f"spoilt.{ending if ending != 'others' else 'png'}", _written(PICTURES[ending])[0])(folder)

    return prepare


WAYS_OF_PICTURES: dict[str, tuple[Mutation, ...]] = {
    "png": (*structures.PNG, *[oddities.png_in_a_nutshell] * 3),
    "tif": (*structures.IMAGE, *[oddities.tiff_entry_changed] * 8),
    "gif": (*structures.IMAGE, *[oddities.gif_of_many] * 4),
}


def _picture_readers() -> list[Reader]:
    photographs = _all(
        read_image,
        image_size,
        count_pages,
        lambda path: deque(read_pages(path), maxlen=0),  # one after the other, as `infer` does
        *(_read_bgr(colour) for colour in ("color", "gray", "native")),
    )
    mapping = LabelMap(colours={(0, 0, 0): 0, (1, 2, 3): 1})
    labels = _all(
        *(read_index_image, partial(read_index_image, colours=True), _read_label, _look_at_photograph),
        *(partial(by_value, table={0: 0, 255: VOID}), partial(read_label, mapping=mapping)),
    )
    found = []
    for ending, makers in PICTURES.items():
        ways = WAYS_OF_PICTURES.get(ending, structures.IMAGE)

        def seeds(path: Path, makers: Sequence[Callable[[], bytes]] = makers) -> list[bytes]:
            return _written(makers)

        for name, read in (("photograph", photographs), ("label", labels)):
            share = 10 if ending in ("png", "jpg", "tif") else 5
            found.append(Reader(f"{name}: {ending}", _picture(ending), read, ways, seeds, share, PIXELS, times=PACKED))
    return found


def _datum(path: Path) -> Iterable[bytes]:
    yield datum_of_image(_SMALL[:, :, :3], 3).SerializeToString()
    yield datum_of_encoded(_saved("PNG"), (7, 9, 3), 3).SerializeToString()
    yield datum_of_encoded(_saved("JPEG", "L"), (7, 9, 1), 3).SerializeToString()
    yield caffe_pb2.Datum(channels=2, height=1, width=2, float_data=[1, 2, 3, 4]).SerializeToString()


def _read_datum(path: Path) -> object:
    datum = parse_datum(path.read_bytes(), str(path))
    colours: tuple[Colour, ...] = ("native", "color", "gray")
    return _all(*(lambda _, colour=colour: array_of_datum(datum, str(path), colour) for colour in colours))(path)


def _lmdb(folder: Path) -> Path:
    write_records(folder / "db", "lmdb", ((b"%05d" % number, bytes(number)) for number in range(0, 6000, 60)))
    return folder / "db" / "data.mdb"


def _read_lmdb(path: Path) -> object:
    return [len(value) for _, value in read_records(path.parent, "lmdb")]


def _hdf5_data(folder: Path) -> Path:
    path = folder / "rows.h5"
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = np.ones((6, 3, 2, 2), "f4"), np.arange(6)
    return path


def _mat(**variables: Any) -> Callable[[Path], Path]:
    space = BytesIO()
    scipy.io.savemat(space, variables)
    return _file("label.mat", space.getvalue())


def _film(folder: Path) -> Path:
    path = folder / "spoilt.mp4"
    with film_writer(path, Fraction(25)) as add:
        for index in range(3):
            add(np.full((16, 16, 3), 60 * index, np.uint8), None)
    return path


def _archive(folder: Path) -> Path:
    import tarfile

    path = folder / "archive.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a/one.txt", "a/b/two.txt"):
            info = tarfile.TarInfo(name)
            info.size = 5
            archive.addfile(info, BytesIO(b"hello"))
    return path


def _zip(path: Path) -> Iterable[bytes]:
    import zipfile

    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        space = BytesIO()
        with zipfile.ZipFile(space, "w", kind) as archive:
            archive.writestr("a/one.txt", "hello")
            archive.writestr("b.txt", b"\0" * 1000)
        yield space.getvalue()


def _unpack(path: Path) -> object:
    return unpack(path, path.parent / "target", "/".join)


# -- annotations ---------------------------------------------------------------------------------------------------


def _drawn(form: str, up: int = 1) -> Callable[[Path], object]:
    """Read a data set whose folder lies `up` above the file, and draw every label of it."""

    def read(path: Path) -> object:
        place = path.parents[up - 1]
        detect_format(place)
        found = []
        for overlap, unlabelled in (("last", "background"), ("smallest", "void")):
            source = read_source(place, form, Reading(overlap=overlap, unlabelled=unlabelled))
            found += [sample.draw() for sample in source.samples]
        return found

    return read


def _in(make: Callable[[Path], Path], name: str) -> Callable[[Path], Path]:
    return lambda folder: make(folder).joinpath(name) if name else make(folder)


def _ade(folder: Path) -> Path:
    own_trees.write_ade20k(folder)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{n}\t0.1\t1\t1\t1\tclass{n}, other" for n in range(1, 5))]
    return _file("objectInfo150.txt", "\n".join(lines))(folder)


# -- runs ----------------------------------------------------------------------------------------------------------

LOG = """Log file created at: 2014/12/31 23:59:51
I1231 23:59:52.250000  1234 solver.cpp:337] Iteration 0, Testing net (#0)
I1231 23:59:53.250000  1234 solver.cpp:404]     Test net output #0: accuracy = 0.0932
I1231 23:59:53.250001  1234 solver.cpp:404]     Test net output #1: loss = 2.41357 (* 1 = 2.41357 loss)
I1231 23:59:53.500000  1234 solver.cpp:228] Iteration 0, loss = 2.44
I1231 23:59:53.500001  1234 solver.cpp:244]     Train net output #0: loss = 2.45 (* 1 = 2.45 loss)
I1231 23:59:53.500002  1234 sgd_solver.cpp:106] Iteration 0, lr = 0.01
I0101 00:00:03.750000  1234 solver.cpp:218] Iteration 100 (48.1 iter/s, 2.07s/100 iters), loss = 0.21
I0229 00:00:06.000000  1234 solver.cpp:397]     Test net output #0: accuracy = 0.98
I20260101 00:00:06.000000  1234 solver.cpp:397]     Test net output #1: loss = nan (* 1 = nan loss)
"""
_HEAD = {**dict.fromkeys(METRICS, 0.5), "loss": 1.5, "class_iu": [0.5, None], "class_accuracy": [0.5, None]}
_START = {
    **dict.fromkeys(("stage", "solver", "net", "settings", "result", "device"), "x"),
    **{"sources": ["a"], "command": ["b"], "last": 20, "step": 10, "processes": 1, "threads": 2, "versions": {"a": 1}},
}
_EVENTS = (
    {"event": "start", "time": "2026-01-01T00:00:00+00:00", "iteration": 0, **_START},
    {
        "event": "test",
        "time": "2026-01-01T00:01:00+00:00",
        "iteration": 10,
        "heads": {"score": {**_HEAD, "classes": ["a", "b"], "confusion": [[1, 2], [3, 4]]}},
        "best": True,
    },
    {"event": "end", "time": "2026-01-01T00:02:00+00:00", "iteration": 20, "done": True, "best": 10},
)
_IMAGE = {"name": "a", "image": "", "truth": "", "answer": "", "mean_iu": 0.5, "size": [3, 4]}
_SCORES = f"{','.join(COLUMNS)}\n10,score,{','.join(['0.5'] * len(METRICS))},nan\n"


def _run(name: str) -> Callable[[Path], Path]:
    """Make the folder of a stage's run; return its file of that name."""

    def prepare(folder: Path) -> Path:
        files = {
            RECORD: "".join(json.dumps(event) + "\n" for event in _EVENTS),
            IMAGES: json.dumps({"iteration": 10, "best": [_IMAGE], "worst": [_IMAGE]}),
            "train.log": LOG,
            "scores.csv": _SCORES,
        }
        if name == "scores.csv":
            del files[RECORD]
        for other, content in files.items():
            _file(other, content)(folder)
        return folder / name

    return prepare


def _write_page(path: Path) -> object:
    return write_run(path.parent)


def _read_scores(path: Path) -> object:
    return _all(ScoreTable.read, lambda place: _check_csv(place, list(COLUMNS)), _write_page)(path)


def _read_tuned(path: Path) -> object:
    return _read_cache(path, {"net": "x"})


_TUNED = json.dumps(
    {
        "for": {"net": "x"},
        "choices": [{"layer": "a", "forward": "plain", "bottom": "plain", "weight": "plain"}],
        "checks": {"a": [0.0, 1.0, None, 0.5]},
    }
)
_WINDOWS = "# 0\n0.png\n3 8 9\n2\n1 0.9 0 0 6 6\n0 0.1 1 1 5 7\n# 1\n1.png\n3 8 9\n0\n"


def _named_classes(path: Path) -> object:
    return class_indices(_classes_net(), "d", [str(path)])


@lru_cache
def _classes_net() -> Net:
    from helpers import make_net

    return make_net(NET)


# -- the table -----------------------------------------------------------------------------------------------------


def readers() -> list[Reader]:
    """Every reader whose packages are here."""
    nets, solvers = _golden(fuzz_seeds.nets, 6000), _golden(fuzz_seeds.solvers, 6000)
    caffemodels = _golden(lambda: fuzz_seeds.weights("caffemodel"))
    wire = (*binary_mutations.WIRE, *[oddities.wire_written_oddly] * 2)
    hdf5 = (*binary_mutations.HDF5, *[structures.hdf5_changed] * 12, *[oddities.hdf5_of_odd_objects] * 6)
    json_tree = (*structures.JSON_TREE, *[oddities.json_of_many] * 3, oddities.encoded_otherwise)
    nets_ways, solvers_ways = (*mutations.NETS, *oddities.TEXTS), (*mutations.SOLVERS, *oddities.TEXTS)
    mats = (*structures.MAT, *[oddities.mat_element_changed] * 8)
    states_h5 = _golden(lambda: fuzz_seeds.states("solverstate.h5"))
    zipped = (*binary_mutations.ZIP, *[oddities.zip_written_oddly] * 3)
    arrays, pickles = (*zipped, *[_NPY_MEMBER] * 4), (*zipped, *[oddities.pickle_replaced] * 4)
    odd_archives = [oddities.tar_written_oddly, oddities.zip_written_oddly]
    archives = (*structures.TAR, *[_MEMBER] * 8, *odd_archives * 3)

    def solver_file(folder: Path) -> Path:
        (folder / "fixed.prototxt").write_bytes(fuzz_seeds.golden_text("solvers", "adam", "net"))
        return _file("solver.prototxt", next(iter(fuzz_seeds.solvers().values())))(folder)

    plain_net = _file("net.prototxt", NET)
    mean, lists = (FOLDER / "formats" / "mean.binaryproto").read_bytes(), (*structures.LISTS, *oddities.TEXTS)
    table = [
        Reader("net: text", plain_net, _read_net, nets_ways, nets, 25),
        Reader("net: built", plain_net, _build_net, nets_ways, nets, 5, 64, names_files=True),
        Reader("solver: text", solver_file, read_solver, solvers_ways, solvers, 15),
        Reader("solver: built", solver_file, _build_solver, solvers_ways, solvers, 3, 64, names_files=True),
        Reader("solver: doctor", solver_file, read_subject, solvers_ways, solvers, 3, 64, names_files=True),
        Reader("net: binary", _file("net.binaryproto", mean), _read_binary_net, wire, _golden(_binary_nets), 15, 256),
        Reader("weights: caffemodel", _weights_in("caffemodel"), _read_weights, wire, caffemodels, 25),
        Reader("weights: h5", _weights_in("h5"), _read_weights, hdf5, _golden(lambda: fuzz_seeds.weights("h5")), 12),
        Reader("weights: safetensors", _weights_in("safetensors"), _all(_read_weights, _read_named), SAFE, _safe, 12),
        Reader(
            "weights: npz",
            _weights_in("npz"),
            _all(_read_weights, _read_named),
            arrays,
            _npz,
            10,
        ),
        Reader(
            "weights: pth",
            _weights_in("pth"),
            _all(_read_weights, _read_named),
            pickles,
            _old_torch,
            10,
            48,
        ),
        Reader("weights: onnx", _onnx, _read_named, wire, needs="onnx"),
        Reader("weights: pt2", _pt2, _read_named, (*zipped, *[_JSON_MEMBER] * 20)),
        Reader(
            "weights: pairs", _file("pairs.txt", "conv1 first\nconv1/0 a.weight # x\nip -\n- b\n"), _read_pairs, lists
        ),
        Reader("weights: record", _record, _read_record, json_tree, share=15),
        Reader("weights: mean field", _mean_field, _build_beside, lists, share=2),
        Reader("weights: of classes", _weighted, _build_beside, lists, share=2),
        Reader("state: solverstate", _state_beside("solverstate"), _restore, wire, _states, 12),
        Reader("state: h5", _state_beside("solverstate.h5"), _restore, hdf5, states_h5),
        Reader("state: weights", _state_beside("caffemodel"), _restore, wire, share=6),
        Reader("state: rngstate", _state_beside("rngstate"), _restore, json_tree),
        *_picture_readers(),
        Reader("datum", _file("datum", next(iter(_datum(Path())))), _read_datum, wire, _datum, 20, PIXELS),
        Reader("mean file", _file("mean.binaryproto", mean), read_mean_image, wire, share=20),
        Reader("data: lmdb", _lmdb, _read_lmdb, structures.IMAGE, needs="lmdb"),
        Reader("data: hdf5", _hdf5_data, lambda path: read_data_sets(path, ["data", "label"]), hdf5),
        Reader("label: mat SBD", _mat(GTcls={"Segmentation": _SMALL[:, :, 0]}), _mat_keys, mats, memory=96),
        Reader("label: mat", _mat(S=_SMALL[:, :, 0]), lambda path: read_mat(path, "S"), mats, memory=96),
        Reader("film: mp4", _film, _all(film_rate, _film_frames), structures.IMAGE, share=2, memory=PIXELS, needs="av"),
        Reader(
            "archive",
            _archive,
            _unpack,
            archives,
            _zip,
            share=6,
            target="target",
        ),
        Reader("list: images", _file("list.txt", "0.png 0\na b.png 10\n\nc\t7\n"), read_image_list, lists, share=20),
        Reader("list: pairs", _file("list.txt", "0.png a.png\n1.png b.png\n"), read_picture_pairs, lists),
        Reader("list: split", _file("val.txt", "a\nb/c\n\n d \n"), read_split, lists),
        Reader(
            "list: windows", _file("windows.txt", _WINDOWS), lambda path: read_windows(path, 0.5, 0.4), lists, share=20
        ),
        Reader("labels: rules", _file("map.txt", "0: 1 # x\n255: 0\n"), LabelMap.read, lists, _colour_rules, 20),
        Reader(
            "labels: card",
            _file("classes.txt", CARD),
            _all(read_classes, read_colors, read_class_file),
            lists,
            share=20,
        ),
        Reader("labels: chosen", _file("chosen.txt", "0\n2 # x\n"), _named_classes, lists),
        Reader("classes: changes", _file("map.txt", "cat = animal\ndog=void\n"), read_changes, lists, share=15),
        Reader("classes: names", _file("59_labels.txt", "1: cat\n2: dog house\n"), _numbered, lists),
        Reader(
            "annotations: COCO",
            _in(own_trees.write_coco, ""),
            _drawn("coco", 2),
            json_tree,
            share=12,
            memory=PIXELS,
        ),
        Reader(
            "annotations: labelme",
            _in(own_trees.write_labelme, "0.json"),
            _drawn("labelme"),
            json_tree,
            share=12,
            memory=PIXELS,
        ),
        Reader(
            "annotations: CVAT",
            _in(own_trees.write_cvat, "annotations.xml"),
            _drawn("cvat"),
            (*structures.XML, *[oddities.xml_written_oddly] * 4),
            share=12,
            memory=PIXELS,
        ),
        Reader(
            "annotations: CVAT masks",
            _in(own_trees.write_cvat_masks, "labelmap.txt"),
            _drawn("cvat-masks"),
            lists,
            share=6,
        ),
        Reader("annotations: Cityscapes", _polygons, _drawn("cityscapes", 4), json_tree, share=6, memory=PIXELS),
        Reader(
            "annotations: Mapillary",
            _in(own_trees.write_mapillary, "config.json"),
            _drawn("mapillary"),
            json_tree,
            share=6,
        ),
        Reader("annotations: ADE20K", _ade, _drawn("ade20k"), lists, share=6),
        Reader(
            "annotations: VOC list",
            _in(own_trees.write_voc, "ImageSets/Segmentation/train.txt"),
            _drawn("voc", 3),
            lists,
            share=6,
        ),
        Reader("run: log", _file("train.log", LOG), parse_log, lists, share=20),
        Reader("run: record", _run(RECORD), _write_page, structures.JSON_LINES, share=4, memory=48),
        Reader("run: images", _run(IMAGES), _write_page, json_tree, share=4, memory=48),
        Reader("run: scores", _run("scores.csv"), _read_scores, lists, share=4, memory=48),
        Reader("run: tuned ways", _file("ways.json", _TUNED), _read_tuned, json_tree),
    ]
    return [reader for reader in table if not reader.needs or importlib.util.find_spec(reader.needs)]


CARD = "0: background # 0 0 0\n1: cat  # 128 0 0\n2: dog # 0 128 0\n"
SAFE: tuple[Mutation, ...] = (*binary_mutations.SAFETENSORS, structures.json_name_doubled, structures.word_replaced)
_MEMBER = binary_mutations._of_member((mutations.set_byte, structures.number_changed))
_NPY_MEMBER = binary_mutations._of_member((oddities.npy_header_replaced,))
_JSON_MEMBER = binary_mutations._of_member((structures.json_changed,))


def _safe(path: Path) -> Iterable[bytes]:
    return fuzz_seeds.weights("safetensors").values()


def _npz(path: Path) -> Iterable[bytes]:
    return fuzz_seeds.weights("npz").values()


def _states(path: Path) -> Iterable[bytes]:
    return fuzz_seeds.states("solverstate").values()


def _binary_nets() -> dict[str, bytes]:
    return {name: data for name, data in fuzz_seeds.weights("caffemodel").items() if len(data) < 20_000}


def _mat_keys(path: Path) -> object:
    return read_mat(path, "GTcls", "Segmentation")


def _film_frames(path: Path) -> object:
    return [frame.time for frame in read_film(path)]


def _colour_rules(path: Path) -> Iterable[bytes]:
    return (b"128 0 0: 1\n0,128,0: 2\n",)


def _numbered(path: Path) -> object:
    return _all(partial(read_names, numbered=True), partial(read_names, numbered=False))(path)


def _polygons(folder: Path) -> Path:
    own_trees.write_cityscapes(folder, "polygons")
    return next((folder / "gtFine" / "train").rglob("*_polygons.json"))  # the test split's are not read


def make_readers(folder: Path) -> list[tuple[Reader, Path, Path, list[bytes]]]:
    """Make each reader's folder; return the readers with folder, file, and the corpus that they begin with."""
    save_weights(folder / "unused.caffemodel", {}, "")  # what writing needs is imported before any file is watched
    found = []
    for index, reader in enumerate(readers()):
        place = folder / f"{index:02d}"
        place.mkdir()
        path = reader.prepare(place)
        seeds = list(dict.fromkeys((path.read_bytes(), *reader.seeds(path))))
        found.append((reader, place, path, seeds))
    return [_with_all_kinds(*parts, [seeds[0] for *_, seeds in found]) for parts in found]


def _with_all_kinds(
    reader: Reader, place: Path, path: Path, seeds: list[bytes], kinds: list[bytes]
) -> tuple[Reader, Path, Path, list[bytes]]:
    """Let a reader have the files of the others, too, under its own file's name."""
    pool = tuple(data for data in kinds if len(data) < 2**17)
    return replace(reader, ways=(*reader.ways, oddities.another_kind(pool))), place, path, seeds
