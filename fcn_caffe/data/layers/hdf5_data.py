"""HDF5Data and HDF5Output: blobs read from .h5 files and written to one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fcn_caffe.data.prefetch import draws, reading_order
from fcn_caffe.data.readers.image_list import read_lines
from fcn_caffe.errors import DataError
from fcn_caffe.host.atomic import atomic_write
from fcn_caffe.host.hdf5_files import check_chunks, chunk_bytes, lies_elsewhere, open_to_read
from fcn_caffe.host.ranks import Share
from fcn_caffe.host.text import show
from fcn_caffe.host.unfolding import MOST_TIMES
from fcn_caffe.layers.base import Layer, register
from fcn_caffe.proto import caffe_pb2

_FREE_BYTES = 1 << 24  # what any data set may take
_MOST_LINKS = 16  # that lead one to the next
SUFFIXES = (".h5", ".hdf5", ".hdf")  # of files that HDF5Output writes
_FILES, _ROWS = 0, 1  # streams of random numbers


@register("HDF5Data", bottoms=0, tops=(1, None))
class HDF5Data(Layer):
    """Rows of the .h5 files in a list; each top is the data set of its name.

    Shapes: () -> (batch_size, ...) each, the data set's axes after the first. A batch continues in the next file.
    Units: the data sets' own; transform_param is an error. shuffle orders the files anew in each round, and a
    file's rows each time it is read.
    Raises: DataError for a missing file or data set, data sets of unequal lengths, or text.
    Source: Caffe HDF5DataLayer.
    """

    remembers = True

    untraced = "reads files"
    share = Share()

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        if param.HasField("transform_param"):
            raise self.error("does not transform data: take transform_param out, or transform the data sets.")
        options = param.hdf5_data_param
        self.size, self.shuffle = int(options.batch_size), bool(options.shuffle)
        if self.size < 1:
            raise DataError("batch_size must be given and positive.")
        source = self.surroundings.find_source(options.source, "list of HDF5 files")
        names = [name for _, line in read_lines(source, "list of HDF5 files") for name in line.split()]
        self.files = [self.surroundings.find_source(name, "HDF5 file") for name in names]
        self.seed = int(torch.randint(2**31 - 1, (1,), device="cpu")) if self.shuffle else 0
        self.load, self.row = 0, 0  # the number of files read before this one; the next row in the present order
        self._arrays: list[npt.NDArray[np.float32]] = []
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._loaded = -1
        self._read()

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty((self.size, *array.shape[1:]), device="meta") for array in self._arrays)

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        tops = [np.empty((self.size, *array.shape[1:]), np.float32) for array in self._arrays]
        own = self.share.places(self.size)
        filled = 0
        for first, rows in self._spans(self.share.count * self.size):
            inside = [row for place, row in enumerate(rows, first) if place in own]
            for name, top, array in zip(self.param.top, tops, self._arrays, strict=True):
                if top.shape[1:] != array.shape[1:]:
                    raise DataError(
                        f"{self._file(self.load)}: rows of '{name}' are {show(array.shape[1:])}, in the file before "
                        f"{show(top.shape[1:])}. A batch holds rows of one shape. Write the file again."
                    )
                top[filled : filled + len(inside)] = array[inside]
            filled += len(inside)
        return tuple(torch.from_numpy(top) for top in tops)

    def _spans(self, count: int) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Go `count` rows on; yield runs of rows of one file, which is loaded, and how many came before each."""
        passed = 0
        while passed < count:
            self._read()
            rows = self._order[self.row : self.row + count - passed]
            yield passed, rows
            passed += len(rows)
            self.row += len(rows)
            if self.row == len(self._order):
                self.load, self.row = self.load + 1, 0

    def take_share(self, share: Share) -> None:
        self.share = share

    def skip(self, passes: int) -> None:
        for _ in self._spans(passes * self.size):
            pass

    def _file(self, load: int) -> Path:
        around, index = divmod(load, len(self.files))
        order = (
            draws(self.seed, _FILES, around).permutation(len(self.files)) if self.shuffle else range(len(self.files))
        )
        return self.files[int(order[index])]

    def _read(self) -> None:
        """Load the present file's rows and their order, unless they are loaded."""
        if self._loaded == self.load:
            return
        path = self._file(self.load)
        if self._loaded < 0 or path != self._file(self._loaded):
            self._arrays = read_data_sets(path, list(self.param.top))
        count = len(self._arrays[0])
        self._order = draws(self.seed, _ROWS, self.load).permutation(count) if self.shuffle else np.arange(count)
        self._loaded = self.load

    def data_state(self) -> dict[str, int]:
        return {"seed": self.seed, "load": self.load, "row": self.row, "files": len(self.files)}

    def load_data_state(self, state: dict[str, Any]) -> None:
        with reading_order(self):
            seed, load, row, files = (int(state[key]) for key in ("seed", "load", "row", "files"))
        if files != len(self.files):
            raise self.error(
                f"the snapshot's data order is for a list of {files} files, this one has {len(self.files)}. "
                "Resume with the list it was trained on."
            )
        self.seed, self.load, self.row, self._loaded = seed, load, row, -1


