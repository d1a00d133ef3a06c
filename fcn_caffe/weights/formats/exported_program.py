"""torch.export's .pt2: the tensors of a program, without its code.

torch.export.load runs what a file says: pickles, and the text of guards and sizes. Here tensors are read as bytes, and
the graph as JSON that says the order in which they are used.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.atomic import new_folder
from fcn_caffe.weights.formats.arrays import Array, Budget, Named, PathLike, as_float32, reading
from fcn_caffe.weights.formats.tensors import read_pth_named

# torch._export.serde.schema.ScalarType; bfloat16 is the upper half of a float32.
_BFLOAT16 = 13
_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8", 12: "u1", _BFLOAT16: "<u2"}
# Weights as one file of torch.save: of PyTorch before 2.7, and of 2.7.
_SAVED = ("serialized_state_dict.pt", "data/weights/model.pt")
_CONFIG = re.compile(r"data/weights/([^/]*)_weights_config\.json")  # of a program; its name

_FACTS = "extra/fcn_caffe.json"


def read_named(path: PathLike) -> Named:
    """Read the parameters of a program, and the statistics of its batch normalisations, in the order of use.

    Other buffers are constants.

    Raises:
        WeightsError: The file is corrupt, holds several programs, or a tensor that only a pickle can hold.
    """
    with reading(path, "a program of torch.export"), zipfile.ZipFile(path) as archive:
        members = {name.partition("/")[2] or name: name for name in archive.namelist()}
        members |= {name: name for name in archive.namelist()}
        if saved := next((members[name] for name in _SAVED if name in members), None):
            return read_saved(archive, saved, path)
        configs = [found for name in members if (found := _CONFIG.fullmatch(name))]
        if len(configs) != 1:
            raise WeightsError(f"{os.fspath(path)}: holds {len(configs)} programs, wanted one.")
        reader = _Tensors(archive, members, path)
        payloads = reader.read_json(configs[0][0])["config"]
        arrays = {name: reader.read(name, payload) for name, payload in payloads.items()}
        used = _order(reader.read_json(f"models/{configs[0][1]}.json"))
        ordered = sorted(arrays, key=lambda name: used.get(name, len(used)))
        is_weight = {name: payloads[name]["is_param"] or ".running_" in name for name in ordered}
    return Named(
        {name: arrays[name] for name in ordered if is_weight[name]},
        {name: arrays[name] for name in ordered if not is_weight[name]},
    )


def read_facts(path: PathLike) -> dict[str, str]:
    """Read the extra file that `fcn-caffe export` puts into a program; raise as `read_named`."""
    with reading(path, "a program of torch.export"), zipfile.ZipFile(path) as archive:
        found = [member for member in archive.infolist() if member.filename.endswith(_FACTS)]
        if len(found) != 1 or found[0].file_size > os.stat(path).st_size:
            return {}
        facts = json.loads(archive.read(found[0]))
    return {key: fact for key, fact in facts.items() if isinstance(fact, str)} if isinstance(facts, dict) else {}


class _Tensors:
    """Reads tensors of an archive from their bytes; several may be views of one storage."""

    def __init__(self, archive: zipfile.ZipFile, members: dict[str, str], path: PathLike) -> None:
        self.archive, self.members, self.path = archive, members, path
        self.budget = Budget(path, os.stat(path).st_size)
        self.storages: dict[str, Array] = {}

    def read_json(self, name: str) -> Any:  # noqa: ANN401 (JSON)
        """Return what a member of the archive says."""
        member = self.archive.getinfo(self.members[name])
        self.budget.take(member.file_size, name)
        return json.loads(self.archive.read(member))

    def read(self, name: str, payload: dict[str, Any]) -> Array:
        """Return a tensor, float32."""
        what = f"{os.fspath(self.path)}: {name}"
        if payload["use_pickle"]:
            raise WeightsError(f"{what} is of a class of its own, which only a pickle holds. It is not read.")
        meta = payload["tensor_meta"]
        dtype = _TYPES.get(meta["dtype"])
        if dtype is None:
            raise WeightsError(f"{what} holds complex or other numbers, wanted float32 or what becomes it.")
        sizes, strides = ([int(size["as_int"]) for size in meta[key]] for key in ("sizes", "strides"))
        offset = int(meta["storage_offset"]["as_int"])
        self.budget.take_values([max(size, 0) for size in sizes], name)
        storage = self._storage(payload["path_name"]).view(dtype)
        end = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if min((*sizes, *strides, offset), default=0) < 0 or (0 not in sizes and end >= storage.size):
            raise WeightsError(f"{what} is larger than its storage. The file is corrupt. Copy it again.")
        if 0 in sizes:
            return np.zeros(sizes, np.float32)
        step = storage.itemsize
        array = np.lib.stride_tricks.as_strided(storage[offset:], sizes, [step * stride for stride in strides])
        if meta["dtype"] == _BFLOAT16:
            array = (array.astype("<u4") << 16).view("<f4")
        return as_float32(array, what)

    def _storage(self, name: str) -> Array:
        if name not in self.storages:
            member = self.archive.getinfo(self.members[f"data/weights/{name}"])
            self.budget.take(member.file_size, name)
            self.storages[name] = np.frombuffer(bytearray(self.archive.read(member)), np.uint8)
        return self.storages[name]


def read_saved(archive: zipfile.ZipFile, member: str, path: PathLike) -> Named:
    """Read weights that an archive holds as a file of torch.save, which is checked as such a file is.

    Raises:
        WeightsError: It holds more than a dict of tensors.
    """
    Budget(path, os.stat(path).st_size).take(archive.getinfo(member).file_size, member)
    with new_folder(Path(tempfile.gettempdir(), "fcn-caffe-weights"), 0o700) as folder:
        inner = os.path.join(folder, "weights.pt")
        with archive.open(member) as source, open(inner, "wb") as target:
            shutil.copyfileobj(source, target)
        try:
            named = read_pth_named(inner)
        except WeightsError as error:
            raise WeightsError(f"{os.fspath(path)}: {member}{str(error).removeprefix(inner)}") from None
        return Named({name: array.copy() for name, array in named.arrays.items()})  # they are views of the file


def _order(program: dict[str, Any]) -> dict[str, int]:
    """Return the place of each parameter and buffer in the order of use."""
    module = program["graph_module"]
    names: dict[str, str] = {}
    for spec in module["signature"]["input_specs"]:
        for kind in ("parameter", "buffer"):
            if kind in spec:
                names[spec[kind]["arg"]["name"]] = spec[kind][f"{kind}_name"]
    order: dict[str, int] = {}
    for node in module["graph"]["nodes"]:
        for value in _tensor_names(node["inputs"]):
            if value in names:
                order.setdefault(names[value], len(order))
    return order


def _tensor_names(value: Any) -> Iterator[str]:  # noqa: ANN401 (JSON)
    """Yield the names of the tensors in a node's arguments."""
    if isinstance(value, dict):
        tensor = value.get("as_tensor")
        if isinstance(tensor, dict) and isinstance(tensor.get("name"), str):
            yield tensor["name"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _tensor_names(part)
