"""HDF5 as Caffe writes it: weights under data/LAYER/INDEX, solver states as iter, learned_net, current_step, history.

A `/` in a layer's name makes groups within groups, as everywhere in HDF5.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import IO

import h5py  # type: ignore[import-untyped]
import numpy as np

from fcn_caffe.errors import WeightsError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.hdf5_files import check_chunks, chunk_bytes, lies_elsewhere, open_to_read
from fcn_caffe.proto.wire import BinaryState, state_for_weights, weights_for_state
from fcn_caffe.weights.formats.arrays import (
    ABSENT,
    Array,
    Budget,
    PathLike,
    Weights,
    as_float32,
    blob_index,
    from_blobs,
    reading,
)

_LONGEST_PATH = 2**16
_NAME_BYTES = 256  # counted for a name: what has two is read twice, and so on within, which doubles without end
_DEEPEST = 32  # groups within groups: layer names have a few `/`
_OTHER = "as the solver states that Caffe writes do. Copy it again, or resume from another."


def read_weights(path: PathLike) -> Weights:
    """Read the arrays of a .caffemodel.h5, float32; layers come in the order of their names, as HDF5 keeps them.

    A blob that Caffe left out, because an earlier layer shares it, is ABSENT before later ones of its layer.

    Raises:
        WeightsError: The file is corrupt, holds something else, or declares more values than it has.

    Source: Caffe Net::CopyTrainedLayersFromHDF5.
    """
    with _open(path) as (file, budget):
        data = _child(file, "data", path)
        if data is None and isinstance(_child(file, "history", path), h5py.Group):
            numbers = _state_numbers(file, budget, path)
            raise state_for_weights(path, numbers["iter"], _learned_net(file, path))
        if not isinstance(data, h5py.Group):
            raise WeightsError(
                f"{os.fspath(path)}: has no group 'data' with a group for each layer, as Caffe writes. "
                "Give another file."
            )
        blobs: dict[str, dict[int, Array]] = {}
        _read_group(data, "", blobs, budget, Budget(path, budget.size), [])
        return from_blobs(blobs, path)


def _read_group(
    group: h5py.Group,
    layer: str,
    blobs: dict[str, dict[int, Array]],
    budget: Budget,
    names: Budget,
    above: list[int],
) -> None:
    """Read the blobs of one layer, and the groups below, whose layers' names start with this one's."""
    path = budget.path
    place = int(h5py.h5o.get_info(group.id).addr)  # in the file, which is this one, for no link leads elsewhere
    if place in above or len(above) > _DEEPEST:
        raise WeightsError(f"{os.fspath(path)}: group '{layer}' holds itself. The file is corrupt. Copy it again.")
    for name in group:
        names.take(_NAME_BYTES, f"the names in '{layer}'")
        child = _child(group, name, path)
        full = f"{layer}/{name}" if layer else name
        if isinstance(child, h5py.Group):
            _read_group(child, full, blobs, budget, names, [*above, place])
        elif (index := blob_index(name)) is None or not layer:
            raise WeightsError(
                f"{os.fspath(path)}: data/{full} is no blob: wanted data/LAYER/0, data/LAYER/1 … as Caffe writes them."
            )
        else:
            blobs.setdefault(layer, {})[index] = _read_array(child, f"layer '{layer}' blob {index}", budget)


def read_solver_state(path: PathLike) -> BinaryState:
    """Read a .solverstate.h5; its histories are float32, in the solver's order.

    Raises:
        WeightsError: As read_weights does.

    Source: Caffe SGDSolver::RestoreSolverStateFromHDF5.
    """
    name = os.fspath(path)
    with _open(path) as (file, budget):
        if isinstance(_child(file, "data", path), h5py.Group):
            raise weights_for_state(path)
        numbers = _state_numbers(file, budget, path)
        group = _child(file, "history", path)
        if not isinstance(group, h5py.Group):
            raise WeightsError(f"{name}: has no group 'history', {_OTHER}")
        count = len(group)
        history = []
        for index in range(count):
            dataset = _child(group, str(index), path)
            if dataset is None:
                raise WeightsError(f"{name}: history {index} of {count} is not there. Copy the file again.")
            history.append(_read_array(dataset, f"history {index}", budget))
        return BinaryState(numbers["iter"], _learned_net(file, path), numbers["current_step"], history)


def _state_numbers(file: h5py.File, budget: Budget, path: PathLike) -> dict[str, int]:
    numbers = {}
    for key in ("iter", "current_step"):
        dataset = _child(file, key, path)
        value = None if dataset is None else _read_array(dataset, f"'{key}'", budget, np.int64)
        if value is None or value.size != 1:
            raise WeightsError(f"{os.fspath(path)}: has no number '{key}', {_OTHER}")
        numbers[key] = int(value.reshape(()))
    return numbers


def _learned_net(file: h5py.File, path: PathLike) -> str:
    dataset = _child(file, "learned_net", path)
    if dataset is None:
        return ""
    value = None
    if isinstance(dataset, h5py.Dataset) and dataset.shape == () and not lies_elsewhere(dataset):
        value = dataset[()] if dataset.id.get_type().get_size() <= _LONGEST_PATH else None
    if not isinstance(value, bytes) or len(value) > _LONGEST_PATH:
        raise WeightsError(
            f"{os.fspath(path)}: 'learned_net' is not a path in text. Give the state that a solver wrote."
        )
    return os.fsdecode(value)


@contextmanager
def _open(path: PathLike) -> Iterator[tuple[h5py.File, Budget]]:
    """The file, open for reading, and what may be read of it."""
    with reading(path, "HDF5"):
        size = os.stat(path).st_size
        with open_to_read(path) as file:
            yield file, Budget(path, size)


def _child(group: h5py.Group, name: str, path: PathLike) -> h5py.Group | h5py.Dataset | None:
    """What a group holds under a name, None if nothing. A link leads elsewhere and is refused."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise WeightsError(f"{os.fspath(path)}: a name is not UTF-8. The file is corrupt. Copy it again.") from None
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise WeightsError(
            f"{os.fspath(path)}: '{name}' is a link to elsewhere, which is not followed. "
            "Copy what it leads to in its place."
        )
    return group[name]