def read_data_sets(path: Path, names: list[str]) -> list[npt.NDArray[np.float32]]:
    """Read data sets of an HDF5 file as float32, each with the same number of rows.

    Source: Caffe hdf5_load_nd_dataset.

    Raises:
        DataError: naming the file and the data set.
    """
    arrays = []
    try:
        with open_to_read(path) as file:
            for name in names:
                _refuse_links_out(file, name, path)
                data_set = file.get(name)
                if not isinstance(data_set, h5py.Dataset):
                    raise DataError(f"{path}: has no data set '{name}'. It has: {', '.join(file) or 'nothing'}.")
                if data_set.dtype.kind not in "iuf":
                    raise DataError(f"{path}: data set '{name}' holds {data_set.dtype}, expected numbers.")
                if data_set.ndim < 1 or not len(data_set):
                    raise DataError(f"{path}: data set '{name}' is {show(data_set.shape)}, expected one row or more.")
                _refuse_unfolding(data_set, name, path)
                arrays.append(np.asarray(data_set[...], np.float32))
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError) as error:  # h5py's, for damaged files
        raise DataError(f"{path}: cannot be read as HDF5 ({error}). Write the file again.") from error
    for name, array in zip(names, arrays, strict=True):
        if len(array) != len(arrays[0]):
            raise DataError(
                f"{path}: '{name}' has {len(array)} rows, '{names[0]}' {len(arrays[0])}: give them equal numbers."
            )
    return arrays


def _refuse_links_out(file: h5py.File, name: str, path: Path, *, is_part: bool = False) -> None:
    """Refuse a data set that lies in a file outside of this one's folder, or in parts that lie elsewhere themselves.

    Args:
        file: The file.
        name: The data set's name.
        path: The file's.
        is_part: Whether another data set takes its values from this one.

    Raises:
        DataError: naming the file and the data set.
    """
    folder = path.resolve().parent
    parts = _parts(file, name)
    for other, inner in parts:
        place = path if other == "." else folder / other
        if not place.resolve().is_relative_to(folder):
            raise DataError(
                f"{path}: data set '{name}' lies in {other!r}, outside of {folder}. Copy that file there, or write the "
                "data into this one."
            )
        if is_part or not place.is_file():
            raise DataError(
                f"{path}: data set '{name}' lies in {other!r}, "
                f"{'and is a part of another one' if is_part else 'which is missing'}. Write the data into this file."
            )
        if inner:
            with open_to_read(place) as opened:
                _refuse_links_out(opened, inner, place, is_part=True)


