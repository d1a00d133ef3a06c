"""A layer finds its files by the folder of its own net and the Paths of that net, whatever else is being built."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch

from fcn_caffe import Net
from fcn_caffe.errors import DataError
from fcn_caffe.host.paths import DATA_ROOT_VARIABLE, Paths, Surroundings
from fcn_caffe.layers import Layer, register
from fcn_caffe.layers.base import REGISTRY

READER = f"""
from pathlib import Path

from fcn_caffe.layers.python import PythonLayer


class Reader(PythonLayer):
    def setup(self, bottom, top):
        import {__name__} as test

        test.before_reading(self.param_str)
        self.number = int(self.surroundings.find_source("number.txt", "number").read_text())

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...] = self.number
"""
NET = (
    'layer { name: "read" type: "Python" top: "number" python_param { module: "%s" layer: "Reader" param_str: "%s" } }'
)

# What a Reader does before it reads, by its param_str: tests put it here.
ACTIONS = {}


def before_reading(name):
    if name in ACTIONS:
        ACTIONS[name]()


@pytest.fixture(autouse=True)
def no_actions(monkeypatch):
    ACTIONS.clear()
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)


def write_reader(folder: Path, number: int, action: str = "") -> Path:
    """A net file whose Python layer gives the number of the file beside it."""
    folder.mkdir(parents=True)
    module = f"reader_{folder.name}"
    (folder / f"{module}.py").write_text(READER)
    (folder / "number.txt").write_text(str(number))
    (folder / "net.prototxt").write_text(NET % (module, action))
    return folder / "net.prototxt"


def number_of(net: Net) -> int:
    return int(net()["number"])


def test_a_net_built_within_another_looks_beside_itself(tmp_path):
    outer, inner = write_reader(tmp_path / "outer", 1, "build"), write_reader(tmp_path / "inner", 2)
    built = []
    ACTIONS["build"] = lambda: built.append(Net(inner))
    assert number_of(Net(outer)) == 1 and number_of(built[0]) == 2


def test_nets_built_in_two_threads_look_each_beside_itself(tmp_path):
    sources = [write_reader(tmp_path / name, number, "wait") for number, name in enumerate(("first", "second"))]
    ACTIONS["wait"] = threading.Barrier(2, timeout=60).wait  # both are being built when either goes on
    with ThreadPoolExecutor(2) as pool:
        assert [number_of(net) for net in pool.map(Net, sources)] == [0, 1]


def write_rows(folder: Path, number: float) -> None:
    folder.mkdir(parents=True)
    with h5py.File(folder / "rows.h5", "w") as file:
        file["row"] = np.full((2, 3), number, np.float32)
    (folder / "rows.txt").write_text("data/rows.h5\n")


def test_a_net_of_another_root_reads_its_own_data(tmp_path, monkeypatch):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    write_rows(root / "data", 1), write_rows(elsewhere / "data", 2), write_rows(tmp_path / "sets", 3)
    (root / "nets").mkdir()
    text = (
        'layer { name: "rows" type: "HDF5Data" top: "row" hdf5_data_param { source: "data/rows.txt" batch_size: 1 } }'
    )
    (root / "nets/net.prototxt").write_text(text)
    monkeypatch.chdir(elsewhere)
    before = dict(os.environ)
    net = "nets/net.prototxt"
    assert Net(net, paths=Paths(root))()["row"].unique().item() == 1
    assert Net(net, paths=Paths(root, tmp_path / "sets"))()["row"].unique().item() == 3
    assert Net(root / net)()["row"].unique().item() == 2, "from the working directory"
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "sets"))
    assert Net(root / net)()["row"].unique().item() == 3, "the user's setting"
    monkeypatch.delenv(DATA_ROOT_VARIABLE)
    assert Path.cwd() == elsewhere and dict(os.environ) == before


def test_a_layer_of_ones_own_has_them_in_its_init(tmp_path):
    @register("Own", bottoms=0)
    class Own(Layer):
        def __init__(self, param, *bottoms):
            path = self.surroundings.find_source("number.txt", "number")
            super().__init__(param, *bottoms)
            self.number = float(path.read_text())

        def forward(self):
            return torch.tensor([self.number])

    source = write_reader(tmp_path / "own", 7)
    source.write_text('layer { name: "own" type: "Own" top: "number" }')
    try:
        net = Net(source, paths=Paths(tmp_path))
        assert number_of(net) == 7
        assert net.layer("own").surroundings == Surroundings(Paths(tmp_path), source.parent)
        with pytest.raises(DataError, match=r"no such number\. Looked from .*Correct the path in the net"):
            Net(net.param)  # from no file: nothing lies beside it
    finally:
        del REGISTRY["Own"]


def test_a_python_layer_made_by_hand_looks_from_the_working_directory(tmp_path, monkeypatch):
    from fcn_caffe.layers.python import PythonLayer

    monkeypatch.chdir(tmp_path)
    assert PythonLayer().surroundings == Surroundings(Paths())
