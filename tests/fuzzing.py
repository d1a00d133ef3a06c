"""What a spoilt file must not do, whatever it holds: one function a kind of file.

Each runs what reads that kind, lets FcnCaffeError pass as the right answer, and lets everything else out. The file
is in the folder of a Bench; the working directory is empty and has to stay so.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import torch
from datum_fixtures import blobs, images, write_database, write_images
from oracle import load

from fcn_caffe import TEST, TRAIN, DataError, FcnCaffeError, Net, read_net
from fcn_caffe.proto import caffe_pb2, parse_text, read_text, write_text
from fcn_caffe.proto.blob_file import write_blob
from fcn_caffe.proto.files import read_message
from fcn_caffe.proto.upgrade import upgrade_net
from fcn_caffe.training.solver import Solver
from fcn_caffe.weights.transfer import copy_weights, load_weights

SECONDS = 60  # for one file; the slowest takes one or two on a busy machine
MEMORY = 2**20  # beside three times the file, for what reading costs whatever the file: objects, error text, caches
ADDRESS_SPACE = 3 * 2**30  # what one run may take beyond what it has: more is refused by the system, not taken
MESSAGE = 4096  # the longest error worth reading
SMALL = 200_000  # numbers in all blobs and all parameters of a net that is run
FORBIDDEN = {"antigravity", "this", "setup"}  # modules that a net file must not get imported


class Hang(BaseException):
    """Ran longer than SECONDS. No Exception, so that nothing on the way takes it for an error of its own."""


class Bench:
    """A folder for the spoilt file, an empty working directory, and a count of what came out."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.empty = folder / "files", folder / "empty"
        self.folder.mkdir()
        self.empty.mkdir()
        self.counts: Counter[str] = Counter()
        self.solver = Solver(golden_solver("adam"), device="cpu")
        self._put_data()

    def _put_data(self) -> None:
        """What the data layers of DATA_NETS name: six images, their list, windows, database, mean and HDF5 file."""
        pictures = images(6, 8, 9)
        write_images(self.folder, pictures)
        write_blob(self.folder / "mean.binaryproto", blobs(pictures).mean(0))
        self.put("windows.txt", b"# 0\n0.png\n3 8 9\n2\n1 0.9 0 0 6 6\n0 0.1 1 1 5 7\n")
        self.put("h5.txt", b"rows.h5\n")
        self.put("pairs.txt", b"0.png 1.png\n2.png 3.png\n4.png 5.png\n")
        with h5py.File(self.folder / "rows.h5", "w") as file:
            file["data"], file["label"] = blobs(pictures), np.arange(6)
        for backend in ("lmdb", "leveldb"):
            with suppress(DataError):  # the library is an extra
                write_database(self.folder / backend, pictures, backend)

    def put(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


def golden_solver(case: str) -> Any:
    param = parse_text(str(load("solvers")[f"{case}/solver"]), caffe_pb2.SolverParameter)
    param.train_net_param.CopyFrom(parse_text(str(load("solvers")[f"{case}/net"]), caffe_pb2.NetParameter))
    return param


# Nets of data layers that find their data beside them, in a Bench.
_TRANSFORM = "transform_param { scale: 0.5 mirror: true crop_size: 4 mean_value: 1 mean_value: 2 mean_value: 3 }"
_MEAN = 'transform_param { mean_file: "mean.binaryproto" crop_size: 5 force_color: true }'
_DATA_LAYERS = (
    ("DummyData", 'dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "gaussian" std: 2 } }'),
    ("DummyData", "dummy_data_param { num: 2 channels: 3 height: 4 width: 5 data_filler { value: 3 } }"),
    ("HDF5Data", 'hdf5_data_param { source: "h5.txt" batch_size: 4 shuffle: true }'),
    ("ImageData", f'image_data_param {{ source: "list.txt" batch_size: 2 shuffle: true rand_skip: 2 }} {_TRANSFORM}'),
    ("ImageData", f'image_data_param {{ source: "list.txt" batch_size: 2 new_height: 7 new_width: 7 }} {_MEAN}'),
    (
        "DenseImageData",
        'dense_image_data_param { source: "pairs.txt" batch_size: 2 new_height: 7 new_width: 6 mirror: true }',
    ),
    (
        "ImageSegData",
        'top: "dim" image_data_param { source: "pairs.txt" batch_size: 2 label_type: PIXEL } '
        "transform_param { crop_size: 5 mirror: true mean_value: 1 scale_factors: 1 scale_factors: 1.5 }",
    ),
    ("ImageLabelmapData", f'image_data_param {{ source: "pairs.txt" batch_size: 2 }} {_TRANSFORM} fork: "hed"'),
    ("WindowData", f'window_data_param {{ source: "windows.txt" batch_size: 4 context_pad: 1 }} {_TRANSFORM}'),
    ("WindowData", f'window_data_param {{ source: "windows.txt" batch_size: 2 crop_mode: "square" }} {_MEAN}'),
    ("Data", f'data_param {{ source: "lmdb" backend: LMDB batch_size: 2 rand_skip: 3 prefetch: 1 }} {_TRANSFORM}'),
    ("Data", f'data_param {{ source: "leveldb" batch_size: 2 prefetch: 0 }} {_MEAN}'),
    ("MemoryData", "memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }"),
)
DATA_NETS = {
    f"{index} {type}": f"""name: "{type}"
layer {{ name: "data" type: "{type}" top: "data" top: "label"
  {options} }}
layer {{ name: "flat" type: "Flatten" bottom: "data" top: "flat" }}
layer {{ name: "score" type: "InnerProduct" bottom: "flat" top: "score" inner_product_param {{ num_output: 3 }} }}
""".encode()
    for index, (type, options) in enumerate(_DATA_LAYERS)
}


@contextmanager
def guarded(bench: Bench) -> Iterator[None]:
    """In an empty directory that stays empty, beside files that stay, within SECONDS and ADDRESS_SPACE."""
    before = {str(path): path.stat().st_mtime_ns for path in bench.folder.rglob("*")}
    here, limits = os.getcwd(), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

    def ring(*_: Any) -> None:
        raise Hang(f"ran for more than {SECONDS} s")

    old = signal.signal(signal.SIGALRM, ring)
    os.chdir(bench.empty)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, limits[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, old)
        os.chdir(here)
    assert not list(bench.empty.iterdir()), f"wrote {list(bench.empty.iterdir())} into the working directory"
    after = {str(path): path.stat().st_mtime_ns for path in bench.folder.rglob("*")}
    assert after == before, f"wrote {sorted(after.items() ^ before.items())} beside the file"
    assert not FORBIDDEN & sys.modules.keys(), f"imported {FORBIDDEN & sys.modules.keys()}"


def attempt(bench: Bench, kind: str, path: Path, run: Callable[[], Any]) -> Any:
    """What `run` gives, or None where it refuses with an error that is short and names the file, layer or net."""
    try:
        found = run()
    except FcnCaffeError as error:
        text = str(error)
        assert len(text) <= MESSAGE, f"an error of {len(text)} characters: {text[:200]} …"
        assert any(place in text for place in (str(bench.folder), "layer '", "net '")), f"names no place: {text}"
        bench.counts[f"{kind} refused"] += 1
        return None
    bench.counts[f"{kind} accepted"] += 1
    return found


def within_memory(size: int, run: Callable[[], Any]) -> Any:
    """What `run` gives; it may take three times `size` bytes and MEMORY at its peak."""
    tracemalloc.start(1)
    try:
        return run()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 3 * size + MEMORY, f"took {peak} bytes for a file of {size}"


# -- nets ----------------------------------------------------------------------------------------------------------


def check_net(bench: Bench, data: bytes) -> None:
    """Parse, upgrade, filter for both phases, build without memory, build with it, run forward and back where cheap."""
    path = bench.put("net.prototxt", data)
    with guarded(bench):
        attempt(
            *(bench, "parse", path),
            lambda: within_memory(len(data), lambda: read_text(path, caffe_pb2.NetParameter)),
        )
        for phase in (TRAIN, TEST):
            param = attempt(bench, "read_net", path, partial(read_net, path, phase))
            if param is not None:
                _check_build(bench, path, phase, _stand_ins(param))


def _stand_ins(param: Any) -> dict[str, tuple[int, ...]]:
    """Shapes for the tops of Python data layers, whose data sets are not here."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in param.layer:
        if layer.type == "Python" and not layer.bottom and layer.python_param.module.endswith("_layers"):
            found |= {top: (1, 1 if "label" in top or "sem" in top or "geo" in top else 3, 24, 24) for top in layer.top}
    return found


def _check_build(bench: Bench, path: Path, phase: int, shapes: dict[str, tuple[int, ...]]) -> None:
    net = attempt(bench, "build", path, lambda: Net(path, phase, device="meta", input_shapes=shapes))
    if net is None:
        return
    numbers = sum(item.blob.numel() for item in net.learnable_params)
    blobs = sum(prod(shape) for shape in net.blob_shapes.values())
    if SMALL < numbers < 10**12:  # would fit somewhere; beyond it has to be refused anywhere
        return
    net = attempt(bench, "allocate", path, lambda: Net(path, phase, input_shapes=shapes))
    assert net is None or numbers <= SMALL, f"took {4 * numbers} bytes for parameters"
    if net is None or blobs > SMALL or numbers * blobs > 10**9:
        return
    inputs = {name: _input(net.blob_shapes[name]) for name in net.graph.inputs}
    # What is for writing files writes files.
    writes = any(node.type == "HDF5Output" for node in net.graph.nodes)
    tops = None if writes else attempt(bench, "forward", path, lambda: net(inputs))
    if tops is not None:
        learning = [top.sum() for top in tops.values() if top.requires_grad]
        if learning:
            attempt(bench, "backward", path, lambda: sum(learning).backward())


def _input(shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 3, shape, generator=generator).float()


# -- solvers -------------------------------------------------------------------------------------------------------


def check_solver(bench: Bench, data: bytes) -> None:
    """Read, check, and make the Solver with its nets. `net: "net.prototxt"` is a small net beside it."""
    path = bench.put("solver.prototxt", data)
    with guarded(bench):
        solver = attempt(bench, "solver", path, lambda: Solver(path, device="cpu"))
        if solver is None:
            return
        for iteration in (0, 1, 7, 10**6, 2**31 - 1):
            attempt(bench, "rate", path, partial(solver.learning_rate, iteration))
        solver.param.snapshot = solver.param.snapshot_after_train = 0
        solver.param.test_interval = 0
        solver.net.inputs.update((name, _input(solver.net.blob_shapes[name])) for name in solver.net.graph.inputs)
        if solver.param.iter_size < 4:
            attempt(bench, "step", path, lambda: solver.step(1))


# -- binary files --------------------------------------------------------------------------------------------------


def check_weights(bench: Bench, data: bytes, name: str) -> None:
    """Load, and copy into a net that wants such layers. `name` decides the format by its ending."""
    path = bench.put(name, data)
    with guarded(bench):
        kind = "".join(path.suffixes)[1:]
        weights = attempt(bench, f"{kind} load", path, lambda: within_memory(len(data), lambda: load_weights(path)))
        if weights is not None:
            for arrays in weights.values():
                assert all(array.dtype == np.float32 for array in arrays)
            attempt(bench, f"{kind} copy", path, lambda: copy_weights(bench.solver.net, weights, path))
    path.unlink()


def check_message(bench: Bench, data: bytes, name: str) -> None:
    """Read a net as protobuf writes it, make it modern, build it, and write it as text that says the same."""
    path = bench.put(name, data)
    with guarded(bench):

        def read() -> Any:
            return upgrade_net(read_message(path, caffe_pb2.NetParameter)[0], path)

        param = attempt(bench, "binary net", path, read)
        if param is not None:
            for phase in (TRAIN, TEST):
                attempt(bench, "binary net build", path, partial(Net, param, phase, device="meta"))
            text = attempt(bench, "binary net as text", path, lambda: write_text(param))
            again = attempt(bench, "parse", path, lambda: parse_text(text, caffe_pb2.NetParameter, path))
            assert again is None or write_text(again) == text, "the text says something else"
    path.unlink()


def check_state(bench: Bench, data: bytes, name: str, *beside: tuple[str, bytes]) -> None:
    """Restore a solver state with files beside it; where it is refused nothing has changed."""
    path, others = bench.put(name, data), [bench.put(*other) for other in beside]
    size = sum(map(len, (data, *(content for _, content in beside))))
    solver = bench.solver
    before = [item.blob.detach().clone() for item in solver.net.learnable_params]
    iteration = solver.iter

    def restore() -> bool:
        solver.restore(path)
        return True

    with guarded(bench):
        kind = "".join(path.suffixes)[1:]
        if attempt(bench, kind, path, lambda: within_memory(size, restore)) is None:
            assert solver.iter == iteration, "refused, but the iteration changed"
            for item, old in zip(solver.net.learnable_params, before, strict=True):
                assert torch.equal(item.blob.detach(), old) or old.isnan().any(), "refused, but a blob changed"
    for file in (path, *others):
        file.unlink()