def _parts(file: h5py.File, name: str) -> list[tuple[str, str]]:
    """Return the files, "." for this one, that a data set takes its values from, and the data sets' names in them.

    A file of plain numbers has no data set. Links are followed by hand, as HDF5 would open what they lead to.

    Raises:
        OSError: soft links lead to one another.
    """
    left, place, links = name.split("/"), "", 0
    while left:
        part = left.pop(0)
        link = file.get(f"{place}/{part}", getlink=True) if part not in ("", ".") else None
        if isinstance(link, h5py.ExternalLink):
            return [(link.filename, "/".join([link.path, *left]))]
        if isinstance(link, h5py.SoftLink):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(f"the links of '{name}' have no end")
            left, place = [*link.path.split("/"), *left], "" if link.path.startswith("/") else place
        elif part:
            place = f"{place}/{part}"
    data_set = file.get(place)
    if not isinstance(data_set, h5py.Dataset) or not lies_elsewhere(data_set):
        return []
    if data_set.is_virtual:
        return [(source.file_name, source.dset_name) for source in data_set.virtual_sources()]
    storage = data_set.id.get_create_plist()
    # HDF5 starts from the working directory here, and from this file's folder elsewhere.
    files = (os.fsdecode(storage.get_external(index)[0]) for index in range(storage.get_external_count()))
    return [(os.path.abspath(file), "") for file in files]


def _refuse_unfolding(data_set: h5py.Dataset, name: str, path: Path) -> None:
    """Refuse a data set that declares far more than is stored of it. Raises: DataError."""
    files = {path if other == "." else path.parent / other for other, _ in _parts(data_set.file, data_set.name)}
    stored = sum(file.stat().st_size for file in files if file.is_file()) or data_set.id.get_storage_size()
    chunk = chunk_bytes(data_set)
    taken = chunk + 4 * data_set.size + (0 if data_set.dtype == np.float32 else data_set.nbytes)
    times = MOST_TIMES if chunk <= data_set.nbytes else 3
    if taken > _FREE_BYTES and max(chunk, data_set.nbytes) > times * stored:
        raise DataError(
            f"{path}: data set '{name}' declares {data_set.nbytes:,} bytes, {stored:,} of it are stored, in chunks of "
            f"{chunk:,}. It is damaged: write it again."
        )
    check_chunks(data_set)


@register("HDF5Output", bottoms=2, tops=0, restrictions="one forward a file, as in Caffe")
class HDF5Output(Layer):
    """Write bottom[0] as data set `data` and bottom[1] as `label` of hdf5_output_param.file_name.

    Shapes: (N, ...), (N, ...) of at most 4 axes -> none; written as num x channels x height x width. The file is
    whole after the first forward; a second forward is an error, because the data sets exist then.
    Raises: LayerError for unequal N, no file name or one without a suffix of SUFFIXES; DataError where the file cannot
    be written.
    Source: Caffe HDF5OutputLayer.
    """

    remembers = True

    untraced = "writes a file"

    undifferentiable = (0, 1)

    def __init__(self, param: caffe_pb2.LayerParameter, *bottoms: Tensor) -> None:
        super().__init__(param, *bottoms)
        self.path = param.hdf5_output_param.file_name
        self.written = False
        if not self.path:
            raise self.error("needs hdf5_output_param { file_name }.")
        # A net may come from a stranger: no start-up file of a shell, no Makefile, also behind a link.
        if Path(os.path.realpath(self.path)).suffix.lower() not in SUFFIXES:
            raise self.error(f"{self.path}: writes files named {', '.join(SUFFIXES)} alone. Name it so.")
        folder = Path(self.path).absolute().parent
        if not folder.is_dir():
            raise self.error(f"{folder}: no such folder for the file. Create it.")

    def infer(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        data, label = bottoms
        for bottom in bottoms:
            if bottom.ndim > 4:
                raise self.error(f"writes blobs of at most 4 axes, got {show(bottom.shape)}. Reshape it before.")
        if data.shape[:1] != label.shape[:1]:
            raise self.error(f"data is {show(data.shape)}, label {show(label.shape)}: give both the same batch size.")
        return ()

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        self.infer(*bottoms)
        if self.written:
            raise self.error(
                f"{self.path} holds the first batch already, and the layer writes one. Put the whole set in one batch."
            )
        try:
            with atomic_write(self.path) as opened, h5py.File(opened.name, "w", locking=False) as file:
                for name, bottom in zip(("data", "label"), bottoms, strict=True):
                    array = bottom.detach().cpu().float().numpy()
                    file[name] = array.reshape(array.shape + (1,) * (4 - array.ndim))
        except OSError as error:
            raise DataError(
                f"{os.fspath(self.path)}: cannot be written ({error}). Name another file, or make room."
            ) from error
        self.written = True
        return ()