def _read_array(
    dataset: h5py.Group | h5py.Dataset | None, what: str, budget: Budget, wanted: type[np.generic] = np.float32
) -> Array:
    """Read a dataset, after a check that the file holds as many values as it declares."""
    where = f"{os.fspath(budget.path)}: {what}"
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None or dataset.dtype.kind not in "fiu":
        raise WeightsError(f"{where} is not an array of numbers. Save it as one, or remove it.")
    if lies_elsewhere(dataset):
        raise WeightsError(f"{where} lies in another file, which is not opened. Copy it into this one.")
    declared, item = prod(int(size) for size in dataset.shape), dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if dataset.chunks is not None:
        budget.take(max(0, chunk_bytes(dataset) - declared * item), f"the chunks of {what}")
        check_chunks(dataset)
    elif stored < declared * item:
        raise WeightsError(
            f"{where} declares {declared * item:,} bytes and stores {stored:,}. The file is corrupt. Copy it again."
        )
    budget.take(declared * item, what)
    array = np.asarray(dataset[()])
    return array.astype(wanted) if wanted is not np.float32 else as_float32(array, where)


# -- writing -------------------------------------------------------------------------------------------------------


def write_weights(
    path: PathLike,
    weights: Mapping[str, list[Array]],
    net_name: str = "",
    types: Mapping[str, str] | None = None,
    gradients: Mapping[str, list[Array]] | None = None,
) -> None:
    """Write weights as Caffe's ToHDF5 does: a group for every layer, also for those in `types` that have no blobs.

    ABSENT blobs are left out. `gradients` get a group of their own, shared ones too, where they are given. HDF5 as
    Caffe writes it has no place for the net's name.

    Raises:
        OSError: The file cannot be written.
        WeightsError: HDF5 cannot keep a layer's name.
    """
    for layer in {**weights, **(types or {})}:
        if any(part in ("", ".", "..") for part in layer.split("/")) or "\0" in layer:
            raise WeightsError(f"{os.fspath(path)}: HDF5 cannot keep the layer name '{layer}'. Rename the layer.")
    with _create(path) as file:
        for name, arrays in (("data", weights), ("diff", gradients)):
            if arrays is not None:
                _write_groups(file.create_group(name), arrays, {**weights, **(types or {})}, path)


def _write_groups(data: h5py.Group, arrays: Mapping[str, list[Array]], layers: Iterable[str], path: PathLike) -> None:
    """Write a group for each layer, with its arrays in it."""
    for layer in layers:
        try:
            group = data.require_group(layer)
            for index, array in enumerate(arrays.get(layer, ())):
                if array is not ABSENT:
                    group.create_dataset(str(index), data=np.asarray(array, "<f4"))
        except (ValueError, TypeError):
            raise WeightsError(
                f"{os.fspath(path)}: in HDF5 layer '{layer}' takes the place of another layer's blob. Rename the layer."
            ) from None


def write_solver_state(
    path: PathLike, iter: int, learned_net: str, history: Iterable[Array], current_step: int = 0
) -> None:
    """Write a solver state as Caffe's SnapshotSolverStateToHDF5 does.

    Raises:
        OSError: The file cannot be written.
    """
    with _create(path) as file:
        file.create_dataset("iter", data=np.array([iter], "<i4"))
        # A string of its own length and the closing zero, as Caffe's library makes it.
        text = os.fsencode(learned_net)
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(len(text) + 1)
        dataset = h5py.h5d.create(file.id, b"learned_net", kind, h5py.h5s.create(h5py.h5s.SCALAR))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(text, f"S{len(text) + 1}"), kind)
        file.create_dataset("current_step", data=np.array([current_step], "<i4"))
        group = file.create_group("history")
        for index, array in enumerate(history):
            group.create_dataset(str(index), data=np.asarray(array, "<f4"))


@contextmanager
def _create(path: PathLike) -> Iterator[h5py.File]:
    with atomic_write(path) as target:
        outlet = _Outlet(target)
        with h5py.File(outlet, "w") as file:
            yield file
        if outlet.failure is not None:
            raise outlet.failure


class _Outlet:
    """A file that HDF5 writes to; it keeps the first failure, for us to raise in the end.

    HDF5 ends the process where it cannot write its last pages, so it must not learn of a failure.
    """

    def __init__(self, target: IO[bytes]) -> None:
        self.target, self.position, self.size = target, 0, 0
        self.failure: OSError | None = None

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position in bytes from the start, from here or from the end."""
        self.position = position + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def tell(self) -> int:
        """Return the position in bytes."""
        return self.position

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write all of the data, or note why not."""
        if self.failure is None:
            try:
                self.target.seek(self.position)
                self.target.write(data)
            except OSError as error:
                self.failure = error
        self.position += len(data)
        self.size = max(self.size, self.position)
        return len(data)

    def truncate(self, size: int) -> int:
        """Set the size of the file, or note why not."""
        if self.failure is None:
            try:
                self.target.truncate(size)
            except OSError as error:
                self.failure = error
        self.size = size
        return size

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is whole."""

    def read(self, size: int = -1) -> bytes:
        """Refuse: nothing is read back from a file that is being written."""
        raise OSError("a file that is being written is not read")
