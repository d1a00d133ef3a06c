"""Features: a net's blobs over many batches, written to databases of Datum, HDF5 or NumPy files."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import torch

from fcn_caffe.data.readers.databases import BACKENDS, write_records
from fcn_caffe.errors import DataError, GraphError
from fcn_caffe.host.atomic import atomic_write, check_place, clear_leftovers, name_errors
from fcn_caffe.host.text import show
from fcn_caffe.net.net import Net
from fcn_caffe.proto import caffe_pb2

Array = np.ndarray[Any, Any]

FORMATS = (*BACKENDS, "h5", "npz")


def extract_features(
    net: Net,
    blobs: Sequence[str],
    outputs: Sequence[str | os.PathLike[str]],
    batches: int,
    formats: Sequence[str],
) -> list[int]:
    """Run a net and write its blobs, image by image. Nothing is written before all passes are done.

    Args:
        net: the net.
        blobs: the blobs to write.
        outputs: the database or file of each blob; it is whole, or not there.
        batches: the number of passes.
        formats: the format of each output. lmdb and leveldb hold a Datum (float_data) for each image under the keys
            0000000000, 0000000001 and so on; h5 and npz hold an array (images, …) under the blob's name.
    Returns:
        The number of images of each output.
    Raises:
        GraphError: the net lacks a blob.
        DataError: a blob has no images, or more axes than a Datum; a database is there already; images of several
            sizes would make one array.
    Source: Caffe's extract_features.
    """
    places = [Path(output) for output in outputs]
    _check(net, blobs, places, formats)
    with ExitStack() as stack:
        spools = [
            _Spool(blob, format, stack.enter_context(tempfile.TemporaryFile(dir=place.absolute().parent)))
            for blob, place, format in zip(blobs, places, formats, strict=True)
        ]
        for _ in range(batches):
            with torch.no_grad():
                kept = net(keep=blobs)
            for spool, place in zip(spools, places, strict=True):
                with name_errors(place):
                    spool.add(kept[spool.blob].detach().float().cpu().numpy())
        for spool, place in zip(spools, places, strict=True):
            if spool.format in BACKENDS:
                write_records(place, spool.format, spool.records())
            else:
                (_write_h5 if spool.format == "h5" else _write_npz)(place, spool)
        return [spool.images for spool in spools]


def as_datum(array: Array) -> bytes:
    """Return an image of a blob, of three axes at most, as a serialised Datum with float_data.

    Source: Caffe's extract_features.
    """
    channels, height, width = array.shape + (1,) * (3 - array.ndim)
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width)
    datum.float_data.extend(np.ascontiguousarray(array, np.float32).reshape(-1))
    return bytes(datum.SerializeToString())


def _check(net: Net, blobs: Sequence[str], places: Sequence[Path], formats: Sequence[str]) -> None:
    """Refuse now what could not be written after all passes."""
    if len(blobs) != len(places):
        raise DataError(f"{len(blobs)} blobs and {len(places)} outputs: give one output for each blob.")
    if len({os.path.realpath(place) for place in places}) < len(places):
        raise DataError("two outputs are the same place: give each blob its own.")
    for blob in blobs:
        if blob not in net.blob_shapes:
            raise GraphError(f"net '{net.name}' has no blob '{blob}'. It has: {', '.join(net.blob_shapes)}.")
    for place, format in zip(places, formats, strict=True):
        clear_leftovers(Path(os.path.realpath(place)).parent)  # also where an output that a killed run left is refused
        _check_place(place, format)


def _check_place(place: Path, format: str) -> None:
    if format not in FORMATS:
        raise DataError(f"{place}: type {format!r} is unknown. Known: {', '.join(FORMATS)}.")
    if format in BACKENDS and place.exists():
        raise DataError(f"{place}: exists already. Remove it, or give another name.")
    check_place(place)


class _Writer:
    """A file that arrays are written to by Python: where NumPy writes itself, it does not say why it cannot."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write


class _Spool:
    """The batches of a blob, in a temporary file until all have run."""

    def __init__(self, blob: str, format: str, file: IO[bytes]) -> None:
        self.blob, self.format, self.file = blob, format, file
        self.images = self.batches = 0
        self.size: tuple[int, ...] = ()

    def add(self, batch: Array) -> None:
        """Take a batch. Raises: DataError where the format cannot hold it."""
        if batch.ndim == 0:
            raise DataError(f"blob '{self.blob}' is a single value: it has no images to write one by one.")
        size = batch.shape[1:]
        if self.format in BACKENDS:
            if len(size) > 3:
                raise DataError(
                    f"blob '{self.blob}': an image of shape {show(size)} has more axes than a Datum, 3. Use h5 or npz."
                )
        elif self.batches and size != self.size:
            raise DataError(
                f"blob '{self.blob}': images of {show(self.size)} and of {show(size)} do not make one array. "
                "Write them to lmdb or leveldb."
            )
        self.size = size
        self.images += len(batch)
        self.batches += 1
        np.lib.format.write_array(_Writer(self.file), batch, allow_pickle=False)

    def arrays(self) -> Iterator[Array]:
        """Give the batches again."""
        self.file.seek(0)
        for _ in range(self.batches):
            yield np.load(self.file, allow_pickle=False)

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """Give key and Datum of each image, as Caffe's extract_features writes them."""
        index = 0
        for batch in self.arrays():
            for image in batch:
                yield b"%010d" % index, as_datum(image)
                index += 1


def _write_h5(path: Path, spool: _Spool) -> None:
    with atomic_write(path) as file, h5py.File(file.name, "w", locking=False) as store:
        dataset = store.create_dataset(spool.blob, (spool.images, *spool.size), np.float32)
        start = 0
        for batch in spool.arrays():
            dataset[start : start + len(batch)] = batch
            start += len(batch)


def _write_npz(path: Path, spool: _Spool) -> None:
    """Write what np.savez would, a batch at a time."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (spool.images, *spool.size)}
    with (
        atomic_write(path) as file,
        zipfile.ZipFile(file, "w") as store,
        store.open(f"{spool.blob}.npy", "w", force_zip64=True) as entry,
    ):
        np.lib.format.write_array_header_1_0(entry, header)
        for batch in spool.arrays():
            entry.write(np.ascontiguousarray(batch, "<f4").tobytes())
