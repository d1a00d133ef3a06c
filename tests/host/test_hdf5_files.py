"""HDF5's global heaps are looked through before HDF5 reads them."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest

from fcn_caffe.data.layers.hdf5_data import read_data_sets
from fcn_caffe.errors import DataError, WeightsError
from fcn_caffe.host.hdf5_files import check_heaps, open_to_read
from fcn_caffe.weights.formats.hdf5 import read_solver_state


def heap(*sizes: int, whole: int = 0) -> bytes:
    """A global heap of objects of these many bytes."""
    objects = b"".join(struct.pack("<HHIQ", 1, 1, 0, size) + bytes(size + -size % 8) for size in sizes)
    return b"GCOL" + struct.pack("<IQ", 1, whole or 16 + len(objects)) + objects


def test_whole_heaps_pass() -> None:
    check_heaps(b"")
    check_heaps(heap(5, 8, 0, 4000) + b"between" + heap(1) + b"GCOL")
    check_heaps(heap(5) + heap(16, 16), lengths=4)


def test_an_object_beyond_its_heap_is_refused() -> None:
    with pytest.raises(OSError, match=r"the global heap at byte 72 has an object of 40 bytes"):
        check_heaps(heap(8, 16) + heap(40, whole=64))


def local_heap(*free: int, size: int = 64) -> bytes:
    """A local heap of a file of its own, whose free blocks lie at these places."""
    segment = bytearray(size)
    for at, to in pairwise((*free, 1)):
        struct.pack_into("<QQ", segment, at, to, 16)
    return b"HEAP" + struct.pack("<IQQQ", 0, size, (*free, 1)[0], 32) + segment


def test_free_blocks_come_to_an_end() -> None:
    for heap in (local_heap(), local_heap(48, 0, 16), local_heap(40)):
        check_heaps(heap)
        check_heaps(bytes(512) + heap, base=512)
    # One list for many heaps, as no file has it: more blocks than there is room for.
    head, segment = local_heap(0, 16, 32, 48)[:32], local_heap(0, 16, 32, 48)[32:]
    heads = b"".join(head[:24] + struct.pack("<Q", 32 * 40) for _ in range(40))
    with pytest.raises(OSError, match="the local heap at byte 672 has more free blocks than bytes"):
        check_heaps(heads + segment)


def test_heaps_that_lie_in_each_other_are_looked_at_once() -> None:
    # Each object holds the next heap's head, so that each heap has the objects of all after it.
    heaps = [b"GCOL" + struct.pack("<IQHHIQ", 1, 32 * left + 16, 1, 1, 0, 16) for left in range(100, 0, -1)]
    with pytest.raises(OSError, match="the global heap at byte 64 has an object of 16 bytes"):
        check_heaps(b"".join(heaps) + bytes(16))


@pytest.mark.parametrize("width", [2, 4, 8])
def test_what_hdf5_writes_is_whole(tmp_path: Path, width: int) -> None:
    properties = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    properties.set_sizes(8, width)
    words = ["x" * (number % 70) for number in range(300)]
    with h5py.File(h5py.h5f.create(bytes(tmp_path / "a.h5"), fcpl=properties)) as file:
        file.create_dataset("words", data=np.array(words, object), dtype=h5py.string_dtype())
        file["words"][3] = "longer than before " * 20
    with open_to_read(tmp_path / "a.h5") as file:
        assert file["words"].asstr()[:3].tolist() == words[:3]
        assert file["words"].asstr()[3].endswith("before ")


def test_readers_refuse_a_damaged_heap(tmp_path: Path) -> None:
    path = tmp_path / "a.solverstate.h5"
    with h5py.File(path, "w") as file:
        file["words"] = "text of no fixed length"
    data = path.read_bytes()
    at = data.index(b"GCOL") + 24
    path.write_bytes(data[:at] + struct.pack("<Q", 1 << 20) + data[at + 8 :])
    with pytest.raises(WeightsError, match=r"a\.solverstate\.h5: .*global heap.* object of 1,048,576 bytes"):
        read_solver_state(path)
    with pytest.raises(DataError, match=r"a\.solverstate\.h5: cannot be read as HDF5 \(the global heap"):
        read_data_sets(path, ["words"])


def test_virtual_data_sets_have_their_checksum(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["data"] = np.arange(6, dtype="f4")
    path = tmp_path / "whole.h5"
    with h5py.File(path, "w") as file:
        for parts in (1, 2):
            layout = h5py.VirtualLayout((6 * parts,), "f4")
            for part, name in zip(range(parts), ("a.h5", "b.h5"), strict=False):
                layout[6 * part : 6 * part + 6] = h5py.VirtualSource(name, "data", shape=(6,))
            file.create_virtual_dataset(f"of {parts}", layout)
    assert read_data_sets(path, ["of 2"])[0].tolist() == [*range(6)] * 2
    data = path.read_bytes()
    path.write_bytes(data.replace(b"b.h5", b"c.h5"))
    with pytest.raises(DataError, match=r"whole\.h5: cannot be read as HDF5 \(a virtual data set is damaged\)"):
        read_data_sets(path, ["of 1"])
